//! The guarantee about twins: writes and reads of one section of a twin are linearizable, from every side.
//!
//! The model is a register with a version, which every write raises by one. So a write that is lost, made twice or
//! reordered leaves versions or values that no order of the calls explains.

use std::collections::BTreeMap;

use super::Findings;
use super::availability::{Summary, summary};
use super::versioned::{self, Call, Timed, Unexplained};
use crate::history::Micros;
use crate::history::down::{Section, TwinAction, TwinAnswer, TwinCall};

/// The version of a section that was never written.
const FIRST_VERSION: u64 = 1;

/// Checks every section of every twin separately.
#[must_use]
pub fn check(calls: &[TwinCall]) -> Findings {
    let mut findings = Findings::about("writes and reads of twins are linearizable");
    let mut sections: BTreeMap<(&str, Section), (u64, Vec<Timed>)> = BTreeMap::new();
    for call in calls {
        let (count, timed) = sections.entry((&call.device, call.section)).or_default();
        *count += 1;
        timed.extend(timed_call(call));
    }
    for ((device, section), (count, timed)) in sections {
        findings.checked += count;
        if let Err(Unexplained { at, reason }) = versioned::check(&timed, FIRST_VERSION) {
            findings.violation(at, || format!("{device}, {section:?} ({count} calls): {reason}"));
        }
    }
    findings
}

/// `None`: it has no place in the order. A refused write whose value is read is found there.
fn timed_call(call: &TwinCall) -> Option<Timed> {
    let (ordered, answered) = match (call.action, call.answer) {
        (TwinAction::Write { tag }, Some((at, TwinAnswer::Written { version }))) => {
            let version = Some(version);
            (Call::Write { tag, version }, at)
        }
        (TwinAction::Write { tag }, None) => (Call::Write { tag, version: None }, Micros::MAX),
        (TwinAction::Read, Some((at, TwinAnswer::Found { version, tag }))) => (Call::Read { tag, version }, at),
        _ => return None,
    };
    Some(Timed {
        call: ordered,
        asked: call.asked,
        answered,
    })
}

/// For each twin the longest time between two acknowledged writes.
#[must_use]
pub fn gaps(calls: &[TwinCall]) -> Summary {
    let mut written: BTreeMap<&str, Vec<Micros>> = BTreeMap::new();
    for call in calls {
        if let Some((at, TwinAnswer::Written { .. })) = call.answer {
            written.entry(&call.device).or_default().push(at);
        }
    }
    let longest = written.into_values().map(|mut times| {
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or(0)
    });
    summary(longest.collect())
}

#[cfg(test)]
mod tests {
    use super::super::linear::{self, Event, Model, Outcome};
    use super::*;

    fn call(action: TwinAction, asked: Micros, answer: Option<TwinAnswer>) -> TwinCall {
        TwinCall {
            device: "d".into(),
            section: Section::Desired,
            node: 1,
            action,
            asked,
            answer: answer.map(|answer| (asked + 5, answer)),
        }
    }

    fn write(tag: u64, asked: Micros, version: u64) -> TwinCall {
        call(TwinAction::Write { tag }, asked, Some(TwinAnswer::Written { version }))
    }

    fn unknown(tag: u64, asked: Micros) -> TwinCall {
        call(TwinAction::Write { tag }, asked, None)
    }

    fn read(asked: Micros, version: u64, tag: u64) -> TwinCall {
        call(TwinAction::Read, asked, Some(TwinAnswer::Found { version, tag }))
    }

    #[test]
    fn writes_in_order_and_unknown_ones_that_happen_or_not_pass() {
        let happened = [
            read(0, 1, 0),
            write(1, 10, 2),
            unknown(2, 20),
            read(30, 3, 2),
            write(3, 40, 4),
        ];
        assert_eq!((check(&happened).checked, check(&happened).violations), (5, 0));
        let refused = call(TwinAction::Write { tag: 4 }, 50, Some(TwinAnswer::Refused));
        let never = [
            write(1, 10, 2),
            unknown(2, 20),
            refused,
            read(60, 2, 1),
            write(3, 70, 3),
        ];
        assert!(check(&never).is_clean());
        let mut other = read(80, 1, 0);
        other.section = Section::Reported;
        assert!(check(&[write(1, 10, 2), other]).is_clean(), "sections are separate");
    }

    #[test]
    fn a_lost_doubled_stale_or_reordered_write_is_found() {
        let lost = [write(1, 10, 2), read(20, 1, 0)];
        let overwritten = [write(1, 10, 2), write(2, 20, 2)];
        let doubled = [write(1, 10, 2), read(20, 3, 1)];
        let unknown_twice = [unknown(1, 10), read(20, 3, 1)];
        let stale = [write(1, 10, 2), write(2, 20, 3), read(30, 2, 1)];
        let reordered = [write(2, 10, 3), write(1, 20, 2)];
        let refused = call(TwinAction::Write { tag: 1 }, 10, Some(TwinAnswer::Refused));
        let refused_but_done = [refused, read(20, 2, 1)];
        let never_written = [read(20, 2, 9)];
        let unknown_that_began_later = [write(1, 10, 3), unknown(2, 20)];
        let read_before_it_began = [read(10, 2, 1), unknown(1, 20)];
        let stale_beside_a_gap = [unknown(1, 0), write(2, 10, 3), read(20, 2, 1)];
        for broken in [
            &lost[..],
            &overwritten,
            &doubled,
            &unknown_twice,
            &stale,
            &reordered,
            &refused_but_done,
            &never_written,
            &unknown_that_began_later,
            &read_before_it_began,
            &stale_beside_a_gap,
        ] {
            assert_eq!(check(broken).violations, 1, "{broken:?}");
        }
    }

    #[test]
    fn many_writes_of_unknown_outcome_are_decided() {
        let mut calls: Vec<TwinCall> = (0..500).map(|number| unknown(number + 1, number * 10)).collect();
        // A third of them took effect, in the order in which they began, and half of those were seen.
        calls.extend(
            (0..160)
                .step_by(2)
                .map(|number| read(20_000 + number * 10, number + 2, number * 3 + 1)),
        );
        assert_eq!((check(&calls).checked, check(&calls).violations), (580, 0));
        calls.push(read(30_000, 700, 499));
        assert_eq!(check(&calls).violations, 1, "more versions than writes");
    }

    #[test]
    fn the_versions_decide_as_the_search_does() {
        let mut random = 7_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let mut illegal = 0;
        for _ in 0..3_000 {
            let calls: Vec<TwinCall> = (1..=5)
                .map(|tag| {
                    let (asked, length) = (draw(40), draw(20));
                    let mut call = match draw(5) {
                        0 => unknown(tag, asked),
                        1 | 2 => write(tag, asked, draw(4) + 2),
                        _ => {
                            let version = draw(4) + 1;
                            read(asked, version, if version == 1 { 0 } else { draw(5) + 1 })
                        }
                    };
                    call.answer = call.answer.map(|(_, answer)| (asked + length, answer));
                    call
                })
                .collect();
            let by_versions = check(&calls).is_clean();
            assert_eq!(by_versions, is_found_by_search(&calls), "{calls:?}");
            illegal += u32::from(!by_versions);
        }
        assert!((300..2_990).contains(&illegal), "{illegal}");
    }

    /// A section as the model of the search.
    struct SectionModel;

    impl Model for SectionModel {
        type State = (u64, u64);
        type Call = TwinAction;
        type Answer = TwinAnswer;

        fn initial(&self) -> (u64, u64) {
            (FIRST_VERSION, 0)
        }

        fn step(&self, state: &(u64, u64), action: &TwinAction, answer: Option<&TwinAnswer>) -> Vec<(u64, u64)> {
            match (*action, answer.copied()) {
                (_, Some(TwinAnswer::Refused)) | (TwinAction::Read, None) => vec![*state],
                (TwinAction::Write { tag }, None) => vec![(state.0 + 1, tag)],
                (TwinAction::Write { tag }, Some(TwinAnswer::Written { version })) if version == state.0 + 1 => {
                    vec![(version, tag)]
                }
                (TwinAction::Read, Some(TwinAnswer::Found { version, tag })) if (version, tag) == *state => {
                    vec![*state]
                }
                (_, Some(TwinAnswer::Written { .. } | TwinAnswer::Found { .. })) => vec![],
            }
        }
    }

    fn is_found_by_search(calls: &[TwinCall]) -> bool {
        let events: Vec<Event<TwinAction, TwinAnswer>> = calls
            .iter()
            .map(|call| Event {
                call: call.action,
                asked: call.asked,
                answer: call.answer,
            })
            .collect();
        linear::check(&SectionModel, &events, 1_000_000) == Outcome::Linearizable
    }

    #[test]
    fn a_gap_is_the_longest_time_between_acknowledged_writes() {
        let calls = [
            write(1, 10, 2),
            read(50, 2, 1),
            unknown(2, 60),
            write(3, 110, 3),
            write(4, 120, 4),
        ];
        assert_eq!(gaps(&calls).worst, 100);
    }
}
