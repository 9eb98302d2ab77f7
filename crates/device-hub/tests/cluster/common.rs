//! Nodes with registry, partitions, hub and two cores each, on one thread and one simulated clock.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_auth::{HubNames, Key, sign_identity};
use holdfast_cluster::route::{Owner, Partitions};
use holdfast_cluster::transport::{Dispatch, Service};
use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::{ConsensusConfig, GroupHost, Groups};
use holdfast_device_hub::{
    Attempt, Claim, Clock, CloseReason, Core, DeviceHub, DeviceHubConfig, HubParts, Outcome, Protocol, Receipt,
    ReceiptTarget, Refusal, Session, SessionTarget, keep_sessions, watch_registry,
};
use holdfast_model::{DeviceId, IdentityId, PartitionCount, PartitionId, TelemetryMessage, UnixMillis};
use holdfast_partition::{Partition, PartitionConfig, StartPosition};
use holdfast_registry::{
    Authentication, Founding, IdentityContent, IdentityWrite, NodeInfo, NodeRole, NodeState, Registry, RegistryConfig,
    WriteOperation,
};
use holdfast_storage::{DiskGuard, Flusher, Kek, Sealer, SimDisk, StorageConfig};
use holdfast_tasks::{Phase, Stop};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) const HOST: &str = "hub1.example.com";
const START_MS: u64 = 1_900_000_000_000;
pub(crate) const NODES: [u64; 3] = [1, 2, 3];
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) struct Node {
    pub(crate) hub: Arc<DeviceHub>,
    pub(crate) registry: Registry,
    pub(crate) partitions: Partitions,
    pub(crate) cores: Vec<Rc<Core>>,
    stop: Stop,
    tasks: Vec<JoinHandle<()>>,
}

pub(crate) struct Cluster {
    pub(crate) network: SimNetwork,
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) rng: SmallRng,
    disks: BTreeMap<u64, SimDisk>,
    lives: BTreeMap<u64, u64>,
    keys: RefCell<BTreeMap<String, Key>>,
    sealer: Arc<Sealer>,
    began: Instant,
}

/// Runs a test on a core's kind of runtime, with a clock that jumps.
pub(crate) fn simulate(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap()
        .block_on(test);
}

impl Cluster {
    /// Three nodes, all voters everywhere.
    pub(crate) async fn start(seed: u64) -> Self {
        let mut cluster = Self {
            network: SimNetwork::new(seed),
            nodes: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            disks: BTreeMap::new(),
            lives: BTreeMap::new(),
            keys: RefCell::default(),
            sealer: Arc::new(Sealer::generate(&Kek::new([5; 32])).unwrap()),
            began: Instant::now(),
        };
        cluster.start_node(1).await;
        let first = cluster.nodes[&1].registry.clone();
        first.found_cluster("c1", 3, &info(1)).await.unwrap();
        for id in [2, 3] {
            let secret = first.create_join_token(60 * SECOND, NodeRole::Core).await.unwrap();
            first.admit(&secret, &info(id)).await.unwrap();
            first.group().add_learner(id).await.unwrap();
            cluster.start_node(id).await;
        }
        first.group().set_voters(NODES.into()).await.unwrap();
        for id in PartitionCount::DEFAULT.iter() {
            let founder = cluster.nodes[&1].partitions.local(id).unwrap();
            for other in [2, 3] {
                founder.group().add_learner(other).await.unwrap();
            }
            founder.group().set_voters(NODES.into()).await.unwrap();
        }
        cluster.settled().await;
        cluster
    }

    pub(crate) async fn start_node(&mut self, node: u64) {
        let life = self.lives.entry(node).or_default();
        *life += 1;
        let life = *life;
        let disk = Arc::new(self.disks.entry(node).or_default().clone());
        let groups = Groups::default();
        let dispatch = Dispatch::new();
        dispatch.enter(Service::Raft, Arc::new(groups.clone()));
        let transport = self.network.node(node, dispatch.clone());
        let mut latencies = SmallRng::seed_from_u64(self.rng.random());
        let latency = move || Duration::from_micros(latencies.random_range(50..1_500));
        // A handle of a life that has ended fails, which is no news.
        let on_fatal: holdfast_storage::OnFatal = Arc::new(|_| {});
        let host = GroupHost {
            flusher: Flusher::on_runtime(disk.clone(), on_fatal.clone(), latency),
            guard: DiskGuard::new(disk.clone(), &StorageConfig::default()).unwrap(),
            disk,
            node,
            on_fatal,
            transport: transport.clone(),
            groups,
        };
        let began = self.began;
        let clock = move || UnixMillis(START_MS + u64::try_from(began.elapsed().as_millis()).unwrap());
        let consensus = ConsensusConfig::default();
        let registry = Registry::start(
            &host,
            &consensus,
            self.sealer.clone(),
            &Founding::default(),
            Arc::new(clock),
            &RegistryConfig::default(),
            node == 1,
        )
        .await
        .unwrap();
        let partitions = Partitions::new(node, PartitionCount::DEFAULT, transport.clone());
        dispatch.enter(Service::Partition, partitions.handler());
        let hub = DeviceHub::new(HubParts {
            node,
            incarnation: life,
            cores: 2,
            partitions: partitions.clone(),
            transport,
            registry: registry.clone(),
            hub_names: HubNames::new([HOST]),
            clock: Clock::from_fn(clock),
            config: DeviceHubConfig::default(),
        });
        dispatch.enter(Service::Session, hub.clone());
        let config = partition_config();
        for id in PartitionCount::DEFAULT.iter() {
            let partition = Partition::start(id, &host, &consensus, &config, Arc::new(clock), node == 1);
            partitions.host(partition.await.unwrap());
            partitions.set_replicas(id, NODES.to_vec());
        }
        let stop = Stop::new();
        let cores: Vec<Rc<Core>> = (0..2).map(|index| Core::new(hub.clone(), index)).collect();
        let mut tasks = vec![
            holdfast_tasks::spawn("route", Box::pin(partitions.clone().run(stop.clone()))),
            holdfast_tasks::spawn("watch", watch_registry(hub.clone(), stop.clone())),
            holdfast_tasks::spawn("sessions", keep_sessions(hub.clone(), stop.clone())),
        ];
        for core in &cores {
            tasks.push(holdfast_tasks::spawn_local(
                "core",
                Box::pin(core.clone().run(stop.clone())),
            ));
        }
        let parts = Node {
            hub,
            registry,
            partitions,
            cores,
            stop,
            tasks,
        };
        self.nodes.insert(node, parts);
    }

    /// Cuts a node's power.
    pub(crate) fn kill(&mut self, node: u64) {
        let gone = self.nodes.remove(&node).unwrap();
        self.network.crash(node);
        let disk = self.disks.get_mut(&node).unwrap();
        *disk = disk.crash(&mut self.rng);
        for task in &gone.tasks {
            task.abort();
        }
        gone.stop.enter(Phase::Closing);
        holdfast_tasks::spawn_local(
            "killed",
            Box::pin(async move {
                for id in PartitionCount::DEFAULT.iter() {
                    if let Some(partition) = gone.partitions.unhost(id) {
                        partition.shutdown().await;
                    }
                }
                gone.registry.group().shutdown().await;
            }),
        );
    }

    pub(crate) fn hub(&self, node: u64) -> &Arc<DeviceHub> {
        &self.nodes[&node].hub
    }

    /// Waits until every running node knows the owner of every partition, and is inside its lease.
    pub(crate) async fn settled(&self) {
        for id in PartitionCount::DEFAULT.iter() {
            self.owner(id).await;
        }
        eventually("leases", || self.nodes.values().all(|node| node.registry.in_lease())).await;
    }

    /// The owner that all running nodes know.
    pub(crate) async fn owner(&self, id: PartitionId) -> Owner {
        let mut found = None;
        eventually("one owner", || {
            let mut owners = self.nodes.values().map(|node| node.partitions.owner(id));
            found = owners
                .next()
                .flatten()
                .filter(|owner| self.nodes.contains_key(&owner.node));
            found.is_some() && owners.all(|owner| owner == found)
        })
        .await;
        found.unwrap()
    }

    /// Lets `node` own the partition of `device`.
    pub(crate) async fn owned_by(&self, device: &str, node: u64) -> PartitionId {
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

    pub(crate) async fn create(&self, device: &str) {
        let node = self.nodes.values().next().unwrap();
        let write = IdentityWrite {
            id: identity(device),
            operation: WriteOperation::Create(IdentityContent::default()),
        };
        let created = node.registry.write(write).await.unwrap().identity.unwrap();
        let Authentication::Sas(keys) = &created.authentication else {
            panic!("{created:?}")
        };
        self.keys.borrow_mut().insert(device.to_owned(), keys.primary.clone());
        let id = created.id;
        eventually("the device everywhere", || {
            self.nodes
                .values()
                .all(|node| node.registry.identity(&id).unwrap().is_some())
        })
        .await;
    }

    pub(crate) async fn connect(&self, node: u64, core: usize, device: &str) -> Result<Client, Refusal> {
        let core = self.nodes[&node].cores[core].clone();
        let key = self.keys.borrow()[device].clone();
        connect(core, device, key).await
    }

    /// As [`Self::connect`], while others go on.
    pub(crate) fn connecting(&self, node: u64, core: usize, device: &str) -> JoinHandle<Result<Client, Refusal>> {
        let core = self.nodes[&node].cores[core].clone();
        let key = self.keys.borrow()[device].clone();
        let device = device.to_owned();
        tokio::task::spawn_local(async move { connect(core, &device, key).await })
    }

    /// The payloads of a device's events, in the order of its partition, as `node`'s replica has them.
    pub(crate) async fn events(&self, node: u64, device: &str) -> Vec<u64> {
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

async fn connect(core: Rc<Core>, device: &str, key: Key) -> Result<Client, Refusal> {
    let peer = Rc::new(Peer::default());
    let token = sign_identity(HOST, &identity(device), &key, START_MS / 1000 + 1_000_000);
    let claim = Claim {
        device,
        module: None,
        host: HOST,
        token: Some(&token),
        model_id: None,
        protocol: Protocol::Mqtt,
        address: ([127, 0, 0, 1], 1).into(),
    };
    let target: Rc<dyn SessionTarget> = peer.clone();
    let attempt = core.connect(&claim, &target);
    let session = match attempt {
        Attempt::Done(result) => result,
        Attempt::Later(later) => later.await,
    }?;
    Ok(Client {
        core,
        session: Some(session),
        peer,
    })
}

/// A connected device.
pub(crate) struct Client {
    pub(crate) core: Rc<Core>,
    pub(crate) session: Option<Session>,
    pub(crate) peer: Rc<Peer>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.session)
    }
}

impl Client {
    pub(crate) fn send(&self, number: u64) {
        let payload = number.to_string();
        let message = TelemetryMessage {
            payload: payload.as_bytes(),
            ..TelemetryMessage::default()
        };
        let receipt = Receipt {
            target: self.peer.clone() as Rc<dyn ReceiptTarget>,
            cookie: number,
        };
        let session = self.session.as_ref().unwrap();
        self.core
            .send(session, &message, Some(receipt), self.core.clock().now());
    }

    pub(crate) fn acked(&self) -> Vec<u64> {
        let settled = self.peer.settled.borrow();
        let acked = settled.iter().filter(|(_, outcome)| *outcome == Outcome::Committed);
        acked.map(|(cookie, _)| *cookie).collect()
    }

    pub(crate) fn closed(&self) -> Option<CloseReason> {
        *self.peer.closed.borrow()
    }

    pub(crate) async fn until_acked(&self, count: usize) {
        eventually("acknowledgements", || self.acked().len() >= count).await;
    }

    /// Waits until the hub has closed the connection, and says why.
    pub(crate) async fn until_closed(&self) -> CloseReason {
        eventually("the end", || self.closed().is_some()).await;
        self.closed().unwrap()
    }

    /// The device goes; whatever comes for it then, nobody sees it.
    pub(crate) fn disconnect(&mut self) {
        self.peer.close(CloseReason::Stopping);
        if let Some(session) = self.session.take() {
            self.core.disconnect(&session);
        }
    }
}

/// A front end that notes what it is told, and acknowledges nothing after its end.
#[derive(Default)]
pub(crate) struct Peer {
    settled: RefCell<Vec<(u64, Outcome)>>,
    closed: RefCell<Option<CloseReason>>,
}

impl ReceiptTarget for Peer {
    fn settled(&self, cookies: &[u64], outcome: Outcome) {
        if self.closed.borrow().is_some() {
            return;
        }
        let told = cookies.iter().map(|cookie| (*cookie, outcome));
        self.settled.borrow_mut().extend(told);
    }
}

impl SessionTarget for Peer {
    fn close(&self, reason: CloseReason) {
        self.closed.borrow_mut().get_or_insert(reason);
    }
}

pub(crate) fn identity(device: &str) -> IdentityId {
    IdentityId::device(DeviceId::parse(device).unwrap())
}

pub(crate) fn partition_of(device: &str) -> PartitionId {
    PartitionCount::DEFAULT.partition_of(&DeviceId::parse(device).unwrap())
}

fn partition_config() -> PartitionConfig {
    PartitionConfig {
        retention_interval: holdfast_model::HumanDuration::secs(3600),
        ..PartitionConfig::default()
    }
}

fn info(id: u64) -> NodeInfo {
    NodeInfo {
        id,
        name: format!("n{id}"),
        address: format!("10.0.0.{id}:9000"),
        zone: String::new(),
        role: NodeRole::Core,
        state: NodeState::Active,
        version: "1.0.0".to_owned(),
        joined: UnixMillis(0),
    }
}

/// Waits for a condition, for a minute of the simulation at most.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + 60 * SECOND;
    while !holds() {
        assert!(Instant::now() < give_up, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
