//! `swarm idle`.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use holdfast_swarm::fleet::{Counters, Fleet, Plan, Work};
use holdfast_swarm::process::Sample;
use holdfast_swarm::report::{ConnectReport, IdleReport, VERSION};

use super::{publish_report, sample_server};
use crate::args::{MeasureArgs, TargetArgs};

/// Connects, prints `up N`, and keeps the connections for a time or until standard input ends.
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
    /// Reconnect when a connection is lost
    #[arg(long)]
    survive_disconnect: bool,
}

impl Idle {
    pub(crate) fn run(self) -> Result<()> {
        let hub = self.target.load_hub()?;
        let target = self.target.prepare(hub.as_ref())?;
        let pids = self.measure.pids(hub.as_ref());
        let connections = self.target.connections;
        let server_before = sample_server(&pids);
        let own_before = Sample::own()?;
        let started = Instant::now();
        let fleet = Fleet::start(Plan {
            target,
            first: self.target.first,
            connections,
            threads: self.target.threads,
            connect_rate: self.target.connect_rate,
            options: self.target.connection_options(false),
            protocol: self.target.protocol(),
            work: Work::Idle {
                survive_disconnect: self.survive_disconnect,
            },
        })?;
        fleet.wait_up(Duration::from_secs_f64(
            60.0 + f64::from(connections) / self.target.connect_rate * 4.0,
        ))?;
        let seconds = started.elapsed().as_secs_f64();
        let server_up = server_before.and_then(|_| sample_server(&pids));
        let own_up = Sample::own()?;
        println!("up {connections}");
        self.hold(fleet.counters());
        let server_held = server_before.and_then(|_| sample_server(&pids));
        let up = load(&fleet.counters().up);
        let failures = fleet.counters().failures();
        let counters = fleet.counters();
        let [disconnects, refusals, refusals_again] =
            [&counters.disconnects, &counters.refusals, &counters.refusals_again].map(load);
        let outcome = fleet.end(Duration::ZERO)?;
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
            disconnects,
            refusals,
            refusals_again,
            away_us: (&outcome.away).into(),
            ping_us: (&outcome.latency).into(),
            failures,
            server_bytes_per_connection: growth.map(bytes_each),
            generator_bytes_per_connection: bytes_each(own.anonymous_growth_kib),
        };
        publish_report(&report, self.measure.json.as_deref())
    }

    /// Keeps the connections; prints the counters every second when they have changed.
    fn hold(&self, counters: &Counters) {
        let (ended, wait) = mpsc::sync_channel(1);
        if self.until_input_ends {
            thread::spawn(move || {
                let mut rest = [0; 64];
                while matches!(std::io::stdin().read(&mut rest), Ok(1..)) {}
                let _ = ended.send(());
            });
        } else {
            let hold = Duration::from_secs_f64(self.hold);
            thread::spawn(move || {
                thread::sleep(hold);
                let _ = ended.send(());
            });
        }
        let now = || [&counters.up, &counters.disconnects, &counters.refusals].map(load);
        let mut last = now();
        while wait.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            let [up, lost, refused] = now();
            if last != [up, lost, refused] && !self.measure.quiet {
                let (lost, refused) = (lost - last[1], refused - last[2]);
                eprintln!("{up} connected, {lost} lost and {refused} refused in 1 s");
            }
            last = now();
        }
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
