//! `swarm multiplex`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use holdfast_swarm::multiplex::{self, Plan};

use super::publish_report;
use crate::args::{MeasureArgs, TargetArgs};

/// Gateways: -n devices on AMQP connections of --devices-a-connection each, with telemetry, messages, methods and twins at once; fails
/// when anything fails, or a device is not served.
#[derive(Args)]
pub(crate) struct Multiplex {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Unsettled messages that each device keeps in flight
    #[arg(long, short, default_value_t = 4)]
    window: usize,
    /// Messages a second of all devices together; as many as the window allows by default
    #[arg(long)]
    rate: Option<f64>,
    /// Reports of properties a second of all devices together
    #[arg(long, default_value_t = 200.0)]
    reports: f64,
    /// Back ends' HTTPS connections, with one request in flight on each
    #[arg(long, default_value_t = 32)]
    callers: u32,
    /// Requests a second of all back ends together: patches, methods and messages in turn
    #[arg(long, default_value_t = 300.0)]
    calls: f64,
    /// Payload bytes
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Seconds
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
}

impl Multiplex {
    pub(crate) fn run(self) -> Result<()> {
        let hub = self.target.load_hub()?.context("name a --hub")?;
        let each = self.target.devices_a_connection;
        ensure!(
            each > 0 && self.target.connections.is_multiple_of(each),
            "-n is a multiple of --devices-a-connection"
        );
        let begun = || {
            if !self.measure.quiet {
                eprintln!("measuring");
            }
        };
        let plan = Plan {
            target: self.target.prepare_gateways(&hub)?,
            description: self.target.description(),
            first: self.target.first,
            connections: self.target.connections / each,
            devices_a_connection: each,
            window: self.window,
            rate: self.rate,
            reports: self.reports,
            callers: self.callers,
            calls: self.calls,
            payload_bytes: self.payload,
            duration: Duration::from_secs_f64(self.duration),
            pids: self.measure.pids(Some(&hub)),
            hub,
        };
        let report = multiplex::run(plan, begun)?;
        publish_report(&report, self.measure.json.as_deref())?;
        ensure!(report.is_clean(), "something failed, or a device was not served");
        Ok(())
    }
}
