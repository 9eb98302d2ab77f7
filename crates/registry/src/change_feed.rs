//! The change feed: changes that the rest of the node reacts to, in the order in which they were applied.
//!
//! Why: a disabled device's sessions close within a second, and settings such as consumer groups are seen at once,
//! without anyone polling.
//! Invariants: bounded; a subscriber that falls behind must resynchronise with the registry, and loses nothing by that,
//! since the feed carries no state of its own.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::state::Change;

/// An event of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryEvent {
    /// One identity changed at log index `index`. A device's change of status concerns its modules too.
    Identity {
        /// The change.
        change: Change,
        /// The log index of the command.
        index: u64,
    },
    /// The hub's settings changed: policies, consumer groups, retention, name.
    Settings,
    /// Members or placements changed: see [`Registry::cluster`](crate::Registry::cluster).
    Cluster,
    /// CAs changed: see [`Registry::authorities`](crate::Registry::authorities).
    Authorities,
    /// Revoked certificates changed: see [`Authorities::revocations`](crate::Authorities::revocations).
    Revocations,
    /// The hub has a provisioning service: see [`Registry::provisioning`](crate::Registry::provisioning).
    Provisioning,
    /// Changes were missed: the subscriber must read every identity, setting and member that it uses again.
    Resync,
}

/// The sending side.
#[derive(Debug, Clone)]
pub(crate) struct Feed(broadcast::Sender<RegistryEvent>);

impl Feed {
    pub(crate) fn new(capacity: usize) -> Self {
        Self(broadcast::Sender::new(capacity))
    }

    pub(crate) fn send(&self, event: RegistryEvent) {
        // Having no subscriber is no error.
        let _ = self.0.send(event);
    }

    pub(crate) fn subscribe(&self) -> Changes {
        Changes(self.0.subscribe())
    }
}

/// One subscriber's position in the feed; starts with changes applied after its creation.
#[derive(Debug)]
pub struct Changes(broadcast::Receiver<RegistryEvent>);

impl Changes {
    /// The next event; `None` once the registry has stopped. Cancel-safe.
    pub async fn next(&mut self) -> Option<RegistryEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(_)) => Some(RegistryEvent::Resync),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<RegistryEvent> {
        match self.0.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Lagged(_)) => Some(RegistryEvent::Resync),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_that_falls_behind_must_resync() {
        let feed = Feed::new(16);
        let mut changes = feed.subscribe();
        assert_eq!(changes.try_next(), None);
        feed.send(RegistryEvent::Settings);
        assert_eq!(changes.try_next(), Some(RegistryEvent::Settings));
        for _ in 0..17 {
            feed.send(RegistryEvent::Settings);
        }
        assert_eq!(changes.try_next(), Some(RegistryEvent::Resync));
        assert_eq!(changes.try_next(), Some(RegistryEvent::Settings));
    }
}
