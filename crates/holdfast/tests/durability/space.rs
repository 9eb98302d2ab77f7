//! Disks that are full, and disks that fail: refuse and come back by itself, or stop and say why.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode};
use rustix::fs::{FallocateFlags, fallocate};

use crate::hub::Hub;
use crate::load::{Load, create_devices};
use crate::read_back::read_back;
use crate::rest::request;
use crate::scenario::{Figures, Scenario, run, say, wait_for};
use crate::unsynced::Fault;

/// Longer than the hub may take to notice (it looks twice a second) on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The exit code for a disk that failed (docs/runbook.md).
const STORAGE_FAILED: i32 = 7;
/// Acknowledgements must not move while so many requests are answered.
const QUIET_REQUESTS: u32 = 30;

#[test]
fn a_nearly_full_disk_refuses_writes_serves_reads_and_resumes_by_itself() -> Result<()> {
    run(
        "a_nearly_full_disk_refuses_writes_serves_reads_and_resumes_by_itself",
        |scenario| {
            // Half-way between what is free now and what the ballast leaves, so that others on this disk do not matter.
            let free = free_bytes(scenario.folder.path())?;
            let mut hub = Hub::new(scenario.folder.path())?;
            hub.set("storage.min_free_percent", "0");
            hub.set("storage.min_free", &format!("{}B", free / 8 * 7));
            let reached = hub.start()?;
            create_devices(&reached)?;
            let load = Load::start(&reached)?;
            load.wait_acknowledged(500)?;

            let ballast = Ballast::new(scenario.folder.path(), free / 4)?;
            let code = wait_for(TIMEOUT, "registry writes are refused", || {
                let (status, body) = request(&reached, Method::PUT, "full-disk")?;
                Ok((status == StatusCode::SERVICE_UNAVAILABLE).then_some(body))
            })?;
            ensure!(code.contains("503005"), "the refusal has another code: {code}");
            wait_for(TIMEOUT, "acknowledgements cease", || {
                let before = load.acknowledged();
                for _ in 0..QUIET_REQUESTS {
                    let (status, _) = request(&reached, Method::GET, "one-at-a-time-0000000")?;
                    ensure!(status == StatusCode::OK, "a read is answered with {status}");
                }
                Ok((load.acknowledged() == before).then_some(()))
            })?;
            read_back(&reached, &[]).context("reading events from a full disk")?;

            drop(ballast);
            load.wait_acknowledged(500)?;
            let ledgers = load.end()?;
            let figures = Figures {
                rounds: 1,
                acknowledged: ledgers.iter().map(|ledger| ledger.acknowledged()).sum(),
                verdicts: read_back(&reached, &ledgers)?,
                ready: hub.ready.clone(),
            };
            say(&format!("full disk: {figures}"));
            figures.check()?;
            ensure!(hub.terminate()?.success(), "the hub does not stop in order");
            Ok(())
        },
    )
}

#[test]
fn a_failed_sync_stops_the_hub_and_nothing_acknowledged_is_lost() -> Result<()> {
    run(
        "a_failed_sync_stops_the_hub_and_nothing_acknowledged_is_lost",
        |scenario| fault_stops_the_hub(scenario, Fault::Fail, "it is not retried"),
    )
}

#[test]
fn a_disk_without_any_room_stops_the_hub_and_nothing_acknowledged_is_lost() -> Result<()> {
    run(
        "a_disk_without_any_room_stops_the_hub_and_nothing_acknowledged_is_lost",
        |scenario| fault_stops_the_hub(scenario, Fault::Full, "no space left"),
    )
}

/// The hub stops at `fault`, says `reason`, and starts again when the fault has gone.
fn fault_stops_the_hub(scenario: &Scenario, fault: Fault, reason: &str) -> Result<()> {
    let mut hub = Hub::new(scenario.folder.path())?;
    hub.forget_unsynced()?;
    let reached = hub.start()?;
    create_devices(&reached)?;
    let load = Load::start(&reached)?;
    load.wait_acknowledged(500)?;
    hub.disk()?.begin(fault)?;
    let status = hub.wait_end()?;
    ensure!(status.code() == Some(STORAGE_FAILED), "the hub ended with {status}");
    let said = hub.log();
    ensure!(
        said.contains("the hub had to stop") && said.contains(reason),
        "the hub does not say why"
    );
    hub.disk()?.end(fault)?;
    let reached = hub.start()?;
    load.wait_acknowledged(500)?;
    let ledgers = load.end()?;
    let figures = Figures {
        rounds: 1,
        acknowledged: ledgers.iter().map(|ledger| ledger.acknowledged()).sum(),
        verdicts: read_back(&reached, &ledgers)?,
        ready: hub.ready.clone(),
    };
    say(&format!("{fault:?}: {figures}"));
    figures.check()
}

fn free_bytes(folder: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail * found.f_frsize)
}

/// Room that is taken until this is dropped, or the process is killed: the file has no name.
struct Ballast(#[expect(dead_code, reason = "the file lives as long as this")] File);

impl Ballast {
    fn new(folder: &Path, bytes: u64) -> Result<Self> {
        let file = tempfile::tempfile_in(folder)?;
        fallocate(&file, FallocateFlags::empty(), 0, bytes).context("this file system cannot reserve room")?;
        Ok(Self(file))
    }
}
