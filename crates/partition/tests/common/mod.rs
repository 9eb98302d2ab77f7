//! A node with one partition: disk, flusher, clock and a gateway core that sends numbered messages.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod cluster;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use holdfast_consensus::{ConsensusConfig, GroupHost};
use holdfast_model::Clock;
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, ByteSize, DeviceId, GenerationId, IdentityId, Incarnation, NodeId, PartitionId,
    SequenceNumber, TelemetryMessage, UnixMillis,
};
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, StreamId};
use holdfast_partition::{Chunk, Partition, PartitionConfig, PartitionStartError, Reader};
use holdfast_storage::{DataDir, Disk, NodeIdentity, RocksDisk, StorageConfig};

/// The wall clock of a test: constant until it is set.
#[derive(Clone, Default)]
pub(crate) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    pub(crate) fn clock(&self) -> Clock {
        let now = self.0.clone();
        Clock::from_fn(move || UnixMillis(now.load(Ordering::Relaxed)))
    }
}

pub(crate) struct Node {
    pub(crate) host: GroupHost,
    pub(crate) partition: Partition,
    pub(crate) clock: TestClock,
}

pub(crate) fn host(disk: Arc<dyn Disk>) -> GroupHost {
    let on_fatal: holdfast_storage::OnFatal = Arc::new(|_| {});
    holdfast_testkit::on_threads(NodeId(1), disk, on_fatal, &StorageConfig::default())
}

/// No round of retention by itself: tests ask for it.
pub(crate) fn config() -> PartitionConfig {
    PartitionConfig {
        retention: holdfast_model::HumanDuration::secs(100 * 24 * 3600),
        retention_interval: holdfast_model::HumanDuration::secs(3600),
        ..PartitionConfig::default()
    }
}

pub(crate) async fn start(disk: Arc<dyn Disk>, config: &PartitionConfig) -> Node {
    try_start(disk, config).await.unwrap()
}

pub(crate) async fn try_start(disk: Arc<dyn Disk>, config: &PartitionConfig) -> Result<Node, PartitionStartError> {
    try_start_with(disk, config, &ConsensusConfig::default()).await
}

pub(crate) async fn try_start_with(
    disk: Arc<dyn Disk>,
    config: &PartitionConfig,
    consensus: &ConsensusConfig,
) -> Result<Node, PartitionStartError> {
    let host = host(disk);
    let clock = TestClock::default();
    let partition = Partition::start(PartitionId(0), &host, consensus, config, clock.clock(), true).await?;
    Ok(Node { host, partition, clock })
}

/// A RocksDB with buffers so small that a test fills many files.
pub(crate) fn open_rocks(dir: &Path) -> Arc<RocksDisk> {
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

/// A gateway core: numbers its batches, and its messages by their expected sequence numbers.
pub(crate) struct Sender {
    pub(crate) stream: StreamId,
    pub(crate) next_batch: u64,
    pub(crate) next_message: u64,
    writer: BatchWriter,
    body: Vec<u8>,
}

impl Sender {
    pub(crate) fn new(incarnation: Incarnation) -> Self {
        Self {
            stream: StreamId {
                gateway_node: NodeId(1),
                incarnation,
                core: 0,
            },
            next_batch: 1,
            next_message: 0,
            writer: BatchWriter::new(),
            body: vec![b'x'; 256],
        }
    }

    /// A batch of messages of 256 bytes that begin with their number.
    pub(crate) fn batch(&mut self, messages: u64, time: u64) -> Bytes {
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
        for _ in 0..messages {
            self.body[..8].copy_from_slice(&self.next_message.to_be_bytes());
            let message = TelemetryMessage {
                payload: &self.body,
                ..TelemetryMessage::default()
            };
            self.writer.push(&origin, &message, UnixMillis(time)).unwrap();
            self.next_message += 1;
        }
        let batch_number = self.next_batch;
        self.next_batch += 1;
        self.writer.close(BatchHeader {
            stream: self.stream,
            batch_number,
            enqueued: UnixMillis(time),
        })
    }
}

/// The numbers of a chunk; each message must be the one that was sent under its number.
pub(crate) fn numbers(chunk: &mut Chunk) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(event) = chunk.next_event() {
        let event = event.unwrap();
        assert_eq!(
            event.record.payload[..8],
            event.sequence.0.to_be_bytes(),
            "another message has this number"
        );
        numbers.push(event.sequence.0);
    }
    numbers
}

/// Reads up to `end` and checks that nothing is missing or out of order after the first event; gives that one's number.
pub(crate) async fn read_to(reader: &mut Reader, end: SequenceNumber) -> u64 {
    let mut first = None;
    let mut next = 0;
    while reader.position() < end {
        let mut chunk = reader.next().await.unwrap();
        for number in numbers(&mut chunk) {
            if first.is_none() {
                first = Some(number);
                next = number;
            }
            assert_eq!(number, next);
            next += 1;
        }
    }
    assert_eq!(next, end.0);
    first.unwrap()
}

/// Bytes of all files below `dir`.
pub(crate) fn dir_bytes(dir: &Path) -> u64 {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => dir_bytes(&entry.path()),
                Ok(meta) => meta.len(),
                // RocksDB deletes files during the check.
                Err(_) => 0,
            }
        })
        .sum()
}

/// Copies `from` as a killed process would leave it: without data not yet handed to the operating system.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
