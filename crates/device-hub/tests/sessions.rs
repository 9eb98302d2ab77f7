//! Sessions against a real registry and real partitions on a real disk, as a front end sees them.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_auth::{HubNames, Key, sign_identity};
use holdfast_cluster::route::Partitions;
use holdfast_consensus::ConsensusConfig;
use holdfast_device_hub::{
    CloseReason, ConnectAttempt, ConnectRequest, Core, Credential, DeviceHub, DeviceHubConfig, HubParts, Outcome,
    Protocol, Receipt, ReceiptTarget, Refusal, Session, SessionTarget, StoredSession, maintain_links, watch_registry,
};
use holdfast_model::Clock;
use holdfast_model::{
    DeviceId, IdentityId, Incarnation, NodeId, PartitionCount, RefusalReason, TelemetryMessage, UnixMillis,
};
use holdfast_partition::record::{BatchHeader, BatchWriter, StreamId};
use holdfast_partition::{Partition, PartitionConfig, StartPosition};
use holdfast_registry::{
    Authentication, Founding, IdentityContent, IdentityWrite, IfMatch, Registry, RegistryConfig, Status, WriteOperation,
};
use holdfast_storage::{DataDir, Disk, Kek, NodeIdentity, Sealer, StorageConfig};
use holdfast_tasks::{Phase, Stop};
use tokio::sync::Notify;

const HOST: &str = "hub1.example.com";
const START_MS: u64 = 1_900_000_000_000;

struct Node {
    hub: Arc<DeviceHub>,
    registry: Registry,
    partitions: Vec<Partition>,
    time: Arc<AtomicU64>,
    stop: Stop,
}

async fn start(path: &Path, cores: u16) -> Node {
    let storage = StorageConfig {
        max_open_files: 64,
        ..StorageConfig::default()
    };
    let dir = DataDir::open(path, || NodeIdentity {
        cluster: "test".to_owned(),
        incarnation: 7,
    })
    .unwrap();
    let sealer = Arc::new(Sealer::of_directory(path, &Kek::new([5; 32]), dir.is_fresh()).unwrap());
    let disk: Arc<dyn Disk> = holdfast_storage::open(&dir, &storage).unwrap();
    let host = holdfast_testkit::on_threads(NodeId(7), disk.clone(), holdfast_testkit::fail_the_test(), &storage);
    let time = Arc::new(AtomicU64::new(START_MS));
    let clock = {
        let time = time.clone();
        Clock::from_fn(move || UnixMillis(time.load(Ordering::Relaxed)))
    };
    let consensus = ConsensusConfig::default();
    let founding = Founding {
        hub_name: "hub1".to_owned(),
        ..Founding::default()
    };
    let registry = Registry::start(
        &host,
        &consensus,
        sealer,
        &founding,
        clock.clone(),
        &RegistryConfig::default(),
        true,
    )
    .await
    .unwrap();
    let mut partitions = Vec::new();
    for id in PartitionCount::DEFAULT.iter() {
        let partition = Partition::start(id, &host, &consensus, &PartitionConfig::default(), clock.clone(), true).await;
        partitions.push(partition.unwrap());
    }
    let routes = Partitions::new(NodeId(7), PartitionCount::DEFAULT, host.transport.clone());
    for partition in &partitions {
        routes.host(partition.clone());
    }
    let hub = DeviceHub::new(HubParts {
        node: NodeId(7),
        incarnation: Incarnation(1),
        cores,
        partitions: routes,
        transport: host.transport.clone(),
        registry: registry.clone(),
        hub_names: HubNames::new([HOST]),
        clock,
        tracer: holdfast_spans::Tracer::off(),
        config: DeviceHubConfig::default(),
    });
    let stop = Stop::new();
    holdfast_tasks::spawn("sessions", maintain_links(hub.clone(), stop.clone()));
    Node {
        hub,
        registry,
        partitions,
        time,
        stop,
    }
}

impl Node {
    fn core(&self, index: u16) -> Rc<Core> {
        let core = Core::new(self.hub.clone(), index);
        holdfast_tasks::spawn_local("core", Box::pin(core.clone().run(self.stop.clone())));
        core
    }

    /// Creates a device and gives its primary key.
    async fn device(&self, id: &str) -> Key {
        let write = IdentityWrite {
            id: IdentityId::device(DeviceId::parse(id).unwrap()),
            operation: WriteOperation::Create(IdentityContent::default()),
        };
        let identity = self.registry.write(write).await.unwrap().identity.unwrap();
        match &identity.authentication {
            Authentication::Sas(keys) => keys.primary.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Everything in the log, as (device, payload).
    async fn events(&self, count: usize) -> Vec<(String, Vec<u8>)> {
        let mut events = Vec::new();
        for partition in &self.partitions {
            let mut reader = partition.reader(StartPosition::Oldest).unwrap();
            while reader.position() < partition.status().next {
                let chunk = reader.next().await.unwrap();
                for event in chunk.events() {
                    let event = event.unwrap();
                    events.push((event.record.device_id.to_owned(), event.record.payload.to_vec()));
                }
            }
        }
        assert_eq!(events.len(), count, "{events:?}");
        events
    }
}

/// A front end that records its notifications.
#[derive(Default)]
struct Peer {
    settled: RefCell<Vec<(u64, Outcome)>>,
    closed: RefCell<Option<CloseReason>>,
    notified: Notify,
}

impl ReceiptTarget for Peer {
    fn settled(&self, cookies: &[u64], outcome: Outcome) {
        self.settled
            .borrow_mut()
            .extend(cookies.iter().map(|cookie| (*cookie, outcome)));
        self.notified.notify_one();
    }
}

impl SessionTarget for Peer {
    fn close(&self, reason: CloseReason) {
        self.closed.replace(Some(reason));
        self.notified.notify_one();
    }
}

impl Peer {
    async fn until(&self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.notified.notified().await;
        }
    }

    async fn acknowledged(&self, count: usize) {
        self.until(|peer| peer.settled.borrow().len() >= count).await;
    }
}

fn token(device: &str, key: &Key, expiry: u64) -> String {
    sign_identity(HOST, &IdentityId::device(DeviceId::parse(device).unwrap()), key, expiry)
}

async fn connect(core: &Rc<Core>, device: &str, token: &str, peer: &Rc<Peer>) -> Result<Session, Refusal> {
    let request = ConnectRequest {
        device,
        module: None,
        host: HOST,
        credential: Credential::SasToken(token),
        model_id: None,
        stored_session: StoredSession::Unused,
        protocol: Protocol::Mqtt,
        address: ([127, 0, 0, 1], 1).into(),
        tls: None,
        handshake: None,
        trace: None,
    };
    let target: Rc<dyn SessionTarget> = peer.clone();
    match core.connect(&request, &target) {
        ConnectAttempt::Done(result) => result,
        ConnectAttempt::Pending(later) => later.await,
    }
}

fn send(core: &Core, session: &Session, peer: &Rc<Peer>, cookie: u64) {
    let payload = cookie.to_string();
    let message = TelemetryMessage {
        payload: payload.as_bytes(),
        ..TelemetryMessage::default()
    };
    let receipt = Receipt {
        target: peer.clone() as Rc<dyn ReceiptTarget>,
        cookie,
    };
    core.send(session, &message, Some(receipt), core.clock().now());
}

/// Runs a test on a single-threaded runtime, as a core is.
fn on_a_core(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap()
        .block_on(test);
}

const LATER_S: u64 = START_MS / 1000 + 3600;

#[test]
fn messages_are_acknowledged_in_order_and_stored() {
    on_a_core(async {
        let dir = tempfile::tempdir().unwrap();
        let node = start(dir.path(), 1).await;
        let core = node.core(0);
        let peer = Rc::new(Peer::default());
        let key = node.device("d").await;
        let session = connect(&core, "d", &token("d", &key, LATER_S), &peer).await.unwrap();
        for cookie in 0..500 {
            send(&core, &session, &peer, cookie);
            if cookie % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        peer.acknowledged(500).await;
        let expected: Vec<_> = (0..500).map(|cookie| (cookie, Outcome::Committed)).collect();
        assert_eq!(*peer.settled.borrow(), expected);
        let events = node.events(500).await;
        assert!(
            events
                .iter()
                .enumerate()
                .all(|(i, (device, payload))| device == "d" && *payload == i.to_string().into_bytes())
        );
        assert_eq!(node.hub.connected_device_count().await, 1);
        core.disconnect(&session);
        assert_eq!(node.hub.connected_device_count().await, 0);
    });
}

#[test]
fn refusals_are_certain_carry_their_reason_and_are_remembered() {
    on_a_core(async {
        let dir = tempfile::tempdir().unwrap();
        let node = start(dir.path(), 1).await;
        let core = node.core(0);
        let peer = Rc::new(Peer::default());
        let key = node.device("d").await;
        let other = node.device("e").await;
        let now_s = START_MS / 1000;
        for (device, token, reason) in [
            ("d", token("d", &other, LATER_S), RefusalReason::Signature),
            ("d", token("e", &other, LATER_S), RefusalReason::Scope),
            ("d", token("d", &key, now_s - 301), RefusalReason::Expired),
            (
                "d",
                "SharedAccessSignature nonsense".to_owned(),
                RefusalReason::Malformed,
            ),
            (
                "unknown",
                token("unknown", &key, LATER_S),
                RefusalReason::UnknownIdentity,
            ),
        ] {
            let refusal = connect(&core, device, &token, &peer).await.unwrap_err();
            assert_eq!((refusal.reason, refusal.is_certain()), (reason, true));
            let remembered = node
                .hub
                .diagnose(&IdentityId::device(DeviceId::parse(device).unwrap()))
                .await
                .refusals;
            assert_eq!(remembered.last().unwrap().reason, reason);
        }
        assert!(
            connect(&core, "d", &token("d", &key, now_s - 299), &peer).await.is_ok(),
            "clocks may differ by 300 s"
        );
    });
}

#[test]
fn messages_of_a_newer_connection_on_another_core_follow_those_of_the_older_one() {
    on_a_core(async {
        let dir = tempfile::tempdir().unwrap();
        let node = start(dir.path(), 2).await;
        let (first_core, second_core) = (node.core(0), node.core(1));
        let (first, second) = (Rc::new(Peer::default()), Rc::new(Peer::default()));
        let key = node.device("d").await;
        let token = token("d", &key, LATER_S);
        let old = connect(&first_core, "d", &token, &first).await.unwrap();
        for cookie in 0..10 {
            send(&first_core, &old, &first, cookie);
        }
        let new = connect(&second_core, "d", &token, &second).await.unwrap();
        send(&second_core, &new, &second, 10);
        second.acknowledged(1).await;
        assert_eq!(*first.closed.borrow(), Some(CloseReason::TakenOver));
        let order: Vec<String> = node
            .events(11)
            .await
            .into_iter()
            .map(|(_, payload)| String::from_utf8(payload).unwrap())
            .collect();
        assert_eq!(order, (0..=10).map(|i: u64| i.to_string()).collect::<Vec<_>>());
        // The end of the older connection does not end the newer session.
        first_core.disconnect(&old);
        assert_eq!(node.hub.connected_device_count().await, 1);
    });
}

#[test]
fn disabling_or_deleting_an_identity_closes_its_session() {
    on_a_core(async {
        let dir = tempfile::tempdir().unwrap();
        let node = start(dir.path(), 1).await;
        let core = node.core(0);
        holdfast_tasks::spawn("watch", watch_registry(node.hub.clone(), node.stop.clone()));
        for (device, operation) in [
            (
                "disabled",
                WriteOperation::Update(
                    IfMatch::Any,
                    IdentityContent {
                        status: Status::Disabled,
                        ..IdentityContent::default()
                    },
                ),
            ),
            ("deleted", WriteOperation::Delete(IfMatch::Any)),
        ] {
            let peer = Rc::new(Peer::default());
            let key = node.device(device).await;
            let token = token(device, &key, LATER_S);
            let session = connect(&core, device, &token, &peer).await.unwrap();
            let id = session.identity().clone();
            node.registry.write(IdentityWrite { id, operation }).await.unwrap();
            peer.until(|peer| peer.closed.borrow().is_some()).await;
            assert_eq!(*peer.closed.borrow(), Some(CloseReason::Revoked), "{device}");
            assert!(connect(&core, device, &token, &peer).await.is_err());
        }
    });
}

#[test]
fn a_full_disk_withholds_acknowledgements_until_it_has_space() {
    on_a_core(async {
        let dir = tempfile::tempdir().unwrap();
        let node = start(dir.path(), 1).await;
        let core = node.core(0);
        let peer = Rc::new(Peer::default());
        let key = node.device("d").await;
        let session = connect(&core, "d", &token("d", &key, LATER_S), &peer).await.unwrap();
        node.hub.set_writable(false);
        send(&core, &session, &peer, 1);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(peer.settled.borrow().is_empty() && peer.closed.borrow().is_none());
        node.hub.set_writable(true);
        peer.acknowledged(1).await;
        assert_eq!(*peer.settled.borrow(), [(1, Outcome::Committed)]);
    });
}

#[test]
fn a_batch_that_can_never_be_committed_closes_its_session_and_is_not_acknowledged() {
    on_a_core(async {
        let dir = tempfile::tempdir().unwrap();
        let node = start(dir.path(), 1).await;
        let core = node.core(0);
        let peer = Rc::new(Peer::default());
        let key = node.device("d").await;
        let token = token("d", &key, LATER_S);
        let session = connect(&core, "d", &token, &peer).await.unwrap();
        send(&core, &session, &peer, 1);
        peer.acknowledged(1).await;
        // A later incarnation of this node writes: calls of this one are stale from then on.
        let later = StreamId {
            gateway_node: NodeId(7),
            incarnation: Incarnation(2),
            core: 0,
        };
        let partition = PartitionCount::DEFAULT.partition_of(&session.identity().device);
        let entry = BatchWriter::new().close(BatchHeader {
            stream: later,
            batch_number: 1,
            enqueued: core.clock().now(),
        });
        node.partitions[usize::from(partition.0)].append(entry).await.unwrap();
        send(&core, &session, &peer, 2);
        send(&core, &session, &peer, 3);
        let closed = peer.until(|peer| peer.closed.borrow().is_some());
        tokio::time::timeout(Duration::from_secs(10), closed).await.unwrap();
        assert_eq!(*peer.closed.borrow(), Some(CloseReason::Unavailable));
        let settled = peer.settled.borrow().clone();
        assert_eq!(
            settled,
            [(1, Outcome::Committed), (2, Outcome::Failed), (3, Outcome::Failed)]
        );
        node.events(1).await;
    });
}

#[test]
fn messages_sent_before_the_node_closes_are_still_decided() {
    on_a_core(async {
        let dir = tempfile::tempdir().unwrap();
        let node = start(dir.path(), 1).await;
        let core = Core::new(node.hub.clone(), 0);
        let running = holdfast_tasks::spawn_local("core", Box::pin(core.clone().run(node.stop.clone())));
        let peer = Rc::new(Peer::default());
        let key = node.device("d").await;
        let session = connect(&core, "d", &token("d", &key, LATER_S), &peer).await.unwrap();
        for cookie in 0..100 {
            send(&core, &session, &peer, cookie);
        }
        node.stop.enter(Phase::Closing);
        running.await.unwrap();
        assert_eq!(peer.settled.borrow().len(), 100);
        node.events(100).await;
    });
}

#[test]
fn the_session_knows_when_its_token_ends() {
    on_a_core(async {
        let dir = tempfile::tempdir().unwrap();
        let node = start(dir.path(), 1).await;
        let core = node.core(0);
        let peer = Rc::new(Peer::default());
        let key = node.device("d").await;
        let session = connect(&core, "d", &token("d", &key, LATER_S), &peer).await.unwrap();
        assert_eq!(session.expires(), Some(UnixMillis((LATER_S + 300) * 1000)));
        node.time.store((LATER_S + 301) * 1000, Ordering::Relaxed);
        let again = connect(&core, "d", &token("d", &key, LATER_S), &peer).await;
        assert_eq!(again.unwrap_err().reason, RefusalReason::Expired);
    });
}
