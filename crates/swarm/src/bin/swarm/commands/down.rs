//! `swarm down`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use holdfast_swarm::down::{self, Broadcast, Plan, Shape};

use super::publish_report;
use crate::args::{MeasureArgs, TargetArgs};

/// Patches desired properties (of some devices, or once of a whole fleet), reports properties or invokes methods at a hub, and measures.
#[derive(Args)]
pub(crate) struct Down {
    /// The load
    #[arg(value_enum)]
    shape: Shape,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Back ends' HTTPS connections, with one request in flight on each; the devices report by themselves in twin-reports
    #[arg(long, default_value_t = 64)]
    callers: u32,
    /// Requests a second of all together; as many as possible by default
    #[arg(long)]
    rate: Option<f64>,
    /// Milliseconds that a device takes to answer a method; its caller's time is counted without them
    #[arg(long, default_value_t = 0)]
    answer_after: u64,
    /// Seconds to measure
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds of load before measuring begins
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Of twin-broadcast: how many of the devices never read
    #[arg(long, default_value_t = 0)]
    deaf: u32,
    /// Of twin-broadcast: patches of each device
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Of twin-broadcast: bytes of text in each patch
    #[arg(long, default_value_t = 0)]
    padding: usize,
}

impl Down {
    pub(crate) fn run(self) -> Result<()> {
        let hub = self.target.load_hub()?.context("name a --hub")?;
        let begun = || {
            if !self.measure.quiet {
                eprintln!("measuring");
            }
        };
        let plan = Plan {
            target: self.target.prepare(Some(&hub))?,
            description: self.target.description(),
            shape: self.shape,
            first: self.target.first,
            devices: self.target.connections,
            callers: self.callers,
            options: self.target.connection_options(false),
            rate: self.rate,
            answer_after: Duration::from_millis(self.answer_after),
            warmup: Duration::from_secs_f64(self.warmup),
            duration: Duration::from_secs_f64(self.duration),
            broadcast: Broadcast {
                deaf: self.deaf,
                rounds: self.rounds,
                padding: self.padding,
            },
            pids: self.measure.pids(Some(&hub)),
            hub,
        };
        let report = down::run(plan, begun)?;
        publish_report(&report, self.measure.json.as_deref())?;
        ensure!(report.done > 0, "no request had success");
        Ok(())
    }
}
