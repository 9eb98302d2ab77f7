//! The unit that a reader returns: one entry, from a record on, with the numbers and the time that apply assigned.

use bytes::Bytes;
use holdfast_model::{SequenceNumber, UnixMillis};

use crate::log::entry_cache::CachedEntry;
use crate::log::record::{Corrupt, EntryError, EntryView, RecordView, Records};

/// A stored message with its sequence number and enqueued time, which apply assigns and the record does not contain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event<'a> {
    /// `x-opt-sequence-number`; as decimal text, `x-opt-offset`.
    pub sequence: SequenceNumber,
    /// `x-opt-enqueued-time`.
    pub enqueued: UnixMillis,
    /// The message as stored.
    pub record: RecordView<'a>,
}

/// The unread records of one log entry. It keeps its position, so that a consumer that runs out of credit continues later.
/// Shares the entry's memory.
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
    pub(crate) fn new(entry: &CachedEntry, from: SequenceNumber) -> Result<Self, Corrupt> {
        // Apply or the read from disk has checked the whole entry.
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

    /// The last `left` records of an entry that another node has read; the first of them has the number `next`. Checks
    /// the entry as a read from disk does.
    ///
    /// # Errors
    /// [`EntryError`]: it is no entry, or has fewer records.
    pub fn received(entry: Bytes, next: SequenceNumber, left: u32, enqueued: UnixMillis) -> Result<Self, EntryError> {
        let view = EntryView::parse(&entry)?;
        let records = view.header().records;
        let skipped = records.checked_sub(left).ok_or(Corrupt {
            offset: 0,
            what: "the entry has fewer records than were announced",
        })?;
        let mut rest = view.records();
        rest.skip_records(skipped)?;
        let offset = rest.offset();
        Ok(Self {
            offset,
            next,
            left,
            enqueued,
            entry,
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

    /// All events have been consumed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The log entry whose records these are.
    #[must_use]
    pub fn entry(&self) -> &Bytes {
        &self.entry
    }

    /// Consumes the next event. A damaged record is an error and is consumed as well, so that later events keep their
    /// numbers.
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

#[cfg(test)]
mod tests {
    use holdfast_model::{
        AuthMethod, AuthScope, AuthType, DeviceId, GenerationId, IdentityId, TelemetryMessage, UnixMillis,
    };

    use holdfast_model::{Incarnation, NodeId};

    use super::*;
    use crate::log::record::{BatchHeader, BatchWriter, Origin, StreamId};

    fn entry(records: u8) -> Bytes {
        let identity = IdentityId::device(DeviceId::parse("d").unwrap());
        let generation = GenerationId("1".into());
        let auth = AuthMethod {
            scope: AuthScope::Device,
            kind: AuthType::Sas,
        };
        let origin = Origin {
            identity: &identity,
            generation: &generation,
            auth,
            model_id: None,
        };
        let mut writer = BatchWriter::new();
        for number in 0..records {
            let message = TelemetryMessage {
                payload: &[number],
                ..TelemetryMessage::default()
            };
            writer.push(&origin, &message, UnixMillis(1)).unwrap();
        }
        let stream = StreamId {
            gateway_node: NodeId(1),
            incarnation: Incarnation(1),
            core: 0,
        };
        writer.close(BatchHeader {
            stream,
            batch_number: 1,
            enqueued: UnixMillis(1),
        })
    }

    #[test]
    fn a_chunk_received_from_another_node_equals_the_local_one() {
        let whole = entry(3);
        let mut chunk = Chunk::received(whole.clone(), SequenceNumber(11), 2, UnixMillis(9)).unwrap();
        let mut seen = Vec::new();
        while let Some(event) = chunk.next_event() {
            let event = event.unwrap();
            assert_eq!(event.enqueued, UnixMillis(9));
            seen.push((event.sequence.0, event.record.payload[0]));
        }
        assert_eq!(seen, [(11, 1), (12, 2)]);
        assert!(Chunk::received(whole.clone(), SequenceNumber(11), 4, UnixMillis(9)).is_err());
        assert!(Chunk::received(whole.slice(1..), SequenceNumber(11), 1, UnixMillis(9)).is_err());
    }
}
