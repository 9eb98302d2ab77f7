//! One entry read in place: its header, and its records one after the other.

use holdfast_model::{Incarnation, NodeId, Term, UnixMillis};
use thiserror::Error;

use super::fields::entry;
use super::wire::{Corrupt, Cursor};
use super::{COMMAND_VERSION, Effect, Leadership, PartitionCommand, RecordView, StreamId, TELEMETRY_VERSION};

/// Why bytes cannot be used as an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Another version of Holdfast wrote it; guessing would make replicas diverge.
    #[error("the entry has version {0}; this version of Holdfast knows {COMMAND_VERSION}")]
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
    /// Its number within the stream, from 1; 0 when the owner wrote the entry and no stream counts it.
    pub batch_number: u64,
    /// The leadership in which the effects of the entry were computed; `None` without effects.
    pub owner: Option<Leadership>,
    /// The leader's proposal of the enqueued time; apply assigns the final one.
    pub proposed: UnixMillis,
    /// Records in the entry.
    pub records: u32,
}

impl EntryHeader {
    /// Whether the entry is counted within a stream. One without a stream is the owner's own.
    #[must_use]
    pub fn has_stream(&self) -> bool {
        self.batch_number != 0 || self.owner.is_none()
    }
}

/// A whole entry; borrows the bytes.
#[derive(Debug, Clone, Copy)]
pub struct EntryView<'a> {
    bytes: &'a [u8],
    header: EntryHeader,
    records_at: usize,
    /// The end of the entry when it has no effects.
    effects_at: usize,
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
                gateway_node: NodeId(0),
                incarnation: Incarnation(0),
                core: 0,
            },
            batch_number: 0,
            owner: None,
            proposed: UnixMillis(0),
            records: 0,
        };
        let (mut version, mut counted, mut records_at) = (0, 0_u32, bytes.len());
        let (mut effects_at, mut owner_term, mut owner_node) = (bytes.len(), 0, 0);
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
                entry::GATEWAY_NODE => header.stream.gateway_node = NodeId(cursor.fixed64()?),
                entry::INCARNATION => header.stream.incarnation = Incarnation(cursor.fixed64()?),
                entry::CORE => header.stream.core = cursor.fixed32()?,
                entry::BATCH_NUMBER => header.batch_number = cursor.fixed64()?,
                entry::ENQUEUED_TIME => header.proposed = UnixMillis(cursor.fixed64()?),
                entry::RECORD_COUNT => header.records = cursor.fixed32()?,
                entry::OWNER_TERM => owner_term = cursor.fixed64()?,
                entry::OWNER_NODE => owner_node = cursor.fixed64()?,
                entry::COMMAND => {
                    effects_at = effects_at.min(start);
                    cursor.bytes()?;
                }
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
        match version {
            // The fields of later versions mean nothing in it.
            TELEMETRY_VERSION => effects_at = bytes.len(),
            COMMAND_VERSION if owner_term == 0 => return Err(cursor.corrupt("the owner is missing").into()),
            COMMAND_VERSION => {
                header.owner = Some(Leadership {
                    term: Term(owner_term),
                    node: NodeId(owner_node),
                });
            }
            _ => return Err(EntryError::Version(version)),
        }
        if counted != header.records {
            return Err(cursor.corrupt("the records are not as many as the header says").into());
        }
        let view = Self {
            bytes,
            header,
            records_at,
            effects_at,
        };
        for effect in view.effects() {
            effect?;
        }
        Ok(view)
    }

    /// `false`: the entry has no effects. Reads the first field alone, so that most entries cost nothing.
    pub(crate) fn may_have_effects(bytes: &[u8]) -> bool {
        let mut cursor = Cursor::new(bytes);
        let is_versioned = cursor.tag().is_ok_and(|tag| tag == entry::VERSION);
        !(is_versioned && cursor.fixed32().is_ok_and(|version| version == TELEMETRY_VERSION))
    }

    /// The fixed part.
    #[must_use]
    pub fn header(&self) -> EntryHeader {
        self.header
    }

    /// The commands in the order in which they take effect: the records, if there are any, then the effects.
    pub fn commands(&self) -> impl Iterator<Item = PartitionCommand<'a>> {
        let telemetry = (self.header.records > 0).then(|| PartitionCommand::Telemetry(self.records()));
        // `parse` has read all effects: none is an error here.
        let effects = self.effects().map_while(Result::ok);
        telemetry.into_iter().chain(effects.map(PartitionCommand::Effect))
    }

    fn effects(&self) -> impl Iterator<Item = Result<Effect<'a>, Corrupt>> {
        let mut cursor = Cursor::at(self.bytes, self.effects_at);
        std::iter::from_fn(move || next_effect(&mut cursor).transpose())
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

/// The next command field; after an error there is nothing more.
fn next_effect<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Effect<'a>>, Corrupt> {
    while !cursor.is_at_end() {
        let tag = cursor.tag()?;
        if tag == entry::COMMAND {
            let bytes = cursor.bytes()?;
            let start = cursor.offset() - bytes.len();
            return Effect::decode(bytes).map(Some).map_err(|inner| Corrupt {
                offset: start + inner.offset,
                what: inner.what,
            });
        }
        cursor.skip(tag)?;
    }
    Ok(None)
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
