//! The most recently used values, bounded in bytes. A missing value is cached as well.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

/// Memory of an entry beside key and value.
const OVERHEAD_BYTES: usize = 160;

#[derive(Debug)]
struct Cached {
    record: Option<Bytes>,
    /// Its place in [`ValueCache::order`].
    used: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct ValueCache {
    values: HashMap<Bytes, Cached>,
    /// Keys by the time of their last use, oldest first.
    order: BTreeMap<u64, Bytes>,
    clock: u64,
    bytes: usize,
    limit: usize,
}

fn size(key: &Bytes, record: Option<&Bytes>) -> usize {
    OVERHEAD_BYTES + key.len() + record.map_or(0, Bytes::len)
}

impl ValueCache {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            values: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
            bytes: 0,
            limit,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The record of a key, `Some(None)` when it is known to be missing.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<Option<Bytes>> {
        let cached = self.values.get_mut(key)?;
        let key = self.order.remove(&cached.used)?;
        self.clock += 1;
        cached.used = self.clock;
        self.order.insert(self.clock, key);
        Some(cached.record.clone())
    }

    pub(super) fn insert(&mut self, key: Bytes, record: Option<Bytes>) {
        self.remove(&key);
        self.clock += 1;
        self.bytes += size(&key, record.as_ref());
        self.order.insert(self.clock, key.clone());
        self.values.insert(
            key,
            Cached {
                record,
                used: self.clock,
            },
        );
        while self.bytes > self.limit
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some(cached) = self.values.remove(&oldest) {
                self.bytes -= size(&oldest, cached.record.as_ref());
            }
        }
    }

    fn remove(&mut self, key: &Bytes) {
        if let Some(cached) = self.values.remove(key) {
            self.order.remove(&cached.used);
            self.bytes -= size(key, cached.record.as_ref());
        }
    }
}
