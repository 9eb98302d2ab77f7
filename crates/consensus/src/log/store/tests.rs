//! The consensus library's own storage test suite, over both disks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_storage::{DataDir, Disk, Flusher, NodeIdentity, SimDisk, StorageConfig, StorageError, open};
use holdfast_tasks::BlockingPool;
use openraft::testing::log::{StoreBuilder, Suite};

use super::*;
use crate::metrics::GroupMetrics;
use crate::position::LogPosition;
use crate::state_machine::StateMachine;
use crate::state_machine::applier::Applier;

/// Keeps its position and nothing else.
#[derive(Default)]
struct Nothing {
    position: Option<LogPosition>,
    membership: Bytes,
}

impl StateMachine for Nothing {
    fn applied(&self) -> (Option<LogPosition>, Bytes) {
        (self.position, self.membership.clone())
    }

    fn apply(&mut self, position: LogPosition, _entry: &Bytes) -> Result<Bytes, StorageError> {
        self.position = Some(position);
        Ok(Bytes::new())
    }

    fn apply_meta(&mut self, position: LogPosition, membership: Option<Bytes>) -> Result<(), StorageError> {
        self.position = Some(position);
        if let Some(membership) = membership {
            self.membership = membership;
        }
        Ok(())
    }

    fn end_of_run(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn restore(
        &mut self,
        position: LogPosition,
        membership: Bytes,
        _sealed: crate::SealedSnapshot,
    ) -> Result<crate::Restored, StorageError> {
        self.position = Some(position);
        self.membership = membership;
        Ok(crate::Restored::default())
    }
}

fn stop_the_test() -> OnFatal {
    Arc::new(|error| panic!("the node would stop: {error}"))
}

fn build(group: GroupId, disk: Arc<dyn Disk>, flusher: Flusher) -> (LogStore, Applier) {
    let log = LogStore::open(
        (group, NodeId(1)),
        disk,
        flusher,
        BlockingPool::Inline,
        stop_the_test(),
        1_000,
        0,
    )
    .unwrap();
    let applier = Applier::new(
        crate::state_machine::shared::SharedStateMachine::new(Box::new(Nothing::default())),
        log.shared().clone(),
        GroupMetrics::new(group),
    )
    .unwrap()
    .that_takes_gaps();
    (log, applier)
}

struct OnSimDisk(GroupId);

impl StoreBuilder<Types, LogStore, Applier> for OnSimDisk {
    async fn build(&self) -> Result<((), LogStore, Applier), openraft::StorageError<Types>> {
        let disk = Arc::new(SimDisk::new());
        let flusher = Flusher::on_runtime(disk.clone(), stop_the_test(), || Duration::ZERO);
        let (log, applier) = build(self.0, disk, flusher);
        Ok(((), log, applier))
    }
}

struct OnRocksDisk(GroupId);

impl StoreBuilder<Types, LogStore, Applier, tempfile::TempDir> for OnRocksDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Applier), openraft::StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), || NodeIdentity {
            cluster: "test".to_owned(),
            incarnation: 1,
        })
        .unwrap();
        let disk = open(&data, &StorageConfig::default()).unwrap();
        let flusher = Flusher::spawn(disk.clone(), stop_the_test()).unwrap();
        let (log, applier) = build(self.0, disk, flusher);
        Ok((dir, log, applier))
    }
}

#[tokio::test(start_paused = true)]
async fn the_librarys_suite_passes_on_the_simulated_disk() {
    Suite::test_all(OnSimDisk(GroupId::partition(0))).await.unwrap();
    Suite::test_all(OnSimDisk(GroupId::REGISTRY)).await.unwrap();
}

#[tokio::test]
async fn the_librarys_suite_passes_on_rocksdb() {
    Suite::test_all(OnRocksDisk(GroupId::partition(0))).await.unwrap();
}
