//! One entry read in place: its header, and its records one after the other.

use holdfast_model::UnixMillis;
use thiserror::Error;

use super::fields::entry;
use super::wire::{Corrupt, Cursor};
use super::{ENTRY_VERSION, RecordView, StreamId};

/// Why bytes cannot be used as an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Another version of Holdfast wrote it; guessing would make replicas diverge.
    #[error("the entry has version {0}; this version of Holdfast knows {ENTRY_VERSION}")]
    Version(u32),
    /// The bytes are damaged.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// The fixed part of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// The stream that the batch belongs to.
    pub stream: StreamId,
    /// Its number within the stream, from 1.
    pub batch_number: u64,
    /// What the leader proposed; the enqueued time proper is given in apply.
    pub proposed: UnixMillis,
    /// Records in the entry.
    pub records: u32,
}

/// A whole entry; borrows the bytes.
#[derive(Debug, Clone, Copy)]
pub struct EntryView<'a> {
    bytes: &'a [u8],
    header: EntryHeader,
    records_at: usize,
}

impl<'a> EntryView<'a> {
    /// Reads the header and steps over the records, without looking into them: their count and lengths are right
    /// afterwards, their content is checked by [`Records::next`].
    ///
    /// # Errors
    /// [`EntryError`]; a version other than ours, or damage.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EntryError> {
        let mut header = EntryHeader {
            stream: StreamId {
                gateway_node: 0,
                incarnation: 0,
                core: 0,
            },
            batch_number: 0,
            proposed: UnixMillis(0),
            records: 0,
        };
        let (mut version, mut counted, mut records_at) = (0, 0_u32, bytes.len());
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_at_end() {
            let start = cursor.offset();
            match cursor.tag()? {
                entry::RECORD => {
                    if counted == 0 {
                        records_at = start;
                    }
                    counted = counted
                        .checked_add(1)
                        .ok_or_else(|| cursor.corrupt("too many records"))?;
                    cursor.bytes()?;
                }
                entry::VERSION => version = cursor.fixed32()?,
                entry::GATEWAY_NODE => header.stream.gateway_node = cursor.fixed64()?,
                entry::INCARNATION => header.stream.incarnation = cursor.fixed64()?,
                entry::CORE => header.stream.core = cursor.fixed32()?,
                entry::BATCH_NUMBER => header.batch_number = cursor.fixed64()?,
                entry::ENQUEUED_TIME => header.proposed = UnixMillis(cursor.fixed64()?),
                entry::RECORD_COUNT => header.records = cursor.fixed32()?,
                other => cursor.skip(other)?,
            }
        }
        if version == 0 {
            return Err(Corrupt {
                offset: 0,
                what: "the version is missing",
            }
            .into());
        }
        if version != ENTRY_VERSION {
            return Err(EntryError::Version(version));
        }
        if counted != header.records {
            return Err(cursor.corrupt("the records are not as many as the header says").into());
        }
        Ok(Self {
            bytes,
            header,
            records_at,
        })
    }

    /// The fixed part.
    #[must_use]
    pub fn header(&self) -> EntryHeader {
        self.header
    }

    /// All records, from the first.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records {
            bytes: self.bytes,
            offset: self.records_at,
        }
    }
}

/// The records of an entry in order. Copy it, or remember [`Self::offset`], to continue later.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Records<'a> {
    /// Continues in the entry `bytes` at an offset that [`Self::offset`] gave.
    #[must_use]
    pub fn resume(bytes: &'a [u8], offset: usize) -> Self {
        Self {
            bytes,
            offset: offset.min(bytes.len()),
        }
    }

    /// Bytes from the start of the entry to the next record.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Steps over `count` records without looking into them; stops at the end.
    ///
    /// # Errors
    /// [`Corrupt`], as [`Self::next`] would give it.
    pub fn skip_records(&mut self, count: u32) -> Result<(), Corrupt> {
        for _ in 0..count {
            if self.next_bytes()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// The bytes of the next record and where they lie.
    fn next_bytes(&mut self) -> Result<Option<(usize, &'a [u8])>, Corrupt> {
        let mut cursor = Cursor::at(self.bytes, self.offset);
        while !cursor.is_at_end() {
            let tag = cursor.tag()?;
            if tag == entry::RECORD {
                let record = cursor.bytes()?;
                self.offset = cursor.offset();
                return Ok(Some((self.offset - record.len(), record)));
            }
            cursor.skip(tag)?;
        }
        self.offset = cursor.offset();
        Ok(None)
    }

    fn parse_next(&mut self) -> Result<Option<RecordView<'a>>, Corrupt> {
        let Some((start, bytes)) = self.next_bytes()? else {
            return Ok(None);
        };
        RecordView::parse(bytes).map(Some).map_err(|inner| Corrupt {
            offset: start + inner.offset,
            what: inner.what,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, Corrupt>;

    /// A record with damaged content is an error, and the one after it can still be read; after damage that hides where
    /// the next record begins, there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        let before = self.offset;
        let item = self.parse_next().transpose();
        if matches!(item, Some(Err(_))) && self.offset == before {
            self.offset = self.bytes.len();
        }
        item
    }
}
