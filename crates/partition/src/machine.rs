//! The partition as a Raft state machine: a thin layer between `consensus` and the pure state.
//!
//! Invariants: one short lock per entry; readers are woken once per run; nothing is written to disk per entry.

use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use holdfast_consensus::{LogPosition, StateMachine};
use holdfast_storage::StorageError;

use crate::shared::Shared;
use crate::state::{Applied, Void};
use crate::store::Store;

/// See the module.
pub(crate) struct Machine {
    shared: Arc<Shared>,
    store: Arc<Store>,
    /// What [`StateMachine::applied`] answers: as recovered.
    recovered: (Option<LogPosition>, Bytes),
    run: Run,
    /// Kept for its memory.
    wakers: Vec<Waker>,
}

/// The run of entries under way.
#[derive(Default)]
struct Run {
    started: bool,
    messages: u64,
    bytes: u64,
}

impl Machine {
    pub(crate) fn new(shared: Arc<Shared>, store: Arc<Store>) -> Self {
        let recovered = {
            let inner = shared.lock();
            (inner.position, inner.membership.clone())
        };
        Self {
            shared,
            store,
            recovered,
            run: Run::default(),
            wakers: Vec::new(),
        }
    }

    fn note_void(&self, log_index: u64, reason: Void) {
        self.shared.metrics.void(reason).increment(1);
        let partition = self.shared.id.0;
        match reason {
            // A resend whose first sending had arrived: nothing is wrong.
            Void::Repeat => tracing::debug!(partition, log_index, "a batch came again and was not counted"),
            Void::Gap { expected } => {
                tracing::warn!(
                    partition,
                    log_index,
                    expected,
                    "a batch without those before it was not counted"
                );
            }
            Void::Stale { current } => {
                tracing::warn!(
                    partition,
                    log_index,
                    current,
                    "a batch of a gateway's former life was not counted"
                );
            }
            Void::Damaged => tracing::error!(partition, log_index, "an entry of the log is not readable"),
        }
    }
}

impl StateMachine for Machine {
    fn applied(&self) -> (Option<LogPosition>, Bytes) {
        self.recovered.clone()
    }

    fn apply(&mut self, position: LogPosition, entry: &Bytes) -> Result<Bytes, StorageError> {
        let mut inner = self.shared.lock();
        if !self.run.started {
            self.run.started = true;
            inner.tail.evict();
        }
        let applied = inner.apply(position, entry);
        drop(inner);
        match applied {
            Ok(Applied::Counted { records, .. }) => {
                self.run.messages += u64::from(records);
                self.run.bytes += entry.len() as u64;
            }
            Ok(Applied::Void(reason)) => self.note_void(position.index, reason),
            Err(unknown) => {
                let file = format!("log of partition {}", self.shared.id.0);
                return Err(StorageError::Damaged {
                    file,
                    offset: None,
                    reason: unknown.to_string(),
                });
            }
        }
        Ok(Bytes::new())
    }

    fn apply_meta(&mut self, position: LogPosition, membership: Option<Bytes>) -> Result<(), StorageError> {
        self.shared.lock().apply_meta(position, membership);
        Ok(())
    }

    fn end_of_run(&mut self) -> Result<(), StorageError> {
        let run = std::mem::take(&mut self.run);
        if run.messages > 0 {
            self.shared.metrics.appended_messages.increment(run.messages);
            self.shared.metrics.appended_bytes.increment(run.bytes);
            self.shared.wake_readers(&mut self.wakers);
        }
        self.store.store_if_due(&self.shared)
    }
}
