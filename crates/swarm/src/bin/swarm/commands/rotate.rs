//! `swarm rotate`.

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use holdfast_swarm::rotate::{self, Plan};

use super::publish_report;
use crate::args::{MeasureArgs, TargetArgs};

/// Replaces the keys of devices, the CA of their certificates and the keys of a policy while the devices are connected and a back end
/// calls; fails when one of them is disturbed.
#[derive(Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    measure: MeasureArgs,
    /// Groups in which devices are given new credentials
    #[arg(long, default_value_t = 5)]
    waves: u32,
    /// Connections of random devices that break in a second
    #[arg(long, default_value_t = 20.0)]
    cuts: f64,
    /// Times that both keys of the policy are replaced
    #[arg(long, default_value_t = 5)]
    policy_rounds: u32,
    /// Connections of the back end
    #[arg(long, default_value_t = 4)]
    callers: u32,
}

impl Rotate {
    pub(crate) fn run(self) -> Result<()> {
        let hub = self.target.load_hub()?.context("name a --hub")?;
        let quiet = self.measure.quiet;
        let plan = Plan {
            target: self.target.resolve(Some(&hub))?,
            devices: self.target.connections,
            options: self.target.connection_options(false),
            waves: self.waves,
            cuts_a_second: self.cuts,
            policy_rounds: self.policy_rounds,
            callers: self.callers,
            hub,
        };
        let report = rotate::run(plan, move |step| {
            if !quiet {
                eprintln!("{step}");
            }
        })?;
        publish_report(&report, self.measure.json.as_deref())?;
        ensure!(report.is_clean(), "a rotation disturbed devices or the back end");
        Ok(())
    }
}
