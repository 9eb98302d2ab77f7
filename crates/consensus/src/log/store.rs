//! A group's log and vote on the node's [`Disk`], behind openraft's log storage interface.
//!
//! Order of writes (docs/storage.md draws the timeline): `append` writes unsynced and returns, so that entries can be read
//! at once; the flusher completes the callback after its next sync. `save_vote` waits in the same queue. All writes of a
//! group come from its own thread, so that the log keeps openraft's order.
//!
//! `purge` moves a watermark and deletes nothing: partition readers read the same records, and only [`retention`] deletes
//! them.

mod retention;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use futures_util::{Stream, stream};
use holdfast_model::NodeId;
use holdfast_storage::layout::{self, HardState};
use holdfast_storage::{Disk, Durability, Family, Flusher, OnFatal, StorageError, WriteBatch};
use holdfast_tasks::BlockingPool;
use holdfast_tasks::sync::Mutex;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::Notify;

use crate::ids::{Entry, LogId, Vote};
use crate::log::entry::{self, HEADER_BYTES};
use crate::log::entry_cache::EntryCache;
use crate::log::persisted;
use crate::position::GroupId;
use crate::type_config::Types;

/// The most bytes that one read of several entries takes into memory; also the limit of one append.
const MAX_READ_BYTES: usize = 4 << 20;
/// Bytes of applied entries that a leader keeps in memory for members whose append is still in progress.
const KEPT_BYTES: usize = 1 << 20;

/// The writer: one per group, on the group's thread.
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    /// Reused, so that appends do not allocate.
    batch: WriteBatch,
}

/// Shared by the writer and the readers of a group's log.
pub(crate) struct Shared {
    pub(crate) group: GroupId,
    pub(crate) family: Family,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) flusher: Flusher,
    pub(crate) blocking_pool: BlockingPool,
    on_fatal: OnFatal,
    /// One more than the index of the last applied entry; 0 when none is.
    applied: AtomicU64,
    /// Woken when `applied` has grown, and when the group stops.
    pub(crate) applied_grew: Notify,
    /// The value of `applied` when the state machine was recovered: the entries below it are applied in the flushed files.
    recovered: u64,
    /// This node.
    node: NodeId,
    /// How many bytes of applied entries are kept in memory while this node leads.
    kept_for_others: AtomicUsize,
    prior: PriorReplica,
    /// The log is shorter than the prior replica's was.
    is_behind_prior: AtomicBool,
    state: Mutex<State>,
}

/// The last position and vote of an earlier replica of the group on this disk, which was deleted after the group had
/// removed it.
///
/// Why: its acknowledgements may have committed entries that some voter does not have, the removal itself among them. A
/// new replica on this disk begins empty, and must not help to elect a leader that lacks those entries.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PriorReplica {
    /// Its last entry.
    log: Option<LogId>,
    /// Its vote.
    vote: Option<Vote>,
}

struct State {
    vote: Option<Vote>,
    /// The last entry that openraft has purged.
    purged: Option<LogId>,
    /// The last entry that retention has deleted.
    trimmed: Option<LogId>,
    /// The first index that openraft may read.
    first: u64,
    last: Option<LogId>,
    cache: EntryCache,
}

impl State {
    /// The last entry that openraft may not read: the higher of both watermarks.
    fn watermark(&self) -> Option<LogId> {
        self.purged.max(self.trimmed)
    }
}

fn next(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

impl LogStore {
    /// Reads watermarks, vote and the last entry of `group`. `recovered` is one more than the index at which the state
    /// machine was recovered.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when one of them cannot be decoded.
    pub(crate) fn open(
        (group, node): (GroupId, NodeId),
        disk: Arc<dyn Disk>,
        flusher: Flusher,
        blocking_pool: BlockingPool,
        on_fatal: OnFatal,
        tail_bytes: usize,
        recovered: u64,
    ) -> Result<Self, StorageError> {
        let family = group.log_family();
        let get = |what| disk.get(Family::Raft, &layout::hard_key(group.0, what));
        let vote = |what| get(what)?.map(|bytes| persisted::decode_vote(&bytes)).transpose();
        let position = |what| get(what)?.map(|bytes| persisted::decode_watermark(&bytes)).transpose();
        let (purged, trimmed) = (position(HardState::Purged)?, position(HardState::Trimmed)?);
        let prior = PriorReplica {
            log: position(HardState::PriorLog)?,
            vote: vote(HardState::PriorVote)?,
        };
        // A stored vote was given by a replica that knew the prior one's.
        let vote = vote(HardState::Vote)?.or(prior.vote);
        let watermark = purged.max(trimmed);
        let first = next(watermark.as_ref());
        let from = layout::log_key(group.0, first);
        let last = match disk.last(family, &from, &layout::log_end(group.0))? {
            Some((key, value)) => {
                let (_, index) = layout::parse_log_key(&key).ok_or(StorageError::Hole {
                    group: group.0,
                    index: 0,
                })?;
                Some(crate::ids::log_id(entry::decode(group, index, &value)?.position))
            }
            None => watermark,
        };
        let state = State {
            vote,
            purged,
            trimmed,
            first,
            last,
            cache: EntryCache::new(tail_bytes),
        };
        let shared = Shared {
            group,
            family,
            disk,
            flusher,
            blocking_pool,
            on_fatal,
            applied: AtomicU64::new(recovered),
            applied_grew: Notify::new(),
            recovered,
            node,
            kept_for_others: AtomicUsize::new(0),
            prior,
            is_behind_prior: AtomicBool::new(state.last < prior.log),
            state: Mutex::new(state),
        };
        Ok(Self {
            shared: Arc::new(shared),
            batch: WriteBatch::new(),
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The last entry of the log, or the watermark when it has none.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.shared.state.lock().last
    }

    /// The last entry that the engine may not read.
    pub(crate) fn watermark(&self) -> Option<LogId> {
        self.shared.state.lock().watermark()
    }

    fn put(&self, what: HardState, value: &[u8]) -> Result<(), io::Error> {
        let mut batch = WriteBatch::new();
        batch.put(Family::Raft, &layout::hard_key(self.shared.group.0, what), value);
        self.shared.write(&batch)
    }
}

impl Shared {
    fn write(&self, batch: &WriteBatch) -> Result<(), io::Error> {
        self.disk
            .write(batch, Durability::Logged)
            .map_err(|error| self.fatal(error).into())
    }

    /// Reports the error as fatal to the node, and returns it.
    pub(crate) fn fatal(&self, error: StorageError) -> StorageError {
        (self.on_fatal)(&error);
        error
    }

    /// Whether the prior replica's acknowledgements allow a vote for a candidate with this log. The engine compares it with
    /// the present log.
    pub(crate) fn may_vote_for(&self, last: Option<LogId>) -> bool {
        last >= self.prior.log
    }

    /// Whether this node must not stand for election.
    pub(crate) fn is_behind_prior(&self) -> bool {
        self.is_behind_prior.load(Ordering::Acquire)
    }

    /// Called when the log has grown; returns whether it has just become as long as the prior replica's.
    pub(crate) fn catches_up_with_prior(&self) -> bool {
        self.is_behind_prior()
            && self.state.lock().last >= self.prior.log
            && self.is_behind_prior.swap(false, Ordering::AcqRel)
    }

    /// Sets whether there are other members, to which appended entries must be sent.
    pub(crate) fn set_others(&self, others: bool) {
        let keep = if others { KEPT_BYTES } else { 0 };
        self.kept_for_others.store(keep, Ordering::Relaxed);
    }

    /// One more than the index of the last applied entry; 0 when none is.
    pub(crate) fn applied_next(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    pub(crate) fn set_applied(&self, next: u64) {
        self.applied.store(next, Ordering::Release);
        self.applied_grew.notify_waiters();
        let mut state = self.state.lock();
        let own = state.last.is_some_and(|last| last.leader_id.node_id == self.node);
        let keep = if own {
            self.kept_for_others.load(Ordering::Relaxed)
        } else {
            0
        };
        state.cache.applied(next, keep);
    }

    /// The first index that retention has left.
    pub(crate) fn first_retained(&self) -> u64 {
        next(self.state.lock().trimmed.as_ref())
    }

    /// Visits the stored entries of `[from, to)`, which must all exist, until `visit` breaks.
    pub(crate) fn scan(
        &self,
        from: u64,
        to: u64,
        mut visit: impl FnMut(entry::EntryView<'_>) -> Result<ControlFlow<()>, StorageError>,
    ) -> Result<(), StorageError> {
        let mut expected = from;
        let mut failed = None;
        let mut broken = false;
        let keys = (layout::log_key(self.group.0, from), layout::log_key(self.group.0, to));
        self.disk.scan(self.family, &keys.0, &keys.1, &mut |key, value| {
            let step = match layout::parse_log_key(key) {
                Some((_, index)) if index == expected => entry::decode(self.group, index, value).and_then(&mut visit),
                _ => Err(StorageError::Hole {
                    group: self.group.0,
                    index: expected,
                }),
            };
            expected += 1;
            match step {
                Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
                Ok(ControlFlow::Break(())) => {
                    broken = true;
                    ControlFlow::Break(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        match failed {
            Some(error) => Err(error),
            None if !broken && expected < to => Err(StorageError::Hole {
                group: self.group.0,
                index: expected,
            }),
            None => Ok(()),
        }
    }

    /// The entries of `[from, to)` that the log contains: at least one, and no more than `max_bytes`. Damage stops the
    /// node: the consensus engine would only stop the group.
    fn entries(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Entry>, StorageError> {
        let (from, to) = {
            let state = self.state.lock();
            let from = from.max(state.first);
            let to = to.min(next(state.last.as_ref()));
            if from >= to {
                return Ok(Vec::new());
            }
            if let Some(entries) = state.cache.get(from..to, max_bytes) {
                return Ok(entries);
            }
            (from, to)
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        self.scan(from, to, |view| {
            bytes += view.payload.len() + HEADER_BYTES;
            if bytes > max_bytes && !entries.is_empty() {
                return Ok(ControlFlow::Break(()));
            }
            entries.push(view.to_entry()?);
            Ok(ControlFlow::Continue(()))
        })
        .map_err(|error| self.fatal(error))?;
        Ok(entries)
    }

    /// The first index that the engine may read.
    fn first(&self) -> u64 {
        self.state.lock().first
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Reader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.shared.state.lock();
        Ok(LogState {
            last_purged_log_id: state.watermark(),
            last_log_id: state.last.max(state.watermark()),
        })
    }

    async fn get_log_reader(&mut self) -> Reader {
        Reader(self.shared.clone())
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.put(HardState::Vote, &persisted::encode_vote(vote))?;
        self.shared.state.lock().vote = Some(*vote);
        self.shared
            .flusher
            .synced()
            .await
            .map_err(|error| StorageError::clone(&error).into())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.batch.clear();
        {
            let mut state = self.shared.state.lock();
            for entry in entries {
                let (header, payload) = entry::encode(&entry);
                let key = layout::log_key(self.shared.group.0, entry.log_id.index);
                if next(state.last.as_ref()) <= state.first {
                    // The first entry of an empty log says where it begins.
                    state.first = entry.log_id.index;
                }
                self.batch.put_parts(self.shared.family, &key, &[&header, &payload]);
                state.last = Some(entry.log_id);
                state.cache.push(entry);
            }
        }
        self.shared.write(&self.batch)?;
        self.shared.flusher.submit(Box::new(move |result| {
            callback.io_completed(result.map_err(|error| StorageError::clone(&error).into()));
        }));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = next(last.as_ref());
        {
            let mut state = self.shared.state.lock();
            if from >= next(state.last.as_ref()) {
                return Ok(());
            }
            state.cache.truncate(from);
            state.last = last.max(state.watermark());
        }
        let mut batch = WriteBatch::new();
        batch.delete_range(
            self.shared.family,
            &layout::log_key(self.shared.group.0, from),
            &layout::log_end(self.shared.group.0),
        );
        self.shared.write(&batch)
    }

    async fn purge(&mut self, id: LogId) -> Result<(), io::Error> {
        self.put(HardState::Purged, &persisted::encode_watermark(&id))?;
        let mut state = self.shared.state.lock();
        state.purged = state.purged.max(Some(id));
        state.last = state.last.max(Some(id));
        state.first = state.first.max(id.index + 1);
        Ok(())
    }
}

/// openraft's view of a group's log.
pub(crate) struct Reader(Arc<Shared>);

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<Types> for Reader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = bounds(&range);
        Ok(self.0.entries(from, to, usize::MAX)?)
    }

    async fn limited_get_log_entries(&mut self, from: u64, to: u64) -> Result<Vec<Entry>, io::Error> {
        if from < self.0.first() {
            // Never return later entries instead of purged ones: the engine sends a snapshot as soon as it knows.
            return Ok(Vec::new());
        }
        Ok(self.0.entries(from, to, MAX_READ_BYTES)?)
    }

    // In chunks: after a crash the range is the whole log to be replayed.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut from, to) = bounds(&range);
        let shared = self.0.clone();
        let mut chunk = Vec::new().into_iter();
        stream::iter(std::iter::from_fn(move || {
            if let Some(entry) = chunk.next() {
                return Some(Ok(entry));
            }
            if from >= to {
                return None;
            }
            match shared.entries(from, to, MAX_READ_BYTES) {
                Ok(entries) => {
                    chunk = entries.into_iter();
                    let entry: Entry = chunk.next()?;
                    from = entry.log_id.index + 1 + chunk.len() as u64;
                    Some(Ok(entry))
                }
                Err(error) => {
                    from = to;
                    Some(Err(error.into()))
                }
            }
        }))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.state.lock().vote)
    }
}

#[cfg(test)]
mod tests;
