//! `swarm connects` and `swarm storm`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use holdfast_swarm::connects::{self, Credential, Plan, Registration};

use super::{block_on, publish_report};
use crate::args::{MeasureArgs, TargetArgs};

/// The devices and their credentials.
#[derive(Args)]
pub(crate) struct CredentialArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    measure: MeasureArgs,
    /// How the devices prove themselves; bare-tls and bare-mtls are for `swarm accept-tls`
    #[arg(long, value_enum, default_value = "sas")]
    credential: Credential,
    /// CAs that the hub is to have; the devices' one is among them
    #[arg(long, default_value_t = 1)]
    authorities: u32,
    /// The folder with the CA that the reference server trusts
    #[arg(long, value_name = "FOLDER")]
    device_ca: Option<PathBuf>,
}

impl CredentialArgs {
    /// A plan without times.
    fn plan(&self, concurrency: usize) -> Result<Plan> {
        let hub = self.target.load_hub()?;
        let target = self.target.resolve(hub.as_ref())?;
        let registration = Registration {
            hub: hub.as_ref(),
            tls: target.tls,
            names: &target.names,
            count: self.target.connections,
            authorities: self.authorities,
            device_ca: self.device_ca.clone(),
        };
        Ok(Plan {
            description: self.target.description(),
            credential: self.credential,
            transport: self.target.transport_name(),
            authorities: self.authorities,
            address: target.address,
            sources: target.sources,
            devices: block_on(registration.prepare(self.credential))?,
            concurrency,
            threads: self.target.threads,
            options: self.target.connection_options(false),
            warmup: Duration::ZERO,
            duration: Duration::ZERO,
            pids: self.measure.pids(hub.as_ref()),
        })
    }
}

/// Opens and closes connections in a closed loop: rate, CPU per connect, times, refusals.
#[derive(Args)]
pub(crate) struct Connects {
    #[command(flatten)]
    credentials: CredentialArgs,
    /// Clients, with one connection at a time each; `-n` devices are dealt to them
    #[arg(long, short, default_value_t = 50)]
    concurrency: usize,
    /// Seconds to measure
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds before measuring begins
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
}

impl Connects {
    pub(crate) fn run(self) -> Result<()> {
        let report = connects::run(Plan {
            warmup: Duration::from_secs_f64(self.warmup),
            duration: Duration::from_secs_f64(self.duration),
            ..self.credentials.plan(self.concurrency)?
        })?;
        publish_report(&report, self.credentials.measure.json.as_deref())?;
        ensure!(report.connects > 0, "no connection was accepted");
        Ok(())
    }
}

/// Lets all devices begin their TLS handshakes at once: the server's memory for each, and how long it takes.
#[derive(Args)]
pub(crate) struct Storm {
    #[command(flatten)]
    credentials: CredentialArgs,
}

impl Storm {
    pub(crate) fn run(self) -> Result<()> {
        let report = connects::storm(&self.credentials.plan(1)?)?;
        publish_report(&report, self.credentials.measure.json.as_deref())
    }
}
