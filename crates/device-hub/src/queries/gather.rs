//! One page of a query: from all owners, merged.
//!
//! The owners' slices come in the order of ids, and a page ends at or before the id up to which all of them have come. When a
//! partition gets another owner, that owner continues where the earlier one ended.
//! Invariants: a result is in exactly one page; about twice a page of results is held.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt as _, join_all};
use holdfast_cluster::route::Owner;
use holdfast_cluster::transport::CallError;
use holdfast_model::{IdentityId, NodeId, PartitionId};
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_error::Cause;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_query::{Aggregator, GroupKey, Groups, Query};
use holdfast_registry::RegistryError;
use thiserror::Error;
use tokio::time::Instant;

use super::plan::QueryPlan;
use super::serve::{MAX_SLICE_BYTES, SliceError};
use crate::DeviceHub;
use crate::rpc::codec;
use crate::twins::ask::TwinError;

/// After this time a page is answered with what has been found.
const PAGE_TIME: Duration = Duration::from_secs(5);

/// How long one slice may take.
const SLICE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of results after which a page ends.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// Results that an owner sends beyond its share of a page, since shares are not exactly equal.
const SLACK: usize = 8;

/// Wait before a slice is requested again.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryPosition {
    /// With the first result.
    Start,
    /// Behind this identity.
    Identity(IdentityId),
    /// Of an aggregate: behind this group.
    Group(GroupKey),
}

/// A page of results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryPage {
    /// JSON texts.
    pub results: Vec<String>,
    /// Where the next page begins; `None`: this is the last one. There may be pages without results before it.
    pub next: Option<QueryPosition>,
}

/// Why there is no page.
#[derive(Debug, Error)]
pub enum QueryFailure {
    /// An owner was not reached in time.
    #[error("the owner of partition {partition} did not answer in time", partition = .0.0)]
    NoOwner(PartitionId),
    /// There are too many identities.
    #[error("the query was not done in time; restrict it with WHERE")]
    TooSlow,
    /// A node evaluates another language than this one.
    #[error("node {node} does not evaluate the query: {reason}")]
    Refused {
        /// The owner.
        node: NodeId,
        /// In its words.
        reason: String,
    },
    /// The identities could not be read.
    #[error("the identities cannot be read")]
    Registry(#[from] RegistryError),
    /// A twin could not be read.
    #[error("a twin cannot be read")]
    Twin(#[from] TwinError),
}

/// Partitions of one owner, and how far it has come.
#[derive(Debug, Clone)]
struct Part {
    partitions: Vec<PartitionId>,
    owner: Option<Owner>,
    after: Option<IdentityId>,
    is_done: bool,
    found: usize,
    bytes: usize,
}

/// One page in the making.
struct Gathering<'q> {
    query: &'q Query,
    text: &'q str,
    after_group: Option<GroupKey>,
    limit: usize,
    parts: Vec<Part>,
    results: BTreeMap<IdentityId, String>,
    aggregator: Aggregator<'q>,
}

impl DeviceHub {
    /// The page of at most `limit` results of the query that begins at `position`. `text` is the query as it was read.
    ///
    /// # Errors
    /// [`QueryFailure`], when nothing of the page was found within `timeout`.
    pub async fn query_page(
        self: &Arc<Self>,
        text: &str,
        query: &Query,
        position: &QueryPosition,
        limit: usize,
        timeout: Duration,
    ) -> Result<QueryPage, QueryFailure> {
        let started = Instant::now();
        let (after, after_group) = match position {
            QueryPosition::Start => (None, None),
            QueryPosition::Identity(id) => (Some(id.clone()), None),
            QueryPosition::Group(key) => (None, Some(key.clone())),
        };
        let plan = QueryPlan::of(query, self.parts.partitions.count());
        let mut page = Gathering {
            query,
            text,
            limit: limit.max(1),
            aggregator: Aggregator::new(query, after_group.clone(), limit.max(1)),
            after_group,
            parts: vec![Part {
                partitions: plan.partitions,
                owner: None,
                after: after.clone(),
                is_done: false,
                found: 0,
                bytes: 0,
            }],
            results: BTreeMap::new(),
        };
        page.parts.retain(|part| !part.partitions.is_empty());
        loop {
            if page.is_complete() {
                return Ok(self.charged(page.finish()));
            }
            if !query.is_aggregate() && started.elapsed() >= PAGE_TIME && page.bound() > after.as_ref() {
                return Ok(self.charged(page.finish()));
            }
            page.parts = self.regrouped(std::mem::take(&mut page.parts)).await;
            let failed = self.advance(&mut page).await?;
            if started.elapsed() >= timeout {
                return match failed {
                    Some(partition) => Err(QueryFailure::NoOwner(partition)),
                    None => Err(QueryFailure::TooSlow),
                };
            }
        }
    }

    fn charged(&self, page: QueryPage) -> QueryPage {
        self.charge(|| page.results.iter().map(String::len).sum());
        page
    }

    /// The parts by their owners of now.
    async fn regrouped(&self, parts: Vec<Part>) -> Vec<Part> {
        let mut regrouped = Vec::new();
        for part in parts {
            if part.is_done {
                regrouped.push(part);
                continue;
            }
            let mut by_owner: BTreeMap<Option<NodeId>, (Option<Owner>, Vec<PartitionId>)> = BTreeMap::new();
            for partition in &part.partitions {
                let owner = self.parts.partitions.owner_after(*partition, None, RETRY_BACKOFF).await;
                let entry = by_owner
                    .entry(owner.map(|owner| owner.node))
                    .or_insert((owner, Vec::new()));
                entry.1.push(*partition);
            }
            for (owner, partitions) in by_owner.into_values() {
                regrouped.push(Part {
                    partitions,
                    owner,
                    ..part.clone()
                });
            }
        }
        regrouped
    }

    /// Requests a slice of each part that the page still needs. Gives a partition whose owner did not answer.
    async fn advance(self: &Arc<Self>, page: &mut Gathering<'_>) -> Result<Option<PartitionId>, QueryFailure> {
        let wanted = page.wanted();
        let calls = wanted.iter().map(|index| {
            let part = &page.parts[*index];
            self.slice(part, page.request(part))
        });
        let answers = join_all(calls).await;
        let mut failed = None;
        for (index, answer) in wanted.into_iter().zip(answers) {
            let part = &page.parts[index];
            let node = part.owner.map_or(self.parts.node, |owner| owner.node);
            match answer {
                Ok(answer) => page.accept(index, answer, node)?,
                Err(SliceError::NotOwner) => failed = part.partitions.first().map(|partition| (*partition, part.owner)),
                Err(SliceError::Registry(error)) => return Err(error.into()),
                Err(SliceError::Twin(error)) => return Err(error.into()),
                Err(error @ (SliceError::Query(_) | SliceError::Request(_))) => {
                    return Err(QueryFailure::Refused {
                        node,
                        reason: error.to_string(),
                    });
                }
            }
        }
        let Some((partition, owner)) = failed else {
            return Ok(None);
        };
        // The owner may not know yet that it is the owner.
        let _ = self.parts.partitions.owner_after(partition, owner, RETRY_BACKOFF).await;
        Ok(Some(partition))
    }

    async fn slice(
        self: &Arc<Self>,
        part: &Part,
        request: proto::DeviceQuery,
    ) -> Result<proto::DeviceQueryAnswer, SliceError> {
        self.request_slice(part.owner, &part.partitions, request).await
    }

    /// Requests a slice of partitions from their owner.
    pub(super) async fn request_slice(
        self: &Arc<Self>,
        owner: Option<Owner>,
        partitions: &[PartitionId],
        request: proto::DeviceQuery,
    ) -> Result<proto::DeviceQueryAnswer, SliceError> {
        let owner = owner.ok_or(SliceError::NotOwner)?;
        if owner.node == self.parts.node {
            // In a box: the compiler gives up on a future that contains all of it.
            return self.serve_device_query(request).boxed().await;
        }
        let partition = partitions.first().copied().ok_or(SliceError::NotOwner)?;
        match self
            .call_owner(partition, owner, Request::DeviceQuery(request), SLICE_TIMEOUT)
            .await
        {
            Ok(Answer::DeviceQuery(answer)) => Ok(answer),
            Ok(Answer::Error(error)) if error.cause() == Cause::NotOwner => Err(SliceError::NotOwner),
            Err(CallError::Refused(reason)) => Err(SliceError::Request(reason.to_string())),
            // A slice changes nothing: it may be requested again, whatever became of it.
            Ok(_) | Err(CallError::NotSent(_) | CallError::Unknown(_)) => Err(SliceError::NotOwner),
        }
    }
}

impl Gathering<'_> {
    /// The identity up to which all parts have come; `None` before a part has come anywhere. Only while a part is not done.
    fn bound(&self) -> Option<&IdentityId> {
        let open = self.parts.iter().filter(|part| !part.is_done);
        open.map(|part| part.after.as_ref()).min().flatten()
    }

    fn is_done(&self) -> bool {
        self.parts.iter().all(|part| part.is_done)
    }

    /// Results that no further slice can precede.
    fn settled(&self) -> usize {
        if self.is_done() {
            return self.results.len();
        }
        match self.bound() {
            Some(bound) => self.results.range(..=bound).count(),
            None => 0,
        }
    }

    fn is_complete(&self) -> bool {
        self.is_done() || (!self.query.is_aggregate() && self.settled() >= self.limit)
    }

    /// The parts that have not found their share, and those that hold up the others.
    fn wanted(&self) -> Vec<usize> {
        let share = self.share();
        let bound = self.bound();
        let is_wanted = |part: &Part| {
            !part.is_done
                && (self.query.is_aggregate()
                    || (part.found < share && part.bytes < MAX_SLICE_BYTES)
                    || part.after.as_ref() == bound)
        };
        let parts = self.parts.iter().enumerate();
        parts
            .filter(|(_, part)| is_wanted(part))
            .map(|(index, _)| index)
            .collect()
    }

    fn share(&self) -> usize {
        match self.parts.len() {
            0 | 1 => self.limit,
            parts => self.limit.div_ceil(parts) + SLACK,
        }
    }

    fn request(&self, part: &Part) -> proto::DeviceQuery {
        let limit = match self.query.is_aggregate() {
            true => self.limit,
            false => self.share(),
        };
        proto::DeviceQuery {
            query: self.text.to_owned(),
            partitions: part.partitions.iter().map(|partition| u32::from(partition.0)).collect(),
            after_device: part
                .after
                .as_ref()
                .map(|id| id.device.as_str().to_owned())
                .unwrap_or_default(),
            after_module: part.after.as_ref().map(codec::encode_module).unwrap_or_default(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            after_group: self.after_group.as_ref().map(|key| key.as_str().to_owned()),
            explain: false,
        }
    }

    /// Takes over the answer of an owner. Input is checked: a peer may send anything.
    fn accept(&mut self, index: usize, answer: proto::DeviceQueryAnswer, node: NodeId) -> Result<(), QueryFailure> {
        let refused = |reason: String| QueryFailure::Refused { node, reason };
        let identity = |device: &str, module: &str| {
            codec::decode_identity(device, module).map_err(|error| refused(error.to_string()))
        };
        let part = &mut self.parts[index];
        let through = match answer.through_device.as_str() {
            "" => None,
            device => Some(identity(device, &answer.through_module)?),
        };
        if through.is_some() && through <= part.after {
            return Err(refused("it does not advance".to_owned()));
        }
        if self.query.is_aggregate() {
            let groups = Groups::from_bytes(&answer.groups, self.query).map_err(|error| refused(error.to_string()))?;
            self.aggregator.merge(groups);
        }
        for result in answer.results {
            let id = identity(&result.device, &result.module)?;
            if Some(&id) <= part.after.as_ref() || through.as_ref().is_some_and(|through| id > *through) {
                return Err(refused("its results are not in order".to_owned()));
            }
            part.found += 1;
            part.bytes += result.document.len();
            self.results.insert(id, result.document);
        }
        part.is_done = through.is_none();
        if through.is_some() {
            part.after = through;
        }
        Ok(())
    }

    fn finish(self) -> QueryPage {
        if self.query.is_aggregate() {
            let (results, next) = self.aggregator.finish();
            return QueryPage {
                results: results.iter().map(ToString::to_string).collect(),
                next: next.map(QueryPosition::Group),
            };
        }
        let bound = match self.is_done() {
            true => None,
            false => self.bound().cloned(),
        };
        let mut results = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        for (id, document) in self.results {
            if bound.as_ref().is_some_and(|bound| id > *bound) {
                break;
            }
            if results.len() >= self.limit || bytes >= MAX_PAGE_BYTES {
                return QueryPage {
                    results,
                    next: last.map(QueryPosition::Identity),
                };
            }
            bytes += document.len();
            results.push(document);
            last = Some(id);
        }
        QueryPage {
            results,
            next: bound.map(QueryPosition::Identity),
        }
    }
}
