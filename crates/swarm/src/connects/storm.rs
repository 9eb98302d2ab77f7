//! A storm: all devices begin to connect at the same moment.
//!
//! The handshakes stop where the server has answered and waits, so that all of them are in flight at once and the server's memory
//! for them can be read; then all continue at once.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use serde::Serialize;
use tokio::runtime::Builder;

use super::half_open::HalfOpen;
use super::{Credential, Plan, Reasons, show_reasons, source};
use crate::connect::Door;
use crate::process::{Sample, peak_resident_kib, reset_peak};
use crate::report::VERSION;

/// How long each half of a storm may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The result of a storm.
#[derive(Debug, Clone, Serialize)]
pub struct StormReport {
    /// The generator's version.
    pub version: &'static str,
    /// The server.
    pub target: String,
    /// `tls13` or `tls12`.
    pub transport: String,
    /// The credentials.
    pub credential: Credential,
    /// Devices.
    pub clients: usize,
    /// Handshakes that were in flight at once.
    pub in_flight: usize,
    /// Devices that were accepted in the end.
    pub accepted: usize,
    /// Until all handshakes were in flight.
    pub begin_seconds: f64,
    /// From then until all were accepted.
    pub finish_seconds: f64,
    /// Growth of the server's anonymous resident memory for each handshake in flight, bytes.
    pub bytes_per_handshake: Option<f64>,
    /// Growth of the most resident memory of the server over the whole storm, for each client, bytes.
    pub peak_bytes_per_client: Option<f64>,
    /// Growth of its anonymous resident memory for each accepted device, bytes.
    pub bytes_per_accepted: Option<f64>,
    /// Why devices were not accepted.
    pub refused: BTreeMap<String, u64>,
}

impl fmt::Display for StormReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clients, in_flight, accepted) = (self.clients, self.in_flight, self.accepted);
        writeln!(
            f,
            "target          {} ({}, {}), {clients} clients at once",
            self.target, self.transport, self.credential
        )?;
        writeln!(f, "in flight       {in_flight} after {:.2} s", self.begin_seconds)?;
        writeln!(f, "accepted        {accepted}, {:.2} s later", self.finish_seconds)?;
        for (name, bytes) in [
            ("a handshake", self.bytes_per_handshake),
            ("at the peak", self.peak_bytes_per_client),
            ("a connection", self.bytes_per_accepted),
        ] {
            if let Some(bytes) = bytes {
                writeln!(f, "{name:<15} {bytes:.0} bytes of the server's memory each")?;
            }
        }
        show_reasons(f, "refused", &self.refused)
    }
}

/// Lets all devices of the plan connect at once.
///
/// # Errors
/// When the server's memory cannot be read; refusals are part of the report.
pub fn storm(plan: &Plan) -> Result<StormReport> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")?.block_on(run(plan))
}

async fn run(plan: &Plan) -> Result<StormReport> {
    plan.pids.iter().try_for_each(|pid| reset_peak(*pid))?;
    let sample = || (!plan.pids.is_empty()).then(|| Sample::take(&plan.pids)).transpose();
    let (before, refused) = (sample()?, Reasons::default());
    let addresses = [plan.address];
    let started = Instant::now();
    let opening = plan.devices.iter().enumerate().map(async |(number, device)| {
        let door = Door {
            addresses: &addresses,
            source: source(&plan.sources, number),
            names_server: false,
        };
        within(HalfOpen::open(door, device), &refused).await
    });
    let half_open = join_all(opening).await;
    let begin_seconds = started.elapsed().as_secs_f64();
    let in_flight = half_open.iter().flatten().count();
    let begun = sample()?;
    let started = Instant::now();
    let finishing = half_open.into_iter().zip(&plan.devices).map(async |(half, device)| {
        let mut half = half?;
        within(half.finish(device, plan.options), &refused).await.map(|()| half)
    });
    let connections = join_all(finishing).await;
    let finish_seconds = started.elapsed().as_secs_f64();
    let accepted = connections.iter().flatten().count();
    let finished = sample()?;
    let peak_kib = plan
        .pids
        .iter()
        .map(|pid| peak_resident_kib(*pid))
        .sum::<Result<u64>>()?;
    drop(connections);
    let each = |kib: i64, count: usize| kib as f64 * 1024.0 / count.max(1) as f64;
    let growth = |later: Option<Sample>, count| {
        let grown = before.zip(later).map(|(before, later)| later.since(&before));
        grown.map(|usage| each(usage.anonymous_growth_kib, count))
    };
    Ok(StormReport {
        version: VERSION,
        target: plan.description.clone(),
        transport: plan.transport.clone(),
        credential: plan.credential,
        clients: plan.devices.len(),
        in_flight,
        accepted,
        begin_seconds,
        finish_seconds,
        bytes_per_handshake: growth(begun, in_flight),
        peak_bytes_per_client: before
            .map(|before| each(peak_kib as i64 - before.resident_kib as i64, plan.devices.len())),
        bytes_per_accepted: growth(finished, accepted),
        refused: refused.take(),
    })
}

async fn within<T>(work: impl Future<Output = Result<T>>, refused: &Reasons) -> Option<T> {
    let outcome = tokio::time::timeout(TIMEOUT, work).await;
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("nothing within {} s", TIMEOUT.as_secs())));
    outcome.inspect_err(|error| refused.add(error)).ok()
}
