//! The whole state as a stream of chunks, for a replica that cannot catch up from the log.
//!
//! Chunks: a head with the format's version; then records, ascending by key, many to a chunk; then an end with their
//! number. The first byte is the chunk's kind. Lengths are big-endian. The transport checks each chunk; this module checks
//! that together they are a state.
//! Invariants: one chunk is in memory on either side; the state is not touched before all chunks have been received and
//! are durable; the applied position is not among the records, it is the snapshot's own position.

use bytes::{Buf, Bytes};
use holdfast_consensus::transport::MAX_CHUNK_BYTES;
use holdfast_consensus::{SealedSnapshot, SnapshotSink};
use holdfast_storage::{Staging, StorageError, View};

use crate::state::layout;

const VERSION: u8 = 1;

const HEAD: u8 = b'H';
const RECORDS: u8 = b'R';
const END: u8 = b'E';

/// A chunk of records is sent at this size; the largest record fits after it.
const CHUNK_BYTES: usize = 512 << 10;

/// The longest key: two ids, a letter and the separator.
const MAX_KEY_BYTES: usize = 1024;

/// The longest record: twin content given with a create.
const MAX_VALUE_BYTES: usize = 256 << 10;

const _: () = assert!(CHUNK_BYTES + MAX_KEY_BYTES + MAX_VALUE_BYTES + 9 <= MAX_CHUNK_BYTES);

/// Reads a view as chunks.
pub(crate) struct Source {
    view: View,
    next: Next,
    records: u64,
}

enum Next {
    Head,
    Records,
    Nothing,
}

impl Source {
    pub(crate) fn new(view: View) -> Self {
        Self {
            view,
            next: Next::Head,
            records: 0,
        }
    }

    /// The next chunk; `None` after the end. Blocks on the disk.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Bytes>, StorageError> {
        match self.next {
            Next::Head => {
                self.next = Next::Records;
                Ok(Some(Bytes::from_static(&[HEAD, VERSION])))
            }
            Next::Records => {
                let chunk = self.records()?;
                if chunk.len() > 1 {
                    return Ok(Some(chunk.into()));
                }
                self.next = Next::Nothing;
                let mut end = vec![END];
                end.extend_from_slice(&self.records.to_be_bytes());
                Ok(Some(end.into()))
            }
            Next::Nothing => Ok(None),
        }
    }

    fn records(&mut self) -> Result<Vec<u8>, StorageError> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + MAX_VALUE_BYTES);
        chunk.push(RECORDS);
        while chunk.len() < CHUNK_BYTES {
            let Some((key, value)) = self.view.next()? else { break };
            if key == layout::APPLIED {
                continue;
            }
            let (Ok(key_len), Ok(value_len)) = (u16::try_from(key.len()), u32::try_from(value.len())) else {
                return Err(damaged("a record is longer than any record can be"));
            };
            if key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
                return Err(damaged("a record is longer than any record can be"));
            }
            push_record(&mut chunk, (key_len, key), (value_len, value));
            self.records += 1;
        }
        Ok(chunk)
    }
}

fn push_record(chunk: &mut Vec<u8>, (key_len, key): (u16, &[u8]), (value_len, value): (u32, &[u8])) {
    chunk.extend_from_slice(&key_len.to_be_bytes());
    chunk.extend_from_slice(&value_len.to_be_bytes());
    chunk.extend_from_slice(key);
    chunk.extend_from_slice(value);
}

/// Takes the next record off the front of a chunk's records.
fn take_record(chunk: &mut Bytes) -> Result<(Bytes, Bytes), StorageError> {
    let cut = || damaged("a record is cut off");
    let key_len = usize::from(chunk.try_get_u16().map_err(|_| cut())?);
    let value_len = chunk.try_get_u32().map_err(|_| cut())? as usize;
    if key_len > MAX_KEY_BYTES || value_len > MAX_VALUE_BYTES || chunk.len() < key_len + value_len {
        return Err(cut());
    }
    let key = chunk.split_to(key_len);
    let value = chunk.split_to(value_len);
    if !layout::is_ours(&key) || *key == *layout::APPLIED {
        return Err(damaged("a key is none of the registry's"));
    }
    Ok((key, value))
}

/// A chunk taken apart, for a backup.
pub(crate) enum Chunk {
    Head,
    Records(Vec<(Bytes, Bytes)>),
    /// The number of records.
    End(u64),
}

impl Chunk {
    pub(crate) fn decode(mut chunk: Bytes) -> Result<Self, StorageError> {
        let kind = chunk.try_get_u8().map_err(|_| damaged("a chunk is empty"))?;
        match kind {
            HEAD if *chunk == [VERSION] => Ok(Self::Head),
            HEAD => Err(damaged("it was made by a version that this one does not know")),
            RECORDS => {
                let mut records = Vec::new();
                while chunk.has_remaining() {
                    records.push(take_record(&mut chunk)?);
                }
                Ok(Self::Records(records))
            }
            END => match chunk.try_get_u64() {
                Ok(records) if !chunk.has_remaining() => Ok(Self::End(records)),
                _ => Err(damaged("its end is cut off")),
            },
            _ => Err(damaged("a chunk is of an unknown kind")),
        }
    }
}

/// Puts records together to chunks.
#[derive(Default)]
pub(crate) struct ChunkWriter {
    open: Vec<u8>,
    records: u64,
}

impl ChunkWriter {
    pub(crate) fn head() -> Bytes {
        Bytes::from_static(&[HEAD, VERSION])
    }

    /// Adds a record; gives a chunk when one is full.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let (Ok(key_len), Ok(value_len)) = (u16::try_from(key.len()), u32::try_from(value.len())) else {
            return Err(damaged("a record is longer than any record can be"));
        };
        if key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
            return Err(damaged("a record is longer than any record can be"));
        }
        if self.open.is_empty() {
            self.open.push(RECORDS);
        }
        push_record(&mut self.open, (key_len, key), (value_len, value));
        self.records += 1;
        Ok((self.open.len() >= CHUNK_BYTES).then(|| std::mem::take(&mut self.open).into()))
    }

    /// The last chunks.
    pub(crate) fn end(self) -> impl Iterator<Item = Bytes> {
        let mut end = vec![END];
        end.extend_from_slice(&self.records.to_be_bytes());
        let rest = Some(self.open).filter(|rest| !rest.is_empty());
        rest.into_iter().chain([end]).map(Bytes::from)
    }
}

/// Writes chunks into the staging area.
pub(crate) struct Sink {
    staging: Staging,
    headed: bool,
    ended: bool,
    records: u64,
}

impl Sink {
    pub(crate) fn new(staging: Staging) -> Self {
        Self {
            staging,
            headed: false,
            ended: false,
            records: 0,
        }
    }

    fn take_records(&mut self, mut chunk: Bytes) -> Result<(), StorageError> {
        while chunk.has_remaining() {
            let (key, value) = take_record(&mut chunk)?;
            // Refuses keys that do not ascend.
            self.staging.put(&key, &value)?;
            self.records += 1;
        }
        Ok(())
    }
}

impl SnapshotSink for Sink {
    fn write(&mut self, mut chunk: Bytes) -> Result<(), StorageError> {
        if self.ended || !chunk.has_remaining() {
            return Err(damaged("something comes after its end"));
        }
        match (chunk.get_u8(), self.headed) {
            (HEAD, false) if *chunk == [VERSION] => {
                self.headed = true;
                Ok(())
            }
            (HEAD, false) => Err(damaged("it was made by a version that this one does not know")),
            (RECORDS, true) => self.take_records(chunk),
            (END, true) => {
                if chunk.try_get_u64() != Ok(self.records) || chunk.has_remaining() {
                    return Err(damaged("records are missing"));
                }
                self.ended = true;
                Ok(())
            }
            _ => Err(damaged("a chunk is out of order")),
        }
    }

    fn seal(self: Box<Self>) -> Result<SealedSnapshot, StorageError> {
        if !self.ended {
            return Err(damaged("its end is missing"));
        }
        Ok(Box::new(self.staging.seal()?))
    }
}

fn damaged(reason: &str) -> StorageError {
    StorageError::Damaged {
        file: "snapshot of the registry".to_owned(),
        offset: None,
        reason: reason.to_owned(),
    }
}
