//! Nodes, gateways that send, and readers that check.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_cluster::route::{Owner, PartitionReader, Partitions};
use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::transport::{Answer, Chunks, Dispatch, Handler, Service, Transport, refused};
use holdfast_consensus::{ConsensusConfig, GroupHost};
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, DeviceId, GenerationId, HumanDuration, IdentityId, Incarnation, LinkId, NodeId,
    PartitionCount, PartitionId, Ratio, TelemetryMessage, UnixMillis,
};
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, StreamId};
use holdfast_partition::{AppendError, Partition, PartitionConfig, StartPosition};
use holdfast_spans::{Recorded, TraceContext, Tracer};
use holdfast_storage::SimDisk;
use holdfast_tasks::{Phase, Stop};
use holdfast_testkit::eventually;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The nodes with replicas.
pub(crate) const CORE: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// The node without replicas.
pub(crate) const GATEWAY: NodeId = NodeId(4);
/// The partitions with replicas; the hub has one more, without any.
pub(crate) const HOSTED: u16 = 3;
pub(crate) const P: PartitionId = PartitionId(0);

/// A running node.
pub(crate) struct Node {
    pub(crate) partitions: Partitions,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) stop: Stop,
    /// The spans that it has made.
    pub(crate) recorded: Recorded,
    _host: GroupHost,
}

/// A node of a version before appends with contexts.
struct Earlier(Arc<dyn Handler>);

impl Handler for Earlier {
    fn call(&self, from: NodeId, target: u32, body: Bytes) -> Answer {
        match body.get(1) {
            Some(8) => refused("unknown kind of call 8"),
            _ => self.0.call(from, target, body),
        }
    }

    fn download(&self, from: NodeId, target: u32, body: Bytes) -> Chunks {
        self.0.download(from, target, body)
    }
}

pub(crate) struct Cluster {
    pub(crate) network: SimNetwork,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) disks: BTreeMap<NodeId, SimDisk>,
    pub(crate) rng: SmallRng,
    pub(crate) config: PartitionConfig,
    now: Arc<std::sync::atomic::AtomicU64>,
    /// Nodes of an earlier version.
    earlier: Vec<NodeId>,
}

impl Cluster {
    pub(crate) async fn start(seed: u64) -> Self {
        Self::with(seed, config(), Vec::new()).await
    }

    pub(crate) async fn with(seed: u64, config: PartitionConfig, earlier: Vec<NodeId>) -> Self {
        let mut cluster = Self {
            earlier,
            network: SimNetwork::new(seed),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            config,
            now: Arc::new(std::sync::atomic::AtomicU64::new(1_000)),
        };
        for id in CORE.into_iter().chain([GATEWAY]) {
            cluster.start_node(id, id == NodeId(1)).await;
        }
        for id in (0..HOSTED).map(PartitionId) {
            let first = cluster.nodes[&NodeId(1)].partitions.local(id).unwrap();
            for other in &CORE[1..] {
                first.group().add_learner(*other).await.unwrap();
            }
            first.group().set_voters(CORE.into()).await.unwrap();
        }
        // Leaders are spread, so that each node is owner, follower and non-member.
        for (number, node) in CORE.into_iter().enumerate().skip(1) {
            let id = PartitionId(u16::try_from(number).unwrap());
            cluster.nodes[&NodeId(1)]
                .partitions
                .local(id)
                .unwrap()
                .group()
                .transfer_leader(node)
                .await
                .unwrap();
        }
        for id in (0..HOSTED).map(PartitionId) {
            cluster.owner_everywhere(id).await;
        }
        cluster
    }

    /// Starts a node with its disk.
    pub(crate) async fn start_node(&mut self, node: NodeId, bootstrap: bool) {
        let disk = Arc::new(self.disks.entry(node).or_default().clone());
        // The handle of an earlier incarnation may fail.
        let on_fatal = holdfast_testkit::ignore_failures();
        let (dispatch, seed) = (Dispatch::new(), self.rng.random());
        let host = holdfast_testkit::on_sim_network(node, disk, on_fatal, &self.network, dispatch.clone(), seed);
        let transport = host.transport.clone();
        let (tracer, recorded) = Tracer::recording(Ratio::ONE, 1000);
        let partitions = Partitions::traced(node, PartitionCount::DEFAULT, transport.clone(), tracer);
        let handler = match self.earlier.contains(&node) {
            true => Arc::new(Earlier(partitions.handler())),
            false => partitions.handler(),
        };
        dispatch.enter(Service::Partition, handler);
        if CORE.contains(&node) {
            for id in (0..HOSTED).map(PartitionId) {
                let now = self.now.clone();
                let clock =
                    holdfast_model::Clock::from_fn(move || UnixMillis(now.load(std::sync::atomic::Ordering::Relaxed)));
                let partition =
                    Partition::start(id, &host, &ConsensusConfig::default(), &self.config, clock, bootstrap)
                        .await
                        .unwrap();
                partitions.host(partition);
            }
        }
        for id in (0..HOSTED).map(PartitionId) {
            partitions.set_replicas(id, CORE.to_vec());
        }
        let stop = Stop::new();
        holdfast_tasks::spawn("route", Box::pin(partitions.clone().run(stop.clone())));
        let node_parts = Node {
            partitions,
            transport,
            stop,
            recorded,
            _host: host,
        };
        self.nodes.insert(node, node_parts);
    }

    /// Cuts the power of a node.
    pub(crate) fn kill(&mut self, node: NodeId) {
        let Some(gone) = self.nodes.remove(&node) else { return };
        self.network.crash(node);
        let disk = self.disks.get_mut(&node).unwrap();
        *disk = disk.crash(&mut self.rng);
        // Otherwise its tasks would continue; their writes no longer reach the disk.
        gone.stop.enter(Phase::Closing);
        holdfast_tasks::spawn(
            "killed",
            Box::pin(async move {
                for id in (0..HOSTED).map(PartitionId) {
                    if let Some(partition) = gone.partitions.unhost(id) {
                        partition.shutdown().await;
                    }
                }
            }),
        );
    }

    pub(crate) fn on(&self, node: NodeId) -> &Partitions {
        &self.nodes[&node].partitions
    }

    /// Waits until all running nodes know the same owner.
    pub(crate) async fn owner_everywhere(&self, id: PartitionId) -> Owner {
        let all: Vec<NodeId> = self.nodes.keys().copied().collect();
        self.owner_among(id, &all).await
    }

    /// Waits until these nodes know the same owner, which is one of them.
    pub(crate) async fn owner_among(&self, id: PartitionId, nodes: &[NodeId]) -> Owner {
        let mut found = None;
        eventually("one owner", || {
            let mut owners = nodes.iter().map(|node| self.on(*node).owner(id));
            found = owners.next().flatten().filter(|owner| nodes.contains(&owner.node));
            found.is_some() && owners.all(|owner| owner == found)
        })
        .await;
        found.unwrap()
    }
}

/// Retention runs only when requested.
pub(crate) fn config() -> PartitionConfig {
    PartitionConfig {
        retention: HumanDuration::secs(100 * 24 * 3600),
        retention_interval: HumanDuration::secs(3600),
        ..PartitionConfig::default()
    }
}

/// Sends batches to one partition as a gateway does: one entry in flight, sent again until it is decided.
pub(crate) struct BatchSender {
    pub(crate) partitions: Partitions,
    pub(crate) id: PartitionId,
    pub(crate) stream: StreamId,
    pub(crate) next_batch: u64,
    pub(crate) sent: u64,
    /// Events per batch.
    pub(crate) events: u64,
    pub(crate) retries: u64,
}

impl BatchSender {
    pub(crate) fn new(partitions: &Partitions, id: PartitionId, core: u32) -> Self {
        Self {
            partitions: partitions.clone(),
            id,
            stream: StreamId {
                gateway_node: partitions.node(),
                incarnation: Incarnation(1),
                core,
            },
            next_batch: 1,
            sent: 0,
            events: 2,
            retries: 0,
        }
    }

    /// A batch whose events carry their stream and number.
    pub(crate) fn batch(&mut self) -> Bytes {
        let identity = IdentityId::device(DeviceId::parse("device-1").unwrap());
        let generation = GenerationId("638400000000000001".into());
        let auth = AuthMethod {
            scope: AuthScope::Device,
            kind: AuthType::Sas,
        };
        let origin = Origin {
            identity: &identity,
            generation: &generation,
            auth,
            model_id: None,
        };
        let mut writer = BatchWriter::new();
        for _ in 0..self.events {
            let body = format!("{}/{}/{}", self.stream.gateway_node, self.stream.core, self.sent);
            let message = TelemetryMessage {
                payload: body.as_bytes(),
                ..TelemetryMessage::default()
            };
            writer.push(&origin, &message, UnixMillis(1)).unwrap();
            self.sent += 1;
        }
        let batch_number = self.next_batch;
        self.next_batch += 1;
        writer.close(BatchHeader {
            stream: self.stream,
            batch_number,
            enqueued: UnixMillis(1),
        })
    }

    pub(crate) fn try_append(&self, entry: Bytes) -> impl Future<Output = Result<(), AppendError>> + use<> {
        let (partitions, id) = (self.partitions.clone(), self.id);
        async move { append(&partitions, id, entry).await }
    }

    /// Sends a batch until it is decided.
    pub(crate) async fn send(&mut self) {
        let entry = self.batch();
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            let owner = self.partitions.owner(self.id);
            match self.try_append(entry.clone()).await {
                Ok(()) => return,
                Err(error @ (AppendError::Gap { .. } | AppendError::Stale { .. })) => panic!("{error}"),
                Err(error) => {
                    assert!(Instant::now() < give_up, "never decided: {error}");
                    self.retries += 1;
                    let failed = owner.filter(|_| error.is_certain());
                    self.partitions
                        .owner_after(self.id, failed, Duration::from_millis(100))
                        .await;
                }
            }
        }
    }
}

pub(crate) async fn append(partitions: &Partitions, id: PartitionId, entry: Bytes) -> Result<(), AppendError> {
    append_of(partitions, id, entry, None).await
}

/// [`append`] of a batch with a span.
pub(crate) async fn append_of(
    partitions: &Partitions,
    id: PartitionId,
    entry: Bytes,
    trace: Option<TraceContext>,
) -> Result<(), AppendError> {
    let (tell, told) = oneshot::channel();
    let appended = Box::new(move |outcome| {
        let _ = tell.send(outcome);
    });
    partitions.append(id, LinkId(0), entry, trace, appended).await;
    told.await.unwrap_or(Err(AppendError::Unknown))
}

/// Reads `count` events and returns their bodies. Their sequence numbers must be consecutive.
pub(crate) async fn read(reader: &mut PartitionReader, next: &mut u64, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    while bodies.len() < count {
        let chunk = tokio::time::timeout(Duration::from_secs(60), reader.next()).await;
        let mut chunk = chunk.expect("a reader waits without end").unwrap();
        while let Some(event) = chunk.next_event() {
            let event = event.unwrap();
            assert_eq!(event.sequence.0, *next, "nothing is skipped and nothing comes twice");
            *next += 1;
            bodies.push(String::from_utf8(event.record.payload.to_vec()).unwrap());
        }
    }
    bodies
}

pub(crate) async fn oldest(partitions: &Partitions, id: PartitionId) -> PartitionReader {
    partitions.reader(id, StartPosition::Oldest).await.unwrap()
}
