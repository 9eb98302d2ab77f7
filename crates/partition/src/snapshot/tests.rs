//! Snapshots from one disk to another, without a network: whole, damaged, cut, overtaken by retention.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use holdfast_consensus::{ConsensusConfig, GroupHost, SnapshotSource, StateMachine};
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, ByteSize, DeviceId, GenerationId, HumanDuration, IdentityId, Incarnation, NodeId,
    PartitionId, SequenceNumber, TelemetryMessage, UnixMillis,
};
use holdfast_storage::layout::{self, HardState};
use holdfast_storage::{
    DataDir, Disk, DiskSpace, Durability, Family, NodeIdentity, OnFatal, SimDisk, StorageConfig, StorageError,
    WriteBatch,
};
use holdfast_tasks::BlockingPool;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::Received;
use crate::log::record::{
    BatchHeader, BatchWriter, DeviceStateChange, DeviceStateKey, DeviceStateKind, Effect, Origin, StreamId,
};
use crate::machine::Machine;
use crate::shared::Shared;
use crate::state::DeviceStatePage;
use crate::state::store::Store;
use crate::{Partition, PartitionConfig, PartitionStatus, StartPosition};

const ID: PartitionId = PartitionId(3);

fn config() -> PartitionConfig {
    PartitionConfig {
        retention: HumanDuration::secs(1),
        retention_interval: HumanDuration::secs(3600),
        reclaim_step: ByteSize(0),
        index_spacing: ByteSize::kib(4),
        tail_cache: ByteSize::kib(16),
        ..PartitionConfig::default()
    }
}

fn host(disk: Arc<dyn Disk>) -> GroupHost {
    let on_fatal: OnFatal = Arc::new(|_| {});
    holdfast_testkit::on_threads(NodeId(1), disk, on_fatal, &StorageConfig::default())
}

fn open_rocks(dir: &Path) -> Arc<dyn Disk> {
    let config = StorageConfig {
        write_buffer: ByteSize::mib(1),
        max_replay: ByteSize::mib(8),
        ..StorageConfig::default()
    };
    let dir = DataDir::open(dir, || NodeIdentity {
        cluster: "test".to_owned(),
        incarnation: 1,
    })
    .unwrap();
    holdfast_storage::open(&dir, &config).unwrap()
}

/// A partition on a disk of its own, and a gateway core that sends to it.
struct Node {
    host: GroupHost,
    partition: Partition,
    clock: Arc<AtomicU64>,
    batch: u64,
    writer: BatchWriter,
}

impl Node {
    async fn start(disk: Arc<dyn Disk>, founding: bool) -> Self {
        Self::start_with(disk, &config(), founding).await
    }

    async fn start_with(disk: Arc<dyn Disk>, config: &PartitionConfig, founding: bool) -> Self {
        let (host, clock) = (host(disk), Arc::new(AtomicU64::new(0)));
        let now = clock.clone();
        let clock_of = holdfast_model::Clock::from_fn(move || UnixMillis(now.load(Ordering::Relaxed)));
        let consensus = ConsensusConfig::default();
        let partition = Partition::start(ID, &host, &consensus, config, clock_of, founding)
            .await
            .unwrap();
        Self {
            host,
            partition,
            clock,
            batch: 0,
            writer: BatchWriter::new(),
        }
    }

    fn batch(&mut self, messages: u64, bytes: usize, time: u64) -> Bytes {
        let identity = IdentityId::device(DeviceId::parse("d").unwrap());
        let generation = GenerationId("1".into());
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
        let mut body = vec![7; bytes];
        for message in 0..messages {
            body[..8].copy_from_slice(&(self.batch << 32 | message).to_be_bytes());
            let message = TelemetryMessage {
                payload: &body,
                ..TelemetryMessage::default()
            };
            self.writer.push(&origin, &message, UnixMillis(time)).unwrap();
        }
        self.batch += 1;
        let stream = StreamId {
            gateway_node: NodeId(1),
            incarnation: Incarnation(1),
            core: 0,
        };
        self.writer.close(BatchHeader {
            stream,
            batch_number: self.batch,
            enqueued: UnixMillis(time),
        })
    }

    /// Batches of ten messages, every fifth of them sent twice, so that there are skipped entries.
    async fn fill(&mut self, batches: u64, time: u64) {
        for number in 0..batches {
            let batch = self.batch(10, 100, time + number);
            self.partition.append(batch.clone()).await.unwrap();
            if number % 5 == 0 {
                self.partition.append(batch).await.unwrap();
            }
            if number % 4 == 0 {
                self.set_device_state(number, &[7; 100]).await;
            }
        }
        self.applied().await;
    }

    async fn set_device_state(&self, device: u64, value: &[u8]) {
        let owner = self.partition.leadership().await.unwrap();
        let device = format!("device-{device}");
        let effect = Effect::DeviceState(DeviceStateChange {
            key: DeviceStateKey {
                kind: DeviceStateKind::SUBSCRIPTIONS,
                device: &device,
                module: None,
                generation: "1",
                item: b"",
            },
            value: Some(value),
        });
        self.partition.propose(owner, &[effect]).await.unwrap();
    }

    async fn applied(&self) {
        self.partition.group().read_index().await.unwrap();
    }

    /// Everything that can be read.
    async fn events(&self) -> Vec<(u64, u64, Vec<u8>)> {
        events(&self.partition).await
    }

    fn snapshot(&self) -> SnapshotSource {
        self.partition.machine(&self.host).snapshot().unwrap()
    }
}

/// The first page of device state.
async fn device_states(partition: &Partition) -> DeviceStatePage {
    let page = partition.device_states(DeviceStateKind::SUBSCRIPTIONS, None).await;
    page.unwrap()
}

async fn events(partition: &Partition) -> Vec<(u64, u64, Vec<u8>)> {
    let mut events = Vec::new();
    let end = partition.status().next;
    let mut reader = partition.reader(StartPosition::Oldest).unwrap();
    while reader.position() < end {
        let mut chunk = reader.next().await.unwrap();
        while let Some(event) = chunk.next_event() {
            let event = event.unwrap();
            events.push((event.sequence.0, event.enqueued.0, event.record.payload.to_vec()));
        }
    }
    events
}

/// Lets the disk of a copy be the same node's: a node keeps its vote, and the copy is to lead a group of one.
fn keep_vote(from: &dyn Disk, to: &dyn Disk) {
    let key = layout::hard_key(1 + u32::from(ID.0), HardState::Vote);
    let vote = from.get(Family::Raft, &key).unwrap().unwrap();
    let mut batch = WriteBatch::new();
    batch.put(Family::Raft, &key, &vote);
    to.write(&batch, Durability::Logged).unwrap();
    to.sync().unwrap();
}

fn pull(source: &mut SnapshotSource) -> Vec<Bytes> {
    std::iter::from_fn(|| (source.next_chunk)().unwrap()).collect()
}

/// A replica without a group, as one is while it waits for its first snapshot.
fn machine(disk: Arc<dyn Disk>) -> Machine {
    let config = config();
    let (store, recovered) = Store::recover(disk.clone(), ID, config.spacing(), 0, false).unwrap();
    let shared = Shared::new(ID, config, BlockingPool::Threads, None, recovered);
    Machine::new(shared, Arc::new(store), &host(disk))
}

fn import(disk: Arc<dyn Disk>, source: &SnapshotSource, chunks: &[Bytes]) -> Result<(), StorageError> {
    let mut machine = machine(disk);
    let mut sink = machine.receive()?;
    for chunk in chunks {
        sink.write(chunk.clone())?;
    }
    let sealed = sink.seal()?;
    let restored = machine.restore(source.position, source.membership.clone(), sealed)?;
    assert!(restored.retained_after.unwrap() < source.position);
    assert_eq!(machine.applied(), (Some(source.position), source.membership.clone()));
    Ok(())
}

async fn trimmed(disk: Arc<dyn Disk>) -> Node {
    let mut node = Node::start(disk.clone(), true).await;
    node.fill(100, 1_000).await;
    disk.flush().unwrap();
    node.fill(50, 5_000).await;
    node.clock.store(6_005, Ordering::Relaxed);
    for _ in 0..3 {
        node.partition.enforce_retention().await.unwrap();
    }
    assert!(node.partition.group().log_reader().first_index() > 80);
    node
}

#[tokio::test]
async fn a_new_replica_has_the_same_status_and_the_same_events() {
    let dir = tempfile::tempdir().unwrap();
    let disks: [(Arc<dyn Disk>, Arc<dyn Disk>); 2] = [
        (Arc::new(SimDisk::new()), Arc::new(SimDisk::new())),
        (open_rocks(&dir.path().join("a")), open_rocks(&dir.path().join("b"))),
    ];
    for (from, to) in disks {
        let node = trimmed(from).await;
        let (status, expected) = (node.partition.status(), node.events().await);
        assert!(status.begin.0 > 800 && expected.len() > 400);
        let expected_states = device_states(&node.partition).await;
        assert_eq!(expected_states.entries.len(), 25);
        let mut source = node.snapshot();
        let chunks = pull(&mut source);
        drop(source);
        node.partition.shutdown().await;
        let source = node.snapshot();
        import(to.clone(), &source, &chunks).unwrap();
        keep_vote(&*node.host.disk, &*to);

        let mut copy = Node::start(to, false).await;
        assert_eq!(copy.partition.status(), status);
        assert_eq!(copy.events().await, expected);
        assert_eq!(device_states(&copy.partition).await, expected_states);
        copy.batch = node.batch;
        copy.fill(3, 9_000).await;
        assert_eq!(
            copy.partition.status().next,
            SequenceNumber(status.next.0 + 30),
            "and continues where the other was"
        );
        copy.partition.shutdown().await;
    }
}

#[tokio::test]
async fn an_empty_partition_and_one_that_was_never_trimmed_arrive_complete() {
    for batches in [0, 7] {
        let mut node = Node::start(Arc::new(SimDisk::new()), true).await;
        node.fill(batches, 1_000).await;
        let (status, expected) = (node.partition.status(), node.events().await);
        let expected_states = device_states(&node.partition).await;
        let mut source = node.snapshot();
        let chunks = pull(&mut source);
        let to = SimDisk::new();
        import(Arc::new(to.clone()), &source, &chunks).unwrap();
        keep_vote(&*node.host.disk, &to);
        // The state has come before anything that a sync of the log would cover.
        let to = to.crash(&mut SmallRng::seed_from_u64(1));
        let copy = Node::start(Arc::new(to), false).await;
        assert_eq!((copy.partition.status(), copy.events().await), (status, expected));
        assert_eq!(device_states(&copy.partition).await, expected_states);
    }
}

#[tokio::test]
async fn an_incomplete_snapshot_is_refused_and_changes_nothing() {
    let mut node = Node::start(Arc::new(SimDisk::new()), true).await;
    // Entries that are longer than a chunk.
    for _ in 0..2 {
        let batch = node.batch(12, 100_000, 1);
        node.partition.append(batch).await.unwrap();
    }
    node.fill(20, 10).await;
    let mut source = node.snapshot();
    let chunks = pull(&mut source);
    assert!(chunks.len() > 4 && chunks.iter().all(|chunk| chunk.len() <= 1 << 20));
    let to = SimDisk::new();
    let refused = |chunks: &[Bytes], what: &str| {
        let refused = import(Arc::new(to.clone()), &source, chunks);
        assert!(
            matches!(refused, Err(StorageError::Damaged { .. })),
            "{what}: {refused:?}"
        );
        let keys = [Family::Log, Family::Device, Family::DeviceState].map(|family| to.keys(family));
        assert_eq!(keys, [0, 0, 0]);
    };
    for (number, chunk) in chunks.iter().enumerate() {
        for bit in [0, 9, 40, 80, chunk.len() * 4, chunk.len() * 8 - 1] {
            let mut changed = chunks.clone();
            let mut bytes = chunk.to_vec();
            bytes[(bit / 8).min(chunk.len() - 1)] ^= 1 << (bit % 8);
            changed[number] = bytes.into();
            refused(&changed, &format!("bit {bit} of chunk {number}"));
        }
        let mut missing = chunks.clone();
        missing.remove(number);
        refused(&missing, &format!("without chunk {number}"));
        let mut twice = chunks.clone();
        twice.insert(number, chunk.clone());
        refused(&twice, &format!("chunk {number} twice"));
        refused(&chunks[..number], &format!("cut before chunk {number}"));
    }
    refused(&[Bytes::from_static(b"garbage")], "garbage");
    import(Arc::new(to), &source, &chunks).unwrap();
}

#[tokio::test]
async fn device_state_that_is_on_disk_before_its_state_does_not_count() {
    let mut node = Node::start(Arc::new(SimDisk::new()), true).await;
    node.fill(20, 10).await;
    // More than one chunk of it.
    for device in 0..30 {
        node.set_device_state(device, &[9; 100_000]).await;
    }
    let expected = device_states(&node.partition).await;
    let mut source = node.snapshot();
    let chunks = pull(&mut source);
    let to = SimDisk::new();
    let mut machine = machine(Arc::new(to.clone()));
    let mut sink = machine.receive().unwrap();
    for chunk in &chunks {
        sink.write(chunk.clone()).unwrap();
    }
    let mut received = sink.seal().unwrap().downcast::<Received>().unwrap();
    let staged = received.device_states.take().unwrap();
    staged.install(None, WriteBatch::new()).unwrap();
    assert_eq!(to.keys(Family::DeviceState), 30);
    drop((received, machine));
    // Here the power is cut.
    let to = to.crash(&mut SmallRng::seed_from_u64(1));
    to.recover().unwrap();
    let (_, recovered) = Store::recover(Arc::new(to.clone()), ID, config().spacing(), 0, false).unwrap();
    assert_eq!((recovered.position, to.keys(Family::DeviceState)), (None, 0));
    // The same snapshot again, and a second one after it, which replaces all that the first has brought.
    import(Arc::new(to.clone()), &source, &chunks).unwrap();
    assert_eq!(to.keys(Family::DeviceState), 30);
    import(Arc::new(to.clone()), &source, &chunks).unwrap();
    assert_eq!(to.keys(Family::DeviceState), 30);
    keep_vote(&*node.host.disk, &to);
    let copy = Node::start(Arc::new(to), false).await;
    assert_eq!(device_states(&copy.partition).await, expected);
}

#[tokio::test]
async fn a_flipped_bit_in_the_staged_file_is_refused() {
    let mut node = Node::start(Arc::new(SimDisk::new()), true).await;
    node.fill(20, 10).await;
    let mut source = node.snapshot();
    let to = SimDisk::new();
    let mut machine = machine(Arc::new(to.clone()));
    let mut sink = machine.receive().unwrap();
    for chunk in pull(&mut source) {
        sink.write(chunk).unwrap();
    }
    let sealed = sink.seal().unwrap();
    assert!(to.damage_staged(0, 1_001));
    let refused = machine.restore(source.position, source.membership.clone(), sealed);
    assert!(matches!(refused, Err(StorageError::Damaged { .. })), "{refused:?}");
    assert_eq!(machine.applied().0, None);
}

#[tokio::test]
async fn retention_keeps_what_is_being_sent_and_takes_it_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(open_rocks(&dir.path().join("a")), true).await;
    for number in 0..60 {
        let batch = node.batch(10, 10_000, 1_000 + number);
        node.partition.append(batch).await.unwrap();
    }
    node.applied().await;
    let (status, expected) = (node.partition.status(), node.events().await);
    let mut source = node.snapshot();
    let mut chunks = vec![(source.next_chunk)().unwrap().unwrap()];
    node.fill(10, 100_000).await;
    node.clock.store(101_000, Ordering::Relaxed);
    for _ in 0..3 {
        node.partition.enforce_retention().await.unwrap();
    }
    assert!(
        node.partition.status().begin > status.begin,
        "readers do not wait for it"
    );
    chunks.extend(pull(&mut source));
    let to = SimDisk::new();
    import(Arc::new(to.clone()), &source, &chunks).unwrap();
    keep_vote(&*node.host.disk, &to);
    let copy = Node::start(Arc::new(to), false).await;
    assert_eq!((copy.partition.status(), copy.events().await), (status, expected));
    let held = node.partition.group().log_reader().first_index();
    drop(source);
    // The engine purges in its own time, and what a start would replay stays: the flush of the state, which a disk with more
    // writes does by itself, takes that away.
    let trimmed = async {
        while node.partition.group().log_reader().first_index() <= held + 40 {
            node.host.disk.flush().unwrap();
            node.partition.enforce_retention().await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), trimmed)
        .await
        .expect("the log is trimmed once nothing is being sent");
    node.partition.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_that_there_is_no_room_for_is_refused_at_its_head() {
    let mut node = Node::start(Arc::new(SimDisk::new()), true).await;
    node.fill(20, 10).await;
    let mut source = node.snapshot();
    let chunks = pull(&mut source);
    let to = SimDisk::new();
    let space = |free| DiskSpace { free, total: 1 << 40 };
    // The floor is 1 GiB.
    to.set_space(space((1 << 30) + 10_000));
    let refused = import(Arc::new(to.clone()), &source, &chunks).unwrap_err();
    assert!(
        matches!(&refused, StorageError::NoSpace(failure) if failure.to_string().contains("min_free")),
        "{refused}"
    );
    to.set_space(space(1 << 39));
    import(Arc::new(to), &source, &chunks).unwrap();
}

#[tokio::test]
async fn an_older_replica_keeps_its_begin_and_its_later_entries_do_not_survive_below() {
    // Two replicas of the same log, of which one has fallen behind and has trimmed more.
    let (ahead, behind) = (SimDisk::new(), SimDisk::new());
    let mut node = Node::start(Arc::new(ahead.clone()), true).await;
    node.fill(40, 1_000).await;
    let mut early = node.snapshot();
    let chunks = pull(&mut early);
    import(Arc::new(behind.clone()), &early, &chunks).unwrap();
    let mut replica = machine(Arc::new(behind.clone()));
    node.fill(40, 2_000).await;
    let expected = node.events().await;
    let mut late = node.snapshot();
    let chunks = pull(&mut late);
    let mut sink = replica.receive().unwrap();
    for chunk in chunks {
        sink.write(chunk).unwrap();
    }
    let sealed = sink.seal().unwrap();
    replica.restore(late.position, late.membership.clone(), sealed).unwrap();
    drop(replica);
    keep_vote(&*node.host.disk, &behind);
    let copy = Node::start(Arc::new(behind), false).await;
    assert_eq!(copy.partition.status(), node.partition.status());
    assert_eq!(copy.events().await, expected);
}

/// Seconds of CPU that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // User and system time, in hundredths.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Megabytes per second of a snapshot of `HOLDFAST_SNAPSHOT_MIB` MiB of log, from one database to another.
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "the size and place of a measurement by hand")]
async fn measure_a_snapshot() {
    let mib: u64 = std::env::var("HOLDFAST_SNAPSHOT_MIB").map_or(1024, |mib| mib.parse().unwrap());
    let dir =
        tempfile::tempdir_in(std::env::var("HOLDFAST_SNAPSHOT_DIR").unwrap_or_else(|_| "/var/tmp".to_owned())).unwrap();
    let open = |name: &str| -> Arc<dyn Disk> {
        let path = dir.path().join(name);
        let data = DataDir::open(&path, || NodeIdentity {
            cluster: "test".to_owned(),
            incarnation: 1,
        })
        .unwrap();
        holdfast_storage::open(&data, &StorageConfig::default()).unwrap()
    };
    let defaults = PartitionConfig::default();
    let mut node = Node::start_with(open("a"), &defaults, true).await;
    while node.partition.status().retained_bytes < mib << 20 {
        let batch = node.batch(1_000, 256, 1);
        node.partition.append(batch).await.unwrap();
    }
    node.applied().await;
    node.host.disk.flush().unwrap();
    let status: PartitionStatus = node.partition.status();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let megabytes = status.retained_bytes as f64 / 1e6;
    let rate = |begun: std::time::Instant| megabytes / begun.elapsed().as_secs_f64();

    let (begun, cpu) = (std::time::Instant::now(), cpu_seconds());
    let mut source = node.snapshot();
    while (source.next_chunk)().unwrap().is_some() {}
    println!(
        "export alone: {megabytes:.0} MB at {:.0} MB/s, {:.2} s of CPU",
        rate(begun),
        cpu_seconds() - cpu
    );
    drop(source);

    let to = open("b");
    let mut machine = machine(to.clone());
    let (begun, cpu) = (std::time::Instant::now(), cpu_seconds());
    let mut source = node.snapshot();
    let mut sink = machine.receive().unwrap();
    while let Some(chunk) = (source.next_chunk)().unwrap() {
        sink.write(chunk).unwrap();
    }
    println!("export and import: {:.0} MB/s", rate(begun));
    let sealing = std::time::Instant::now();
    let sealed = sink.seal().unwrap();
    println!("seal: {:.2} s", sealing.elapsed().as_secs_f64());
    let installing = std::time::Instant::now();
    machine
        .restore(source.position, source.membership.clone(), sealed)
        .unwrap();
    println!("install: {:.2} s", installing.elapsed().as_secs_f64());
    println!(
        "all, on one core: {:.0} MB/s, {:.2} s of CPU",
        rate(begun),
        cpu_seconds() - cpu
    );
    drop(machine);
    keep_vote(&*node.host.disk, &*to);
    let copy = Node::start_with(to, &defaults, false).await;
    assert_eq!(copy.partition.status(), status);
}
