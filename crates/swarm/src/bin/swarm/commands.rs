//! One file per subcommand; here what they share.

pub(crate) mod devices;
pub(crate) mod idle;
pub(crate) mod publish;
pub(crate) mod read;
pub(crate) mod subscribe;
pub(crate) mod verify;

use std::path::Path;

use anyhow::{Context, Result};
use holdfast_swarm::process::Sample;
use serde::Serialize;
use tokio::runtime::Builder;

/// Runs `work` on a runtime of its own: preparation and reading, nothing that is measured in itself.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?
        .block_on(work)
}

/// Prints the report and writes it to `json`, when asked.
pub(crate) fn publish_report<R: Serialize + std::fmt::Display>(report: &R, json: Option<&Path>) -> Result<()> {
    print!("{report}");
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_vec_pretty(report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// What the server's processes have used so far; `None` when there are none, or one has gone: a restart is no reason to
/// lose the ledger of a run that is about it.
pub(crate) fn sample_server(pids: &[u32]) -> Option<Sample> {
    if pids.is_empty() {
        return None;
    }
    Sample::take(pids)
        .inspect_err(|error| eprintln!("the server's use is not measured: {error:#}"))
        .ok()
}
