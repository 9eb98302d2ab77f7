//! The short form of `make chaos`: a handful of faults of different kinds, and the proof that a run can find a loss.
//!
//! The binary under test comes from HOLDFAST_BIN; without it, it is searched beside this test's own binaries, where
//! `cargo test --workspace` puts it. HOLDFAST_SEED draws the same faults again.
#![expect(
    clippy::disallowed_methods,
    reason = "the environment says which binary to test and which seed to replay"
)]

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use holdfast_chaos::cluster::Setup;
use holdfast_chaos::nemesis::Kind;
use holdfast_chaos::report::Report;
use holdfast_chaos::run::{Options, run};

/// Clusters under load disturb each other: one run at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn binary() -> Result<PathBuf> {
    if let Ok(path) = std::env::var("HOLDFAST_BIN") {
        return Ok(path.into());
    }
    // target/debug/deps/short-… → target/debug/holdfast
    let own = std::env::current_exe()?;
    let folder = own
        .parent()
        .and_then(|deps| deps.parent())
        .context("no target folder")?;
    let path = folder.join("holdfast");
    ensure!(
        path.exists(),
        "build the hub first (cargo build -p holdfast), or set HOLDFAST_BIN"
    );
    Ok(path)
}

fn short_run(nodes: u32, faults: usize, kinds: Vec<Kind>) -> Result<Report> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = std::env::var("HOLDFAST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    let folder = tempfile::Builder::new().prefix("holdfast-chaos-").tempdir()?;
    let options = Options {
        setup: Setup {
            binary: binary()?,
            folder: folder.path().to_owned(),
            nodes,
            spares: 0,
            partitions: 4,
            grace_seconds: 5,
            log_level: "info".to_owned(),
            seed,
        },
        faults,
        kinds,
        devices: 24,
        revocable: 4,
        commanded: 3,
        writers: 3,
        limit: None,
        stop_at_violation: false,
    };
    let report = run(&options, |line| eprintln!("chaos: {line}"));
    let report = report.with_context(|| format!("HOLDFAST_SEED={seed}"))?;
    eprintln!("{}", report.text());
    if !report.is_clean() {
        eprintln!("chaos: logs and data are in {}", folder.keep().display());
    }
    Ok(report)
}

#[test]
fn one_node_keeps_its_promises() -> Result<()> {
    let kinds = [
        Kind::Kill,
        Kind::PowerCut,
        Kind::SyncFails,
        Kind::FlipLog,
        Kind::Restart,
    ];
    let report = short_run(1, kinds.len(), kinds.to_vec())?;
    ensure!(report.is_clean(), "a promise was broken");
    Ok(())
}

/// Every kind that is over in seconds; `make chaos` has the rest.
#[test]
fn three_nodes_keep_their_promises() -> Result<()> {
    let kinds = [
        Kind::KillLeader,
        Kind::PowerCut,
        Kind::PowerCutAll,
        Kind::PauseLeader,
        Kind::Isolate,
        Kind::Mute,
        Kind::Split,
        Kind::Loss,
        Kind::ClockJump,
        Kind::SlowSync,
        Kind::SyncFails,
        Kind::Restart,
    ];
    let report = short_run(3, kinds.len(), kinds.to_vec())?;
    ensure!(report.is_clean(), "a promise was broken");
    Ok(())
}

#[test]
fn a_run_over_disks_that_lie_finds_the_loss() -> Result<()> {
    let report = short_run(1, 1, vec![Kind::LyingDisks])?;
    let lost = report
        .findings
        .iter()
        .any(|finding| finding.promise.starts_with("acknowledged messages") && !finding.is_clean());
    ensure!(lost, "acknowledged messages were lost, and the check did not find it");
    Ok(())
}
