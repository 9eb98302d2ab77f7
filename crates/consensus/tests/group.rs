//! One group with one member, on a simulated disk.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{Journal, host, host_with, start};
use holdfast_consensus::{ConsensusConfig, Group, GroupId, LogReader, ProposeError, StartError};
use holdfast_model::NodeId;
use holdfast_storage::layout::{self, HardState};
use holdfast_storage::{Disk, DiskSpace, Durability, Family, OnFatal, SimDisk, StorageError, WriteBatch};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::oneshot;

const PARTITION: GroupId = GroupId::partition(0);

fn sync_takes_a_millisecond() -> Duration {
    Duration::from_millis(1)
}

fn numbered(number: u32) -> Bytes {
    Bytes::from(format!("entry {number}"))
}

fn read_all(reader: &LogReader) -> Vec<Bytes> {
    let mut entries = Vec::new();
    let mut from = 0;
    loop {
        let chunk = reader.read(from, 100).unwrap();
        let Some((last, _)) = chunk.last() else { return entries };
        from = last + 1;
        entries.extend(chunk.into_iter().map(|(_, entry)| entry));
    }
}

#[tokio::test(start_paused = true)]
async fn a_proposal_is_answered_by_the_state_machine_after_it_was_synced() {
    let disk = SimDisk::new();
    let (group, entries) = start(PARTITION, &host(Arc::new(disk.clone()), sync_takes_a_millisecond)).await;
    let syncs = disk.syncs();
    let (position, answer) = group.propose(numbered(0)).await.unwrap();
    assert_eq!((answer, position.node), (Bytes::from("0"), NodeId(7)));
    assert_eq!(*entries.lock().unwrap(), [numbered(0)]);
    assert!(disk.syncs() > syncs);
    assert!(group.is_leader());
    assert_eq!(group.applied_index(), position.index);
    group.read_index().await.unwrap();
    group.shutdown().await;
    assert_eq!(group.propose(numbered(1)).await, Err(ProposeError::Stopped));
}

#[tokio::test(start_paused = true)]
async fn detached_proposals_are_committed_in_the_order_of_the_calls() {
    let (group, entries) = start(PARTITION, &host(Arc::new(SimDisk::new()), sync_takes_a_millisecond)).await;
    let committed = Arc::new(Mutex::new(Vec::new()));
    let (done, all_done) = oneshot::channel();
    let mut done = Some(done);
    for number in 0..200 {
        let committed = committed.clone();
        let done = if number == 199 { done.take() } else { None };
        let callback = Box::new(move |outcome: Result<_, _>| {
            outcome.unwrap();
            committed.lock().unwrap().push(number);
            if let Some(done) = done {
                done.send(()).unwrap();
            }
        });
        group.propose_detached(numbered(number), callback).await;
    }
    all_done.await.unwrap();
    assert_eq!(*committed.lock().unwrap(), (0..200).collect::<Vec<_>>());
    group.read_index().await.unwrap();
    assert_eq!(*entries.lock().unwrap(), (0..200).map(numbered).collect::<Vec<_>>());
    assert_eq!(
        read_all(&group.log_reader()),
        (0..200).map(numbered).collect::<Vec<_>>()
    );
}

#[tokio::test(start_paused = true)]
async fn a_group_leads_at_once_after_a_restart_and_has_applied_its_log() {
    let disk = Arc::new(SimDisk::new());
    {
        let (group, _) = start(PARTITION, &host(disk.clone(), sync_takes_a_millisecond)).await;
        for number in 0..10 {
            group.propose(numbered(number)).await.unwrap();
        }
        group.shutdown().await;
    }
    let begun = tokio::time::Instant::now();
    let (group, entries) = start(PARTITION, &host(disk, sync_takes_a_millisecond)).await;
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "no election time-out has to pass"
    );
    assert_eq!(*entries.lock().unwrap(), (0..10).map(numbered).collect::<Vec<_>>());
    group.propose(numbered(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_group_leads_at_once() {
    let begun = tokio::time::Instant::now();
    let (group, _) = start(PARTITION, &host(Arc::new(SimDisk::new()), sync_takes_a_millisecond)).await;
    assert!(group.is_leader());
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    group.bootstrap().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_detached_proposal_to_a_group_that_has_stopped_is_refused() {
    let (group, _) = start(PARTITION, &host(Arc::new(SimDisk::new()), sync_takes_a_millisecond)).await;
    group.shutdown().await;
    let (done, outcome) = oneshot::channel();
    group
        .propose_detached(numbered(0), Box::new(move |result| done.send(result).unwrap()))
        .await;
    assert_eq!(outcome.await.unwrap(), Err(ProposeError::Stopped));
}

#[tokio::test(start_paused = true)]
async fn proposals_under_way_when_a_group_stops_have_an_outcome() {
    let (group, _) = start(PARTITION, &host(Arc::new(SimDisk::new()), || Duration::from_secs(60))).await;
    let (done, outcome) = oneshot::channel();
    group
        .propose_detached(numbered(0), Box::new(move |result| done.send(result).unwrap()))
        .await;
    group.shutdown().await;
    drop(group);
    assert!(matches!(outcome.await.unwrap(), Ok(_) | Err(ProposeError::Unknown)));
}

#[tokio::test(start_paused = true)]
async fn proposals_are_refused_while_the_disk_is_nearly_full_and_taken_again_by_themselves() {
    let disk = SimDisk::new();
    let host = host(Arc::new(disk.clone()), sync_takes_a_millisecond);
    let (group, _) = start(PARTITION, &host).await;
    disk.set_space(DiskSpace {
        free: 1,
        total: 1 << 40,
    });
    host.guard.refresh().unwrap();
    assert_eq!(group.propose(numbered(0)).await, Err(ProposeError::DiskFull));
    let refused = Arc::new(Mutex::new(None));
    let outcome = refused.clone();
    group
        .propose_detached(
            numbered(0),
            Box::new(move |result| *outcome.lock().unwrap() = Some(result)),
        )
        .await;
    assert_eq!(*refused.lock().unwrap(), Some(Err(ProposeError::DiskFull)));
    group.trim(0).await.unwrap();
    disk.set_space(DiskSpace {
        free: 1 << 40,
        total: 1 << 40,
    });
    host.guard.refresh().unwrap();
    group.propose(numbered(0)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_stops_the_node_and_the_outcome_is_unknown() {
    let disk = SimDisk::new();
    let stops = Arc::new(AtomicUsize::new(0));
    let counted = stops.clone();
    let on_fatal = Arc::new(move |_: &StorageError| {
        let _ = counted.fetch_add(1, Ordering::Relaxed);
    });
    let (group, _) = start(
        PARTITION,
        &host_with(Arc::new(disk.clone()), sync_takes_a_millisecond, on_fatal),
    )
    .await;
    disk.fail_writes(StorageError::NoSpace("full".into()));
    assert_eq!(group.propose(numbered(0)).await, Err(ProposeError::Unknown));
    assert!(stops.load(Ordering::Relaxed) >= 1);
    assert!(group.propose(numbered(1)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_fails_stops_the_node_and_nothing_is_acknowledged() {
    let disk = SimDisk::new();
    let stops = Arc::new(AtomicUsize::new(0));
    let counted = stops.clone();
    let on_fatal = Arc::new(move |_: &StorageError| {
        let _ = counted.fetch_add(1, Ordering::Relaxed);
    });
    let (group, _) = start(
        PARTITION,
        &host_with(Arc::new(disk.clone()), sync_takes_a_millisecond, on_fatal),
    )
    .await;
    disk.fail_syncs(StorageError::Io("gone".into()));
    assert_eq!(group.propose(numbered(0)).await, Err(ProposeError::Unknown));
    assert_eq!(stops.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn retention_never_trims_above_the_flushed_index_and_the_rest_survives_a_crash() {
    let disk = SimDisk::new();
    let (group, _) = start(PARTITION, &host(Arc::new(disk.clone()), sync_takes_a_millisecond)).await;
    for number in 0..50 {
        group.propose(numbered(number)).await.unwrap();
    }
    let before = disk.keys(Family::Log);
    assert_eq!(group.trim(40).await, Ok(0), "nothing is flushed yet");
    disk.flush().unwrap();
    assert_eq!(group.trim(40).await, Ok(40));
    assert!(disk.keys(Family::Log) <= before - 40);
    let reader = group.log_reader();
    assert_eq!(reader.first_index(), 40);
    assert_eq!(
        reader.read(0, 1).unwrap()[0].0,
        40,
        "a reader below the floor begins at it"
    );
    group.shutdown().await;
    let disk = disk.crash(&mut SmallRng::seed_from_u64(1));
    let (group, entries) = start(PARTITION, &host(Arc::new(disk), sync_takes_a_millisecond)).await;
    assert_eq!(entries.lock().unwrap().len(), 50);
    assert_eq!(group.log_reader().first_index(), 40);
    group.propose(numbered(50)).await.unwrap();
}

/// More entries than openraft keeps behind a snapshot by default.
#[tokio::test(start_paused = true)]
async fn entries_whose_effects_are_not_flushed_stay_however_many_they_are() {
    for id in [PARTITION, GroupId::REGISTRY] {
        let disk = SimDisk::new();
        let (group, _) = start(id, &host(Arc::new(disk.clone()), sync_takes_a_millisecond)).await;
        for number in 0..10 {
            group.propose(numbered(number)).await.unwrap();
        }
        group.trim(0).await.unwrap();
        let flushed = group.applied_index() + 1;
        disk.flush().unwrap();
        for number in 10..2_500 {
            group.propose(numbered(number)).await.unwrap();
        }
        assert_eq!(group.trim(u64::MAX).await, Ok(flushed));
        group.read_index().await.unwrap();
        group.shutdown().await;
        let disk = disk.crash(&mut SmallRng::seed_from_u64(1));
        let (group, entries) = start(id, &host(Arc::new(disk), sync_takes_a_millisecond)).await;
        assert_eq!(entries.lock().unwrap().len(), 2_500);
        group.propose(numbered(2_500)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_registrys_log_is_trimmed_too() {
    let disk = SimDisk::new();
    let (group, _) = start(
        GroupId::REGISTRY,
        &host(Arc::new(disk.clone()), sync_takes_a_millisecond),
    )
    .await;
    for number in 0..50 {
        group.propose(numbered(number)).await.unwrap();
    }
    group.trim(0).await.unwrap();
    disk.flush().unwrap();
    let before = disk.keys(Family::Raft);
    assert_eq!(group.trim(u64::MAX).await.unwrap(), group.applied_index() + 1);
    assert!(disk.keys(Family::Raft) < before - 45);
    group.propose(numbered(50)).await.unwrap();
    group.shutdown().await;
    let (group, entries) = start(GroupId::REGISTRY, &host(Arc::new(disk), sync_takes_a_millisecond)).await;
    assert_eq!(entries.lock().unwrap().len(), 51);
    group.propose(numbered(51)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_missing_entry_is_seen_by_readers_and_at_start() {
    let disk = SimDisk::new();
    let stops = Arc::new(AtomicUsize::new(0));
    let counted = stops.clone();
    let on_fatal: OnFatal = Arc::new(move |_: &StorageError| {
        let _ = counted.fetch_add(1, Ordering::Relaxed);
    });
    let host = |disk: &SimDisk| host_with(Arc::new(disk.clone()), sync_takes_a_millisecond, on_fatal.clone());
    let (group, _) = start(PARTITION, &host(&disk)).await;
    for number in 0..10 {
        group.propose(numbered(number)).await.unwrap();
    }
    disk.lose(Family::Log, &layout::log_key(PARTITION.0, 5));
    assert_eq!(
        group.log_reader().read(3, 10_000),
        Err(StorageError::Hole {
            group: PARTITION.0,
            index: 5
        })
    );
    assert_eq!(
        stops.load(Ordering::Relaxed),
        1,
        "a read of damaged data stops the node"
    );
    group.shutdown().await;
    // The state was never flushed, so that a crash makes a start replay over the hole.
    let disk = disk.crash(&mut SmallRng::seed_from_u64(1));
    disk.lose(Family::Log, &layout::log_key(PARTITION.0, 5));
    let host = host(&disk);
    let journal = Journal::recover(PARTITION, host.disk.clone());
    let refused = Group::start(PARTITION, &host, Box::new(journal), &ConsensusConfig::default()).await;
    assert!(matches!(
        refused,
        Err(StartError::Stopped { .. } | StartError::Storage { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_ends_before_the_state_is_refused() {
    let disk = SimDisk::new();
    let (group, _) = start(PARTITION, &host(Arc::new(disk.clone()), sync_takes_a_millisecond)).await;
    for number in 0..10 {
        group.propose(numbered(number)).await.unwrap();
    }
    group.shutdown().await;
    let mut batch = WriteBatch::new();
    batch.delete_range(
        Family::Log,
        &layout::log_key(PARTITION.0, 8),
        &layout::log_end(PARTITION.0),
    );
    disk.write(&batch, Durability::Logged).unwrap();
    let host = host(Arc::new(disk), sync_takes_a_millisecond);
    let journal = Journal::recover(PARTITION, host.disk.clone());
    let refused = Group::start(PARTITION, &host, Box::new(journal), &ConsensusConfig::default()).await;
    assert!(matches!(refused, Err(StartError::LogLost { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_vote_is_refused() {
    let disk = SimDisk::new();
    let (group, _) = start(PARTITION, &host(Arc::new(disk.clone()), sync_takes_a_millisecond)).await;
    group.shutdown().await;
    let mut batch = WriteBatch::new();
    batch.put(Family::Raft, &layout::hard_key(PARTITION.0, HardState::Vote), b"\xff");
    disk.write(&batch, Durability::Logged).unwrap();
    let host = host(Arc::new(disk), sync_takes_a_millisecond);
    let journal = Journal::recover(PARTITION, host.disk.clone());
    let refused = Group::start(PARTITION, &host, Box::new(journal), &ConsensusConfig::default()).await;
    assert!(matches!(
        refused,
        Err(StartError::Storage {
            source: StorageError::Damaged { .. },
            ..
        })
    ));
}

#[tokio::test(start_paused = true)]
async fn an_oversized_entry_is_refused() {
    let (group, _) = start(PARTITION, &host(Arc::new(SimDisk::new()), sync_takes_a_millisecond)).await;
    let entry = Bytes::from(vec![0; (16 << 20) + 1]);
    assert!(matches!(group.propose(entry).await, Err(ProposeError::TooLarge { .. })));
}
