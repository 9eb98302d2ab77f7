//! The result of a run.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::connects::{Cost, show_reasons};
use crate::report::LatencyReport;

/// Whether each device has a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Connecting {
    /// A client keeps its connection and registers one device after the other.
    Kept,
    /// Each device connects, registers and closes.
    Anew,
}

/// The devices that were assigned, and what it cost.
#[derive(Debug, Clone, Serialize)]
pub struct ProvisionReport {
    /// The generator's version.
    pub version: &'static str,
    /// The service.
    pub target: String,
    /// The connections.
    pub connecting: Connecting,
    /// Enrollment groups of the fleet.
    pub groups: u32,
    /// Clients.
    pub concurrency: usize,
    /// Devices that were to register.
    pub devices: u32,
    /// From the first registration to the last answer.
    pub seconds: f64,
    /// Devices that were assigned.
    pub registered: u64,
    /// Devices that were not assigned in time.
    pub lost: u64,
    /// Assigned devices a second.
    pub rate: f64,
    /// From the begin of a device's registration, its connection included, until it is assigned.
    pub latency_us: LatencyReport,
    /// Looks at operations in progress.
    pub polls: u64,
    /// Assigned devices by hub.
    pub hubs: BTreeMap<String, u64>,
    /// Attempts that failed and were repeated, by reason.
    pub failures: BTreeMap<String, u64>,
    /// This process.
    pub generator: Cost,
    /// The server, when its processes were given and lived.
    pub server: Option<Cost>,
}

impl fmt::Display for ProvisionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connecting = match self.connecting {
            Connecting::Kept => "kept connections",
            Connecting::Anew => "a connection for each device",
        };
        let Self {
            target,
            groups,
            concurrency,
            devices,
            registered,
            lost,
            seconds,
            rate,
            ..
        } = self;
        writeln!(
            f,
            "target          {target}, {groups} group(s), {concurrency} clients, {connecting}"
        )?;
        writeln!(
            f,
            "assigned        {registered} of {devices} in {seconds:.2} s: {rate:.0} a second; not in time: {lost}"
        )?;
        writeln!(f, "assigned by     {}", self.latency_us)?;
        writeln!(f, "polls           {}", self.polls)?;
        for (hub, count) in &self.hubs {
            let share = 100.0 * *count as f64 / (*registered).max(1) as f64;
            writeln!(f, "hub             {hub}: {count}, {share:.2} %")?;
        }
        let costs = [("generator", Some(&self.generator)), ("server", self.server.as_ref())];
        for (name, cost) in costs {
            if let Some(cost) = cost {
                let (cpu, cores) = (cost.cpu_us_per_connect, cost.usage.cores);
                writeln!(f, "{name:<15} {cpu:.1} µs CPU a device, {cores:.2} cores")?;
            }
        }
        show_reasons(f, "repeated", &self.failures)
    }
}
