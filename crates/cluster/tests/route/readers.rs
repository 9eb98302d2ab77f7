//! Readers on any node: no event is skipped or doubled, whatever happens to their replica.

use std::time::Duration;

use holdfast_cluster::route::OpenError;
use holdfast_model::{ByteSize, HumanDuration, NodeId, PartitionId, SequenceNumber};
use holdfast_partition::{PartitionConfig, StartError, StartPosition};
use tokio::time::Instant;

use super::common::{BatchSender, CORE, Cluster, GATEWAY, HOSTED, P, config, oldest, read};
use holdfast_testkit::eventually;

#[tokio::test(start_paused = true)]
async fn a_remote_reader_continues_when_its_replica_dies() {
    for seed in 30..34 {
        let mut cluster = Cluster::start(seed).await;
        let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 0);
        let mut reader = oldest(cluster.on(GATEWAY), P).await;
        let mut next = 0;
        for _ in 0..3 {
            sender.send().await;
        }
        read(&mut reader, &mut next, 6).await;
        let owner = cluster.owner_everywhere(P).await;
        cluster.kill(owner.node);
        sender.send().await;
        read(&mut reader, &mut next, 2).await;
        cluster.start_node(owner.node, false).await;
        cluster.owner_everywhere(P).await;
        let other = cluster.owner_everywhere(P).await;
        cluster.kill(other.node);
        sender.send().await;
        read(&mut reader, &mut next, 2).await;
        assert_eq!(next, 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_replica_is_abandoned() {
    let cluster = Cluster::start(35).await;
    let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 0);
    let mut reader = oldest(cluster.on(GATEWAY), P).await;
    sender.send().await;
    let mut next = 0;
    read(&mut reader, &mut next, 2).await;
    cluster.network.isolate(cluster.owner_everywhere(P).await.node);
    sender.send().await;
    let began = Instant::now();
    read(&mut reader, &mut next, 2).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reader_continues_elsewhere_when_its_replica_moves_away() {
    let cluster = Cluster::start(36).await;
    let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 0);
    let node = 2;
    let mut reader = oldest(cluster.on(NodeId(node)), P).await;
    sender.send().await;
    let mut next = 0;
    read(&mut reader, &mut next, 2).await;
    cluster.on(NodeId(node)).unhost(P).unwrap().shutdown().await;
    sender.send().await;
    read(&mut reader, &mut next, 2).await;
    assert_eq!(reader.status().next.0, 4);
}

#[tokio::test(start_paused = true)]
async fn latest_keeps_its_position_when_the_replica_changes_before_the_first_event() {
    let mut cluster = Cluster::start(37).await;
    let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 0);
    sender.send().await;
    let mut reader = cluster.on(GATEWAY).reader(P, StartPosition::Latest).await.unwrap();
    cluster.kill(cluster.owner_everywhere(P).await.node);
    sender.send().await;
    let mut next = 2;
    read(&mut reader, &mut next, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_lagging_follower_does_not_report_a_committed_position_as_beyond_the_end() {
    let cluster = Cluster::start(38).await;
    let owner = cluster.owner_everywhere(P).await.node;
    let follower = CORE.into_iter().find(|node| *node != owner).unwrap();
    cluster
        .network
        .set_delay(Duration::from_millis(20)..=Duration::from_millis(30));
    let mut sender = BatchSender::new(cluster.on(owner), P, 0);
    for _ in 0..10 {
        sender.send().await;
        // Just acknowledged: the follower may not have applied it.
        let last = SequenceNumber(sender.sent - 1);
        let from = StartPosition::AfterSequence(last);
        let reader = cluster.on(follower).reader(P, from).await;
        assert!(reader.is_ok(), "{:?}", reader.err());
        let mut latest = cluster.on(follower).reader(P, StartPosition::Latest).await.unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(200), latest.next()).await;
        assert!(waits.is_err(), "what was acknowledged before is not new");
    }
    let beyond = StartPosition::AfterSequence(SequenceNumber(sender.sent));
    for node in [owner, follower, GATEWAY] {
        let refused = cluster.on(node).reader(P, beyond).await.err();
        assert!(
            matches!(
                refused,
                Some(OpenError::Start(StartError::BeyondEnd {
                    last: Some(SequenceNumber(19)),
                    ..
                }))
            ),
            "{refused:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_at_a_lagging_replica_asks_other_replicas_instead_of_waiting() {
    let cluster = Cluster::start(45).await;
    let owner = cluster.owner_everywhere(P).await.node;
    let lagging = CORE.into_iter().find(|node| *node != owner).unwrap();
    let mut sender = BatchSender::new(cluster.on(owner), P, 0);
    sender.send().await;
    // It hears nothing from the owner any more, and the third node has everything.
    cluster.network.cut(lagging, owner);
    for _ in 0..3 {
        sender.send().await;
    }
    let mut next = 4;
    let began = Instant::now();
    let from = StartPosition::AtSequence(SequenceNumber(next));
    let mut reader = cluster.on(lagging).reader(P, from).await.unwrap();
    read(&mut reader, &mut next, 4).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reader_opened_after_an_isolated_owner_returns_is_not_delayed() {
    for seed in 46..52 {
        let cluster = Cluster::start(seed).await;
        let thawed = cluster.owner_everywhere(P).await.node;
        cluster.network.isolate(thawed);
        let others: Vec<NodeId> = CORE.into_iter().filter(|node| *node != thawed).collect();
        let owner = cluster.owner_among(P, &others).await.node;
        let mut sender = BatchSender::new(cluster.on(owner), P, 0);
        sender.send().await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        sender.send().await;
        cluster.network.heal_all();
        let began = Instant::now();
        let mut next = 2;
        let from = StartPosition::AtSequence(SequenceNumber(next));
        let mut reader = cluster.on(thawed).reader(P, from).await.unwrap();
        read(&mut reader, &mut next, 2).await;
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "seed {seed}: {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn positions_mean_the_same_on_all_nodes() {
    let cluster = Cluster::start(39).await;
    let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 0);
    for _ in 0..10 {
        sender.send().await;
    }
    for node in CORE.into_iter().chain([GATEWAY]) {
        for (from, mut next) in [
            (StartPosition::AtSequence(SequenceNumber(7)), 7),
            (StartPosition::AfterSequence(SequenceNumber(7)), 8),
            (StartPosition::AtSequence(SequenceNumber(19)), 19),
            (StartPosition::EnqueuedAfter(holdfast_model::UnixMillis(0)), 0),
        ] {
            let mut reader = cluster.on(node).reader(P, from).await.unwrap();
            let left = usize::try_from(20 - next).unwrap();
            read(&mut reader, &mut next, left).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn large_and_many_events_arrive_complete() {
    let cluster = Cluster::start(40).await;
    let id = PartitionId(HOSTED - 1);
    let mut sender = BatchSender::new(cluster.on(NodeId(1)), id, 0);
    sender.events = 3_000;
    for _ in 0..20 {
        sender.send().await;
    }
    let mut next = 0;
    let bodies = read(&mut oldest(cluster.on(GATEWAY), id).await, &mut next, 60_000).await;
    assert_eq!(bodies[59_999], "1/0/59999");
}

#[tokio::test(start_paused = true)]
async fn a_reader_overtaken_by_retention_continues_at_the_oldest_event() {
    let small = PartitionConfig {
        retention_size: ByteSize::mib(1),
        retention_interval: HumanDuration::millis(100),
        reclaim_step: ByteSize::kib(64),
        index_spacing: ByteSize::kib(16),
        tail_cache: ByteSize::kib(64),
        state_interval: ByteSize::kib(64),
        ..config()
    };
    let cluster = Cluster::with(41, small, Vec::new()).await;
    let mut sender = BatchSender::new(cluster.on(NodeId(1)), P, 0);
    sender.events = 1_000;
    let mut reader = oldest(cluster.on(GATEWAY), P).await;
    sender.send().await;
    let mut next = 0;
    read(&mut reader, &mut next, 1_000).await;
    cluster.network.isolate(GATEWAY);
    for _ in 0..60 {
        sender.send().await;
    }
    eventually("retention", || {
        cluster.on(NodeId(1)).local(P).unwrap().status().begin.0 > 2_000
    })
    .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster.network.heal_all();
    let mut last = next - 1;
    while last + 1 < 61_000 {
        let mut chunk = tokio::time::timeout(Duration::from_secs(60), reader.next())
            .await
            .unwrap()
            .unwrap();
        while let Some(event) = chunk.next_event() {
            let number = event.unwrap().sequence.0;
            assert!(number == last + 1 || last == 999, "{last} {number}");
            last = number;
        }
    }
}
