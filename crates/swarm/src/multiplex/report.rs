//! The result of a run.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::report::{LatencyReport, ProcessReport, process_line};

/// What one feature did.
#[derive(Debug, Clone, Serialize)]
pub struct Feature {
    /// Successes.
    pub done: u64,
    /// A second.
    pub rate: f64,
    /// How long each took.
    pub latency_us: LatencyReport,
}

/// How the acknowledged messages are spread over the devices.
#[derive(Debug, Clone, Serialize)]
pub struct Shares {
    /// Messages of the device with the fewest.
    pub least: u64,
    /// One device of a hundred has fewer.
    pub p1: u64,
    /// Half of the devices have fewer.
    pub median: u64,
    /// One device of a hundred has more.
    pub p99: u64,
    /// Messages of the device with the most.
    pub most: u64,
    /// The longest time between two acknowledgements of one device, microseconds.
    pub longest_silence_us: u64,
}

/// One run of gateways.
#[derive(Debug, Clone, Serialize)]
pub struct MultiplexReport {
    /// The generator's version.
    pub version: &'static str,
    /// The hub.
    pub target: String,
    /// Connections.
    pub connections: u32,
    /// Devices of each.
    pub devices_a_connection: u32,
    /// The measured time.
    pub seconds: f64,
    /// Messages of devices, from the write to `accepted`.
    pub telemetry: Feature,
    /// Reports of properties, to their answer.
    pub reported: Feature,
    /// Patches of desired properties, from the request to the device.
    pub desired: Feature,
    /// Methods, from the request to the answer of the device at the caller.
    pub methods: Feature,
    /// Messages to devices, from the request to the device.
    pub messages: Feature,
    /// Patches that the hub has taken.
    pub desired_sent: u64,
    /// Messages to devices that the hub has taken.
    pub messages_sent: u64,
    /// How even the devices' telemetry is.
    pub shares: Shares,
    /// Lost connections, refusals, and answers that did not come.
    pub errors: BTreeMap<String, u64>,
    /// This process.
    pub generator: ProcessReport,
    /// The server, when its processes were given.
    pub server: Option<ProcessReport>,
}

impl MultiplexReport {
    /// Whether nothing failed, and every device was served.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
            && self.shares.least > 0
            && self.desired.done >= self.desired_sent
            && self.messages.done >= self.messages_sent
    }
}

impl fmt::Display for MultiplexReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connections, devices) = (self.connections, self.devices_a_connection);
        writeln!(
            f,
            "target          {}, {connections} connections of {devices} devices, {:.1} s",
            self.target, self.seconds
        )?;
        let features = [
            ("telemetry", &self.telemetry),
            ("reported", &self.reported),
            ("desired", &self.desired),
            ("methods", &self.methods),
            ("messages", &self.messages),
        ];
        for (name, feature) in features {
            let Feature { done, rate, latency_us } = feature;
            writeln!(f, "{name:<15} {done}, {rate:.0} a second, {latency_us}")?;
        }
        writeln!(
            f,
            "taken           {} patches of desired properties, {} messages to devices",
            self.desired_sent, self.messages_sent
        )?;
        let Shares {
            least,
            p1,
            median,
            p99,
            most,
            longest_silence_us,
        } = self.shares;
        writeln!(
            f,
            "each device     {least} to {most} messages accepted (median {median}, 98 % {p1} to {p99}), longest silence {:.1} s",
            longest_silence_us as f64 / 1e6
        )?;
        process_line(f, "generator", &self.generator)?;
        if let Some(server) = &self.server {
            process_line(f, "server", server)?;
        }
        self.errors
            .iter()
            .try_for_each(|(reason, count)| writeln!(f, "ERROR           {count} × {reason}"))
    }
}
