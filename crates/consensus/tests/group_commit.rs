//! Many writers over many groups cost about one sync per batch. Syncs are counted; no wall clock is read.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{host, start};
use holdfast_consensus::GroupId;
use holdfast_storage::SimDisk;

const GROUPS: u16 = 4;
const WRITERS: usize = 64;
const ENTRIES: usize = 50;

async fn syncs_of(writers: usize) -> usize {
    let disk = SimDisk::new();
    let host = host(Arc::new(disk.clone()), || Duration::from_millis(1));
    let mut groups = Vec::new();
    for partition in 0..GROUPS {
        groups.push(start(GroupId::partition(partition), &host).await.0);
    }
    let before = disk.syncs();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let group = groups[writer % groups.len()].clone();
            let (done, is_done) = tokio::sync::oneshot::channel();
            holdfast_tasks::spawn("writer", async move {
                for _ in 0..ENTRIES {
                    group.propose(Bytes::from(vec![0; 256])).await.unwrap();
                }
                done.send(()).unwrap();
            });
            is_done
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    disk.syncs() - before
}

#[tokio::test(start_paused = true)]
async fn concurrent_writers_share_a_sync() {
    let syncs = syncs_of(WRITERS).await;
    // Each writer waits for its entry, so that no fewer than ENTRIES syncs can serve it.
    assert!(
        (ENTRIES..=2 * ENTRIES).contains(&syncs),
        "{syncs} syncs for {} entries",
        WRITERS * ENTRIES
    );
}

#[tokio::test(start_paused = true)]
async fn a_lone_writer_costs_one_sync_for_each_entry() {
    let syncs = syncs_of(1).await;
    assert!(
        (ENTRIES..=ENTRIES + 5).contains(&syncs),
        "{syncs} syncs for {ENTRIES} entries"
    );
}
