//! When the next slot or notification of each device expires, as the owner of the partition remembers it.
//!
//! Why: a device that begins uploads and is never heard of again would be counted at its next request alone.
//! Invariants: one time per device, so that memory follows the devices with something open; of two notes of a device the later
//! decision counts. Pure: the clock is an argument.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_model::{GenerationId, IdentityId, UnixMillis};

use crate::c2d::index::is_earlier;

#[derive(Debug)]
struct Due {
    generation: GenerationId,
    /// 0: as read from the log.
    decision: u64,
    at: UnixMillis,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct UploadsDue {
    by_time: BTreeSet<(UnixMillis, IdentityId)>,
    devices: BTreeMap<IdentityId, Due>,
}

impl UploadsDue {
    /// After a decision something of the device expires at `next`, or nothing. Returns whether the earliest time may have changed.
    pub(crate) fn note(
        &mut self,
        identity: &IdentityId,
        generation: &GenerationId,
        decision: u64,
        next: Option<UnixMillis>,
    ) -> bool {
        if let Some(known) = self.devices.get(identity) {
            let is_older = known.generation == *generation && known.decision > decision;
            if is_older || is_earlier(generation, &known.generation) {
                return false;
            }
            self.by_time.remove(&(known.at, identity.clone()));
            self.devices.remove(identity);
        }
        if let Some(at) = next {
            self.by_time.insert((at, identity.clone()));
            let due = Due {
                generation: generation.clone(),
                decision,
                at,
            };
            self.devices.insert(identity.clone(), due);
        }
        true
    }

    /// The generation is dead: its values are removed.
    pub(crate) fn forget(&mut self, identity: &IdentityId, generation: &GenerationId) {
        if self
            .devices
            .get(identity)
            .is_some_and(|known| known.generation == *generation)
            && let Some(known) = self.devices.remove(identity)
        {
            self.by_time.remove(&(known.at, identity.clone()));
        }
    }

    /// Everything that is remembered, with its generation.
    pub(crate) fn generations(&self) -> impl Iterator<Item = (IdentityId, GenerationId)> {
        let devices = self.devices.iter();
        devices.map(|(identity, due)| (identity.clone(), due.generation.clone()))
    }

    /// When something expires next.
    pub(crate) fn next(&self) -> Option<UnixMillis> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the devices of which something has expired by `now`.
    pub(crate) fn take(&mut self, now: UnixMillis, most: usize) -> Vec<(IdentityId, GenerationId)> {
        let mut taken = Vec::new();
        while taken.len() < most
            && self.next().is_some_and(|at| at <= now)
            && let Some((_, identity)) = self.by_time.pop_first()
        {
            if let Some(due) = self.devices.remove(&identity) {
                taken.push((identity, due.generation));
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;

    use super::*;

    #[test]
    fn the_latest_decision_of_a_device_counts_and_each_time_is_taken_once() {
        let device = |name| IdentityId::device(DeviceId::parse(name).unwrap());
        let (a, b, first) = (device("a"), device("b"), GenerationId("5".into()));
        let mut due = UploadsDue::default();
        assert!(due.note(&a, &first, 2, Some(UnixMillis(20))));
        assert!(!due.note(&a, &first, 1, Some(UnixMillis(10))), "an older decision");
        assert!(due.note(&b, &first, 0, Some(UnixMillis(30))));
        assert_eq!(due.next(), Some(UnixMillis(20)));
        assert_eq!(due.take(UnixMillis(19), 9), []);
        assert_eq!(due.take(UnixMillis(40), 1), [(a.clone(), first.clone())]);
        assert_eq!(due.take(UnixMillis(40), 1), [(b.clone(), first.clone())]);
        assert_eq!((due.next(), due.devices.len()), (None, 0));
        let second = GenerationId("6".into());
        due.note(&a, &second, 3, Some(UnixMillis(50)));
        assert!(
            !due.note(&a, &first, 9, Some(UnixMillis(1))),
            "of an earlier generation"
        );
        due.forget(&a, &first);
        assert_eq!(due.generations().count(), 1);
        due.forget(&a, &second);
        assert_eq!((due.next(), due.generations().count()), (None, 0));
        due.note(&b, &first, 10, Some(UnixMillis(7)));
        due.note(&b, &first, 11, None);
        assert_eq!(due.next(), None);
    }
}
