//! What an owner remembers of sessions that have ended while a gateway was away.
//!
//! A gateway that was cut off or stopped comes back with the sessions that it had. Which of them a newer one has taken over
//! since is told by the newer one's row, as long as that lives. When it has ended too, revoked or by itself, nothing but
//! this says that what the older one had under way must not be stored any more.

use std::collections::HashMap;

use holdfast_model::IdentityId;

use crate::sessions::SessionNumber;

/// Identities of a partition that are remembered. Beyond it everything is taken for ended that began before the newest
/// session that has.
const MAX_ENDED: usize = 16_384;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ended {
    newest: HashMap<IdentityId, SessionNumber>,
    /// Set when there were too many: whatever is older has ended, as far as one can tell.
    floor: Option<SessionNumber>,
}

impl Ended {
    /// The identity's session `number` has ended.
    pub(super) fn note(&mut self, identity: &IdentityId, number: SessionNumber) {
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
            tracing::info!("a node has been away for long: its sessions will end when it comes back");
        }
    }

    /// Whether a newer session of the identity than `number` has ended.
    pub(super) fn is_over(&self, identity: &IdentityId, number: SessionNumber) -> bool {
        let ended = self.newest.get(identity).copied().max(self.floor);
        ended.is_some_and(|ended| number < ended)
    }

    /// Nobody can come back any more with a session that is not known.
    pub(super) fn forget(&mut self) {
        if self.floor.is_some() || !self.newest.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;

    use super::*;

    fn identity(number: usize) -> IdentityId {
        IdentityId::device(DeviceId::parse(&format!("d{number}")).unwrap())
    }

    fn number(term: u64, counter: u64) -> SessionNumber {
        SessionNumber { term, node: 1, counter }
    }

    #[test]
    fn only_what_is_older_than_what_has_ended_is_over() {
        let mut ended = Ended::default();
        ended.note(&identity(1), number(2, 7));
        ended.note(&identity(1), number(2, 5));
        assert!(ended.is_over(&identity(1), number(2, 6)) && ended.is_over(&identity(1), number(1, 900)));
        assert!(
            !ended.is_over(&identity(1), number(2, 7)),
            "it is the newest, and may still have messages"
        );
        assert!(!ended.is_over(&identity(2), number(1, 1)));
        ended.forget();
        assert!(!ended.is_over(&identity(1), number(1, 1)));
    }

    #[test]
    fn too_many_to_remember_are_over_together() {
        let mut ended = Ended::default();
        for one in 0..=MAX_ENDED {
            ended.note(&identity(one), number(2, one as u64));
        }
        assert!(ended.newest.is_empty());
        assert!(ended.is_over(&identity(MAX_ENDED + 9), number(2, 3)));
        let later = number(2, MAX_ENDED as u64 + 5);
        assert!(!ended.is_over(&identity(1), later));
        ended.note(&identity(1), number(3, 1));
        assert!(ended.is_over(&identity(1), later) && ended.newest.is_empty());
    }
}
