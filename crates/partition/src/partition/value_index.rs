//! Indexes of device state: searching them, building and sweeping them.
//!
//! Why a task: declaring an index must not delay the start of a node. It reads all values page by page, and continues after a
//! restart behind the last page that is on disk.
//! Invariants: an index is searched only when it is complete; a search finds each state that has one of the values from its
//! begin to its end; one page is in memory; one partition of a node builds or sweeps at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_storage::StorageError;

use super::Partition;
use crate::shared;
use crate::state::device_state::{DeviceStateEntry, decode_record, kind_prefix};
use crate::state::store::damaged;
use crate::state::value_index::store::{OwnedSearch, ranges};
use crate::state::value_index::{Derived, EntryChanges, EntryKey, IndexProgress, ValueLength};
use crate::state::{IndexFound, IndexSearch, UnreadableState, ValueIndexing};

/// Values of a page.
const PAGE: usize = 256;

/// Entries that wait for the disk before the next page is read.
const MAX_UNWRITTEN: usize = 4096;

/// Entries of a page of a sweep.
const SWEEP_PAGE: usize = 512;

/// How often the task looks whether its partition is still there.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    More,
    Done,
}

/// The state of memory when a page is read from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    epoch: u32,
    writes: u64,
}

fn moment(inner: &shared::Inner) -> Moment {
    Moment {
        epoch: inner.device_states.epoch(),
        writes: inner.value_indexes.as_ref().map_or(0, |indexes| indexes.writes()),
    }
}

impl Partition {
    /// Whether the index is declared and complete on this replica.
    #[must_use]
    pub fn has_value_index(&self, index: &str) -> bool {
        let inner = self.0.shared.lock();
        let indexes = inner.value_indexes.as_ref();
        indexes.is_some_and(|indexes| indexes.number_of(index).is_some())
    }

    /// The states whose values an index has, as applied on this replica; also some whose value has changed since. Reads the
    /// disk.
    ///
    /// # Errors
    /// [`StorageError`]: the node stops.
    pub async fn find_by_value(&self, search: &IndexSearch<'_>) -> Result<IndexFound, StorageError> {
        let found = self.find(search).await;
        found.inspect_err(|error| (self.0.on_fatal)(error))
    }

    async fn find(&self, search: &IndexSearch<'_>) -> Result<IndexFound, StorageError> {
        let Some(indexing) = &self.0.shared.indexing else {
            return Ok(IndexFound::Incomplete);
        };
        let kind = indexing.kind();
        let owned = OwnedSearch::new(search, kind);
        let read_memory = || {
            let inner = self.0.shared.lock();
            let indexes = inner.value_indexes.as_ref()?;
            let ranges = ranges(indexes.number_of(search.index)?, kind, search);
            let mut changes = EntryChanges::new();
            for (from, to) in &ranges {
                changes.append(&mut indexes.unflushed(from, to));
            }
            Some((moment(&inner), ranges, changes))
        };
        loop {
            let Some((begin, ranges, changes)) = read_memory() else {
                return Ok(IndexFound::Incomplete);
            };
            let (inner, searched) = (self.0.clone(), owned.clone());
            let read = move || {
                let found = inner.store.find_entries(begin.epoch, &searched, &ranges, &changes)?;
                Ok::<_, StorageError>(found.map(|mut found| {
                    found.add(&searched, &changes);
                    found
                }))
            };
            let found = self.0.shared.pool.run(read).await?;
            // A value may have moved meanwhile to a part of the selection that was read before. While no write has begun, the
            // disk has stayed as it was, and memory has what has moved.
            let Some((end, _, changes)) = read_memory() else {
                return Ok(IndexFound::Incomplete);
            };
            if begin != end {
                continue;
            }
            let Some(mut found) = found else {
                return Ok(IndexFound::TooMany);
            };
            found.add(&owned, &changes);
            return Ok(found.finish(&owned));
        }
    }

    /// Builds the indexes that are not complete, then removes outdated entries if there are many.
    async fn maintain_value_indexes(&self, indexing: &ValueIndexing) -> Result<(), StorageError> {
        // It is never closed.
        let _turn = indexing.turn.acquire().await;
        while self.build_step(indexing).await? == Step::More {
            tokio::task::yield_now().await;
        }
        let needs_sweep = || {
            let inner = self.0.shared.lock();
            let indexes = inner.value_indexes.as_ref();
            indexes.is_some_and(|indexes| indexes.needs_sweep())
        };
        if needs_sweep() {
            self.sweep().await?;
        }
        Ok(())
    }

    async fn build_step(&self, indexing: &ValueIndexing) -> Result<Step, StorageError> {
        let prefix = kind_prefix(indexing.kind());
        let (begin, from, changes) = {
            let inner = self.0.shared.lock();
            let progress = inner.value_indexes.as_ref().map(|indexes| indexes.progress());
            let Some(IndexProgress::Building(through)) = progress else {
                return Ok(Step::Done);
            };
            let from = match through.is_empty() {
                true => Bytes::copy_from_slice(&prefix),
                false => Bytes::from([&through[..], &[0]].concat()),
            };
            let changes = inner.device_states.unflushed(&prefix, &from);
            (moment(&inner), from, changes)
        };
        let inner = self.0.clone();
        let read = move || {
            let page = inner.store.device_states(begin.epoch, &prefix, &from, PAGE, changes)?;
            let indexing = inner.shared.indexing.as_ref();
            let derived = page
                .entries
                .iter()
                .filter_map(|entry| Some(indexing?.derive(&entry.key, &entry.value)));
            let derived = derived.collect::<Result<Vec<Derived>, UnreadableState>>();
            Ok::<_, StorageError>((page, derived))
        };
        let (page, derived) = self.0.shared.pool.run(read).await?;
        self.0
            .shared
            .metrics
            .value_index_values_read
            .increment(page.entries.len() as u64);
        let (is_complete, must_write) = {
            let mut inner = self.0.shared.lock();
            let now = moment(&inner);
            if now.epoch != begin.epoch {
                return Ok(Step::More);
            }
            let inner = &mut *inner;
            let Some(indexes) = &mut inner.value_indexes else {
                return Ok(Step::Done);
            };
            let derived = match derived {
                Ok(derived) => derived,
                Err(error) => {
                    indexes.give_up();
                    self.0.shared.note_unreadable(&error);
                    return Ok(Step::Done);
                }
            };
            for (DeviceStateEntry { key, .. }, derived) in page.entries.iter().zip(&derived) {
                // Apply has added the entries of what has changed.
                if !inner.device_states.is_changed(key) {
                    indexes.add_built(key, derived);
                }
            }
            if now != begin {
                indexes.note_outdated(page.entries.len());
            }
            let last = page.entries.last().map(|entry| entry.key.clone());
            indexes.built(last.filter(|_| !page.is_last()));
            (page.is_last(), indexes.unwritten_entries() >= MAX_UNWRITTEN)
        };
        if is_complete || must_write {
            let inner = self.0.clone();
            self.0.shared.pool.run(move || inner.store.store(&inner.shared)).await?;
        }
        if !is_complete {
            return Ok(Step::More);
        }
        let left = indexing.note_progress(self.0.id.0, true);
        tracing::debug!(
            partition = self.0.id.0,
            left,
            "the indexes of device state are complete"
        );
        if left == 0 {
            tracing::info!(
                indexes = indexing.names().join(", "),
                "the declared indexes are complete on this node"
            );
        }
        Ok(Step::Done)
    }

    /// Compares all entries on disk with their values, and removes those that do not match.
    async fn sweep(&self) -> Result<(), StorageError> {
        let mut sweep = {
            let inner = self.0.shared.lock();
            Sweep {
                after: None,
                kept: 0,
                outdated_before: inner.value_indexes.as_ref().map_or(0, |indexes| indexes.outdated()),
            }
        };
        let mut removed = 0;
        loop {
            let begin = moment(&self.0.shared.lock());
            let (inner, after) = (self.0.clone(), sweep.after.clone());
            let read = move || inner.outdated_entries(begin.epoch, after.as_ref());
            let page = self.0.shared.pool.run(read).await?;
            let (step, removed_here) = self.take_swept(&mut sweep, begin, page);
            removed += removed_here;
            if step == Step::Done {
                break;
            }
            tokio::task::yield_now().await;
        }
        self.0.shared.metrics.value_index_entries_removed.increment(removed);
        tracing::debug!(
            partition = self.0.id.0,
            kept = sweep.kept,
            removed,
            "removed outdated entries of indexes"
        );
        let inner = self.0.clone();
        self.0.shared.pool.run(move || inner.store.store(&inner.shared)).await
    }

    /// Removes the outdated entries of a page that was read at `begin`; gives their number.
    fn take_swept(&self, sweep: &mut Sweep, begin: Moment, page: SweptPage) -> (Step, u64) {
        let mut inner = self.0.shared.lock();
        let now = moment(&inner);
        let inner = &mut *inner;
        let Some(indexes) = inner.value_indexes.as_mut().filter(|_| now.epoch == begin.epoch) else {
            return (Step::Done, 0);
        };
        if now != begin {
            // Values may have been written behind the entries: read again.
            return (Step::More, 0);
        }
        sweep.kept += (page.entries - page.outdated.len()) as u64;
        let mut removed = 0;
        for (entry, state) in page.outdated {
            if !inner.device_states.is_changed(&state) {
                indexes.remove_outdated(entry);
                removed += 1;
            }
        }
        sweep.after = page.last;
        if sweep.after.is_some() {
            return (Step::More, removed);
        }
        indexes.swept(sweep.kept, sweep.outdated_before);
        (Step::Done, removed)
    }

    pub(super) fn spawn_value_indexes(&self) {
        let Some(indexing) = self.0.shared.indexing.clone() else {
            return;
        };
        indexing.note_progress(self.0.id.0, false);
        let shared = self.0.shared.clone();
        // A weak reference: the task must not keep the partition alive.
        let weak = Arc::downgrade(&self.0);
        let task = holdfast_tasks::spawn_critical("value-indexes", async move {
            loop {
                let Some(partition) = weak.upgrade().map(Partition) else {
                    break;
                };
                if let Err(error) = partition.maintain_value_indexes(&indexing).await {
                    (partition.0.on_fatal)(&error);
                    break;
                }
                drop(partition);
                // Either way it looks for work.
                let _ = tokio::time::timeout(CHECK_INTERVAL, shared.index_work.notified()).await;
            }
        });
        self.0.tasks.lock().push(task);
    }
}

/// A sweep on its way.
struct Sweep {
    /// The last entry that was compared.
    after: Option<EntryKey>,
    kept: u64,
    outdated_before: u64,
}

/// A page of a sweep.
struct SweptPage {
    entries: usize,
    /// Entries without their value, and the keys of their states.
    outdated: Vec<(EntryKey, Bytes)>,
    /// The last entry; `None`: there are no more.
    last: Option<EntryKey>,
}

impl super::Inner {
    /// Entries on disk whose value on disk does not have them. Blocks.
    fn outdated_entries(&self, epoch: u32, after: Option<&EntryKey>) -> Result<SweptPage, StorageError> {
        let entries = self.store.entries(epoch, after, SWEEP_PAGE)?;
        let mut page = SweptPage {
            entries: entries.len(),
            outdated: Vec::new(),
            last: None,
        };
        if entries.len() == SWEEP_PAGE {
            page.last = entries.last().map(|(entry, _)| entry.clone());
        }
        for (entry, length) in entries {
            let Some(state) = entry.state(length) else { continue };
            if !self.has_entry(epoch, &entry, length, &state)? {
                page.outdated.push((entry, state));
            }
        }
        Ok(page)
    }

    fn has_entry(
        &self,
        epoch: u32,
        entry: &EntryKey,
        length: ValueLength,
        state: &Bytes,
    ) -> Result<bool, StorageError> {
        let Some(record) = self.store.device_state(epoch, state)? else {
            return Ok(false);
        };
        let value = decode_record(&record).map_err(|error| damaged(self.group.id().0, &error))?;
        let Some(indexing) = &self.shared.indexing else {
            return Ok(true);
        };
        // A value that cannot be read keeps its entries.
        let Ok(derived) = indexing.derive(state, &value) else {
            return Ok(true);
        };
        let place = {
            let inner = self.shared.lock();
            let indexes = inner.value_indexes.as_ref();
            indexes.and_then(|indexes| indexes.place_of(entry.number()?))
        };
        let value = entry.value(length);
        let is_this = |(of, derived): &(usize, Bytes)| Some(*of) == place && Some(derived) == value.as_ref();
        Ok(derived.iter().any(is_this))
    }
}
