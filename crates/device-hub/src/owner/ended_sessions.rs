//! Tombstones of sessions that ended while a gateway was absent.
//!
//! A gateway that was cut off or stopped comes back with the sessions that it had. As long as the newer session of an
//! identity lives, its row shows that the older one was superseded. When the newer one has ended too, only the tombstone
//! shows that messages of the older one must not be stored any more.

use std::collections::HashMap;

use holdfast_model::IdentityId;

use crate::session_types::SessionNumber;

/// Tombstones of a partition. Beyond it every session counts as ended that began before the newest one that has ended.
const MAX_ENDED: usize = 16_384;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EndedSessions {
    newest: HashMap<IdentityId, SessionNumber>,
    /// Set when there were too many tombstones: every older session counts as ended.
    floor: Option<SessionNumber>,
}

impl EndedSessions {
    /// The identity's session `number` has ended.
    pub(super) fn record(&mut self, identity: &IdentityId, number: SessionNumber) {
        if let Some(floor) = &mut self.floor {
            *floor = (*floor).max(number);
            return;
        }
        if let Some(newest) = self.newest.get_mut(identity) {
            *newest = (*newest).max(number);
            return;
        }
        self.newest.insert(identity.clone(), number);
        if self.newest.len() > MAX_ENDED {
            self.floor = self.newest.values().copied().max();
            self.newest = HashMap::new();
            tracing::info!(
                limit = MAX_ENDED,
                "too many sessions ended while a node was absent; all its sessions will end when it comes back"
            );
        }
    }

    /// Whether a session of the identity has ended that is newer than `number`.
    pub(super) fn has_newer(&self, identity: &IdentityId, number: SessionNumber) -> bool {
        let ended = self.newest.get(identity).copied().max(self.floor);
        ended.is_some_and(|ended| number < ended)
    }

    /// Every gateway is linked: no unknown session can come back.
    pub(super) fn clear(&mut self) {
        if self.floor.is_some() || !self.newest.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;

    use holdfast_model::{NodeId, Term};

    use super::*;

    fn identity(number: usize) -> IdentityId {
        IdentityId::device(DeviceId::parse(&format!("d{number}")).unwrap())
    }

    fn number(term: Term, counter: u64) -> SessionNumber {
        SessionNumber {
            term,
            node: NodeId(1),
            counter,
        }
    }

    #[test]
    fn only_sessions_older_than_an_ended_one_have_ended() {
        let mut ended = EndedSessions::default();
        ended.record(&identity(1), number(Term(2), 7));
        ended.record(&identity(1), number(Term(2), 5));
        assert!(
            ended.has_newer(&identity(1), number(Term(2), 6)) && ended.has_newer(&identity(1), number(Term(1), 900))
        );
        assert!(
            !ended.has_newer(&identity(1), number(Term(2), 7)),
            "the newest one may still have messages"
        );
        assert!(!ended.has_newer(&identity(2), number(Term(1), 1)));
        ended.clear();
        assert!(!ended.has_newer(&identity(1), number(Term(1), 1)));
    }

    #[test]
    fn beyond_the_limit_all_older_sessions_have_ended() {
        let mut ended = EndedSessions::default();
        for one in 0..=MAX_ENDED {
            ended.record(&identity(one), number(Term(2), one as u64));
        }
        assert!(ended.newest.is_empty());
        assert!(ended.has_newer(&identity(MAX_ENDED + 9), number(Term(2), 3)));
        let later = number(Term(2), MAX_ENDED as u64 + 5);
        assert!(!ended.has_newer(&identity(1), later));
        ended.record(&identity(1), number(Term(3), 1));
        assert!(ended.has_newer(&identity(1), later) && ended.newest.is_empty());
    }
}
