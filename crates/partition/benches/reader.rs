//! Events per second that one reader gets from a partition's log: cold from disk, and from the tail cache.
//!
//! Not a criterion bench: one pass over a log of some hundred MiB is the measurement. CPU is that of the whole process.

use std::time::Instant;

use holdfast_consensus::ConsensusConfig;
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, ByteSize, DeviceId, GenerationId, IdentityId, Incarnation, NodeId, PartitionId,
    SequenceNumber, TelemetryMessage, UnixMillis,
};
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, StreamId};
use holdfast_partition::{Partition, PartitionConfig, StartPosition};
use holdfast_storage::{DataDir, NodeIdentity, StorageConfig};

const EVENTS: u64 = 1_000_000;
const BATCH: u64 = 100;

async fn start(dir: &std::path::Path, tail_cache: ByteSize) -> Partition {
    let storage = StorageConfig {
        ..StorageConfig::default()
    };
    let identity = || NodeIdentity {
        cluster: "bench".to_owned(),
        incarnation: 1,
    };
    let dir = DataDir::open(dir, identity).expect("a data directory");
    let disk = holdfast_storage::open(&dir, &storage).expect("a database");
    let host = holdfast_testkit::on_threads(NodeId(1), disk, holdfast_testkit::fail_the_test(), &storage);
    let config = PartitionConfig {
        tail_cache,
        ..PartitionConfig::default()
    };
    let clock = holdfast_model::Clock::from_fn(|| UnixMillis(0));
    Partition::start(PartitionId(0), &host, &ConsensusConfig::default(), &config, clock, true)
        .await
        .expect("a partition")
}

async fn write(partition: &Partition) {
    let identity = IdentityId::device(DeviceId::parse("device-000123").expect("a valid id"));
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
    let stream = StreamId {
        gateway_node: NodeId(1),
        incarnation: Incarnation(1),
        core: 0,
    };
    let body = [7; 256];
    let message = TelemetryMessage {
        payload: &body,
        ..TelemetryMessage::default()
    };
    let mut writer = BatchWriter::new();
    for batch_number in 1..=EVENTS / BATCH {
        for _ in 0..BATCH {
            writer.push(&origin, &message, UnixMillis(1)).expect("a message fits");
        }
        let entry = writer.close(BatchHeader {
            stream,
            batch_number,
            enqueued: UnixMillis(1),
        });
        if batch_number % 100 == 0 {
            partition.append(entry).await.expect("appended");
        } else {
            partition
                .append_detached(entry, Box::new(|outcome| outcome.expect("appended")))
                .await;
        }
    }
}

async fn read(what: &str, partition: &Partition, from: u64) {
    let end = partition.status().next;
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let mut reader = partition
        .reader(StartPosition::AtSequence(SequenceNumber(from)))
        .expect("a reader");
    let (mut events, mut bytes) = (0_u64, 0);
    while reader.position() < end {
        let mut chunk = reader.next().await.expect("events");
        while let Some(event) = chunk.next_event() {
            let event = event.expect("a readable event");
            bytes += event.record.payload.len() + event.record.device_id.len();
            events += 1;
        }
    }
    report(what, events, started, cpu);
    assert_eq!(events, end.0 - from);
    assert!(bytes > 0);
}

#[expect(clippy::cast_precision_loss, reason = "a rate is rounded anyway")]
fn report(what: &str, events: u64, started: Instant, cpu: f64) {
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let (rate, each) = (events as f64 / seconds, cpu / events as f64 * 1e6);
    println!("{what}: {events} events, {rate:.0} events/s, {each:.2} µs CPU an event");
}

/// User and system time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| {
        fields
            .get(field)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or_default()
    };
    (ticks(11) + ticks(12)) / 100.0
}

fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let partition = start(dir.path(), ByteSize::gib(1)).await;
        let (started, cpu) = (Instant::now(), cpu_seconds());
        write(&partition).await;
        report("append", EVENTS, started, cpu);
        read("tail", &partition, 0).await;
        partition.shutdown().await;
    });
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let started = Instant::now();
        let partition = start(dir.path(), ByteSize::mib(8)).await;
        println!("start after a restart: {:?}", started.elapsed());
        read("cold", &partition, 0).await;
        read("cold again, files in the page cache", &partition, 0).await;
        partition.shutdown().await;
    });
}
