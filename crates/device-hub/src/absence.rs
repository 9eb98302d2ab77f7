//! Writes into the log of a partition which gateways its sessions begin without, and reads it when a reign begins.
//!
//! Why in the log: the owner of a later term must know (docs/decisions/0026). It is rare: once when a gateway has been away
//! for long enough for something to begin without it, and once when it is back.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::PartitionId;
use holdfast_partition::state::GatewayPresence;

use crate::DeviceHub;

/// Between two tries to write a mark that a session waits for.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long reading the log's marks may take; less than a gateway waits that hands in its sessions.
const READ_PATIENCE: Duration = Duration::from_millis(800);

impl DeviceHub {
    /// Reads which gateways are away, unless this reign knows. `false`: not now, or this node is not the owner.
    pub(crate) async fn learn_away(&self, partition: PartitionId, term: u64) -> bool {
        let serial = match self.owners.has_to_learn(partition, term) {
            Ok(Some(serial)) => serial,
            Ok(None) => return true,
            Err(_) => return false,
        };
        let Some(replica) = self.parts.partitions.local(partition) else {
            return false;
        };
        match tokio::time::timeout(READ_PATIENCE, replica.absent_gateways()).await {
            Ok(Ok(away)) => {
                self.owners.learn_away(partition, term, serial, &away);
                true
            }
            Ok(Err(error)) => {
                tracing::debug!(partition = partition.0, %error, "who is away could not be read");
                false
            }
            Err(_) => false,
        }
    }

    /// Marks a gateway as away: to be waited for before something begins that it does not know of. `false`: another node
    /// owns the partition by now.
    pub(crate) async fn mark_away(&self, partition: PartitionId, term: u64, gateway: u64) -> bool {
        while self.owners.term(partition) == Some(term) {
            {
                let _turn = self.marking[usize::from(partition.0)].lock().await;
                if self.mark_once(partition, term, gateway).await {
                    return true;
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        false
    }

    async fn mark_once(&self, partition: PartitionId, term: u64, gateway: u64) -> bool {
        if self.owners.is_marked(partition, term, gateway) {
            return true;
        }
        let Some(replica) = self.parts.partitions.local(partition) else {
            return false;
        };
        match replica.record_gateway(gateway, GatewayPresence::Absent).await {
            Ok(()) => {
                tracing::info!(
                    gateway,
                    partition = partition.0,
                    "sessions begin without a gateway that is away"
                );
                self.metrics.marked_away.increment(1);
                self.owners.marked(partition, term, gateway, || self.members());
                true
            }
            Err(error) => {
                tracing::debug!(gateway, partition = partition.0, %error, "a gateway could not be marked as away");
                false
            }
        }
    }

    /// Marks the gateways `away`, and takes out the marks of those who are back. Tried again by whoever looks next.
    pub(crate) fn write_marks(self: &Arc<Self>, partition: PartitionId, term: u64, away: Vec<u64>) {
        let hub = Arc::clone(self);
        holdfast_tasks::spawn("session-marks", async move {
            let Ok(_turn) = hub.marking[usize::from(partition.0)].try_lock() else {
                return;
            };
            for gateway in away {
                hub.mark_once(partition, term, gateway).await;
            }
            for gateway in hub.owners.back(partition, term) {
                let Some(replica) = hub.parts.partitions.local(partition) else {
                    return;
                };
                match replica.record_gateway(gateway, GatewayPresence::Present).await {
                    Ok(()) => hub.owners.cleared(partition, term, gateway),
                    Err(error) => {
                        tracing::debug!(gateway, partition = partition.0, %error, "a mark could not be taken out");
                    }
                }
            }
        });
    }
}
