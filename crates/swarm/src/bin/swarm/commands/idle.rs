//! `swarm idle`.

use std::io::Read;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use holdfast_swarm::fleet::{Fleet, Plan, Work};
use holdfast_swarm::process::Sample;
use holdfast_swarm::report::{ConnectReport, IdleReport, VERSION};

use super::publish_report;
use crate::args::{MeasureArgs, TargetArgs};

/// Connects, says `up N`, and holds the connections for a time or until its input ends.
#[derive(Args)]
pub(crate) struct Idle {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Seconds to hold the connections once all are up
    #[arg(long, default_value_t = 5.0)]
    hold: f64,
    /// Hold them until standard input ends instead
    #[arg(long)]
    until_input_ends: bool,
}

impl Idle {
    pub(crate) fn run(self) -> Result<()> {
        let hub = self.target.load_hub()?;
        let target = self.target.prepare(hub.as_ref())?;
        let pids = self.measure.pids(hub.as_ref());
        let connections = self.target.connections;
        let server_before = (!pids.is_empty()).then(|| Sample::take(&pids)).transpose()?;
        let own_before = Sample::own()?;
        let started = Instant::now();
        let fleet = Fleet::start(Plan {
            target,
            first: self.target.first,
            connections,
            threads: self.target.threads,
            connect_rate: self.target.connect_rate,
            habits: self.target.habits(false),
            work: Work::Idle,
        })?;
        fleet.wait_up(Duration::from_secs_f64(
            60.0 + f64::from(connections) / self.target.connect_rate * 4.0,
        ))?;
        let seconds = started.elapsed().as_secs_f64();
        let server_up = server_before.map(|_| Sample::take(&pids)).transpose()?;
        let own_up = Sample::own()?;
        println!("up {connections}");
        self.hold();
        let server_held = server_before.map(|_| Sample::take(&pids)).transpose()?;
        let up = fleet.counters().up.load(Ordering::Relaxed);
        let failures = fleet.counters().failures();
        fleet.end(Duration::ZERO)?;
        let each = f64::from(connections);
        let own = own_up.since(&own_before);
        let bytes_each = |kib: i64| kib as f64 * 1024.0 / each;
        let connect_use = server_before.zip(server_up).map(|(before, up)| up.since(&before));
        let growth = server_before
            .zip(server_held)
            .map(|(before, held)| held.since(&before).anonymous_growth_kib);
        let report = IdleReport {
            version: VERSION,
            target: self.target.description(),
            transport: self.target.transport_name(),
            connect: ConnectReport {
                connections: u64::from(connections),
                seconds,
                server_cpu_us_per_connection: connect_use.map(|usage| usage.cpu_us as f64 / each),
                generator_cpu_us_per_connection: own.cpu_us as f64 / each,
            },
            up,
            failures,
            server_bytes_per_connection: growth.map(bytes_each),
            generator_bytes_per_connection: bytes_each(own.anonymous_growth_kib),
        };
        publish_report(&report, self.measure.json.as_deref())
    }

    fn hold(&self) {
        if !self.until_input_ends {
            return thread::sleep(Duration::from_secs_f64(self.hold));
        }
        let (ended, wait) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let mut rest = [0; 64];
            while matches!(std::io::stdin().read(&mut rest), Ok(1..)) {}
            let _ = ended.send(());
        });
        let _ = wait.recv();
    }
}
