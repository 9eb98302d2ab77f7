//! How each kind of fault is injected, how long it lasts, and how it is healed.

use std::ops::Range;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http::Method;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::Kind;
use crate::cluster::{Cluster, MIN_FREE, SETTLE_PATIENCE, START_PATIENCE};
use crate::history::{Fault, Micros};
use crate::interrupt;
use crate::net::{HOST, Link};
use crate::node::disk::DiskFault;

/// The exit code for a disk that failed or data that is damaged (docs/runbook.md).
const STORAGE_FAILED: i32 = 7;
/// How long a node may take to stop after its disk has failed.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How long a damaged table may go unread.
const READ_PATIENCE: Duration = Duration::from_secs(15);
/// How long a node may take to hand everything over.
const DRAIN_PATIENCE: Duration = Duration::from_secs(120);
/// Acknowledgements that show that the load goes on.
const PROGRESS: u64 = 100;
/// How long the load may take to show that.
const PROGRESS_PATIENCE: Duration = Duration::from_secs(60);
/// How much longer syncs take just before the power is cut: else there is hardly ever anything to forget.
const LATE_SYNC: Duration = Duration::from_millis(60);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How a fault ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Survived {
    /// Everything works again.
    Yes,
    /// It does not, and why: there is no point in going on.
    No(String),
}

/// What a fault hit.
struct Hit {
    nodes: Vec<u32>,
    detail: String,
    began: Micros,
    ended: Micros,
}

/// Breaks a cluster and writes down what was broken.
pub struct Nemesis<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// What has been injected so far.
    pub faults: Vec<Fault>,
}

impl Nemesis<'_> {
    /// Injects one fault, heals it, and waits until the cluster is itself again.
    ///
    /// # Errors
    /// When the run is interrupted.
    pub fn strike(&mut self, kind: Kind) -> Result<Survived> {
        let leaders = self.cluster.leaders();
        let began = self.now();
        let target = self.target(kind, leaders.busiest());
        let result = self.inject(kind, target);
        self.mend();
        let (hit, failed) = match result {
            Ok(hit) => (hit, None),
            Err(error) => {
                interrupt::pause(Duration::ZERO)?;
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
            self.cluster.recorder.oddity(failed);
        }
        let survived = self.recover()?;
        // A node that comes back late belongs to its fault.
        if let (Some(fault), Survived::Yes) = (self.faults.last_mut(), &survived)
            && needs_settling(kind)
        {
            fault.ended = self.cluster.recorder.now();
        }
        Ok(survived)
    }

    fn now(&self) -> Micros {
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

    fn mend(&mut self) {
        if let Some(links) = self.cluster.network.links() {
            links.mend();
        }
        for node in &self.cluster.nodes {
            node.disk.mend();
            let _ = node.machine.clock(0);
            let _ = node.machine.slow_syncs(Duration::ZERO);
            let _ = node.resume();
        }
    }

    /// Waits until all members are ready, the groups are settled and the load goes on; what died by itself is told and
    /// started again.
    fn recover(&mut self) -> Result<Survived> {
        for ended in self.cluster.died()? {
            let words = self.cluster.node(ended.node).last_words();
            self.cluster.recorder.oddity(format!(
                "node {} ended by itself with {}: {words}",
                ended.node, ended.status
            ));
        }
        for number in self.cluster.members() {
            if !self.cluster.node(number).is_running()
                && let Err(error) = self.cluster.restart(number)
            {
                interrupt::pause(Duration::ZERO)?;
                return Ok(Survived::No(format!("{error:#}")));
            }
        }
        if let Err(error) = self.cluster.wait_settled(SETTLE_PATIENCE) {
            interrupt::pause(Duration::ZERO)?;
            return Ok(Survived::No(format!("{error:#}")));
        }
        let (before, ..) = self.cluster.recorder.progress();
        let deadline = std::time::Instant::now() + PROGRESS_PATIENCE;
        while self.cluster.recorder.progress().0 < before + PROGRESS {
            if std::time::Instant::now() > deadline {
                return Ok(Survived::No("devices get no acknowledgements any more".to_owned()));
            }
            interrupt::pause(POLL)?;
        }
        Ok(Survived::Yes)
    }

    fn inject(&mut self, kind: Kind, target: u32) -> Result<Hit> {
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

    /// Waits for a time from the range, in milliseconds; how long that was.
    fn wait(&mut self, range: Range<u64>) -> Result<u64> {
        let time = self.cluster.draw(range);
        interrupt::pause(Duration::from_millis(time))?;
        Ok(time)
    }

    /// A node goes down by `how`, and comes back after a while.
    fn down(&mut self, target: u32, how: impl FnOnce(&mut Cluster) -> Result<String>) -> Result<Hit> {
        let began = self.now();
        let detail = how(self.cluster)?;
        let down = self.wait(0..4_000)?;
        self.cluster.restart(target)?;
        self.hit(vec![target], began, format!("{detail}, down for {down} ms"))
    }

    fn hit(&self, nodes: Vec<u32>, began: Micros, detail: String) -> Result<Hit> {
        let names = nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        Ok(Hit {
            nodes,
            detail: format!("node {names}: {detail}"),
            began,
            ended: self.now(),
        })
    }

    fn other(&mut self, than: u32) -> Result<u32> {
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

    fn kill_in_turn(&mut self, first: u32) -> Result<Hit> {
        let second = self.other(first)?;
        let began = self.now();
        self.cluster.node(first).kill()?;
        self.wait(0..2_000)?;
        self.cluster.restart(first)?;
        self.cluster.node(second).kill()?;
        self.wait(0..2_000)?;
        self.cluster.restart(second)?;
        // One after the other: a majority was there all the time, if not a settled one.
        self.hit(
            vec![first],
            began,
            format!("SIGKILL, then of node {second} as soon as it was back"),
        )
    }

    fn power_cut_all(&mut self) -> Result<Hit> {
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
            self.cluster.node(*number).disk.mend();
            self.cluster.node(*number).machine.slow_syncs(Duration::ZERO)?;
            self.cluster.launch(*number)?;
        }
        for number in &members {
            self.cluster.node(*number).wait_ready(START_PATIENCE)?;
        }
        self.hit(
            members,
            began,
            format!("all lost what was not synced, {forgotten} bytes"),
        )
    }

    fn lying_disks(&mut self) -> Result<Hit> {
        for number in self.cluster.members() {
            self.cluster.node(number).disk.begin(DiskFault::Lies)?;
        }
        self.wait(2_000..3_000)?;
        self.power_cut_all()
    }

    fn pause(&mut self, target: u32) -> Result<Hit> {
        let began = self.now();
        self.cluster.node(target).pause()?;
        let time = self.wait(3_000..15_000);
        self.cluster.node(target).resume()?;
        let time = time?;
        self.hit(vec![target], began, format!("SIGSTOP for {time} ms"))
    }

    fn cut(&mut self, kind: Kind, target: u32) -> Result<Hit> {
        let mut others: Vec<u32> = self
            .cluster
            .members()
            .into_iter()
            .filter(|node| *node != target)
            .collect();
        if kind == Kind::Split {
            others = vec![self.other(target)?];
        }
        if kind == Kind::IsolateFully {
            others.push(HOST);
        }
        let links = self.cluster.network.links().context("there are no links")?.clone();
        let cut = Link {
            cut: true,
            ..Link::default()
        };
        let began = self.now();
        for other in &others {
            if kind != Kind::Deaf {
                links.set(target, *other, cut.clone());
            }
            if kind != Kind::Mute {
                links.set(*other, target, cut.clone());
            }
        }
        let time = self.wait(2_000..12_000);
        links.mend();
        let time = time?;
        self.hit(
            vec![target],
            began,
            format!("{} for {time} ms, from {others:?}", kind.name()),
        )
    }

    fn degrade(&mut self, kind: Kind, target: u32) -> Result<Hit> {
        let members = self.cluster.members();
        let link = if kind == Kind::Loss {
            Link {
                loss: self.cluster.rng.random_range(0.02..0.25),
                ..Link::default()
            }
        } else {
            let least = self.cluster.draw(1_000..40_000);
            Link {
                delay_us: least..least * 2,
                ..Link::default()
            }
        };
        let links = self.cluster.network.links().context("there are no links")?.clone();
        let everywhere = self.cluster.rng.random();
        let began = self.now();
        for from in &members {
            for to in members.iter().filter(|to| *to != from) {
                if everywhere || *from == target || *to == target {
                    links.set(*from, *to, link.clone());
                }
            }
        }
        let time = self.wait(3_000..12_000);
        links.mend();
        let time = time?;
        let place = if everywhere { "all links" } else { "its links" };
        self.hit(
            vec![target],
            began,
            format!(
                "{place}: loss {:.2}, delay {:?} us, for {time} ms",
                link.loss, link.delay_us
            ),
        )
    }

    fn clock_jump(&mut self, target: u32) -> Result<Hit> {
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

    fn slow_sync(&mut self, target: u32) -> Result<Hit> {
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

    fn disk_full(&mut self, target: u32) -> Result<Hit> {
        let began = self.now();
        self.cluster.node(target).disk.fill(MIN_FREE / 2)?;
        let time = self.wait(4_000..8_000);
        self.cluster.node(target).disk.mend();
        let time = time?;
        self.hit(
            vec![target],
            began,
            format!("half of the least free space for {time} ms"),
        )
    }

    /// The node must stop by itself, and say that its disk is the reason.
    fn disk_fails(&mut self, target: u32, fault: DiskFault) -> Result<Hit> {
        let began = self.now();
        self.cluster.node(target).disk.begin(fault)?;
        let status = self.cluster.node(target).wait_end(STOP_PATIENCE);
        self.cluster.node(target).disk.mend();
        let status = status.with_context(|| format!("{fault:?} does not stop the node"))?;
        self.expect_storage_failure(target, status, &format!("{fault:?}"));
        self.wait(0..2_000)?;
        self.cluster.restart(target)?;
        self.hit(vec![target], began, format!("{fault:?}: stopped with {status}"))
    }

    fn expect_storage_failure(&mut self, target: u32, status: ExitStatus, what: &str) {
        if status.code() != Some(STORAGE_FAILED) {
            let words = self.cluster.node(target).last_words();
            self.cluster.recorder.oddity(format!(
                "{what}: node {target} ended with {status} instead of {STORAGE_FAILED}: {words}"
            ));
        }
    }

    fn flip_log(&mut self, target: u32) -> Result<Hit> {
        let began = self.now();
        self.cluster.node(target).kill()?;
        let Cluster { nodes, rng, .. } = &mut *self.cluster;
        let (path, at) = nodes[target as usize - 1].disk.flip_bit("log", rng)?;
        self.cluster.launch(target)?;
        let place = format!("bit {at} of {}", path.display());
        let status = self.cluster.node(target).wait_end(START_PATIENCE);
        let status = status.with_context(|| format!("started with a damaged log ({place})"))?;
        self.expect_storage_failure(target, status, &place);
        self.expect_name(target, &path);
        self.bring_back(target, &path, at)?;
        self.hit(vec![target], began, format!("{place}: refused to start, replaced"))
    }

    fn flip_table(&mut self, target: u32) -> Result<Hit> {
        let began = self.now();
        // An orderly stop writes everything to tables.
        self.cluster.node(target).stop()?;
        let Cluster { nodes, rng, .. } = &mut *self.cluster;
        let (path, at) = nodes[target as usize - 1].disk.flip_bit("sst", rng)?;
        self.cluster.launch(target)?;
        let place = format!("bit {at} of {}", path.display());
        let deadline = std::time::Instant::now() + READ_PATIENCE;
        let mut seen = "not read";
        while std::time::Instant::now() < deadline {
            if let Some(status) = self.cluster.node(target).ended()? {
                self.expect_storage_failure(target, status, &place);
                self.expect_name(target, &path);
                seen = "stopped";
                break;
            }
            interrupt::pause(POLL)?;
        }
        self.cluster.node(target).kill()?;
        self.bring_back(target, &path, at)?;
        self.hit(vec![target], began, format!("{place}: {seen}, replaced"))
    }

    fn expect_name(&mut self, target: u32, path: &std::path::Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let words = self.cluster.node(target).last_words();
        if !words.contains(&name) {
            self.cluster
                .recorder
                .oddity(format!("node {target} does not name the damaged {name}: {words}"));
        }
    }

    /// With others around, a damaged node is replaced; alone, its file is mended.
    fn bring_back(&mut self, target: u32, path: &std::path::Path, at: u64) -> Result<()> {
        if self.cluster.is_cluster() {
            return self.cluster.replace(target);
        }
        crate::node::disk::flip(path, at)?;
        self.cluster.restart(target)
    }

    fn restart(&mut self, targets: &[u32]) -> Result<Hit> {
        let began = self.now();
        for target in targets {
            let status = self.cluster.node(*target).stop()?;
            if !status.success() {
                let words = self.cluster.node(*target).last_words();
                self.cluster
                    .recorder
                    .oddity(format!("node {target} ended with {status} after SIGTERM: {words}"));
            }
            self.wait(0..1_000)?;
            self.cluster.restart(*target)?;
        }
        let mut hit = self.hit(targets.to_vec(), began, "SIGTERM and start".to_owned())?;
        hit.nodes.truncate(if targets.len() > 1 { 1 } else { targets.len() });
        Ok(hit)
    }

    fn membership_in_crash(&mut self, leader: u32) -> Result<Hit> {
        let spare = self.cluster.spare().context("there is no spare node")?;
        let result = self.join_in_crash(leader, spare);
        if result.is_err() {
            // It must not stay as a member that nobody knows of.
            let name = self.cluster.node(spare).config.name.clone();
            self.cluster.reach.remove(spare);
            self.cluster.node(spare).kill()?;
            let _ = self.cluster.forget(&name);
            self.cluster.node(spare).disk.wipe()?;
            self.cluster.rename(spare);
        }
        result
    }

    fn join_in_crash(&mut self, leader: u32, spare: u32) -> Result<Hit> {
        let began = self.now();
        self.cluster.begin_join(spare)?;
        self.wait(0..3_000)?;
        self.cluster.node(leader).kill()?;
        let down = self.wait(0..3_000)?;
        self.cluster.restart(leader)?;
        if self.cluster.node(spare).ended()?.is_some() {
            // Joining needs a leader; a supervisor starts it again, with the same token.
            self.cluster.launch(spare)?;
        }
        self.cluster.finish_join(spare)?;
        let joined = self.now();
        self.cluster.wait_settled(SETTLE_PATIENCE)?;
        self.drain_and_remove(spare)?;
        let mut hit = self.hit(
            vec![leader],
            began,
            format!("SIGKILL for {down} ms while node {spare} joined; then drained and removed"),
        )?;
        hit.ended = hit.ended.max(joined);
        Ok(hit)
    }

    fn drain_and_remove(&mut self, number: u32) -> Result<()> {
        let name = self.cluster.node(number).config.name.clone();
        self.cluster
            .admin(Method::POST, &format!("/holdfast/v1/nodes/{name}/drain"), None)?;
        let deadline = std::time::Instant::now() + DRAIN_PATIENCE;
        loop {
            let status = self.cluster.status().unwrap_or_default();
            let nodes = status
                .get("nodes")
                .and_then(serde_json::Value::as_array)
                .cloned()
                .unwrap_or_default();
            let node = nodes
                .iter()
                .find(|node| node.get("name").and_then(serde_json::Value::as_str) == Some(&name));
            if node
                .and_then(|node| node.get("state")?.as_str())
                .is_some_and(|state| state.eq_ignore_ascii_case("drained"))
            {
                break;
            }
            if std::time::Instant::now() > deadline {
                bail!("{name} is not drained after {} s: {node:?}", DRAIN_PATIENCE.as_secs());
            }
            interrupt::pause(POLL)?;
        }
        self.cluster.reach.remove(number);
        self.cluster
            .admin(Method::DELETE, &format!("/holdfast/v1/nodes/{name}"), None)?;
        self.cluster.node(number).kill()?;
        self.cluster.node(number).disk.wipe()?;
        self.cluster.rename(number);
        Ok(())
    }
}

fn power_cut(cluster: &mut Cluster, target: u32) -> Result<String> {
    let before = cluster.draw(200..1_000);
    let Cluster { nodes, rng, .. } = cluster;
    let node = &mut nodes[target as usize - 1];
    node.machine.slow_syncs(LATE_SYNC)?;
    interrupt::pause(Duration::from_millis(before))?;
    let forgotten = node.cut_power(rng)?;
    node.machine.slow_syncs(Duration::ZERO)?;
    Ok(format!("lost what was not synced, {forgotten} bytes"))
}

/// Links between nodes are hit, and a majority reaches each other.
fn touches_links_only(kind: Kind) -> bool {
    matches!(kind, Kind::Loss | Kind::Delay)
}

/// Kinds after which replicas are made anew.
fn needs_settling(kind: Kind) -> bool {
    matches!(kind, Kind::FlipLog | Kind::FlipTable | Kind::MembershipInCrash)
}
