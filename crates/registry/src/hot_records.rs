//! Records that almost every command reads, in the memory of the machine that applies the commands.
//!
//! Why: each command reads the counters, most read the settings, and a registration reads its enrollment group. On disk, a look-up searches
//! the tables of a registry that may hold millions of records; these are few, and seldom change.
//! Invariants: a record here is the one on disk, since only the machine writes the family: it passes on what it has written, and forgets all
//! when a snapshot replaces the state. The records are at most [`MAX_BYTES`] long in total.
//! Not here: identities in the form that credential checks need (`cache`), and what readers need in memory (`local`).

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;
use holdfast_storage::{StorageError, Visit};

use crate::state::{Base, layout};

/// Keys and values together; 10,000 enrollment groups need about 5 MB.
const MAX_BYTES: usize = 16 << 20;

/// The records.
#[derive(Default)]
pub(crate) struct HotRecords {
    kept: RefCell<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By key; `None`: the disk has none.
    records: HashMap<Vec<u8>, Option<Bytes>>,
    bytes: usize,
}

impl HotRecords {
    /// The state on `disk`, of which these records are read from memory.
    pub(crate) fn over<'a, B: Base>(&'a self, disk: &'a B) -> Hot<'a, B> {
        Hot { records: self, disk }
    }

    /// Takes over what has been written to the disk; `None` = deleted.
    pub(crate) fn written(&mut self, writes: impl IntoIterator<Item = (Vec<u8>, Option<Bytes>)>) {
        let kept = self.kept.get_mut();
        for (key, value) in writes {
            if layout::is_hot(&key) {
                kept.put(key, value);
            }
        }
    }

    /// Forgets all records: the state on disk is another one.
    pub(crate) fn clear(&mut self) {
        *self.kept.get_mut() = Kept::default();
    }
}

impl Kept {
    fn put(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        let length = |key: &[u8], value: &Option<Bytes>| key.len() + value.as_ref().map_or(0, Bytes::len);
        if let Some(old) = self.records.remove(&key) {
            self.bytes -= length(&key, &old);
        }
        let more = length(&key, &value);
        if more > MAX_BYTES {
            return;
        }
        // They are read again one by one as commands need them.
        if self.bytes + more > MAX_BYTES {
            *self = Self::default();
        }
        self.bytes += more;
        self.records.insert(key, value);
    }
}

/// A state on disk with its [`HotRecords`].
pub(crate) struct Hot<'a, B> {
    records: &'a HotRecords,
    disk: &'a B,
}

impl<B: Base> Base for Hot<'_, B> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        if !layout::is_hot(key) {
            return self.disk.get(key);
        }
        if let Some(known) = self.records.kept.borrow().records.get(key) {
            return Ok(known.clone());
        }
        let value = self.disk.get(key)?;
        self.records.kept.borrow_mut().put(key.to_vec(), value.clone());
        Ok(value)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        self.disk.scan(from, to, visit)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A disk that counts its look-ups; every key has the value `value`.
    struct Counting {
        value: Bytes,
        reads: Cell<u32>,
    }

    impl Base for Counting {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, StorageError> {
            self.reads.set(self.reads.get() + 1);
            Ok(Some(self.value.clone()))
        }

        fn scan(&self, _: &[u8], _: &[u8], _: &mut Visit<'_>) -> Result<(), StorageError> {
            Ok(())
        }
    }

    fn disk(value: Vec<u8>) -> Counting {
        Counting {
            value: value.into(),
            reads: Cell::new(0),
        }
    }

    #[test]
    fn a_hot_record_is_read_once_and_follows_what_is_written() {
        let (mut records, disk) = (HotRecords::default(), disk(b"old".to_vec()));
        let group = layout::enrollment_group("Line-1");
        for _ in 0..3 {
            assert_eq!(records.over(&disk).get(&group).unwrap().unwrap(), "old");
        }
        assert_eq!(disk.reads.get(), 1);
        records.written([(group.clone(), Some(Bytes::from_static(b"new")))]);
        assert_eq!(records.over(&disk).get(&group).unwrap().unwrap(), "new");
        records.written([(group.clone(), None)]);
        assert_eq!(records.over(&disk).get(&group).unwrap(), None);
        assert_eq!(disk.reads.get(), 1);
        records.clear();
        assert_eq!(records.over(&disk).get(&group).unwrap().unwrap(), "old");
    }

    #[test]
    fn other_records_stay_on_the_disk() {
        let (mut records, disk) = (HotRecords::default(), disk(b"x".to_vec()));
        let key = layout::registration("device-1");
        records.written([(key.clone(), None)]);
        for _ in 0..2 {
            assert_eq!(records.over(&disk).get(&key).unwrap().unwrap(), "x");
        }
        assert_eq!(disk.reads.get(), 2);
    }

    #[test]
    fn the_memory_is_bounded() {
        let (records, disk) = (HotRecords::default(), disk(vec![0; MAX_BYTES / 10]));
        for number in 0..100 {
            let key = layout::enrollment_group(&format!("group-{number}"));
            records.over(&disk).get(&key).unwrap();
            let kept = records.kept.borrow();
            let bytes: usize = kept
                .records
                .iter()
                .map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len))
                .sum();
            assert_eq!(bytes, kept.bytes);
            assert!(bytes <= MAX_BYTES);
        }
    }
}
