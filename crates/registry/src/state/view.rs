//! The state as one command sees it: the stored records overlaid by the command's own writes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use holdfast_storage::{StorageError, Visit};
use prost::Message;

use super::rejection::ApplyError;

/// The stored state, for reading.
pub trait Base {
    /// The value of `key`.
    ///
    /// # Errors
    /// The disk cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Visits keys and values in `from..to` ascending until `visit` breaks.
    ///
    /// # Errors
    /// The disk cannot be read.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError>;
}

/// Writes by key, `None` = delete.
pub(super) type Pending = BTreeMap<Vec<u8>, Option<Bytes>>;

/// Stored state plus pending writes.
pub struct View<'a> {
    base: &'a dyn Base,
    pending: Pending,
}

impl<'a> View<'a> {
    /// Nothing pending.
    pub fn new(base: &'a dyn Base) -> Self {
        Self {
            base,
            pending: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ApplyError> {
        match self.pending.get(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.base.get(key)?),
        }
    }

    pub(super) fn contains(&self, key: &[u8]) -> Result<bool, ApplyError> {
        Ok(self.get(key)?.is_some())
    }

    /// The record under `key`, decoded.
    pub(super) fn message<M: Message + Default>(&self, key: &[u8]) -> Result<Option<M>, ApplyError> {
        self.get(key)?.map(|bytes| decode(key, bytes)).transpose()
    }

    pub(super) fn put_message(&mut self, key: Vec<u8>, message: &impl Message) {
        self.pending.insert(key, Some(message.encode_to_vec().into()));
    }

    pub(super) fn delete(&mut self, key: Vec<u8>) {
        self.pending.insert(key, None);
    }

    /// The keys within `range`, ascending. Only for ranges that a limit of the registry keeps short.
    pub(super) fn keys(&self, range: &Range<Vec<u8>>) -> Result<BTreeSet<Vec<u8>>, ApplyError> {
        let mut keys = BTreeSet::new();
        self.base.scan(&range.start, &range.end, &mut |key, _| {
            keys.insert(key.to_vec());
            ControlFlow::Continue(())
        })?;
        for (key, value) in self.pending.range(range.clone()) {
            if value.is_some() {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
        }
        Ok(keys)
    }

    pub(super) fn pending(&self) -> &Pending {
        &self.pending
    }

    pub(super) fn set_pending(&mut self, pending: Pending) {
        self.pending = pending;
    }

    pub(super) fn into_writes(self) -> Vec<(Vec<u8>, Option<Bytes>)> {
        self.pending.into_iter().collect()
    }
}

/// Decodes the record under `key`, naming the key when that fails.
pub(crate) fn decode<M: Message + Default>(key: &[u8], bytes: Bytes) -> Result<M, ApplyError> {
    M::decode(bytes).map_err(|source| ApplyError::Damaged {
        key: key.escape_ascii().to_string(),
        source,
    })
}
