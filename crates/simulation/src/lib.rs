//! A whole cluster in one process: nodes with registry, partitions, hub, cores and, where wanted, control, on one thread,
//! one simulated network, simulated disks and one clock.
//!
//! Why a crate: several tests use it, and its parts are compiled once, optimized.
//! Invariants: everything that is random follows from the seed, but keys and ETags, which are secrets and come from the
//! operating system: they differ between two runs of a seed, and nothing is decided by them.
//! Not here: faults, clients and promises (`tests/simulation.rs`); the network (`holdfast_consensus::sim`)
//! and the disks (`holdfast_storage::SimDisk`).
//! Start at [`Cluster`].
#![allow(
    clippy::unwrap_used,
    reason = "only tests use it, and one that cannot set itself up fails"
)]

mod client;
mod join;
mod node;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use client::{Client, QUEUED, connect};
use holdfast_auth::Key;
use holdfast_cluster::control::Control;
use holdfast_cluster::placement;
use holdfast_cluster::route::Owner;
use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::{GroupId, Members};
use holdfast_device_hub::{DeviceHub, Refusal};
use holdfast_model::{
    Clock, DeviceId, FEATURE_LEVEL, IdentityId, Incarnation, NodeId, PartitionCount, PartitionId, UnixMillis,
};
use holdfast_partition::{PartitionConfig, StartPosition};
use holdfast_registry::{
    Authentication, ClusterView, IdentityContent, IdentityWrite, IfMatch, NodeInfo, NodeRole, NodeState, WriteOperation,
};
use holdfast_storage::{Disk as _, Kek, Sealer, SimDisk};
use holdfast_testkit::eventually;
pub use join::ask_to_join;
use node::{Boot, Up};
pub use node::{Machine, Node, Setup};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A node that is starting. Boxed, so that its future is compiled here and not in every test.
pub type Booting = Pin<Box<dyn Future<Output = Node>>>;

/// The hub's host name.
pub const HOST: &str = "hub1.example.com";
const START_MS: u64 = 1_900_000_000_000;
/// The nodes of a cluster as it is founded. A controlled one may gain and lose nodes.
pub const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// A second of the simulation.
pub const SECOND: Duration = Duration::from_secs(1);

/// The nodes that run, and the machines that they run on.
pub struct Cluster {
    pub network: SimNetwork,
    pub nodes: BTreeMap<NodeId, Node>,
    pub rng: SmallRng,
    pub machines: BTreeMap<NodeId, Machine>,
    keys: RefCell<BTreeMap<String, Key>>,
    pub disks: BTreeMap<NodeId, SimDisk>,
    incarnations: BTreeMap<NodeId, u64>,
    /// Whether the disk of a node's latest incarnation has failed.
    failed: BTreeMap<NodeId, Arc<AtomicBool>>,
    up: Up,
    sealer: Arc<Sealer>,
    setup: Setup,
    clock: Clock,
    founds: bool,
}

/// A cluster at rest: disks from which others begin.
pub struct Image {
    disks: BTreeMap<NodeId, SimDisk>,
    incarnations: BTreeMap<NodeId, u64>,
    keys: BTreeMap<String, Key>,
    sealer: Arc<Sealer>,
    setup: Setup,
    now: UnixMillis,
}

/// Runs a test on a core's kind of runtime, with a clock that jumps.
pub fn simulate<T>(test: impl Future<Output = T>) -> T {
    holdfast_tasks::block_inline_on_this_thread();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap()
        .block_on(test)
}

/// The hub's clock: goes with the simulated one.
fn clock(from: UnixMillis) -> Clock {
    let began = Instant::now();
    Clock::from_fn(move || UnixMillis(from.0 + u64::try_from(began.elapsed().as_millis()).unwrap()))
}

impl Cluster {
    /// Three nodes, all voters everywhere.
    pub async fn start(seed: u64) -> Self {
        Self::start_as(seed, Setup::default()).await
    }

    pub async fn start_as(seed: u64, setup: Setup) -> Self {
        let controlled = setup.controlled;
        let mut cluster = Self {
            network: SimNetwork::new(seed),
            nodes: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            machines: BTreeMap::new(),
            keys: RefCell::default(),
            disks: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            failed: BTreeMap::new(),
            up: Up::default(),
            sealer: Arc::new(Sealer::generate(&Kek::new([5; 32])).unwrap()),
            setup,
            clock: clock(UnixMillis(START_MS)),
            founds: true,
        };
        cluster.start_node(NodeId(1)).await;
        if !controlled {
            let first = &cluster.nodes[&NodeId(1)].registry;
            first.found_cluster("c1", 3, &info(NodeId(1))).await.unwrap();
        }
        for id in [2, 3] {
            cluster.admit(NodeId(id)).await;
            if !controlled {
                cluster.nodes[&NodeId(1)]
                    .registry
                    .group()
                    .add_learner(NodeId(id))
                    .await
                    .unwrap();
            }
            cluster.start_node(NodeId(id)).await;
        }
        if controlled {
            tokio::time::timeout(120 * SECOND, cluster.placed()).await.unwrap();
        } else {
            cluster.make_voters().await;
        }
        cluster.settled().await;
        cluster
    }

    /// The nodes of `image`, started together, `seed` and all.
    pub async fn resume(seed: u64, image: &Image) -> Self {
        let mut cluster = Self {
            network: SimNetwork::new(seed),
            nodes: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            machines: BTreeMap::new(),
            keys: RefCell::new(image.keys.clone()),
            disks: image.disks.iter().map(|(id, disk)| (*id, disk.copied())).collect(),
            incarnations: image.incarnations.clone(),
            failed: BTreeMap::new(),
            up: Up::default(),
            sealer: image.sealer.clone(),
            setup: image.setup.clone(),
            clock: clock(image.now),
            founds: false,
        };
        let ids: Vec<NodeId> = cluster.disks.keys().copied().collect();
        let boots: Vec<_> = ids.iter().map(|id| cluster.boot(*id)).collect();
        for node in futures_util::future::join_all(boots).await {
            cluster.nodes.insert(node.id, node);
        }
        cluster
    }

    /// Ends the cluster in order, and returns its disks.
    pub async fn into_image(mut self) -> Image {
        let now = self.clock.now();
        for disk in self.disks.values() {
            disk.flush().unwrap();
        }
        let disks = self.disks.iter().map(|(id, disk)| (*id, disk.copied())).collect();
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.die();
        }
        Image {
            disks,
            incarnations: self.incarnations,
            keys: self.keys.into_inner(),
            sealer: self.sealer,
            setup: self.setup,
            now,
        }
    }

    async fn admit(&self, id: NodeId) {
        let first = &self.nodes[&NodeId(1)].registry;
        let secret = first.create_join_token(60 * SECOND, NodeRole::Core).await.unwrap();
        first.admit(&secret, &info(id), FEATURE_LEVEL).await.unwrap();
    }

    /// Waits until every group is as the registry wants it.
    async fn placed(&self) {
        while !self.is_placed() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether every group has the members and the leader that the registry wants.
    pub fn is_placed(&self) -> bool {
        self.has_its_members()
            && self.view().is_some_and(|view| {
                view.placements.iter().all(|placement| {
                    let leader = self.leader(GroupId::partition(placement.partition.0));
                    leader == placement.replicas.first().copied()
                })
            })
    }

    /// Whether every group has the members that the registry wants, with a replica on each of them that runs, and on no
    /// other node.
    pub fn has_its_members(&self) -> bool {
        let Some(view) = self.view() else { return false };
        let in_service = view.nodes.values().all(|node| node.state == NodeState::Active);
        if !in_service || placement::assign(&view) != view.placements {
            return false;
        }
        let all: BTreeSet<NodeId> = view.nodes.keys().copied().collect();
        let registry = self.members(GroupId::REGISTRY).is_some_and(
            |Members {
                 voters,
                 learners,
                 joint,
             }| {
                let wanted = placement::registry_voters(&view, &voters, &BTreeSet::new());
                !joint && voters == wanted && voters.union(&learners).eq(&all)
            },
        );
        registry
            && view.placements.iter().all(|placement| {
                let wanted: BTreeSet<NodeId> = placement.replicas.iter().copied().collect();
                let members = self.members(GroupId::partition(placement.partition.0));
                let runs = |node: &Node| node.partitions.local(placement.partition).is_some();
                let mut nodes = self.nodes.values().filter(|node| all.contains(&node.id));
                members.is_some_and(|members| !members.joint && members.voters == wanted && members.learners.is_empty())
                    && nodes.all(|node| runs(node) == wanted.contains(&node.id))
            })
    }

    /// Per node its state in the registry, its leaderships and sessions; per group its members: for a failure's report.
    pub fn membership(&self) -> String {
        let Some(view) = self.view() else {
            return "no leader of the registry".to_owned();
        };
        let nodes = view.nodes.values().map(|node| {
            let here = self.nodes.get(&node.id).map(|here| {
                let held = view
                    .placements
                    .iter()
                    .filter(|p| here.partitions.local(p.partition).is_some());
                let held: Vec<_> = held.map(|placement| placement.partition.0).collect();
                format!(
                    "holds {held:?}, leads {:?}, {} sessions",
                    here.control.as_ref().map(Control::leads),
                    here.hub.local_session_count()
                )
            });
            format!("{} {:?} {}", node.id, node.state, here.unwrap_or_default())
        });
        let groups = view.placements.iter().map(|placement| {
            let members = self.members(GroupId::partition(placement.partition.0));
            format!(
                "{} wants {:?}, has {members:?}",
                placement.partition.0, placement.replicas
            )
        });
        let registry = self.members(GroupId::REGISTRY);
        format!(
            "nodes {:?}; registry {registry:?}; partitions {:?}; placement as assigned {}",
            nodes.collect::<Vec<_>>(),
            groups.collect::<Vec<_>>(),
            placement::assign(&view) == view.placements
        )
    }

    /// The cluster as the registry's leader knows it.
    fn view(&self) -> Option<Arc<ClusterView>> {
        Some(self.nodes[&self.leader(GroupId::REGISTRY)?].registry.cluster())
    }

    /// The members of a group as its leader knows them.
    fn members(&self, id: GroupId) -> Option<Members> {
        Some(self.nodes[&self.leader(id)?].group(id)?.members())
    }

    /// The node that leads a group, as it says itself; the one of the highest term.
    pub fn leader(&self, id: GroupId) -> Option<NodeId> {
        let leaders = self.nodes.values().filter_map(|node| {
            let leader = node.group(id)?.leader()?;
            (leader.node == node.id).then_some((leader.term, node.id))
        });
        leaders.max().map(|(_, node)| node)
    }

    async fn make_voters(&self) {
        let first = &self.nodes[&NodeId(1)];
        first.registry.group().set_voters(NODES.into()).await.unwrap();
        for id in PartitionCount::DEFAULT.iter() {
            let founder = first.partitions.local(id).unwrap();
            for other in [2, 3] {
                founder.group().add_learner(NodeId(other)).await.unwrap();
            }
            founder.group().set_voters(NODES.into()).await.unwrap();
        }
    }

    pub async fn start_node(&mut self, node: NodeId) {
        let node = self.boot(node).await;
        self.nodes.insert(node.id, node);
    }

    /// Starts a node while others run; it is to be entered when it has started.
    pub fn boot(&mut self, node: NodeId) -> Booting {
        let incarnation = self.incarnations.entry(node).or_default();
        *incarnation += 1;
        // A disk handle of an incarnation that has ended fails, too, so each has its own.
        let failed = Arc::new(AtomicBool::new(false));
        self.failed.insert(node, failed.clone());
        let boot = Boot {
            id: node,
            incarnation: Incarnation(*incarnation),
            failed,
            setup: self.setup.clone(),
            disk: self.disks.entry(node).or_default().clone(),
            machine: self.machines.entry(node).or_default().clone(),
            network: self.network.clone(),
            sealer: self.sealer.clone(),
            clock: self.clock.clone(),
            up: self.up.clone(),
            latency_seed: self.rng.random(),
            founds: self.founds && node == NodeId(1),
        };
        Box::pin(boot.run())
    }

    /// Whether the disk of a node that runs or starts has failed: the process would have ended by itself.
    pub fn has_failed(&self, node: NodeId) -> bool {
        self.failed
            .get(&node)
            .is_some_and(|failed| failed.load(Ordering::Relaxed))
    }

    /// Cuts a node's power.
    pub fn kill(&mut self, node: NodeId) {
        let gone = self.nodes.remove(&node).unwrap();
        self.cut_power(node);
        gone.die();
    }

    /// Cuts the power of all nodes and starts them again.
    pub async fn restart_all(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        ids.iter().for_each(|id| self.kill(*id));
        let boots: Vec<_> = ids.iter().map(|id| self.boot(*id)).collect();
        for node in futures_util::future::join_all(boots).await {
            self.nodes.insert(node.id, node);
        }
        self.settled().await;
    }

    /// Cuts the power of a machine, whatever runs on it.
    pub fn cut_power(&mut self, node: NodeId) {
        self.up.lock().remove(&node);
        self.network.crash(node);
        let disk = self.disks.get_mut(&node).unwrap();
        *disk = disk.crash(&mut self.rng);
    }

    pub fn hub(&self, node: NodeId) -> &Arc<DeviceHub> {
        &self.nodes[&node].hub
    }

    /// Waits until every running node knows the owner of every partition, and is inside its lease.
    pub async fn settled(&self) {
        for id in PartitionCount::DEFAULT.iter() {
            self.owner(id).await;
        }
        eventually("leases", || self.nodes.values().all(|node| node.registry.in_lease())).await;
    }

    /// Whether it is so now.
    pub fn is_settled(&self) -> bool {
        PartitionCount::DEFAULT.iter().all(|id| self.agreed_owner(id).is_some())
            && self.nodes.values().all(|node| node.registry.in_lease())
    }

    fn agreed_owner(&self, id: PartitionId) -> Option<Owner> {
        let mut owners = self.nodes.values().map(|node| node.partitions.owner(id));
        let found = owners
            .next()
            .flatten()
            .filter(|owner| self.nodes.contains_key(&owner.node))?;
        owners.all(|owner| owner == Some(found)).then_some(found)
    }

    /// The owner that all running nodes know.
    pub async fn owner(&self, id: PartitionId) -> Owner {
        let mut found = None;
        eventually("one owner", || {
            found = self.agreed_owner(id);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Lets `node` own the partition of `device`.
    pub async fn owned_by(&self, device: &str, node: NodeId) -> PartitionId {
        let id = partition_of(device);
        let owner = self.owner(id).await;
        if owner.node != node {
            let replica = self.nodes[&owner.node].partitions.local(id).unwrap();
            replica.group().transfer_leader(node).await.unwrap();
            eventually("the transfer", || {
                self.nodes
                    .values()
                    .all(|other| other.partitions.owner(id).is_some_and(|owner| owner.node == node))
            })
            .await;
        }
        id
    }

    pub async fn create(&self, device: &str) {
        let node = self.nodes.values().next().unwrap();
        let write = IdentityWrite {
            id: identity(device),
            operation: WriteOperation::Create(IdentityContent::default()),
        };
        let created = node.registry.write(write).await.unwrap().identity.unwrap();
        self.keys
            .borrow_mut()
            .insert(device.to_owned(), primary_key(&created.authentication));
        let id = created.id;
        eventually("the device everywhere", || {
            self.nodes
                .values()
                .all(|node| node.registry.identity(&id).unwrap().is_some())
        })
        .await;
    }

    /// Deletes a device, and waits until every node knows.
    pub async fn delete(&self, device: &str) {
        let node = self.nodes.values().next().unwrap();
        let id = identity(device);
        let write = IdentityWrite {
            id: id.clone(),
            operation: WriteOperation::Delete(IfMatch::Any),
        };
        node.registry.write(write).await.unwrap();
        eventually("the deletion everywhere", || {
            self.nodes
                .values()
                .all(|node| node.registry.identity(&id).unwrap().is_none())
        })
        .await;
    }

    pub async fn connect(&self, node: NodeId, core: usize, device: &str) -> Result<Client, Refusal> {
        let core = self.nodes[&node].cores[core].clone();
        let key = self.keys.borrow()[device].clone();
        connect(core, device, key).await
    }

    /// As [`Self::connect`], on a task of its own.
    pub fn connecting(&self, node: NodeId, core: usize, device: &str) -> JoinHandle<Result<Client, Refusal>> {
        let core = self.nodes[&node].cores[core].clone();
        let key = self.keys.borrow()[device].clone();
        let device = device.to_owned();
        tokio::task::spawn_local(async move { connect(core, &device, key).await })
    }

    /// The payloads of a device's events, in the order of its partition, as `node`'s replica has them.
    pub async fn events(&self, node: NodeId, device: &str) -> Vec<u64> {
        let id = partition_of(device);
        let replica = self.nodes[&node].partitions.local(id).unwrap();
        replica.group().read_index().await.unwrap();
        let mut reader = replica.reader(StartPosition::Oldest).unwrap();
        let mut payloads = Vec::new();
        while reader.position() < replica.status().next {
            let chunk = reader.next().await.unwrap();
            for event in chunk.events() {
                let event = event.unwrap();
                if event.record.device_id == device {
                    let text = String::from_utf8(event.record.payload.to_vec()).unwrap();
                    payloads.push(text.parse().unwrap());
                }
            }
        }
        payloads
    }
}

pub fn primary_key(authentication: &Authentication) -> Key {
    let Authentication::Sas(keys) = authentication else {
        panic!("{authentication:?}")
    };
    keys.primary.clone()
}

pub fn identity(device: &str) -> IdentityId {
    IdentityId::device(DeviceId::parse(device).unwrap())
}

pub fn partition_of(device: &str) -> PartitionId {
    PartitionCount::DEFAULT.partition_of(&DeviceId::parse(device).unwrap())
}

fn partition_config() -> PartitionConfig {
    PartitionConfig {
        retention_interval: holdfast_model::HumanDuration::secs(3600),
        ..PartitionConfig::default()
    }
}

fn info(id: NodeId) -> NodeInfo {
    NodeInfo {
        id,
        name: format!("n{id}"),
        address: format!("10.0.0.{id}:9000"),
        zone: String::new(),
        role: NodeRole::Core,
        state: NodeState::Joining,
        version: "1.0.0".to_owned(),
        joined: UnixMillis(0),
    }
}
