//! Device state through consensus: kept over crashes, valid in one leadership, in snapshots, removed with its generation.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::cluster::Cluster;
use common::{Node, Sender, config, open_rocks, start, try_start};
use holdfast_model::{ByteSize, HumanDuration, Incarnation, NodeId, Term, UnixMillis};
use holdfast_partition::record::{
    BatchHeader, BatchWriter, DeviceStateChange, DeviceStateKey, DeviceStateKind, Effect, Leadership, StreamId,
};
use holdfast_partition::state::{GatewayPresence, Liveness};
use holdfast_partition::{AppendError, Partition, PartitionConfig};
use holdfast_storage::{Disk, Family, SimDisk};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const KIND: DeviceStateKind = DeviceStateKind::SUBSCRIPTIONS;

fn name<'a>(device: &'a str, generation: &'a str) -> DeviceStateKey<'a> {
    DeviceStateKey {
        kind: KIND,
        device,
        module: None,
        generation,
        item: b"",
    }
}

fn change<'a>(device: &'a str, value: Option<&'a [u8]>) -> Effect<'a> {
    Effect::DeviceState(DeviceStateChange {
        key: name(device, "1"),
        value,
    })
}

async fn set(partition: &Partition, device: &str, value: Option<&[u8]>) -> Result<(), AppendError> {
    let owner = partition.leadership().await?;
    partition.propose(owner, &[change(device, value)]).await
}

async fn get(partition: &Partition, device: &str) -> Option<Vec<u8>> {
    let value = partition.device_state(&name(device, "1")).await.unwrap();
    value.map(|value| value.to_vec())
}

/// All values of the kind by device, page by page.
async fn all(partition: &Partition) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut page = partition.device_states(KIND, None).await.unwrap();
    loop {
        for entry in &page.entries {
            let device = entry.key().unwrap().device.to_owned();
            assert_eq!(found.insert(device, entry.value.to_vec()), None, "a value comes twice");
        }
        if page.is_last() {
            return found;
        }
        page = partition.device_states(KIND, Some(&page)).await.unwrap();
    }
}

/// The same by one read of many keys, of which some are on disk, some in memory and some have no value.
async fn several(partition: &Partition) -> BTreeMap<String, Vec<u8>> {
    let devices: Vec<String> = (0..700).map(|number| format!("device-{number:04}")).collect();
    for device in devices.iter().step_by(7) {
        get(partition, device).await;
    }
    let keys: Vec<_> = devices.iter().map(|device| name(device, "1")).collect();
    let values = partition.device_state_values(&keys, |value| value).await.unwrap();
    assert_eq!(
        partition.device_state_values(&[], |value| value).await.unwrap(),
        Vec::<Option<bytes::Bytes>>::new()
    );
    // In another order, and a few that are far apart.
    let backwards: Vec<_> = keys.iter().rev().copied().collect();
    let mut found = partition.device_state_values(&backwards, |value| value).await.unwrap();
    found.reverse();
    assert_eq!(found, values);
    let few: Vec<_> = keys.iter().step_by(97).copied().collect();
    let found = partition.device_state_values(&few, |value| value).await.unwrap();
    assert!(found.iter().eq(values.iter().step_by(97)));
    let found = devices.into_iter().zip(values);
    found
        .filter_map(|(device, value)| Some((device, value?.to_vec())))
        .collect()
}

#[tokio::test]
async fn values_are_set_read_listed_and_removed_and_outlive_a_restart() {
    let disk = SimDisk::new();
    let mut expected = BTreeMap::new();
    {
        let node = start(Arc::new(disk.clone()), &config()).await;
        let partition = &node.partition;
        let owner = partition.leadership().await.unwrap();
        for number in 0..600_u32 {
            let device = format!("device-{number:04}");
            let value = number.to_be_bytes();
            partition
                .propose(owner, &[change(&device, Some(&value))])
                .await
                .unwrap();
            expected.insert(device, value.to_vec());
        }
        for number in [0_u32, 255, 256, 257, 599] {
            let device = format!("device-{number:04}");
            set(partition, &device, None).await.unwrap();
            assert_eq!(get(partition, &device).await, None);
            expected.remove(&device);
        }
        // Another kind, generation and module are other values.
        let others = [
            DeviceStateKey {
                kind: DeviceStateKind::CONNECTION,
                ..name("device-0001", "1")
            },
            name("device-0001", "2"),
            DeviceStateKey {
                module: Some("m"),
                ..name("device-0001", "1")
            },
            DeviceStateKey {
                item: b"1",
                ..name("device-0001", "1")
            },
        ];
        for key in &others {
            assert_eq!(partition.device_state(key).await.unwrap(), None);
        }
        assert_eq!(all(partition).await, expected);
        assert_eq!(several(partition).await, expected);
        assert_eq!(partition.status().next.0, 0, "effects are no events");
        partition.shutdown().await;
    }
    let node = start(Arc::new(disk), &config()).await;
    assert_eq!(several(&node.partition).await, expected);
    assert_eq!(all(&node.partition).await, expected);
    assert_eq!(
        get(&node.partition, "device-0001").await,
        Some(1_u32.to_be_bytes().to_vec())
    );
    node.partition.shutdown().await;
}

#[tokio::test]
async fn effects_of_another_leadership_are_refused_and_change_nothing() {
    let node = start(Arc::new(SimDisk::new()), &config()).await;
    let partition = &node.partition;
    let owner = partition.leadership().await.unwrap();
    let others = [
        Leadership {
            term: Term(owner.term.0 + 1),
            ..owner
        },
        Leadership {
            node: NodeId(owner.node.0 + 1),
            ..owner
        },
    ];
    for other in others {
        let refused = partition.propose(other, &[change("d", Some(b"1"))]).await;
        assert!(matches!(refused, Err(AppendError::NotLeader { .. })), "{refused:?}");
    }
    assert_eq!(get(partition, "d").await, None);
    let invalid = partition.propose(owner, &[change("", Some(b"1"))]).await;
    assert!(matches!(invalid, Err(AppendError::Malformed(_))), "{invalid:?}");
    partition.propose(owner, &[change("d", Some(b"1"))]).await.unwrap();
    assert_eq!(get(partition, "d").await, Some(b"1".to_vec()));
    partition.shutdown().await;
}

#[tokio::test]
async fn a_batch_carries_effects_of_the_owners_own_cores_alone() {
    let node = start(Arc::new(SimDisk::new()), &config()).await;
    let partition = &node.partition;
    let owner = partition.leadership().await.unwrap();
    let stream = |gateway_node| StreamId {
        gateway_node,
        incarnation: Incarnation(1),
        core: 0,
    };
    let entry = |owner, stream, batch_number| {
        let mut writer = BatchWriter::new();
        writer.push_effect(owner, &change("d", Some(b"1"))).unwrap();
        writer.close(BatchHeader {
            stream,
            batch_number,
            enqueued: UnixMillis(1),
        })
    };
    let refused = partition.append(entry(owner, stream(NodeId(2)), 1)).await;
    assert_eq!(refused, Err(AppendError::Refused), "of another gateway");
    let without = partition.append(entry(owner, stream(NodeId(0)), 0)).await;
    assert_eq!(without, Err(AppendError::Refused), "an owner's entry without a stream");
    let later = Leadership {
        term: Term(owner.term.0 + 1),
        ..owner
    };
    let refused = partition.append(entry(later, stream(NodeId(1)), 1)).await;
    assert!(matches!(refused, Err(AppendError::NotLeader { .. })), "{refused:?}");
    assert_eq!(get(partition, "d").await, None);
    let own = entry(owner, stream(NodeId(1)), 1);
    for _ in 0..2 {
        assert_eq!(
            partition.append(own.clone()).await,
            Ok(()),
            "once, and then as a repeat"
        );
    }
    partition.group().read_index().await.unwrap();
    assert_eq!(get(partition, "d").await, Some(b"1".to_vec()));
    assert_eq!(partition.last_batch(&stream(NodeId(1))).await, Ok(1));
    partition.shutdown().await;
}

#[tokio::test]
async fn values_beyond_the_cache_are_read_from_disk() {
    let small = PartitionConfig {
        device_state_cache: ByteSize::kib(4),
        state_interval: ByteSize::kib(8),
        ..config()
    };
    let dir = tempfile::tempdir().unwrap();
    let disks: [Arc<dyn Disk>; 2] = [Arc::new(SimDisk::new()), open_rocks(dir.path())];
    for disk in disks {
        let node = start(disk, &small).await;
        let owner = node.partition.leadership().await.unwrap();
        for number in 0..200_u64 {
            let device = format!("device-{number}");
            let value = vec![number as u8; 300];
            let effect = change(&device, Some(&value));
            node.partition.propose(owner, &[effect]).await.unwrap();
        }
        for number in 0..200_u64 {
            let device = format!("device-{number}");
            for _ in 0..2 {
                assert_eq!(get(&node.partition, &device).await, Some(vec![number as u8; 300]));
            }
        }
        assert_eq!(all(&node.partition).await.len(), 200);
        node.partition.shutdown().await;
    }
}

#[tokio::test]
async fn state_of_dead_generations_is_removed_and_no_other() {
    let node = start(Arc::new(SimDisk::new()), &config()).await;
    let partition = &node.partition;
    let owner = partition.leadership().await.unwrap();
    for number in 0..700_u32 {
        let device = format!("device-{number}");
        for generation in ["1", "2"] {
            let change = DeviceStateChange {
                key: name(&device, generation),
                value: Some(generation.as_bytes()),
            };
            partition.propose(owner, &[Effect::DeviceState(change)]).await.unwrap();
        }
    }
    let liveness = |key: &DeviceStateKey<'_>| match (key.device, key.generation) {
        // Deleted, or re-created.
        ("device-7", _) | (_, "1") => Liveness::Dead,
        _ => Liveness::Live,
    };
    let removed = partition.remove_dead_device_states(KIND, liveness).await.unwrap();
    assert_eq!(removed, 701);
    assert_eq!(all(partition).await.len(), 699);
    assert_eq!(get(partition, "device-8").await, None);
    let kept = partition.device_state(&name("device-8", "2")).await.unwrap();
    assert_eq!(kept.as_deref(), Some(&b"2"[..]));
    assert_eq!(partition.remove_dead_device_states(KIND, liveness).await, Ok(0));
    partition.shutdown().await;
}

/// Four incarnations of one node with power cuts in between; reports acknowledged values that are gone.
fn crash_and_compare(mut disk: SimDisk, seed: u64) -> Result<(), String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let config = PartitionConfig {
        state_interval: ByteSize(rng.random_range(0..5_000)),
        device_state_cache: ByteSize(rng.random_range(0..5_000)),
        ..config()
    };
    let mut acknowledged: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    // The last change of an incarnation: it may have taken effect or not.
    let mut unknown: Option<(String, Option<Vec<u8>>)> = None;
    for incarnation in 1..=4 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let node: Node = try_start(Arc::new(disk.clone()), &config)
                .await
                .map_err(|error| error.to_string())?;
            let partition = &node.partition;
            let owner = partition.leadership().await.unwrap();
            let found = all(partition).await;
            if let Some((device, value)) = unknown.take()
                && found.get(&device) == value.as_ref()
            {
                match value {
                    Some(value) => acknowledged.insert(device, value),
                    None => acknowledged.remove(&device),
                };
            }
            if found != acknowledged {
                return Err(format!("seed {seed}: acknowledged {acknowledged:?}, found {found:?}"));
            }
            let mut sender = Sender::new(Incarnation(incarnation));
            sender.next_message = partition.status().next.0;
            for _ in 0..rng.random_range(1..40) {
                let device = format!("device-{}", rng.random_range(0..9));
                let value = rng
                    .random_bool(0.8)
                    .then(|| vec![rng.random(); rng.random_range(0..300)]);
                let change = change(&device, value.as_deref());
                partition.propose(owner, &[change]).await.unwrap();
                match value {
                    Some(value) => acknowledged.insert(device, value),
                    None => acknowledged.remove(&device),
                };
                if rng.random_bool(0.3) {
                    partition.append(sender.batch(3, incarnation)).await.unwrap();
                }
                if rng.random_bool(0.1) {
                    disk.flush().unwrap();
                }
            }
            // And one without waiting for its outcome.
            let (device, value) = ("device-0".to_owned(), vec![rng.random()]);
            let effects = [change(&device, Some(&value))];
            let mut proposal = Box::pin(partition.propose(owner, &effects));
            for _ in 0..rng.random_range(0..3) {
                let once = std::future::poll_fn(|cx| std::task::Poll::Ready(proposal.as_mut().poll(cx)));
                if once.await.is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(proposal);
            unknown = Some((device, Some(value)));
            disk = disk.crash(&mut rng);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn acknowledged_values_survive_every_power_cut() {
    for seed in 0..20 {
        crash_and_compare(SimDisk::new(), seed).unwrap();
    }
}

#[test]
fn the_crash_test_notices_a_disk_that_does_not_sync() {
    assert!((0..20).any(|seed| crash_and_compare(SimDisk::that_ignores_sync(), seed).is_err()));
}

#[tokio::test(start_paused = true)]
async fn a_new_replica_gets_the_state_with_its_snapshot_and_can_own_the_partition() {
    let trimming = PartitionConfig {
        retention: HumanDuration::secs(1),
        reclaim_step: ByteSize(0),
        index_spacing: ByteSize::kib(4),
        state_interval: ByteSize::kib(2),
        device_state_cache: ByteSize::kib(1),
        ..config()
    };
    let mut cluster = Cluster::of(11, 3, trimming).await;
    let mut sender = Sender::new(Incarnation(1));
    let owner = cluster.leader().await;
    let mut expected = BTreeMap::new();
    for number in 0..300_u32 {
        let (device, value) = (format!("device-{number}"), vec![number as u8; 100]);
        set(cluster.partition(owner), &device, Some(&value)).await.unwrap();
        expected.insert(device, value);
        cluster.append(&sender.batch(5, 1_000)).await;
    }
    let absent = GatewayPresence::Absent;
    cluster
        .partition(owner)
        .record_gateway(NodeId(9), absent)
        .await
        .unwrap();
    cluster.all_at(sender.next_message).await;
    for disk in cluster.disks.values() {
        disk.flush().unwrap();
    }
    for _ in 0..50 {
        cluster.append(&sender.batch(5, 10_000)).await;
    }
    cluster.all_at(sender.next_message).await;
    cluster.clock.set(11_005);
    for node in cluster.nodes.values() {
        for _ in 0..3 {
            node.partition.enforce_retention().await.unwrap();
        }
        assert!(node.partition.group().log_reader().first_index() > 100);
    }
    cluster.start(NodeId(4), false).await;
    let group = cluster.partition(owner).group().clone();
    group.add_learner(NodeId(4)).await.unwrap();
    cluster.all_at(sender.next_message).await;
    for id in 1..=4 {
        assert_eq!(all(cluster.partition(NodeId(id))).await, expected, "on node {id}");
    }
    if owner == NodeId(1) {
        group.transfer_leader(NodeId(2)).await.unwrap();
    }
    cluster.set_voters([2, 3, 4].map(NodeId).into()).await;
    cluster.kill(NodeId(1));
    let owner = cluster.leader().await;
    if owner != NodeId(4) {
        let group = cluster.partition(owner).group();
        group.transfer_leader(NodeId(4)).await.unwrap();
    }
    let owner = cluster.leader().await;
    let partition = cluster.partition(owner);
    assert_eq!(partition.absent_gateways().await, Ok(vec![NodeId(9)]));
    set(partition, "device-1", Some(b"new")).await.unwrap();
    expected.insert("device-1".to_owned(), b"new".to_vec());
    cluster.append(&sender.batch(1, 10_000)).await;
    cluster.all_at(sender.next_message).await;

    // And finds all of it again after a power cut.
    cluster.kill(NodeId(4));
    cluster.start(NodeId(4), false).await;
    cluster.all_at(sender.next_message).await;
    assert_eq!(all(cluster.partition(NodeId(4))).await, expected);
    let replica = cluster.nodes.remove(&NodeId(4)).unwrap();
    replica.partition.destroy().await.unwrap();
    assert_eq!(
        cluster.disks[&NodeId(4)].keys(Family::DeviceState),
        0,
        "a deleted replica leaves none"
    );
}
