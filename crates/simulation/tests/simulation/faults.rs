//! The schedule of faults, drawn from the seed: kind, beginning and duration.
//!
//! A seed draws first which kinds of faults it has at all: a run of crashes alone finds other defects than one of
//! everything at once. Every fault ends; [`Faults::heal`] ends all of them now.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_consensus::GroupId;
use holdfast_model::NodeId;
use holdfast_storage::{Disk as _, DiskSpace, StorageError};
use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use tokio::time::Instant;

use crate::world::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The power of one node is cut.
    PowerCut,
    /// The power of all nodes is cut at once.
    PowerCutAll,
    /// A node stops in order and starts again.
    Restart,
    /// A node is cut off from all others, both ways.
    Isolate,
    /// One node is not heard by another.
    Mute,
    /// Two nodes do not reach each other; the third reaches both.
    Split,
    /// Calls and answers are lost.
    Loss,
    /// Everything takes longer on the network.
    Delay,
    /// The syncs of a node take longer.
    SlowSync,
    /// A node does nearly nothing for a while: its disk hangs, and it is cut off.
    Stall,
    /// A sync of a node fails: it must end.
    SyncFails,
    /// A write of a node fails: it must end.
    WriteFails,
    /// The disk of a node is nearly full.
    Full,
    /// The leadership of a group is handed to another node.
    Transfer,
    /// The state of a node goes to files, and the registry's log is trimmed: a node that returns later needs a snapshot.
    Trim,
}

const KINDS: [Kind; 15] = [
    Kind::PowerCut,
    Kind::PowerCutAll,
    Kind::Restart,
    Kind::Isolate,
    Kind::Mute,
    Kind::Split,
    Kind::Loss,
    Kind::Delay,
    Kind::SlowSync,
    Kind::Stall,
    Kind::SyncFails,
    Kind::WriteFails,
    Kind::Full,
    Kind::Transfer,
    Kind::Trim,
];

/// The end of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Links,
    Loss,
    Delay,
    Syncs(u64),
    Space(u64),
    Start(u64),
}

pub(crate) struct Faults {
    rng: SmallRng,
    kinds: Vec<Kind>,
    next: Instant,
    ends: BTreeMap<End, Instant>,
    pub(crate) count: usize,
}

const USUAL_DELAY: std::ops::RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_micros(500);

impl Faults {
    pub(crate) fn new(mut rng: SmallRng) -> Self {
        let count = rng.random_range(2..=KINDS.len());
        let kinds = KINDS.choose_multiple(&mut rng, count).copied().collect();
        Self {
            rng,
            kinds,
            next: Instant::now(),
            ends: BTreeMap::new(),
            count: 0,
        }
    }

    /// Begins and ends what is due; nothing begins from `until` on.
    pub(crate) fn step(&mut self, world: &mut World, until: Instant) {
        let now = Instant::now();
        for node in world.failed() {
            world.shared.note(format!("{node} ends: its disk has failed"));
            world.kill(node);
        }
        for node in world.machines() {
            if !world.is_there(node) {
                let after = Duration::from_millis(self.rng.random_range(10..2_000));
                self.ends.entry(End::Start(node.get())).or_insert(now + after);
            }
        }
        let due: Vec<End> = self
            .ends
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(end, _)| *end)
            .collect();
        for end in due {
            self.ends.remove(&end);
            apply(end, world);
        }
        if now >= self.next && now < until {
            let kind = *self.kinds.choose(&mut self.rng).unwrap();
            self.begin(kind, world);
            self.count += 1;
            self.next = now + Duration::from_millis(self.rng.random_range(20..1_200));
        }
    }

    /// Ends everything at once.
    pub(crate) fn heal(&mut self, world: &mut World) {
        world.shared.note("heals".to_owned());
        world.cluster.disks.values().for_each(holdfast_storage::SimDisk::heal);
        for end in std::mem::take(&mut self.ends).into_keys() {
            apply(end, world);
        }
    }

    fn node(&mut self, world: &World) -> NodeId {
        let nodes = world.machines();
        NodeId((nodes[self.rng.random_range(0..nodes.len())]).get())
    }

    fn two(&mut self, world: &World) -> (u64, u64) {
        let nodes = world.machines();
        let at = self.rng.random_range(0..nodes.len());
        let other = (at + self.rng.random_range(1..nodes.len())) % nodes.len();
        ((nodes[at]).get(), (nodes[other]).get())
    }

    fn lasts(&mut self, end: End, millis: std::ops::Range<u64>) {
        let after = Duration::from_millis(self.rng.random_range(millis));
        self.ends.insert(end, Instant::now() + after);
    }

    fn begin(&mut self, kind: Kind, world: &mut World) {
        let (node, other) = self.two(world);
        world.shared.note(format!("{kind:?} {node} {other}"));
        match kind {
            Kind::PowerCut => world.kill(NodeId(node)),
            Kind::PowerCutAll => world.machines().into_iter().for_each(|node| world.kill(node)),
            Kind::Restart => world.stop(NodeId(node)),
            Kind::Isolate => {
                world.cluster.network.isolate(NodeId(node));
                self.lasts(End::Links, 100..3_500);
            }
            Kind::Mute => {
                world.cluster.network.cut_one_way(NodeId(node), NodeId(other));
                self.lasts(End::Links, 100..3_500);
            }
            Kind::Split => {
                world.cluster.network.cut(NodeId(node), NodeId(other));
                self.lasts(End::Links, 100..3_500);
            }
            Kind::Loss => {
                let loss = self.rng.random_range(0.01..0.25);
                world.cluster.network.set_loss(loss);
                self.lasts(End::Loss, 200..3_000);
            }
            Kind::Delay => {
                let most = Duration::from_millis(self.rng.random_range(1..80));
                world.cluster.network.set_delay(*USUAL_DELAY.start()..=most);
                self.lasts(End::Delay, 200..3_000);
            }
            Kind::SlowSync => {
                let extra = self.rng.random_range(5_000..400_000);
                slow(world, NodeId(node), extra);
                self.lasts(End::Syncs(node), 200..3_000);
            }
            Kind::Stall => {
                slow(world, NodeId(node), 2_000_000);
                world.cluster.network.isolate(NodeId(node));
                self.lasts(End::Syncs(node), 200..2_500);
                let at = self.ends[&End::Syncs(node)];
                self.ends.insert(End::Links, at);
            }
            Kind::SyncFails => {
                world.cluster.disks[&NodeId(node)].fail_syncs(StorageError::Io("the disk is on fire".into()));
            }
            Kind::WriteFails => {
                world.cluster.disks[&NodeId(node)].fail_writes(StorageError::NoSpace("the disk is full".into()));
            }
            Kind::Full => {
                world.cluster.disks[&NodeId(node)].set_space(DiskSpace {
                    free: 0,
                    total: 1 << 40,
                });
                self.lasts(End::Space(node), 500..3_000);
            }
            Kind::Transfer => {
                let group = GroupId(self.rng.random_range(0..5));
                let leader = world
                    .cluster
                    .leader(group)
                    .and_then(|leader| world.cluster.nodes.get(&leader));
                if let Some(group) = leader.and_then(|leader| leader.group(group)) {
                    let transfer = async move {
                        let _ = group.transfer_leader(NodeId(node)).await;
                    };
                    holdfast_tasks::spawn("transfer", Box::pin(transfer));
                }
            }
            Kind::Trim => {
                let node = self.node(world);
                // A disk that fails says so by itself.
                let flushed = world.cluster.disks[&node].flush().is_ok();
                if let Some(node) = world.cluster.nodes.get(&node).filter(|_| flushed) {
                    let registry = node.registry.clone();
                    let trim = async move {
                        let _ = registry.trim_log().await;
                    };
                    holdfast_tasks::spawn("trim", Box::pin(trim));
                }
            }
        }
    }
}

fn slow(world: &World, node: NodeId, micros: u64) {
    let machine = &world.cluster.machines[&node];
    machine.sync_extra.store(micros, Ordering::Relaxed);
}

fn apply(end: End, world: &mut World) {
    match end {
        End::Links => world.cluster.network.heal_all(),
        End::Loss => world.cluster.network.set_loss(0.0),
        End::Delay => world.cluster.network.set_delay(USUAL_DELAY),
        End::Syncs(node) => slow(world, NodeId(node), 0),
        End::Space(node) => world.cluster.disks[&NodeId(node)].set_space(DiskSpace {
            free: 1 << 40,
            total: 1 << 40,
        }),
        End::Start(node) => {
            world.cluster.disks[&NodeId(node)].heal();
            world.start(NodeId(node));
        }
    }
}
