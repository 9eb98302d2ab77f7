//! `swarm provision` and `swarm verify-assigned`.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use holdfast_swarm::hub::Hub;
use holdfast_swarm::provision::{self, Connecting, Fleet, Ledger, Naming, Plan};
use holdfast_swarm::target::Transport;

use super::{block_on, publish_report};
use crate::args::MeasureArgs;

/// The service and the devices.
#[derive(Args)]
pub(crate) struct FleetArgs {
    /// The connection.json of the hub with the service
    #[arg(long, value_name = "FILE")]
    hub: PathBuf,
    /// What the names of the groups and devices begin with
    #[arg(long, default_value = "swarm-")]
    prefix: String,
    /// Enrollment groups by symmetric key; devices belong to them in turn
    #[arg(long, default_value_t = 1)]
    groups: u32,
    /// How devices are named
    #[arg(long, value_enum, default_value = "alike")]
    naming: Naming,
    /// Devices
    #[arg(long, short = 'n', default_value_t = 10_000)]
    devices: u32,
    /// Number of the first device
    #[arg(long, default_value_t = 0)]
    first: u32,
}

impl FleetArgs {
    fn fleet(&self, hub: &Hub) -> Result<Fleet> {
        Fleet::new(hub, &self.prefix, self.groups, self.naming)
    }
}

/// Lets devices register over HTTPS until all are assigned.
#[derive(Args)]
pub(crate) struct Provision {
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Whether each device has a connection of its own
    #[arg(long, value_enum, default_value = "kept")]
    connecting: Connecting,
    /// Clients, with one registration at a time each
    #[arg(long, short, default_value_t = 50)]
    concurrency: usize,
    /// Threads that drive them
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Local addresses to connect from, in turn, when one address runs out of ports
    #[arg(long, value_delimiter = ',')]
    source: Vec<IpAddr>,
    /// Add a line to this file for each assigned device
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Do not create the groups: they exist
    #[arg(long)]
    groups_exist: bool,
}

impl Provision {
    pub(crate) fn run(self) -> Result<()> {
        let hub = Hub::load(&self.fleet.hub)?;
        let fleet = self.fleet.fleet(&hub)?;
        if !self.groups_exist {
            block_on(fleet.create_groups(&hub))?;
        }
        let report = provision::run(Plan {
            description: format!("hub of {}", self.fleet.hub.display()),
            fleet,
            devices: (self.fleet.first, self.fleet.devices),
            addresses: hub.https_nodes()?,
            sources: self.source,
            tls: hub.tls(Transport::Tls13)?.context("provisioning is with TLS")?,
            connecting: self.connecting,
            concurrency: self.concurrency,
            threads: self.threads,
            ledger: self.ledger.as_deref().map(Ledger::append_to).transpose()?,
            pids: self.measure.pids(Some(&hub)),
        })?;
        publish_report(&report, self.measure.json.as_deref())?;
        ensure!(report.lost == 0, "{} devices were not assigned", report.lost);
        Ok(())
    }
}

/// Compares the devices that were answered `assigned` with the devices that the hubs have.
#[derive(Args)]
pub(crate) struct VerifyAssigned {
    #[command(flatten)]
    fleet: FleetArgs,
    /// The ledger of `swarm provision`
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// The connection.json of a linked hub; may be repeated
    #[arg(long, value_name = "FILE")]
    linked: Vec<PathBuf>,
    /// Let every Nth device connect to its hub; 0 = none
    #[arg(long, value_name = "N", default_value_t = 1)]
    connect_every: usize,
    /// Write the report to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl VerifyAssigned {
    pub(crate) fn run(self) -> Result<()> {
        let mut hubs = vec![Hub::load(&self.fleet.hub)?];
        for path in &self.linked {
            hubs.push(Hub::load(path)?);
        }
        let fleet = self.fleet.fleet(&hubs[0])?;
        let ledger = Ledger::read(&self.ledger)?;
        let count = self.fleet.first + self.fleet.devices;
        let verdict = block_on(provision::verify(&ledger, &fleet, count, &hubs, self.connect_every))?;
        publish_report(&verdict, self.json.as_deref())?;
        ensure!(
            verdict.is_clean(),
            "the hubs do not have what the devices were answered"
        );
        Ok(())
    }
}
