//! Several nodes on one thread, with simulated disks and a simulated network between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::transport::{Dispatch, Transport};
use holdfast_consensus::{ConsensusConfig, Group, GroupHost, GroupId};
use holdfast_model::NodeId;
use holdfast_storage::SimDisk;
use holdfast_testkit::eventually;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Applied, Journal};

pub const PARTITION: GroupId = GroupId::partition(0);

/// A running node.
pub struct Node {
    pub group: Group,
    pub applied: Applied,
    pub transport: Arc<dyn Transport>,
    pub host: GroupHost,
}

impl Node {
    pub fn applied(&self) -> Vec<Bytes> {
        self.applied.lock().unwrap().clone()
    }
}

/// The nodes of a test, some of which may be down.
pub struct Cluster {
    pub network: SimNetwork,
    pub nodes: BTreeMap<NodeId, Node>,
    pub disks: BTreeMap<NodeId, SimDisk>,
    pub rng: SmallRng,
    pub config: ConsensusConfig,
}

impl Cluster {
    pub fn new(seed: u64) -> Self {
        Self {
            network: SimNetwork::new(seed),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            config: ConsensusConfig::default(),
        }
    }

    /// Nodes 1 to `voters`, all of which vote; node 1 has founded the group.
    pub async fn of(seed: u64, voters: u64) -> Self {
        let mut cluster = Self::new(seed);
        for id in 1..=voters {
            cluster.start(NodeId(id)).await;
        }
        let first = &cluster.nodes[&NodeId(1)].group;
        first.bootstrap().await.unwrap();
        for id in 2..=voters {
            first.add_learner(NodeId(id)).await.unwrap();
        }
        first.set_voters((1..=voters).map(NodeId).collect()).await.unwrap();
        cluster
    }

    /// Starts a node on what its disk holds.
    pub async fn start(&mut self, id: NodeId) {
        let disk = self.disks.entry(id).or_default().clone();
        let network = &self.network;
        // A handle of an ended run fails, as expected.
        let on_fatal = holdfast_testkit::ignore_failures();
        let seed = self.rng.random();
        let host = holdfast_testkit::on_sim_network(id, Arc::new(disk), on_fatal, network, Dispatch::new(), seed);
        let transport = host.transport.clone();
        let journal = Journal::recover(PARTITION, host.disk.clone());
        let applied = journal.entries();
        let group = Group::start(PARTITION, &host, Box::new(journal), &self.config)
            .await
            .unwrap();
        let node = Node {
            group,
            applied,
            transport,
            host,
        };
        self.nodes.insert(id, node);
    }

    /// Cuts a node's power.
    pub fn kill(&mut self, id: NodeId) {
        let Some(node) = self.nodes.remove(&id) else { return };
        self.network.crash(id);
        let disk = self.disks.get_mut(&id).unwrap();
        *disk = disk.crash(&mut self.rng);
        // Its tasks would continue to tick otherwise; their writes no longer reach the disk.
        holdfast_tasks::spawn("killed", async move { node.group.shutdown().await });
    }

    pub fn group(&self, id: NodeId) -> &Group {
        &self.nodes[&id].group
    }

    /// Waits until one node leads and all others that run follow it.
    pub async fn leader(&self) -> NodeId {
        self.leader_of(&self.nodes.keys().copied().collect()).await
    }

    /// The same among some.
    pub async fn leader_of(&self, nodes: &BTreeSet<NodeId>) -> NodeId {
        let mut found = None;
        eventually("a leader", || {
            let leaders: BTreeSet<_> = nodes.iter().map(|id| self.group(*id).leader()).collect();
            found = leaders.first().copied().flatten().map(|leader| leader.node);
            leaders.len() == 1 && found.is_some_and(|node| nodes.contains(&node))
        })
        .await;
        found.unwrap()
    }

    /// Waits until all running nodes have applied the same `count` entries.
    pub async fn all_applied(&self, count: usize) -> Vec<Bytes> {
        eventually("the same entries everywhere", || {
            self.nodes.values().all(|node| node.applied().len() >= count)
        })
        .await;
        let first = self.nodes.values().next().unwrap().applied();
        for (id, node) in &self.nodes {
            assert_eq!(node.applied(), first, "node {id}");
        }
        first
    }
}
