//! The guarantee about twins: writes and reads of one section of a twin are linearizable, from every side.
//!
//! The model is a register with a version, which every write raises by one. So a write that is lost, made twice or
//! reordered leaves versions or values that no order of the calls explains.

use std::collections::BTreeMap;

use super::Findings;
use super::availability::{Summary, summary};
use super::linear::{self, Event, Model, Outcome};
use crate::history::Micros;
use crate::history::down::{Section, TwinAction, TwinAnswer, TwinCall};

/// The most configurations that the search visits for one section.
const BUDGET: usize = 200_000;

/// One section of a twin: its version and the last value.
#[derive(Debug)]
struct SectionModel;

/// The version of a section that was never written.
const FIRST_VERSION: u64 = 1;

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
            (TwinAction::Read, Some(TwinAnswer::Found { version, tag })) if (version, tag) == *state => vec![*state],
            (_, Some(TwinAnswer::Written { .. } | TwinAnswer::Found { .. })) => vec![],
        }
    }
}

/// Checks every section of every twin separately.
#[must_use]
pub fn check(calls: &[TwinCall]) -> Findings {
    let mut findings = Findings::about("writes and reads of twins are linearizable");
    let mut sections: BTreeMap<(&str, Section), Vec<Event<TwinAction, TwinAnswer>>> = BTreeMap::new();
    for call in calls {
        sections.entry((&call.device, call.section)).or_default().push(Event {
            call: call.action,
            asked: call.asked,
            answer: call.answer,
        });
    }
    for ((device, section), events) in sections {
        let count = events.len() as u64;
        match linear::check(&SectionModel, &events, BUDGET) {
            Outcome::Linearizable => findings.checked += count,
            Outcome::Undecided => findings.undecided += count,
            Outcome::Illegal { stuck, at, .. } => {
                findings.checked += count;
                findings.violation(Some(at), || format!("{device}, {section:?} ({count} calls): {stuck}"));
            }
        }
    }
    findings
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
        for broken in [
            &lost[..],
            &overwritten,
            &doubled,
            &unknown_twice,
            &stale,
            &reordered,
            &refused_but_done,
            &never_written,
        ] {
            assert_eq!(check(broken).violations, 1, "{broken:?}");
        }
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
