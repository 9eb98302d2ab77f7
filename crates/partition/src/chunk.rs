//! What a reader hands out: one entry, from a record on, with what apply gave it.

use bytes::Bytes;
use holdfast_model::{SequenceNumber, UnixMillis};

use crate::record::{Corrupt, RecordView, Records};
use crate::tail::Numbered;

/// An event with the three stamps that are not stored with it (foundations 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event<'a> {
    /// `x-opt-sequence-number`; as decimal text, `x-opt-offset`.
    pub sequence: SequenceNumber,
    /// `x-opt-enqueued-time`.
    pub enqueued: UnixMillis,
    /// The message as stored.
    pub record: RecordView<'a>,
}

/// The records of one log entry that a reader has yet to see; remembers how far it has been consumed, so that a consumer
/// whose credit runs out goes on later. Shares the entry's memory.
#[derive(Debug, Clone)]
pub struct Chunk {
    entry: Bytes,
    offset: usize,
    next: SequenceNumber,
    left: u32,
    enqueued: UnixMillis,
}

impl Chunk {
    /// The records of `entry` from `from` on.
    pub(crate) fn new(entry: &Numbered, from: SequenceNumber) -> Result<Self, Corrupt> {
        // The entry was checked as a whole when it was applied or read from disk.
        let mut records = Records::resume(&entry.bytes, 0);
        let skipped = u32::try_from(from.0.saturating_sub(entry.first.0))
            .unwrap_or(u32::MAX)
            .min(entry.records);
        records.skip_records(skipped)?;
        Ok(Self {
            offset: records.offset(),
            next: SequenceNumber(entry.first.0 + u64::from(skipped)),
            left: entry.records - skipped,
            enqueued: entry.enqueued,
            entry: entry.bytes.clone(),
        })
    }

    /// The number of the next event.
    #[must_use]
    pub fn next_sequence(&self) -> SequenceNumber {
        self.next
    }

    /// The time of all events of the chunk.
    #[must_use]
    pub fn enqueued(&self) -> UnixMillis {
        self.enqueued
    }

    /// Events that have not been consumed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.left as usize
    }

    /// Everything has been consumed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The log entry whose records these are.
    #[must_use]
    pub fn entry(&self) -> &Bytes {
        &self.entry
    }

    /// Consumes the next event. A damaged record is an error and consumed as well, so that what comes after keeps its
    /// number.
    pub fn next_event(&mut self) -> Option<Result<Event<'_>, Corrupt>> {
        let (offset, item) = advance(&self.entry, self.offset, self.next, self.left, self.enqueued)?;
        self.offset = offset;
        self.next = self.next.next();
        self.left -= 1;
        Some(item)
    }

    /// The events without consuming them.
    pub fn events(&self) -> impl Iterator<Item = Result<Event<'_>, Corrupt>> {
        let (mut offset, mut next, mut left) = (self.offset, self.next, self.left);
        std::iter::from_fn(move || {
            let (after, item) = advance(&self.entry, offset, next, left, self.enqueued)?;
            offset = after;
            next = next.next();
            left -= 1;
            Some(item)
        })
    }
}

fn advance(
    entry: &[u8],
    offset: usize,
    sequence: SequenceNumber,
    left: u32,
    enqueued: UnixMillis,
) -> Option<(usize, Result<Event<'_>, Corrupt>)> {
    if left == 0 {
        return None;
    }
    let mut records = Records::resume(entry, offset);
    // `Chunk::new` has counted the records.
    let item = records.next()?.map(|record| Event {
        sequence,
        enqueued,
        record,
    });
    Some((records.offset(), item))
}
