//! Writes what has happened to connections into the partition's log, and reads it back.
//!
//! Why: connection state and last activity survive a restart and a change of the owner (docs/decisions/0029).
//! Not here: the changes gathered until then ([`super::connection_changes`]), how nodes ask owners (`api/diagnose`).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_model::{GenerationId, IdentityId, PartitionId, Term};
use holdfast_partition::record::{DeviceStateChange, DeviceStateKind, Effect, Leadership};

use super::connection_changes::ConnectionChange;
use crate::DeviceHub;
use crate::device_state::{self, StoredConnection};

/// Values of one entry.
const MAX_VALUES: usize = 1000;

/// How long a node that stops waits until its last changes are written.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

impl DeviceHub {
    /// Writes what has gathered in the partitions that this node owns, without waiting.
    pub(crate) fn spawn_connection_writes(self: &Arc<Self>) {
        for (partition, term) in self.partitions_to_write() {
            let hub = Arc::clone(self);
            holdfast_tasks::spawn_critical("connection-states", async move {
                hub.write_connections(partition, term).await;
            });
        }
    }

    /// The same for a node that stops; returns when it is done, after a second at the latest.
    pub async fn write_last_connections(&self) {
        let writes = self.partitions_to_write().into_iter();
        let writes = join_all(writes.map(|(partition, term)| self.write_connections(partition, term)));
        if tokio::time::timeout(STOP_TIMEOUT, writes).await.is_err() {
            tracing::warn!(
                "the last connection states were not written; they are shown as they were some seconds before"
            );
        }
    }

    fn partitions_to_write(&self) -> Vec<(PartitionId, Term)> {
        match self.is_writable() {
            true => self.ownership.unwritten_connections(),
            false => Vec::new(),
        }
    }

    async fn write_connections(&self, partition: PartitionId, term: Term) {
        let Some(replica) = self.parts.partitions.local(partition) else {
            return;
        };
        let owner = Leadership {
            term,
            node: self.parts.node,
        };
        while let Some(changes) = self.ownership.start_connection_write(partition, term, MAX_VALUES) {
            let result = {
                let values = changes
                    .iter()
                    .map(|(_, _, value)| device_state::encode_connection(value));
                let values: Vec<Vec<u8>> = values.collect();
                let effects: Vec<Effect<'_>> = changes
                    .iter()
                    .zip(&values)
                    .map(|((identity, generation, _), value)| {
                        Effect::DeviceState(DeviceStateChange {
                            key: device_state::key(DeviceStateKind::CONNECTION, identity, generation),
                            value: Some(value),
                        })
                    })
                    .collect();
                replica.propose(owner, &effects).await
            };
            let written: &[ConnectionChange] = if result.is_ok() { &changes } else { &[] };
            self.metrics.connections_recorded.increment(written.len() as u64);
            self.ownership.end_connection_write(partition, term, written);
            if let Err(error) = result {
                tracing::debug!(partition = partition.0, %error, "connection states were not written; trying again");
                return;
            }
        }
    }

    /// The stored connection of an identity that is not connected, as this node's replica has it.
    pub(crate) async fn stored_connection(
        &self,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
    ) -> Option<StoredConnection> {
        // Reading the absences waits until everything that earlier owners have written is applied here.
        if let Some(term) = self.ownership.term(partition) {
            self.load_absences(partition, term).await;
        }
        if let Some(unwritten) = self.ownership.unwritten_connection(partition, identity, generation) {
            return Some(unwritten);
        }
        let replica = self.parts.partitions.local(partition)?;
        let key = device_state::key(DeviceStateKind::CONNECTION, identity, generation);
        // An error ends the node.
        let value = replica.device_state(&key).await.ok()??;
        device_state::decode_connection(&value)
    }
}
