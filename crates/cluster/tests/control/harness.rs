//! A cluster in one process: registry, partitions and control of every node over a simulated network and simulated disks,
//! on a paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_cluster::control::{
    ClusterBootstrap, Control, ControlConfig, ControlParts, HostError, Hosted, NodeFacts, PeerDirectory, ReplicaHost,
};
use holdfast_cluster::join::{JoinAnswer, JoinError, Joiner, join};
use holdfast_cluster::route::Partitions;
use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::transport::{Call, Dispatch, Transport};
use holdfast_consensus::{ConsensusConfig, GroupHost, GroupId, has_data};
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, DeviceId, GenerationId, IdentityId, Incarnation, NodeId, PartitionCount,
    PartitionId, TelemetryMessage, Term, UnixMillis,
};
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, StreamId};
use holdfast_partition::{Partition, PartitionConfig};
use holdfast_registry::{ClusterView, Founding, NodeInfo, NodeRole, NodeState, Registry, RegistryConfig};
use holdfast_storage::{Disk, DiskSpace, Kek, Sealer, SimDisk};
use holdfast_tasks::sync::Mutex;
use holdfast_tasks::watch;
use holdfast_tasks::{Phase, Stop};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) const CLUSTER: &str = "c-1";
pub(crate) const PARTITIONS: PartitionCount = PartitionCount::DEFAULT;
/// Timeout of every condition, on the simulated clock.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// The running nodes, as a perfect failure detector.
type Up = Arc<Mutex<BTreeSet<NodeId>>>;

struct Directory {
    up: Up,
    addresses: Mutex<BTreeMap<NodeId, String>>,
}

impl PeerDirectory for Directory {
    fn set_member(&self, node: NodeId, _name: &str, address: &str) {
        self.addresses.lock().insert(node, address.to_owned());
    }

    fn remove(&self, node: NodeId) {
        self.addresses.lock().remove(&node);
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.up.lock().contains(&node) && self.addresses.lock().contains_key(&node)
    }
}

struct Host {
    host: GroupHost,
    began: Instant,
    sessions: Arc<AtomicU64>,
}

impl ReplicaHost for Host {
    fn start(&self, partition: PartitionId, bootstrap: bool) -> Hosted<'_, Result<Partition, HostError>> {
        Box::pin(async move {
            let (consensus, config) = (ConsensusConfig::default(), PartitionConfig::default());
            Partition::start(partition, &self.host, &consensus, &config, clock(self.began), bootstrap)
                .await
                .map_err(HostError::new)
        })
    }

    fn on_disk(&self) -> Hosted<'_, Result<Vec<PartitionId>, HostError>> {
        let found = PARTITIONS.iter().filter(|id| {
            let data = has_data(&*self.host.disk, GroupId::partition(id.0));
            data.is_ok_and(|data| data)
        });
        let found = Ok(found.collect());
        Box::pin(async move { found })
    }

    fn facts(&self) -> NodeFacts {
        NodeFacts {
            disk_free: 50,
            disk_total: 100,
            read_only: !self.host.guard.writable(),
            sessions: self.sessions.load(Ordering::Relaxed),
            now: holdfast_model::UnixMillis(0),
        }
    }

    fn is_writable(&self) -> watch::Receiver<bool> {
        self.host.guard.watch()
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) registry: Registry,
    pub(crate) partitions: Partitions,
    pub(crate) control: Control,
    /// The number of device sessions that it reports.
    pub(crate) sessions: Arc<AtomicU64>,
    stop: Stop,
    guard: JoinHandle<()>,
}

pub(crate) struct Cluster {
    pub(crate) network: SimNetwork,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    disks: BTreeMap<NodeId, SimDisk>,
    up: Up,
    sealer: Arc<Sealer>,
    began: Instant,
    rng: SmallRng,
    /// Batches that were acknowledged, by partition.
    pub(crate) acknowledged: BTreeMap<u16, u64>,
    batches: u64,
}

const BEGIN: UnixMillis = UnixMillis(1_700_000_000_000);

/// The hub's clock, driven by the simulated one.
fn clock(began: Instant) -> holdfast_model::Clock {
    holdfast_model::Clock::from_fn(move || UnixMillis(BEGIN.0 + u64::try_from(began.elapsed().as_millis()).unwrap()))
}

pub(crate) fn info(id: NodeId, name: &str) -> NodeInfo {
    NodeInfo {
        id,
        name: name.to_owned(),
        address: format!("n{id}:9700"),
        zone: String::new(),
        role: NodeRole::Core,
        state: NodeState::Joining,
        version: "1".to_owned(),
        joined: UnixMillis(0),
    }
}

impl Cluster {
    /// Without running nodes.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            network: SimNetwork::new(seed),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            up: Up::default(),
            began: Instant::now(),
            sealer: Arc::new(Sealer::generate(&Kek::new([5; 32])).unwrap()),
            rng: SmallRng::seed_from_u64(seed),
            acknowledged: BTreeMap::new(),
            batches: 0,
        }
    }

    /// A cluster of the nodes 1 to `count` in its desired state.
    pub(crate) async fn of(seed: u64, count: u64) -> Self {
        let mut cluster = Self::new(seed);
        cluster.start(NodeId(1)).await;
        for id in 2..=count {
            cluster.join(NodeId(id), &format!("n{id}")).await.unwrap();
        }
        cluster.settled().await;
        cluster
    }

    /// Starts node `id` with its previous disk, or a new one. Node 1 may bootstrap the cluster.
    pub(crate) async fn start(&mut self, id: NodeId) {
        let name = format!("n{id}");
        self.start_as(id, &name).await;
    }

    pub(crate) async fn start_as(&mut self, id: NodeId, name: &str) {
        let disk = self.disks.entry(id).or_default().clone();
        disk.recover().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let on_fatal = holdfast_testkit::ignore_failures();
        let (dispatch, seed) = (Dispatch::new(), self.rng.random());
        let host = holdfast_testkit::on_sim_network(id, disk.clone(), on_fatal, &self.network, dispatch.clone(), seed);
        let transport = host.transport.clone();
        // From here on, other nodes can reach it and replicate the registry to it.
        self.up.lock().insert(id);
        let founding = Founding {
            hub_name: "hub1".to_owned(),
            partition_count: PARTITIONS,
            ..Founding::default()
        };
        let registry = Registry::start(
            &host,
            &ConsensusConfig::default(),
            self.sealer.clone(),
            &founding,
            clock(self.began),
            &RegistryConfig::default(),
            id == NodeId(1),
        )
        .await
        .unwrap();
        let partitions = Partitions::new(id, PARTITIONS, transport.clone());
        let sessions = Arc::<AtomicU64>::default();
        let host = Arc::new(Host {
            host,
            began: self.began,
            sessions: sessions.clone(),
        });
        let guard = holdfast_tasks::spawn("disk guard", host.host.guard.clone().run());
        let stop = Stop::new();
        let control = Control::start(ControlParts {
            self_info: info(id, name),
            bootstrap: (id == NodeId(1)).then(|| ClusterBootstrap {
                cluster: CLUSTER.to_owned(),
                replication_factor: 3,
                holds_joins: false,
            }),
            registry: registry.clone(),
            partitions: partitions.clone(),
            transport,
            dispatch,
            peers: Arc::new(Directory {
                up: self.up.clone(),
                addresses: Mutex::default(),
            }),
            replicas: host,
            wrapped_key: self.sealer.wrapped().clone(),
            config: ControlConfig::default(),
            stop: stop.clone(),
        })
        .await
        .unwrap();
        let node = Node {
            id,
            registry,
            partitions,
            control,
            sessions,
            stop,
            guard,
        };
        self.nodes.insert(id, node);
    }

    /// Joins with a secret, and starts the node if it is admitted.
    pub(crate) async fn join_with(&mut self, id: NodeId, name: &str, secret: &str) -> Result<JoinAnswer, JoinError> {
        let answer = self.ask_to_join(id, name, secret).await?;
        self.start_as(id, name).await;
        Ok(answer)
    }

    pub(crate) async fn ask_to_join(&mut self, id: NodeId, name: &str, secret: &str) -> Result<JoinAnswer, JoinError> {
        let transport = self.network.node(id, Dispatch::new());
        let caller = move |address: &str, call: Call| {
            let node = address
                .trim_start_matches('n')
                .split(':')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            Transport::call(&*transport, node, call)
        };
        // The newest member first: it forwards the request to the registry's leader.
        let addresses: Vec<String> = self.nodes.keys().rev().map(|id| format!("n{id}:9700")).collect();
        let NodeInfo {
            name,
            address,
            zone,
            version,
            ..
        } = info(id, name);
        let joiner = Joiner {
            id,
            name,
            address,
            zone,
            version,
        };
        join(&caller, &addresses, secret, &joiner, Duration::from_secs(60)).await
    }

    pub(crate) async fn join(&mut self, id: NodeId, name: &str) -> Result<JoinAnswer, JoinError> {
        let secret = self.token().await;
        self.join_with(id, name, &secret).await
    }

    /// A new token, from any node that can create one.
    pub(crate) async fn token(&self) -> String {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            for node in self.nodes.values() {
                if let Ok(secret) = node
                    .control
                    .create_token(Duration::from_secs(3600), NodeRole::Core)
                    .await
                {
                    return secret;
                }
            }
            assert!(Instant::now() < deadline, "no node makes a token");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The node loses power.
    pub(crate) fn kill(&mut self, id: NodeId) {
        self.up.lock().remove(&id);
        self.network.crash(id);
        let node = self.nodes.remove(&id).unwrap();
        node.stop.enter(Phase::Closing);
        node.guard.abort();
        let disk = self.disks[&id].crash(&mut self.rng);
        self.disks.insert(id, disk);
    }

    /// The node is lost with its disk.
    pub(crate) fn lose(&mut self, id: NodeId) {
        self.kill(id);
        self.disks.remove(&id);
    }

    /// Any running node.
    pub(crate) fn any(&self) -> &Node {
        self.nodes.values().next().unwrap()
    }

    pub(crate) fn leader(&self, group: GroupId) -> Option<NodeId> {
        let mut leaders: Vec<(Term, NodeId)> = self
            .nodes
            .values()
            .filter_map(|node| {
                let group = node.group(group)?;
                let leader = group.leader()?;
                (leader.node == node.id).then_some((leader.term, node.id))
            })
            .collect();
        leaders.sort_unstable();
        leaders.pop().map(|(_, id)| id)
    }

    /// Appends one batch to each partition, with retries until it is acknowledged.
    pub(crate) async fn append_everywhere(&mut self) {
        for partition in PARTITIONS.iter() {
            self.append(partition).await;
        }
    }

    pub(crate) async fn append(&mut self, partition: PartitionId) {
        self.batches += 1;
        let entry = batch(Incarnation(self.batches));
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let owner = self
                .leader(GroupId::partition(partition.0))
                .and_then(|id| self.nodes.get(&id));
            if let Some(replica) = owner.and_then(|owner| owner.partitions.local(partition))
                && replica.append(entry.clone()).await.is_ok()
            {
                *self.acknowledged.entry(partition.0).or_default() += 1;
                return;
            }
            assert!(Instant::now() < deadline, "partition {} takes no writes", partition.0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until `holds` is true for the cluster; fails with the state of the cluster.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !holds(self) {
            if Instant::now() >= deadline {
                let status = self.any().control.status().await;
                panic!(
                    "not in time: {what}\n{}",
                    serde_json::to_string_pretty(&status).unwrap()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every group has its desired members and leader, all replicas have caught up, and the registry has its
    /// desired voters.
    pub(crate) async fn settled(&self) {
        self.until("everything is as wanted", |cluster| cluster.is_settled())
            .await;
    }

    fn is_settled(&self) -> bool {
        let Some(view) = self
            .leader(GroupId::REGISTRY)
            .map(|id| self.nodes[&id].registry.cluster())
        else {
            return false;
        };
        let agreed = |node: &Node| !view.nodes.contains_key(&node.id) || node.registry.cluster() == view;
        if !self.nodes.values().all(agreed) || view.nodes.values().any(|node| node.state == NodeState::Joining) {
            return false;
        }
        if holdfast_cluster::placement::assign(&view) != view.placements {
            return false;
        }
        let voters = self.members(GroupId::REGISTRY);
        if holdfast_cluster::placement::registry_voters(&view, &voters, &BTreeSet::new()) != voters {
            return false;
        }
        view.placements.iter().all(|placement| {
            let group = GroupId::partition(placement.partition.0);
            let wanted: BTreeSet<NodeId> = placement.replicas.iter().copied().collect();
            let runs = |node: &Node| node.partitions.local(placement.partition).is_some() == wanted.contains(&node.id);
            self.leader(group) == Some(placement.replicas[0])
                && self.members(group) == wanted
                && self
                    .nodes
                    .values()
                    .filter(|node| view.nodes.contains_key(&node.id))
                    .all(runs)
        })
    }

    /// The voters of a group by its leader, including learners of partitions, which should not exist.
    pub(crate) fn members(&self, group: GroupId) -> BTreeSet<NodeId> {
        let leader = self.leader(group).and_then(|id| self.nodes[&id].group(group));
        let Some(members) = leader.map(|group| group.members()) else {
            return BTreeSet::new();
        };
        if group == GroupId::REGISTRY {
            return members.voters;
        }
        members.voters.union(&members.learners).copied().collect()
    }

    /// Checks that each placed replica has exactly the acknowledged batches, and that no other replica exists.
    pub(crate) async fn check_data(&self) {
        self.settled().await;
        self.until("every replica has every acknowledged event", |cluster| {
            cluster.view().placements.iter().all(|placement| {
                let wanted = cluster.acknowledged.get(&placement.partition.0).copied().unwrap_or(0);
                placement.replicas.iter().all(|id| {
                    let replica = cluster
                        .nodes
                        .get(id)
                        .and_then(|node| node.partitions.local(placement.partition));
                    // More entries exist if an acknowledgement was lost and the batch was sent again: the stream drops
                    // the duplicate.
                    replica.is_some_and(|replica| replica.status().next.0 == wanted && replica.status().begin.0 == 0)
                })
            })
        })
        .await;
    }

    pub(crate) fn view(&self) -> Arc<ClusterView> {
        self.any().registry.cluster()
    }

    pub(crate) fn state_of(&self, name: &str) -> Option<NodeState> {
        self.view()
            .nodes
            .values()
            .find(|node| node.name == name)
            .map(|node| node.state)
    }

    /// Fills the node's disk, which its guard sees at its next check.
    pub(crate) fn fill_disk(&self, id: NodeId) {
        self.set_free(id, 0);
    }

    /// Frees the node's disk.
    pub(crate) fn empty_disk(&self, id: NodeId) {
        self.set_free(id, 1 << 39);
    }

    fn set_free(&self, id: NodeId, free: u64) {
        self.disks[&id].set_space(DiskSpace { free, total: 1 << 40 });
    }

    pub(crate) fn has_data(&self, id: NodeId, partition: PartitionId) -> bool {
        has_data(&self.disks[&id], GroupId::partition(partition.0)).unwrap()
    }

    pub(crate) fn random(&mut self, below: u64) -> u64 {
        self.rng.random_range(0..below)
    }
}

impl Node {
    pub(crate) fn group(&self, id: GroupId) -> Option<holdfast_consensus::Group> {
        if id == GroupId::REGISTRY {
            return Some(self.registry.group().clone());
        }
        let partition = PartitionId(u16::try_from(id.0 - 1).unwrap());
        Some(self.partitions.local(partition)?.group().clone())
    }

    pub(crate) fn leads(&self) -> usize {
        let groups = PARTITIONS.iter().map(|id| GroupId::partition(id.0));
        groups
            .filter(|id| self.group(*id).is_some_and(|group| group.is_leader()))
            .count()
    }
}

/// A batch of one message, in a stream of its own.
fn batch(number: Incarnation) -> bytes::Bytes {
    let identity = IdentityId::device(DeviceId::parse("device-1").unwrap());
    let generation = GenerationId("638400000000000001".into());
    let origin = Origin {
        identity: &identity,
        generation: &generation,
        auth: AuthMethod {
            scope: AuthScope::Device,
            kind: AuthType::Sas,
        },
        model_id: None,
    };
    let mut writer = BatchWriter::new();
    let body = number.to_string();
    let message = TelemetryMessage {
        payload: body.as_bytes(),
        ..TelemetryMessage::default()
    };
    writer.push(&origin, &message, BEGIN).unwrap();
    writer.close(BatchHeader {
        stream: StreamId {
            gateway_node: NodeId(7),
            incarnation: number,
            core: 0,
        },
        batch_number: 1,
        enqueued: BEGIN,
    })
}
