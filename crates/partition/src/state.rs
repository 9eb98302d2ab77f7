//! The state that applying the log produces: sequence numbers, the streams' positions, the sparse index.
//!
//! Pure, but for `store`: no clock, no I/O, no randomness; the same entries give the same state on every replica and in
//! every replay.
//! Invariants: a record's sequence number is assigned here and nowhere else, from the counter plus its place in the entry,
//! so that there are no gaps and no duplicates; enqueued times never decrease; a batch of a stream is counted exactly
//! once. An entry that is not counted is *skipped*: its log index is recorded, since readers walk the log and must step
//! over it.
//! Retention moves [`State::begin`]; that is local to a replica and changes no decision of apply.
//! Not here: the log itself (`consensus`), waking readers (`shared`), the stored form (`stored`, `store`).

mod absent_gateways;
pub(crate) mod device_state;
mod index;
pub(crate) mod store;
mod stored;
mod streams;
pub(crate) mod value_index;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use holdfast_consensus::LogPosition;
use holdfast_model::{SequenceNumber, UnixMillis};
use thiserror::Error;

pub use absent_gateways::{AbsentGateways, GatewayPresence, MAX_ABSENT_GATEWAYS};
pub use device_state::{DeviceStateEntry, DeviceStatePage, Liveness, dead_states};
pub use index::{Index, IndexPoint, Spacing};
pub use stored::{Changes, Head, StoredStateError};
pub use streams::{Admission, MAX_STREAMS, Streams};
pub use value_index::{
    IndexFound, IndexSearch, IndexedState, StateIndexer, UnreadableState, ValueIndexing, ValueSelection,
};

use crate::log::record::{Effect, EntryError, EntryView, Leadership, PartitionCommand};

/// The outcome of applying an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Its records are part of the event stream.
    Counted {
        /// The sequence number of its first record.
        first: SequenceNumber,
        /// Its records.
        records: u32,
        /// The time of all its records.
        enqueued: UnixMillis,
        /// Its changes of device state, which are not part of [`State`].
        device_states: u32,
    },
    /// It changes nothing.
    Skipped(SkipReason),
}

/// Why an entry is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// The batch was counted before; the gateway resent it.
    Repeat,
    /// A batch of the stream before this one is missing; counting it would reorder.
    Gap {
        /// The number that the stream must continue with.
        expected: u64,
    },
    /// A later incarnation of the gateway has written.
    Stale {
        /// That incarnation.
        current: u64,
    },
    /// The bytes cannot be decoded.
    Damaged,
    /// Its effects were computed in another leadership than the one that appended it.
    OtherLeadership {
        /// The leadership that computed them.
        computed: Leadership,
    },
}

/// The leadership that appended an entry.
pub(crate) fn leadership_of(position: &LogPosition) -> Leadership {
    Leadership {
        term: position.term,
        node: position.node,
    }
}

/// The entry was written by a version whose rules this one does not know: the node must stop, since guessing would make
/// replicas diverge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the log entry {log_index} has version {version}, which this version of Holdfast does not know")]
pub struct UnknownVersion {
    /// Its log index.
    pub log_index: u64,
    /// Its version.
    pub version: u32,
}

/// The state of one partition.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub(crate) next: SequenceNumber,
    pub(crate) last_enqueued: UnixMillis,
    pub(crate) log_bytes: u64,
    pub(crate) begin: IndexPoint,
    pub(crate) streams: Streams,
    pub(crate) index: Index,
    pub(crate) skipped: BTreeSet<u64>,
    pub(crate) absent_gateways: AbsentGateways,
    /// An entry with effects has been applied: versions that do not know them must not read this state.
    pub(crate) has_effects: bool,
}

impl State {
    /// The most points that the index has.
    pub(crate) const MAX_POINTS: usize = index::MAX_POINTS;

    /// The state before the first entry.
    #[must_use]
    pub fn new(spacing: Spacing) -> Self {
        Self {
            next: SequenceNumber(0),
            last_enqueued: UnixMillis(0),
            log_bytes: 0,
            begin: IndexPoint::default(),
            streams: Streams::default(),
            index: Index::new(spacing),
            skipped: BTreeSet::new(),
            absent_gateways: AbsentGateways::default(),
            has_effects: false,
        }
    }

    /// Applies the committed entry at `position`; the indexes of successive calls grow.
    ///
    /// # Errors
    /// [`UnknownVersion`]; the state is unchanged.
    pub fn apply(&mut self, position: &LogPosition, entry: &[u8]) -> Result<Applied, UnknownVersion> {
        let log_index = position.index;
        let view = match EntryView::parse(entry) {
            Ok(view) => view,
            Err(EntryError::Version(version)) => return Err(UnknownVersion { log_index, version }),
            Err(EntryError::Corrupt(_)) => return Ok(self.skip(log_index, SkipReason::Damaged)),
        };
        let header = view.header();
        if let Some(computed) = header.owner
            && computed != leadership_of(position)
        {
            return Ok(self.skip(log_index, SkipReason::OtherLeadership { computed }));
        }
        if header.has_stream() {
            match self.streams.check(&header.stream, header.batch_number) {
                Admission::Next => {}
                Admission::Repeat { .. } => return Ok(self.skip(log_index, SkipReason::Repeat)),
                Admission::Gap { expected } => return Ok(self.skip(log_index, SkipReason::Gap { expected })),
                Admission::Stale { current } => {
                    return Ok(self.skip(log_index, SkipReason::Stale { current: current.get() }));
                }
            }
            self.streams.advance(&header.stream, header.batch_number, log_index);
            self.absent_gateways.apply_batch(&header.stream, header.batch_number);
        }
        let enqueued = self.last_enqueued.max(header.proposed);
        let first = self.next;
        self.index.offer(IndexPoint {
            log_index,
            sequence: first,
            enqueued,
            log_bytes: self.log_bytes,
        });
        self.next = SequenceNumber(first.0 + u64::from(header.records));
        self.last_enqueued = enqueued;
        self.log_bytes += entry.len() as u64;
        let device_states = if header.owner.is_some() {
            self.apply_effects(&view)
        } else {
            0
        };
        Ok(Applied::Counted {
            first,
            records: header.records,
            enqueued,
            device_states,
        })
    }

    /// Gives the number of changes of device state, which the caller applies.
    fn apply_effects(&mut self, view: &EntryView<'_>) -> u32 {
        self.has_effects = true;
        let mut device_states = 0;
        for command in view.commands() {
            match command {
                // Counted with the header.
                PartitionCommand::Telemetry(_) => {}
                PartitionCommand::Effect(Effect::GatewayAbsent { gateway }) => {
                    self.absent_gateways.set(gateway, GatewayPresence::Absent);
                }
                PartitionCommand::Effect(Effect::GatewayPresent { gateway }) => {
                    self.absent_gateways.set(gateway, GatewayPresence::Present);
                }
                PartitionCommand::Effect(Effect::DeviceState(_)) => device_states += 1,
            }
        }
        device_states
    }

    fn skip(&mut self, log_index: u64, reason: SkipReason) -> Applied {
        self.skipped.insert(log_index);
        Applied::Skipped(reason)
    }

    /// The number of the next record.
    #[must_use]
    pub fn next(&self) -> SequenceNumber {
        self.next
    }

    /// The time of the newest record, 0 before the first.
    #[must_use]
    pub fn last_enqueued(&self) -> UnixMillis {
        self.last_enqueued
    }

    /// The oldest readable entry.
    #[must_use]
    pub fn begin(&self) -> IndexPoint {
        self.begin
    }

    /// Bytes of all entries counted since the partition was created.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// Bytes of the entries from [`Self::begin`] on.
    #[must_use]
    pub fn retained_bytes(&self) -> u64 {
        self.log_bytes - self.begin.log_bytes
    }

    /// The streams' positions.
    #[must_use]
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The gateways that sessions may have begun without.
    #[must_use]
    pub fn absent_gateways(&self) -> &AbsentGateways {
        &self.absent_gateways
    }

    /// Whether apply skipped the entry at this log index: readers step over it.
    #[must_use]
    pub fn is_skipped(&self, log_index: u64) -> bool {
        self.skipped.contains(&log_index)
    }

    /// The last known point at or before the entry that holds `sequence`; [`Self::begin`] when there is none.
    #[must_use]
    pub fn floor_sequence(&self, sequence: SequenceNumber) -> IndexPoint {
        self.index
            .floor_by(|point| point.sequence <= sequence)
            .unwrap_or(self.begin)
            .max(self.begin)
    }

    /// The last known point before which no entry is newer than `time`; [`Self::begin`] when there is none.
    #[must_use]
    pub fn floor_time(&self, time: UnixMillis) -> IndexPoint {
        self.index
            .floor_by(|point| point.enqueued <= time)
            .unwrap_or(self.begin)
            .max(self.begin)
    }

    /// The point at exactly this log index, if the index has one.
    #[must_use]
    pub fn point_at(&self, log_index: u64) -> Option<IndexPoint> {
        self.index
            .floor_by(|point| point.log_index <= log_index)
            .filter(|point| point.log_index == log_index)
    }

    /// The begin of the log that the limits allow: every entry before that point is older than `oldest`, or more than
    /// `max_bytes` from the end. `None` when nothing can be removed. The granularity is that of the index, about 64 KiB.
    #[must_use]
    pub fn retention_point(&self, oldest: UnixMillis, max_bytes: u64) -> Option<IndexPoint> {
        let by_time = self.index.floor_by(|point| point.enqueued < oldest);
        let excess = self.log_bytes.saturating_sub(max_bytes);
        let by_size = if excess == 0 {
            None
        } else {
            self.index.ceiling_by(|point| point.log_bytes < excess)
        };
        by_time
            .max(by_size)
            .filter(|point| point.log_index > self.begin.log_index)
    }

    /// The point behind the last counted entry, where the next one will be counted; `applied` is the last applied log index.
    pub(crate) fn end_behind(&self, applied: u64) -> IndexPoint {
        IndexPoint {
            log_index: applied + 1,
            sequence: self.next,
            enqueued: self.last_enqueued,
            log_bytes: self.log_bytes,
        }
    }

    /// Moves the begin to `log_index`; no event may lie between it and [`Self::begin`].
    pub(crate) fn begin_at(&mut self, log_index: u64) {
        self.begin.log_index = log_index;
    }

    /// Moves [`Self::begin`] forward to `point`, which [`Self::retention_point`] gave, and drops the index before it.
    pub fn trim(&mut self, point: IndexPoint) {
        if point.log_index > self.begin.log_index {
            self.begin = point;
            self.index.trim(point.log_index);
            self.skipped = self.skipped.split_off(&point.log_index);
        }
    }
}
