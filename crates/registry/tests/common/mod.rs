//! Registries of several nodes on one thread, with simulated disks and a simulated network between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::ConsensusConfig;
use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::transport::Dispatch;
use holdfast_model::{DeviceId, FEATURE_LEVEL, IdentityId, NodeId, UnixMillis};
use holdfast_registry::{
    Founding, IdentityContent, IdentityWrite, IfMatch, NodeInfo, NodeRole, NodeState, Registry, RegistryConfig, Status,
    WriteOperation,
};
use holdfast_storage::{Kek, Sealer, SimDisk};
use holdfast_testkit::eventually;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

/// Registries, some of which may be down.
pub struct Cluster {
    pub network: SimNetwork,
    pub nodes: BTreeMap<NodeId, Registry>,
    pub disks: BTreeMap<NodeId, SimDisk>,
    pub rng: SmallRng,
    pub config: RegistryConfig,
    sealer: Arc<Sealer>,
}

impl Cluster {
    pub fn new(seed: u64) -> Self {
        Self {
            network: SimNetwork::new(seed),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            config: RegistryConfig::default(),
            sealer: Arc::new(Sealer::generate(&Kek::new([5; 32])).unwrap()),
        }
    }

    /// Nodes 1 to `voters`, all of which vote; node 1 has founded hub and cluster.
    pub async fn of(seed: u64, voters: u64) -> Self {
        let mut cluster = Self::new(seed);
        cluster.grow(voters).await;
        cluster
    }

    pub async fn grow(&mut self, voters: u64) {
        self.start(NodeId(1)).await;
        self.nodes[&NodeId(1)]
            .found_cluster("c1", 3, &node(NodeId(1)))
            .await
            .unwrap();
        for id in 2..=voters {
            self.join(NodeId(id)).await;
        }
        self.nodes[&NodeId(1)]
            .group()
            .set_voters((1..=voters).map(NodeId).collect())
            .await
            .unwrap();
    }

    /// Lets a node in as a learner, by a token, and waits until it has the settings.
    pub async fn join(&mut self, id: NodeId) {
        let first = self.nodes[&NodeId(1)].clone();
        let secret = first
            .create_join_token(Duration::from_secs(60), NodeRole::Core)
            .await
            .unwrap();
        first.admit(&secret, &node(id), FEATURE_LEVEL).await.unwrap();
        first.group().add_learner(id).await.unwrap();
        self.start(id).await;
    }

    /// Starts a node on what its disk holds.
    pub async fn start(&mut self, id: NodeId) {
        let disk = Arc::new(self.disks.entry(id).or_default().clone());
        // A handle of an ended run fails, as expected.
        let on_fatal = holdfast_testkit::ignore_failures();
        let seed = self.rng.random();
        let host = holdfast_testkit::on_sim_network(id, disk, on_fatal, &self.network, Dispatch::new(), seed);
        let base = Instant::now();
        let clock = holdfast_model::Clock::from_fn(move || {
            let since = u64::try_from(base.elapsed().as_millis()).unwrap();
            UnixMillis(1_700_000_000_000 + since)
        });
        let registry = Registry::start(
            &host,
            &ConsensusConfig::default(),
            self.sealer.clone(),
            &Founding::default(),
            clock,
            &self.config,
            id == NodeId(1),
        )
        .await
        .unwrap();
        self.nodes.insert(id, registry);
    }

    /// Cuts a node's power.
    pub fn kill(&mut self, id: NodeId) {
        let Some(registry) = self.nodes.remove(&id) else {
            return;
        };
        self.network.crash(id);
        let disk = self.disks.get_mut(&id).unwrap();
        *disk = disk.crash(&mut self.rng);
        holdfast_tasks::spawn("killed", async move { registry.group().shutdown().await });
    }

    /// Waits until one of `among` leads and the others of them follow it.
    pub async fn leader_of(&self, among: impl IntoIterator<Item = NodeId>) -> NodeId {
        let among: BTreeSet<NodeId> = among.into_iter().collect();
        let mut found = None;
        eventually("a leader", || {
            let leaders: BTreeSet<_> = among.iter().map(|id| self.nodes[id].group().leader()).collect();
            found = leaders.first().copied().flatten().map(|leader| leader.node);
            leaders.len() == 1 && found.is_some_and(|node| among.contains(&node))
        })
        .await;
        found.unwrap()
    }

    pub async fn all_in_lease(&self) {
        eventually("a lease everywhere", || self.nodes.values().all(Registry::in_lease)).await;
    }
}

pub fn node(id: NodeId) -> NodeInfo {
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

pub fn device(id: &str) -> IdentityId {
    IdentityId::device(DeviceId::parse(id).unwrap())
}

pub fn create(id: &str) -> IdentityWrite {
    IdentityWrite {
        id: device(id),
        operation: WriteOperation::Create(IdentityContent::default()),
    }
}

pub fn set_status(id: &str, status: Status) -> IdentityWrite {
    let content = IdentityContent {
        status,
        ..IdentityContent::default()
    };
    IdentityWrite {
        id: device(id),
        operation: WriteOperation::Update(IfMatch::Any, content),
    }
}
