//! The cost of a credential check with a registry of a million devices on a real disk, and how fast a new replica has it.
//!
//! `cargo test --release -p holdfast-registry --test million -- --ignored --nocapture` (`HOLDFAST_DEVICES` for another
//! number)
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::transport::{Dispatch, Service};
use holdfast_consensus::{ConsensusConfig, GroupHost};
use holdfast_model::{DeviceId, IdentityId, NodeId, UnixMillis};
use holdfast_registry::{Founding, IdentityContent, IdentityWrite, Registry, RegistryConfig, WriteOperation};
use holdfast_storage::{DataDir, Disk, Kek, NodeIdentity, Sealer, StorageConfig, open};
use rand::Rng as _;

const CHECKS: usize = 200_000;
const BULK: usize = 100;

struct Node {
    registry: Registry,
    disk: Arc<dyn Disk>,
}

fn device(number: usize) -> IdentityId {
    IdentityId::device(DeviceId::parse(&format!("sensor-{number:07}-of-the-fleet")).unwrap())
}

/// User and system time of this process in clock ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(10 * ticks)
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

async fn start(path: &Path, id: NodeId, network: &SimNetwork, sealer: &Arc<Sealer>) -> Node {
    let storage = StorageConfig {
        max_open_files: 256,
        ..StorageConfig::default()
    };
    let dir = DataDir::open(path, || NodeIdentity {
        cluster: "test".to_owned(),
        incarnation: id.get(),
    })
    .unwrap();
    let disk: Arc<dyn Disk> = open(&dir, &storage).unwrap();
    let host = holdfast_testkit::on_threads(id, disk.clone(), holdfast_testkit::fail_the_test(), &storage);
    let dispatch = Dispatch::new();
    dispatch.enter(Service::Raft, Arc::new(host.groups.clone()));
    let host = GroupHost {
        transport: network.node(id, dispatch),
        ..host
    };
    let config = RegistryConfig {
        log_entries: 10,
        ..RegistryConfig::default()
    };
    let registry = Registry::start(
        &host,
        &ConsensusConfig::default(),
        sealer.clone(),
        &Founding::default(),
        holdfast_model::Clock::from_fn(|| UnixMillis(1_700_000_000_000)),
        &config,
        id == NodeId(1),
    )
    .await
    .unwrap();
    Node { registry, disk }
}

async fn fill(registry: &Registry, devices: usize) {
    const UNDER_WAY: usize = 16;
    let mut number = 0;
    while number < devices {
        let bulks = (0..UNDER_WAY).map_while(|_| {
            let writes: Vec<_> = (number..devices.min(number + BULK))
                .map(|number| IdentityWrite {
                    id: device(number),
                    operation: WriteOperation::Create(IdentityContent::default()),
                })
                .collect();
            number += writes.len();
            (!writes.is_empty()).then(|| registry.write_bulk(writes))
        });
        let bulks: Vec<_> = bulks.collect();
        for outcome in futures_util::future::join_all(bulks).await {
            assert!(outcome.unwrap().iter().all(Result::is_ok));
        }
    }
}

#[tokio::test]
#[ignore = "a measurement: minutes, and a gigabyte of disk"]
#[allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it prints its figures")]
async fn a_check_and_a_new_replica_of_a_million_devices() {
    let devices = std::env::var("HOLDFAST_DEVICES").map_or(1_000_000, |text| text.parse().unwrap());
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let network = SimNetwork::new(1);
    let sealer = Arc::new(Sealer::generate(&Kek::new([5; 32])).unwrap());
    let node = start(first.path(), NodeId(1), &network, &sealer).await;
    let began = Instant::now();
    fill(&node.registry, devices).await;
    node.registry.trim_log().await.unwrap();
    node.disk.flush().unwrap();
    println!("{devices} devices written in {:?}", began.elapsed());

    let mut rng = rand::rng();
    let ids: Vec<_> = (0..CHECKS).map(|_| device(rng.random_range(0..devices))).collect();
    for what in ["first round", "second round"] {
        let (mut took, mut used) = (Duration::ZERO, Duration::ZERO);
        for some in ids.chunks(10_000) {
            // The lease is renewed on this thread, too.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let (began, cpu_before) = (Instant::now(), cpu());
            for id in some {
                std::hint::black_box(node.registry.in_lease());
                assert!(node.registry.identity(id).unwrap().is_some());
            }
            took += began.elapsed();
            used += cpu() - cpu_before;
        }
        let checks = u32::try_from(CHECKS).unwrap();
        println!(
            "{what}: {:?} of CPU a check, {:?} of time",
            used / checks,
            took / checks
        );
    }
    let began = Instant::now();
    for _ in 0..10_000_000 {
        std::hint::black_box(std::hint::black_box(&node.registry).in_lease());
    }
    println!("in_lease: {:?}", began.elapsed() / 10_000_000);

    while node.registry.trim_log().await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let memory = resident_mib();
    node.registry.group().add_learner(NodeId(2)).await.unwrap();
    let (began, cpu_before) = (Instant::now(), cpu());
    let replica = start(second.path(), NodeId(2), &network, &sealer).await;
    let took = began.elapsed();
    let bytes: u64 = walk(second.path());
    println!(
        "a new replica: {took:?}, {:?} of CPU on both sides, {} MiB of files, {} MiB more at the peak",
        cpu() - cpu_before,
        bytes >> 20,
        resident_mib() - memory
    );
    assert_eq!(replica.registry.statistics().await.unwrap().devices, devices as u64);
    replica.registry.group().shutdown().await;
    node.registry.group().shutdown().await;
}

fn walk(dir: &Path) -> u64 {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path)
            } else {
                path.metadata().unwrap().len()
            }
        })
        .sum()
}
