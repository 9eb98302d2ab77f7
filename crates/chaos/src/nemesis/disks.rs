//! Faults of disks: full, failing, and with flipped bits.

use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::injection::{Hit, Nemesis};
use crate::cluster::{Cluster, MIN_FREE, START_TIMEOUT};
use crate::interrupt;
use crate::node::disk::{DiskFault, flip};

/// The exit code for a disk that failed or data that is damaged (docs/runbook.md).
const STORAGE_FAILED: i32 = 7;
/// How long a node may take to stop after its disk has failed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a damaged table may stay unread.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Poll interval while waiting for a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Nemesis<'_> {
    pub(super) fn disk_full(&mut self, target: u32) -> Result<Hit> {
        let began = self.now();
        // Not less: the mirror of the synced data is on the same small disk and must not run out of space.
        self.cluster.node(target).disk.fill(MIN_FREE / 8 * 7)?;
        let time = self.wait(4_000..8_000);
        self.cluster.node(target).disk.heal();
        let time = time?;
        self.hit(
            vec![target],
            began,
            format!("an eighth less than the least free space for {time} ms"),
        )
    }

    /// The node must stop by itself, and say that its disk is the reason.
    pub(super) fn disk_fails(&mut self, target: u32, fault: DiskFault) -> Result<Hit> {
        let began = self.now();
        self.cluster.node(target).disk.begin(fault)?;
        let status = self.cluster.node(target).wait_end(STOP_TIMEOUT);
        self.cluster.node(target).disk.heal();
        let status = status.with_context(|| format!("{fault:?} does not stop the node"))?;
        self.expect_storage_failure(target, status, &format!("{fault:?}"));
        self.wait(0..2_000)?;
        self.cluster.restart(target)?;
        self.hit(vec![target], began, format!("{fault:?}: stopped with {status}"))
    }

    fn expect_storage_failure(&mut self, target: u32, status: ExitStatus, what: &str) {
        if status.code() != Some(STORAGE_FAILED) {
            let words = self.cluster.node(target).last_errors();
            self.cluster.recorder.anomaly(format!(
                "{what}: node {target} ended with {status} instead of {STORAGE_FAILED}: {words}"
            ));
        }
    }

    pub(super) fn flip_log(&mut self, target: u32) -> Result<Hit> {
        let began = self.now();
        self.cluster.node(target).kill()?;
        let Cluster { nodes, rng, .. } = &mut *self.cluster;
        let (path, at) = nodes[target as usize - 1].disk.flip_bit("log", rng)?;
        self.cluster.launch(target)?;
        let place = format!("bit {at} of {}", path.display());
        let status = self.cluster.node(target).wait_end(START_TIMEOUT);
        let status = status.with_context(|| format!("started with a damaged log ({place})"))?;
        self.expect_storage_failure(target, status, &place);
        self.expect_name(target, &path);
        self.bring_back(target, &path, at)?;
        self.hit(vec![target], began, format!("{place}: refused to start, replaced"))
    }

    pub(super) fn flip_table(&mut self, target: u32) -> Result<Hit> {
        let began = self.now();
        // An orderly stop writes everything to tables.
        self.cluster.node(target).stop()?;
        let Cluster { nodes, rng, .. } = &mut *self.cluster;
        let (path, at) = nodes[target as usize - 1].disk.flip_bit("sst", rng)?;
        self.cluster.launch(target)?;
        let place = format!("bit {at} of {}", path.display());
        let deadline = Instant::now() + READ_TIMEOUT;
        let mut seen = "not read";
        while Instant::now() < deadline {
            if let Some(status) = self.cluster.node(target).ended()? {
                self.expect_storage_failure(target, status, &place);
                self.expect_name(target, &path);
                seen = "stopped";
                break;
            }
            interrupt::sleep(POLL_INTERVAL)?;
        }
        self.cluster.node(target).kill()?;
        self.bring_back(target, &path, at)?;
        self.hit(vec![target], began, format!("{place}: {seen}, replaced"))
    }

    fn expect_name(&mut self, target: u32, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let words = self.cluster.node(target).last_errors();
        if !self.cluster.node(target).log_since_start().contains(&name) {
            self.cluster
                .recorder
                .anomaly(format!("node {target} does not name the damaged {name}: {words}"));
        }
    }

    /// Replaces a damaged node of a cluster; repairs the file of a single node.
    fn bring_back(&mut self, target: u32, path: &Path, at: u64) -> Result<()> {
        if self.cluster.is_cluster() {
            return self.cluster.replace(target);
        }
        flip(path, at)?;
        self.cluster.restart(target)
    }
}
