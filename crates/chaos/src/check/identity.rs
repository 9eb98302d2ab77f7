//! The registry's guarantee: calls about one identity are linearizable, ETags included.
//!
//! The model is a register with compare-and-set. Every write carries a unique tag, so a read identifies the write that it
//! saw. A write with an unknown answer leaves an unknown ETag; the next answer with an ETag determines it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Findings;
use super::linear::{self, Event, Model, Outcome};
use crate::history::{Answer, Call, Operation};

/// The most configurations that the search visits for one identity.
const BUDGET: usize = 400_000;

/// The state of an identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// There is none.
    Absent,
    /// There is one.
    Present {
        /// Its ETag; `None` = unknown so far.
        etag: Option<Arc<str>>,
        /// The last write.
        tag: u64,
    },
}

/// One identity of the registry.
#[derive(Debug)]
pub struct IdentityModel;

/// Whether `If-Match` holds: yes, no, or unknown.
#[derive(PartialEq, Eq)]
enum Matches {
    Yes,
    No,
    Perhaps,
}

fn matches(etag: Option<&Arc<str>>, if_match: Option<&String>) -> Matches {
    match (etag, if_match) {
        (_, None) => Matches::Yes,
        (None, Some(_)) => Matches::Perhaps,
        (Some(etag), Some(wanted)) if **etag == **wanted => Matches::Yes,
        (Some(_), Some(_)) => Matches::No,
    }
}

fn present(etag: &str, tag: u64) -> Identity {
    Identity::Present {
        etag: Some(etag.into()),
        tag,
    }
}

impl Model for IdentityModel {
    type State = Identity;
    type Call = Call;
    type Answer = Answer;

    fn initial(&self) -> Identity {
        Identity::Absent
    }

    fn step(&self, state: &Identity, call: &Call, answer: Option<&Answer>) -> Vec<Identity> {
        let same = || vec![state.clone()];
        match (state, call, answer) {
            (Identity::Absent, Call::Create { tag }, Some(Answer::Written { etag })) => vec![present(etag, *tag)],
            (Identity::Absent, Call::Create { tag }, None) => vec![Identity::Present { etag: None, tag: *tag }],
            (Identity::Present { .. }, Call::Create { .. }, Some(Answer::Exists)) => same(),
            (Identity::Absent, Call::Update { .. } | Call::Delete { .. } | Call::Get, Some(Answer::Absent)) => same(),
            (Identity::Present { etag, .. }, Call::Update { tag, if_match }, answer) => {
                let matches = matches(etag.as_ref(), if_match.as_ref());
                match answer {
                    Some(Answer::Written { etag }) if matches != Matches::No => vec![present(etag, *tag)],
                    Some(Answer::Mismatch) if matches != Matches::Yes => same(),
                    Some(_) => vec![],
                    None if matches == Matches::No => same(),
                    None => vec![Identity::Present { etag: None, tag: *tag }],
                }
            }
            (Identity::Present { etag, .. }, Call::Delete { if_match }, answer) => {
                let matches = matches(etag.as_ref(), if_match.as_ref());
                match answer {
                    Some(Answer::Deleted) if matches != Matches::No => vec![Identity::Absent],
                    Some(Answer::Mismatch) if matches != Matches::Yes => same(),
                    Some(_) => vec![],
                    None if matches == Matches::No => same(),
                    None => vec![Identity::Absent],
                }
            }
            (Identity::Present { etag, tag }, Call::Get, Some(Answer::Found { etag: seen, tag: read })) => {
                let is_this = tag == read && etag.as_ref().is_none_or(|etag| **etag == **seen);
                if is_this { vec![present(seen, *tag)] } else { vec![] }
            }
            (_, _, None) => same(),
            _ => vec![],
        }
    }
}

/// Checks every identity's history separately.
#[must_use]
pub fn check(operations: &[Operation]) -> Findings {
    let mut findings = Findings::about("calls about an identity are linearizable");
    let mut keys: BTreeMap<&str, Vec<Event<Call, Answer>>> = BTreeMap::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(Event {
            call: operation.call.clone(),
            asked: operation.asked,
            answer: operation.answer.clone().map(|answer| (operation.answered, answer)),
        });
    }
    for (key, events) in keys {
        match linear::check(&IdentityModel, &events, BUDGET) {
            Outcome::Linearizable => findings.checked += events.len() as u64,
            Outcome::Undecided => findings.undecided += events.len() as u64,
            Outcome::Illegal { stuck, at, .. } => {
                findings.checked += events.len() as u64;
                findings.violation(Some(at), || {
                    format!("identity {key} ({} operations): {stuck}", events.len())
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(call: Call, asked: u64, answer: Option<Answer>) -> Operation {
        Operation {
            key: "k".into(),
            node: 1,
            call,
            asked,
            answered: asked + 5,
            answer,
        }
    }

    fn written(etag: &str) -> Option<Answer> {
        Some(Answer::Written { etag: etag.into() })
    }

    fn found(etag: &str, tag: u64) -> Option<Answer> {
        Some(Answer::Found { etag: etag.into(), tag })
    }

    fn update(tag: u64, if_match: Option<&str>) -> Call {
        Call::Update {
            tag,
            if_match: if_match.map(str::to_owned),
        }
    }

    #[test]
    fn a_life_in_order_passes() {
        let history = [
            operation(Call::Get, 0, Some(Answer::Absent)),
            operation(Call::Create { tag: 1 }, 10, written("a")),
            operation(Call::Create { tag: 2 }, 20, Some(Answer::Exists)),
            operation(update(3, Some("a")), 30, written("b")),
            operation(update(4, Some("a")), 40, Some(Answer::Mismatch)),
            operation(Call::Get, 50, found("b", 3)),
            operation(
                Call::Delete {
                    if_match: Some("b".into()),
                },
                60,
                Some(Answer::Deleted),
            ),
            operation(Call::Delete { if_match: None }, 70, Some(Answer::Absent)),
        ];
        let findings = check(&history);
        assert!(findings.is_clean(), "{findings:?}");
        assert_eq!(findings.checked, 8);
    }

    #[test]
    fn a_lost_update_a_stale_read_and_a_second_create_are_found() {
        let create = operation(Call::Create { tag: 1 }, 0, written("a"));
        let two_winners = [
            create.clone(),
            operation(update(2, Some("a")), 10, written("b")),
            operation(update(3, Some("a")), 20, written("c")),
        ];
        assert_eq!(check(&two_winners).violations, 1);
        let stale = [
            create.clone(),
            operation(update(2, None), 10, written("b")),
            operation(Call::Get, 20, found("a", 1)),
        ];
        assert_eq!(check(&stale).violations, 1);
        let twice = [create.clone(), operation(Call::Create { tag: 2 }, 10, written("b"))];
        assert_eq!(check(&twice).violations, 1);
        let forgotten = [create, operation(Call::Get, 10, Some(Answer::Absent))];
        assert_eq!(check(&forgotten).violations, 1);
    }

    #[test]
    fn a_delete_that_comes_back_is_found() {
        let history = [
            operation(Call::Create { tag: 1 }, 0, written("a")),
            operation(Call::Delete { if_match: None }, 10, Some(Answer::Deleted)),
            operation(Call::Get, 20, found("a", 1)),
        ];
        assert_eq!(check(&history).violations, 1);
    }

    #[test]
    fn an_unknown_write_is_settled_by_the_next_answer() {
        let unknown = |later: Operation, last: Operation| {
            check(&[
                operation(Call::Create { tag: 1 }, 0, written("a")),
                operation(update(2, Some("a")), 10, None),
                later,
                last,
            ])
        };
        let took_effect = unknown(
            operation(Call::Get, 20, found("b", 2)),
            operation(update(3, Some("b")), 30, written("c")),
        );
        assert!(took_effect.is_clean(), "{took_effect:?}");
        let never = unknown(
            operation(Call::Get, 20, found("a", 1)),
            operation(update(3, Some("a")), 30, written("c")),
        );
        assert!(never.is_clean(), "{never:?}");
        let seen_and_gone = unknown(
            operation(Call::Get, 20, found("b", 2)),
            operation(Call::Get, 30, found("a", 1)),
        );
        assert_eq!(seen_and_gone.violations, 1);
        let other_etag = unknown(
            operation(Call::Get, 20, found("b", 2)),
            operation(Call::Get, 30, found("c", 2)),
        );
        assert_eq!(other_etag.violations, 1);
    }
}
