//! State shared by the state machine, the readers and the handle, behind one short lock.
//!
//! Invariants: a reader that finds nothing registers its waker under the lock under which entries are applied, so that no
//! wake-up is lost; each reader has one waker slot, and there are at most [`MAX_READERS`] readers. Wakers are called
//! after the lock has been released, once per run of entries.

use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use holdfast_consensus::LogPosition;
use holdfast_model::{PartitionId, SequenceNumber, UnixMillis};
use holdfast_storage::StorageError;
use holdfast_tasks::BlockingPool;
use holdfast_tasks::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::config::PartitionConfig;
use crate::log::entry_cache::{CachedEntry, EntryCache};
use crate::log::record::{Effect, EntryView, PartitionCommand};
use crate::metrics::Metrics;
use crate::state::device_state::DeviceStates;
use crate::state::store::Recovered;
use crate::state::value_index::{IndexedChanges, ValueIndexes};
use crate::state::{Applied, IndexPoint, State, UnknownVersion, UnreadableState, ValueIndexing};

/// The most readers of one partition: far more than 20 consumer groups of 5 and the hub's own.
pub const MAX_READERS: usize = 1024;

/// The committed entries of a partition's log. The real one is the Raft log; tests have one in memory.
pub(crate) trait LogSource: Send + Sync + 'static {
    /// Entries from log index `from` on, in order, at least one if there is any, up to about `max_bytes`. May return
    /// entries that are not applied yet; may block on the disk.
    fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, StorageError>;

    /// A read that finds nothing proves that there are no entries before this log index.
    fn end(&self) -> u64;
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) id: PartitionId,
    pub(crate) config: PartitionConfig,
    pub(crate) metrics: Metrics,
    pub(crate) pool: BlockingPool,
    /// `None`: no indexes are declared.
    pub(crate) indexing: Option<Arc<ValueIndexing>>,
    /// Wakes the task that builds and sweeps indexes.
    pub(crate) index_work: Notify,
    inner: Mutex<Inner>,
}

/// The data behind the lock.
pub(crate) struct Inner {
    pub(crate) state: State,
    pub(crate) cache: EntryCache,
    pub(crate) device_states: DeviceStates,
    /// `None`: none are declared.
    pub(crate) value_indexes: Option<ValueIndexes>,
    /// The last applied entry of any kind.
    pub(crate) position: Option<LogPosition>,
    /// The membership as consensus gave it last; empty = none.
    pub(crate) membership: Bytes,
    pub(crate) stopped: bool,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Retention holds of snapshots being sent: id and the first log index that must stay. At most a few.
    held: Vec<(u64, u64)>,
    next_hold: u64,
}

#[derive(Default)]
struct Slot {
    /// `None`: free.
    position: Option<SequenceNumber>,
    waker: Option<Waker>,
}

impl Shared {
    pub(crate) fn new(
        id: PartitionId,
        config: PartitionConfig,
        pool: BlockingPool,
        indexing: Option<Arc<ValueIndexing>>,
        recovered: Recovered,
    ) -> Arc<Self> {
        let Recovered {
            state,
            position,
            membership,
            device_state_epoch,
            value_indexes,
        } = recovered;
        let value_indexes = indexing
            .clone()
            .map(|indexing| ValueIndexes::new(indexing, value_indexes));
        let inner = Inner {
            state,
            device_states: DeviceStates::new(device_state_epoch, config.device_state_cache.as_usize()),
            value_indexes,
            cache: EntryCache::new(
                config.tail_cache.as_usize(),
                position.map_or(0, |position| position.index + 1),
            ),
            position,
            membership,
            stopped: false,
            slots: Vec::new(),
            free: Vec::new(),
            held: Vec::new(),
            next_hold: 0,
        };
        Arc::new(Self {
            id,
            metrics: Metrics::new(id),
            pool,
            indexing,
            index_work: Notify::new(),
            config,
            inner: Mutex::new(inner),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Wakes all readers that wait; `scratch` keeps its memory between calls.
    pub(crate) fn wake_readers(&self, scratch: &mut Vec<Waker>) {
        scratch.extend(self.lock().slots.iter_mut().filter_map(|slot| slot.waker.take()));
        scratch.drain(..).for_each(Waker::wake);
    }

    /// No index of the partition is used any more.
    pub(crate) fn note_unreadable(&self, error: &UnreadableState) {
        tracing::error!(
            partition = self.id.0,
            %error,
            reason = %error.0,
            "the indexes of this partition are not used until they have been built again after the next start"
        );
    }

    /// Makes readers fail from now on.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.wake_readers(&mut Vec::new());
    }

    /// Moves the begin of the event stream; readers before it continue there.
    pub(crate) fn trim(&self, point: IndexPoint) {
        self.lock().state.trim(point);
    }

    /// Sets the gauges.
    pub(crate) fn measure(&self) {
        let inner = self.lock();
        let next = inner.state.next();
        let positions = inner.slots.iter().filter_map(|slot| slot.position);
        let lag = positions
            .map(|position| next.0.saturating_sub(position.0))
            .max()
            .unwrap_or_default();
        let (readers, cached) = (inner.slots.len() - inner.free.len(), inner.cache.bytes());
        let retained = inner.state.retained_bytes();
        let device_states = inner.device_states.cached_bytes();
        let incomplete = inner.value_indexes.as_ref().map_or(0, ValueIndexes::incomplete);
        drop(inner);
        self.metrics.reader_lag.set(float(lag));
        self.metrics.readers.set(float(readers as u64));
        self.metrics.cached_bytes.set(float(cached as u64));
        self.metrics.retained_bytes.set(float(retained));
        self.metrics.device_state_cached_bytes.set(float(device_states as u64));
        self.metrics.value_indexes_incomplete.set(float(incomplete as u64));
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "gauges are floating point; 2^53 is beyond every value here"
)]
fn float(value: u64) -> f64 {
    value as f64
}

impl Inner {
    /// Applies the entry and keeps it for readers.
    /// `indexed`: the changes of indexed values in it.
    pub(crate) fn apply(
        &mut self,
        position: LogPosition,
        entry: &Bytes,
        indexed: &IndexedChanges,
    ) -> Result<Applied, UnknownVersion> {
        let applied = self.state.apply(&position, entry)?;
        self.position = Some(position);
        if let Applied::Counted {
            first,
            records,
            enqueued,
            device_states,
        } = applied
        {
            if device_states > 0 {
                self.apply_device_states(position.index, entry);
                if let Some(indexes) = &mut self.value_indexes {
                    indexed.apply(indexes);
                }
            }
            if records == 0 {
                return Ok(applied);
            }
            let log_index = position.index;
            self.cache.push(CachedEntry {
                log_index,
                first,
                records,
                enqueued,
                bytes: entry.clone(),
            });
        }
        Ok(applied)
    }

    /// Takes note of an entry of consensus itself.
    pub(crate) fn apply_meta(&mut self, position: LogPosition, membership: Option<Bytes>) {
        self.position = Some(position);
        if let Some(membership) = membership {
            self.membership = membership;
        }
    }

    fn apply_device_states(&mut self, log_index: u64, entry: &[u8]) {
        // `State::apply` has read the entry.
        let Ok(view) = EntryView::parse(entry) else { return };
        for command in view.commands() {
            if let PartitionCommand::Effect(Effect::DeviceState(change)) = command {
                self.device_states.apply(log_index, &change);
            }
        }
    }

    /// Replaces everything by the content of a snapshot; readers continue in it.
    pub(crate) fn restore(&mut self, recovered: Recovered, position: LogPosition, config: &PartitionConfig) {
        let Recovered {
            state,
            membership,
            device_state_epoch,
            ..
        } = recovered;
        // Those of the values before: the new ones have none yet.
        if let Some(indexes) = &mut self.value_indexes {
            *indexes = ValueIndexes::new(Arc::clone(indexes.indexing()), None);
        }
        self.state = state;
        self.cache = EntryCache::new(config.tail_cache.as_usize(), position.index + 1);
        self.device_states = DeviceStates::new(device_state_epoch, config.device_state_cache.as_usize());
        self.position = Some(position);
        self.membership = membership;
    }

    /// Keeps the log from `log_index` on until [`Self::release`].
    pub(crate) fn hold(&mut self, log_index: u64) -> u64 {
        self.next_hold += 1;
        self.held.push((self.next_hold, log_index));
        self.next_hold
    }

    pub(crate) fn release(&mut self, id: u64) {
        self.held.retain(|(held, _)| *held != id);
    }

    /// The first log index that retention must keep for a snapshot, if any.
    pub(crate) fn held_from(&self) -> Option<u64> {
        self.held.iter().map(|(_, log_index)| *log_index).min()
    }

    /// The log index after the last entry applied.
    pub(crate) fn next_index(&self) -> u64 {
        self.position.map_or(0, |position| position.index + 1)
    }

    /// The point behind the last entry.
    pub(crate) fn end(&self) -> IndexPoint {
        IndexPoint {
            log_index: self.next_index(),
            sequence: self.state.next(),
            enqueued: self.state.last_enqueued(),
            log_bytes: 0,
        }
    }

    /// A start point from which every record with `sequence` or a later number is read.
    pub(crate) fn seek_sequence(&self, sequence: SequenceNumber) -> IndexPoint {
        if sequence >= self.state.next() {
            self.end()
        } else {
            self.cache
                .holding(sequence)
                .map_or_else(|| self.state.floor_sequence(sequence), point_of)
        }
    }

    /// A start point from which every entry newer than `time` is read.
    pub(crate) fn seek_time(&self, time: UnixMillis) -> IndexPoint {
        if time >= self.state.last_enqueued() {
            self.end()
        } else {
            self.cache
                .after(time)
                .map_or_else(|| self.state.floor_time(time), point_of)
        }
    }

    /// Registers a reader at `position`; `None` when all slots are taken.
    pub(crate) fn add_reader(&mut self, position: SequenceNumber) -> Option<usize> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < MAX_READERS => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
            None => return None,
        };
        self.slots[slot] = Slot {
            position: Some(position),
            waker: None,
        };
        Some(slot)
    }

    pub(crate) fn remove_reader(&mut self, slot: usize) {
        self.slots[slot] = Slot::default();
        self.free.push(slot);
    }

    pub(crate) fn set_position(&mut self, slot: usize, position: SequenceNumber) {
        self.slots[slot].position = Some(position);
    }

    /// Sets the waker of a reader, replacing the one set before.
    pub(crate) fn set_waker(&mut self, slot: usize, waker: &Waker) {
        match &mut self.slots[slot].waker {
            Some(old) => old.clone_from(waker),
            empty => *empty = Some(waker.clone()),
        }
    }
}

fn point_of(entry: &CachedEntry) -> IndexPoint {
    IndexPoint {
        log_index: entry.log_index,
        sequence: entry.first,
        enqueued: entry.enqueued,
        log_bytes: 0,
    }
}
