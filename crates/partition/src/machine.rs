//! The partition as a Raft state machine: a thin layer between `consensus` and the pure state.
//!
//! Invariants: one short lock per entry; readers are woken once per run of entries; no disk write per entry.

use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use holdfast_consensus::{
    GroupHost, LogPosition, LogScope, Restored, SealedSnapshot, SnapshotSink, SnapshotSource, StateMachine,
};
use holdfast_storage::{Disk, DiskGuard, OnFatal, StorageError};

use crate::partition::answer;
use crate::shared::Shared;
use crate::snapshot::{Received, RetentionHold, Sink, Source};
use crate::state::store::Store;
use crate::state::value_index::IndexedChanges;
use crate::state::{Applied, SkipReason};

/// See the module.
pub(crate) struct Machine {
    shared: Arc<Shared>,
    store: Arc<Store>,
    disk: Arc<dyn Disk>,
    guard: Arc<DiskGuard>,
    on_fatal: OnFatal,
    /// The answer of [`StateMachine::applied`]: as recovered from disk or restored from a snapshot.
    recovered: (Option<LogPosition>, Bytes),
    run: Run,
    /// Scratch space, kept for its memory.
    wakers: Vec<Waker>,
}

/// Totals of the current run of entries.
#[derive(Default)]
struct Run {
    started: bool,
    messages: u64,
    bytes: u64,
}

impl Machine {
    pub(crate) fn new(shared: Arc<Shared>, store: Arc<Store>, host: &GroupHost) -> Self {
        let recovered = {
            let inner = shared.lock();
            (inner.position, inner.membership.clone())
        };
        Self {
            shared,
            store,
            disk: host.disk.clone(),
            guard: host.guard.clone(),
            on_fatal: host.on_fatal.clone(),
            recovered,
            run: Run::default(),
            wakers: Vec::new(),
        }
    }

    fn note_skipped(&self, log_index: u64, reason: SkipReason) {
        self.shared.metrics.skipped(reason).increment(1);
        let partition = self.shared.id.0;
        match reason {
            // A resend of a batch that had arrived: normal.
            SkipReason::Repeat => tracing::debug!(
                partition,
                log_index,
                "a batch was resent and is skipped: it is counted already"
            ),
            SkipReason::Gap { expected } => {
                tracing::warn!(
                    partition,
                    log_index,
                    expected,
                    "a batch is skipped: batches of its stream before it are missing"
                );
            }
            SkipReason::Stale { current } => {
                tracing::warn!(
                    partition,
                    log_index,
                    current,
                    "a batch is skipped: a later incarnation of its gateway has written"
                );
            }
            SkipReason::OtherLeadership { computed } => {
                tracing::warn!(
                    partition,
                    log_index,
                    term = computed.term.0,
                    node = computed.node.0,
                    "effects are skipped: they were computed in another leadership"
                );
            }
            SkipReason::Damaged => {
                tracing::error!(partition, log_index, "a log entry is skipped: it cannot be decoded")
            }
        }
    }
}

impl StateMachine for Machine {
    fn applied(&self) -> (Option<LogPosition>, Bytes) {
        self.recovered.clone()
    }

    fn apply(&mut self, position: LogPosition, entry: &Bytes) -> Result<Bytes, StorageError> {
        // Outside of the lock: values are decoded for it.
        let indexed = IndexedChanges::of(&self.shared, entry);
        if let Some(error) = indexed.unreadable() {
            self.shared.note_unreadable(error);
        }
        let mut inner = self.shared.lock();
        if !self.run.started {
            self.run.started = true;
            inner.cache.evict();
        }
        let applied = inner.apply(position, entry, &indexed);
        drop(inner);
        let applied = applied.map_err(|unknown| StorageError::Damaged {
            file: format!("log of partition {}", self.shared.id.0),
            offset: None,
            reason: unknown.to_string(),
        })?;
        match applied {
            Applied::Counted { records, .. } => {
                self.run.messages += u64::from(records);
                self.run.bytes += entry.len() as u64;
            }
            Applied::Skipped(reason) => self.note_skipped(position.index, reason),
        }
        Ok(answer::encode(applied))
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

    fn snapshot(&mut self) -> Result<SnapshotSource, StorageError> {
        self.export(LogScope::All)
    }

    fn export(&mut self, log: LogScope) -> Result<SnapshotSource, StorageError> {
        // No entry is applied during this call, so that the view belongs to the same position as the copy of the state.
        self.store.store(&self.shared)?;
        let Some(held) = RetentionHold::take(&self.shared, log) else {
            return Err(StorageError::Unsupported(
                "a snapshot of a partition that has applied nothing",
            ));
        };
        let device_states = self.store.view_device_states(held.device_state_epoch)?;
        let (position, membership) = (held.position, held.membership.clone());
        let mut source = Source::new(self.disk.clone(), self.on_fatal.clone(), held, device_states);
        Ok(SnapshotSource {
            position,
            membership,
            next_chunk: Box::new(move || source.next_chunk()),
        })
    }

    fn receive(&mut self) -> Result<Box<dyn SnapshotSink>, StorageError> {
        Ok(Box::new(Sink::new(
            self.shared.id,
            self.disk.clone(),
            self.guard.clone(),
            self.shared.config.spacing(),
            self.store.new_epoch(),
        )?))
    }

    fn restore(
        &mut self,
        position: LogPosition,
        membership: Bytes,
        sealed: SealedSnapshot,
    ) -> Result<Restored, StorageError> {
        let received = sealed
            .downcast::<Received>()
            .map_err(|_| StorageError::Unsupported("a snapshot that another state machine has sealed"))?;
        if received.position != position {
            return Err(StorageError::Damaged {
                file: format!("snapshot of partition {}", self.shared.id.0),
                offset: None,
                reason: format!("it is of {}, not of {position}", received.position),
            });
        }
        let retained_after = self.store.install(&self.shared, *received, membership.clone())?;
        self.recovered = (Some(position), membership);
        self.run = Run::default();
        self.shared.wake_readers(&mut self.wakers);
        if let Some(indexing) = &self.shared.indexing {
            indexing.note_progress(self.shared.id.0, false);
        }
        self.shared.index_work.notify_one();
        tracing::info!(
            partition = self.shared.id.0,
            %position,
            begin = retained_after.index + 1,
            "the partition was restored from a snapshot of another replica"
        );
        Ok(Restored {
            retained_after: Some(retained_after),
        })
    }
}
