//! The registry of several nodes over a simulated network: writes and reads anywhere, leases, snapshots.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "test code")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Cluster, create, device, node, set_status};
use holdfast_auth::{HubNames, Key, ResourcePath, Rights, SasRefusal, SasToken, sign, verify_policy};
use holdfast_model::{FEATURE_LEVEL, NodeId, UnixMillis};
use holdfast_proto::registry::v1 as proto;
use holdfast_registry::{
    KeyChoice, LeaseState, NodeState, Placement, PolicyCondition, PolicyKeys, PolicyWrite, Registry, RegistryError,
    RegistryEvent, SavedQueryCondition, SavedQueryWrite, Status,
};
use holdfast_storage::{Disk as _, Durability, Family, SimDisk, WriteBatch};
use holdfast_testkit::eventually;
use prost::Message as _;
use rand::Rng as _;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn any_node_writes_and_reads_its_writes_and_learners_pass_the_read_barrier() {
    let mut cluster = Cluster::of(1, 3).await;
    cluster.join(NodeId(4)).await;
    for (at, id) in [1, 2, 3, 4].into_iter().enumerate() {
        let registry = &cluster.nodes[&NodeId(id)];
        let name = format!("dev-{at}");
        let written = registry.write(create(&name)).await.unwrap().identity.unwrap();
        assert_eq!(
            *registry.identity(&written.id).unwrap().unwrap(),
            written,
            "node {id} reads its own write without asking anybody"
        );
        for (other, registry) in &cluster.nodes {
            let seen = registry.get(&written.id).await.unwrap();
            assert_eq!(seen.as_deref(), Some(&written), "node {other}");
        }
    }
    let statuses: Vec<_> = cluster
        .nodes
        .values()
        .map(|r| r.group().status().members.voters.len())
        .collect();
    assert_eq!(statuses, [3; 4], "node 4 is a learner");
}

#[tokio::test(start_paused = true)]
async fn every_node_sees_members_and_placements_and_is_notified() {
    let mut cluster = Cluster::of(2, 3).await;
    let mut changes = cluster.nodes[&NodeId(3)].changes();
    // By a follower.
    let second = cluster.nodes[&NodeId(2)].clone();
    second.set_node_state(NodeId(2), NodeState::Active).await.unwrap();
    let view = second.cluster();
    assert_eq!(view.node(NodeId(2)).unwrap().state, NodeState::Active);
    assert_eq!((view.cluster.as_str(), view.placements.len()), ("c1", 4));
    let mut moved = view.placements[0].clone();
    moved.replicas = vec![NodeId(2), NodeId(3), NodeId(1)];
    second.place(view.version, std::slice::from_ref(&moved)).await.unwrap();
    let refused = cluster.nodes[&NodeId(1)].place(view.version, &[]).await;
    let Err(RegistryError::Rejected(rejection)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(rejection.code.number(), 412_001);
    eventually("the others follow", || {
        cluster
            .nodes
            .values()
            .all(|registry| registry.cluster() == second.cluster())
    })
    .await;
    assert_eq!(
        cluster.nodes[&NodeId(3)].cluster().placement(moved.partition),
        Some(&moved)
    );
    let mut told = 0;
    while let Some(event) = changes.try_next() {
        assert_eq!(event, RegistryEvent::Cluster);
        told += 1;
    }
    assert_eq!(told, 2);
    // A node that comes back has them from its own disk.
    cluster.disks[&NodeId(3)].flush().unwrap();
    cluster.kill(NodeId(3));
    cluster.start(NodeId(3)).await;
    assert_eq!(cluster.nodes[&NodeId(3)].cluster(), second.cluster());
    let lost = Placement {
        founder: NodeId(9),
        ..moved
    };
    assert!(second.place(second.cluster().version, &[lost]).await.is_err());
    let unknown = second.admit("no such secret", &node(NodeId(9)), FEATURE_LEVEL).await;
    assert!(matches!(unknown, Err(RegistryError::Rejected(r)) if r.code.number() == 401_002));
    let tokens = second.join_tokens().unwrap();
    assert_eq!(tokens.len(), 2);
    assert!(
        tokens
            .iter()
            .all(|token| token.used_by.is_some() && token.id.len() == 8)
    );
}

/// Makes the hub of a stopped node one from before there were feature levels.
fn forget_level(disk: &SimDisk) {
    let stored = disk.get(Family::Registry, b"s").unwrap().unwrap();
    let settings = proto::HubSettings {
        feature_level: 0,
        ..proto::HubSettings::decode(stored).unwrap()
    };
    let mut batch = WriteBatch::new();
    batch.put(Family::Registry, b"s", &settings.encode_to_vec());
    disk.write(&batch, Durability::Replayed).unwrap();
    disk.flush().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_members_of_an_earlier_version_cannot_read_is_written_once_the_level_is_raised() {
    let mut cluster = Cluster::of(7, 1).await;
    let one = NodeId(1);
    let level = |cluster: &Cluster| cluster.nodes[&one].feature_level().unwrap();
    assert!(level(&cluster).is_set && level(&cluster).level == FEATURE_LEVEL);
    cluster.disks[&one].flush().unwrap();
    cluster.kill(one);
    forget_level(&cluster.disks[&one]);
    cluster.start(one).await;
    cluster.leader_of([one]).await;
    assert!(!level(&cluster).is_set);

    let registry = cluster.nodes[&one].clone();
    registry.write(create("old")).await.unwrap();
    let query = |name: &str| SavedQueryWrite {
        name: name.to_owned(),
        query: "SELECT * FROM devices".to_owned(),
        description: None,
        condition: SavedQueryCondition::Any,
    };
    let refused = registry.put_saved_query(&query("early")).await.unwrap_err();
    assert!(
        matches!(refused, RegistryError::FeatureLevel { needed: 5, level: 3 }),
        "{refused:?}"
    );
    assert_eq!(refused.code().number(), 503_001);

    let stale = registry
        .raise_feature_level(FEATURE_LEVEL, registry.cluster().version + 1)
        .await;
    assert!(matches!(stale, Err(RegistryError::Rejected(r)) if r.code.number() == 412_001));
    let view = registry.cluster().version;
    registry.raise_feature_level(FEATURE_LEVEL, view).await.unwrap();
    registry.put_saved_query(&query("late")).await.unwrap();

    // A hub without a level that has such records: all members know them.
    cluster.disks[&one].flush().unwrap();
    cluster.kill(one);
    forget_level(&cluster.disks[&one]);
    cluster.start(one).await;
    assert_eq!((level(&cluster).is_set, level(&cluster).level), (false, 5));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_is_out_of_its_lease_within_it_and_back_when_it_is_not() {
    let cluster = Cluster::of(3, 3).await;
    cluster.all_in_lease().await;
    tokio::time::sleep(10 * SECOND).await;
    for registry in cluster.nodes.values() {
        assert!(registry.in_lease());
    }
    let leader = cluster.leader_of((1..=3).map(NodeId)).await;
    let follower = NodeId(1 + leader.get() % 3);
    let mut watch = cluster.nodes[&follower].lease_watch();
    cluster.network.isolate(follower);
    let cut = Instant::now();
    while !matches!(watch.changed().await, LeaseState::Lost { .. }) {}
    assert!(cut.elapsed() <= SECOND + 2 * MS, "{:?}", cut.elapsed());
    assert!(!cluster.nodes[&follower].in_lease());
    let others = (1..=3).map(NodeId).filter(|id| *id != follower);
    assert!(others.clone().all(|id| cluster.nodes[&id].in_lease()));
    cluster.network.heal_all();
    let healed = Instant::now();
    watch.held().await;
    assert!(healed.elapsed() <= 4 * SECOND, "{:?}", healed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_quorum_grants_nothing_not_even_to_itself() {
    let mut cluster = Cluster::of(4, 3).await;
    cluster.join(NodeId(4)).await;
    cluster.nodes[&NodeId(1)].write(create("dev")).await.unwrap();
    cluster.all_in_lease().await;
    let old = cluster.leader_of((1..=4).map(NodeId)).await;
    let mut changes = cluster.nodes[&NodeId(4)].changes();
    // The learner 4 stays with the old leader, which still sends heartbeats to it.
    let rest: Vec<NodeId> = (1..=3).map(NodeId).filter(|id| *id != old).collect();
    for id in &rest {
        cluster.network.cut(old, *id);
        cluster.network.cut(NodeId(4), *id);
    }
    let cut = Instant::now();
    cluster.leader_of(rest.iter().copied()).await;
    let written = cluster.nodes[&rest[0]].write(set_status("dev", Status::Disabled)).await;
    assert!(!written.unwrap().identity.unwrap().is_enabled());
    let committed = Instant::now();
    tokio::time::sleep_until(cut + 2 * SECOND).await;
    for id in [old, NodeId(4)] {
        let registry = &cluster.nodes[&id];
        assert!(
            registry.identity(&device("dev")).unwrap().unwrap().is_enabled(),
            "it cannot know"
        );
        assert!(!registry.in_lease(), "node {id}");
        let LeaseState::Lost { since } = registry.lease() else {
            panic!()
        };
        assert!(since <= committed + SECOND && since <= cut + SECOND + 2 * MS);
        // A refusal needs a confirmation, which no node can give.
        assert!(registry.read_barrier().await.is_err());
    }
    cluster.network.heal_all();
    let mut watch = cluster.nodes[&NodeId(4)].lease_watch();
    watch.held().await;
    let seen = cluster.nodes[&NodeId(4)].identity(&device("dev")).unwrap().unwrap();
    assert!(!seen.is_enabled(), "with the lease comes what it missed");
    let mut revoked = false;
    while let Some(event) = changes.try_next() {
        revoked |= matches!(event, RegistryEvent::Identity { change, .. } if change.id == device("dev"));
    }
    assert!(revoked);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_heard_on_every_node_within_a_second() {
    let cluster = Cluster::of(5, 3).await;
    cluster.nodes[&NodeId(1)].write(create("dev")).await.unwrap();
    cluster.all_in_lease().await;
    let mut feeds: BTreeMap<_, _> = cluster
        .nodes
        .iter()
        .map(|(id, registry)| (*id, registry.changes()))
        .collect();
    cluster.nodes[&NodeId(2)]
        .write(set_status("dev", Status::Disabled))
        .await
        .unwrap();
    let committed = Instant::now();
    for (id, feed) in &mut feeds {
        loop {
            let event = feed.next().await.unwrap();
            if matches!(&event, RegistryEvent::Identity { change, .. } if change.id == device("dev")) {
                break;
            }
        }
        assert!(committed.elapsed() <= SECOND, "node {id}: {:?}", committed.elapsed());
        assert!(
            !cluster.nodes[id]
                .identity(&device("dev"))
                .unwrap()
                .unwrap()
                .is_enabled()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_deleted_policy_or_an_old_key_is_refused_on_every_node_within_a_second() {
    let cluster = Cluster::of(7, 3).await;
    let names = HubNames::new(["hub.example"]);
    let policy = |keys, condition| PolicyWrite {
        name: "readers".to_owned(),
        condition,
        rights: (condition == PolicyCondition::Absent).then_some(Rights::SERVICE_CONNECT),
        keys,
    };
    let create = policy(PolicyKeys::KEEP, PolicyCondition::Absent);
    let (created, before) = cluster.nodes[&NodeId(2)].write_policy(&create).await.unwrap();
    assert!(created);
    let token = |key: &Key| sign("hub.example", key.as_bytes(), Some("readers"), 4_000_000_000);
    // The answer of each node, from its own replica.
    let answers = |text: &str| {
        let mut answers = cluster.nodes.values().map(|registry| {
            let token = SasToken::parse(text).unwrap();
            let (policy, needed) = (registry.policy("Readers"), Rights::SERVICE_CONNECT);
            verify_policy(
                &token,
                &ResourcePath::HUB,
                policy.as_deref(),
                needed,
                &names,
                UnixMillis(0),
            )
            .map(|_| ())
        });
        let first = answers.next().unwrap();
        answers.all(|answer| answer == first).then_some(first)
    };
    let within_a_second = async |text: &str, expected| {
        let changed = Instant::now();
        eventually("all nodes agree", || answers(text) == Some(expected)).await;
        assert!(changed.elapsed() <= SECOND, "{:?}", changed.elapsed());
    };
    let (primary, secondary) = (token(&before.keys.primary), token(&before.keys.secondary));
    within_a_second(&primary, Ok(())).await;
    let renew = policy(PolicyKeys::Regenerate(KeyChoice::Primary), PolicyCondition::Present);
    let (created, renewed) = cluster.nodes[&NodeId(3)].write_policy(&renew).await.unwrap();
    assert!(!created && renewed.keys.primary != before.keys.primary);
    within_a_second(&primary, Err(SasRefusal::Signature)).await;
    within_a_second(&secondary, Ok(())).await;
    let swap = policy(PolicyKeys::Swap, PolicyCondition::Present);
    let (_, swapped) = cluster.nodes[&NodeId(1)].write_policy(&swap).await.unwrap();
    assert_eq!(swapped.keys.primary, before.keys.secondary);
    assert_eq!(swapped.keys.secondary, renewed.keys.primary);
    within_a_second(&secondary, Ok(())).await;
    cluster.nodes[&NodeId(1)].remove_policy("READERS").await.unwrap();
    within_a_second(&secondary, Err(SasRefusal::UnknownPolicy)).await;
}

#[allow(clippy::disallowed_methods, reason = "the environment may select more seeds")]
fn seeds() -> Option<std::ops::Range<u64>> {
    let text = std::env::var("HOLDFAST_SEEDS").ok()?;
    let (first, last) = text.split_once("..")?;
    Some(first.parse().ok()?..last.parse().ok()?)
}

/// With faults: a replica that holds the lease shows everything that was committed longer ago than the lease.
async fn no_replica_in_lease_is_stale(seed: u64) {
    let mut cluster = Cluster::of(seed, 3).await;
    cluster.join(NodeId(4)).await;
    cluster.nodes[&NodeId(1)].write(create("dev")).await.unwrap();
    cluster.all_in_lease().await;
    let index_of = |registry: &Registry| registry.group().applied_index();
    // (when it was known to be committed, its index)
    let mut committed: Vec<(Instant, u64)> = Vec::new();
    let mut checks = 0;
    for round in 0..12 {
        match cluster.rng.random_range(0..5) {
            0 => cluster.network.heal_all(),
            1 => cluster.network.isolate(NodeId(cluster.rng.random_range(1..=4))),
            2 => {
                let (from, to) = (cluster.rng.random_range(1..=4), cluster.rng.random_range(1..=4));
                cluster.network.cut_one_way(NodeId(from), NodeId(to));
            }
            3 => {
                let slow = Duration::from_millis(cluster.rng.random_range(1..300));
                cluster.network.set_delay(MS..=slow);
            }
            _ => cluster.network.set_loss(cluster.rng.random_range(0.0..0.3)),
        }
        // Writers everywhere; those that come through are noted when they do.
        let mut writes = tokio::task::JoinSet::new();
        for (id, registry) in &cluster.nodes {
            let registry = registry.clone();
            let name = format!("group-{seed}-{round}-{id}");
            #[allow(clippy::disallowed_methods, reason = "a set of tasks is joined")]
            writes.spawn(async move {
                let write = registry.add_consumer_group(&name).await;
                let _ = registry.remove_consumer_group(&name).await;
                write.is_ok().then(|| registry.group().applied_index())
            });
        }
        let until = Instant::now() + Duration::from_millis(cluster.rng.random_range(200..3_000));
        while Instant::now() < until {
            tokio::time::sleep(7 * MS).await;
            while let Some(done) = writes.try_join_next() {
                if let Ok(Some(index)) = done {
                    committed.push((Instant::now(), index));
                }
            }
            for (id, registry) in &cluster.nodes {
                if !registry.in_lease() {
                    continue;
                }
                checks += 1;
                let applied = index_of(registry);
                let must = committed
                    .iter()
                    .filter(|(at, _)| at.elapsed() > SECOND)
                    .map(|(_, index)| *index)
                    .max();
                assert!(
                    must.is_none_or(|must| applied >= must),
                    "seed {seed}, round {round}: node {id} is in its lease at {applied}, but {must:?} is older"
                );
            }
        }
    }
    assert!(checks > 100, "seed {seed}: the leases were held now and then");
    cluster.network.heal_all();
    cluster.network.set_loss(0.0);
    cluster.network.set_delay(MS..=2 * MS);
    cluster.all_in_lease().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_holds_the_lease_has_everything_older_than_it_whatever_the_network_does() {
    // More of them: HOLDFAST_SEEDS=first..last.
    let seeds = seeds().unwrap_or(0..12);
    for seed in seeds {
        no_replica_in_lease_is_stale(seed).await;
    }
}

/// Trims until `first` is gone: entries that are being sent stay for another call.
async fn trim(registry: &Registry, disk: &SimDisk, first: u64) {
    registry.read_barrier().await.unwrap();
    // Only what a flush has taken into files is given up, and what has been flushed shows at the next call.
    registry.trim_log().await.unwrap();
    disk.flush().unwrap();
    let give_up = Instant::now() + 60 * SECOND;
    loop {
        let left = registry.trim_log().await.unwrap();
        if left > first {
            return;
        }
        assert!(Instant::now() < give_up, "the log is kept from {left} on");
        tokio::time::sleep(100 * MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_the_log_cannot_serve_takes_a_snapshot() {
    let mut cluster = Cluster::new(6);
    cluster.config.log_entries = 5;
    cluster.grow(3).await;
    for number in 0..60 {
        cluster.nodes[&NodeId(1)]
            .write(create(&format!("dev-{number}")))
            .await
            .unwrap();
    }
    let write = SavedQueryWrite {
        name: "hot".to_owned(),
        query: "SELECT * FROM devices".to_owned(),
        description: None,
        condition: SavedQueryCondition::Any,
    };
    let (_, saved) = cluster.nodes[&NodeId(2)].put_saved_query(&write).await.unwrap();
    for (id, registry) in &cluster.nodes {
        trim(registry, &cluster.disks[id], 40).await;
    }
    cluster.join(NodeId(4)).await;
    let late = cluster.nodes[&NodeId(4)].clone();
    late.read_barrier().await.unwrap();
    assert_eq!(late.list_devices(1000).await.unwrap().len(), 60);
    assert_eq!(late.statistics().await.unwrap().devices, 60);
    assert_eq!(**late.saved_queries().get("hot").unwrap(), saved);
    assert_eq!(late.cluster(), cluster.nodes[&NodeId(1)].cluster());
    assert_eq!(late.settings().unwrap(), cluster.nodes[&NodeId(1)].settings().unwrap());
    late.write(create("after")).await.unwrap();
    // A member that was away while the log was trimmed.
    cluster.kill(NodeId(3));
    for number in 100..160 {
        cluster.nodes[&NodeId(1)]
            .write(create(&format!("dev-{number}")))
            .await
            .unwrap();
    }
    for id in [1, 2, 4] {
        trim(&cluster.nodes[&NodeId(id)], &cluster.disks[&NodeId(id)], 120).await;
    }
    cluster.start(NodeId(3)).await;
    let mut changes = cluster.nodes[&NodeId(3)].changes();
    let third = cluster.nodes[&NodeId(3)].clone();
    third.read_barrier().await.unwrap();
    assert_eq!(third.statistics().await.unwrap().devices, 121);
    let mut resynced = false;
    while let Some(event) = changes.try_next() {
        resynced |= event == RegistryEvent::Resync;
    }
    assert!(resynced, "subscribers must resynchronise");
    // The installed state is there after a crash, and the node continues from it.
    cluster.kill(NodeId(3));
    cluster.start(NodeId(3)).await;
    cluster.nodes[&NodeId(3)].read_barrier().await.unwrap();
    assert_eq!(cluster.nodes[&NodeId(3)].statistics().await.unwrap().devices, 121);
    cluster.all_in_lease().await;
}
