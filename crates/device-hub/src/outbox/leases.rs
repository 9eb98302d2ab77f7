//! What an owner remembers of the records of one partition: which devices have some, and which record a back end has.
//!
//! Invariants: only devices with records have an entry; a lease ends by itself, so that a lost answer delays a record and loses none.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_model::{GenerationId, IdentityId};
use tokio::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// With the number of the decision after which there were some; 0: as read from the log.
    devices: BTreeMap<IdentityId, (GenerationId, u64)>,
    /// A record that a back end has: no other one gets it until then.
    given: BTreeMap<(IdentityId, u64), Instant>,
}

impl Leases {
    /// The device has records that wait, after a decision.
    pub(crate) fn note(&mut self, identity: &IdentityId, generation: &GenerationId, decision: u64) {
        self.devices.insert(identity.clone(), (generation.clone(), decision));
    }

    /// The same, as read from the log.
    pub(crate) fn note_stored(&mut self, identity: &IdentityId, generation: &GenerationId) {
        let noted = || (generation.clone(), 0);
        self.devices.entry(identity.clone()).or_insert_with(noted);
    }

    /// There are none after this decision.
    pub(crate) fn forget_after(&mut self, identity: &IdentityId, decision: u64) {
        if self.devices.get(identity).is_some_and(|(_, noted)| *noted < decision) {
            self.devices.remove(identity);
        }
    }

    /// The generation is dead: its values are removed.
    pub(crate) fn forget(&mut self, identity: &IdentityId, generation: &GenerationId) {
        if self.devices.get(identity).is_some_and(|(known, _)| known == generation) {
            self.devices.remove(identity);
        }
    }

    /// Devices with records.
    pub(crate) fn devices(&self) -> Vec<(IdentityId, GenerationId)> {
        let devices = self.devices.iter();
        devices
            .map(|(identity, (generation, _))| (identity.clone(), generation.clone()))
            .collect()
    }

    /// Gives a record to a back end for `lock`; `false`: another one has it.
    pub(crate) fn lease(&mut self, identity: &IdentityId, number: u64, lock: Duration) -> bool {
        let now = Instant::now();
        let key = (identity.clone(), number);
        if self.given.get(&key).is_some_and(|until| *until > now) {
            return false;
        }
        self.given.insert(key, now + lock);
        true
    }

    /// A back end has accepted records, or given them back.
    pub(crate) fn release(&mut self, identity: &IdentityId, numbers: &[u64]) {
        for number in numbers {
            self.given.remove(&(identity.clone(), *number));
        }
    }

    /// When the next record can be given to a back end again.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.given.values().min().copied()
    }

    /// Forgets leases that are over, so that their number follows what back ends have.
    pub(crate) fn drop_ended(&mut self) {
        let now = Instant::now();
        self.given.retain(|_, until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;
    use holdfast_model::limits::FEEDBACK_LOCK;

    use super::*;

    fn device() -> (IdentityId, GenerationId) {
        (
            IdentityId::device(DeviceId::parse("a").unwrap()),
            GenerationId("5".into()),
        )
    }

    #[test]
    fn records_that_came_after_a_decision_are_not_forgotten_with_it() {
        let (mut leases, (a, g)) = (Leases::default(), device());
        leases.note_stored(&a, &g);
        leases.note(&a, &g, 7);
        leases.note_stored(&a, &g);
        leases.forget_after(&a, 6);
        assert_eq!(leases.devices(), [(a.clone(), g.clone())]);
        leases.forget_after(&a, 8);
        assert_eq!(leases.devices(), []);
        leases.note(&a, &g, 9);
        leases.forget(&a, &GenerationId("4".into()));
        assert_eq!(leases.devices().len(), 1, "another generation");
        leases.forget(&a, &g);
        assert_eq!(leases.devices(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_goes_to_one_back_end_at_a_time() {
        let (mut leases, (a, _)) = (Leases::default(), device());
        let mut lease = |number| leases.lease(&a, number, FEEDBACK_LOCK);
        assert!(lease(1) && !lease(1) && lease(2));
        leases.release(&a, &[1]);
        assert!(leases.lease(&a, 1, FEEDBACK_LOCK));
        tokio::time::advance(FEEDBACK_LOCK).await;
        leases.drop_ended();
        assert_eq!(leases.next_end(), None);
        assert!(leases.lease(&a, 2, FEEDBACK_LOCK), "it was kept for too long");
    }
}
