//! The deadlines of all connections of a core: a wheel of one-second slots.
//!
//! A timer per connection would cost more memory than the rest of an idle one. A connection is in one slot; when the slot
//! is due, the connection names its next deadline. Activity moves nothing. The wheel holds rows of the table, not
//! connections: a connection that has ended must not keep its socket until its slot is due.

/// Slots of the wheel; a deadline beyond it is checked once per turn.
const SLOTS: u64 = 512;

pub(super) struct TimerWheel<T> {
    slots: Vec<Vec<T>>,
    /// The second up to which the wheel has turned.
    now: u64,
}

impl<T> TimerWheel<T> {
    pub(super) fn new(now_seconds: u64) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            now: now_seconds,
        }
    }

    /// The second in which a deadline at `at_seconds` is checked: not before it, and at most two seconds after it, unless
    /// it is beyond the wheel.
    pub(super) fn second(&self, at_seconds: u64) -> u64 {
        at_seconds.clamp(self.now + 1, self.now + SLOTS - 1)
    }

    /// Adds `item` to a second that [`Self::second`] has returned.
    pub(super) fn insert(&mut self, item: T, second: u64) {
        self.slots[slot(second)].push(item);
    }

    /// Turns the wheel to `now_seconds` and moves all due items to `due`.
    pub(super) fn advance(&mut self, now_seconds: u64, due: &mut Vec<T>) {
        // After a long sleep of the machine each slot is emptied once.
        let from = self.now.max(now_seconds.saturating_sub(SLOTS)) + 1;
        for second in from..=now_seconds {
            let slot = &mut self.slots[slot(second)];
            due.append(slot);
            slot.shrink_to(64);
        }
        self.now = self.now.max(now_seconds);
    }
}

fn slot(second: u64) -> usize {
    // A remainder of SLOTS fits any usize.
    usize::try_from(second % SLOTS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut TimerWheel<u32>, now: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(now, &mut due);
        due
    }

    fn insert(wheel: &mut TimerWheel<u32>, item: u32, at: u64) {
        let second = wheel.second(at);
        wheel.insert(item, second);
    }

    #[test]
    fn an_item_is_due_in_its_second_and_never_before() {
        let mut wheel = TimerWheel::new(100);
        insert(&mut wheel, 1, 103);
        insert(&mut wheel, 2, 103 + SLOTS * 3);
        insert(&mut wheel, 3, 5);
        assert_eq!(due(&mut wheel, 101), [3]);
        assert!(due(&mut wheel, 102).is_empty());
        assert_eq!(due(&mut wheel, 103), [1]);
        assert_eq!(
            due(&mut wheel, 100 + SLOTS),
            [2],
            "an item beyond the wheel is due once per turn"
        );
    }

    #[test]
    fn nothing_is_forgotten_when_the_clock_leaps() {
        let mut wheel = TimerWheel::new(0);
        for at in 1..SLOTS {
            insert(&mut wheel, 1, at);
        }
        assert_eq!(due(&mut wheel, 1_000_000).len() as u64, SLOTS - 1);
    }
}
