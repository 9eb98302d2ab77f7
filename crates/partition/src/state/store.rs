//! Persists the state and recovers it.
//!
//! Why not after each run: the log is replayed from the last persisted position, so the state is written only often enough
//! to bound the replay (`partition.state_interval`), and without the write-ahead log; the Raft log is the synced one.
//! Invariants: head, new points, skipped entries, changes of device state, entries of its indexes and removals are one batch, so that a crash
//! finds the state of one moment; the files never contain the effect of an unsynced entry, since only committed entries
//! are applied.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use holdfast_consensus::{GroupId, LogPosition, set_purge_watermarks};
use holdfast_model::PartitionId;
use holdfast_proto::partition::v1 as proto;
use holdfast_storage::{Disk, Durability, Family, StorageError, View, WriteBatch, layout};
use holdfast_tasks::sync::Mutex;

use super::device_state::{Changes, DeviceStateEntry, DeviceStatePage, decode_record};
use super::value_index;
use crate::shared::Shared;
use crate::snapshot::Received;
use crate::state::{Head, IndexPoint, Spacing, State, StoredStateError};

/// The kinds of state keys of a partition's group in [`Family::Device`]; numbers once used stay.
const HEAD: u8 = 0;
const POINT: u8 = 1;
const SKIPPED: u8 = 2;

/// The state found on disk, or brought by a snapshot.
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) position: Option<LogPosition>,
    pub(crate) membership: Bytes,
    pub(crate) device_state_epoch: u32,
    /// `None`: there are no indexes, or they have to be built.
    pub(crate) value_indexes: Option<proto::ValueIndexState>,
}

/// The position of the last persisted state.
#[derive(Debug, Clone, Copy)]
struct Stored {
    /// Log index of its last entry.
    index: u64,
    log_bytes: u64,
    begin: u64,
    /// Nothing is written any more: the replica has been removed.
    is_erased: bool,
}

/// Persists the state of one partition.
pub(crate) struct Store {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) group: u32,
    interval_bytes: u64,
    stored: Mutex<Stored>,
    /// The epoch of the next snapshot's device state.
    next_epoch: AtomicU32,
}

impl Store {
    /// Reads the persisted state; an empty one when there is none. `has_indexes`: indexes are declared.
    pub(crate) fn recover(
        disk: Arc<dyn Disk>,
        id: PartitionId,
        spacing: Spacing,
        interval_bytes: u64,
        has_indexes: bool,
    ) -> Result<(Self, Recovered), StorageError> {
        let group = GroupId::partition(id.0).0;
        let mut recovered = match disk.get(Family::Device, &key(group, HEAD, None))? {
            Some(head) => {
                let (points, skipped) = (read_points(&*disk, group)?, read_skipped(&*disk, group)?);
                let (head, state) =
                    State::restore(&head, points, skipped, spacing).map_err(|error| damaged(group, &error))?;
                Recovered {
                    state,
                    position: Some(head.position()),
                    membership: head.membership,
                    device_state_epoch: head.device_state_epoch,
                    value_indexes: None,
                }
            }
            None => Recovered {
                state: State::new(spacing),
                position: None,
                membership: Bytes::new(),
                device_state_epoch: 0,
                value_indexes: None,
            },
        };
        let epoch = recovered.device_state_epoch;
        remove_other_epochs(&*disk, group, epoch)?;
        recovered.value_indexes = value_index::store::recover(&*disk, group, epoch, has_indexes)?;
        let stored = Stored {
            index: recovered.position.map_or(0, |position| position.index),
            log_bytes: recovered.state.log_bytes(),
            begin: recovered.state.begin().log_index,
            is_erased: false,
        };
        Ok((
            Self {
                disk,
                group,
                interval_bytes,
                stored: Mutex::new(stored),
                next_epoch: AtomicU32::new(recovered.device_state_epoch + 1),
            },
            recovered,
        ))
    }

    /// An epoch that no device state of this replica has used since the start.
    pub(crate) fn new_epoch(&self) -> u32 {
        self.next_epoch.fetch_add(1, Ordering::Relaxed)
    }

    /// Persists the state if enough has been applied since the last time.
    pub(crate) fn store_if_due(&self, shared: &Shared) -> Result<(), StorageError> {
        let log_bytes = shared.lock().state.log_bytes();
        if log_bytes - self.stored.lock().log_bytes < self.interval_bytes {
            return Ok(());
        }
        self.store(shared)
    }

    /// Persists the current state.
    pub(crate) fn store(&self, shared: &Shared) -> Result<(), StorageError> {
        // Locked until the write is done: batches reach the disk in the order in which they were built.
        let mut stored = self.stored.lock();
        if stored.is_erased {
            return Ok(());
        }
        let mut inner = shared.lock();
        let Some(position) = inner.position else { return Ok(()) };
        let epoch = inner.device_states.epoch();
        let head = Head {
            term: position.term,
            node: position.node,
            index: position.index,
            membership: inner.membership.clone(),
            device_state_epoch: epoch,
        };
        let changes = inner.state.take_changes(stored.index);
        let device_states = inner.device_states.start_write();
        let indexes = inner.value_indexes.as_mut().map(|indexes| indexes.start_write());
        let head = inner.state.encode_head(&head);
        let (begin, log_bytes) = (inner.state.begin().log_index, inner.state.log_bytes());
        drop(inner);

        let mut batch = WriteBatch::with_capacity(head.len() + 64 * changes.points.len() + 64);
        batch.put(Family::Device, &key(self.group, HEAD, None), &head);
        for point in &changes.points {
            batch.put(
                Family::Device,
                &key(self.group, POINT, Some(point.log_index)),
                &point.encode(),
            );
        }
        for log_index in &changes.dropped {
            batch.delete(Family::Device, &key(self.group, POINT, Some(*log_index)));
        }
        for log_index in &changes.skipped {
            batch.put(Family::Device, &key(self.group, SKIPPED, Some(*log_index)), &[]);
        }
        if begin > stored.begin {
            for kind in [POINT, SKIPPED] {
                let (from, to) = (key(self.group, kind, Some(0)), key(self.group, kind, Some(begin)));
                batch.delete_range(Family::Device, &from, &to);
            }
        }
        for (key, record) in device_states.iter() {
            let key = device_key(self.group, epoch, key);
            match record {
                Some(record) => batch.put(Family::DeviceState, &key, record),
                None => batch.delete(Family::DeviceState, &key),
            }
        }
        if let Some(indexes) = &indexes {
            value_index::store::write(&mut batch, self.group, epoch, indexes);
        }
        self.disk.write(&batch, Durability::Replayed)?;
        if !device_states.is_empty() || indexes.is_some() {
            let mut inner = shared.lock();
            inner.device_states.written();
            if let Some(indexes) = &mut inner.value_indexes {
                indexes.written();
                if indexes.needs_sweep() {
                    shared.index_work.notify_one();
                }
            }
        }
        *stored = Stored {
            index: position.index,
            log_bytes,
            begin,
            is_erased: false,
        };
        Ok(())
    }

    /// Replaces state and log by the content of a snapshot, on disk and in memory; a crash leaves the old or the new.
    /// Returns the position after which the log begins.
    ///
    /// Until the state is replaced, entries are only added to the log on disk, so that readers are not disturbed: entries
    /// present in both are equal, and entries below the new begin are left to retention. Device state lies on disk under
    /// an epoch of its own before the state names that epoch.
    pub(crate) fn install(
        &self,
        shared: &Shared,
        received: Received,
        membership: Bytes,
    ) -> Result<LogPosition, StorageError> {
        // Locked until the end: the old state must not be persisted meanwhile.
        let mut stored = self.stored.lock();
        let Received {
            mut state,
            position,
            mut retained_after,
            log,
            device_states,
            device_state_epoch,
        } = received;
        // Entries that retention has removed here stay removed: the begin never moves back.
        let (begin, old_epoch) = {
            let inner = shared.lock();
            (inner.state.begin(), inner.device_states.epoch())
        };
        state.trim(begin);
        retained_after.index = retained_after.index.max(state.begin().log_index - 1);
        let head = Head {
            term: position.term,
            node: position.node,
            index: position.index,
            membership: membership.clone(),
            device_state_epoch,
        };
        let mut batch = WriteBatch::new();
        for kind in [POINT, SKIPPED] {
            let (from, to) = layout::state_range(self.group, kind);
            batch.delete_range(Family::Device, &from, &to);
        }
        batch.put(Family::Device, &key(self.group, HEAD, None), &state.encode_head(&head));
        let changes = state.take_changes(0);
        for point in &changes.points {
            let key = key(self.group, POINT, Some(point.log_index));
            batch.put(Family::Device, &key, &point.encode());
        }
        for log_index in &changes.skipped {
            batch.put(Family::Device, &key(self.group, SKIPPED, Some(*log_index)), &[]);
        }
        let (from, to) = (
            device_key(self.group, old_epoch, &[]),
            device_key(self.group, old_epoch + 1, &[]),
        );
        batch.delete_range(Family::DeviceState, &from, &to);
        value_index::store::delete(&mut batch, self.group, old_epoch);
        set_purge_watermarks(&mut batch, GroupId(self.group), position, Some(retained_after));
        if let Some(device_states) = device_states {
            device_states.install(None, WriteBatch::new())?;
        }
        log.install(None, batch)?;
        *stored = Stored {
            index: position.index,
            log_bytes: state.log_bytes(),
            begin: state.begin().log_index,
            is_erased: false,
        };
        let recovered = Recovered {
            state,
            position: Some(position),
            membership,
            device_state_epoch,
            value_indexes: None,
        };
        shared.lock().restore(recovered, position, &shared.config);
        Ok(retained_after)
    }

    /// The record of a key of device state on disk. Blocks.
    pub(crate) fn device_state(&self, epoch: u32, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.disk.get(Family::DeviceState, &device_key(self.group, epoch, key))
    }

    /// The values of `keys` on disk, in their order. Blocks.
    ///
    /// Ascending keys that lie close together cost one pass over what is between them; a pass that comes by too much else ends, and
    /// the rest is looked up.
    pub(crate) fn device_state_values(&self, epoch: u32, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, StorageError> {
        let mut found = Vec::with_capacity(keys.len());
        if let (true, Some(first), Some(last)) = (keys.is_sorted(), keys.first(), keys.last()) {
            let begin = device_key(self.group, epoch, first);
            let mut end = device_key(self.group, epoch, last);
            end.push(0);
            let (skip, mut others) = (begin.len() - first.len(), 0);
            let mut failed = None;
            self.disk.scan(Family::DeviceState, &begin, &end, &mut |key, record| {
                let key = &key[skip..];
                while keys.get(found.len()).is_some_and(|wanted| wanted < key) {
                    found.push(None);
                }
                if keys.get(found.len()).is_some_and(|wanted| wanted == key) {
                    match decode_record(record) {
                        Ok(value) => found.push(Some(value)),
                        Err(error) => failed = Some(damaged(self.group, &error)),
                    }
                } else {
                    others += 1;
                }
                match failed.is_some() || others > keys.len() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
            if others <= keys.len() {
                found.resize(keys.len(), None);
            }
        }
        for key in &keys[found.len()..] {
            let record = self.device_state(epoch, key)?;
            let value = record.map(|record| decode_record(&record)).transpose();
            found.push(value.map_err(|error| damaged(self.group, &error))?);
        }
        Ok(found)
    }

    /// The values on disk and in `changes`, of keys at or after `from` that begin with `prefix`; at most `limit`. Blocks.
    pub(crate) fn device_states(
        &self,
        epoch: u32,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
        changes: Changes,
    ) -> Result<DeviceStatePage, StorageError> {
        let begin = device_key(self.group, epoch, from);
        let end = successor(&device_key(self.group, epoch, prefix));
        let skip = begin.len() - from.len();
        let mut values = BTreeMap::new();
        self.disk.scan(Family::DeviceState, &begin, &end, &mut |key, record| {
            let key = Bytes::copy_from_slice(&key[skip..]);
            if !changes.contains_key(&key) {
                values.insert(key, Bytes::copy_from_slice(record));
            }
            // One more than a page, so that its end is known.
            if values.len() > limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        // Values behind the last one of a full page are not known yet.
        let last = (values.len() > limit)
            .then(|| values.last_key_value().map(|(key, _)| key.clone()))
            .flatten();
        let changed = changes
            .into_iter()
            .take_while(|(key, _)| last.as_ref().is_none_or(|last| key < last));
        values.extend(changed.filter_map(|(key, record)| Some((key, record?))));
        let mut page = DeviceStatePage::default();
        for (key, record) in values {
            if page.entries.len() == limit {
                page.next = Some(key);
                break;
            }
            let value = decode_record(&record).map_err(|error| damaged(self.group, &error))?;
            page.entries.push(DeviceStateEntry { key, value });
        }
        Ok(page)
    }

    /// All device state as it is on disk now; complete right after [`Self::store`].
    pub(crate) fn view_device_states(&self, epoch: u32) -> Result<View, StorageError> {
        let (from, to) = (
            device_key(self.group, epoch, &[]),
            device_key(self.group, epoch + 1, &[]),
        );
        self.disk.view(Family::DeviceState, &from, &to)
    }

    /// The begin of the log according to the state that a crash at this moment would leave; `None` when it would leave
    /// none. Nothing below that point is needed after any crash.
    pub(crate) fn flushed_begin(&self) -> Result<Option<IndexPoint>, StorageError> {
        let Some(head) = self.disk.get_flushed(Family::Device, &key(self.group, HEAD, None))? else {
            return Ok(None);
        };
        State::decode_begin(&head)
            .map(Some)
            .map_err(|error| damaged(self.group, &error))
    }

    /// Deletes the state, the log, the vote and the floors in one batch. The group must have stopped. Durable after the
    /// next sync.
    pub(crate) fn erase(&self) -> Result<(), StorageError> {
        // Work of a task that was stopped may still run: it must not write behind this.
        let mut stored = self.stored.lock();
        stored.is_erased = true;
        let mut batch = WriteBatch::new();
        for kind in [HEAD, POINT, SKIPPED] {
            let (from, to) = layout::state_range(self.group, kind);
            batch.delete_range(Family::Device, &from, &to);
        }
        let group_end = (self.group + 1).to_be_bytes();
        for family in [Family::DeviceState, Family::ValueIndex] {
            batch.delete_range(family, &self.group.to_be_bytes(), &group_end);
        }
        let log_end = layout::log_end(self.group);
        batch.delete_range(Family::Log, &layout::log_key(self.group, 0), &log_end);
        batch.delete_range(Family::Raft, &log_end, &group_end);
        self.disk.write(&batch, Durability::Logged)
    }

    /// After [`Self::erase`] is durable: deletes the files of the log at once.
    pub(crate) fn give_back(&self) -> Result<(), StorageError> {
        let (from, to) = (layout::log_key(self.group, 0), layout::log_end(self.group));
        self.disk.delete_files(Family::Log, &from, &to)
    }

    /// Flushes the persisted state to files.
    pub(crate) fn flush(&self) -> Result<(), StorageError> {
        self.disk.flush()
    }
}

fn key(group: u32, kind: u8, log_index: Option<u64>) -> Vec<u8> {
    match log_index {
        Some(log_index) => layout::state_key(group, kind, &log_index.to_be_bytes()),
        None => layout::state_key(group, kind, &[]),
    }
}

/// A key in [`Family::DeviceState`]: group, epoch, and the key within the partition.
pub(crate) fn device_key(group: u32, epoch: u32, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + rest.len());
    key.extend_from_slice(&group.to_be_bytes());
    key.extend_from_slice(&epoch.to_be_bytes());
    key.extend_from_slice(rest);
    key
}

/// The first key behind all keys that begin with `prefix`.
pub(super) fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// Device state and its indexes of a snapshot whose installation a crash has ended before the state named it, or of the state before.
fn remove_other_epochs(disk: &dyn Disk, group: u32, epoch: u32) -> Result<(), StorageError> {
    let bounds = [
        (group.to_be_bytes().to_vec(), device_key(group, epoch, &[])),
        (device_key(group, epoch + 1, &[]), (group + 1).to_be_bytes().to_vec()),
    ];
    let mut batch = WriteBatch::new();
    for family in [Family::DeviceState, Family::ValueIndex] {
        for (from, to) in &bounds {
            let mut found = false;
            disk.scan(family, from, to, &mut |_, _| {
                found = true;
                ControlFlow::Break(())
            })?;
            if found {
                batch.delete_range(family, from, to);
            }
        }
    }
    if batch.is_empty() {
        return Ok(());
    }
    disk.write(&batch, Durability::Logged)
}

fn read_points(disk: &dyn Disk, group: u32) -> Result<VecDeque<IndexPoint>, StorageError> {
    let (mut points, mut failed) = (VecDeque::new(), None);
    let (from, to) = layout::state_range(group, POINT);
    disk.scan(
        Family::Device,
        &from,
        &to,
        &mut |_, value| match IndexPoint::decode(value) {
            Ok(point) => {
                points.push_back(point);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(damaged(group, &error));
                ControlFlow::Break(())
            }
        },
    )?;
    failed.map_or(Ok(points), Err)
}

fn read_skipped(disk: &dyn Disk, group: u32) -> Result<BTreeSet<u64>, StorageError> {
    let mut skipped = BTreeSet::new();
    let (from, to) = layout::state_range(group, SKIPPED);
    disk.scan(Family::Device, &from, &to, &mut |key, _| {
        skipped.extend(key.last_chunk::<8>().map(|index| u64::from_be_bytes(*index)));
        ControlFlow::Continue(())
    })?;
    Ok(skipped)
}

pub(crate) fn damaged(group: u32, error: &StoredStateError) -> StorageError {
    let reason = match error {
        StoredStateError::Decode(source) => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    StorageError::Damaged {
        file: format!("state of {}", GroupId(group)),
        offset: None,
        reason,
    }
}
