//! The results of a run, as JSON for scripts and as text for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::latency::Latency;
use crate::process::Usage;
use crate::verify::Verdict;

/// The version of the generator, in every report.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How the connections were established.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectReport {
    /// Devices connected.
    pub connections: u64,
    /// From the first connect to the last CONNACK.
    pub seconds: f64,
    /// The server's CPU time per connection, microseconds.
    pub server_cpu_us_per_connection: Option<f64>,
    /// The generator's CPU time per connection, microseconds.
    pub generator_cpu_us_per_connection: f64,
}

/// A process's resource usage over a run, in total and per message.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessReport {
    /// Totals over the measured time.
    #[serde(flatten)]
    pub usage: Usage,
    /// CPU time per acknowledged message or event, microseconds.
    pub cpu_us_per_message: f64,
}

impl ProcessReport {
    /// `usage` over `messages`.
    #[must_use]
    pub fn new(usage: Usage, messages: u64) -> Self {
        Self {
            usage,
            cpu_us_per_message: usage.cpu_us as f64 / messages.max(1) as f64,
        }
    }
}

/// Times from write to acknowledgement over the whole run, microseconds.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "named as usual")]
pub struct LatencyReport {
    pub p50: u32,
    pub p99: u32,
    pub p999: u32,
    pub max: u32,
}

impl From<&Latency> for LatencyReport {
    fn from(latency: &Latency) -> Self {
        Self {
            p50: latency.quantile_us(0.5),
            p99: latency.quantile_us(0.99),
            p999: latency.quantile_us(0.999),
            max: latency.largest_us(),
        }
    }
}

impl fmt::Display for LatencyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, p999, max } = self;
        write!(f, "p50 {p50} µs, p99 {p99} µs, p99.9 {p999} µs, slowest {max} µs")
    }
}

/// One publishing run.
#[derive(Debug, Clone, Serialize)]
pub struct PublishReport {
    /// The generator's version.
    pub version: &'static str,
    /// The server.
    pub target: String,
    /// `plain`, `tls13` or `tls12`.
    pub transport: String,
    /// Unacknowledged messages per device.
    pub window: usize,
    /// Acknowledgements for which a device waited before it filled its window again.
    pub refill: usize,
    /// Payload of every message.
    pub payload_bytes: usize,
    /// Generator threads.
    pub threads: usize,
    /// How the connections were established.
    pub connect: ConnectReport,
    /// The measured time, without warm-up.
    pub seconds: f64,
    /// Acknowledgements in the measured time.
    pub acknowledged: u64,
    /// Acknowledgements a second.
    pub rate: f64,
    /// Acknowledgements from begin to end.
    pub acknowledged_in_all: u64,
    /// Messages handed to sockets from begin to end, resends included.
    pub sent_in_all: u64,
    /// PUBACKs that came in another order than the PUBLISHes.
    pub acknowledged_out_of_order: u64,
    /// PUBACKs of nothing outstanding.
    pub acknowledged_unknown: u64,
    /// Connections lost after CONNACK.
    pub disconnects: u64,
    /// Failed reconnects.
    pub refusals: u64,
    /// Times from the loss of a connection until the device was connected again.
    pub away_us: LatencyReport,
    /// Devices that gave up.
    pub failed: u64,
    /// The reasons why connections failed or were lost, with counts.
    pub failures: BTreeMap<String, u64>,
    /// Times to acknowledgement.
    pub latency_us: LatencyReport,
    /// This process.
    pub generator: ProcessReport,
    /// The server, when its processes were given.
    pub server: Option<ProcessReport>,
    /// The server's usage after the last message, such as compactions, when the run waited for it.
    pub server_settling: Option<Usage>,
    /// The server's CPU time per acknowledged message including the usage after the last message, microseconds.
    pub server_cpu_us_per_message_settled: Option<f64>,
    /// Syncs of the hub's log in the measured time, when its metrics address was given.
    pub syncs: Option<f64>,
}

impl fmt::Display for PublishReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.connect.connections;
        writeln!(
            f,
            "target          {} ({}), {connections} connections × window {}",
            self.target, self.transport, self.window
        )?;
        writeln!(f, "connected       in {:.2} s", self.connect.seconds)?;
        writeln!(
            f,
            "acknowledged    {} in {:.2} s: {:.0} a second",
            self.acknowledged, self.seconds, self.rate
        )?;
        writeln!(f, "acknowledged by {}", self.latency_us)?;
        process_line(f, "generator", &self.generator)?;
        if let Some(server) = &self.server {
            process_line(f, "server", server)?;
        }
        if let Some(cost) = self.server_cpu_us_per_message_settled {
            writeln!(
                f,
                "settled         {cost:.2} µs CPU a message with what the server did afterwards"
            )?;
        }
        if let Some(syncs) = self.syncs {
            let each = self.acknowledged as f64 / syncs.max(1.0);
            writeln!(
                f,
                "syncs           {:.0} a second, one for {each:.1} messages",
                syncs / self.seconds
            )?;
        }
        if self.acknowledged_out_of_order + self.acknowledged_unknown > 0 {
            let (order, unknown) = (self.acknowledged_out_of_order, self.acknowledged_unknown);
            writeln!(
                f,
                "WRONG           {order} PUBACKs out of order, {unknown} of nothing outstanding"
            )?;
        }
        if self.disconnects + self.failed > 0 {
            writeln!(
                f,
                "lost            {} connections, {} devices gave up; {} attempts to connect again failed",
                self.disconnects, self.failed, self.refusals
            )?;
            writeln!(f, "connected again by {}", self.away_us)?;
            for (reason, count) in &self.failures {
                writeln!(f, "                {count} × {reason}")?;
            }
        }
        Ok(())
    }
}

pub(crate) fn process_line(f: &mut fmt::Formatter<'_>, name: &str, process: &ProcessReport) -> fmt::Result {
    let Usage {
        cores,
        voluntary_switches,
        seconds,
        resident_kib,
        ..
    } = process.usage;
    let (cost, switches) = (process.cpu_us_per_message, voluntary_switches as f64 / seconds);
    let resident = resident_kib as f64 / 1024.0;
    writeln!(
        f,
        "{name:<15} {cost:.2} µs CPU a message, {cores:.2} cores, {switches:.0} waits/s, {resident:.0} MiB resident"
    )
}

/// One fleet of idle connections.
#[derive(Debug, Clone, Serialize)]
pub struct IdleReport {
    /// The generator's version.
    pub version: &'static str,
    /// The server.
    pub target: String,
    /// `plain`, `tls13` or `tls12`.
    pub transport: String,
    /// How the connections were established.
    pub connect: ConnectReport,
    /// Still connected at the end.
    pub up: u64,
    /// Connections lost after CONNACK.
    pub disconnects: u64,
    /// Failed reconnects.
    pub refusals: u64,
    /// Those of a device whose attempt before had failed, too.
    pub refusals_again: u64,
    /// Times from the loss of a connection until the device was connected again.
    pub away_us: LatencyReport,
    /// Times from a ping to its answer.
    pub ping_us: LatencyReport,
    /// The reasons why connections were lost, with counts.
    pub failures: BTreeMap<String, u64>,
    /// Growth of the server's anonymous resident memory per connection, bytes.
    pub server_bytes_per_connection: Option<f64>,
    /// Growth of the generator's, bytes.
    pub generator_bytes_per_connection: f64,
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConnectReport {
            connections, seconds, ..
        } = self.connect;
        writeln!(f, "target          {} ({})", self.target, self.transport)?;
        writeln!(
            f,
            "connected       {connections} in {seconds:.2} s; {} at the end",
            self.up
        )?;
        if let Some(cpu) = self.connect.server_cpu_us_per_connection {
            writeln!(f, "server          {cpu:.0} µs CPU a connect")?;
        }
        if let Some(bytes) = self.server_bytes_per_connection {
            writeln!(f, "server          {bytes:.0} bytes resident a connection")?;
        }
        writeln!(
            f,
            "generator       {:.0} bytes resident a connection",
            self.generator_bytes_per_connection
        )?;
        writeln!(f, "pings           answered by {}", self.ping_us)?;
        if self.disconnects > 0 {
            let (lost, refused, again) = (self.disconnects, self.refusals, self.refusals_again);
            writeln!(
                f,
                "lost            {lost} connections; {refused} attempts to connect again failed, {again} of them after one that had failed"
            )?;
            writeln!(f, "connected again by {}", self.away_us)?;
        }
        self.failures
            .iter()
            .try_for_each(|(reason, count)| writeln!(f, "                {count} × {reason}"))
    }
}

/// The result of reading a partition.
#[derive(Debug, Clone, Serialize)]
pub struct ReadReport {
    /// The generator's version.
    pub version: &'static str,
    /// The source of the events.
    pub source: String,
    /// Events read.
    pub events: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// From the first event to the last.
    pub seconds: f64,
    /// Events a second.
    pub rate: f64,
    /// This process.
    pub generator: ProcessReport,
    /// The server, when its processes were given.
    pub server: Option<ProcessReport>,
}

impl fmt::Display for ReadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "source          {}", self.source)?;
        writeln!(
            f,
            "read            {} events in {:.2} s: {:.0} a second",
            self.events, self.seconds, self.rate
        )?;
        process_line(f, "generator", &self.generator)?;
        self.server
            .iter()
            .try_for_each(|server| process_line(f, "server", server))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "acknowledged    {}", self.acknowledged)?;
        let (unacknowledged, resent) = (self.unacknowledged_kept, self.resent_kept);
        writeln!(
            f,
            "read            {} ({unacknowledged} not acknowledged, {resent} sent again)",
            self.events
        )?;
        writeln!(f, "lost            {}", self.lost)?;
        writeln!(f, "doubled         {}", self.doubled)?;
        writeln!(f, "out of order    {}", self.out_of_order)?;
        writeln!(f, "gaps            {}", self.gaps)?;
        writeln!(f, "phantoms        {}", self.phantoms)?;
        writeln!(f, "corrupt         {}", self.corrupt)?;
        writeln!(f, "sequence jumps  {}", self.sequence_jumps)?;
        self.examples.iter().try_for_each(|example| writeln!(f, "  {example}"))
    }
}
