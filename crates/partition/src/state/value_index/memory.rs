//! The entries that are not on disk yet, and how far the indexes are.
//!
//! Invariants: entries move to the disk with the values that they were made of; a set entry is never replaced by an older
//! removal, since changes come in the order of apply, and a sweep removes only under the lock of apply, and only entries whose
//! value has not changed since it was read.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_proto::partition::v1 as proto;
use prost::Message as _;

use super::{Derived, EntryKey, ValueIndexing, ValueLength};

/// The version of the stored state.
pub(super) const STATE_VERSION: u32 = 1;

/// Outdated entries that are worth no sweep.
const TOLERATED: u64 = 1024;

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryChange {
    Set(ValueLength),
    Removed,
}

/// Changes of entries that are not on disk.
pub(crate) type EntryChanges = BTreeMap<EntryKey, EntryChange>;

/// How far the building of the indexes is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IndexProgress {
    /// Device state up to this key has been read; empty: none.
    Building(Bytes),
    Complete,
    /// A value cannot be read: the next start tries again.
    Unreadable,
}

#[derive(Debug)]
struct DeclaredIndex {
    number: u32,
    is_complete: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ValueIndexes {
    indexing: Arc<ValueIndexing>,
    /// In the order of their names.
    declared: Vec<DeclaredIndex>,
    next_number: u32,
    progress: IndexProgress,
    /// Numbers of indexes that are not declared any more: their entries go with the next write.
    dropped: Vec<u32>,
    unwritten: EntryChanges,
    writing: Arc<EntryChanges>,
    /// Writes begun: while the number stays, the disk changes only in what `writing` has.
    writes: u64,
    entries: u64,
    outdated: u64,
    /// Counts changes of what is stored beside the entries.
    changes: u64,
    writing_changes: u64,
    written_changes: u64,
}

/// A write of the indexes.
pub(crate) struct Write {
    pub(crate) entries: Arc<EntryChanges>,
    /// The encoded state beside them.
    pub(crate) state: Option<Vec<u8>>,
    pub(crate) dropped: Vec<u32>,
}

impl ValueIndexes {
    /// The indexes as they were stored; those that are new have to be built.
    pub(crate) fn new(indexing: Arc<ValueIndexing>, stored: Option<proto::ValueIndexState>) -> Self {
        let stored = stored.unwrap_or_default();
        let is_usable = stored.version == STATE_VERSION && stored.encoding == indexing.encoding();
        let mut next_number = stored.next_number;
        let mut is_new = false;
        let declared: Vec<DeclaredIndex> = indexing
            .names()
            .iter()
            .map(|name| {
                let known = stored.indexes.iter().find(|index| is_usable && index.name == *name);
                if let Some(known) = known {
                    return DeclaredIndex {
                        number: known.number,
                        is_complete: known.is_complete,
                    };
                }
                is_new = true;
                next_number += 1;
                DeclaredIndex {
                    number: next_number - 1,
                    is_complete: false,
                }
            })
            .collect();
        let numbers: HashSet<u32> = declared.iter().map(|index| index.number).collect();
        let dropped = stored.indexes.iter().map(|index| index.number);
        let dropped: Vec<u32> = dropped.filter(|number| !numbers.contains(number)).collect();
        let progress = match declared.iter().all(|index| index.is_complete) {
            true => IndexProgress::Complete,
            // The values up to the stored key were not read for a new one.
            false if is_new => IndexProgress::Building(Bytes::new()),
            false => IndexProgress::Building(stored.built_through),
        };
        Self {
            indexing,
            declared,
            next_number,
            progress,
            changes: u64::from(is_new || !dropped.is_empty()),
            dropped,
            unwritten: EntryChanges::new(),
            writing: Arc::default(),
            writes: 0,
            entries: stored.entries,
            outdated: stored.outdated,
            writing_changes: 0,
            written_changes: 0,
        }
    }

    pub(crate) fn indexing(&self) -> &Arc<ValueIndexing> {
        &self.indexing
    }

    pub(crate) fn progress(&self) -> &IndexProgress {
        &self.progress
    }

    pub(crate) fn writes(&self) -> u64 {
        self.writes
    }

    pub(crate) fn unwritten_entries(&self) -> usize {
        self.unwritten.len()
    }

    /// The number of a complete index.
    pub(crate) fn number_of(&self, name: &str) -> Option<u32> {
        let place = self.indexing.names().iter().position(|known| known == name)?;
        let index = self.declared.get(place).filter(|index| index.is_complete)?;
        Some(index.number)
    }

    /// The place among the names of the index with this number.
    pub(crate) fn place_of(&self, number: u32) -> Option<usize> {
        self.declared.iter().position(|index| index.number == number)
    }

    pub(crate) fn incomplete(&self) -> usize {
        self.declared.iter().filter(|index| !index.is_complete).count()
    }

    /// Applies a change of a value. `old`: `None` when its old value is not in memory.
    pub(crate) fn apply(&mut self, state: &[u8], old: Option<&Derived>, new: &Derived) {
        if let Some(old) = old {
            for (place, value) in old.iter().filter(|entry| !new.contains(entry)) {
                self.change(*place, value, state, EntryChange::Removed);
            }
        } else {
            self.outdated += 1;
        }
        for entry in new {
            let (place, value) = entry;
            let is_there = old.is_some_and(|old| old.contains(entry))
                && self.declared.get(*place).is_some_and(|index| index.is_complete);
            if !is_there {
                self.entries += 1;
                self.set(*place, value, state);
            }
        }
    }

    fn set(&mut self, place: usize, value: &Bytes, state: &[u8]) {
        // An indexer gives no longer ones.
        if let Ok(length) = ValueLength::try_from(value.len()) {
            self.change(place, value, state, EntryChange::Set(length));
        }
    }

    fn change(&mut self, place: usize, value: &Bytes, state: &[u8], change: EntryChange) {
        if let Some(index) = self.declared.get(place) {
            self.unwritten.insert(EntryKey::new(index.number, value, state), change);
        }
    }

    /// A value cannot be read: nothing is complete any more.
    pub(crate) fn give_up(&mut self) {
        self.progress = IndexProgress::Unreadable;
        for index in &mut self.declared {
            index.is_complete = false;
        }
        self.changes += 1;
    }

    /// Adds the entries of a value that was read to build the indexes.
    pub(crate) fn add_built(&mut self, state: &[u8], derived: &Derived) {
        for (place, value) in derived {
            if self.declared.get(*place).is_some_and(|index| !index.is_complete) {
                self.entries += 1;
                self.set(*place, value, state);
            }
        }
    }

    /// Values that were read to build the indexes may have been replaced before their entries were added.
    pub(crate) fn note_outdated(&mut self, values: usize) {
        self.outdated += values as u64;
    }

    /// All device state up to `through` has been read; `None`: all there is.
    pub(crate) fn built(&mut self, through: Option<Bytes>) {
        self.changes += 1;
        if let Some(through) = through {
            self.progress = IndexProgress::Building(through);
            return;
        }
        self.progress = IndexProgress::Complete;
        for index in &mut self.declared {
            index.is_complete = true;
        }
    }

    /// Whether there are so many outdated entries that they should be removed.
    pub(crate) fn needs_sweep(&self) -> bool {
        self.progress == IndexProgress::Complete && self.outdated > TOLERATED.max(self.entries / 2)
    }

    pub(crate) fn outdated(&self) -> u64 {
        self.outdated
    }

    /// An entry is outdated, unless it has changed since it was read from disk.
    pub(crate) fn remove_outdated(&mut self, entry: EntryKey) {
        if !self.unwritten.contains_key(&entry) && !self.writing.contains_key(&entry) {
            self.unwritten.insert(entry, EntryChange::Removed);
        }
    }

    /// All entries have been compared with their values: `entries` are left. `before`: [`Self::outdated`] when that began.
    pub(crate) fn swept(&mut self, entries: u64, before: u64) {
        self.entries = entries;
        self.outdated = self.outdated.saturating_sub(before);
        self.changes += 1;
    }

    /// The changes that are not surely on disk, of entries from `from` on and before `to`.
    pub(crate) fn unflushed(&self, from: &[u8], to: &[u8]) -> EntryChanges {
        let range = EntryKey(Bytes::copy_from_slice(from))..EntryKey(Bytes::copy_from_slice(to));
        let mut changes = EntryChanges::new();
        if range.is_empty() {
            return changes;
        }
        // Newer ones win.
        for source in [&*self.writing, &self.unwritten] {
            let within = source.range(range.clone());
            changes.extend(within.map(|(key, change)| (key.clone(), *change)));
        }
        changes
    }

    /// The changes to write with the next state. One write at a time.
    pub(crate) fn start_write(&mut self) -> Write {
        self.writes += 1;
        // There are some if the last write has failed.
        let mut entries = Arc::unwrap_or_clone(std::mem::take(&mut self.writing));
        entries.append(&mut self.unwritten);
        self.writing = Arc::new(entries);
        self.writing_changes = self.changes;
        let is_changed = self.changes != self.written_changes || !self.writing.is_empty();
        Write {
            entries: Arc::clone(&self.writing),
            state: is_changed.then(|| self.encode()),
            dropped: self.dropped.clone(),
        }
    }

    /// That is on disk.
    pub(crate) fn written(&mut self) {
        self.writing = Arc::default();
        self.dropped.clear();
        self.written_changes = self.writing_changes;
    }

    fn encode(&self) -> Vec<u8> {
        let indexes = self.indexing.names().iter().zip(&self.declared);
        let built_through = match &self.progress {
            IndexProgress::Building(through) => through.clone(),
            IndexProgress::Complete | IndexProgress::Unreadable => Bytes::new(),
        };
        let state = proto::ValueIndexState {
            version: STATE_VERSION,
            encoding: self.indexing.encoding(),
            indexes: indexes
                .map(|(name, index)| proto::ValueIndex {
                    number: index.number,
                    name: name.clone(),
                    is_complete: index.is_complete,
                })
                .collect(),
            next_number: self.next_number,
            built_through,
            entries: self.entries,
            outdated: self.outdated,
        };
        state.encode_to_vec()
    }
}
