//! One fault: choice of the target, injection, healing, and waiting until the cluster has recovered.
//!
//! Not here: how each kind is injected (`processes`, `links`, `disks`, `members`).

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::seq::IndexedRandom as _;

use super::Kind;
use super::processes::power_cut;
use crate::cluster::{Cluster, SETTLE_TIMEOUT};
use crate::history::{Fault, Micros};
use crate::interrupt;
use crate::node::disk::DiskFault;

/// Acknowledgements that show that the load continues.
const PROGRESS: u64 = 100;
/// How long the load may take to get them.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);
/// Poll interval while waiting for a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How a fault ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Survived {
    /// Everything works again.
    Yes,
    /// The cluster has not recovered, and why; the run ends.
    No(String),
}

/// The effect of a fault.
pub(super) struct Hit {
    pub(super) nodes: Vec<u32>,
    pub(super) detail: String,
    pub(super) began: Micros,
    pub(super) ended: Micros,
}

/// Injects faults into a cluster and records them.
pub struct Nemesis<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// The faults injected so far.
    pub faults: Vec<Fault>,
}

impl Nemesis<'_> {
    /// Injects one fault, heals it, and waits until the cluster has recovered.
    ///
    /// # Errors
    /// When the run is interrupted.
    pub fn inject(&mut self, kind: Kind) -> Result<Survived> {
        let leaders = self.cluster.leaders();
        let began = self.now();
        let target = self.target(kind, leaders.busiest());
        let result = self.apply(kind, target);
        self.heal();
        let (hit, failed) = match result {
            Ok(hit) => (hit, None),
            Err(error) => {
                interrupt::sleep(Duration::ZERO)?;
                let hit = Hit {
                    nodes: vec![target],
                    detail: format!("node {target}, failed: {error:#}"),
                    began,
                    ended: self.now(),
                };
                (hit, Some(format!("{}: {error:#}", kind.name())))
            }
        };
        let members = self.cluster.members().len().max(self.cluster.setup().nodes as usize);
        self.faults.push(Fault {
            kind: kind.name(),
            detail: hit.detail,
            majority: !matches!(kind, Kind::PowerCutAll | Kind::LyingDisks) && hit.nodes.len() * 2 < members
                || touches_links_only(kind),
            led: leaders.led_by(&hit.nodes),
            nodes: hit.nodes,
            began: hit.began,
            ended: hit.ended,
        });
        if let Some(failed) = failed {
            self.cluster.recorder.anomaly(failed);
        }
        let survived = self.recover()?;
        // The late return of a node belongs to its fault.
        if let (Some(fault), Survived::Yes) = (self.faults.last_mut(), &survived)
            && needs_settling(kind)
        {
            fault.ended = self.cluster.recorder.now();
        }
        Ok(survived)
    }

    pub(super) fn now(&self) -> Micros {
        self.cluster.recorder.now()
    }

    fn target(&mut self, kind: Kind, busiest: Option<u32>) -> u32 {
        let members = self.cluster.members();
        let any = members.choose(&mut self.cluster.rng).copied().unwrap_or(1);
        match kind {
            Kind::KillLeader | Kind::PauseLeader | Kind::MembershipInCrash => busiest.unwrap_or(any),
            Kind::DiskFull => self
                .cluster
                .nodes
                .iter()
                .find(|node| node.disk.is_small())
                .map_or(any, |node| node.number()),
            _ => any,
        }
    }

    fn heal(&mut self) {
        if let Some(links) = self.cluster.network.links() {
            links.heal();
        }
        for node in &self.cluster.nodes {
            node.disk.heal();
            let _ = node.machine.clock(0);
            let _ = node.machine.slow_syncs(Duration::ZERO);
            let _ = node.resume();
        }
    }

    /// Waits until all members are ready, the groups are settled and the load continues. Processes that ended by themselves
    /// are reported and restarted.
    fn recover(&mut self) -> Result<Survived> {
        for ended in self.cluster.died()? {
            let words = self.cluster.node(ended.node).last_errors();
            self.cluster.recorder.anomaly(format!(
                "node {} ended by itself with {}: {words}",
                ended.node, ended.status
            ));
        }
        for number in self.cluster.members() {
            if !self.cluster.node(number).is_running()
                && let Err(error) = self.cluster.restart(number)
            {
                interrupt::sleep(Duration::ZERO)?;
                return Ok(Survived::No(format!("{error:#}")));
            }
        }
        if let Err(error) = self.cluster.wait_settled(SETTLE_TIMEOUT) {
            interrupt::sleep(Duration::ZERO)?;
            return Ok(Survived::No(format!("{error:#}")));
        }
        let (before, ..) = self.cluster.recorder.progress();
        let deadline = Instant::now() + PROGRESS_TIMEOUT;
        while self.cluster.recorder.progress().0 < before + PROGRESS {
            if Instant::now() > deadline {
                return Ok(Survived::No(
                    "devices get no acknowledgements after the fault".to_owned(),
                ));
            }
            interrupt::sleep(POLL_INTERVAL)?;
        }
        Ok(Survived::Yes)
    }

    fn apply(&mut self, kind: Kind, target: u32) -> Result<Hit> {
        match kind {
            Kind::Kill | Kind::KillLeader => self.down(target, |cluster| {
                cluster.node(target).kill().map(|()| "SIGKILL".to_owned())
            }),
            Kind::PowerCut => self.down(target, |cluster| power_cut(cluster, target)),
            Kind::KillInTurn => self.kill_in_turn(target),
            Kind::PowerCutAll => self.power_cut_all(),
            Kind::LyingDisks => self.lying_disks(),
            Kind::Pause | Kind::PauseLeader => self.pause(target),
            Kind::Isolate | Kind::IsolateFully | Kind::Mute | Kind::Deaf | Kind::Split => self.cut(kind, target),
            Kind::Loss | Kind::Delay => self.degrade(kind, target),
            Kind::ClockJump => self.clock_jump(target),
            Kind::SlowSync => self.slow_sync(target),
            Kind::DiskFull => self.disk_full(target),
            Kind::NoRoom => self.disk_fails(target, DiskFault::Full),
            Kind::SyncFails => self.disk_fails(target, DiskFault::SyncFails),
            Kind::FlipLog => self.flip_log(target),
            Kind::FlipTable => self.flip_table(target),
            Kind::Restart => self.restart(&[target]),
            Kind::RollingRestart => self.restart(&self.cluster.members()),
            Kind::MembershipInCrash => self.membership_in_crash(target),
        }
    }

    /// Waits for a random time from the range, in milliseconds; returns the time.
    pub(super) fn wait(&mut self, range: Range<u64>) -> Result<u64> {
        let time = self.cluster.draw(range);
        interrupt::sleep(Duration::from_millis(time))?;
        Ok(time)
    }

    pub(super) fn hit(&self, nodes: Vec<u32>, began: Micros, detail: String) -> Result<Hit> {
        let names = nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        Ok(Hit {
            nodes,
            detail: format!("node {names}: {detail}"),
            began,
            ended: self.now(),
        })
    }

    pub(super) fn other(&mut self, than: u32) -> Result<u32> {
        let others: Vec<u32> = self
            .cluster
            .members()
            .into_iter()
            .filter(|node| *node != than)
            .collect();
        others
            .choose(&mut self.cluster.rng)
            .copied()
            .context("there is no other node")
    }
}

/// Whether only links degrade, so that a majority reaches each other.
fn touches_links_only(kind: Kind) -> bool {
    matches!(kind, Kind::Loss | Kind::Delay)
}

/// Kinds after which replicas are rebuilt.
fn needs_settling(kind: Kind) -> bool {
    matches!(kind, Kind::FlipLog | Kind::FlipTable | Kind::MembershipInCrash)
}
