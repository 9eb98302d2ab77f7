//! Faults of processes and of the machines that they run on.

use std::time::Duration;

use anyhow::Result;
use rand::Rng as _;

use super::injection::{Hit, Nemesis};
use crate::cluster::{Cluster, START_TIMEOUT};
use crate::interrupt;
use crate::node::disk::DiskFault;

/// Added to the time of a sync just before the power is cut: otherwise there is hardly ever unsynced data.
const LATE_SYNC: Duration = Duration::from_millis(60);

impl Nemesis<'_> {
    /// Takes a node down by `how`, and restarts it after a while.
    pub(super) fn down(&mut self, target: u32, how: impl FnOnce(&mut Cluster) -> Result<String>) -> Result<Hit> {
        let began = self.now();
        let detail = how(self.cluster)?;
        let down = self.wait(0..4_000)?;
        self.cluster.restart(target)?;
        self.hit(vec![target], began, format!("{detail}, down for {down} ms"))
    }

    pub(super) fn kill_in_turn(&mut self, first: u32) -> Result<Hit> {
        let second = self.other(first)?;
        let began = self.now();
        self.cluster.node(first).kill()?;
        self.wait(0..2_000)?;
        self.cluster.restart(first)?;
        self.cluster.node(second).kill()?;
        self.wait(0..2_000)?;
        self.cluster.restart(second)?;
        // One after the other: a majority was up all the time, although perhaps not a settled one.
        self.hit(
            vec![first],
            began,
            format!("SIGKILL, then of node {second} as soon as it was back"),
        )
    }

    pub(super) fn power_cut_all(&mut self) -> Result<Hit> {
        let members = self.cluster.members();
        let began = self.now();
        for number in &members {
            self.cluster.node(*number).machine.slow_syncs(LATE_SYNC)?;
        }
        self.wait(200..1_000)?;
        for number in &members {
            self.cluster.node(*number).kill()?;
        }
        let mut forgotten = 0;
        for number in &members {
            let Cluster { nodes, rng, .. } = &mut *self.cluster;
            forgotten += nodes[*number as usize - 1].disk.forget(rng)?;
        }
        for number in &members {
            self.cluster.node(*number).disk.heal();
            self.cluster.node(*number).machine.slow_syncs(Duration::ZERO)?;
            self.cluster.launch(*number)?;
        }
        for number in &members {
            self.cluster.node(*number).wait_ready(START_TIMEOUT)?;
        }
        self.hit(
            members,
            began,
            format!("all lost what was not synced, {forgotten} bytes"),
        )
    }

    pub(super) fn lying_disks(&mut self) -> Result<Hit> {
        for number in self.cluster.members() {
            self.cluster.node(number).disk.begin(DiskFault::Lies)?;
        }
        self.wait(2_000..3_000)?;
        self.power_cut_all()
    }

    pub(super) fn pause(&mut self, target: u32) -> Result<Hit> {
        let began = self.now();
        self.cluster.node(target).pause()?;
        let time = self.wait(3_000..15_000);
        self.cluster.node(target).resume()?;
        let time = time?;
        self.hit(vec![target], began, format!("SIGSTOP for {time} ms"))
    }

    pub(super) fn clock_jump(&mut self, target: u32) -> Result<Hit> {
        let seconds = self.cluster.rng.random_range(2..900_i64) * if self.cluster.rng.random() { 1 } else { -1 };
        let began = self.now();
        self.cluster.node(target).machine.clock(seconds)?;
        let time = self.wait(3_000..10_000);
        self.cluster.node(target).machine.clock(0)?;
        let time = time?;
        self.hit(
            vec![target],
            began,
            format!("wall clock off by {seconds} s for {time} ms"),
        )
    }

    pub(super) fn slow_sync(&mut self, target: u32) -> Result<Hit> {
        let by = self.cluster.draw(20..400);
        let began = self.now();
        self.cluster
            .node(target)
            .machine
            .slow_syncs(Duration::from_millis(by))?;
        let time = self.wait(3_000..12_000);
        self.cluster.node(target).machine.slow_syncs(Duration::ZERO)?;
        let time = time?;
        self.hit(
            vec![target],
            began,
            format!("every sync takes {by} ms more, for {time} ms"),
        )
    }

    pub(super) fn restart(&mut self, targets: &[u32]) -> Result<Hit> {
        let began = self.now();
        for target in targets {
            let status = self.cluster.node(*target).stop()?;
            if !status.success() {
                let words = self.cluster.node(*target).last_errors();
                self.cluster
                    .recorder
                    .anomaly(format!("node {target} ended with {status} after SIGTERM: {words}"));
            }
            self.wait(0..1_000)?;
            self.cluster.restart(*target)?;
        }
        let mut hit = self.hit(targets.to_vec(), began, "SIGTERM and start".to_owned())?;
        hit.nodes.truncate(if targets.len() > 1 { 1 } else { targets.len() });
        Ok(hit)
    }
}

pub(super) fn power_cut(cluster: &mut Cluster, target: u32) -> Result<String> {
    let before = cluster.draw(200..1_000);
    let Cluster { nodes, rng, .. } = cluster;
    let node = &mut nodes[target as usize - 1];
    node.machine.slow_syncs(LATE_SYNC)?;
    interrupt::sleep(Duration::from_millis(before))?;
    let forgotten = node.cut_power(rng)?;
    node.machine.slow_syncs(Duration::ZERO)?;
    Ok(format!("lost what was not synced, {forgotten} bytes"))
}
