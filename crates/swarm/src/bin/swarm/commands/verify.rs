//! `swarm verify`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use holdfast_swarm::events::EventHub;
use holdfast_swarm::hub::Hub;
use holdfast_swarm::ledger::Ledger;
use holdfast_swarm::read;
use holdfast_swarm::target::Transport;

use super::{block_on, publish_report};

/// Reads all events of a hub and compares them with the acknowledgements of a fleet. Fails when one is violated.
#[derive(Args)]
pub(crate) struct Verify {
    /// The hub's connection.json
    #[arg(long, value_name = "FILE")]
    hub: PathBuf,
    /// Transport
    #[arg(long, value_enum, default_value = "plain")]
    transport: Transport,
    /// Ledgers of one run
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    ledger: Vec<PathBuf>,
    /// Write the report to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Verify {
    pub(crate) fn run(self) -> Result<()> {
        let (first, others) = self.ledger.split_first().context("no ledger")?;
        let mut ledger = Ledger::load(first)?;
        for other in others {
            ledger.merge(Ledger::load(other)?)?;
        }
        let hub = EventHub::of(&Hub::load(&self.hub)?, self.transport)?;
        let verdict = block_on(read::verify(&hub, &ledger))?;
        publish_report(&verdict, self.json.as_deref())?;
        ensure!(verdict.is_clean(), "the hub violated its guarantees");
        Ok(())
    }
}
