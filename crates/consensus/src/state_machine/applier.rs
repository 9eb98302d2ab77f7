//! Applies committed entries to a [`StateMachine`], in runs.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use holdfast_storage::{IoFailure, StorageError};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use crate::ids::{Entry, LogId, Payload, StoredMembership, log_id, position};
use crate::log::persisted;
use crate::log::store::Shared;
use crate::metrics::GroupMetrics;
use crate::state_machine::SealedSnapshot;
use crate::state_machine::shared::SharedStateMachine;
use crate::type_config::{Snapshot, SnapshotMeta, Types};

/// A run ends after this many entries or bytes even if more could be applied, so that the writes that a machine gathers
/// for the end of the run stay bounded while a log is replayed.
const MAX_RUN_ENTRIES: usize = 1_024;
const MAX_RUN_BYTES: usize = 4 << 20;

/// The snapshot data of openraft's storage interface.
pub(crate) enum SnapshotData {
    /// The state of this node at the time of sending.
    Ours,
    /// A state that has been received completely.
    Received(SealedSnapshot),
}

/// Implements openraft's state machine interface.
pub(crate) struct Applier {
    machine: SharedStateMachine,
    log: Arc<Shared>,
    metrics: GroupMetrics,
    applied: Option<LogId>,
    membership: StoredMembership,
    refuses_gaps: bool,
}

/// Entries applied since the last end of a run.
#[derive(Default)]
struct Run {
    entries: usize,
    bytes: usize,
    /// Given at the run's end.
    answers: Vec<(ApplyResponder<Types>, Bytes)>,
}

impl Applier {
    pub(crate) fn new(
        machine: SharedStateMachine,
        log: Arc<Shared>,
        metrics: GroupMetrics,
    ) -> Result<Self, StorageError> {
        let (applied, membership) = machine.applied();
        let membership = persisted::decode_stored_membership(&membership)?;
        log.set_others(membership.membership().nodes().count() > 1);
        Ok(Self {
            machine,
            log,
            metrics,
            applied: applied.map(log_id),
            membership,
            refuses_gaps: true,
        })
    }

    /// For the library's test suite, which applies entries that it has not appended.
    #[cfg(test)]
    pub(crate) fn that_takes_gaps(self) -> Self {
        Self {
            refuses_gaps: false,
            ..self
        }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }

    fn apply_one(&mut self, entry: &Entry) -> Result<Bytes, StorageError> {
        let at = position(&entry.log_id);
        // Checked again on the side that reads: a skipped entry would be a different state on this replica alone.
        if let Some(applied) = &self.applied
            && self.refuses_gaps
            && at.index != applied.index + 1
        {
            return Err(StorageError::Hole {
                group: self.log.group.0,
                index: applied.index + 1,
            });
        }
        let answer = match &entry.payload {
            Payload::Normal(command) => self.machine.apply(at, &command.0)?,
            Payload::Blank => {
                self.machine.apply_meta(at, None)?;
                Bytes::new()
            }
            Payload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                self.log.set_others(membership.nodes().count() > 1);
                self.machine
                    .apply_meta(at, Some(persisted::encode_stored_membership(&self.membership)))?;
                Bytes::new()
            }
        };
        self.applied = Some(entry.log_id);
        Ok(answer)
    }

    fn end_run(&mut self, run: &mut Run) -> Result<(), StorageError> {
        if run.entries == 0 {
            return Ok(());
        }
        self.machine.end_of_run()?;
        self.metrics.applied.increment(run.entries as u64);
        self.log.set_applied(self.applied.map_or(0, |id| id.index + 1));
        for (responder, answer) in run.answers.drain(..) {
            responder.send(answer);
        }
        (run.entries, run.bytes) = (0, 0);
        Ok(())
    }
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut run = Run::default();
        while let Some(item) = entries.next().await {
            // An entry that cannot be read or applied here was acknowledged: the node must not continue without it.
            let (entry, responder) = item.map_err(|error| {
                self.log
                    .fatal(StorageError::Io(IoFailure::new("cannot read the log", error)))
            })?;
            if let Payload::Normal(command) = &entry.payload {
                run.bytes += command.0.len();
            }
            let answer = self.apply_one(&entry).map_err(|error| self.log.fatal(error))?;
            if let Some(responder) = responder {
                run.answers.push((responder, answer));
            }
            run.entries += 1;
            if run.entries >= MAX_RUN_ENTRIES || run.bytes >= MAX_RUN_BYTES {
                self.end_run(&mut run).map_err(|error| self.log.fatal(error))?;
                tokio::task::yield_now().await;
            }
        }
        self.end_run(&mut run).map_err(|error| self.log.fatal(error))?;
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder(self.meta())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, dump: SnapshotData) -> Result<(), io::Error> {
        let sealed: SealedSnapshot = match dump {
            SnapshotData::Received(sealed) => sealed,
            SnapshotData::Ours if self.refuses_gaps => {
                return Err(io::Error::other("the state of this node is not to be installed here"));
            }
            SnapshotData::Ours => Box::new(()),
        };
        let Some(last) = &meta.last_log_id else {
            return Err(io::Error::other("a snapshot of nothing"));
        };
        let at = position(last);
        let membership = persisted::encode_stored_membership(&meta.last_membership);
        let machine = self.machine.clone();
        let restored = self
            .log
            .blocking_pool
            .run(move || machine.restore(at, membership, sealed))
            .await
            .map_err(|error| self.log.fatal(error))?;
        self.log.restored(at, restored)?;
        self.log
            .flusher
            .synced()
            .await
            .map_err(|error| io::Error::from(StorageError::clone(&error)))?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.log.set_others(self.membership.membership().nodes().count() > 1);
        self.log.set_applied(last.index + 1);
        Ok(())
    }

    // Always the current position: the state is read when it is sent, and must not end below the log's watermark.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.applied.is_some().then(|| Snapshot {
            meta: self.meta(),
            snapshot: SnapshotData::Ours,
        }))
    }
}

/// Builds a snapshot at the position that was applied when it was requested.
pub(crate) struct SnapshotBuilder(SnapshotMeta);

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        Ok(Snapshot {
            meta: self.0.clone(),
            snapshot: SnapshotData::Ours,
        })
    }
}
