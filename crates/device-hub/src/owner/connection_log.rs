//! Writes what has happened to connections into the partition's log, and reads it back.
//!
//! Why: connection state and last activity survive a restart and a change of the owner (docs/decisions/0029).
//! Not here: the changes gathered until then ([`super::connection_changes`]), how nodes ask owners (`api/diagnose`).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_model::{GenerationId, IdentityId, MessageSource, PartitionId, Term, UnixMillis};
use holdfast_partition::Partition;
use holdfast_partition::record::{DeviceStateChange, DeviceStateKind, Effect, Leadership};

use super::connection_changes::{ConnectionChange, RequestTime};
use super::hub_event::HubEvent;
use super::state_changes::{StateChanges, StateKey};
use super::state_writer::ChangeError;
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
    pub async fn write_last_connections(self: &Arc<Self>) {
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

    async fn write_connections(self: &Arc<Self>, partition: PartitionId, term: Term) {
        let Some(replica) = self.parts.partitions.local(partition) else {
            return;
        };
        while let Some(changes) = self.ownership.start_connection_write(partition, term, MAX_VALUES) {
            let result = match self.parts.config.connection_state_events {
                true => self.write_with_events(partition, &changes).await,
                false => self.write_values(&replica, term, &changes).await,
            };
            let written: &[ConnectionChange] = if result.is_ok() { &changes } else { &[] };
            self.metrics.connections_recorded.increment(written.len() as u64);
            self.ownership.end_connection_write(partition, term, written);
            if let Err(error) = result {
                tracing::debug!(partition = partition.0, %error, "connection states were not written; trying again");
                return;
            }
        }
        let requests = self.ownership.take_requests(partition, term, MAX_VALUES);
        if !requests.is_empty()
            && let Err(error) = self.write_requests(partition, requests).await
        {
            tracing::debug!(partition = partition.0, %error, "the times of requests were not written; the next ones are");
        }
    }

    /// Moves the last activity of identities without a session.
    async fn write_requests(
        self: &Arc<Self>,
        partition: PartitionId,
        requests: Vec<RequestTime>,
    ) -> Result<(), ChangeError> {
        let key =
            |(identity, generation, _): &RequestTime| StateKey::new(DeviceStateKind::CONNECTION, identity, generation);
        let keys: Vec<StateKey> = requests.iter().map(key).collect();
        let due: Vec<(StateKey, UnixMillis)> = keys.iter().cloned().zip(requests.iter().map(|one| one.2)).collect();
        let decide = move |state: &mut StateChanges<'_>| {
            for (key, at) in due {
                decide_request(state, &key, at);
            }
        };
        self.change_state(partition, keys, decide).await
    }

    /// Without events a value is written without a look at the older one.
    async fn write_values(
        &self,
        replica: &Partition,
        term: Term,
        changes: &[ConnectionChange],
    ) -> Result<(), ChangeError> {
        let owner = Leadership {
            term,
            node: self.parts.node,
        };
        let values = changes
            .iter()
            .map(|(_, _, value)| device_state::encode_connection(value, 0));
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
        replica.propose(owner, &effects).await.map_err(ChangeError::from)
    }

    async fn write_with_events(
        self: &Arc<Self>,
        partition: PartitionId,
        changes: &[ConnectionChange],
    ) -> Result<(), ChangeError> {
        let key = |(identity, generation, _): &ConnectionChange| {
            StateKey::new(DeviceStateKind::CONNECTION, identity, generation)
        };
        let keys: Vec<StateKey> = changes.iter().map(key).collect();
        let due: Vec<(StateKey, ConnectionChange)> = keys.iter().cloned().zip(changes.iter().cloned()).collect();
        let decide = move |state: &mut StateChanges<'_>| {
            for (key, (identity, _, connection)) in due {
                decide_connection(state, &key, identity, &connection);
            }
        };
        self.change_state(partition, keys, decide).await
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

/// Sets the last activity, and nothing else of what is known of the identity's connections.
fn decide_request(state: &mut StateChanges<'_>, key: &StateKey, at: UnixMillis) {
    let stored = state.get(key);
    let last = stored.map_or(0, |value| device_state::decode_event_number(value));
    let stored = stored.and_then(|value| device_state::decode_connection(value));
    let connection = StoredConnection {
        last_activity: stored.as_ref().map_or(at, |stored| stored.last_activity.max(at)),
        ..stored.unwrap_or_default()
    };
    state.set(key, Some(device_state::encode_connection(&connection, last)));
}

/// Sets the value, with an event if it says otherwise than the older one whether the identity is connected.
fn decide_connection(
    state: &mut StateChanges<'_>,
    key: &StateKey,
    identity: IdentityId,
    connection: &StoredConnection,
) {
    let stored = state.get(key);
    let was_connected = stored
        .and_then(|value| device_state::decode_connection(value))
        .is_some_and(|stored| stored.is_connected);
    let last = stored.map_or(0, |value| device_state::decode_event_number(value));
    if was_connected == connection.is_connected {
        return state.set(key, Some(device_state::encode_connection(connection, last)));
    }
    let number = file_time(state.now()).max(last + 1);
    state.set(key, Some(device_state::encode_connection(connection, number)));
    state.event(HubEvent {
        source: MessageSource::ConnectionState,
        identity,
        operation: match connection.is_connected {
            true => "deviceConnected",
            false => "deviceDisconnected",
        },
        time: connection.changed,
        body: format!(r#"{{"sequenceNumber":"{}"}}"#, sequence_number(number)).into_bytes(),
    });
}

/// Windows' FILETIME: 100 ns since 1601.
fn file_time(now: UnixMillis) -> u64 {
    (now.0 + 11_644_473_600_000).saturating_mul(10_000)
}

/// The sequence number of an event: 64 hexadecimal digits, which grow as texts do (Spec query-and-routing §14.1).
fn sequence_number(number: u64) -> String {
    format!("{:016}{number:016X}{:08}{:016}{:08}", 0, 2, 0, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_have_the_form_of_the_specification_and_grow() {
        let number = file_time(UnixMillis(1_927_857_906_201));
        let text = sequence_number(number);
        assert_eq!(text, "000000000000000001E22FA2CE02709000000002000000000000000000000001");
        assert!(sequence_number(number + 1) > text);
    }
}
