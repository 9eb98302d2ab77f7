//! A partition with several replicas: owners that change, followers that serve readers, replicas that are made anew.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::{Sender, config, read_to};
use holdfast_consensus::{GroupId, has_data};
use holdfast_model::{ByteSize, HumanDuration, Incarnation, NodeId, SequenceNumber};
use holdfast_partition::{AppendError, PartitionConfig, StartPosition};
use holdfast_storage::layout::{self, HardState};
use holdfast_storage::{Disk, Family};
use holdfast_testkit::eventually;
use rand::Rng;

#[tokio::test(start_paused = true)]
async fn a_follower_serves_readers_and_names_the_owner() {
    let cluster = Cluster::of(1, 3, config()).await;
    let owner = cluster.leader().await;
    let follower = (1..=3).map(NodeId).find(|id| *id != owner).unwrap();
    let mut sender = Sender::new(Incarnation(1));
    let mut reader = cluster.partition(follower).reader(StartPosition::Oldest).unwrap();
    let mut late = None;
    for number in 0..40 {
        cluster.append(&sender.batch(5, 1_000 + number)).await;
        if number == 20 {
            late = Some(
                cluster
                    .partition(follower)
                    .reader(StartPosition::AtSequence(SequenceNumber(50)))
                    .unwrap(),
            );
        }
    }
    assert_eq!(read_to(&mut reader, SequenceNumber(200)).await, 0);
    assert_eq!(read_to(&mut late.unwrap(), SequenceNumber(200)).await, 50);
    let status = cluster.all_at(200).await;
    assert!(cluster.nodes.values().all(|node| node.partition.status() == status));
    assert_eq!(cluster.events(follower).await, cluster.events(owner).await);

    let refused = cluster.partition(follower).append(sender.batch(1, 1)).await;
    assert_eq!(refused, Err(AppendError::NotLeader { leader: Some(owner) }));
    assert_eq!(
        cluster.partition(follower).owner(),
        cluster.partition(owner).owner(),
        "all name the same owner and term"
    );
    // The position at which a gateway continues, read on any replica.
    assert_eq!(cluster.partition(follower).last_batch(&sender.stream).await, Ok(40));
    cluster.check_alive();
}

/// A fault between two batches.
async fn disturb(cluster: &mut Cluster) {
    match cluster.rng.random_range(0..8) {
        0 | 1 => {
            if let Some(owner) = cluster.owner() {
                let to = (1..=3).map(NodeId).find(|id| *id != owner).unwrap();
                // It may not be caught up, or not answer: then the owner stays.
                let _ = cluster.partition(owner).group().transfer_leader(to).await;
            }
        }
        2 => {
            let id = cluster.rng.random_range(1..=3);
            cluster.kill(NodeId(id));
            cluster.start(NodeId(id), false).await;
        }
        3 => {
            if let Some(owner) = cluster.owner() {
                cluster.kill(owner);
                cluster.start(owner, false).await;
            }
        }
        4 => {
            let id = cluster.rng.random_range(1..=3);
            cluster.network.isolate(NodeId(id));
        }
        5 => {
            let (from, to) = (cluster.rng.random_range(1..=3), cluster.rng.random_range(1..=3));
            cluster.network.cut_one_way(NodeId(from), NodeId(to));
        }
        _ => cluster.network.heal_all(),
    }
}

/// One gateway core sends numbered messages while owners come and go; each message is there exactly once, under its number.
async fn run(seed: u64) {
    let config = PartitionConfig {
        state_interval: ByteSize::kib(8),
        index_spacing: ByteSize::kib(2),
        tail_cache: ByteSize::kib(4 + seed % 3 * 8),
        ..config()
    };
    let mut cluster = Cluster::of(seed, 3, config).await;
    let mut sender = Sender::new(Incarnation(1));
    for number in 0..40 {
        let messages = cluster.rng.random_range(1..8);
        let batch = sender.batch(messages, 1_000 + number);
        let acknowledged = sender.next_message;
        cluster.append(&batch).await;
        let owner = cluster.nodes.values().filter(|node| node.partition.is_owner());
        for node in owner {
            // A node that still believes to lead may be behind; one that has acknowledged is not.
            assert!(node.partition.status().next.0 <= acknowledged, "seed {seed}");
        }
        if cluster.rng.random_bool(0.4) {
            if cluster.rng.random_bool(0.5) {
                cluster.network.heal_all();
            }
            disturb(&mut cluster).await;
        }
    }
    cluster.network.heal_all();
    cluster.leader().await;
    cluster.append(&sender.batch(1, 5_000)).await;
    let status = cluster.all_at(sender.next_message).await;
    let expected = cluster.events(NodeId(1)).await;
    assert!(
        expected
            .iter()
            .enumerate()
            .all(|(at, (sequence, _, number))| { *sequence == at as u64 && number == sequence }),
        "seed {seed}: {expected:?}"
    );
    for id in 1..=3 {
        assert_eq!(cluster.partition(NodeId(id)).status(), status, "seed {seed}");
        assert_eq!(cluster.events(NodeId(id)).await, expected, "seed {seed}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how many seeds, for a longer run by hand")]
fn appends_stay_exact_while_owners_change() {
    let seeds = std::env::var("HOLDFAST_SEEDS").map_or(8, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(run(seed));
    }
}

fn trimming() -> PartitionConfig {
    PartitionConfig {
        retention: HumanDuration::secs(1),
        reclaim_step: ByteSize(0),
        index_spacing: ByteSize::kib(4),
        state_interval: ByteSize(0),
        tail_cache: ByteSize::kib(16),
        ..config()
    }
}

/// A partition of three whose beginning is gone on all replicas.
async fn trimmed(seed: u64, sender: &mut Sender) -> Cluster {
    let cluster = Cluster::of(seed, 3, trimming()).await;
    for number in 0..100 {
        cluster.append(&sender.batch(5, 1_000 + number)).await;
    }
    cluster.all_at(sender.next_message).await;
    for disk in cluster.disks.values() {
        disk.flush().unwrap();
    }
    for number in 0..100 {
        cluster.append(&sender.batch(5, 10_000 + number)).await;
    }
    cluster.all_at(sender.next_message).await;
    cluster.clock.set(11_005);
    for node in cluster.nodes.values() {
        for _ in 0..3 {
            node.partition.enforce_retention().await.unwrap();
        }
        assert!(node.partition.group().log_reader().first_index() > 80);
    }
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_new_replica_of_a_trimmed_partition_has_the_same_status_and_events() {
    let mut sender = Sender::new(Incarnation(1));
    let mut cluster = trimmed(7, &mut sender).await;
    let owner = cluster.leader().await;
    let expected = cluster.events(owner).await;
    cluster.start(NodeId(4), false).await;
    let group = cluster.partition(owner).group().clone();
    group.add_learner(NodeId(4)).await.unwrap();
    let status = cluster.all_at(sender.next_message).await;
    assert_eq!(cluster.partition(NodeId(4)).status(), status);
    assert_eq!(cluster.events(NodeId(4)).await, expected);

    // It votes, and can own the partition.
    if owner == NodeId(1) {
        group.transfer_leader(NodeId(2)).await.unwrap();
    }
    cluster.set_voters([2, 3, 4].map(NodeId).into()).await;
    // A removed replica gets no more messages.
    cluster.kill(NodeId(1));
    let mut reader = cluster.partition(NodeId(4)).reader(StartPosition::Oldest).unwrap();
    for number in 0..10 {
        cluster.append(&sender.batch(5, 20_000 + number)).await;
    }
    let owner = cluster.leader().await;
    if owner != NodeId(4) {
        cluster
            .partition(owner)
            .group()
            .transfer_leader(NodeId(4))
            .await
            .unwrap_or_else(|error| panic!("{error}: {:#?}", cluster.groups()));
    }
    cluster.append(&sender.batch(5, 30_000)).await;
    let first = read_to(&mut reader, SequenceNumber(sender.next_message)).await;
    assert_eq!(first, expected[0].0);

    // And finds all of it again after a power cut.
    let before = cluster.events(NodeId(4)).await;
    cluster.kill(NodeId(4));
    cluster.start(NodeId(4), false).await;
    cluster.all_at(sender.next_message).await;
    assert_eq!(cluster.events(NodeId(4)).await, before);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_cut_off_for_too_long_is_restored_and_its_readers_continue() {
    let mut sender = Sender::new(Incarnation(1));
    let cluster = trimmed(8, &mut sender).await;
    let owner = cluster.leader().await;
    let behind = (1..=3).map(NodeId).find(|id| *id != owner).unwrap();
    let mut reader = cluster.partition(behind).reader(StartPosition::Oldest).unwrap();
    let first = read_to(&mut reader, SequenceNumber(sender.next_message)).await;
    assert!(first > 400);
    cluster.network.isolate(behind);
    for number in 0..100 {
        cluster.append(&sender.batch(5, 20_000 + number)).await;
    }
    for disk in cluster.disks.values() {
        disk.flush().unwrap();
    }
    for number in 0..100 {
        cluster.append(&sender.batch(5, 30_000 + number)).await;
    }
    cluster.clock.set(31_005);
    for id in (1..=3).map(NodeId).filter(|id| *id != behind) {
        for _ in 0..3 {
            cluster.partition(id).enforce_retention().await.unwrap();
        }
    }
    cluster.network.heal_all();
    cluster.all_at(sender.next_message).await;
    let owner = cluster.leader().await;
    let expected = cluster.events(owner).await;
    let found = cluster.events(behind).await;
    assert!(
        found.ends_with(&expected),
        "the replica that was cut off may have kept more"
    );
    // The reader continues after the events that retention has removed meanwhile, in order.
    let next = read_to(&mut reader, SequenceNumber(sender.next_message)).await;
    assert!(next >= expected[0].0, "{next}");
    cluster.check_alive();
}

#[test]
fn a_new_replica_that_loses_power_while_it_is_made_is_made_in_the_end() {
    for seed in 0..10 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut sender = Sender::new(Incarnation(1));
            let mut cluster = trimmed(seed, &mut sender).await;
            let owner = cluster.leader().await;
            let expected = cluster.events(owner).await;
            cluster.start(NodeId(4), false).await;
            let group = cluster.partition(owner).group().clone();
            let adding = holdfast_tasks::spawn("add", async move {
                // The replica is down in between: then it is only known to be one.
                let _ = group.add_learner(NodeId(4)).await;
            });
            for _ in 0..4 {
                let wait = Duration::from_micros(cluster.rng.random_range(100..30_000));
                tokio::time::sleep(wait).await;
                cluster.kill(NodeId(4));
                cluster.start(NodeId(4), false).await;
            }
            adding.await.unwrap();
            let status = cluster.all_at(sender.next_message).await;
            assert_eq!(cluster.partition(NodeId(4)).status(), status, "seed {seed}");
            assert_eq!(cluster.events(NodeId(4)).await, expected, "seed {seed}");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_destroyed_replica_leaves_only_its_vote_and_last_position_and_can_return() {
    let mut sender = Sender::new(Incarnation(1));
    let mut cluster = trimmed(9, &mut sender).await;
    let owner = cluster.leader().await;
    let gone = (1..=3).map(NodeId).find(|id| *id != owner).unwrap();
    let left = (1..=3).map(NodeId).filter(|id| *id != gone).collect();
    let group = cluster.partition(owner).group().clone();
    cluster.set_voters(left).await;
    let replica = cluster.nodes.remove(&gone).unwrap();
    replica.partition.destroy().await.unwrap();
    let disk = cluster.disks[&gone].clone();
    let keys = Family::ALL.map(|family| disk.keys(family));
    assert_eq!(keys, [0, 2, 0, 0, 0, 0, 0], "its vote and its last entry");
    let group_id = GroupId::partition(0);
    for promised in [HardState::PriorLog, HardState::PriorVote] {
        let key = layout::hard_key(group_id.0, promised);
        assert!(disk.get(Family::Raft, &key).unwrap().is_some(), "{promised:?}");
    }
    assert!(!has_data(&disk, group_id).unwrap());

    cluster.start(gone, false).await;
    eventually("no state", || cluster.partition(gone).status().is_empty()).await;
    group.add_learner(gone).await.unwrap();
    let status = cluster.all_at(sender.next_message).await;
    assert_eq!(cluster.partition(gone).status(), status);
    cluster.append(&sender.batch(5, 40_000)).await;
    cluster.all_at(sender.next_message).await;
}
