//! `swarm publish`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use holdfast_swarm::acknowledgements::Acknowledgements;
use holdfast_swarm::batch::Shape;
use holdfast_swarm::fleet::{Counters, Fleet, Plan, Publish, Work};
use holdfast_swarm::http;
use holdfast_swarm::marker::MARKER_BYTES;
use holdfast_swarm::process::{Sample, Usage};
use holdfast_swarm::report::{ConnectReport, ProcessReport, PublishReport, VERSION};
use holdfast_swarm::target::Target;

use super::{block_on, publish_report, sample_server};
use crate::args::{MeasureArgs, TargetArgs};

/// The hub's counter of syncs of its log.
const SYNCS_METRIC: &str = "holdfast_storage_syncs_total";

/// Publishes and measures; with `--ledger`, records the acknowledgements for `verify`.
#[derive(Args)]
pub(crate) struct PublishCommand {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Unacknowledged messages that each device keeps in flight
    #[arg(long, short, default_value_t = 1)]
    window: usize,
    /// Acknowledgements to wait for before the window is filled again; 1 keeps it full, the window's size sends whole
    /// windows
    #[arg(long, default_value_t = 1)]
    refill: usize,
    /// Milliseconds from one message of a device to its next, on average; 0: the next follows its acknowledgement
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    pace: f64,
    /// Payload bytes
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Seconds to measure
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds to publish before measuring begins
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Messages of each device, instead of a duration
    #[arg(long)]
    messages: Option<u64>,
    /// Seconds to wait for outstanding acknowledgements at the end
    #[arg(long, default_value_t = 10.0)]
    drain: f64,
    /// Seconds for which the server's usage is measured after the end, so that deferred work counts
    #[arg(long, default_value_t = 0.0)]
    settle: f64,
    /// Reconnect when a connection is lost, and send the unacknowledged messages again
    #[arg(long)]
    survive_disconnect: bool,
    /// Write the ledger of acknowledgements to this file
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Write the time and the device of each acknowledgement to this file: microseconds since 1970 in 8 bytes, the device's number in 4, little-endian
    #[arg(long, value_name = "FILE")]
    acknowledgements: Option<PathBuf>,
    /// The run's number in every marker, for processes that share a ledger; random by default
    #[arg(long)]
    run: Option<u64>,
}

/// A snapshot of all counters, taken at the beginning and at the end of the measured time.
struct Mark {
    at: Instant,
    acknowledged: u64,
    own: Sample,
    server: Option<Sample>,
    syncs: Option<f64>,
}

impl Mark {
    fn take(counters: &Counters, pids: &[u32], metrics: Option<&str>) -> Result<Self> {
        let syncs = match metrics {
            Some(url) => block_on(http::read_metric(url, SYNCS_METRIC))?,
            None => None,
        };
        Ok(Self {
            at: Instant::now(),
            acknowledged: load(&counters.acknowledged),
            own: Sample::own()?,
            server: sample_server(pids),
            syncs,
        })
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl PublishCommand {
    pub(crate) fn run(self) -> Result<()> {
        ensure!(
            self.ledger.is_none() || self.payload >= MARKER_BYTES,
            "a ledger needs payloads of at least {MARKER_BYTES} bytes"
        );
        ensure!((1..=65_535).contains(&self.window), "a window is 1 to 65,535 messages");
        let hub = self.target.load_hub()?;
        let target = self.target.prepare(hub.as_ref())?;
        let pids = self.measure.pids(hub.as_ref());
        let metrics = self.measure.metrics(hub.as_ref());
        ensure!((0.0..=3_600_000.0).contains(&self.pace), "a pace is 0 to 3,600,000 ms");
        let times = self.acknowledgements.as_deref().map(Acknowledgements::create);
        let times = times.transpose()?.map(Arc::new);
        let plan = self.plan(target, times.clone());
        let before = Mark::take(&Counters::default(), &pids, None)?;
        let fleet = Fleet::start(plan)?;
        let connections = self.target.connections;
        fleet.wait_up(Duration::from_secs_f64(
            60.0 + f64::from(connections) / self.target.connect_rate * 4.0,
        ))?;
        let up = Mark::take(fleet.counters(), &pids, None)?;
        let connect = connect_report(u64::from(connections), &before, &up);

        fleet.begin();
        if self.messages.is_none() {
            thread::sleep(Duration::from_secs_f64(self.warmup));
        }
        let start = Mark::take(fleet.counters(), &pids, metrics.as_deref())?;
        self.wait(&fleet);
        let end = Mark::take(fleet.counters(), &pids, metrics.as_deref())?;
        let outcome = fleet.end(Duration::from_secs_f64(self.drain))?;
        if let Some(times) = times {
            times.finish()?;
        }
        if let Some(path) = &self.ledger {
            outcome.ledger.save(path)?;
        }
        let settling = self.settle(&pids)?;
        let report = self.report(connect, &start, &end, settling, &outcome);
        publish_report(&report, self.measure.json.as_deref())?;
        ensure!(
            report.acknowledged_out_of_order + report.acknowledged_unknown == 0,
            "the server acknowledged in another order than it was sent to"
        );
        ensure!(
            self.survive_disconnect || report.failed == 0,
            "{} devices were lost",
            report.failed
        );
        Ok(())
    }

    fn plan(&self, target: Target, acknowledgements: Option<Arc<Acknowledgements>>) -> Plan {
        let run = self.run.unwrap_or_else(rand::random);
        let shape = Shape {
            topic: target.topic.clone(),
            payload_bytes: self.payload,
            run,
        };
        Plan {
            target,
            first: self.target.first,
            connections: self.target.connections,
            threads: self.target.threads,
            connect_rate: self.target.connect_rate,
            options: self.target.connection_options(self.survive_disconnect),
            protocol: self.target.protocol(),
            work: Work::Publish(Publish {
                shape,
                window: self.window,
                refill: self.refill,
                messages: self.messages,
                survive_disconnect: self.survive_disconnect,
                pace: Duration::from_secs_f64(self.pace / 1000.0),
                acknowledgements,
            }),
        }
    }

    /// Waits for the measured time, or until all messages are acknowledged; prints the progress.
    fn wait(&self, fleet: &Fleet) {
        let end = match self.messages {
            Some(_) => Instant::now() + Duration::from_secs(24 * 3600),
            None => Instant::now() + Duration::from_secs_f64(self.duration),
        };
        let mut last = load(&fleet.counters().acknowledged);
        while Instant::now() < end {
            let step = Duration::from_secs(1).min(end.saturating_duration_since(Instant::now()));
            if fleet.wait_finished(step) {
                return;
            }
            let now = load(&fleet.counters().acknowledged);
            if !self.measure.quiet {
                let up = load(&fleet.counters().up);
                eprintln!(
                    "{} acknowledged in {:.1} s, {up} connected",
                    now - last,
                    step.as_secs_f64()
                );
            }
            last = now;
        }
    }

    fn settle(&self, pids: &[u32]) -> Result<Option<Usage>> {
        if self.settle == 0.0 || pids.is_empty() {
            return Ok(None);
        }
        let ended = Sample::take(pids)?;
        thread::sleep(Duration::from_secs_f64(self.settle));
        Ok(Some(Sample::take(pids)?.since(&ended)))
    }

    fn report(
        &self,
        connect: ConnectReport,
        start: &Mark,
        end: &Mark,
        settling: Option<Usage>,
        outcome: &holdfast_swarm::fleet::Outcome,
    ) -> PublishReport {
        let acknowledged = end.acknowledged - start.acknowledged;
        let seconds = end.at.duration_since(start.at).as_secs_f64();
        let counters = &outcome.counters;
        let server = start
            .server
            .zip(end.server)
            .map(|(from, to)| ProcessReport::new(to.since(&from), acknowledged));
        let settled = server.as_ref().zip(settling).map(|(server, after)| {
            server.cpu_us_per_message + after.cpu_us as f64 / load(&counters.acknowledged).max(1) as f64
        });
        PublishReport {
            version: VERSION,
            target: self.target.description(),
            transport: self.target.transport_name(),
            window: self.window,
            refill: self.refill,
            payload_bytes: self.payload,
            threads: self.target.threads,
            connect,
            seconds,
            acknowledged,
            rate: acknowledged as f64 / seconds,
            acknowledged_in_all: load(&counters.acknowledged),
            sent_in_all: load(&counters.sent),
            acknowledged_out_of_order: load(&counters.out_of_order),
            acknowledged_unknown: load(&counters.unknown),
            disconnects: load(&counters.disconnects),
            refusals: load(&counters.refusals),
            away_us: (&outcome.away).into(),
            failed: load(&counters.failed),
            failures: counters.failures(),
            latency_us: (&outcome.latency).into(),
            generator: ProcessReport::new(end.own.since(&start.own), acknowledged),
            server,
            server_settling: settling,
            server_cpu_us_per_message_settled: settled,
            syncs: start.syncs.zip(end.syncs).map(|(from, to)| to - from),
        }
    }
}

fn connect_report(connections: u64, before: &Mark, up: &Mark) -> ConnectReport {
    let each = |usage: Usage| usage.cpu_us as f64 / connections as f64;
    ConnectReport {
        connections,
        seconds: up.at.duration_since(before.at).as_secs_f64(),
        server_cpu_us_per_connection: before.server.zip(up.server).map(|(from, to)| each(to.since(&from))),
        generator_cpu_us_per_connection: each(up.own.since(&before.own)),
    }
}
