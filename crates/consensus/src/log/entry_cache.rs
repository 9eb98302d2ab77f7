//! The newest entries of a log in memory, so that applying and sending do not read back entries that were just written.
//!
//! Entries leave once they are applied, or when their bytes exceed the limit: then they are read from the disk. A leader
//! keeps some applied entries: with one member they are committed while another's append is still in progress.

use std::collections::VecDeque;
use std::ops::Range;

use crate::ids::{Entry, Payload};

/// Bytes counted for an entry in addition to its payload.
const OVERHEAD_BYTES: usize = 128;

/// Contiguous entries up to the end of the log.
#[derive(Debug)]
pub(crate) struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: usize,
    limit: usize,
}

fn size(entry: &Entry) -> usize {
    OVERHEAD_BYTES
        + match &entry.payload {
            Payload::Normal(command) => command.0.len(),
            Payload::Blank | Payload::Membership(_) => 0,
        }
}

impl EntryCache {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            limit,
        }
    }

    /// Appends an entry.
    pub(crate) fn push(&mut self, entry: Entry) {
        if self
            .entries
            .back()
            .is_some_and(|last| last.log_id.index + 1 != entry.log_id.index)
        {
            self.clear();
        }
        self.bytes += size(&entry);
        self.entries.push_back(entry);
        while self.bytes > self.limit {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        match self.entries.pop_front() {
            Some(entry) => self.bytes -= size(&entry),
            None => self.bytes = 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Drops entries below `next`, which are applied, except for the newest of at most `keep` bytes.
    pub(crate) fn applied(&mut self, next: u64, keep: usize) {
        while self.bytes > keep && self.entries.front().is_some_and(|entry| entry.log_id.index < next) {
            self.pop_front();
        }
    }

    /// Drops entries from `next` on: they have been truncated from the log.
    pub(crate) fn truncate(&mut self, next: u64) {
        while let Some(entry) = self.entries.pop_back_if(|entry| entry.log_id.index >= next) {
            self.bytes -= size(&entry);
        }
    }

    /// The entries of `range`, if all of them are cached; no more than `max_bytes`, but at least one.
    pub(crate) fn get(&self, range: Range<u64>, max_bytes: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.log_id.index;
        let from = usize::try_from(range.start.checked_sub(first)?).ok()?;
        let to = usize::try_from(range.end.checked_sub(first)?).ok()?;
        if from > to || to > self.entries.len() {
            return None;
        }
        let mut entries = Vec::with_capacity(to - from);
        let mut bytes = 0_usize;
        for entry in self.entries.range(from..to) {
            bytes = bytes.saturating_add(size(entry));
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use holdfast_model::{NodeId, Term};

    use super::*;
    use crate::ids::{Command, log_id};
    use crate::position::LogPosition;

    fn entry(index: u64) -> Entry {
        let payload = Payload::Normal(Command(Bytes::from(vec![0; 72])));
        Entry {
            log_id: log_id(LogPosition {
                term: Term(1),
                node: NodeId(1),
                index,
            }),
            payload,
        }
    }

    fn indexes(cache: &EntryCache, range: Range<u64>) -> Option<Vec<u64>> {
        Some(
            cache
                .get(range, usize::MAX)?
                .iter()
                .map(|entry| entry.log_id.index)
                .collect(),
        )
    }

    #[test]
    fn it_keeps_the_newest_within_its_limit() {
        let mut cache = EntryCache::new(1_000);
        (10..20).for_each(|index| cache.push(entry(index)));
        assert_eq!(indexes(&cache, 15..20), Some(vec![15, 16, 17, 18, 19]));
        assert_eq!(indexes(&cache, 14..20), None);
        assert_eq!(indexes(&cache, 16..16), Some(vec![]));
        assert_eq!(indexes(&cache, 16..21), None);
        let some = cache.get(15..20, 450).unwrap();
        assert_eq!(some.len(), 2);
        assert_eq!(cache.get(15..20, 1).unwrap().len(), 1);
        cache.applied(18, 0);
        assert_eq!(indexes(&cache, 17..19), None);
        cache.truncate(19);
        assert_eq!(indexes(&cache, 18..19), Some(vec![18]));
        assert_eq!(indexes(&cache, 18..20), None);
        cache.push(entry(19));
        assert_eq!(cache.bytes, 400);
        cache.applied(100, 300);
        assert_eq!((cache.bytes, indexes(&cache, 19..20)), (200, Some(vec![19])));
        cache.applied(100, 0);
        assert_eq!((cache.bytes, indexes(&cache, 18..19)), (0, None));
    }

    #[test]
    fn a_gap_empties_it() {
        let mut cache = EntryCache::new(10_000);
        cache.push(entry(1));
        cache.push(entry(5));
        assert_eq!(indexes(&cache, 1..2), None);
        assert_eq!(indexes(&cache, 5..6), Some(vec![5]));
    }
}
