//! A state machine that keeps every entry, and a node of one process's making.
#![allow(dead_code, unreachable_pub, reason = "not every test file uses everything")]

pub mod cluster;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use holdfast_consensus::{
    ConsensusConfig, Group, GroupHost, GroupId, LogPosition, Restored, SealedSnapshot, SnapshotSink, SnapshotSource,
    StateMachine, set_purge_watermarks,
};
use holdfast_model::{NodeId, Term};
use holdfast_storage::layout::{state_key, state_range};
use holdfast_storage::{Disk, Durability, Family, OnFatal, StorageError, WriteBatch};

const ENTRIES: u8 = 1;
const APPLIED: u8 = 2;

/// The content of a [`Journal`], visible from outside while it runs.
pub type Applied = Arc<Mutex<Vec<Bytes>>>;

/// Keeps every entry in order: in memory, and on disk as a state machine should.
pub struct Journal {
    group: u32,
    disk: Arc<dyn Disk>,
    position: Option<LogPosition>,
    membership: Bytes,
    entries: Applied,
    batch: WriteBatch,
}

/// Deletes what a state machine of a replica has on a disk.
pub fn erase(group: GroupId, disk: &dyn Disk) {
    let mut batch = WriteBatch::new();
    for kind in [ENTRIES, APPLIED] {
        let (from, to) = state_range(group.0, kind);
        batch.delete_range(Family::Device, &from, &to);
    }
    disk.write(&batch, Durability::Logged).unwrap();
}

impl Journal {
    pub fn recover(group: GroupId, disk: Arc<dyn Disk>) -> Self {
        let group = group.0;
        let mut entries = Vec::new();
        let (from, to) = state_range(group, ENTRIES);
        disk.scan(Family::Device, &from, &to, &mut |_, value| {
            entries.push(Bytes::copy_from_slice(value));
            ControlFlow::Continue(())
        })
        .unwrap();
        let stored = disk.get(Family::Device, &state_key(group, APPLIED, &[])).unwrap();
        let (position, membership) = match stored {
            Some(stored) => {
                let number = |at: usize| u64::from_be_bytes(stored[at..at + 8].try_into().unwrap());
                let position = LogPosition {
                    term: Term(number(0)),
                    node: NodeId(number(8)),
                    index: number(16),
                };
                (Some(position), stored.slice(24..))
            }
            None => (None, Bytes::new()),
        };
        let entries = Arc::new(Mutex::new(entries));
        Self {
            group,
            disk,
            position,
            membership,
            entries,
            batch: WriteBatch::new(),
        }
    }

    pub fn entries(&self) -> Applied {
        self.entries.clone()
    }

    fn put_position(&mut self) {
        let at = self.position.unwrap();
        let numbers = [
            at.term.get().to_be_bytes(),
            at.node.get().to_be_bytes(),
            at.index.to_be_bytes(),
        ]
        .concat();
        self.batch.put_parts(
            Family::Device,
            &state_key(self.group, APPLIED, &[]),
            &[&numbers, &self.membership],
        );
    }
}

impl StateMachine for Journal {
    fn applied(&self) -> (Option<LogPosition>, Bytes) {
        (self.position, self.membership.clone())
    }

    fn apply(&mut self, position: LogPosition, entry: &Bytes) -> Result<Bytes, StorageError> {
        let mut entries = self.entries.lock().unwrap();
        let number = entries.len() as u64;
        self.batch.put(
            Family::Device,
            &state_key(self.group, ENTRIES, &number.to_be_bytes()),
            entry,
        );
        entries.push(entry.clone());
        self.position = Some(position);
        Ok(Bytes::from(number.to_string()))
    }

    fn apply_meta(&mut self, position: LogPosition, membership: Option<Bytes>) -> Result<(), StorageError> {
        self.position = Some(position);
        if let Some(membership) = membership {
            self.membership = membership;
        }
        Ok(())
    }

    fn end_of_run(&mut self) -> Result<(), StorageError> {
        self.put_position();
        self.disk.write(&self.batch, Durability::Replayed)?;
        self.batch.clear();
        Ok(())
    }

    fn snapshot(&mut self) -> Result<SnapshotSource, StorageError> {
        let mut entries = self.entries.lock().unwrap().clone().into_iter();
        Ok(SnapshotSource {
            position: self.position.unwrap(),
            membership: self.membership.clone(),
            next_chunk: Box::new(move || Ok(entries.next())),
        })
    }

    fn receive(&mut self) -> Result<Box<dyn SnapshotSink>, StorageError> {
        Ok(Box::new(Received(Vec::new())))
    }

    fn restore(
        &mut self,
        position: LogPosition,
        membership: Bytes,
        sealed: SealedSnapshot,
    ) -> Result<Restored, StorageError> {
        let received: Vec<Bytes> = *sealed.downcast().unwrap();
        self.position = Some(position);
        self.membership = membership;
        self.batch.clear();
        let (from, to) = state_range(self.group, ENTRIES);
        self.batch.delete_range(Family::Device, &from, &to);
        for (number, entry) in received.iter().enumerate() {
            let key = state_key(self.group, ENTRIES, &(number as u64).to_be_bytes());
            self.batch.put(Family::Device, &key, entry);
        }
        self.put_position();
        let restored = Restored::default();
        set_purge_watermarks(&mut self.batch, GroupId(self.group), position, restored.retained_after);
        self.disk.write(&self.batch, Durability::Logged)?;
        self.disk.sync()?;
        self.batch.clear();
        *self.entries.lock().unwrap() = received;
        Ok(restored)
    }
}

struct Received(Vec<Bytes>);

impl SnapshotSink for Received {
    fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        self.0.push(chunk);
        Ok(())
    }

    fn seal(self: Box<Self>) -> Result<SealedSnapshot, StorageError> {
        Ok(Box::new(self.0))
    }
}

/// Panics where a node would stop.
pub fn stop_the_test() -> OnFatal {
    Arc::new(|error| panic!("the node would stop: {error}"))
}

/// A node on `disk` whose flusher runs on the current runtime and takes `latency` for each sync.
pub fn host(disk: Arc<dyn Disk>, latency: impl FnMut() -> Duration + Send + 'static) -> GroupHost {
    host_with(disk, latency, stop_the_test())
}

pub fn host_with(
    disk: Arc<dyn Disk>,
    latency: impl FnMut() -> Duration + Send + 'static,
    on_fatal: OnFatal,
) -> GroupHost {
    holdfast_testkit::on_runtime(NodeId(7), disk, on_fatal, latency)
}

/// Starts a group with a [`Journal`], bootstrapping it if need be.
pub async fn start(group: GroupId, host: &GroupHost) -> (Group, Applied) {
    let journal = Journal::recover(group, host.disk.clone());
    let entries = journal.entries();
    let group = Group::start(group, host, Box::new(journal), &ConsensusConfig::default())
        .await
        .unwrap();
    group.bootstrap().await.unwrap();
    (group, entries)
}
