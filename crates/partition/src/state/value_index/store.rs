//! Indexes on disk (docs/storage.md, "Value indexes").

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use holdfast_proto::partition::v1 as proto;
use holdfast_storage::{Disk, Durability, Family, StorageError, WriteBatch};
use prost::Message as _;

use super::entry::{behind, prefix};
use super::memory::STATE_VERSION;
use super::{
    EntryChange, EntryChanges, EntryKey, IndexFound, IndexSearch, IndexedState, ValueLength, ValueSelection, Write,
};
use crate::log::record::DeviceStateKind;
use crate::state::store::{Store, device_key, successor};

/// What a key in [`Family::ValueIndex`] is of, behind group and epoch; numbers once used stay.
const STATE: u8 = 0;
const ENTRY: u8 = 1;

/// Bytes in front of an entry's key.
const PREFIX_BYTES: usize = 9;

/// The indexes as they were stored; `None` when there are none that this version can continue.
pub(crate) fn recover(
    disk: &dyn Disk,
    group: u32,
    epoch: u32,
    is_declared: bool,
) -> Result<Option<proto::ValueIndexState>, StorageError> {
    let Some(stored) = disk.get(Family::ValueIndex, &key(group, epoch, STATE, &[]))? else {
        return Ok(None);
    };
    let stored = proto::ValueIndexState::decode(stored).ok();
    let stored = stored.filter(|stored| is_declared && stored.version == STATE_VERSION);
    if stored.is_none() {
        // They would not be kept up to date, or cannot be.
        let mut batch = WriteBatch::new();
        delete(&mut batch, group, epoch);
        disk.write(&batch, Durability::Logged)?;
    }
    Ok(stored)
}

/// Removes all indexes of an epoch.
pub(crate) fn delete(batch: &mut WriteBatch, group: u32, epoch: u32) {
    let (from, to) = (device_key(group, epoch, &[]), device_key(group, epoch + 1, &[]));
    batch.delete_range(Family::ValueIndex, &from, &to);
}

/// Adds a write of the indexes to the batch of the state.
pub(crate) fn write(batch: &mut WriteBatch, group: u32, epoch: u32, write: &Write) {
    for number in &write.dropped {
        let from = key(group, epoch, ENTRY, &number.to_be_bytes());
        batch.delete_range(Family::ValueIndex, &from, &successor(&from));
    }
    for (entry, change) in write.entries.iter() {
        let key = key(group, epoch, ENTRY, &entry.0);
        match change {
            EntryChange::Set(length) => batch.put(Family::ValueIndex, &key, &length.to_be_bytes()),
            EntryChange::Removed => batch.delete(Family::ValueIndex, &key),
        }
    }
    if let Some(state) = &write.state {
        batch.put(Family::ValueIndex, &key(group, epoch, STATE, &[]), state);
    }
}

/// The ranges of entries that a search reads, without group and epoch.
pub(crate) fn ranges(number: u32, kind: DeviceStateKind, search: &IndexSearch<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    match search.selection {
        ValueSelection::OneOf(values) => values
            .iter()
            .map(|value| {
                let mut from = prefix(number, value);
                let to = successor(&from);
                if let Some((device, module)) = search.after {
                    from.extend_from_slice(&behind(kind, device, module));
                }
                (from, to)
            })
            .collect(),
        ValueSelection::Between(from, to) => vec![(prefix(number, from), prefix(number, to))],
    }
}

/// A search that is carried out on another thread.
#[derive(Debug, Clone)]
pub(crate) struct OwnedSearch {
    /// The hits of a value come in the order of their states.
    is_ordered: bool,
    after: Option<Vec<u8>>,
    limit: usize,
}

impl OwnedSearch {
    pub(crate) fn new(search: &IndexSearch<'_>, kind: DeviceStateKind) -> Self {
        Self {
            is_ordered: matches!(search.selection, ValueSelection::OneOf(_)),
            after: search.after.map(|(device, module)| behind(kind, device, module)),
            limit: search.limit,
        }
    }

    fn is_behind(&self, state: &[u8]) -> bool {
        self.after.as_ref().is_none_or(|after| *state > after[..])
    }
}

/// States in their order: all up to `through`, if there is one.
#[derive(Debug, Default)]
pub(crate) struct FoundStates {
    states: BTreeSet<Bytes>,
    through: Option<Bytes>,
}

impl FoundStates {
    /// Adds the entries that are set in memory.
    pub(crate) fn add(&mut self, search: &OwnedSearch, changes: &EntryChanges) {
        for (entry, change) in changes {
            if let EntryChange::Set(length) = change
                && let Some(state) = entry.state(*length)
                && search.is_behind(&state)
            {
                self.states.insert(state);
            }
        }
    }

    pub(crate) fn finish(mut self, search: &OwnedSearch) -> IndexFound {
        if let Some(through) = &self.through {
            // Of the values that were cut there may be others behind it.
            let mut behind = self.states.split_off(through);
            self.states.extend(behind.take(through));
        }
        if !search.is_ordered && self.states.len() > search.limit {
            return IndexFound::TooMany;
        }
        IndexFound::States {
            states: self.states.into_iter().map(IndexedState).collect(),
            through: self.through.map(IndexedState),
        }
    }
}

impl Store {
    /// The states on disk that a search over `ranges` finds, but for the entries that `changes` removes; `None`: too many. Blocks.
    pub(crate) fn find_entries(
        &self,
        epoch: u32,
        search: &OwnedSearch,
        ranges: &[(Vec<u8>, Vec<u8>)],
        changes: &EntryChanges,
    ) -> Result<Option<FoundStates>, StorageError> {
        let mut found = FoundStates::default();
        for (from, to) in ranges {
            let mut last = None;
            let mut count = 0;
            self.scan_entries(epoch, from, to, &mut |entry, length| {
                count += 1;
                if count > search.limit {
                    return ControlFlow::Break(());
                }
                if let Some(state) = entry.state(length) {
                    if changes.get(&entry) != Some(&EntryChange::Removed) && search.is_behind(&state) {
                        found.states.insert(state.clone());
                    }
                    last = Some(state);
                }
                ControlFlow::Continue(())
            })?;
            if count <= search.limit {
                continue;
            }
            if !search.is_ordered {
                return Ok(None);
            }
            found.through = match (found.through, last) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
        Ok(Some(found))
    }

    /// Entries on disk behind `after`, or from the first on; at most `limit`. Blocks.
    pub(crate) fn entries(
        &self,
        epoch: u32,
        after: Option<&EntryKey>,
        limit: usize,
    ) -> Result<Vec<(EntryKey, ValueLength)>, StorageError> {
        let from = match after {
            Some(after) => [&after.0[..], &[0]].concat(),
            None => Vec::new(),
        };
        let mut found = Vec::new();
        self.scan_entries(epoch, &from, &[], &mut |entry, length| {
            found.push((entry, length));
            match found.len() < limit {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(found)
    }

    /// From `from` to before `to`, or, if that is empty, to the last one.
    fn scan_entries(
        &self,
        epoch: u32,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(EntryKey, ValueLength) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let from = key(self.group, epoch, ENTRY, from);
        let to = match to {
            [] => key(self.group, epoch, ENTRY + 1, &[]),
            to => key(self.group, epoch, ENTRY, to),
        };
        self.disk.scan(Family::ValueIndex, &from, &to, &mut |key, value| {
            let length = value.first_chunk().copied().map_or(0, ValueLength::from_be_bytes);
            visit(EntryKey(Bytes::copy_from_slice(&key[PREFIX_BYTES..])), length)
        })
    }
}

fn key(group: u32, epoch: u32, what: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_BYTES + rest.len());
    key.extend_from_slice(&group.to_be_bytes());
    key.extend_from_slice(&epoch.to_be_bytes());
    key.push(what);
    key.extend_from_slice(rest);
    key
}
