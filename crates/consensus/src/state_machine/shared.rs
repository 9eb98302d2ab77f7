//! The state machine of a group, shared by its applier and by the senders and receivers of snapshots.
//!
//! Invariant: a view of the state is opened only between runs of applies, when everything applied is written.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_storage::StorageError;
use holdfast_tasks::sync::Mutex;
use tokio::sync::oneshot;

use crate::position::LogPosition;
use crate::state_machine::{LogScope, Restored, SealedSnapshot, SnapshotSink, SnapshotSource, StateMachine};

type Opened = Result<SnapshotSource, StorageError>;

/// Clones share the machine.
#[derive(Clone)]
pub(crate) struct SharedStateMachine(Arc<Mutex<Cell>>);

struct Cell {
    machine: Box<dyn StateMachine>,
    /// Entries have been applied whose writes follow at the end of the run.
    in_run: bool,
    /// Senders of snapshots and exports that wait for the end of the run to open a view; at most as many as may send at once.
    waiting: Vec<(LogScope, oneshot::Sender<Opened>)>,
}

impl Cell {
    fn open(&mut self, log: LogScope) -> Opened {
        match log {
            LogScope::All => self.machine.snapshot(),
            _ => self.machine.export(log),
        }
    }
}

impl SharedStateMachine {
    pub(crate) fn new(machine: Box<dyn StateMachine>) -> Self {
        Self(Arc::new(Mutex::new(Cell {
            machine,
            in_run: false,
            waiting: Vec::new(),
        })))
    }

    pub(crate) fn applied(&self) -> (Option<LogPosition>, Bytes) {
        self.0.lock().machine.applied()
    }

    pub(crate) fn apply(&self, at: LogPosition, entry: &Bytes) -> Result<Bytes, StorageError> {
        let mut cell = self.0.lock();
        cell.in_run = true;
        cell.machine.apply(at, entry)
    }

    pub(crate) fn apply_meta(&self, at: LogPosition, membership: Option<Bytes>) -> Result<(), StorageError> {
        let mut cell = self.0.lock();
        cell.in_run = true;
        cell.machine.apply_meta(at, membership)
    }

    pub(crate) fn end_of_run(&self) -> Result<(), StorageError> {
        let mut cell = self.0.lock();
        cell.machine.end_of_run()?;
        cell.in_run = false;
        let waiting = std::mem::take(&mut cell.waiting);
        for (log, waits) in waiting.into_iter().filter(|(_, waits)| !waits.is_closed()) {
            drop(waits.send(cell.open(log)));
        }
        Ok(())
    }

    /// Opens a view of the state with these entries, at the end of the current run of applies.
    pub(crate) async fn view(&self, log: LogScope) -> Opened {
        let opened = {
            let mut cell = self.0.lock();
            if !cell.in_run {
                return cell.open(log);
            }
            let (waits, opened) = oneshot::channel();
            cell.waiting.push((log, waits));
            opened
        };
        opened
            .await
            .unwrap_or_else(|_| Err(StorageError::Stopped("the state machine has failed".into())))
    }

    pub(crate) fn receive(&self) -> Result<Box<dyn SnapshotSink>, StorageError> {
        self.0.lock().machine.receive()
    }

    pub(crate) fn restore(
        &self,
        at: LogPosition,
        membership: Bytes,
        sealed: SealedSnapshot,
    ) -> Result<Restored, StorageError> {
        self.0.lock().machine.restore(at, membership, sealed)
    }
}
