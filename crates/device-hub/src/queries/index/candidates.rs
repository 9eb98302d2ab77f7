//! The identities that an index leaves to be evaluated, at the owner of their partitions.
//!
//! The hits of one value lie in each partition in the order of ids, so that a round reads some from each partition and goes up
//! to the id that all of them have reached. The hits of a range do not: they are read at once, and if they are too many, the owner
//! scans. An identity whose twin was never written is in no partition; its content is in the registry, which is read as well.
//! Invariants: candidates come in the order of ids, each once; about [`MAX_HITS`] are held.

use std::collections::{BTreeSet, VecDeque};

use futures_util::future::try_join_all;
use holdfast_model::{DeviceId, IdentityId, ModuleId, PartitionId};
use holdfast_partition::state::{IndexFound, IndexSearch, ValueSelection};
use holdfast_registry::{DeviceRange, Scan, SeedScan};

use super::IndexChoice;
use crate::DeviceHub;
use crate::queries::plan::QueryPlan;
use crate::queries::serve::{CHUNK, Chunk, MAX_VISITED, Slice, SliceError};
use crate::rpc::codec;

/// Hits of a range that are held.
pub(super) const MAX_HITS: usize = 10_000;

/// Hits of a value that a round reads of a partition.
const MIN_ROUND: usize = 16;
const MAX_ROUND: usize = 256;

/// Where the next round begins.
#[derive(Debug, Clone)]
enum Next {
    Behind(Option<IdentityId>),
    /// There are no more.
    Done,
}

/// See the module.
#[derive(Debug)]
pub(in crate::queries) struct Candidates {
    ids: VecDeque<IdentityId>,
    next: Next,
    /// Twin content that was come past and does not count as a candidate.
    passed: usize,
}

/// What a round has found.
enum Round {
    /// All up to the identity; `None`: all.
    Ids(BTreeSet<IdentityId>, Option<IdentityId>),
    /// The index cannot be used.
    Unusable,
}

impl DeviceHub {
    /// The candidates behind an identity; `None`: the owner has to scan.
    pub(in crate::queries) async fn candidates(
        &self,
        slice: &Slice,
        after: Option<IdentityId>,
    ) -> Result<Option<Candidates>, SliceError> {
        let Some(index) = &slice.index else {
            return Ok(None);
        };
        let mut candidates = Candidates {
            ids: VecDeque::new(),
            next: Next::Behind(after),
            passed: 0,
        };
        let is_usable = self.next_round(slice, index, &mut candidates).await?;
        Ok(is_usable.then_some(candidates))
    }

    /// The next identities to evaluate.
    pub(in crate::queries) async fn next_candidates(
        &self,
        slice: &Slice,
        candidates: &mut Candidates,
    ) -> Result<Chunk, SliceError> {
        if candidates.ids.is_empty()
            && let Some(index) = &slice.index
            && !self.next_round(slice, index, candidates).await?
        {
            // The replica was replaced meanwhile: the slice is requested again.
            return Err(SliceError::NotOwner);
        }
        let count = candidates.ids.len().min(CHUNK);
        let ids: Vec<IdentityId> = candidates.ids.drain(..count).collect();
        let through = match (&candidates.next, candidates.ids.is_empty()) {
            (Next::Done, true) => None,
            (Next::Behind(behind), true) => behind.clone(),
            (_, false) => ids.last().cloned(),
        };
        let visited = ids.len() + std::mem::take(&mut candidates.passed);
        let registry = self.parts.registry.clone();
        let kind = QueryPlan::kind(&slice.query);
        let read = move || {
            let mut devices: Vec<DeviceId> = ids.iter().map(|id| id.device.clone()).collect();
            devices.dedup();
            let wanted: BTreeSet<IdentityId> = ids.into_iter().collect();
            let scan = Scan {
                kind,
                range: DeviceRange::Ids(devices),
                after: None,
                most: usize::MAX,
            };
            let mut identities = Vec::new();
            registry.scan(
                &scan,
                |_| true,
                |identity| {
                    if wanted.contains(&identity.id) {
                        identities.push(identity);
                    }
                    std::ops::ControlFlow::Continue(())
                },
            )?;
            Ok::<_, SliceError>(identities)
        };
        Ok(Chunk {
            identities: holdfast_tasks::spawn_blocking(read).await?,
            groups: None,
            through,
            visited,
        })
    }

    /// `false`: the index cannot be used.
    async fn next_round(
        &self,
        slice: &Slice,
        index: &IndexChoice,
        candidates: &mut Candidates,
    ) -> Result<bool, SliceError> {
        let Next::Behind(after) = candidates.next.clone() else {
            return Ok(true);
        };
        let round = match &index.selection {
            ValueSelection::OneOf(_) => self.round_of_values(slice, index, after.as_ref()).await?,
            ValueSelection::Between(..) => self.round_of_range(slice, index, after.as_ref()).await?,
        };
        let Round::Ids(mut ids, mut through) = round else {
            return Ok(false);
        };
        let scan = SeedScan {
            kind: QueryPlan::kind(&slice.query),
            after,
            through: through.clone(),
            most: MAX_VISITED,
        };
        let (registry, index, partitions) = (self.parts.registry.clone(), index.clone(), slice.partitions.clone());
        let count = self.parts.partitions.count();
        let read = move || {
            let mut selected = Vec::new();
            let wants = |device: &DeviceId| partitions.contains(&count.partition_of(device));
            let scanned = registry.scan_twin_seeds(&scan, wants, |id, seed| {
                if index.may_select(&seed) {
                    selected.push(id);
                }
            })?;
            Ok::<_, SliceError>((selected, scanned))
        };
        let (selected, scanned) = holdfast_tasks::spawn_blocking(read).await?;
        candidates.passed += scanned.count - selected.len();
        if let Some(seeds_through) = scanned.through {
            ids = ids.into_iter().take_while(|id| *id <= seeds_through).collect();
            through = Some(seeds_through);
        }
        ids.extend(selected);
        candidates.ids = ids.into_iter().collect();
        candidates.next = match through {
            Some(through) => Next::Behind(Some(through)),
            None => Next::Done,
        };
        Ok(true)
    }

    async fn round_of_values(
        &self,
        slice: &Slice,
        index: &IndexChoice,
        after: Option<&IdentityId>,
    ) -> Result<Round, SliceError> {
        let share = slice.limit.saturating_mul(2) / slice.partitions.len().max(1);
        let limit = share.clamp(MIN_ROUND, MAX_ROUND);
        let searches = slice
            .partitions
            .iter()
            .map(|partition| self.search(*partition, index, after, limit));
        let (mut ids, mut through) = (BTreeSet::new(), None::<IdentityId>);
        for found in try_join_all(searches).await? {
            let IndexFound::States { states, through: cut } = found else {
                return Ok(Round::Unusable);
            };
            ids.extend(states.iter().filter_map(|state| identity_of(&state.key()?)));
            let cut = cut.as_ref().and_then(|state| identity_of(&state.key()?));
            through = match (through, cut) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
        if let Some(through) = &through {
            ids = ids.into_iter().take_while(|id| id <= through).collect();
        }
        Ok(Round::Ids(ids, through))
    }

    async fn round_of_range(
        &self,
        slice: &Slice,
        index: &IndexChoice,
        after: Option<&IdentityId>,
    ) -> Result<Round, SliceError> {
        let mut ids = BTreeSet::new();
        for partition in &slice.partitions {
            // One after the other, so that too many are noticed early.
            let left = MAX_HITS - ids.len();
            let found = self.search(*partition, index, after, left.max(1)).await?;
            let IndexFound::States { states, .. } = found else {
                return Ok(Round::Unusable);
            };
            ids.extend(states.iter().filter_map(|state| identity_of(&state.key()?)));
            if ids.len() > MAX_HITS {
                return Ok(Round::Unusable);
            }
        }
        Ok(Round::Ids(ids, None))
    }

    pub(super) async fn search(
        &self,
        partition: PartitionId,
        index: &IndexChoice,
        after: Option<&IdentityId>,
        limit: usize,
    ) -> Result<IndexFound, SliceError> {
        let replica = self.parts.partitions.local(partition).ok_or(SliceError::NotOwner)?;
        let search = IndexSearch {
            index: &index.name,
            selection: &index.selection,
            after: after.map(|id| (id.device.as_str(), id.module.as_ref().map_or("", ModuleId::as_str))),
            limit,
        };
        // The disk has failed, and the node stops.
        replica.find_by_value(&search).await.map_err(|_| SliceError::NotOwner)
    }
}

fn identity_of(key: &holdfast_partition::record::DeviceStateKey<'_>) -> Option<IdentityId> {
    codec::decode_identity(key.device, key.module.unwrap_or_default()).ok()
}
