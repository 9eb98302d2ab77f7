//! The cost of a message from proposal to commit, on a real disk: process CPU, not rates.
//!
//! `cargo test --release -p holdfast-consensus --test hot_path -- --ignored --nocapture`
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use common::stop_the_test;
use holdfast_consensus::{ConsensusConfig, Group, GroupId, LogPosition, StateMachine};
use holdfast_model::NodeId;
use holdfast_storage::{DataDir, NodeIdentity, StorageConfig, StorageError, open};

const MESSAGE_BYTES: usize = 256;
const GROUPS: u16 = 4;
const BYTES: usize = 1 << 30;

/// Keeps nothing: the log is the data.
struct Nothing;

impl StateMachine for Nothing {
    fn applied(&self) -> (Option<LogPosition>, Bytes) {
        (None, Bytes::new())
    }

    fn apply(&mut self, _position: LogPosition, _entry: &Bytes) -> Result<Bytes, StorageError> {
        Ok(Bytes::new())
    }

    fn apply_meta(&mut self, _position: LogPosition, _membership: Option<Bytes>) -> Result<(), StorageError> {
        Ok(())
    }

    fn end_of_run(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}

/// User and system time of this process in clock ticks of 10 ms.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// One entry of a group in flight at a time, as a core proposes its batches.
async fn propose_all(group: Group, entry: Bytes, entries: usize) {
    for _ in 0..entries {
        let (done, committed) = tokio::sync::oneshot::channel();
        group
            .propose_detached(entry.clone(), Box::new(move |outcome| done.send(outcome).unwrap()))
            .await;
        committed.await.unwrap().unwrap();
    }
}

#[test]
#[ignore = "a measurement"]
fn measure_cpu_per_message() {
    for messages in [4, 16, 64, 256] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let data = DataDir::open(dir.path(), || NodeIdentity {
            cluster: "test".to_owned(),
            incarnation: 7,
        })
        .unwrap();
        let disk = open(&data, &StorageConfig::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let host =
                holdfast_testkit::on_threads(NodeId(7), disk.clone(), stop_the_test(), &StorageConfig::default());
            let groups = Rc::new(RefCell::new(Vec::new()));
            for partition in 0..GROUPS {
                let id = GroupId::partition(partition);
                let group = Group::start(id, &host, Box::new(Nothing), &ConsensusConfig::default())
                    .await
                    .unwrap();
                group.bootstrap().await.unwrap();
                groups.borrow_mut().push(group);
            }
            let entry = Bytes::from(vec![0x5a; messages * MESSAGE_BYTES]);
            let entries = (BYTES / 8 / entry.len() / usize::from(GROUPS)).min(20_000);
            let (begun, ticks) = (Instant::now(), cpu_ticks());
            let work: Vec<_> = groups
                .borrow()
                .iter()
                .map(|group| propose_all(group.clone(), entry.clone(), entries))
                .collect();
            futures_util::future::join_all(work).await;
            let total = entries * usize::from(GROUPS);
            let cpu = (cpu_ticks() - ticks) as f64 * 10_000.0;
            println!(
                "{messages} messages an entry: {:.1} us CPU an entry, {:.2} us a message, {:.0} entries/s",
                cpu / total as f64,
                cpu / (total * messages) as f64,
                total as f64 / begun.elapsed().as_secs_f64(),
            );
        });
    }
}
