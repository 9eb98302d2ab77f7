//! Values kept per device and module: the newest ones in memory, all of them in the database.
//!
//! Why beside [`super::State`]: there may be more of it than memory. Applying an entry changes it here only; the store
//! writes the changes together with the applied position, so that a crash finds both of one moment and replays the rest
//! (docs/decisions/0028).
//! Invariants: a value is looked up in the unwritten changes, then in those being written, then in the cache, then on
//! disk, so that a read finds every applied change; the cache is bounded in bytes, the unwritten changes by
//! `partition.state_interval` and one run of entries.
//! Pure: no I/O. Not here: the meaning of the values (`device-hub`), writing and reading (`store`).

mod cache;
mod key;
mod reconcile;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_proto::partition::v1 as proto;
use prost::Message;

use super::StoredStateError;
use crate::log::record::DeviceStateChange;
use cache::ValueCache;

pub use key::{DeviceStateEntry, DeviceStatePage};
pub(crate) use key::{decode_key, encode_key, kind_prefix};
pub use reconcile::{Liveness, dead_states};

/// The version of a stored value.
const RECORD_VERSION: u32 = 1;

/// Keys without group and epoch, and their records; `None`: removed.
pub(crate) type Changes = BTreeMap<Bytes, Option<Bytes>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct DeviceStates {
    epoch: u32,
    unwritten: Changes,
    writing: Arc<Changes>,
    cache: ValueCache,
    /// Counts changes: a value read from disk is cached only if there was none meanwhile.
    changes: u64,
}

/// The result of a look-up in memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The record, or that there is none.
    Known(Option<Bytes>),
    /// The database knows.
    OnDisk(DiskLookup),
}

/// The state of memory at a look-up that has to read the disk; for [`DeviceStates::found`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskLookup {
    /// The epoch of the key to read.
    pub(crate) epoch: u32,
    changes: u64,
}

impl DeviceStates {
    pub(crate) fn new(epoch: u32, cache_bytes: usize) -> Self {
        Self {
            epoch,
            unwritten: Changes::new(),
            writing: Arc::default(),
            cache: ValueCache::new(cache_bytes),
            changes: 0,
        }
    }

    /// The number in the keys of this replica's values: a snapshot brings its values under another one, so that they are
    /// on disk before they count.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Bytes in the cache.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Applies a change of the entry at `log_index`.
    pub(crate) fn apply(&mut self, log_index: u64, change: &DeviceStateChange<'_>) {
        let key = Bytes::from(encode_key(&change.key));
        let record = change.value.map(|value| {
            let record = proto::DeviceStateRecord {
                version: RECORD_VERSION,
                log_index,
                value: Bytes::copy_from_slice(value),
            };
            Bytes::from(record.encode_to_vec())
        });
        self.changes += 1;
        self.cache.insert(key.clone(), record.clone());
        self.unwritten.insert(key, record);
    }

    /// The changes that are not in the database; they stay readable here until [`Self::written`]. One write at a time.
    pub(crate) fn start_write(&mut self) -> Arc<Changes> {
        // There are some if the last write has failed.
        let mut changes = Arc::unwrap_or_clone(std::mem::take(&mut self.writing));
        changes.append(&mut self.unwritten);
        self.writing = Arc::new(changes);
        Arc::clone(&self.writing)
    }

    /// The changes that [`Self::start_write`] returned are in the database.
    pub(crate) fn written(&mut self) {
        self.writing = Arc::default();
    }

    /// Looks a key up in memory.
    pub(crate) fn lookup(&mut self, key: &[u8]) -> Lookup {
        let changed = self.unwritten.get(key).or_else(|| self.writing.get(key));
        match changed.cloned().or_else(|| self.cache.get(key)) {
            Some(record) => Lookup::Known(record),
            None => Lookup::OnDisk(DiskLookup {
                epoch: self.epoch,
                changes: self.changes,
            }),
        }
    }

    /// Caches the result of a read from disk, unless it may be outdated by now.
    pub(crate) fn found(&mut self, lookup: DiskLookup, key: Bytes, record: Option<Bytes>) {
        if (lookup.epoch, lookup.changes) == (self.epoch, self.changes) {
            self.cache.insert(key, record);
        }
    }

    /// Whether the value may differ from that on disk.
    pub(crate) fn is_changed(&self, key: &[u8]) -> bool {
        self.unwritten.contains_key(key) || self.writing.contains_key(key)
    }

    /// The changes that are not surely on disk, of keys at or after `from` that begin with `prefix`.
    pub(crate) fn unflushed(&self, prefix: &[u8], from: &[u8]) -> Changes {
        let range = (Bound::Included(Bytes::copy_from_slice(from)), Bound::Unbounded);
        let mut changes = Changes::new();
        // Newer ones win.
        for source in [&*self.writing, &self.unwritten] {
            let within = source
                .range(range.clone())
                .take_while(|(key, _)| key.starts_with(prefix));
            changes.extend(within.map(|(key, record)| (key.clone(), record.clone())));
        }
        changes
    }
}

/// The value of a stored record.
pub(crate) fn decode_record(record: &[u8]) -> Result<Bytes, StoredStateError> {
    let record = proto::DeviceStateRecord::decode(record)?;
    if record.version == RECORD_VERSION {
        Ok(record.value)
    } else {
        Err(StoredStateError::Version(record.version))
    }
}
