//! Reading a partition's events from a position on: from memory at the end of the log, else from disk.
//!
//! Why numbers are worked out again here: the log holds none (foundations 2). A reader starts at a point of the index,
//! whose number it knows, and counts from there, stepping over void entries as apply did.
//! Invariants: events come in order, none is skipped and none is uncommitted; what retention removes is never half
//! served: a reader below the begin of the log goes on at the oldest retained event. Wherever a number can be checked
//! against the index or the tail it is; a difference is an error, never a renumbering.
//! Memory of a reader: at most two reads of `partition.read_ahead`, each up to one entry more.
//! Not here: who may read (`epoch`), how events look on the wire (`service-api`).

mod disk;
mod position;

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

use crate::chunk::Chunk;
use crate::record::EntryError;
use crate::shared::{LogSource, MAX_READERS, Shared};
use crate::state::IndexPoint;
use crate::tail::Numbered;

use disk::Loaded;
pub use position::{Bound, StartPosition, UnknownPosition};

/// Why there is no reader at a position.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartError {
    /// `com.microsoft:argument-out-of-range`: the position is beyond the end.
    #[error("The supplied offset '{asked}' is invalid. The last offset in the system is '{}'", shown(*.last))]
    BeyondEnd {
        /// What was asked for.
        asked: SequenceNumber,
        /// The newest event; `None` when there has been none, shown as `-1`.
        last: Option<SequenceNumber>,
    },
    /// All places for readers are taken.
    #[error("the partition has {MAX_READERS} readers, which is the most it serves")]
    TooManyReaders,
    /// The partition is shut down.
    #[error("the partition has stopped")]
    Stopped,
}

fn shown(last: Option<SequenceNumber>) -> String {
    last.map_or_else(|| "-1".to_owned(), |last| last.to_string())
}

/// Why a reader cannot go on; it is of no use afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The partition is shut down.
    #[error("the partition has stopped")]
    Stopped,
    /// The log cannot be read.
    #[error("the log of the partition cannot be read")]
    Storage(#[from] StorageError),
    /// An entry that was counted when it was applied is no entry now.
    #[error("the log entry {log_index} cannot be read")]
    Entry {
        /// Where it is.
        log_index: u64,
        /// What is wrong with it.
        #[source]
        source: EntryError,
    },
    /// Counting from one known point to the next gave another number: entries are missing in between.
    #[error("the log entry {log_index} should begin with event {expected}; counting gave {counted}")]
    Miscounted {
        /// Where it was noticed.
        log_index: u64,
        /// The number known from apply.
        expected: SequenceNumber,
        /// The number counted by this reader.
        counted: SequenceNumber,
    },
}

/// What is still to be left out after a start in the middle of what a point of the index stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeaveOut {
    Nothing,
    /// Events before this number.
    Before(SequenceNumber),
    /// Events up to this time, inclusive.
    UpTo(UnixMillis),
}

/// One reader's way through the log. Dropping it gives its place back; a read under way ends by itself.
pub struct Reader {
    shared: Arc<Shared>,
    log: Arc<dyn LogSource>,
    slot: usize,
    /// The next log entry to be looked at, beyond those in `ahead`; its number and the time of the entry before it.
    cursor: IndexPoint,
    leave_out: LeaveOut,
    /// Entries that were fetched and not handed out.
    ahead: VecDeque<Numbered>,
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

    /// The number of the next event that this reader will look at.
    #[must_use]
    pub fn position(&self) -> SequenceNumber {
        self.ahead.front().map_or(self.cursor.sequence, |entry| entry.first)
    }

    /// The next events, once there are any. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`]; the reader is of no use afterwards.
    pub async fn next(&mut self) -> Result<Chunk, ReadError> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The next events if they are in memory. Otherwise `cx` is woken when it is worth asking again: events have been
    /// applied, or a read from disk, which this call has started on the blocking pool, has ended.
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
    fn chunk(&mut self, entry: &Numbered) -> Result<Option<Chunk>, ReadError> {
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

    /// Gets entries from the tail, or starts a read. `false`: there is nothing to do until `cx` is woken.
    fn fetch(&mut self, cx: &mut Context<'_>) -> Result<bool, ReadError> {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        if inner.stopped {
            return Err(ReadError::Stopped);
        }
        self.skip_to_begin(inner.state.begin());
        inner.set_position(self.slot, self.cursor.sequence);
        if self.cursor.log_index < inner.tail.from() {
            let end = inner.tail.from();
            drop(inner);
            self.start_loading(end);
            return Ok(true);
        }
        let limit = self.shared.config.read_ahead.as_usize();
        for entry in inner.tail.at(self.cursor.log_index) {
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

    /// Retention may have overtaken this reader.
    fn skip_to_begin(&mut self, begin: IndexPoint) {
        if self.cursor.log_index < begin.log_index {
            let missed = begin.sequence.0.saturating_sub(self.cursor.sequence.0);
            if missed > 0 {
                self.shared.metrics.missed_messages.increment(missed);
                tracing::info!(
                    partition = self.shared.id.0,
                    missed,
                    begin = begin.sequence.0,
                    "a reader was overtaken by retention"
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

/// The place after an entry.
fn behind(entry: &Numbered) -> IndexPoint {
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
