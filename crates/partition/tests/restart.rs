//! A real database on a real file system: restarts, kills, many small files, retention.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod common;

use common::{Sender, config, copy_dir, dir_bytes, open_rocks, read_to, start};
use holdfast_model::{ByteSize, HumanDuration, Incarnation, SequenceNumber};
use holdfast_partition::{PartitionConfig, StartPosition};
use holdfast_storage::Disk;

const BATCH: u64 = 100;

#[tokio::test]
async fn a_restart_and_a_kill_find_the_same_events_under_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let (live, killed) = (dir.path().join("live"), dir.path().join("killed"));
    let config = PartitionConfig {
        state_interval: ByteSize::kib(100),
        ..config()
    };
    let status = {
        let node = start(open_rocks(&live), &config).await;
        let mut sender = Sender::new(Incarnation(1));
        for batch in 0..60 {
            node.partition.append(sender.batch(BATCH, batch)).await.unwrap();
        }
        copy_dir(&live, &killed);
        node.partition.append(sender.batch(1, 60)).await.unwrap();
        node.partition.shutdown().await;
        node.partition.status()
    };
    assert_eq!(status.next.0, 60 * BATCH + 1);

    let node = start(open_rocks(&live), &config).await;
    assert_eq!(node.partition.status(), status);
    let mut reader = node.partition.reader(StartPosition::Oldest).unwrap();
    assert_eq!(read_to(&mut reader, status.next).await, 0);
    node.partition.shutdown().await;

    let node = start(open_rocks(&killed), &config).await;
    assert_eq!(
        node.partition.status().next.0,
        60 * BATCH,
        "everything that was acknowledged before the kill"
    );
    let mut reader = node.partition.reader(StartPosition::Oldest).unwrap();
    assert_eq!(read_to(&mut reader, SequenceNumber(60 * BATCH)).await, 0);
    let mut sender = Sender::new(Incarnation(2));
    sender.next_message = 60 * BATCH;
    node.partition.append(sender.batch(5, 100)).await.unwrap();
    assert_eq!(read_to(&mut reader, SequenceNumber(60 * BATCH + 5)).await, 60 * BATCH);
    node.partition.shutdown().await;
}

/// A FIFO compaction would lose event 0 here, after 40 flushes of 1 MiB each.
#[tokio::test]
async fn event_0_stays_readable_after_many_files_and_retention_deletes_whole_ones() {
    let dir = tempfile::tempdir().unwrap();
    let config = PartitionConfig {
        tail_cache: ByteSize::kib(256),
        reclaim_step: ByteSize::mib(1),
        ..config()
    };
    let mut sender = Sender::new(Incarnation(1));
    let next = {
        let node = start(open_rocks(dir.path()), &config).await;
        while node.partition.status().retained_bytes < 40 << 20 {
            // Waiting for each hundredth keeps the pipeline full and the queue short.
            for batch in 0..99 {
                node.partition
                    .append_detached(sender.batch(BATCH, batch), Box::new(|result| result.unwrap()))
                    .await;
            }
            node.partition.append(sender.batch(BATCH, 99)).await.unwrap();
        }
        let next = SequenceNumber(sender.next_message);
        let mut reader = node.partition.reader(StartPosition::Oldest).unwrap();
        assert_eq!(read_to(&mut reader, next).await, 0);
        node.partition.enforce_retention().await.unwrap();
        assert_eq!(node.partition.status().begin.0, 0, "nothing is too old or too much");
        node.partition.shutdown().await;
        next
    };
    let full = dir_bytes(dir.path());
    assert!(full > 40 << 20);

    let smaller = PartitionConfig {
        retention_size: ByteSize::mib(8),
        ..config.clone()
    };
    let begin = {
        let disk = open_rocks(dir.path());
        let node = start(disk.clone(), &smaller).await;
        let mut slow = node.partition.reader(StartPosition::Oldest).unwrap();
        let mut chunk = slow.next().await.unwrap();
        assert_eq!(chunk.next_event().unwrap().unwrap().sequence.0, 0);
        for _ in 0..3 {
            node.partition.enforce_retention().await.unwrap();
        }
        let status = node.partition.status();
        assert!(status.retained_bytes <= 8 << 20 && status.retained_bytes > 7 << 20);
        let mut oldest = node
            .partition
            .reader(StartPosition::AtSequence(SequenceNumber(5)))
            .unwrap();
        assert_eq!(
            read_to(&mut oldest, next).await,
            status.begin.0,
            "a removed position means the oldest event"
        );
        while slow.position() < status.begin {
            slow.next().await.unwrap();
        }
        assert!(slow.position() >= status.begin);
        read_to(&mut slow, next).await;
        let left = dir_bytes(dir.path());
        assert!(left < full / 2, "{left} of {full} bytes are left");
        node.partition.shutdown().await;
        status.begin
    };

    let node = start(open_rocks(dir.path()), &smaller).await;
    let status = node.partition.status();
    assert_eq!((status.begin, status.next), (begin, next));
    let mut reader = node.partition.reader(StartPosition::Oldest).unwrap();
    assert_eq!(read_to(&mut reader, next).await, begin.0);
    node.partition.shutdown().await;
}

#[tokio::test]
async fn events_older_than_the_retention_time_go_and_a_kill_in_between_loses_no_younger_one() {
    let dir = tempfile::tempdir().unwrap();
    let (live, killed) = (dir.path().join("live"), dir.path().join("killed"));
    let config = PartitionConfig {
        retention: HumanDuration::secs(60),
        index_spacing: ByteSize::kib(32),
        reclaim_step: ByteSize::kib(256),
        state_interval: ByteSize::mib(200),
        ..config()
    };
    let disk = open_rocks(&live);
    let node = start(disk.clone(), &config).await;
    let mut sender = Sender::new(Incarnation(1));
    for second in 0..120 {
        node.partition.append(sender.batch(BATCH, second * 1000)).await.unwrap();
    }
    node.clock.set(120_000);
    node.partition.enforce_retention().await.unwrap();
    let begin = node.partition.status().begin;
    assert!(
        (59 * BATCH - 2 * BATCH..=60 * BATCH).contains(&begin.0),
        "begins at {begin}"
    );
    disk.sync().unwrap();
    copy_dir(&live, &killed);
    node.partition.shutdown().await;
    drop(node);

    let node = start(open_rocks(&killed), &config).await;
    let status = node.partition.status();
    assert!(status.begin <= begin && status.next.0 == 120 * BATCH);
    let mut reader = node.partition.reader(StartPosition::Oldest).unwrap();
    assert_eq!(read_to(&mut reader, status.next).await, status.begin.0);
    node.partition.shutdown().await;
}
