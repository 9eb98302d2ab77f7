//! How a query would be evaluated by the owners of today.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_model::{NodeId, PartitionId};
use holdfast_partition::state::IndexFound;
use holdfast_proto::cluster::v1 as proto;
use holdfast_query::Query;

use super::IndexChoice;
use super::candidates::MAX_HITS;
use crate::DeviceHub;
use crate::queries::plan::{QueryAccess, QueryPlan};
use crate::queries::serve::{Slice, SliceError};

/// How long the owner of a partition is looked for.
const OWNER_TIMEOUT: Duration = Duration::from_secs(1);

/// What becomes of the index that answers a part of the condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexPlan {
    /// There is none, or the condition names the devices.
    None,
    /// All owners use it.
    Used {
        /// Its path.
        path: String,
        /// Its hits; `None`: more than are counted.
        hits: Option<u64>,
    },
    /// Some owners scan instead.
    Unused {
        /// Its path.
        path: String,
        /// Partitions on whose owner it is not complete, or whose owner did not say.
        incomplete: Vec<PartitionId>,
        /// There are more hits than an owner sorts.
        has_too_many_hits: bool,
    },
}

/// A plan, and what the owners say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryExplanation {
    /// The plan.
    pub plan: QueryPlan,
    /// The use of indexes.
    pub index: IndexPlan,
}

impl DeviceHub {
    /// How a query would be carried out now; `text` is the query as it was read.
    pub async fn explain_query(self: &Arc<Self>, text: &str, query: &Query) -> QueryExplanation {
        let plan = QueryPlan::of(query, self.parts.partitions.count());
        let choice = match plan.access {
            QueryAccess::Scan => IndexChoice::of(query, &self.twin_indexes),
            QueryAccess::Prefix | QueryAccess::Ids(_) => None,
        };
        let index = match choice {
            Some(choice) => self.explain_index(text, &plan, choice).await,
            None => IndexPlan::None,
        };
        QueryExplanation { plan, index }
    }

    async fn explain_index(self: &Arc<Self>, text: &str, plan: &QueryPlan, choice: IndexChoice) -> IndexPlan {
        let owners = plan.partitions.iter().map(|partition| async move {
            let owner = self.parts.partitions.owner_after(*partition, None, OWNER_TIMEOUT);
            (*partition, owner.await)
        });
        let mut by_owner: BTreeMap<NodeId, _> = BTreeMap::new();
        let mut incomplete = Vec::new();
        for (partition, owner) in join_all(owners).await {
            match owner {
                Some(owner) => by_owner
                    .entry(owner.node)
                    .or_insert((owner, Vec::new()))
                    .1
                    .push(partition),
                None => incomplete.push(partition),
            }
        }
        let calls = by_owner.into_values().map(|(owner, partitions)| async move {
            let request = proto::DeviceQuery {
                query: text.to_owned(),
                partitions: partitions.iter().map(|partition| u32::from(partition.0)).collect(),
                limit: 1,
                explain: true,
                ..proto::DeviceQuery::default()
            };
            let answer = self.request_slice(Some(owner), &partitions, request).await;
            (partitions, answer.ok().and_then(|answer| answer.explanation))
        });
        let (mut hits, mut has_too_many_hits) = (Some(0), false);
        for (partitions, explanation) in join_all(calls).await {
            // An owner of an earlier version, or one with another declaration, scans.
            let Some(explanation) = explanation.filter(|explanation| explanation.index == choice.name) else {
                incomplete.extend(partitions);
                continue;
            };
            let known = explanation.incomplete.iter().filter_map(|id| u16::try_from(*id).ok());
            incomplete.extend(known.map(PartitionId));
            has_too_many_hits |= explanation.too_many;
            hits = hits
                .zip(explanation.hits)
                .map(|(one, other): (u64, u64)| one.saturating_add(other));
        }
        if incomplete.is_empty() && !has_too_many_hits {
            return IndexPlan::Used {
                path: choice.name,
                hits,
            };
        }
        incomplete.sort();
        IndexPlan::Unused {
            path: choice.name,
            incomplete,
            has_too_many_hits,
        }
    }

    /// What this node would do as the owner of the partitions.
    pub(in crate::queries) async fn explain_slice(
        &self,
        slice: &Slice,
    ) -> Result<proto::DeviceQueryExplanation, SliceError> {
        let mut explanation = proto::DeviceQueryExplanation::default();
        let Some(index) = &slice.index else {
            return Ok(explanation);
        };
        explanation.index.clone_from(&index.name);
        for partition in &slice.partitions {
            let replica = self.parts.partitions.local(*partition).ok_or(SliceError::NotOwner)?;
            if !replica.has_value_index(&index.name) {
                explanation.incomplete.push(partition.0.into());
            }
        }
        if !explanation.incomplete.is_empty() {
            return Ok(explanation);
        }
        let mut hits = 0;
        for partition in &slice.partitions {
            hits += match self.search(*partition, index, None, MAX_HITS).await? {
                IndexFound::States { states, through: None } => states.len(),
                IndexFound::States { .. } | IndexFound::TooMany | IndexFound::Incomplete => MAX_HITS + 1,
            };
            if hits > MAX_HITS {
                explanation.too_many = !index.is_ordered();
                return Ok(explanation);
            }
        }
        explanation.hits = Some(hits as u64);
        Ok(explanation)
    }
}
