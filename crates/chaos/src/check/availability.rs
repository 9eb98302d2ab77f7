//! Write pauses: the longest time without an acknowledgement around each fault, per partition.
//!
//! A pause is measured between two acknowledgements of one partition, so it includes everything that a device waits
//! for: failure detection, election, finding the new owner, resending.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Findings;
use super::sessions::SETTLE;
use crate::history::{Fault, Micros, REGISTRY, SECOND};

/// The longest allowed pause while a majority of nodes can work.
pub const LIMIT: Micros = 10 * SECOND;

/// A summary of durations, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// The middle one.
    pub median: Micros,
    /// The longest.
    pub worst: Micros,
}

/// Summarizes `durations`.
#[must_use]
pub fn summary(mut durations: Vec<Micros>) -> Summary {
    durations.sort_unstable();
    Summary {
        count: durations.len(),
        median: durations
            .get(durations.len().saturating_sub(1) / 2)
            .copied()
            .unwrap_or(0),
        worst: durations.last().copied().unwrap_or(0),
    }
}

/// One partition around one fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// The fault's place in the list.
    pub fault: usize,
    /// Its kind.
    pub kind: String,
    /// The partition.
    pub partition: u32,
    /// Whether the fault hit the partition's leader, as far as that was known.
    pub led: bool,
    /// The longest time without an acknowledgement; where no majority was left, the part after the fault's end.
    pub length: Micros,
    /// Whether acknowledgements resumed before the run's end.
    pub resumed: bool,
}

/// The pauses around all `faults`. `acknowledged` holds the sorted times of acknowledgements per partition; the load
/// stopped at `end`.
#[must_use]
pub fn pauses(acknowledged: &BTreeMap<u32, Vec<Micros>>, faults: &[Fault], end: Micros) -> Vec<Pause> {
    let mut found = Vec::new();
    for (index, fault) in faults.iter().enumerate() {
        // Time after the next fault began counts for that fault only.
        let next = faults.get(index + 1).map_or(Micros::MAX, |next| next.began);
        let clip = next.min(end);
        let until = (fault.ended + SETTLE).min(clip);
        for (partition, times) in acknowledged {
            let (length, resumed) = longest(times, fault, until, clip, end);
            found.push(Pause {
                fault: index,
                kind: fault.kind.clone(),
                partition: *partition,
                led: fault.led.contains(partition),
                length,
                resumed,
            });
        }
    }
    found
}

/// The longest gap that begins before `until`, as far as it reaches before `clip`.
fn longest(times: &[Micros], fault: &Fault, until: Micros, clip: Micros, end: Micros) -> (Micros, bool) {
    let from = if fault.majority { fault.began } else { fault.ended };
    let first = times.partition_point(|time| *time < from);
    let mut before = match first.checked_sub(1).map(|at| times[at]) {
        Some(time) if fault.majority => time,
        _ => from,
    };
    let mut longest = 0;
    for time in &times[first..] {
        longest = longest.max((*time).min(clip).saturating_sub(before));
        before = *time;
        if before >= until {
            return (longest, true);
        }
    }
    let left = end.saturating_sub(before);
    (longest.max(clip.saturating_sub(before)), left < LIMIT)
}

/// Checks that no pause is longer than [`LIMIT`].
#[must_use]
pub fn check(pauses: &[Pause], faults: &[Fault]) -> Findings {
    let mut findings = Findings::about("writes continue after every fault that leaves a majority");
    for pause in pauses {
        // How long the registry pauses depends on how long a call waits for its answer; it is reported, not judged.
        if pause.partition == REGISTRY {
            continue;
        }
        findings.checked += 1;
        if pause.length > LIMIT || !pause.resumed {
            let fault = faults.get(pause.fault);
            findings.violation(fault.map(|fault| fault.began), || {
                let detail = fault.map_or("", |fault| &fault.detail);
                let again = if pause.resumed { "" } else { ", and not again" };
                let seconds = pause.length as f64 / SECOND as f64;
                format!(
                    "partition {} took nothing for {seconds:.1} s{again}, after {} ({detail})",
                    pause.partition, pause.kind
                )
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(began: Micros, ended: Micros, majority: bool) -> Fault {
        Fault {
            kind: "kill".into(),
            detail: "node 1".into(),
            nodes: vec![1],
            began: began * SECOND,
            ended: ended * SECOND,
            majority,
            led: vec![0],
        }
    }

    fn steady(from: u64, to: u64) -> impl Iterator<Item = Micros> {
        (from * 10..to * 10).map(|tenth| tenth * SECOND / 10)
    }

    fn judge(times: Vec<Micros>, fault: Fault) -> (Pause, u64) {
        let faults = [fault];
        let found = pauses(&BTreeMap::from([(0, times)]), &faults, 60 * SECOND);
        let violations = check(&found, &faults).violations;
        (found.into_iter().next().unwrap(), violations)
    }

    #[test]
    fn a_pause_is_the_longest_gap_around_the_fault() {
        let (pause, violations) = judge(steady(0, 20).chain(steady(22, 60)).collect(), fault(20, 25, true));
        assert_eq!(
            (pause.length, pause.led, violations),
            (2 * SECOND + SECOND / 10, true, 0)
        );
    }

    #[test]
    fn too_long_a_pause_and_one_without_an_end_are_found() {
        let (_, violations) = judge(steady(0, 20).chain(steady(35, 60)).collect(), fault(20, 25, true));
        assert_eq!(violations, 1);
        let (pause, violations) = judge(steady(0, 20).collect(), fault(20, 25, true));
        assert_eq!((pause.resumed, violations), (false, 1));
    }

    #[test]
    fn without_a_majority_only_the_time_after_the_fault_counts() {
        let (pause, violations) = judge(steady(0, 10).chain(steady(33, 60)).collect(), fault(10, 30, false));
        assert_eq!((pause.length, violations), (3 * SECOND, 0));
    }

    #[test]
    fn a_pause_that_the_next_fault_makes_is_not_counted_twice() {
        let times: Vec<Micros> = steady(0, 20).chain(steady(22, 26)).chain(steady(34, 60)).collect();
        let faults = [fault(20, 21, true), fault(26, 30, true)];
        let found = pauses(&BTreeMap::from([(0, times)]), &faults, 60 * SECOND);
        let lengths: Vec<Micros> = found.iter().map(|pause| pause.length * 10 / SECOND).collect();
        assert_eq!(lengths, [21, 81]);
    }

    #[test]
    fn summaries_of_few_and_none() {
        assert_eq!(summary(vec![]), Summary::default());
        assert_eq!(
            summary(vec![3, 1, 2]),
            Summary {
                count: 3,
                median: 2,
                worst: 3
            }
        );
    }
}
