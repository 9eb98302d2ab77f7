//! Records in a partition's log which gateways its sessions begin without, and reads it when a term begins.
//!
//! Why in the log: the owner of a later term must know (docs/decisions/0026). It is rare: one entry when something begins
//! without an absent gateway, and one when that gateway is back.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{NodeId, PartitionId, Term};
use holdfast_partition::state::GatewayPresence;

use crate::DeviceHub;

/// Delay before an absence is written again that a session waits for.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// How long reading the recorded absences may take; less than the timeout of a gateway that reports its sessions.
const READ_TIMEOUT: Duration = Duration::from_millis(800);

impl DeviceHub {
    /// Loads the recorded absences, unless this term has them. `false`: not readable now, or this node is not the owner.
    pub(crate) async fn load_absences(&self, partition: PartitionId, term: Term) -> bool {
        let serial = match self.ownership.needs_absences(partition, term) {
            Ok(Some(serial)) => serial,
            Ok(None) => return true,
            Err(_) => return false,
        };
        let Some(replica) = self.parts.partitions.local(partition) else {
            return false;
        };
        match tokio::time::timeout(READ_TIMEOUT, replica.absent_gateways()).await {
            Ok(Ok(absent)) => {
                self.ownership.load_absences(partition, term, serial, &absent);
                true
            }
            Ok(Err(error)) => {
                tracing::debug!(partition = partition.0, %error, "absent gateways could not be read; retrying with the next link");
                false
            }
            Err(_) => false,
        }
    }

    /// Records a gateway as absent; awaited before something begins that the gateway does not know of. `false`: another
    /// node owns the partition by now.
    pub(crate) async fn record_absence(&self, partition: PartitionId, term: Term, gateway: NodeId) -> bool {
        while self.ownership.term(partition) == Some(term) {
            {
                let _guard = self.absence_locks[usize::from(partition.0)].lock().await;
                if self.try_record_absence(partition, term, gateway).await {
                    return true;
                }
            }
            tokio::time::sleep(RETRY_BACKOFF).await;
        }
        false
    }

    async fn try_record_absence(&self, partition: PartitionId, term: Term, gateway: NodeId) -> bool {
        if self.ownership.is_recorded_absent(partition, term, gateway) {
            return true;
        }
        let Some(replica) = self.parts.partitions.local(partition) else {
            return false;
        };
        match replica.record_gateway(gateway, GatewayPresence::Absent).await {
            Ok(()) => {
                tracing::info!(
                    %gateway,
                    partition = partition.0,
                    "a gateway is absent; sessions begin without it"
                );
                self.metrics.absences_recorded.increment(1);
                self.ownership
                    .record_absent(partition, term, gateway, || self.members());
                true
            }
            Err(error) => {
                tracing::debug!(%gateway, partition = partition.0, %error, "an absent gateway could not be recorded; retrying");
                false
            }
        }
    }

    /// Records the gateways `absent`, and removes the absence of those that are back. The next sweep retries failures.
    pub(crate) fn update_absences(self: &Arc<Self>, partition: PartitionId, term: Term, absent: Vec<NodeId>) {
        let hub = Arc::clone(self);
        holdfast_tasks::spawn_critical("session-absences", async move {
            let Ok(_guard) = hub.absence_locks[usize::from(partition.0)].try_lock() else {
                return;
            };
            for gateway in absent {
                hub.try_record_absence(partition, term, gateway).await;
            }
            for gateway in hub.ownership.returned_gateways(partition, term) {
                let Some(replica) = hub.parts.partitions.local(partition) else {
                    return;
                };
                match replica.record_gateway(gateway, GatewayPresence::Present).await {
                    Ok(()) => hub.ownership.clear_absent(partition, term, gateway),
                    Err(error) => {
                        tracing::debug!(%gateway, partition = partition.0, %error, "a gateway's absence could not be removed; retrying");
                    }
                }
            }
        });
    }
}
