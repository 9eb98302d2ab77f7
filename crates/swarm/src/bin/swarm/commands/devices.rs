//! `swarm devices`.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use holdfast_swarm::hub::Hub;
use holdfast_swarm::target::DeviceNames;

use super::block_on;

/// Creates devices, for runs with `--devices-exist`, and to fill a registry.
#[derive(Args)]
pub(crate) struct Devices {
    /// The hub's connection.json
    #[arg(long, value_name = "FILE")]
    hub: PathBuf,
    /// Prefix of the device names
    #[arg(long, default_value = "swarm-")]
    prefix: String,
    /// How many
    #[arg(long, short = 'n')]
    count: u32,
    /// Number of the first
    #[arg(long, default_value_t = 0)]
    first: u32,
}

impl Devices {
    pub(crate) fn run(self) -> Result<()> {
        let started = Instant::now();
        let hub = Hub::load(&self.hub)?;
        create(
            &hub,
            &DeviceNames::new(&self.prefix)?,
            self.first..self.first + self.count,
        )?;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{} devices in {seconds:.2} s: {:.0} a second",
            self.count,
            f64::from(self.count) / seconds
        );
        Ok(())
    }
}

pub(crate) fn create(hub: &Hub, names: &DeviceNames, numbers: Range<u32>) -> Result<()> {
    block_on(holdfast_swarm::devices::create(hub, names, numbers))
}
