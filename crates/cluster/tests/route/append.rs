//! Batches from any node reach the owner in order, and their results return.

use std::time::Duration;

use holdfast_cluster::route::RouteError;
use holdfast_model::{LinkId, NodeId, PartitionId};
use holdfast_partition::AppendError;
use tokio::time::Instant;

use super::common::{BatchSender, CORE, Cluster, GATEWAY, HOSTED, P, append, oldest, read};

#[tokio::test(start_paused = true)]
async fn every_node_appends_to_every_partition_and_reads_it() {
    let cluster = Cluster::start(1).await;
    let all = CORE.into_iter().chain([GATEWAY]);
    for id in (0..HOSTED).map(PartitionId) {
        for node in all.clone() {
            let mut sender = BatchSender::new(cluster.on(node), id, 0);
            for _ in 0..5 {
                sender.send().await;
            }
            assert_eq!(sender.retries, 0, "the owner is known");
            assert_eq!(cluster.on(node).last_batch(id, sender.stream).await, Ok(5));
        }
        let mut seen = Vec::new();
        for node in all.clone() {
            let mut next = 0;
            seen.push(read(&mut oldest(cluster.on(node), id).await, &mut next, 40).await);
            let status = cluster.on(node).status(id).await.unwrap();
            assert_eq!((status.begin.0, status.next.0), (0, 40));
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_without_replicas_is_reported() {
    let cluster = Cluster::start(2).await;
    let ownerless = PartitionId(HOSTED);
    let mut sender = BatchSender::new(cluster.on(GATEWAY), ownerless, 0);
    let entry = sender.batch();
    let refused = append(cluster.on(GATEWAY), ownerless, entry).await;
    assert_eq!(refused, Err(AppendError::NotLeader { leader: None }));
    assert_eq!(
        cluster.on(GATEWAY).status(ownerless).await,
        Err(RouteError::NoOwner(ownerless))
    );
}

#[tokio::test(start_paused = true)]
async fn batches_of_one_gateway_are_proposed_in_the_order_of_its_calls() {
    let cluster = Cluster::start(3).await;
    let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 1);
    let mut told = Vec::new();
    for _ in 0..300 {
        let (tell, outcome) = tokio::sync::oneshot::channel();
        let appended = Box::new(move |result| {
            let _ = tell.send(result);
        });
        let entry = sender.batch();
        cluster.on(GATEWAY).append(P, LinkId(0), entry, None, appended).await;
        told.push(outcome);
    }
    for outcome in told {
        assert_eq!(outcome.await.unwrap(), Ok(()));
    }
    let mut next = 0;
    let bodies = read(&mut oldest(cluster.on(GATEWAY), P).await, &mut next, 600).await;
    let expected: Vec<String> = (0..600).map(|number| format!("{GATEWAY}/1/{number}")).collect();
    assert_eq!(bodies, expected);
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_a_refused_batch_is_returned() {
    let cluster = Cluster::start(4).await;
    let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 0);
    let (first, _lost, third) = (sender.batch(), sender.batch(), sender.batch());
    assert_eq!(append(cluster.on(GATEWAY), P, first.clone()).await, Ok(()));
    assert_eq!(
        append(cluster.on(GATEWAY), P, third).await,
        Err(AppendError::Gap { expected: 2 })
    );
    assert_eq!(append(cluster.on(GATEWAY), P, first).await, Ok(()), "a repeat");
    let garbage = bytes::Bytes::from_static(b"no entry at all");
    let refused = append(cluster.on(GATEWAY), P, garbage).await;
    assert!(matches!(refused, Err(AppendError::Malformed(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn no_batch_is_lost_with_a_killed_owner() {
    for seed in 10..15 {
        let mut cluster = Cluster::start(seed).await;
        let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 0);
        sender.send().await;
        let owner = cluster.owner_everywhere(P).await;
        cluster.kill(owner.node);
        let killed = Instant::now();
        sender.send().await;
        let pause = killed.elapsed();
        assert!(
            pause < Duration::from_secs(4),
            "seed {seed}: writes resumed after {pause:?}"
        );
        assert!(cluster.on(GATEWAY).owner(P).unwrap().term > owner.term);
        let mut next = 0;
        let bodies = read(&mut oldest(cluster.on(GATEWAY), P).await, &mut next, 4).await;
        assert_eq!(bodies, ["4/0/0", "4/0/1", "4/0/2", "4/0/3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_owner_is_abandoned_when_another_node_leads() {
    let cluster = Cluster::start(20).await;
    let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 0);
    sender.send().await;
    let owner = cluster.owner_everywhere(P).await;
    // Messages to it are lost without an error, as for a frozen process.
    cluster.network.isolate(owner.node);
    let cut = Instant::now();
    sender.send().await;
    let pause = cut.elapsed();
    assert!(pause < Duration::from_secs(4), "writes resumed after {pause:?}");
    cluster.network.heal_all();
    cluster.owner_everywhere(P).await;
    let mut next = 0;
    read(&mut oldest(cluster.on(owner.node), P).await, &mut next, 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_transfer_of_leadership_is_known_within_a_fraction_of_a_second() {
    let cluster = Cluster::start(21).await;
    let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 0);
    for to in [2, 3, 1, 2, 3, 1] {
        sender.send().await;
        let owner = cluster.owner_everywhere(P).await;
        if owner.node == NodeId(to) {
            continue;
        }
        let group = cluster.on(owner.node).local(P).unwrap();
        let began = Instant::now();
        group.group().transfer_leader(NodeId(to)).await.unwrap();
        sender.send().await;
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }
    let mut next = 0;
    read(&mut oldest(cluster.on(GATEWAY), P).await, &mut next, 12).await;
}
