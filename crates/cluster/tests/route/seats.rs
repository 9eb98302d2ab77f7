//! Who may read, over all nodes and changes of owner.

use std::time::Duration;

use holdfast_cluster::route::{Ousted, SEAT_LEASE, SeatError};
use holdfast_partition::epoch::{Receiver, Refusal};
use tokio::time::Instant;

use super::common::{Cluster, GATEWAY, P, eventually};

fn receiver(name: &str, epoch: impl Into<Option<i64>>) -> Receiver {
    Receiver {
        name: name.to_owned(),
        epoch: epoch.into(),
    }
}

async fn soon(seat: &mut holdfast_cluster::route::Seat) -> Ousted {
    tokio::time::timeout(Duration::from_secs(10), seat.ousted())
        .await
        .expect("never told")
}

async fn is_kept(seat: &mut holdfast_cluster::route::Seat, patience: Duration) -> bool {
    tokio::time::timeout(patience, seat.ousted()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn the_rule_of_epochs_holds_across_nodes() {
    let cluster = Cluster::start(50).await;
    let mut first = cluster
        .on(GATEWAY)
        .register(P, "g", receiver("first", 3))
        .await
        .unwrap();
    let refused = cluster.on(2).register(P, "g", receiver("low", 2)).await.err();
    assert!(matches!(
        refused,
        Some(SeatError::Refused(Refusal::EpochTooLow { current: 3, .. }))
    ));
    let began = Instant::now();
    let mut second = cluster.on(2).register(P, "G", receiver("second", 3)).await.unwrap();
    let Ousted::Stolen(stolen) = soon(&mut first).await else {
        panic!()
    };
    assert!(began.elapsed() < Duration::from_millis(100), "told at once");
    assert_eq!(
        (stolen.by.name.as_str(), stolen.from.name.as_str()),
        ("second", "first")
    );
    let third = cluster.on(1).register(P, "g", receiver("third", 9)).await.unwrap();
    assert!(matches!(soon(&mut second).await, Ousted::Stolen(_)));
    drop(third);
    let plain = cluster.on(3).register(P, "g", receiver("plain", None)).await;
    assert!(plain.is_ok(), "an owner that left blocks nobody");
}

#[tokio::test(start_paused = true)]
async fn five_without_an_epoch_wherever_they_are() {
    let cluster = Cluster::start(51).await;
    let mut seats = Vec::new();
    for node in [1, 2, 3, GATEWAY, GATEWAY] {
        seats.push(cluster.on(node).register(P, "g", receiver("r", None)).await.unwrap());
    }
    let sixth = cluster.on(2).register(P, "g", receiver("r", None)).await.err();
    assert_eq!(sixth, Some(SeatError::Refused(Refusal::TooMany)));
    seats.pop();
    let began = Instant::now();
    while cluster.on(2).register(P, "g", receiver("r", None)).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(1), "the place was not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn places_outlast_the_owner() {
    for seed in 52..56 {
        let mut cluster = Cluster::start(seed).await;
        let owner = cluster.owner_everywhere(P).await.node;
        let others: Vec<u64> = cluster.nodes.keys().copied().filter(|node| *node != owner).collect();
        let mut early = cluster
            .on(others[0])
            .register(P, "g", receiver("early", 0))
            .await
            .unwrap();
        let mut late = cluster
            .on(others[1])
            .register(P, "g", receiver("late", 0))
            .await
            .unwrap();
        let mut other = cluster.on(GATEWAY).register(P, "h", receiver("h", None)).await.unwrap();
        assert!(matches!(soon(&mut early).await, Ousted::Stolen(_)));
        cluster.kill(owner);
        let next = cluster.owner_everywhere(P).await;
        assert!(is_kept(&mut late, Duration::from_secs(3)).await);
        assert!(is_kept(&mut other, Duration::from_secs(3)).await);
        let low = cluster
            .on(next.node)
            .register(P, "g", receiver("none", None))
            .await
            .err();
        assert!(
            matches!(low, Some(SeatError::Refused(Refusal::EpochTooLow { .. }))),
            "the new owner knows who reads: {low:?}"
        );
        let newer = cluster
            .on(GATEWAY)
            .register(P, "g", receiver("newer", 0))
            .await
            .unwrap();
        assert!(matches!(soon(&mut late).await, Ousted::Stolen(_)));
        drop(newer);
    }
}

#[tokio::test(start_paused = true)]
async fn places_of_a_dead_node_end() {
    let mut cluster = Cluster::start(57).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(cluster.on(GATEWAY).register(P, "g", receiver("r", None)).await.unwrap());
    }
    cluster.kill(GATEWAY);
    let began = Instant::now();
    let mut seat = None;
    while seat.is_none() {
        assert!(
            began.elapsed() < SEAT_LEASE + Duration::from_secs(3),
            "dead readers keep their places"
        );
        seat = cluster.on(2).register(P, "g", receiver("r", None)).await.ok();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        began.elapsed() > Duration::from_secs(2),
        "they are not taken from who is only slow"
    );
}

#[tokio::test(start_paused = true)]
async fn who_was_cut_off_learns_that_its_place_is_taken() {
    let cluster = Cluster::start(58).await;
    let mut cut = cluster.on(GATEWAY).register(P, "g", receiver("cut", 1)).await.unwrap();
    cluster.network.isolate(GATEWAY);
    let mut taken = cluster.on(2).register(P, "g", receiver("taken", 1)).await.unwrap();
    assert!(is_kept(&mut cut, Duration::from_secs(5)).await, "nobody can tell it");
    cluster.network.heal_all();
    assert!(matches!(soon(&mut cut).await, Ousted::Stolen(_)));
    assert!(is_kept(&mut taken, Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn who_was_cut_off_and_not_replaced_keeps_its_place() {
    let cluster = Cluster::start(59).await;
    let mut cut = cluster.on(GATEWAY).register(P, "g", receiver("cut", 1)).await.unwrap();
    cluster.network.isolate(GATEWAY);
    tokio::time::sleep(2 * SEAT_LEASE).await;
    cluster.network.heal_all();
    let mut refused = None;
    eventually("owner known", || cluster.on(GATEWAY).owner(P).is_some()).await;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        refused = cluster.on(2).register(P, "g", receiver("none", None)).await.err();
        if refused.is_some() {
            break;
        }
    }
    assert!(matches!(refused, Some(SeatError::Refused(Refusal::EpochTooLow { .. }))));
    assert!(is_kept(&mut cut, Duration::from_secs(2)).await);
}
