//! The report of a run: JSON for programs, a table for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use holdfast_swarm::verify::Verdict;
use serde::Serialize;

use crate::check::Findings;
use crate::check::availability::{Pause, Summary, summary};
use crate::history::down::{ListedQueue, MethodOutcome, SendOutcome, TwinAction, WayDown};
use crate::history::{Fault, Micros, REGISTRY, SECOND};

/// One kind of fault.
#[derive(Debug, Clone, Default, Serialize)]
pub struct KindReport {
    /// How many were injected.
    pub injected: usize,
    /// Why none could be injected.
    pub skipped: Option<String>,
    /// How long writes paused in partitions that the hit nodes led, or in all when that was not known.
    pub pauses: Summary,
}

/// How much went down: to devices, and with their twins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DownFigures {
    /// Writes of twins by back ends and devices that were answered.
    pub twin_writes: usize,
    /// Reads of a section of a twin that were answered.
    pub twin_reads: usize,
    /// Messages to devices that were acknowledged.
    pub messages: usize,
    /// Messages that devices have received at least once.
    pub received: usize,
    /// Messages that were in a queue when it was last listed.
    pub queued: usize,
    /// Dead letters at that time.
    pub dead: usize,
    /// Direct methods that were called.
    pub methods: usize,
    /// Direct methods that devices have answered.
    pub answered: usize,
}

impl DownFigures {
    /// The figures of `down`.
    #[must_use]
    pub fn of(down: &WayDown) -> Self {
        let answered = || down.twins.iter().filter(|call| call.answer.is_some());
        let is_read = |action| matches!(action, TwinAction::Read);
        let is_queued = |outcome| matches!(outcome, SendOutcome::Queued { .. });
        let received: BTreeSet<u64> = down.received.iter().map(|one| one.number).collect();
        let last: BTreeMap<&str, &ListedQueue> = down.listed.iter().map(|list| (&*list.device, list)).collect();
        Self {
            twin_writes: answered().filter(|call| !is_read(call.action)).count(),
            twin_reads: answered().filter(|call| is_read(call.action)).count(),
            messages: down.sent.iter().filter(|sent| is_queued(sent.outcome)).count(),
            received: received.len(),
            queued: last.values().map(|list| list.queued.len()).sum(),
            dead: last.values().map(|list| list.dead.len()).sum(),
            methods: down.methods.len(),
            answered: down
                .methods
                .iter()
                .filter(|call| matches!(call.outcome, MethodOutcome::Answered { .. }))
                .count(),
        }
    }
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The seed, which draws the same faults again.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u32,
    /// How long the load ran.
    pub seconds: u64,
    /// Faults by kind.
    pub kinds: BTreeMap<String, KindReport>,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// The same by protocol.
    pub acknowledged_by_protocol: BTreeMap<&'static str, u64>,
    /// Service calls answered.
    pub calls: u64,
    /// Events read while faults happened.
    pub read: u64,
    /// Connections made by devices.
    pub connections: usize,
    /// The way down.
    pub down: DownFigures,
    /// The checks.
    pub findings: Vec<Findings>,
    /// Pauses of partitions whose leader was killed or lost its power.
    pub leader_killed: Summary,
    /// The same for the registry.
    pub registry_leader_killed: Summary,
    /// Pauses of partitions whose leader was stopped orderly.
    pub leader_handed_over: Summary,
    /// From the loss of a killed node to a device's next connection, on another node.
    pub back_from_killed: Summary,
    /// The same for a node that stood still.
    pub back_from_frozen: Summary,
    /// From a revocation's answer to the end of a live session, without a fault nearby.
    pub revocation: Summary,
    /// The longest time between two acknowledged writes of each twin.
    pub twin_gaps: Summary,
    /// From start to ready.
    pub ready: Summary,
    /// Why the run ended early.
    pub aborted: Option<String>,
    /// The reasons why clients' connections and calls failed: faults excuse them.
    pub failures: BTreeMap<String, u64>,
    /// All faults.
    pub faults: Vec<Fault>,
    /// All pauses longer than a tenth of a second.
    pub pauses: Vec<Pause>,
}

impl Report {
    /// Whether there is no violation and every check had items.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.aborted.is_none() && self.findings.iter().all(Findings::is_clean)
    }

    /// How many faults were injected.
    #[must_use]
    pub fn injected(&self) -> usize {
        self.faults.len()
    }

    /// Writes `report.json` and `report.txt` into `folder`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::write(folder.join("report.json"), serde_json::to_vec_pretty(self)?)?;
        Ok(std::fs::write(folder.join("report.txt"), self.text())?)
    }

    /// The table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Self {
            seed,
            nodes,
            seconds,
            acknowledged,
            calls,
            read,
            connections,
            ..
        } = self;
        writeln!(
            out,
            "chaos: {} faults on {nodes} nodes in {seconds} s, seed {seed}",
            self.injected()
        )?;
        writeln!(
            out,
            "load: {acknowledged} messages acknowledged over {connections} connections, {calls} service calls answered, {read} events read"
        )?;
        let by_protocol: Vec<String> = self
            .acknowledged_by_protocol
            .iter()
            .map(|(protocol, count)| format!("{count} over {protocol}"))
            .collect();
        writeln!(out, "acknowledged: {}", by_protocol.join(", "))?;
        let DownFigures {
            twin_writes,
            twin_reads,
            messages,
            received,
            queued,
            dead,
            methods,
            answered,
        } = self.down;
        writeln!(
            out,
            "way down: {twin_writes} twin writes, {twin_reads} reads, {messages} messages acknowledged, {received} received, {queued} queued and {dead} dead in the end, {methods} methods called, {answered} answered"
        )?;
        writeln!(
            out,
            "\n{:<22}{:>9}{:>14}{:>14}",
            "fault", "injected", "median pause", "worst pause"
        )?;
        for (kind, report) in &self.kinds {
            match &report.skipped {
                Some(why) => writeln!(out, "{kind:<22}  skipped: {why}")?,
                None => {
                    let KindReport { injected, pauses, .. } = report;
                    writeln!(
                        out,
                        "{kind:<22}{injected:>9}{:>14}{:>14}",
                        time(pauses.median),
                        time(pauses.worst)
                    )?;
                }
            }
        }
        writeln!(out)?;
        for (name, figure) in [
            ("writes resume after a leader's death", self.leader_killed),
            ("the registry resumes after its leader's", self.registry_leader_killed),
            ("pause of an orderly hand-over", self.leader_handed_over),
            ("devices of a killed node are back after", self.back_from_killed),
            ("devices of a frozen node are back after", self.back_from_frozen),
            ("revocation closes a live session", self.revocation),
            ("longest time between writes of a twin", self.twin_gaps),
            ("from start to ready", self.ready),
        ] {
            let Summary { count, median, worst } = figure;
            writeln!(
                out,
                "{name:<40} median {:>9}  worst {:>9}  of {count}",
                time(median),
                time(worst)
            )?;
        }
        writeln!(out, "\n{:<58}{:>10}{:>11}", "promise", "checked", "violations")?;
        for finding in &self.findings {
            write!(
                out,
                "{:<58}{:>10}{:>11}",
                finding.promise, finding.checked, finding.violations
            )?;
            match finding.undecided {
                0 => writeln!(out)?,
                some => writeln!(out, "  ({some} undecided)")?,
            }
        }
        for finding in self.findings.iter().filter(|finding| !finding.is_clean()) {
            writeln!(out, "\nbroken: {}", finding.promise)?;
            for example in &finding.examples {
                let at = example.at.map(time).unwrap_or_default();
                writeln!(out, "  {at:>10}  {}", example.text)?;
            }
        }
        match &self.aborted {
            Some(why) => writeln!(out, "\nended early: {why}")?,
            None if self.is_clean() => writeln!(out, "\nevery promise was kept")?,
            None => {}
        }
        Ok(())
    }
}

fn time(micros: Micros) -> String {
    if micros < SECOND {
        format!("{} ms", micros / 1_000)
    } else {
        format!("{:.2} s", micros as f64 / SECOND as f64)
    }
}

/// The verdict over all messages as findings of `name`.
#[must_use]
pub fn telemetry(name: &str, verdict: &Verdict) -> Findings {
    let mut findings = Findings::about(&format!("acknowledged messages are there, once, in order ({name})"));
    findings.checked = verdict.acknowledged;
    let broken = [
        (verdict.lost, "lost"),
        (verdict.doubled, "doubled"),
        (verdict.out_of_order, "out of order"),
        (verdict.gaps, "missing before later ones"),
        (verdict.phantoms, "never sent"),
        (verdict.corrupt, "damaged"),
        (verdict.sequence_jumps, "sequence jumps"),
    ];
    for (count, what) in broken.into_iter().filter(|(count, _)| *count > 0) {
        findings.violation(None, || format!("{count} {what}"));
        findings.violations += count - 1;
    }
    for example in &verdict.examples {
        findings.examples.push(crate::check::Violation {
            at: None,
            text: example.clone(),
        });
    }
    findings
}

/// Pauses of one kind: of the partitions that the hit nodes led where that is known, else the longest of each fault.
#[must_use]
pub fn pauses_of(kind: &str, pauses: &[Pause]) -> Summary {
    let mut led: Vec<Micros> = Vec::new();
    let mut longest: BTreeMap<usize, Micros> = BTreeMap::new();
    for pause in pauses
        .iter()
        .filter(|pause| pause.kind == kind && pause.partition != REGISTRY)
    {
        if pause.led {
            led.push(pause.length);
        }
        let most = longest.entry(pause.fault).or_default();
        *most = pause.length.max(*most);
    }
    summary(if led.is_empty() {
        longest.into_values().collect()
    } else {
        led
    })
}

/// Pauses of the partitions that `which` selects and a hit node led, over several kinds.
#[must_use]
pub fn led_pauses(kinds: &[&str], pauses: &[Pause], which: impl Fn(u32) -> bool) -> Summary {
    let led = pauses
        .iter()
        .filter(|pause| pause.led && kinds.contains(&&*pause.kind) && which(pause.partition));
    summary(led.map(|pause| pause.length).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_verdict_is_a_broken_promise() {
        let clean = Verdict {
            acknowledged: 5,
            ..Verdict::default()
        };
        assert!(telemetry("n1", &clean).is_clean());
        let lost = Verdict {
            acknowledged: 5,
            lost: 3,
            doubled: 1,
            ..Verdict::default()
        };
        assert_eq!(telemetry("n1", &lost).violations, 4);
    }

    #[test]
    fn pauses_count_led_partitions_where_known() {
        let pause = |fault, led, length| Pause {
            fault,
            kind: "kill".into(),
            partition: 0,
            led,
            length,
            resumed: true,
        };
        let unknown = [pause(0, false, 1), pause(0, false, 5), pause(1, false, 3)];
        assert_eq!(
            pauses_of("kill", &unknown),
            Summary {
                count: 2,
                median: 3,
                worst: 5
            }
        );
        let known = [pause(0, true, 9), pause(0, false, 50)];
        assert_eq!(
            pauses_of("kill", &known),
            Summary {
                count: 1,
                median: 9,
                worst: 9
            }
        );
        assert_eq!(led_pauses(&["kill"], &known, |_| true).worst, 9);
    }
}
