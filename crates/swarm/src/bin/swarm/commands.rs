//! One file per subcommand; here the parts that they share.

pub(crate) mod accept_tls;
pub(crate) mod connects;
pub(crate) mod devices;
pub(crate) mod down;
pub(crate) mod idle;
pub(crate) mod multiplex;
pub(crate) mod provision;
pub(crate) mod publish;
pub(crate) mod read;
pub(crate) mod rotate;
pub(crate) mod subscribe;
pub(crate) mod verify;

use std::path::Path;

use anyhow::{Context, Result};
use holdfast_swarm::process::Sample;
use serde::Serialize;
use tokio::runtime::Builder;

/// Runs `work` on a runtime of its own: for preparation and reading, not for measured publishing.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?
        .block_on(work)
}

/// Prints the report and writes it to `json`, if given.
pub(crate) fn publish_report<R: Serialize + std::fmt::Display>(report: &R, json: Option<&Path>) -> Result<()> {
    print!("{report}");
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_vec_pretty(report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The resource usage of the server's processes so far; `None` when there are none, or one has ended: a run that restarts
/// the server keeps its ledger.
pub(crate) fn sample_server(pids: &[u32]) -> Option<Sample> {
    if pids.is_empty() {
        return None;
    }
    Sample::take(pids)
        .inspect_err(|error| eprintln!("the server's resource usage is not measured: {error:#}"))
        .ok()
}
