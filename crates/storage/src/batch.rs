//! Families of keys and batches of writes.

/// A kind of data; each has its own column families in RocksDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// The logs of the partitions: telemetry. Keys begin with the group ([`crate::layout::log_key`]).
    Log,
    /// Votes and purge watermarks of all groups, and the log of the registry group.
    Raft,
    /// State of the registry.
    Registry,
    /// State of partitions.
    Device,
    /// State of devices, as the partitions keep it.
    DeviceState,
    /// Indexes of the values in it.
    ValueIndex,
    /// The index of the embedded blob endpoint: of this node alone, in no group.
    Blob,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 7] = [
        Self::Log,
        Self::Raft,
        Self::Registry,
        Self::Device,
        Self::DeviceState,
        Self::ValueIndex,
        Self::Blob,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Raft => "raft",
            Self::Registry => "registry",
            Self::Device => "partition",
            Self::DeviceState => "device_state",
            Self::ValueIndex => "value_index",
            Self::Blob => "blob",
        }
    }
}

/// Durability class of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Goes through the write-ahead log: durable once a sync that began after the write has ended.
    Logged,
    /// Skips the write-ahead log: lost in a crash unless flushed, and then recovered by replaying the Raft log.
    Replayed,
}

/// One change of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Sets a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Removes every key in `[from, to)`.
    DeleteRange {
        /// The first key.
        from: &'a [u8],
        /// The first key after the range.
        to: &'a [u8],
    },
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Put,
    Delete,
    DeleteRange,
}

/// The ranges of an operation's two parts in the arena: `[start, middle)` and `[middle, end)`.
#[derive(Debug, Clone, Copy)]
struct Entry {
    family: Family,
    kind: Kind,
    start: usize,
    middle: usize,
    end: usize,
}

/// Writes that become visible, and durable, together.
///
/// One arena holds all keys and values, so that a batch costs two growing vectors however many writes it has.
#[derive(Debug, Default, Clone)]
pub struct WriteBatch {
    entries: Vec<Entry>,
    arena: Vec<u8>,
}

impl WriteBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with capacity for `bytes` of keys and values.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            entries: Vec::new(),
            arena: Vec::with_capacity(bytes),
        }
    }

    fn push(&mut self, family: Family, kind: Kind, first: &[u8], second: &[&[u8]]) {
        let start = self.arena.len();
        self.arena.extend_from_slice(first);
        let middle = self.arena.len();
        for part in second {
            self.arena.extend_from_slice(part);
        }
        self.entries.push(Entry {
            family,
            kind,
            start,
            middle,
            end: self.arena.len(),
        });
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.push(family, Kind::Put, key, &[value]);
    }

    /// Sets `key` to the concatenated parts of `value`: a header and a payload need no buffer of their own.
    pub fn put_parts(&mut self, family: Family, key: &[u8], value: &[&[u8]]) {
        self.push(family, Kind::Put, key, value);
    }

    /// Removes `key`.
    pub fn delete(&mut self, family: Family, key: &[u8]) {
        self.push(family, Kind::Delete, key, &[]);
    }

    /// Removes every key in `[from, to)`. In [`Family::Log`] both must belong to the same group.
    pub fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        self.push(family, Kind::DeleteRange, from, &[to]);
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.arena.len()
    }

    /// The number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes all changes and keeps the allocated memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.arena.clear();
    }

    /// The changes in the order of the calls.
    pub fn iter(&self) -> impl Iterator<Item = (Family, Op<'_>)> {
        self.entries.iter().map(|entry| {
            let (first, second) = (
                &self.arena[entry.start..entry.middle],
                &self.arena[entry.middle..entry.end],
            );
            let op = match entry.kind {
                Kind::Put => Op::Put {
                    key: first,
                    value: second,
                },
                Kind::Delete => Op::Delete { key: first },
                Kind::DeleteRange => Op::DeleteRange {
                    from: first,
                    to: second,
                },
            };
            (entry.family, op)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_its_changes_in_order() {
        let mut batch = WriteBatch::new();
        batch.put(Family::Log, b"k", b"v");
        batch.put_parts(Family::Raft, b"", &[b"head", b"", b"tail"]);
        batch.delete(Family::Device, b"gone");
        batch.delete_range(Family::Registry, b"a", b"b");
        let ops: Vec<_> = batch.iter().collect();
        assert_eq!(
            ops,
            [
                (Family::Log, Op::Put { key: b"k", value: b"v" }),
                (
                    Family::Raft,
                    Op::Put {
                        key: b"",
                        value: b"headtail"
                    }
                ),
                (Family::Device, Op::Delete { key: b"gone" }),
                (Family::Registry, Op::DeleteRange { from: b"a", to: b"b" }),
            ]
        );
        assert_eq!((batch.len(), batch.len_bytes()), (4, 16));
        batch.clear();
        assert!(batch.is_empty());
    }
}
