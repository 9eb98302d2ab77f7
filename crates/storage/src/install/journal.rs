//! The journal record of an installation, from which a start after a crash finishes it.
//!
//! ```text
//! crc32c of the rest · version 1 · family · group · id · number of files · files · number of changes · changes
//! file:   name · length · crc32c        change: family · kind (1 put, 2 delete, 3 delete range) · two byte strings
//! ```
//! Numbers are big-endian; a byte string is its length in four bytes and the bytes.

use crate::layout::GroupNumber;
use crate::{Family, FileSum, Op, StorageError, WriteBatch};

const VERSION: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotedFile {
    pub(super) name: String,
    pub(super) sum: FileSum,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct JournalRecord {
    pub(super) id: String,
    pub(super) family: Family,
    pub(super) group: GroupNumber,
    /// In the order of ingestion.
    pub(super) files: Vec<NotedFile>,
    pub(super) then: WriteBatch,
}

impl JournalRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.push(VERSION);
        out.push(number_of(self.family));
        out.extend_from_slice(&self.group.to_be_bytes());
        put_string(&mut out, self.id.as_bytes());
        put_count(&mut out, self.files.len());
        for file in &self.files {
            put_string(&mut out, file.name.as_bytes());
            out.extend_from_slice(&file.sum.bytes.to_be_bytes());
            out.extend_from_slice(&file.sum.crc32c.to_be_bytes());
        }
        put_count(&mut out, self.then.len());
        for (family, op) in self.then.iter() {
            let (kind, first, second) = match op {
                Op::Put { key, value } => (1, key, value),
                Op::Delete { key } => (2, key, &[][..]),
                Op::DeleteRange { from, to } => (3, from, to),
            };
            out.push(number_of(family));
            out.push(kind);
            put_string(&mut out, first);
            put_string(&mut out, second);
        }
        let sum = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&sum.to_be_bytes());
        out
    }

    pub(super) fn decode(name: &str, content: &[u8]) -> Result<Self, StorageError> {
        let damaged = |reason: &str| StorageError::Damaged {
            file: name.to_owned(),
            offset: None,
            reason: reason.to_owned(),
        };
        let (sum, rest) = content
            .split_first_chunk::<4>()
            .ok_or_else(|| damaged("the journal record of an installation is cut off"))?;
        if u32::from_be_bytes(*sum) != crc32c::crc32c(rest) {
            return Err(damaged(
                "the journal record of an installation does not match its checksum",
            ));
        }
        let mut input = Input(rest);
        if input.byte() != Some(VERSION) {
            return Err(damaged(
                "the journal record of an installation was written by a newer version",
            ));
        }
        input
            .record()
            .ok_or_else(|| damaged("the journal record of an installation cannot be read"))
    }
}

fn number_of(family: Family) -> u8 {
    match family {
        Family::Log => 1,
        Family::Raft => 2,
        Family::Registry => 3,
        Family::Device => 4,
        Family::DeviceState => 5,
        Family::ValueIndex => 6,
        Family::Blob => 7,
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn count(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn length(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.count()?).ok()?;
        self.take(count)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.string()?.to_vec()).ok()
    }

    fn family(&mut self) -> Option<Family> {
        let number = self.byte()?;
        Family::ALL.into_iter().find(|family| number_of(*family) == number)
    }

    fn record(&mut self) -> Option<JournalRecord> {
        let family = self.family()?;
        let group = self.count()?;
        let id = self.text()?;
        let mut files = Vec::new();
        for _ in 0..self.count()? {
            let name = self.text()?;
            let sum = FileSum {
                bytes: self.length()?,
                crc32c: self.count()?,
            };
            files.push(NotedFile { name, sum });
        }
        let mut then = WriteBatch::new();
        for _ in 0..self.count()? {
            let family = self.family()?;
            let kind = self.byte()?;
            let (first, second) = (self.string()?, self.string()?);
            match kind {
                1 => then.put(family, first, second),
                2 => then.delete(family, first),
                3 => then.delete_range(family, first, second),
                _ => return None,
            }
        }
        self.0.is_empty().then_some(JournalRecord {
            id,
            family,
            group,
            files,
            then,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> JournalRecord {
        let mut then = WriteBatch::new();
        then.put(Family::Device, b"key", b"value");
        then.delete(Family::Raft, b"gone");
        then.delete_range(Family::Device, b"a", b"b");
        JournalRecord {
            id: "group-7-1".to_owned(),
            family: Family::Log,
            group: 7,
            files: vec![NotedFile {
                name: "group-7-1-0".to_owned(),
                sum: FileSum { bytes: 9, crc32c: 5 },
            }],
            then,
        }
    }

    #[test]
    fn a_journal_record_decodes_to_what_was_encoded() {
        let bytes = record().encode();
        let read = JournalRecord::decode("n", &bytes).unwrap();
        assert_eq!(read.encode(), bytes);
        assert_eq!((read.id, read.group, read.files), (record().id, 7, record().files));
        assert_eq!(read.then.iter().count(), 3);
    }

    #[test]
    fn a_changed_bit_or_a_missing_end_is_seen() {
        let bytes = record().encode();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(JournalRecord::decode("n", &changed).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(JournalRecord::decode("n", &bytes[..length]).is_err(), "cut to {length}");
        }
    }
}
