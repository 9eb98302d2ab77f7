//! When to look at a connection again: a wheel of one-second slots.
//!
//! A timer per connection would cost more memory than the rest of an idle one. A connection stands in one slot; when
//! the slot comes, it says when it wants to be looked at next. Activity moves nothing, it is only noted. What stands
//! here are rows of the table, not the connections: one that has ended must not keep its socket until its slot comes.

/// Slots of the wheel; what lies further ahead is looked at once a turn.
const SLOTS: u64 = 512;

pub(super) struct Deadlines<T> {
    slots: Vec<Vec<T>>,
    /// The second up to which the wheel has turned.
    now: u64,
}

impl<T> Deadlines<T> {
    pub(super) fn new(now_seconds: u64) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            now: now_seconds,
        }
    }

    /// The second in which `item` would be looked at: not before `at`, and at most two seconds after it, unless that is
    /// further away than the wheel reaches.
    pub(super) fn second(&self, at_seconds: u64) -> u64 {
        at_seconds.clamp(self.now + 1, self.now + SLOTS - 1)
    }

    /// Puts `item` into a second that [`Self::second`] has given.
    pub(super) fn insert(&mut self, item: T, second: u64) {
        self.slots[slot(second)].push(item);
    }

    /// Turns the wheel to `now` and takes out all that is due.
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

    fn due(wheel: &mut Deadlines<u32>, now: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(now, &mut due);
        due
    }

    fn insert(wheel: &mut Deadlines<u32>, item: u32, at: u64) {
        let second = wheel.second(at);
        wheel.insert(item, second);
    }

    #[test]
    fn an_item_comes_up_in_its_second_and_never_before() {
        let mut wheel = Deadlines::new(100);
        insert(&mut wheel, 1, 103);
        insert(&mut wheel, 2, 103 + SLOTS * 3);
        insert(&mut wheel, 3, 5);
        assert_eq!(due(&mut wheel, 101), [3]);
        assert!(due(&mut wheel, 102).is_empty());
        assert_eq!(due(&mut wheel, 103), [1]);
        assert_eq!(
            due(&mut wheel, 100 + SLOTS),
            [2],
            "what lies too far ahead is looked at once a turn"
        );
    }

    #[test]
    fn nothing_is_forgotten_when_the_clock_leaps() {
        let mut wheel = Deadlines::new(0);
        for at in 1..SLOTS {
            insert(&mut wheel, 1, at);
        }
        assert_eq!(due(&mut wheel, 1_000_000).len() as u64, SLOTS - 1);
    }
}
