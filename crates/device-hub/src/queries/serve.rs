//! The owner's part: a slice of the identities of its partitions.
//!
//! Invariants: a slice comes past at most [`MAX_VISITED`] identities and has at most [`MAX_SLICE_BYTES`] of results, and one; the
//! disk is read on the blocking pool; at most [`MAX_SLICES`] slices are evaluated at once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use holdfast_model::{DeviceId, IdentityId, PartitionId};
use holdfast_partition::record::DeviceStateKind;
use holdfast_proto::cluster::v1 as proto;
use holdfast_query::{Aggregator, FieldSet, GroupKey, Groups, Query, QueryError};
use holdfast_registry::{IdentitySummary, RegistryError, Scan};
use thiserror::Error;

use super::index::{Candidates, IndexChoice};
use super::plan::{self, QueryAccess, QueryPlan, TwinDepth, TwinReads};
use super::row::{DeviceRow, TwinParts};
use crate::rpc::codec;
use crate::twins::ask::TwinError;
use crate::{DeviceHub, api, device_state};

/// Identities that one slice comes past.
pub(super) const MAX_VISITED: usize = 20_000;

/// Identities whose connections and twins are read together.
pub(super) const CHUNK: usize = 256;

/// Bytes of results after which a slice ends.
pub(super) const MAX_SLICE_BYTES: usize = 1 << 20;

/// The most results of a slice, whatever the caller wants.
const MAX_RESULTS: usize = 1000;

/// Slices that a node evaluates at once; further ones wait. One leaves a core to everything else.
pub(crate) const MAX_SLICES: usize = 2;

/// Why a slice was not evaluated.
#[derive(Debug, Error)]
pub(crate) enum SliceError {
    /// Another node owns one of the partitions.
    #[error("another node owns the partition")]
    NotOwner,
    /// The text is no query of this version.
    #[error("the query is not valid: {0}")]
    Query(#[from] QueryError),
    /// A partition or an id in the request is not valid.
    #[error("{0}")]
    Request(String),
    /// The identities could not be read.
    #[error("the identities cannot be read")]
    Registry(#[from] RegistryError),
    /// A twin could not be read.
    #[error("a twin cannot be read")]
    Twin(#[from] TwinError),
}

/// A slice under evaluation.
pub(super) struct Slice {
    pub(super) query: Arc<Query>,
    pub(super) partitions: BTreeSet<PartitionId>,
    after_group: Option<GroupKey>,
    pub(super) limit: usize,
    /// Of the twins that the condition is evaluated on.
    condition_reads: Arc<TwinReads>,
    /// Of those that it selects.
    output_reads: Arc<TwinReads>,
    /// The index that answers a part of the condition.
    pub(super) index: Option<IndexChoice>,
    /// The identity alone decides the condition.
    is_filtered_by_identity: bool,
    /// And the result.
    is_identity_only: bool,
}

/// Identities to be evaluated, and the groups of those that have been.
pub(super) struct Chunk {
    pub(super) identities: Vec<IdentitySummary>,
    pub(super) groups: Option<Groups>,
    pub(super) through: Option<IdentityId>,
    pub(super) visited: usize,
}

/// Where the identities of a slice come from.
enum Source {
    /// The registry has all.
    Scan,
    /// An index leaves some.
    Index(Candidates),
}

impl DeviceHub {
    /// Evaluates a slice of a query as the owner of its partitions.
    pub(crate) async fn serve_device_query(
        self: &Arc<Self>,
        request: proto::DeviceQuery,
    ) -> Result<proto::DeviceQueryAnswer, SliceError> {
        let query = Arc::new(Query::parse(&request.query)?);
        let partitions = self.owned(&request.partitions)?;
        let after = match request.after_device.as_str() {
            "" => None,
            device => Some(
                codec::decode_identity(device, &request.after_module)
                    .map_err(|error| SliceError::Request(error.to_string()))?,
            ),
        };
        // It is never closed.
        let _permit = self.query_slices.acquire().await;
        // Whatever was answered before the query is seen by it.
        self.parts.registry.read_barrier().await?;
        let output = query.output_fields();
        let is_filtered_by_identity = plan::is_identity_only(query.condition_fields());
        let is_scan = QueryPlan::of(&query, self.parts.partitions.count()).access == QueryAccess::Scan;
        let index = is_scan.then(|| IndexChoice::of(&query, &self.twin_indexes)).flatten();
        let slice = Arc::new(Slice {
            index,
            partitions,
            after_group: request.after_group.as_deref().map(GroupKey::of),
            limit: (request.limit as usize).clamp(1, MAX_RESULTS),
            condition_reads: Arc::new(TwinReads::of_condition(&query)),
            output_reads: Arc::new(TwinReads::of_output(&query)),
            is_filtered_by_identity,
            is_identity_only: is_filtered_by_identity && plan::is_identity_only(output),
            query,
        });
        if request.explain {
            return Ok(proto::DeviceQueryAnswer {
                explanation: Some(self.explain_slice(&slice).await?),
                ..proto::DeviceQueryAnswer::default()
            });
        }
        if !slice.is_identity_only {
            self.confirm_owner(&slice.partitions).await?;
        }
        self.evaluate(&slice, after).await
    }

    /// The partitions, all of which this node must own.
    fn owned(&self, partitions: &[u32]) -> Result<BTreeSet<PartitionId>, SliceError> {
        let count = self.parts.partitions.count();
        let mut owned = BTreeSet::new();
        for number in partitions {
            let id = u16::try_from(*number).ok().filter(|id| *id < count.get());
            let id = id.ok_or_else(|| SliceError::Request(format!("there is no partition {number}")))?;
            if self.ownership.term(PartitionId(id)).is_none() {
                return Err(SliceError::NotOwner);
            }
            owned.insert(PartitionId(id));
        }
        Ok(owned)
    }

    async fn evaluate(
        self: &Arc<Self>,
        slice: &Arc<Slice>,
        after: Option<IdentityId>,
    ) -> Result<proto::DeviceQueryAnswer, SliceError> {
        let query = &*slice.query;
        let mut results = Vec::new();
        let (mut bytes, mut visited) = (0, 0);
        let mut aggregator = Aggregator::new(query, slice.after_group.clone(), slice.limit);
        let mut source = match self.candidates(slice, after.clone()).await? {
            Some(candidates) => Source::Index(candidates),
            None => Source::Scan,
        };
        let mut chunk = self.next_chunk(slice, &mut source, after, MAX_VISITED).await?;
        let through = loop {
            visited += chunk.visited;
            if let Some(groups) = chunk.groups {
                aggregator.merge(groups);
            }
            // The next identities are read while the twins of these are.
            let following = async {
                match &chunk.through {
                    Some(after) if visited < MAX_VISITED => {
                        let most = MAX_VISITED - visited;
                        let next = self.next_chunk(slice, &mut source, Some(after.clone()), most).await;
                        next.map(Some)
                    }
                    _ => Ok(None),
                }
            };
            let (rows, following) = tokio::join!(self.selected(slice, chunk.identities), following);
            let mut through = chunk.through;
            for row in rows? {
                if query.is_aggregate() {
                    aggregator.add(&row);
                    continue;
                }
                let result = result_of(query, &row);
                bytes += result.document.len();
                results.push(result);
                if results.len() >= slice.limit || bytes >= MAX_SLICE_BYTES {
                    through = Some(row.identity.id);
                    break;
                }
            }
            if results.len() >= slice.limit || bytes >= MAX_SLICE_BYTES {
                break through;
            }
            match following? {
                Some(next) => chunk = next,
                None => break through,
            }
        };
        Ok(proto::DeviceQueryAnswer {
            results,
            groups: match query.is_aggregate() {
                true => aggregator.into_groups().to_bytes().into(),
                false => Bytes::new(),
            },
            through_device: through
                .as_ref()
                .map(|id| id.device.as_str().to_owned())
                .unwrap_or_default(),
            through_module: through.as_ref().map(codec::encode_module).unwrap_or_default(),
            explanation: None,
        })
    }

    async fn next_chunk(
        &self,
        slice: &Arc<Slice>,
        source: &mut Source,
        after: Option<IdentityId>,
        most: usize,
    ) -> Result<Chunk, SliceError> {
        match source {
            Source::Scan => self.scanned_chunk(slice, after, most).await,
            Source::Index(candidates) => self.next_candidates(slice, candidates).await,
        }
    }

    /// The next identities of the partitions, those already left out that the identity alone decides.
    async fn scanned_chunk(
        &self,
        slice: &Arc<Slice>,
        after: Option<IdentityId>,
        most: usize,
    ) -> Result<Chunk, SliceError> {
        let (registry, slice) = (self.parts.registry.clone(), Arc::clone(slice));
        let count = self.parts.partitions.count();
        let work = move || {
            let query = &*slice.query;
            let scan = Scan {
                kind: QueryPlan::kind(query),
                range: QueryPlan::of(query, count).range,
                after,
                most,
            };
            let adds = slice.is_identity_only && query.is_aggregate();
            let mut aggregator = Aggregator::new(query, slice.after_group.clone(), slice.limit);
            let mut identities = Vec::new();
            let wants = |device: &DeviceId| slice.partitions.contains(&count.partition_of(device));
            let scanned = registry.scan(&scan, wants, |identity| {
                if !slice.is_filtered_by_identity {
                    identities.push(identity);
                } else {
                    let row = DeviceRow::of_identity(identity);
                    if query.selects(&row) {
                        match adds {
                            true => aggregator.add(&row),
                            false => identities.push(row.identity),
                        }
                    }
                }
                match identities.len() >= CHUNK {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
            Ok(Chunk {
                identities,
                groups: adds.then(|| aggregator.into_groups()),
                through: scanned.through,
                visited: scanned.count,
            })
        };
        holdfast_tasks::spawn_blocking(work).await
    }

    /// The rows that the query selects, with all that a result is made of.
    ///
    /// Two steps: most rows of a search are not selected, and of those only the condition's parts are read.
    async fn selected(&self, slice: &Slice, identities: Vec<IdentitySummary>) -> Result<Vec<DeviceRow>, SliceError> {
        let query = &*slice.query;
        let mut rows: Vec<DeviceRow> = identities.into_iter().map(DeviceRow::of_identity).collect();
        if !slice.is_filtered_by_identity {
            let condition = query.condition_fields();
            self.read_connections(&mut rows, condition).await;
            self.read_twins(&mut rows, &slice.condition_reads).await?;
            rows.retain(|row| query.selects(row));
        }
        self.read_connections(&mut rows, query.output_fields()).await;
        self.read_twins(&mut rows, &slice.output_reads).await?;
        Ok(rows)
    }

    async fn read_connections(&self, rows: &mut [DeviceRow], fields: FieldSet) {
        if fields.contains_any(plan::CONNECTION_TIMES) {
            let asked = rows
                .iter()
                .map(|row| (row.identity.id.clone(), Some(row.identity.generation.clone())));
            let found = self.find_connections(asked.collect()).await;
            for (row, found) in rows.iter_mut().zip(&found) {
                row.connection = api::diagnose::state_of(found);
            }
        } else if fields.contains_any(plan::CONNECTION_FIELDS) {
            for row in rows {
                row.connection.is_connected = self.is_connected_now(&row.identity);
            }
        }
    }

    async fn read_twins(&self, rows: &mut [DeviceRow], reads: &Arc<TwinReads>) -> Result<(), SliceError> {
        let is_read = |row: &DeviceRow| row.twin.as_ref().is_some_and(|twin| twin.depth >= reads.depth);
        let mut by_partition: BTreeMap<PartitionId, Vec<&mut DeviceRow>> = BTreeMap::new();
        if reads.depth > TwinDepth::None {
            for row in rows.iter_mut().filter(|row| !is_read(row)) {
                let partition = self.partition_of(&row.identity.id);
                by_partition.entry(partition).or_default().push(row);
            }
        }
        let twins = by_partition.iter().map(|(partition, rows)| async move {
            let replica = self.parts.partitions.local(*partition).ok_or(SliceError::NotOwner)?;
            let ids = rows.iter().map(|row| &row.identity);
            let keys = ids.map(|identity| device_state::key(DeviceStateKind::TWIN, &identity.id, &identity.generation));
            let keys: Vec<_> = keys.collect();
            let reads = Arc::clone(reads);
            let read = move |value: Option<Bytes>| value.map(|value| TwinParts::read(value, &reads)).transpose();
            // The disk has failed, and the node stops.
            let values = replica.device_state_values(&keys, read).await;
            values.map_err(|_| SliceError::NotOwner)
        });
        let twins = try_join_all(twins).await?;
        for (rows, twins) in by_partition.into_values().zip(twins) {
            for (row, twin) in rows.into_iter().zip(twins) {
                let identity = &row.identity;
                let parts = match twin.map_err(TwinError::from)? {
                    Some(parts) => parts,
                    None => TwinParts::of(&self.unwritten_twin(&identity.id, &identity.generation)?),
                };
                row.twin = Some(parts);
            }
        }
        Ok(())
    }

    /// Whether it is connected, without the times.
    fn is_connected_now(&self, identity: &IdentitySummary) -> bool {
        let row = self.ownership.row(self.partition_of(&identity.id), &identity.id);
        row.is_some_and(|row| row.info.generation == identity.generation)
    }
}

fn result_of(query: &Query, row: &DeviceRow) -> proto::DeviceQueryResult {
    proto::DeviceQueryResult {
        device: row.identity.id.device.as_str().to_owned(),
        module: codec::encode_module(&row.identity.id),
        document: query.project(row).to_string(),
    }
}
