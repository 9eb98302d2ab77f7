//! Indexes of the values of device state, so that a search reads what it looks for and not everything.
//!
//! Why here: an entry of an index and the value that it was made of reach the disk in one batch, with the applied position,
//! so that a crash leaves both or neither (docs/decisions/0038).
//! Invariants: an index is derived from device state and local to a replica. Each value of a *complete* index has its entries. An
//! entry may be outdated: the value has changed since. So a reader of an index compares each hit with the value.
//! An entry is removed with a change whose old value is in memory; a sweep removes the others once there are many.
//! Pure, but for `store`. Not here: the meaning of the values, which a [`StateIndexer`] brings; when an index is built and swept
//! (`partition::value_index`).

mod changes;
mod entry;
mod memory;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use bytes::Bytes;
use holdfast_tasks::sync::Mutex;
use thiserror::Error;

use super::device_state::decode_key;
use crate::log::record::{DeviceStateKey, DeviceStateKind};

pub(crate) use changes::IndexedChanges;
pub(crate) use entry::{EntryKey, ValueLength};
pub(crate) use memory::{EntryChange, EntryChanges, IndexProgress, ValueIndexes, Write};

/// A value from which entries cannot be derived. A later version may be able to.
#[derive(Debug, Error)]
#[error("a value of device state cannot be indexed")]
pub struct UnreadableState(#[source] pub Box<dyn Error + Send + Sync>);

/// Reads the indexed values out of device state; the crate that gives the values their meaning implements it.
pub trait StateIndexer: Send + Sync + 'static {
    /// The kind of device state that is indexed.
    fn kind(&self) -> DeviceStateKind;

    /// The version of the encoding of values. All indexes are built again when it differs from the one that wrote them.
    fn encoding(&self) -> u32;

    /// The names of the indexes, each once.
    fn names(&self) -> Vec<String>;

    /// Calls `found` with the place of an index in [`Self::names`] and an encoded value, for each one that the value `state` named
    /// `key` has. No encoded value is the begin of another, and none is longer than 64 KiB.
    ///
    /// # Errors
    /// [`UnreadableState`]: no index is used until all are built again by a version that can read it.
    fn index(
        &self,
        key: &DeviceStateKey<'_>,
        state: &[u8],
        found: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), UnreadableState>;
}

/// The indexes of a node, for all of its partitions.
pub struct ValueIndexing {
    indexer: Box<dyn StateIndexer>,
    names: Vec<String>,
    /// One partition at a time builds or sweeps, so that the disk is left to everything else.
    pub(crate) turn: tokio::sync::Semaphore,
    /// The partitions that have replicas here and how far they are, for the log.
    unfinished: Mutex<BTreeMap<u16, ()>>,
}

impl fmt::Debug for ValueIndexing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueIndexing")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// The entries of a value: the place of the index, and the encoded value.
pub(crate) type Derived = Vec<(usize, Bytes)>;

impl ValueIndexing {
    /// The indexes that `indexer` names.
    #[must_use]
    pub fn new(indexer: impl StateIndexer) -> Self {
        Self {
            names: indexer.names(),
            indexer: Box::new(indexer),
            turn: tokio::sync::Semaphore::new(1),
            unfinished: Mutex::default(),
        }
    }

    pub(crate) fn kind(&self) -> DeviceStateKind {
        self.indexer.kind()
    }

    pub(crate) fn encoding(&self) -> u32 {
        self.indexer.encoding()
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn derive(&self, key: &[u8], state: &[u8]) -> Result<Derived, UnreadableState> {
        let mut derived = Derived::new();
        let Some(key) = decode_key(key) else {
            return Ok(derived);
        };
        self.indexer.index(&key, state, &mut |place, value| {
            if place < self.names.len() {
                derived.push((place, Bytes::copy_from_slice(value)));
            }
        })?;
        Ok(derived)
    }

    /// Takes note that a partition has begun to build, or has finished; gives the number of those that have not.
    pub(crate) fn note_progress(&self, partition: u16, is_complete: bool) -> usize {
        let mut unfinished = self.unfinished.lock();
        if is_complete {
            unfinished.remove(&partition);
        } else {
            unfinished.insert(partition, ());
        }
        unfinished.len()
    }
}

/// What a reader looks for in an index; values as the [`StateIndexer`] encodes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSelection {
    /// One of these values.
    OneOf(Vec<Vec<u8>>),
    /// The values from the first on and before the second.
    Between(Vec<u8>, Vec<u8>),
}

/// The name of a value that an index has found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexedState(pub(crate) Bytes);

impl IndexedState {
    /// The name. `None` only for damaged entries.
    #[must_use]
    pub fn key(&self) -> Option<DeviceStateKey<'_>> {
        decode_key(&self.0)
    }
}

/// Where a search of an index begins and what it may cost.
#[derive(Debug, Clone, Copy)]
pub struct IndexSearch<'a> {
    /// The name of the index.
    pub index: &'a str,
    /// The values.
    pub selection: &'a ValueSelection,
    /// Only what is behind this device and module (empty: the device itself), in the order of their names.
    pub after: Option<(&'a str, &'a str)>,
    /// Of [`ValueSelection::OneOf`]: entries that are read of each value. Of [`ValueSelection::Between`]: entries beyond which nothing
    /// is found.
    pub limit: usize,
}

/// What an index has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexFound {
    /// The index is not declared, or not complete.
    Incomplete,
    /// More entries than the limit are in the range.
    TooMany,
    /// Names in their order, each once.
    States {
        /// All up to `through`.
        states: Vec<IndexedState>,
        /// `None`: these are all.
        through: Option<IndexedState>,
    },
}
