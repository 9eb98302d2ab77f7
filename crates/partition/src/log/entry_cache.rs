//! The newest entries of a partition in memory: readers at the end of the log never touch the disk.
//!
//! Pure. Invariants: it holds applied entries only, without a gap: every counted entry at or after
//! [`EntryCache::from`] is here. After [`EntryCache::evict`] the bytes of all entries are within the limit. Eviction runs
//! between runs of applied entries, not within one: the log shows a run to readers only when the run has ended, so an
//! entry of the current run can be read from here alone.
//! Entries share the log's memory; they are not copied.

use std::collections::{VecDeque, vec_deque};

use bytes::Bytes;
use holdfast_model::{SequenceNumber, UnixMillis};

/// An applied entry with the numbers and the time that apply assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CachedEntry {
    pub(crate) log_index: u64,
    /// The number of its first record.
    pub(crate) first: SequenceNumber,
    pub(crate) records: u32,
    pub(crate) enqueued: UnixMillis,
    pub(crate) bytes: Bytes,
}

impl CachedEntry {
    /// The number after its last record.
    pub(crate) fn end(&self) -> SequenceNumber {
        SequenceNumber(self.first.0 + u64::from(self.records))
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct EntryCache {
    entries: VecDeque<CachedEntry>,
    bytes: usize,
    limit: usize,
    from: u64,
}

impl EntryCache {
    /// An empty cache for the entries at and after log index `from`.
    pub(crate) fn new(limit: usize, from: u64) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            limit,
            from,
        }
    }

    /// Every counted entry at or after this log index is here.
    pub(crate) fn from(&self) -> u64 {
        self.from
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the newest entry.
    pub(crate) fn push(&mut self, entry: CachedEntry) {
        self.bytes += entry.bytes.len();
        self.entries.push_back(entry);
    }

    /// Drops the oldest entries beyond the limit.
    pub(crate) fn evict(&mut self) {
        while self.bytes > self.limit {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
            self.from = oldest.log_index + 1;
        }
    }

    /// The entries at or after a log index, oldest first.
    pub(crate) fn at(&self, log_index: u64) -> impl Iterator<Item = &CachedEntry> {
        self.since(move |entry| entry.log_index < log_index)
    }

    /// The entry that holds `sequence`; `None` when it is not, or not yet, here.
    pub(crate) fn holding(&self, sequence: SequenceNumber) -> Option<&CachedEntry> {
        self.since(move |entry| entry.end() <= sequence)
            .next()
            .filter(|entry| entry.first <= sequence)
    }

    /// The first entry newer than `time`, if the entry before it is here as well.
    pub(crate) fn after(&self, time: UnixMillis) -> Option<&CachedEntry> {
        self.entries.front().filter(|oldest| oldest.enqueued <= time)?;
        self.since(move |entry| entry.enqueued <= time).next()
    }

    fn since(&self, is_before: impl Fn(&CachedEntry) -> bool) -> vec_deque::Iter<'_, CachedEntry> {
        self.entries.range(self.entries.partition_point(is_before)..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(log_index: u64) -> CachedEntry {
        CachedEntry {
            log_index,
            first: SequenceNumber(log_index * 2),
            records: 2,
            enqueued: UnixMillis(log_index * 10),
            bytes: Bytes::from(vec![0; 100]),
        }
    }

    #[test]
    fn the_oldest_go_when_the_limit_is_passed_and_nothing_is_missing_behind_them() {
        let mut cache = EntryCache::new(250, 5);
        assert_eq!(cache.from(), 5);
        for log_index in 5..10 {
            cache.push(entry(log_index));
        }
        assert_eq!(
            (cache.from(), cache.bytes()),
            (5, 500),
            "all of a run stay until the next"
        );
        cache.evict();
        assert_eq!((cache.from(), cache.bytes()), (8, 200));
        assert_eq!(cache.at(8).map(|entry| entry.log_index).collect::<Vec<_>>(), [8, 9]);
        assert_eq!(cache.at(10).count(), 0);
        cache.push(CachedEntry {
            bytes: Bytes::from(vec![0; 1000]),
            ..entry(10)
        });
        cache.evict();
        assert_eq!(
            (cache.from(), cache.bytes()),
            (11, 0),
            "an entry above the limit is read from disk"
        );
    }

    #[test]
    fn entries_are_found_by_number_and_by_time() {
        let mut cache = EntryCache::new(1000, 5);
        for log_index in 5..8 {
            cache.push(entry(log_index));
        }
        let found = |entry: Option<&CachedEntry>| entry.map(|entry| entry.log_index);
        assert_eq!(found(cache.holding(SequenceNumber(9))), None);
        assert_eq!(found(cache.holding(SequenceNumber(10))), Some(5));
        assert_eq!(found(cache.holding(SequenceNumber(13))), Some(6));
        assert_eq!(found(cache.holding(SequenceNumber(16))), None);
        assert_eq!(found(cache.after(UnixMillis(49))), None);
        assert_eq!(found(cache.after(UnixMillis(50))), Some(6));
        assert_eq!(found(cache.after(UnixMillis(69))), Some(7));
        assert_eq!(found(cache.after(UnixMillis(70))), None);
    }
}
