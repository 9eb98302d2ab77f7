//! Reader leases, on all nodes and over changes of owner.

use std::time::Duration;

use holdfast_cluster::route::{Preempted, READER_LEASE, ReaderLeaseError};
use holdfast_model::NodeId;
use holdfast_partition::epoch::{Receiver, Refusal};
use tokio::time::Instant;

use super::common::{CORE, Cluster, GATEWAY, P};
use holdfast_testkit::eventually;

fn receiver(name: &str, epoch: impl Into<Option<i64>>) -> Receiver {
    Receiver {
        name: name.to_owned(),
        epoch: epoch.into(),
    }
}

async fn soon(lease: &mut holdfast_cluster::route::ReaderLease) -> Preempted {
    tokio::time::timeout(Duration::from_secs(10), lease.preempted())
        .await
        .expect("never preempted")
}

async fn is_kept(lease: &mut holdfast_cluster::route::ReaderLease, timeout: Duration) -> bool {
    tokio::time::timeout(timeout, lease.preempted()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn the_epoch_rule_holds_across_nodes() {
    let cluster = Cluster::start(50).await;
    let mut first = cluster
        .on(GATEWAY)
        .acquire_reader_lease(P, "g", receiver("first", 3))
        .await
        .unwrap();
    let refused = cluster
        .on(NodeId(2))
        .acquire_reader_lease(P, "g", receiver("low", 2))
        .await
        .err();
    assert!(matches!(
        refused,
        Some(ReaderLeaseError::Refused(Refusal::EpochTooLow { current: 3, .. }))
    ));
    let began = Instant::now();
    let mut second = cluster
        .on(NodeId(2))
        .acquire_reader_lease(P, "G", receiver("second", 3))
        .await
        .unwrap();
    let Preempted::Stolen(stolen) = soon(&mut first).await else {
        panic!()
    };
    assert!(began.elapsed() < Duration::from_millis(100), "preempted at once");
    assert_eq!(
        (stolen.by.name.as_str(), stolen.from.name.as_str()),
        ("second", "first")
    );
    let third = cluster
        .on(NodeId(1))
        .acquire_reader_lease(P, "g", receiver("third", 9))
        .await
        .unwrap();
    assert!(matches!(soon(&mut second).await, Preempted::Stolen(_)));
    drop(third);
    let plain = cluster
        .on(NodeId(3))
        .acquire_reader_lease(P, "g", receiver("plain", None))
        .await;
    assert!(plain.is_ok(), "an owner that left blocks no reader");
}

#[tokio::test(start_paused = true)]
async fn five_readers_without_an_epoch_are_allowed_on_whatever_nodes() {
    let cluster = Cluster::start(51).await;
    let mut seats = Vec::new();
    for node in CORE.into_iter().chain([GATEWAY, GATEWAY]) {
        seats.push(
            cluster
                .on(node)
                .acquire_reader_lease(P, "g", receiver("r", None))
                .await
                .unwrap(),
        );
    }
    let sixth = cluster
        .on(NodeId(2))
        .acquire_reader_lease(P, "g", receiver("r", None))
        .await
        .err();
    assert_eq!(sixth, Some(ReaderLeaseError::Refused(Refusal::TooMany)));
    seats.pop();
    let began = Instant::now();
    while cluster
        .on(NodeId(2))
        .acquire_reader_lease(P, "g", receiver("r", None))
        .await
        .is_err()
    {
        assert!(began.elapsed() < Duration::from_secs(1), "the place was not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn leases_survive_a_change_of_owner() {
    for seed in 52..56 {
        let mut cluster = Cluster::start(seed).await;
        let owner = cluster.owner_everywhere(P).await.node;
        let others: Vec<NodeId> = cluster.nodes.keys().copied().filter(|node| *node != owner).collect();
        let mut early = cluster
            .on(NodeId((others[0]).get()))
            .acquire_reader_lease(P, "g", receiver("early", 0))
            .await
            .unwrap();
        let mut late = cluster
            .on(NodeId((others[1]).get()))
            .acquire_reader_lease(P, "g", receiver("late", 0))
            .await
            .unwrap();
        let mut other = cluster
            .on(GATEWAY)
            .acquire_reader_lease(P, "h", receiver("h", None))
            .await
            .unwrap();
        assert!(matches!(soon(&mut early).await, Preempted::Stolen(_)));
        cluster.kill(owner);
        let next = cluster.owner_everywhere(P).await;
        assert!(is_kept(&mut late, Duration::from_secs(3)).await);
        assert!(is_kept(&mut other, Duration::from_secs(3)).await);
        let low = cluster
            .on(next.node)
            .acquire_reader_lease(P, "g", receiver("none", None))
            .await
            .err();
        assert!(
            matches!(low, Some(ReaderLeaseError::Refused(Refusal::EpochTooLow { .. }))),
            "the new owner knows the readers: {low:?}"
        );
        let newer = cluster
            .on(GATEWAY)
            .acquire_reader_lease(P, "g", receiver("newer", 0))
            .await
            .unwrap();
        assert!(matches!(soon(&mut late).await, Preempted::Stolen(_)));
        drop(newer);
    }
}

#[tokio::test(start_paused = true)]
async fn leases_of_a_dead_node_expire() {
    let mut cluster = Cluster::start(57).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(
            cluster
                .on(GATEWAY)
                .acquire_reader_lease(P, "g", receiver("r", None))
                .await
                .unwrap(),
        );
    }
    cluster.kill(GATEWAY);
    let began = Instant::now();
    let mut lease = None;
    while lease.is_none() {
        assert!(
            began.elapsed() < READER_LEASE + Duration::from_secs(3),
            "dead readers keep their places"
        );
        lease = cluster
            .on(NodeId(2))
            .acquire_reader_lease(P, "g", receiver("r", None))
            .await
            .ok();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        began.elapsed() > Duration::from_secs(2),
        "a lease is not taken from a node that is only slow"
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_was_cut_off_learns_that_it_was_preempted() {
    let cluster = Cluster::start(58).await;
    let mut cut = cluster
        .on(GATEWAY)
        .acquire_reader_lease(P, "g", receiver("cut", 1))
        .await
        .unwrap();
    cluster.network.isolate(GATEWAY);
    let mut taken = cluster
        .on(NodeId(2))
        .acquire_reader_lease(P, "g", receiver("taken", 1))
        .await
        .unwrap();
    assert!(is_kept(&mut cut, Duration::from_secs(5)).await, "no node can notify it");
    cluster.network.heal_all();
    assert!(matches!(soon(&mut cut).await, Preempted::Stolen(_)));
    assert!(is_kept(&mut taken, Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_was_cut_off_and_not_replaced_keeps_its_lease() {
    let cluster = Cluster::start(59).await;
    let mut cut = cluster
        .on(GATEWAY)
        .acquire_reader_lease(P, "g", receiver("cut", 1))
        .await
        .unwrap();
    cluster.network.isolate(GATEWAY);
    tokio::time::sleep(2 * READER_LEASE).await;
    cluster.network.heal_all();
    let mut refused = None;
    eventually("owner known", || cluster.on(GATEWAY).owner(P).is_some()).await;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        refused = cluster
            .on(NodeId(2))
            .acquire_reader_lease(P, "g", receiver("none", None))
            .await
            .err();
        if refused.is_some() {
            break;
        }
    }
    assert!(matches!(
        refused,
        Some(ReaderLeaseError::Refused(Refusal::EpochTooLow { .. }))
    ));
    assert!(is_kept(&mut cut, Duration::from_secs(2)).await);
}
