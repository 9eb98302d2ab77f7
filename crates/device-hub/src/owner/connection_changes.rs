//! Connections that began, ended or were active, until the log has them.
//!
//! Why gathered: a fleet that reconnects becomes a few entries, and a device that comes and goes within a moment becomes
//! one value. A crash loses the newest changes, which were not acknowledged to anyone.
//! Pure: [`super::connection_log`] writes the log.

use std::collections::BTreeMap;

use holdfast_model::{GenerationId, IdentityId, UnixMillis};

use crate::device_state::StoredConnection;

/// Identities whose changes wait; those of further ones are not recorded.
const MAX_UNWRITTEN: usize = 100_000;

/// A value to be written.
pub(crate) type ConnectionChange = (IdentityId, GenerationId, StoredConnection);

/// When an identity without a session has sent its last request.
pub(crate) type RequestTime = (IdentityId, GenerationId, UnixMillis);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ConnectionChanges {
    unwritten: BTreeMap<IdentityId, (GenerationId, StoredConnection)>,
    is_writing: bool,
    /// Of identities without a session. The rest of their stored value stays as it is.
    requests: BTreeMap<IdentityId, (GenerationId, UnixMillis)>,
}

impl ConnectionChanges {
    pub(super) fn record(&mut self, identity: &IdentityId, generation: &GenerationId, connection: StoredConnection) {
        let change = (generation.clone(), connection);
        if let Some(unwritten) = self.unwritten.get_mut(identity) {
            *unwritten = change;
        } else if self.unwritten.len() < MAX_UNWRITTEN {
            self.unwritten.insert(identity.clone(), change);
        } else {
            tracing::debug!(%identity, limit = MAX_UNWRITTEN, "too many changes of connections wait for the log; this one is not recorded");
        }
    }

    /// An identity without a session has sent a request.
    pub(super) fn record_request(&mut self, identity: &IdentityId, generation: &GenerationId, at: UnixMillis) {
        if let Some((of, connection)) = self.unwritten.get_mut(identity)
            && of == generation
        {
            connection.last_activity = connection.last_activity.max(at);
        } else if self.requests.len() < MAX_UNWRITTEN || self.requests.contains_key(identity) {
            self.requests.insert(identity.clone(), (generation.clone(), at));
        }
    }

    /// Takes up to `most` times of requests, to be written.
    pub(super) fn take_requests(&mut self, most: usize) -> Vec<RequestTime> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((identity, (generation, at))) = self.requests.pop_first()
        {
            taken.push((identity, generation, at));
        }
        taken
    }

    /// The newest value of an identity, if the log may not have it.
    pub(super) fn get(&self, identity: &IdentityId, generation: &GenerationId) -> Option<StoredConnection> {
        let (of, connection) = self.unwritten.get(identity)?;
        (of == generation).then(|| connection.clone())
    }

    pub(super) fn has_unwritten(&self, identity: &IdentityId) -> bool {
        self.unwritten.contains_key(identity)
    }

    /// Whether a write may start.
    pub(super) fn is_due(&self) -> bool {
        let has_some = !self.unwritten.is_empty() || !self.requests.is_empty();
        has_some && !self.is_writing
    }

    /// Up to `most` values to write; `None` while others are being written, or when there are none.
    pub(super) fn start_write(&mut self, most: usize) -> Option<Vec<ConnectionChange>> {
        if self.is_writing || self.unwritten.is_empty() {
            return None;
        }
        self.is_writing = true;
        let changes = self.unwritten.iter().take(most);
        Some(
            changes
                .map(|(identity, (generation, connection))| (identity.clone(), generation.clone(), connection.clone()))
                .collect(),
        )
    }

    /// The log has `written`; later changes stay.
    pub(super) fn end_write(&mut self, written: &[ConnectionChange]) {
        self.is_writing = false;
        for (identity, generation, connection) in written {
            if self.get(identity, generation).as_ref() == Some(connection) {
                self.unwritten.remove(identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use holdfast_model::DeviceId;

    use super::*;

    fn identity(number: usize) -> IdentityId {
        IdentityId::device(DeviceId::parse(&format!("d{number}")).unwrap())
    }

    fn at(time: u64) -> StoredConnection {
        StoredConnection {
            is_connected: true,
            changed: UnixMillis(time),
            last_activity: UnixMillis(time),
            origin: None,
            issuers: None,
        }
    }

    #[test]
    fn a_value_that_changes_while_it_is_written_is_written_again() {
        let generation = GenerationId(Arc::from("1"));
        let mut changes = ConnectionChanges::default();
        assert!(changes.start_write(9).is_none());
        changes.record(&identity(1), &generation, at(1));
        changes.record(&identity(2), &generation, at(1));
        let first = changes.start_write(9).unwrap();
        assert!(
            first.len() == 2 && changes.start_write(9).is_none(),
            "one write at a time"
        );
        changes.record(&identity(1), &generation, at(2));
        changes.end_write(&first);
        let (_, _, again) = changes.start_write(9).unwrap().remove(0);
        assert_eq!(again, at(2));
        assert_eq!(changes.get(&identity(2), &generation), None);
        assert_eq!(
            changes.get(&identity(1), &GenerationId(Arc::from("2"))),
            None,
            "another device"
        );
        changes.end_write(&[]);
        assert!(changes.start_write(9).is_some(), "a failed write is repeated");
    }

    #[test]
    fn a_request_without_a_session_moves_the_time_of_a_value_that_waits_or_waits_itself() {
        let generation = GenerationId(Arc::from("1"));
        let mut changes = ConnectionChanges::default();
        changes.record(&identity(1), &generation, at(1));
        changes.record_request(&identity(1), &generation, UnixMillis(5));
        changes.record_request(&identity(2), &generation, UnixMillis(6));
        let waiting = changes.get(&identity(1), &generation).unwrap();
        assert_eq!((waiting.changed, waiting.last_activity), (UnixMillis(1), UnixMillis(5)));
        assert_eq!(changes.take_requests(9), [(identity(2), generation, UnixMillis(6))]);
        assert!(changes.take_requests(9).is_empty());
    }

    #[test]
    fn the_number_of_waiting_changes_is_bounded() {
        let generation = GenerationId(Arc::from("1"));
        let mut changes = ConnectionChanges::default();
        for number in 0..=MAX_UNWRITTEN {
            changes.record(&identity(number), &generation, at(1));
        }
        assert_eq!(changes.unwritten.len(), MAX_UNWRITTEN);
        changes.record(&identity(0), &generation, at(2));
        assert_eq!(
            changes.get(&identity(0), &generation),
            Some(at(2)),
            "known ones are still updated"
        );
    }
}
