//! Indexes of device state through consensus: complete whatever happens, built anew, continued, swept, in snapshots.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use common::cluster::Cluster;
use common::{Sender, TestClock, config, host};
use holdfast_consensus::ConsensusConfig;
use holdfast_model::{ByteSize, HumanDuration, Incarnation, NodeId, PartitionId};
use holdfast_partition::record::{DeviceStateChange, DeviceStateKey, DeviceStateKind, Effect};
use holdfast_partition::state::{IndexFound, IndexSearch, StateIndexer, UnreadableState, ValueSelection};
use holdfast_partition::{Partition, PartitionConfig, ValueIndexing};
use holdfast_storage::{Disk, Family, SimDisk};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const KIND: DeviceStateKind = DeviceStateKind::TWIN;

/// The values `a=1;b=2` have the entries `1` of the index `a` and `2` of `b`. A value `?` cannot be read.
struct Pairs(Vec<&'static str>);

impl StateIndexer for Pairs {
    fn kind(&self) -> DeviceStateKind {
        KIND
    }

    fn encoding(&self) -> u32 {
        1
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|name| (*name).to_owned()).collect()
    }

    fn index(
        &self,
        _: &DeviceStateKey<'_>,
        state: &[u8],
        found: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), UnreadableState> {
        let text = std::str::from_utf8(state).map_err(|error| UnreadableState(error.into()))?;
        if text == "?" {
            return Err(UnreadableState("a question mark".into()));
        }
        for (name, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
            if let Some(place) = self.0.iter().position(|known| *known == name) {
                found(place, format!("{value}\0").as_bytes());
            }
        }
        Ok(())
    }
}

fn indexing(names: &[&'static str]) -> Option<Arc<ValueIndexing>> {
    Some(Arc::new(ValueIndexing::new(Pairs(names.to_vec()))))
}

async fn start(disk: Arc<dyn Disk>, config: &PartitionConfig, indexing: Option<Arc<ValueIndexing>>) -> Partition {
    let clock = TestClock::default().clock();
    let (host, consensus) = (host(disk), ConsensusConfig::default());
    Partition::start_indexed(PartitionId(0), &host, &consensus, config, clock, true, indexing)
        .await
        .unwrap()
}

fn name<'a>(device: &'a str, generation: &'a str) -> DeviceStateKey<'a> {
    DeviceStateKey {
        kind: KIND,
        device,
        module: None,
        generation,
        item: b"",
    }
}

async fn set(partition: &Partition, values: &[(&str, Option<&str>)]) {
    let owner = partition.leadership().await.unwrap();
    let effects: Vec<_> = values
        .iter()
        .map(|(device, value)| {
            Effect::DeviceState(DeviceStateChange {
                key: name(device, "1"),
                value: value.map(str::as_bytes),
            })
        })
        .collect();
    partition.propose(owner, &effects).await.unwrap();
}

fn one_of(values: &[&str]) -> ValueSelection {
    let values = values.iter().map(|value| format!("{value}\0").into_bytes());
    ValueSelection::OneOf(values.collect())
}

async fn find(partition: &Partition, index: &str, selection: &ValueSelection) -> Option<Vec<String>> {
    let mut devices = Vec::new();
    let mut after = None;
    loop {
        let search = IndexSearch {
            index,
            selection,
            after: after.as_deref().map(|device| (device, "")),
            limit: 3,
        };
        match partition.find_by_value(&search).await.unwrap() {
            IndexFound::Incomplete => return None,
            IndexFound::TooMany => panic!("a range"),
            IndexFound::States { states, through } => {
                devices.extend(states.iter().map(|state| state.key().unwrap().device.to_owned()));
                match through {
                    Some(state) => after = Some(state.key().unwrap().device.to_owned()),
                    None => break,
                }
            }
        }
    }
    assert!(devices.is_sorted_by(|one, next| one < next), "{devices:?}");
    Some(devices)
}

async fn built(partition: &Partition, index: &str) {
    let is_built = async {
        while !partition.has_value_index(index) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), is_built).await.unwrap();
}

#[tokio::test]
async fn an_index_that_is_declared_later_is_built_and_one_that_is_not_declared_any_more_is_removed() {
    let disk = SimDisk::new();
    let count = 700_u32;
    let device = |number: u32| format!("device-{number:04}");
    {
        let partition = start(Arc::new(disk.clone()), &config(), None).await;
        for number in 0..count {
            let value = format!("a={};b={}", number % 7, number % 2);
            set(&partition, &[(&device(number), Some(&value))]).await;
        }
        assert_eq!(find(&partition, "a", &one_of(&["3"])).await, None);
        partition.shutdown().await;
    }
    let expected = |rest: u32| -> Vec<String> { (0..count).filter(|n| n % 7 == rest).map(device).collect() };
    {
        let partition = start(Arc::new(disk.clone()), &config(), indexing(&["a"])).await;
        built(&partition, "a").await;
        assert_eq!(find(&partition, "a", &one_of(&["3"])).await, Some(expected(3)));
        let mut both = [expected(3), expected(5)].concat();
        both.sort();
        assert_eq!(find(&partition, "a", &one_of(&["5", "3", "9"])).await, Some(both));
        assert_eq!(find(&partition, "b", &one_of(&["0"])).await, None);
        partition.shutdown().await;
    }
    {
        // `a` stays as it is, `b` is built.
        let partition = start(Arc::new(disk.clone()), &config(), indexing(&["b", "a"])).await;
        assert!(partition.has_value_index("a"));
        built(&partition, "b").await;
        assert_eq!(
            find(&partition, "b", &one_of(&["0", "1"])).await.unwrap().len(),
            count as usize
        );
        assert_eq!(find(&partition, "a", &one_of(&["3"])).await, Some(expected(3)));
        partition.shutdown().await;
    }
    let entries = |disk: &SimDisk| {
        let mut count = 0;
        disk.scan(Family::ValueIndex, &[], &[0xff], &mut |_, _| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        count
    };
    {
        let partition = start(Arc::new(disk.clone()), &config(), indexing(&["b"])).await;
        // Once the old value is in memory, a change removes its entry.
        partition.device_state(&name("device-0000", "1")).await.unwrap();
        set(&partition, &[("device-0000", Some("b=7"))]).await;
        partition.shutdown().await;
        assert_eq!(entries(&disk), count + 1, "the entries of one index and the state");
    }
    let partition = start(Arc::new(disk.clone()), &config(), None).await;
    partition.shutdown().await;
    assert_eq!(entries(&disk), 0);
}

#[tokio::test]
async fn building_continues_behind_a_restart_and_a_power_cut() {
    let mut disk = SimDisk::new();
    let mut rng = SmallRng::seed_from_u64(3);
    let count = 4000_u32;
    let device = |number: u32| format!("device-{number:04}");
    {
        let partition = start(Arc::new(disk.clone()), &config(), None).await;
        for first in (0..count).step_by(100) {
            let values: Vec<_> = (first..first + 100)
                .map(|n| (device(n), format!("a={}", n % 40)))
                .collect();
            let values: Vec<_> = values
                .iter()
                .map(|(device, value)| (device.as_str(), Some(value.as_str())))
                .collect();
            set(&partition, &values).await;
        }
        partition.shutdown().await;
    }
    let mut interrupted = 0;
    for turn in 0..6 {
        let partition = start(Arc::new(disk.clone()), &config(), indexing(&["a"])).await;
        // The first one ends before anything has been read.
        for number in 0..10 * u32::from(turn > 0) {
            // Changes on both sides of what has been read.
            let (device, value) = (device(turn * 10 + number * 399), format!("a={}", 50 + turn));
            set(&partition, &[(&device, Some(&value))]).await;
        }
        interrupted += u32::from(!partition.has_value_index("a"));
        partition.shutdown().await;
        if turn % 2 == 1 {
            disk.flush().unwrap();
            disk = disk.crash(&mut rng);
        }
    }
    assert!(interrupted > 0, "the first start was not interrupted");
    let partition = start(Arc::new(disk), &config(), indexing(&["a"])).await;
    built(&partition, "a").await;
    let mut found = 0;
    for value in 0..60 {
        let devices = find(&partition, "a", &one_of(&[&value.to_string()])).await.unwrap();
        for device in &devices {
            let stored = partition.device_state(&self::name(device, "1")).await.unwrap().unwrap();
            found += u32::from(stored == format!("a={value}"));
        }
    }
    assert_eq!(found, count, "each device is found by its value");
    partition.shutdown().await;
}

#[tokio::test]
async fn ranges_are_found_unless_they_are_too_large() {
    let disk = SimDisk::new();
    let partition = start(Arc::new(disk), &config(), indexing(&["a"])).await;
    for number in 0..20_u32 {
        let (device, value) = (format!("device-{:02}", 19 - number), format!("a={number:02}"));
        set(&partition, &[(&device, Some(&value))]).await;
    }
    built(&partition, "a").await;
    let selection = ValueSelection::Between(b"05\0".to_vec(), b"08\0".to_vec());
    let search = |after, limit| IndexSearch {
        index: "a",
        selection: &selection,
        after,
        limit,
    };
    let devices = |found| match found {
        IndexFound::States { states, through: None } => states
            .iter()
            .map(|state| state.key().unwrap().device.to_owned())
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let found = partition.find_by_value(&search(None, 3)).await.unwrap();
    assert_eq!(devices(found), ["device-12", "device-13", "device-14"]);
    let after = Some(("device-12", ""));
    let found = partition.find_by_value(&search(after, 3)).await.unwrap();
    assert_eq!(devices(found), ["device-13", "device-14"]);
    let found = partition.find_by_value(&search(None, 2)).await.unwrap();
    assert_eq!(found, IndexFound::TooMany);
    partition.shutdown().await;
}

#[tokio::test]
async fn a_value_that_cannot_be_read_makes_the_index_unusable() {
    let disk = SimDisk::new();
    let partition = start(Arc::new(disk.clone()), &config(), indexing(&["a"])).await;
    set(&partition, &[("one", Some("a=1"))]).await;
    built(&partition, "a").await;
    set(&partition, &[("two", Some("?"))]).await;
    assert_eq!(find(&partition, "a", &one_of(&["1"])).await, None);
    partition.shutdown().await;
    // A change of the value makes the next start succeed.
    let partition = start(Arc::new(disk), &config(), indexing(&["a"])).await;
    set(&partition, &[("two", Some("a=1"))]).await;
    partition.shutdown().await;
}

/// Whatever is written, removed, crashes and is declared: an index that is complete finds each device that has the value.
#[tokio::test]
async fn a_complete_index_never_misses_a_value_over_crashes() {
    for seed in 0..8 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut disk = SimDisk::new();
        let mut expected: BTreeMap<String, String> = BTreeMap::new();
        for round in 0..6 {
            let declared: &[&'static str] = match rng.random_range(0..4) {
                0 => &["b"],
                1 => &["b", "a"],
                _ => &["a", "b"],
            };
            let config = PartitionConfig {
                state_interval: ByteSize(rng.random_range(0..4000)),
                device_state_cache: ByteSize(rng.random_range(0..2000)),
                ..config()
            };
            let indexing = (rng.random_range(0..8) > 0).then(|| indexing(declared)).flatten();
            let is_indexed = indexing.is_some();
            let partition = start(Arc::new(disk.clone()), &config, indexing).await;
            for _ in 0..rng.random_range(0..150) {
                let device = format!("device-{:03}", rng.random_range(0..120));
                let value = format!("a={};b={}", rng.random_range(0..4), rng.random_range(0..30));
                if rng.random_range(0..10) == 0 {
                    set(&partition, &[(&device, None)]).await;
                    expected.remove(&device);
                } else if rng.random_range(0..10) == 0 {
                    // Two changes of a value in one entry.
                    set(&partition, &[(&device, Some("a=99")), (&device, Some(&value))]).await;
                    expected.insert(device, value);
                } else {
                    set(&partition, &[(&device, Some(&value))]).await;
                    expected.insert(device, value);
                }
                if rng.random_range(0..30) == 0 {
                    tokio::task::yield_now().await;
                }
            }
            let waits = rng.random_range(0..3) > 0;
            if waits && is_indexed {
                built(&partition, declared[0]).await;
            }
            for (index, values) in [("a", 4), ("b", 30)] {
                for value in 0..values {
                    let value = value.to_string();
                    let Some(found) = find(&partition, index, &one_of(&[&value])).await else {
                        assert!(!(waits && is_indexed && declared.contains(&index)));
                        continue;
                    };
                    let found: BTreeSet<_> = found.into_iter().collect();
                    let pair = format!("{index}={value}");
                    for (device, stored) in &expected {
                        if stored.split(';').any(|stored| *stored == pair) {
                            assert!(found.contains(device), "seed {seed}, round {round}: {device} at {pair}");
                        }
                    }
                }
            }
            partition.shutdown().await;
            // Everything that was proposed has been synced; the state may be older.
            disk = match rng.random_range(0..3) {
                0 => {
                    disk.flush().unwrap();
                    disk.crash(&mut rng)
                }
                _ => disk.crash(&mut rng),
            };
        }
    }
}

#[tokio::test]
async fn outdated_entries_are_swept() {
    let disk = SimDisk::new();
    let config = PartitionConfig {
        // The old value of a change is never in memory.
        state_interval: ByteSize(0),
        device_state_cache: ByteSize(0),
        ..config()
    };
    let partition = start(Arc::new(disk.clone()), &config, indexing(&["a"])).await;
    built(&partition, "a").await;
    let count_entries = || {
        let mut count = 0;
        disk.scan(Family::ValueIndex, &[], &[0xff], &mut |_, _| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        count
    };
    for round in 0..1500 {
        let value = format!("a={round}");
        set(&partition, &[("device", Some(&value)), ("other", Some("a=1"))]).await;
    }
    let swept = async {
        while count_entries() > 1000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), swept).await.unwrap();
    assert_eq!(
        find(&partition, "a", &one_of(&["1499"])).await,
        Some(vec!["device".to_owned()])
    );
    assert_eq!(
        find(&partition, "a", &one_of(&["1"])).await,
        Some(vec!["other".to_owned()])
    );
    partition.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_builds_its_indexes_behind_a_snapshot() {
    let trimming = PartitionConfig {
        retention: HumanDuration::secs(1),
        reclaim_step: ByteSize(0),
        index_spacing: ByteSize::kib(4),
        state_interval: ByteSize::kib(2),
        ..config()
    };
    let mut cluster = Cluster::indexed(12, 3, trimming, indexing(&["a"])).await;
    let mut sender = Sender::new(Incarnation(1));
    let owner = cluster.leader().await;
    let device = |number: u32| format!("device-{number:03}");
    let expected: Vec<String> = (0..300).filter(|number| number % 5 == 2).map(device).collect();
    for number in 0..300 {
        let value = format!("a={}", number % 5);
        set(cluster.partition(owner), &[(&device(number), Some(&value))]).await;
        cluster.append(&sender.batch(5, 1_000)).await;
    }
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
    // It has an empty index, which is complete, and which the snapshot makes incomplete.
    built(cluster.partition(NodeId(4)), "a").await;
    cluster.partition(owner).group().add_learner(NodeId(4)).await.unwrap();
    cluster.all_at(sender.next_message).await;
    for id in 1..=4 {
        let partition = cluster.partition(NodeId(id));
        built(partition, "a").await;
        assert_eq!(
            find(partition, "a", &one_of(&["2"])).await,
            Some(expected.clone()),
            "on node {id}"
        );
    }
    cluster.kill(NodeId(4));
    cluster.start(NodeId(4), false).await;
    cluster.all_at(sender.next_message).await;
    built(cluster.partition(NodeId(4)), "a").await;
    assert_eq!(
        find(cluster.partition(NodeId(4)), "a", &one_of(&["2"])).await,
        Some(expected)
    );
    let replica = cluster.nodes.remove(&NodeId(4)).unwrap();
    replica.partition.destroy().await.unwrap();
    assert_eq!(
        cluster.disks[&NodeId(4)].keys(Family::ValueIndex),
        0,
        "a deleted replica leaves none"
    );
}
