//! Appending through consensus: order, acknowledgement, streams, crashes.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod common;

use std::sync::Arc;

use common::{Sender, config, numbers, read_to, start, try_start, try_start_with};
use holdfast_consensus::ConsensusConfig;
use holdfast_model::{ByteSize, Incarnation, LinkId, NodeId, SequenceNumber, Term, UnixMillis};
use holdfast_partition::state::GatewayPresence;
use holdfast_partition::{AppendError, OpenLinks, Partition, PartitionConfig, SenderLink, StartPosition};
use holdfast_storage::{Disk, DiskSpace, SimDisk};
use holdfast_tasks::sync::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Appends without waiting; the outcomes arrive in the returned list in the order of their calls.
async fn append(partition: &Partition, batches: Vec<(u64, bytes::Bytes)>) -> Vec<(u64, Result<(), AppendError>)> {
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let (done, all_done) = tokio::sync::oneshot::channel::<()>();
    let done = Arc::new(Mutex::new(Some(done)));
    let count = batches.len();
    for (label, batch) in batches {
        let (outcomes, done) = (outcomes.clone(), done.clone());
        let appended = Box::new(move |outcome| {
            let mut outcomes = outcomes.lock();
            outcomes.push((label, outcome));
            if outcomes.len() == count {
                done.lock().take().unwrap().send(()).unwrap();
            }
        });
        partition.append_detached(batch, appended).await;
    }
    all_done.await.unwrap();
    let outcomes = outcomes.lock();
    outcomes.clone()
}

#[tokio::test]
async fn batches_are_acknowledged_in_order_and_read_back_with_their_numbers() {
    let node = start(Arc::new(SimDisk::new()), &config()).await;
    let mut sender = Sender::new(Incarnation(1));
    let mut reader = node.partition.reader(StartPosition::Oldest).unwrap();
    assert!(node.partition.status().is_empty());
    let batches = (0..50)
        .map(|batch| (batch, sender.batch(batch % 5, 1000 + batch)))
        .collect();
    let outcomes = append(&node.partition, batches).await;
    assert_eq!(outcomes, (0..50).map(|batch| (batch, Ok(()))).collect::<Vec<_>>());
    // An acknowledgement is given at the commit, a moment before apply.
    assert_eq!(read_to(&mut reader, SequenceNumber(100)).await, 0);
    let status = node.partition.status();
    assert_eq!(
        (status.begin.0, status.next.0, status.last_enqueued),
        (0, 100, UnixMillis(1049))
    );
    assert!(status.retained_bytes > 25_600 && status.last() == Some(SequenceNumber(99)));
    node.partition.shutdown().await;
}

#[tokio::test]
async fn only_what_is_counted_is_acknowledged() {
    let node = start(Arc::new(SimDisk::new()), &config()).await;
    let mut sender = Sender::new(Incarnation(5));
    let first = sender.batch(2, 1);
    let second = sender.batch(2, 2);
    let third = sender.batch(2, 3);
    let older = Sender::new(Incarnation(4)).batch(2, 4);
    let outcomes = append(
        &node.partition,
        vec![
            (1, first.clone()),
            (3, third.clone()),
            (2, second.clone()),
            (1, first),
            (4, older),
            (3, third),
            (5, bytes::Bytes::from_static(b"\xff\xff")),
        ],
    )
    .await;
    let mut outcomes_of: Vec<_> = outcomes.into_iter().filter(|(label, _)| *label != 5).collect();
    let expected = [
        (1, Ok(())),
        (3, Err(AppendError::Gap { expected: 2 })),
        (2, Ok(())),
        (1, Ok(())),
        (4, Err(AppendError::Stale { current: 5 })),
        (3, Ok(())),
    ];
    outcomes_of.sort_by_key(|(label, _)| *label);
    let mut expected_sorted = expected.to_vec();
    expected_sorted.sort_by_key(|(label, _)| *label);
    assert_eq!(outcomes_of, expected_sorted);
    let mut reader = node.partition.reader(StartPosition::Oldest).unwrap();
    assert_eq!(read_to(&mut reader, SequenceNumber(6)).await, 0);
    assert_eq!(node.partition.last_batch(&sender.stream).await, Ok(3));
    assert_eq!(node.partition.newest_incarnation(NodeId(1)), Some(Incarnation(5)));
    node.partition.shutdown().await;
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_and_what_follows_is_sent_again_in_order() {
    let disk = SimDisk::new();
    let node = start(Arc::new(disk.clone()), &config()).await;
    let mut sender = Sender::new(Incarnation(1));
    node.partition.append(sender.batch(1, 1)).await.unwrap();
    let (second, third) = (sender.batch(1, 2), sender.batch(1, 3));
    let space = |free| DiskSpace { free, total: 1 << 40 };
    disk.set_space(space(0));
    node.host.guard.refresh().unwrap();
    assert_eq!(node.partition.append(second.clone()).await, Err(AppendError::DiskFull));
    disk.set_space(space(1 << 40));
    node.host.guard.refresh().unwrap();
    assert_eq!(
        node.partition.append(third.clone()).await,
        Err(AppendError::Gap { expected: 2 })
    );
    node.partition.append(second).await.unwrap();
    node.partition.append(third).await.unwrap();
    let mut reader = node.partition.reader(StartPosition::Oldest).unwrap();
    assert_eq!(read_to(&mut reader, SequenceNumber(3)).await, 0);
    node.partition.shutdown().await;
}

#[tokio::test]
async fn a_stopped_partition_refuses_and_its_readers_end() {
    let node = start(Arc::new(SimDisk::new()), &config()).await;
    let mut reader = node.partition.reader(StartPosition::Oldest).unwrap();
    node.partition
        .append(Sender::new(Incarnation(1)).batch(1, 1))
        .await
        .unwrap();
    assert_eq!(numbers(&mut reader.next().await.unwrap()), [0]);
    node.partition.shutdown().await;
    assert!(reader.next().await.is_err());
    let refused = node
        .partition
        .append(Sender::new(Incarnation(2)).batch(1, 1))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, AppendError::Stopped | AppendError::Unknown),
        "{refused:?}"
    );
}

/// Four incarnations of one node with crashes in between; reports lost batches.
fn crash_and_compare(mut disk: SimDisk, seed: u64) -> Result<(), String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let config = PartitionConfig {
        state_interval: ByteSize(rng.random_range(0..20_000)),
        tail_cache: ByteSize(rng.random_range(0..30_000)),
        index_spacing: ByteSize::kib(1),
        ..config()
    };
    let mut acknowledged = 0;
    for incarnation in 1..=4 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let node = try_start(Arc::new(disk.clone()), &config)
                .await
                .map_err(|error| error.to_string())?;
            let next = node.partition.status().next.0;
            if next < acknowledged {
                return Err(format!(
                    "seed {seed}: {acknowledged} were acknowledged, {next} are there"
                ));
            }
            if next > 0 {
                let mut reader = node.partition.reader(StartPosition::Oldest).unwrap();
                assert_eq!(read_to(&mut reader, SequenceNumber(next)).await, 0, "seed {seed}");
            }
            let mut sender = Sender::new(Incarnation(incarnation));
            sender.next_message = next;
            for _ in 0..rng.random_range(1..30) {
                let messages = rng.random_range(1..20);
                node.partition
                    .append(sender.batch(messages, incarnation))
                    .await
                    .unwrap();
                acknowledged = sender.next_message;
                if rng.random_bool(0.1) {
                    disk.flush().unwrap();
                }
            }
            // And one without waiting for its outcome.
            node.partition
                .append_detached(sender.batch(3, incarnation), Box::new(|_| {}))
                .await;
            disk = disk.crash(&mut rng);
            Ok(())
        })?;
    }
    Ok(())
}

/// The promise over crashes of the one node: every acknowledged batch is there exactly once and in order; one that was
/// not acknowledged is there or not.
#[test]
fn acknowledged_batches_survive_every_crash_exactly_once() {
    for seed in 0..12 {
        crash_and_compare(SimDisk::new(), seed).unwrap();
    }
}

#[test]
fn the_crash_test_notices_a_disk_that_does_not_sync() {
    assert!((0..12).any(|seed| crash_and_compare(SimDisk::that_ignores_sync(), seed).is_err()));
}

#[tokio::test]
async fn a_sender_that_loses_the_right_to_append_while_waiting_for_capacity_does_not_append() {
    // Capacity for one batch at a time: the second one waits until the first is decided.
    let consensus = ConsensusConfig {
        max_in_flight: ByteSize::mib(1),
        ..ConsensusConfig::default()
    };
    let node = try_start_with(Arc::new(SimDisk::new()), &config(), &consensus)
        .await
        .unwrap();
    let mut sender = Sender::new(Incarnation(1));
    let links = Arc::new(OpenLinks::default());
    links.begin_term(node.partition.owner().unwrap().term);
    links.open(sender.stream.gateway_node, sender.stream.incarnation, LinkId(5));
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    for batch in 0..2 {
        let (closed, outcomes) = (links.clone(), outcomes.clone());
        let (gateway, entry) = (sender.stream.gateway_node, sender.batch(5_000, batch));
        let appended = Box::new(move |outcome| {
            // Closed between the second call and its proposal.
            closed.close(gateway);
            outcomes.lock().push((batch, outcome));
        });
        let over = SenderLink {
            gateway,
            link: LinkId(5),
        };
        node.partition.append_over(entry, &links, over, appended).await;
    }
    assert_eq!(*outcomes.lock(), [(0, Ok(())), (1, Err(AppendError::Refused))]);
    assert_eq!(node.partition.last_batch(&sender.stream).await, Ok(1));
    node.partition.shutdown().await;
}

#[tokio::test]
async fn a_batch_is_not_appended_that_only_the_links_of_another_term_admit() {
    let node = start(Arc::new(SimDisk::new()), &config()).await;
    let mut sender = Sender::new(Incarnation(1));
    let links = OpenLinks::default();
    let over = |link| SenderLink {
        gateway: NodeId(1),
        link,
    };
    let term = node.partition.owner().unwrap().term;
    let refused = Err(AppendError::Refused);
    let elsewhere = Err(AppendError::NotLeader {
        leader: Some(node.partition.owner().unwrap().node),
    });
    for (links_of, link, expected) in [
        (Term(term.get() - 1), 7, elsewhere),
        (term, 6, refused),
        (term, 7, Ok(())),
    ] {
        links.begin_term(links_of);
        links.open(NodeId(1), sender.stream.incarnation, LinkId(7));
        let (outcome, decided) = tokio::sync::oneshot::channel();
        let appended = Box::new(move |result| outcome.send(result).unwrap());
        node.partition
            .append_over(sender.batch(1, 1), &links, over(LinkId(link)), appended)
            .await;
        assert_eq!(decided.await.unwrap(), expected);
        sender.next_batch = 1;
    }
    node.partition.shutdown().await;
}

#[tokio::test]
async fn absent_gateways_outlive_the_process_and_are_no_events() {
    let disk = SimDisk::new();
    let mut sender = Sender::new(Incarnation(1));
    {
        let node = start(Arc::new(disk.clone()), &config()).await;
        node.partition.append(sender.batch(1, 1)).await.unwrap();
        assert_eq!(node.partition.absent_gateways().await, Ok(vec![]));
        use GatewayPresence::{Absent, Present};
        for (gateway, presence) in [
            (7, Absent),
            (3, Absent),
            (7, Absent),
            (9, Present),
            (3, Present),
            (3, Absent),
            (7, Present),
        ] {
            node.partition.record_gateway(NodeId(gateway), presence).await.unwrap();
        }
        assert_eq!(node.partition.absent_gateways().await, Ok(vec![NodeId(3)]));
        node.partition.append(sender.batch(1, 2)).await.unwrap();
        node.partition.shutdown().await;
    }
    let node = start(Arc::new(disk), &config()).await;
    assert_eq!(node.partition.absent_gateways().await, Ok(vec![NodeId(3)]));
    let mut reader = node.partition.reader(StartPosition::Oldest).unwrap();
    assert_eq!(read_to(&mut reader, SequenceNumber(2)).await, 0);
    assert_eq!(node.partition.status().next, SequenceNumber(2));
    node.partition.shutdown().await;
}
