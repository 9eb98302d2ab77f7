//! A reader of a partition's events: from the entry cache at the end of the log, else from disk.
//!
//! Why numbers are computed again here: the log holds none. A reader starts at a point of the index, whose number it
//! knows, and counts from there, stepping over skipped entries as apply did.
//! Invariants: events come in order, none is left out and none is uncommitted; a reader below the begin of the log
//! continues at the oldest retained event. Each number that the index or the entry cache knows is compared; a
//! difference is an error, never a renumbering.
//! Memory of a reader: at most two reads of `partition.read_ahead`, each up to one entry more.
//! Not here: the right to read (`epoch`), the wire form of events (`service-api`).

mod disk;
mod position;

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use holdfast_model::{SequenceNumber, UnixMillis};
use holdfast_storage::StorageError;
use thiserror::Error;

use crate::log::chunk::Chunk;
use crate::log::entry_cache::CachedEntry;
use crate::log::record::EntryError;
use crate::shared::{LogSource, MAX_READERS, Shared};
use crate::state::IndexPoint;

use disk::Loaded;
pub use position::{Bound, StartPosition, UnknownPosition};

/// Why there is no reader at a position.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartError {
    /// `com.microsoft:argument-out-of-range`: the position is beyond the end.
    #[error("The supplied offset '{asked}' is invalid. The last offset in the system is '{}'", shown(*.last))]
    BeyondEnd {
        /// The requested position.
        asked: SequenceNumber,
        /// The newest event; `None` when there has been none, shown as `-1`.
        last: Option<SequenceNumber>,
    },
    /// All reader slots are taken.
    #[error("the partition has {MAX_READERS} readers, which is the most it serves")]
    TooManyReaders,
    /// The partition is shut down.
    #[error("the partition has stopped")]
    Stopped,
}

fn shown(last: Option<SequenceNumber>) -> String {
    last.map_or_else(|| "-1".to_owned(), |last| last.to_string())
}

/// Why a reader failed; it cannot be used afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The partition is shut down.
    #[error("the partition has stopped")]
    Stopped,
    /// The log cannot be read.
    #[error("the log of the partition cannot be read")]
    Storage(#[from] StorageError),
    /// An entry that apply counted cannot be decoded now.
    #[error("the log entry {log_index} cannot be read")]
    Entry {
        /// Where it is.
        log_index: u64,
        /// The reason.
        #[source]
        source: EntryError,
    },
    /// Counting from one known point to the next gave a different number: entries are missing in between.
    #[error("the log entry {log_index} should begin with event {expected}; counting gave {counted}")]
    Miscounted {
        /// The entry at which the difference was found.
        log_index: u64,
        /// The number that apply assigned.
        expected: SequenceNumber,
        /// The number counted by this reader.
        counted: SequenceNumber,
    },
}

/// Events to leave out after a start between two points of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaveOut {
    Nothing,
    /// Events before this number.
    Before(SequenceNumber),
    /// Events up to this time, inclusive.
    UpTo(UnixMillis),
}

/// A reader's position in the log. Dropping it frees its slot; a disk read in progress ends by itself.
pub struct Reader {
    shared: Arc<Shared>,
    log: Arc<dyn LogSource>,
    slot: usize,
    /// The next log entry behind those in `ahead`, its first number, and the time of the entry before it.
    cursor: IndexPoint,
    leave_out: LeaveOut,
    /// Entries fetched and not yet returned.
    ahead: VecDeque<CachedEntry>,
    ahead_bytes: usize,
    loading: Option<Pin<Box<dyn Future<Output = Loaded> + Send>>>,
}

impl Reader {
    pub(crate) fn start(shared: Arc<Shared>, log: Arc<dyn LogSource>, from: StartPosition) -> Result<Self, StartError> {
        let mut inner = shared.lock();
        if inner.stopped {
            return Err(StartError::Stopped);
        }
        let next = inner.state.next();
        let beyond = |asked| StartError::BeyondEnd {
            asked,
            last: next.0.checked_sub(1).map(SequenceNumber),
        };
        let (cursor, leave_out) = match from {
            StartPosition::Oldest => (inner.seek_sequence(inner.state.begin().sequence), LeaveOut::Nothing),
            StartPosition::Latest => (inner.end(), LeaveOut::Nothing),
            StartPosition::AtSequence(at) if at > next => return Err(beyond(at)),
            StartPosition::AtSequence(at) => (inner.seek_sequence(at), LeaveOut::Before(at)),
            StartPosition::AfterSequence(after) if after >= next => return Err(beyond(after)),
            StartPosition::AfterSequence(after) => (inner.seek_sequence(after.next()), LeaveOut::Before(after.next())),
            StartPosition::EnqueuedAfter(time) => (inner.seek_time(time), LeaveOut::UpTo(time)),
        };
        let slot = inner.add_reader(cursor.sequence).ok_or(StartError::TooManyReaders)?;
        drop(inner);
        Ok(Self {
            shared,
            log,
            slot,
            cursor,
            leave_out,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            loading: None,
        })
    }

    /// The number of the next event that this reader will return.
    #[must_use]
    pub fn position(&self) -> SequenceNumber {
        self.ahead.front().map_or(self.cursor.sequence, |entry| entry.first)
    }

    /// Waits for the next events. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`]; the reader cannot be used afterwards.
    pub async fn next(&mut self) -> Result<Chunk, ReadError> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The next events if they are in memory. Otherwise `cx` is woken when a retry may succeed: when events have been
    /// applied, or when a disk read that this call has started on the blocking pool has ended.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, ReadError>> {
        loop {
            if let Poll::Ready(loaded) = self.poll_loading(cx) {
                self.take_in(loaded)?;
            }
            if let Some(entry) = self.ahead.pop_front() {
                self.ahead_bytes -= entry.bytes.len();
                self.read_ahead(cx);
                if let Some(chunk) = self.chunk(&entry)? {
                    return Poll::Ready(Ok(chunk));
                }
            } else if self.loading.is_some() || !self.fetch(cx)? {
                return Poll::Pending;
            }
        }
    }

    /// The events of an entry that the start position does not leave out.
    fn chunk(&mut self, entry: &CachedEntry) -> Result<Option<Chunk>, ReadError> {
        let from = match self.leave_out {
            LeaveOut::Nothing => entry.first,
            LeaveOut::Before(first) if entry.end() <= first => return Ok(None),
            LeaveOut::Before(first) => first,
            LeaveOut::UpTo(time) if entry.enqueued <= time => return Ok(None),
            LeaveOut::UpTo(_) => entry.first,
        };
        self.leave_out = LeaveOut::Nothing;
        let chunk = Chunk::new(entry, from).map_err(|source| ReadError::Entry {
            log_index: entry.log_index,
            source: source.into(),
        })?;
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }

    /// Takes entries from the cache, or starts a disk read. `false`: nothing to do until `cx` is woken.
    fn fetch(&mut self, cx: &mut Context<'_>) -> Result<bool, ReadError> {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        if inner.stopped {
            return Err(ReadError::Stopped);
        }
        self.skip_to_begin(inner.state.begin());
        inner.set_position(self.slot, self.cursor.sequence);
        if self.cursor.log_index < inner.cache.from() {
            let end = inner.cache.from();
            drop(inner);
            self.start_loading(end);
            return Ok(true);
        }
        let limit = self.shared.config.read_ahead.as_usize();
        for entry in inner.cache.at(self.cursor.log_index) {
            check_number(entry.log_index, entry.first, self.cursor.sequence)?;
            self.cursor = behind(entry);
            self.ahead_bytes += entry.bytes.len();
            self.ahead.push_back(entry.clone());
            if self.ahead_bytes >= limit {
                break;
            }
        }
        if self.ahead.is_empty() {
            check_number(self.cursor.log_index, inner.state.next(), self.cursor.sequence)?;
            inner.set_waker(self.slot, cx.waker());
            return Ok(false);
        }
        Ok(true)
    }

    /// Moves to the begin of the log if retention has overtaken this reader.
    fn skip_to_begin(&mut self, begin: IndexPoint) {
        if self.cursor.log_index < begin.log_index {
            let missed = begin.sequence.0.saturating_sub(self.cursor.sequence.0);
            if missed > 0 {
                self.shared.metrics.missed_messages.increment(missed);
                tracing::info!(
                    partition = self.shared.id.0,
                    missed,
                    begin = begin.sequence.0,
                    "retention overtook a reader; it continues at the oldest event"
                );
            }
            self.cursor = begin;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.lock().remove_reader(self.slot);
    }
}

/// The point after an entry.
fn behind(entry: &CachedEntry) -> IndexPoint {
    IndexPoint {
        log_index: entry.log_index + 1,
        sequence: entry.end(),
        enqueued: entry.enqueued,
        log_bytes: 0,
    }
}

fn check_number(log_index: u64, expected: SequenceNumber, counted: SequenceNumber) -> Result<(), ReadError> {
    if expected == counted {
        Ok(())
    } else {
        Err(ReadError::Miscounted {
            log_index,
            expected,
            counted,
        })
    }
}
