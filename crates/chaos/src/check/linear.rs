//! Checks a history for linearizability: Wing and Gong's search with Lowe's cache of configurations, as in porcupine.
//!
//! A history is linearizable when its operations have an order that respects real time (an operation answered before
//! another one began comes before it) and in which every answer is the one that the model gives. The search walks over
//! configurations (the operations ordered so far, and the model's state) and never visits one twice. Operations without
//! an answer may take effect at any time after they began, or never.
//! It is exponential in the number of concurrent operations, so histories are kept per key, and the search has a budget.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

use crate::history::Micros;

/// The sequential model that operations follow.
pub trait Model {
    /// The state of one key.
    type State: Clone + Eq + Hash + Debug;
    /// An operation's call.
    type Call: Debug;
    /// An operation's answer.
    type Answer: Debug;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The states that may follow when `call` gets this answer in `state`; none when it cannot. For `None` (the answer is
    /// unknown) the states that any answer may lead to.
    fn step(&self, state: &Self::State, call: &Self::Call, answer: Option<&Self::Answer>) -> Vec<Self::State>;
}

/// One operation of a history.
#[derive(Debug, Clone)]
pub struct Event<C, A> {
    /// The call.
    pub call: C,
    /// When it began.
    pub asked: Micros,
    /// The answer and when it arrived; `None` = unknown.
    pub answer: Option<(Micros, A)>,
}

/// The result of the search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// There is a valid order.
    Linearizable,
    /// There is none; the fields describe the longest attempt.
    Illegal {
        /// How many answered operations it could order.
        ordered: usize,
        /// The state it reached, and the operations that could not follow.
        stuck: String,
        /// The latest answer among those, for the report.
        at: Micros,
    },
    /// The budget was used up.
    Undecided,
}

/// The operations ordered so far: one bit each.
type Done = Box<[u64]>;

fn has(done: &Done, index: usize) -> bool {
    done[index / 64] >> (index % 64) & 1 == 1
}

fn with(done: &Done, index: usize) -> Done {
    let mut next = done.clone();
    next[index / 64] |= 1 << (index % 64);
    next
}

/// Searches an order of `events`, visiting at most `budget` configurations.
pub fn check<M: Model>(model: &M, events: &[Event<M::Call, M::Answer>], budget: usize) -> Outcome {
    let mut order: Vec<&Event<M::Call, M::Answer>> = events.iter().collect();
    order.sort_by_key(|event| event.asked);
    let answered = order.iter().filter(|event| event.answer.is_some()).count();
    let start: Done = vec![0; order.len().div_ceil(64)].into();
    let mut seen: HashSet<(Done, M::State)> = HashSet::new();
    let mut stack = vec![(start, model.initial(), 0_usize)];
    let mut best: Option<(usize, Done, M::State)> = None;
    while let Some((done, state, ordered)) = stack.pop() {
        if ordered == answered {
            return Outcome::Linearizable;
        }
        if seen.len() >= budget {
            return Outcome::Undecided;
        }
        if !seen.insert((done.clone(), state.clone())) {
            continue;
        }
        if best.as_ref().is_none_or(|(most, ..)| ordered > *most) {
            best = Some((ordered, done.clone(), state.clone()));
        }
        let candidates = candidates::<M>(&order, &done);
        // The stack pops the last entry first: unknown outcomes are tried only when nothing else fits.
        let (known, unknown): (Vec<usize>, Vec<usize>) =
            candidates.into_iter().partition(|index| order[*index].answer.is_some());
        for index in unknown.into_iter().chain(known.into_iter().rev()) {
            let event = order[index];
            let answer = event.answer.as_ref().map(|(_, answer)| answer);
            let ordered = ordered + usize::from(answer.is_some());
            for next in model.step(&state, &event.call, answer) {
                // An unknown outcome that changes nothing is the same as one that never happens.
                if answer.is_none() && next == state {
                    continue;
                }
                stack.push((with(&done, index), next, ordered));
            }
        }
    }
    match best {
        Some((ordered, done, state)) => illegal::<M>(&order, &done, &state, ordered),
        None => Outcome::Linearizable,
    }
}

/// The candidates for the next place: operations not ordered yet that began before the first answer among those.
fn candidates<M: Model>(order: &[&Event<M::Call, M::Answer>], done: &Done) -> Vec<usize> {
    let open = || (0..order.len()).filter(|index| !has(done, *index));
    let first_answer = open()
        .filter_map(|index| order[index].answer.as_ref().map(|(at, _)| *at))
        .min()
        .unwrap_or(Micros::MAX);
    open().filter(|index| order[*index].asked <= first_answer).collect()
}

fn illegal<M: Model>(order: &[&Event<M::Call, M::Answer>], done: &Done, state: &M::State, ordered: usize) -> Outcome {
    let stuck: Vec<&Event<M::Call, M::Answer>> = candidates::<M>(order, done)
        .into_iter()
        .map(|index| order[index])
        .collect();
    let at = stuck
        .iter()
        .filter_map(|event| event.answer.as_ref().map(|(at, _)| *at))
        .max();
    let list: Vec<String> = stuck
        .iter()
        .map(|event| match &event.answer {
            Some((at, answer)) => format!("{:?} asked {} answered {at}: {answer:?}", event.call, event.asked),
            None => format!("{:?} asked {} never answered", event.call, event.asked),
        })
        .collect();
    Outcome::Illegal {
        ordered,
        stuck: format!(
            "after {ordered} operations the state is {state:?}, and none of these can follow: {}",
            list.join("; ")
        ),
        at: at.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register: `Some` writes, `None` reads.
    struct Register;

    impl Model for Register {
        type State = u64;
        type Call = Option<u64>;
        type Answer = u64;

        fn initial(&self) -> u64 {
            0
        }

        fn step(&self, state: &u64, call: &Option<u64>, answer: Option<&u64>) -> Vec<u64> {
            match (call, answer) {
                (Some(written), _) => vec![*written],
                (None, Some(read)) if read == state => vec![*state],
                (None, Some(_)) => vec![],
                (None, None) => vec![*state],
            }
        }
    }

    fn write(value: u64, asked: Micros, answered: Option<Micros>) -> Event<Option<u64>, u64> {
        Event {
            call: Some(value),
            asked,
            answer: answered.map(|at| (at, 0)),
        }
    }

    fn read(value: u64, asked: Micros, answered: Micros) -> Event<Option<u64>, u64> {
        Event {
            call: None,
            asked,
            answer: Some((answered, value)),
        }
    }

    fn judge(events: &[Event<Option<u64>, u64>]) -> Outcome {
        check(&Register, events, 100_000)
    }

    #[test]
    fn reads_that_overlap_a_write_may_see_either_side_in_one_order() {
        assert_eq!(
            judge(&[write(1, 0, Some(10)), read(0, 1, 5), read(1, 6, 9)]),
            Outcome::Linearizable
        );
        assert!(matches!(
            judge(&[write(1, 0, Some(10)), read(1, 1, 5), read(0, 6, 9)]),
            Outcome::Illegal { .. }
        ));
    }

    #[test]
    fn a_stale_read_after_an_answered_write_is_found_and_reported() {
        let Outcome::Illegal { ordered, stuck, at } = judge(&[write(1, 0, Some(10)), read(0, 11, 12)]) else {
            panic!("not found");
        };
        assert_eq!((ordered, at), (1, 12));
        assert!(stuck.contains("the state is 1"), "{stuck}");
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never_but_not_be_undone() {
        assert_eq!(
            judge(&[write(1, 0, None), read(0, 5, 6), read(1, 7, 8)]),
            Outcome::Linearizable
        );
        assert_eq!(judge(&[write(1, 0, None), read(0, 5, 6)]), Outcome::Linearizable);
        let undone = [write(1, 0, None), read(1, 5, 6), read(0, 7, 8)];
        assert!(matches!(judge(&undone), Outcome::Illegal { .. }));
        let before_asked = [read(1, 1, 2), write(1, 3, None)];
        assert!(matches!(judge(&before_asked), Outcome::Illegal { .. }));
    }

    #[test]
    fn a_lost_acknowledged_write_among_many_is_found() {
        let mut events: Vec<_> = (1..100).map(|n| write(n, n * 10, Some(n * 10 + 15))).collect();
        events.push(read(99, 2000, 2001));
        assert_eq!(judge(&events), Outcome::Linearizable);
        events.push(read(97, 2002, 2003));
        assert!(matches!(judge(&events), Outcome::Illegal { .. }));
    }

    #[test]
    fn a_search_that_is_too_long_says_so() {
        let mut events: Vec<_> = (1..20).map(|n| write(n, 0, Some(100))).collect();
        events.push(read(77, 200, 201));
        assert_eq!(check(&Register, &events, 1_000), Outcome::Undecided);
    }

    proptest::proptest! {
        /// Whatever a real register answers to concurrent clients is linearizable.
        #[test]
        fn histories_of_a_real_register_pass(plan in proptest::collection::vec((0..3_u64, 1..20_u64, 1..20_u64, 0..5_u8), 1..40)) {
            let mut value = 0;
            let mut at = 0;
            let mut events = Vec::new();
            for (index, (kind, before, after, lost)) in plan.into_iter().enumerate() {
                at += 10;
                let (asked, answered) = (at - before.min(at), at + after);
                let number = index as u64 + 1;
                match (kind, lost) {
                    (0, 0) => { value = number; events.push(write(number, asked, None)); }
                    (0, 1) => events.push(write(number, asked, None)),
                    (0, _) => { value = number; events.push(write(number, asked, Some(answered))); }
                    _ => events.push(read(value, asked, answered)),
                }
            }
            proptest::prop_assert_eq!(judge(&events), Outcome::Linearizable);
        }
    }
}
