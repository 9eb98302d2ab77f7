//! Objects: the contents of a backup, named by their SHA-256.
//!
//! ```text
//! object    "HFB" │ version 1 │ kind 1 │ group 4 │ items …          numbers are big-endian
//! record    length of key 2 │ length of value 4 │ key │ value       kinds 1 (registry) and 3 (device state)
//! state     kind of part 1 │ length 4 │ part                        kind 2
//! entry     length 4 │ entry as stored                              kind 4 (log)
//! ```
//!
//! Why records are cut by their keys: a block ends after a key whose checksum says so, so that a change of a few records
//! changes a few blocks, and the others are those of the backup before.
//! Invariants: an object is at most [`MAX_OBJECT_BYTES`] and one item long; what is read has the hash of its name.

use aws_lc_rs::digest;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use data_encoding::HEXLOWER;
use holdfast_consensus::GroupId;

use crate::error::BackupError;
use crate::manifest::ObjectRef;

const MAGIC: &[u8; 3] = b"HFB";
const VERSION: u8 = 1;
pub(crate) const HEADER_BYTES: usize = 9;

/// A block of records is at least this long, unless it is the last.
const MIN_BLOCK_BYTES: usize = 512 << 10;
/// A block of records ends behind this many bytes whatever its keys are.
const MAX_BLOCK_BYTES: usize = 8 << 20;
/// One key in so many ends a block that is long enough.
const CUT_MASK: u32 = 0x3ff;
/// A segment of a log ends behind this many bytes.
pub(crate) const SEGMENT_BYTES: usize = 32 << 20;
/// Longer than any object: a segment and the longest entry.
pub(crate) const MAX_OBJECT_BYTES: u64 = 64 << 20;

/// The kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Registry = 1,
    State = 2,
    DeviceStates = 3,
    Log = 4,
}

/// Kinds of parts in [`Kind::State`].
pub(crate) const HEAD: u8 = 1;
pub(crate) const POINTS: u8 = 2;
pub(crate) const SKIPPED: u8 = 3;

/// The folder of objects.
pub(crate) const FOLDER: &str = "objects";

/// The name under which an object lies.
pub(crate) fn name(sha256: &str) -> String {
    format!("{FOLDER}/{}/{sha256}", sha256.get(..2).unwrap_or_default())
}

pub(crate) fn sha256(content: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, content).as_ref())
}

/// An object being filled.
pub(crate) struct ObjectWriter {
    kind: Kind,
    group: GroupId,
    open: BytesMut,
    items: u64,
}

impl ObjectWriter {
    pub(crate) fn new(kind: Kind, group: GroupId) -> Self {
        Self {
            kind,
            group,
            open: BytesMut::new(),
            items: 0,
        }
    }

    /// Fills an empty buffer, where the next object begins.
    pub(crate) fn fill_with(&mut self, buffer: impl FnOnce() -> BytesMut) {
        if self.open.capacity() == 0 {
            self.open = buffer();
        }
    }

    fn begin(&mut self) {
        if self.open.is_empty() {
            self.open.put_slice(MAGIC);
            self.open.put_u8(VERSION);
            self.open.put_u8(self.kind as u8);
            self.open.put_u32(self.group.0);
        }
        self.items += 1;
    }

    /// Adds a record; gives the object when it is full.
    pub(crate) fn push_record(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Bytes>, BackupError> {
        let (Ok(key_length), Ok(value_length)) = (u16::try_from(key.len()), u32::try_from(value.len())) else {
            return Err(BackupError::damaged(
                self.group.to_string(),
                "a record is longer than any record",
            ));
        };
        self.begin();
        self.open.put_u16(key_length);
        self.open.put_u32(value_length);
        self.open.put_slice(key);
        self.open.put_slice(value);
        let ends = self.open.len() >= MIN_BLOCK_BYTES && crc32c::crc32c(key) & CUT_MASK == 0;
        Ok((ends || self.open.len() >= MAX_BLOCK_BYTES).then(|| self.take()))
    }

    /// Adds an opaque part of a partition's state.
    pub(crate) fn push_part(&mut self, kind: u8, part: &[u8]) {
        self.begin();
        self.open.put_u8(kind);
        self.open.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
        self.open.put_slice(part);
    }

    /// Adds an entry with its length in front; gives the object when it is full.
    pub(crate) fn push_entry(&mut self, entry: &[u8]) -> Option<Bytes> {
        self.begin();
        self.open.put_slice(entry);
        (self.open.len() >= SEGMENT_BYTES).then(|| self.take())
    }

    /// The last object; `None`: there is nothing since the one before.
    pub(crate) fn finish(&mut self) -> Option<Bytes> {
        (!self.open.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.open).freeze()
    }
}

/// Checks hash and header of an object, and gives its items.
pub(crate) fn open(reference: &ObjectRef, content: Bytes, kind: Kind, group: GroupId) -> Result<Bytes, BackupError> {
    let damaged = |reason: &str| BackupError::damaged(name(&reference.sha256), reason);
    if content.len() as u64 != reference.bytes {
        return Err(damaged(&format!(
            "it has {} bytes, and had {}",
            content.len(),
            reference.bytes
        )));
    }
    if sha256(&content) != reference.sha256 {
        return Err(damaged("its content does not have the SHA-256 of its name"));
    }
    let mut items = content;
    if items.len() < HEADER_BYTES {
        return Err(damaged("it is shorter than its header"));
    }
    let header = items.split_to(HEADER_BYTES);
    if header[..3] != *MAGIC || header[3] != VERSION {
        return Err(damaged("it is of no version that this one knows"));
    }
    if header[4] != kind as u8 || header[5..] != group.0.to_be_bytes() {
        return Err(damaged("it is of another part than the manifest says"));
    }
    Ok(items)
}

/// Takes the next record off the front.
pub(crate) fn take_record(items: &mut Bytes) -> Result<Option<(Bytes, Bytes)>, &'static str> {
    if items.is_empty() {
        return Ok(None);
    }
    let cut = "a record is cut off";
    let key_length = usize::from(items.try_get_u16().map_err(|_| cut)?);
    let value_length = items.try_get_u32().map_err(|_| cut)? as usize;
    if items.len() < key_length.saturating_add(value_length) {
        return Err(cut);
    }
    let key = items.split_to(key_length);
    Ok(Some((key, items.split_to(value_length))))
}

/// Takes the next part of a state off the front.
pub(crate) fn take_part(items: &mut Bytes) -> Result<Option<(u8, Bytes)>, &'static str> {
    if items.is_empty() {
        return Ok(None);
    }
    let cut = "a part is cut off";
    let kind = items.try_get_u8().map_err(|_| cut)?;
    let length = items.try_get_u32().map_err(|_| cut)? as usize;
    if items.len() < length {
        return Err(cut);
    }
    Ok(Some((kind, items.split_to(length))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(3);

    fn reference(content: &Bytes) -> ObjectRef {
        ObjectRef {
            sha256: sha256(content),
            bytes: content.len() as u64,
        }
    }

    fn blocks(records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Vec<Bytes> {
        let mut writer = ObjectWriter::new(Kind::DeviceStates, GROUP);
        let mut blocks = Vec::new();
        for (key, value) in records {
            blocks.extend(writer.push_record(&key, &value).unwrap());
        }
        blocks.extend(writer.finish());
        blocks
    }

    fn records(count: u32) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        (0..count).map(|number| (format!("device-{number:08}").into_bytes(), vec![7; 200]))
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let mut read = Vec::new();
        for block in blocks(records(9_000)) {
            let mut items = open(&reference(&block), block, Kind::DeviceStates, GROUP).unwrap();
            while let Some((key, value)) = take_record(&mut items).unwrap() {
                read.push((key.to_vec(), value.to_vec()));
            }
        }
        assert!(read.into_iter().eq(records(9_000)));
    }

    #[test]
    fn a_changed_record_changes_one_block() {
        let before = blocks(records(30_000));
        let changed = records(30_000).map(|(key, value)| {
            let value = if key == b"device-00015000" { vec![9; 250] } else { value };
            (key, value)
        });
        let after = blocks(changed);
        let new = after.iter().filter(|block| !before.contains(block)).count();
        assert!(before.len() > 5, "{} blocks", before.len());
        assert_eq!(new, 1);
    }

    #[test]
    fn a_changed_byte_another_kind_and_another_group_are_refused() {
        let block = blocks(records(10)).remove(0);
        let good = reference(&block);
        for at in 0..block.len() {
            let mut changed = block.to_vec();
            changed[at] ^= 4;
            assert!(
                open(&good, changed.into(), Kind::DeviceStates, GROUP).is_err(),
                "byte {at}"
            );
        }
        assert!(open(&good, block.slice(..block.len() - 1), Kind::DeviceStates, GROUP).is_err());
        assert!(open(&good, block.clone(), Kind::Registry, GROUP).is_err());
        assert!(open(&good, block, Kind::DeviceStates, GroupId(4)).is_err());
    }
}
