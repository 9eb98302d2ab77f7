//! Removes device state that nothing uses any more, and records the end of connections that ended unseen.
//!
//! Why: the registry and a partition cannot delete in one step (docs/decisions/0015), and a node that is killed records no
//! ends. A pass needs no input and may be repeated; each owner makes one when its term is complete, and one each
//! `device_hub.reconcile_interval`.
//! Invariants: state of a generation is removed only if this node's registry replica is certainly newer than the generation;
//! one partition at a time, one page and one entry at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_model::{GenerationId, PartitionId, Term};
use holdfast_partition::Partition;
use holdfast_partition::record::{DeviceStateKey, DeviceStateKind};
use holdfast_partition::state::Liveness;
use holdfast_tasks::{Phase, Stop};
use tokio::time::Instant;

use crate::DeviceHub;
use crate::device_state;
use crate::rpc::codec;

/// How often a node checks for partitions whose state is to be reconciled.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The kinds of device state that this crate keeps.
const KINDS: [DeviceStateKind; 8] = [
    DeviceStateKind::SUBSCRIPTIONS,
    DeviceStateKind::CONNECTION,
    DeviceStateKind::TWIN,
    DeviceStateKind::TWIN_HISTORY,
    DeviceStateKind::CLOUD_QUEUE,
    DeviceStateKind::CLOUD_MESSAGE,
    DeviceStateKind::FEEDBACK,
    DeviceStateKind::UPLOADS,
];

/// Reconciles the partitions that this node owns until the node closes.
pub(crate) async fn reconcile_device_states(hub: Arc<DeviceHub>, stop: Stop) {
    // The term and time of the last pass, per partition.
    let mut passes: Vec<Option<(Term, Instant)>> = hub.parts.partitions.count().iter().map(|_| None).collect();
    let interval = hub.parts.config.reconcile_interval.get();
    loop {
        tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => return,
            () = tokio::time::sleep(CHECK_INTERVAL.min(interval)) => {}
        }
        let is_requested = hub.reconcile_requested.swap(false, Ordering::AcqRel);
        for (partition, last) in hub.parts.partitions.count().iter().zip(&mut passes) {
            let Some(term) = hub.ownership.complete_term(partition) else {
                continue;
            };
            let is_due = is_requested || last.is_none_or(|(of, at)| of != term || at.elapsed() >= interval);
            if is_due && hub.is_writable() && hub.reconcile(partition, term).await {
                *last = Some((term, Instant::now()));
            }
        }
    }
}

impl DeviceHub {
    /// Has the next check make a pass over each partition.
    pub(super) fn request_reconcile(&self) {
        self.reconcile_requested.store(true, Ordering::Release);
    }

    /// One pass. `false`: it did not come to its end.
    async fn reconcile(self: &Arc<Self>, partition: PartitionId, term: Term) -> bool {
        let Some(replica) = self.parts.partitions.local(partition) else {
            return false;
        };
        // Read before any identity: one that the replica lacks although it knows a newer generation has been deleted.
        let newest = match self.parts.registry.newest_generation() {
            Ok(newest) => newest,
            Err(error) => {
                tracing::debug!(%error, "the registry cannot be read; device state is reconciled later");
                return false;
            }
        };
        for kind in KINDS {
            let removed = replica.remove_dead_device_states(kind, |key| self.liveness(key, newest));
            match removed.await {
                Ok(0) => {}
                Ok(removed) => {
                    self.metrics.dead_states_removed.increment(removed as u64);
                    tracing::info!(
                        partition = partition.0,
                        kind = kind.0,
                        removed,
                        "removed the state of deleted identities"
                    );
                }
                Err(error) => {
                    tracing::debug!(partition = partition.0, %error, "device state was not reconciled; trying again");
                    return false;
                }
            }
        }
        self.forget_dead_queues(partition, newest);
        self.reconcile_lifecycle(partition, &replica, newest).await
            && self.record_lost_ends(partition, term, &replica).await
    }

    /// Removes dead generations from the index of queues.
    fn forget_dead_queues(&self, partition: PartitionId, newest: u64) {
        let index = self.cloud_queues.partition(partition);
        let known = index.lock().generations();
        for (identity, generation) in known {
            let key = device_state::key(DeviceStateKind::CLOUD_QUEUE, &identity, &generation);
            if self.liveness(&key, newest) == Liveness::Dead {
                index.lock().forget(&identity, &generation);
            }
        }
    }

    pub(super) fn liveness(&self, key: &DeviceStateKey<'_>, newest: u64) -> Liveness {
        let Ok(identity) = codec::decode_identity(key.device, key.module.unwrap_or_default()) else {
            return Liveness::Live;
        };
        match self.parts.registry.identity(&identity) {
            Ok(registered) => liveness(
                key.generation,
                registered.map(|known| known.generation.clone()).as_ref(),
                newest,
            ),
            Err(_) => Liveness::Live,
        }
    }

    /// Connections that are stored as live and have no session: their end was lost with a node.
    async fn record_lost_ends(&self, partition: PartitionId, term: Term, replica: &Partition) -> bool {
        let mut page = None;
        loop {
            let Ok(next) = replica.device_states(DeviceStateKind::CONNECTION, page.as_ref()).await else {
                return false;
            };
            for entry in &next.entries {
                let stored = device_state::decode_connection(&entry.value).filter(|stored| stored.is_connected);
                if let (Some(key), Some(stored)) = (entry.key(), stored)
                    && let Ok(identity) = codec::decode_identity(key.device, key.module.unwrap_or_default())
                {
                    let generation = GenerationId(Arc::from(key.generation));
                    self.ownership
                        .record_lost_end(partition, term, &identity, &generation, stored);
                }
            }
            if next.is_last() {
                return true;
            }
            page = Some(next);
        }
    }
}

/// Whether a generation is in use. `registered`: that of the identity in a registry replica that knows all generations up
/// to `newest`.
fn liveness(generation: &str, registered: Option<&GenerationId>, newest: u64) -> Liveness {
    if registered.is_some_and(|registered| &*registered.0 == generation) {
        return Liveness::Live;
    }
    match generation.parse::<u64>() {
        Ok(number) if number <= newest => Liveness::Dead,
        // The replica is behind: the identity may have been created since.
        Ok(_) | Err(_) => Liveness::Live,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generations_that_the_registry_has_certainly_left_behind_are_dead() {
        let known = |text: &str| GenerationId(Arc::from(text));
        assert_eq!(liveness("5", Some(&known("5")), 9), Liveness::Live);
        assert_eq!(liveness("5", Some(&known("7")), 9), Liveness::Dead, "created again");
        assert_eq!(liveness("5", None, 9), Liveness::Dead, "deleted");
        assert_eq!(
            liveness("12", Some(&known("7")), 9),
            Liveness::Live,
            "the replica is behind"
        );
        assert_eq!(
            liveness("12", None, 9),
            Liveness::Live,
            "not created yet as far as the replica knows"
        );
        assert_eq!(liveness("x", None, 9), Liveness::Live);
    }
}
