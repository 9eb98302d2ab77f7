//! What a rotation has cost the devices and the back end, step by step.

use std::cell::RefCell;
use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::back_end::BackEnd;
use super::fleet::{Fleet, Seen};
use crate::report::{LatencyReport, VERSION};

/// One step.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The operator's action.
    pub step: String,
    /// How long it took.
    pub seconds: f64,
    /// Connections that the hub accepted.
    pub connects: u64,
    /// Connections that broke on purpose.
    pub broken: u64,
    /// Connections that the hub did not accept.
    pub refused: u64,
    /// Connections that the hub ended.
    pub closed: u64,
    /// Times from the begin of a connection to CONNACK.
    pub connect_us: LatencyReport,
    /// Answered calls of the back end.
    pub calls: u64,
    /// Calls that failed.
    pub failed_calls: u64,
}

/// The whole rotation.
#[derive(Debug, Clone, Serialize)]
pub struct RotationReport {
    /// The generator's version.
    pub version: &'static str,
    /// Devices.
    pub devices: u32,
    /// The steps.
    pub rows: Vec<Row>,
    /// The faults, with counts.
    pub faults: Vec<String>,
}

impl RotationReport {
    /// Whether no device was refused or closed, no call failed, and no replaced credential was accepted.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
            && self
                .rows
                .iter()
                .all(|row| row.refused + row.closed + row.failed_calls == 0)
    }
}

impl fmt::Display for RotationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| step | s | connects | broken on purpose | refused | closed by the hub | connect p50 / p99 ms | calls | failed |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
        for row in &self.rows {
            let ms = |us: u32| f64::from(us) / 1000.0;
            writeln!(
                f,
                "| {} | {:.1} | {} | {} | {} | {} | {:.1} / {:.1} | {} | {} |",
                row.step,
                row.seconds,
                row.connects,
                row.broken,
                row.refused,
                row.closed,
                ms(row.connect_us.p50),
                ms(row.connect_us.p99),
                row.calls,
                row.failed_calls
            )?;
        }
        self.faults.iter().try_for_each(|fault| writeln!(f, "FAULT {fault}"))?;
        let verdict = if self.is_clean() { "clean" } else { "NOT CLEAN" };
        writeln!(f, "{} devices: {verdict}", self.devices)
    }
}

/// A step that has begun.
pub(super) struct Step {
    name: String,
    started: Instant,
    before: Seen,
}

/// Collects the rows.
pub(super) struct Recorder {
    progress: Box<dyn Fn(&str)>,
    rows: Vec<Row>,
    faults: RefCell<Vec<String>>,
    calls: (u64, u64),
}

impl Recorder {
    pub(super) fn new(progress: Box<dyn Fn(&str)>) -> Self {
        Self {
            progress,
            rows: Vec::new(),
            faults: RefCell::default(),
            calls: (0, 0),
        }
    }

    pub(super) fn begin(&self, name: &str, fleet: &Fleet) -> Step {
        (self.progress)(name);
        Step {
            name: name.to_owned(),
            started: Instant::now(),
            before: fleet.seen(),
        }
    }

    pub(super) fn end(&mut self, step: Step, fleet: &Fleet) {
        let (before, now) = (step.before, fleet.seen());
        for (reason, count) in &now.reasons {
            let earlier = before.reasons.get(reason).copied().unwrap_or(0);
            if *count > earlier {
                self.fault(format!("{}: {} × {reason}", step.name, count - earlier));
            }
        }
        self.rows.push(Row {
            step: step.name,
            seconds: step.started.elapsed().as_secs_f64(),
            connects: now.connects - before.connects,
            broken: now.broken - before.broken,
            refused: now.refused - before.refused,
            closed: now.closed - before.closed,
            connect_us: (&fleet.take_latency()).into(),
            calls: 0,
            failed_calls: 0,
        });
    }

    /// With the calls since the last step that had some.
    pub(super) fn end_with_calls(&mut self, step: Step, fleet: &Fleet, back_end: &BackEnd) {
        let name = step.name.clone();
        self.end(step, fleet);
        let failed = back_end.failed();
        let total = (back_end.answered(), failed.values().sum());
        if total.1 > self.calls.1 {
            self.fault(format!("{name}: failed calls so far: {failed:?}"));
        }
        if let Some(row) = self.rows.last_mut() {
            row.calls = total.0 - self.calls.0;
            row.failed_calls = total.1 - self.calls.1;
        }
        self.calls = total;
    }

    pub(super) fn fault(&self, what: String) {
        self.faults.borrow_mut().push(what);
    }

    pub(super) fn report(self, devices: u32) -> RotationReport {
        RotationReport {
            version: VERSION,
            devices,
            rows: self.rows,
            faults: self.faults.into_inner(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;

    fn report() -> RotationReport {
        let row = Row {
            step: "a step".to_owned(),
            seconds: 1.0,
            connects: 5,
            broken: 2,
            refused: 0,
            closed: 0,
            connect_us: (&Latency::default()).into(),
            calls: 3,
            failed_calls: 0,
        };
        RotationReport {
            version: VERSION,
            devices: 5,
            rows: vec![row.clone(), row],
            faults: Vec::new(),
        }
    }

    #[test]
    fn one_refused_or_closed_connection_or_failed_call_or_fault_is_not_clean() {
        assert!(report().is_clean(), "connections that break on purpose are no fault");
        let spoilt: [fn(&mut RotationReport); 4] = [
            |report| report.rows[1].refused = 1,
            |report| report.rows[0].closed = 1,
            |report| report.rows[1].failed_calls = 1,
            |report| report.faults.push("an old key is accepted".to_owned()),
        ];
        for spoil in spoilt {
            let mut report = report();
            spoil(&mut report);
            assert!(!report.is_clean());
            assert!(report.to_string().contains("NOT CLEAN"));
        }
    }
}
