//! At the owner of a partition: who reads in which consumer group, on all nodes.
//!
//! The rule itself is `holdfast_partition::epoch`; this knows whose seat each is, and who must be told. Invariants: a desk
//! is of one term, and begins empty: the readers' nodes enter their seats again when the owner changes. A seat of
//! another node lasts while that node renews it. In memory only, bounded by [`MAX_SEATS`].

use std::collections::HashMap;

use holdfast_partition::epoch::{Granted, Receiver, ReceiverId, Refusal, Since, Table};
use holdfast_tasks::sync::Mutex;
use tokio::time::Instant;

/// Seats of one partition, in all groups.
pub(super) const MAX_SEATS: usize = 4096;

/// A seat as its node asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The node's own number for it.
    pub(super) key: u64,
    pub(super) group: String,
    pub(super) receiver: Receiver,
    /// An earlier owner has let it in.
    pub(super) since: Option<Since>,
}

/// A seat has been taken over: its node is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) node: u64,
    pub(super) key: u64,
    pub(super) by: Receiver,
}

/// Another node leads, or this one leads again: whoever asks looks for the owner anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TermOver;

/// See the module.
pub(super) struct Desk {
    here: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    term: u64,
    table: Table,
    seats: HashMap<ReceiverId, Seat>,
    by_key: HashMap<(u64, u64), ReceiverId>,
}

struct Seat {
    node: u64,
    key: u64,
    since: Since,
    renewed: Instant,
}

impl Desk {
    /// The desk of the node `here`.
    pub(super) fn of(here: u64) -> Self {
        Self {
            here,
            state: Mutex::default(),
        }
    }

    /// Lets a receiver in, or not; who has to go is added to `notices`. Asking twice is asking once.
    pub(super) fn enter(
        &self,
        term: u64,
        node: u64,
        wanted: &Wanted,
        notices: &mut Vec<Notice>,
    ) -> Result<Result<Since, Refusal>, TermOver> {
        let mut state = self.state.lock();
        state.begin(term, self.here)?;
        let now = Instant::now();
        if let Some(id) = state.by_key.get(&(node, wanted.key)).copied()
            && let Some(seat) = state.seats.get_mut(&id)
        {
            seat.renewed = now;
            return Ok(Ok(seat.since));
        }
        if state.seats.len() >= MAX_SEATS {
            return Ok(Err(Refusal::TooMany));
        }
        let receiver = wanted.receiver.clone();
        let granted = match wanted.since {
            None => state.table.register(&wanted.group, receiver),
            Some(since) => state.table.returning(&wanted.group, receiver, since),
        };
        let Granted { id, since, stolen } = match granted {
            Ok(granted) => granted,
            Err(refusal) => return Ok(Err(refusal)),
        };
        for (old, stolen) in stolen {
            if let Some(seat) = state.seats.remove(&old) {
                state.by_key.remove(&(seat.node, seat.key));
                notices.push(Notice {
                    node: seat.node,
                    key: seat.key,
                    by: stolen.by,
                });
            }
        }
        state.by_key.insert((node, wanted.key), id);
        let seat = Seat {
            node,
            key: wanted.key,
            since,
            renewed: now,
        };
        state.seats.insert(id, seat);
        Ok(Ok(since))
    }

    /// Those of the keys that are not here.
    pub(super) fn renew(&self, term: u64, node: u64, keys: &[u64]) -> Result<Vec<u64>, TermOver> {
        let mut state = self.state.lock();
        state.begin(term, self.here)?;
        let now = Instant::now();
        let mut unknown = Vec::new();
        for key in keys {
            let id = state.by_key.get(&(node, *key)).copied();
            match id.and_then(|id| state.seats.get_mut(&id)) {
                Some(seat) => seat.renewed = now,
                None => unknown.push(*key),
            }
        }
        Ok(unknown)
    }

    pub(super) fn leave(&self, node: u64, key: u64) {
        let mut state = self.state.lock();
        if let Some(id) = state.by_key.remove(&(node, key)) {
            state.seats.remove(&id);
            state.table.unregister(id);
        }
    }

    /// Forgets seats of other nodes that have not been renewed since `before`; how many they were.
    pub(super) fn expire(&self, before: Instant) -> usize {
        let mut state = self.state.lock();
        let over = |seat: &Seat| seat.node != self.here && seat.renewed < before;
        let ids: Vec<_> = state
            .seats
            .iter()
            .filter(|(_, seat)| over(seat))
            .map(|(id, _)| *id)
            .collect();
        for id in &ids {
            if let Some(seat) = state.seats.remove(id) {
                state.by_key.remove(&(seat.node, seat.key));
            }
            state.table.unregister(*id);
        }
        ids.len()
    }

    /// This node is not the owner any more. Should it act again in the same term, it goes on counting: who comes then is
    /// later than who was let in before.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.table.clear();
        state.seats.clear();
        state.by_key.clear();
    }
}

impl State {
    fn new(term: u64, here: u64) -> Self {
        Self {
            term,
            table: Table::of(term, here),
            ..Self::default()
        }
    }

    /// A node leads once in a term: whoever has taken over from it in the same term has the greater id.
    fn begin(&mut self, term: u64, here: u64) -> Result<(), TermOver> {
        if term > self.term {
            *self = Self::new(term, here);
        }
        (term == self.term).then_some(()).ok_or(TermOver)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn wanted(key: u64, epoch: impl Into<Option<i64>>, since: Option<Since>) -> Wanted {
        Wanted {
            key,
            group: "g".to_owned(),
            receiver: Receiver {
                name: format!("r{key}"),
                epoch: epoch.into(),
            },
            since,
        }
    }

    fn enter(desk: &Desk, term: u64, node: u64, wanted: &Wanted) -> (Result<Since, Refusal>, Vec<(u64, u64)>) {
        let mut notices = Vec::new();
        let entered = desk.enter(term, node, wanted, &mut notices).unwrap();
        (
            entered,
            notices.iter().map(|notice| (notice.node, notice.key)).collect(),
        )
    }

    #[tokio::test]
    async fn the_later_of_two_equals_has_the_place_whoever_returns_first() {
        let old = Desk::of(1);
        let first = enter(&old, 3, 1, &wanted(1, 0, None)).0.unwrap();
        let (second, told) = enter(&old, 3, 2, &wanted(7, 0, None));
        let second = second.unwrap();
        assert_eq!(told, [(1, 1)]);
        for later_first in [true, false] {
            let new = Desk::of(1);
            let (early, late) = (wanted(1, 0, Some(first)), wanted(7, 0, Some(second)));
            if later_first {
                assert_eq!(enter(&new, 4, 2, &late), (Ok(second), Vec::new()));
                assert!(enter(&new, 4, 1, &early).0.is_err());
            } else {
                assert_eq!(enter(&new, 4, 1, &early), (Ok(first), Vec::new()));
                assert_eq!(enter(&new, 4, 2, &late), (Ok(second), vec![(1, 1)]));
            }
        }
    }

    #[tokio::test]
    async fn who_came_after_the_change_is_newer_than_who_returns() {
        let new = Desk::of(1);
        let fresh = enter(&new, 4, 3, &wanted(9, 0, None)).0.unwrap();
        let since = Since {
            term: 3,
            node: 9,
            count: 999,
        };
        assert!(fresh > since);
        assert!(enter(&new, 4, 1, &wanted(1, 0, Some(since))).0.is_err());
        assert_eq!(
            enter(&new, 4, 1, &wanted(2, 5, Some(since))),
            (Ok(since), vec![(3, 9)]),
            "a higher epoch goes first all the same"
        );
    }

    #[tokio::test]
    async fn an_owner_that_acts_again_in_its_term_goes_on_counting() {
        let desk = Desk::of(1);
        let before = enter(&desk, 3, 2, &wanted(1, 0, None)).0.unwrap();
        desk.close();
        let after = enter(&desk, 3, 2, &wanted(2, 0, None)).0.unwrap();
        assert!(after > before);
        assert!(enter(&desk, 3, 2, &wanted(1, 0, Some(before))).0.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn seats_of_a_silent_node_end_and_those_of_this_one_do_not() {
        let desk = Desk::of(1);
        for (node, key) in [(1, 1), (2, 1), (3, 1)] {
            enter(&desk, 1, node, &wanted(key, None, None)).0.unwrap();
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(desk.renew(1, 3, &[1, 2]), Ok(vec![2]));
        assert_eq!(desk.expire(Instant::now() - Duration::from_secs(1)), 1);
        assert_eq!(desk.renew(1, 2, &[1]), Ok(vec![1]), "it must enter again");
        assert_eq!(desk.renew(1, 1, &[1]), Ok(Vec::new()));
    }

    #[tokio::test]
    async fn asking_twice_is_asking_once_and_a_term_that_is_over_decides_nothing() {
        let desk = Desk::of(1);
        let first = enter(&desk, 2, 1, &wanted(1, 3, None));
        assert_eq!(enter(&desk, 2, 1, &wanted(1, 3, None)), first);
        assert!(desk.enter(1, 1, &wanted(2, 9, None), &mut Vec::new()).is_err());
        assert_eq!(desk.renew(5, 1, &[1]), Ok(vec![1]), "a new term begins empty");
        desk.leave(1, 1);
        assert_eq!(enter(&desk, 5, 1, &wanted(4, None, None)).1, []);
    }
}
