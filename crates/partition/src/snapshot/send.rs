//! The sending side: a copy of the state, and the log read chunk by chunk while entries keep being applied.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_consensus::{GroupId, LogPosition, LogScope, StoredEntry};
use holdfast_proto::partition::v1 as proto;
use holdfast_storage::{Disk, Family, OnFatal, StorageError, View, layout};
use prost::Message;

use super::wire::{self, Kind, LENGTH_BYTES, MAX_PAYLOAD_BYTES};
use crate::shared::Shared;
use crate::state::{Head, IndexPoint, State};

/// Points in a chunk: each takes up to 48 bytes.
const POINTS_PER_CHUNK: usize = 16_384;
/// Skipped entries in a chunk: each takes up to 10 bytes.
const SKIPPED_PER_CHUNK: usize = 65_536;
/// Bytes of a device state in a chunk beside key and record.
const DEVICE_STATE_OVERHEAD_BYTES: usize = 32;
/// Bytes of group and epoch in front of a key of device state.
const DEVICE_PREFIX_BYTES: usize = 8;

/// Keeps retention from deleting the log from an index on, until it is dropped.
pub(crate) struct RetentionHold {
    shared: Arc<Shared>,
    id: u64,
}

impl RetentionHold {
    /// Holds the readable log of `log` and copies the state, at one moment. `None` when nothing has been applied.
    pub(crate) fn take(shared: &Arc<Shared>, log: LogScope) -> Option<Held> {
        let mut inner = shared.lock();
        let position = inner.position?;
        let (mut state, membership) = (inner.state.clone(), inner.membership.clone());
        let device_state_epoch = inner.device_states.epoch();
        // Entry 0 is the group's first membership, after which every log begins that a snapshot has brought.
        let mut from = state.begin().log_index.max(1);
        match log {
            LogScope::All => {}
            LogScope::After(index) => from = from.max(index.saturating_add(1)).min(position.index + 1),
            LogScope::None => {
                let end = state.end_behind(position.index);
                state.trim(end);
                from = end.log_index;
            }
        }
        let id = inner.hold(from);
        drop(inner);
        let hold = Self {
            shared: shared.clone(),
            id,
        };
        Some(Held {
            hold,
            state,
            from,
            position,
            membership,
            device_state_epoch,
        })
    }
}

/// A copy of the state, and the hold on its log.
pub(crate) struct Held {
    hold: RetentionHold,
    state: State,
    /// The first entry that is sent.
    from: u64,
    pub(crate) position: LogPosition,
    pub(crate) membership: Bytes,
    pub(crate) device_state_epoch: u32,
}

impl Drop for RetentionHold {
    fn drop(&mut self) {
        self.shared.lock().release(self.id);
    }
}

/// The chunks of one snapshot, in order.
pub(crate) struct Source {
    disk: Arc<dyn Disk>,
    on_fatal: OnFatal,
    hold: RetentionHold,
    group: GroupId,
    position: LogPosition,
    /// Encoded when the first chunk is pulled: off the group's thread.
    head: Option<(State, Bytes)>,
    points: VecDeque<IndexPoint>,
    skipped: VecDeque<u64>,
    /// `None`: all of it has been sent.
    device_states: Option<View>,
    /// One that did not fit the chunk before.
    held_back: Option<proto::SnapshotDeviceState>,
    /// The next entry to be read.
    next_index: u64,
    /// Bytes read from the log; those from `sent` on are not sent yet.
    log: Vec<u8>,
    sent: usize,
    number: u32,
    end: proto::SnapshotEnd,
    ended: bool,
}

impl Source {
    pub(crate) fn new(disk: Arc<dyn Disk>, on_fatal: OnFatal, held: Held, device_states: View) -> Self {
        let Held {
            hold,
            state,
            from,
            position,
            membership,
            ..
        } = held;
        Self {
            disk,
            on_fatal,
            group: GroupId::partition(hold.shared.id.0),
            hold,
            position,
            head: Some((state, membership)),
            points: VecDeque::new(),
            skipped: VecDeque::new(),
            device_states: Some(device_states),
            held_back: None,
            next_index: from,
            log: Vec::new(),
            sent: 0,
            number: 0,
            end: proto::SnapshotEnd::default(),
            ended: false,
        }
    }

    /// The next chunk; `None` after the end. Blocks on the disk.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Bytes>, StorageError> {
        let (kind, payload) = if let Some((mut state, membership)) = self.head.take() {
            (Kind::Head, self.head(&mut state, membership))
        } else if !self.points.is_empty() {
            (Kind::Points, self.points())
        } else if !self.skipped.is_empty() {
            (Kind::Skipped, self.skipped())
        } else if let Some(payload) = self.device_states()? {
            (Kind::DeviceStates, payload)
        } else if let Some(piece) = self.log()? {
            let chunk = wire::encode(Kind::Log, self.number, self.log.get(piece).unwrap_or_default());
            self.number += 1;
            return Ok(Some(chunk));
        } else if !self.ended {
            self.ended = true;
            (Kind::End, self.end.encode_to_vec())
        } else {
            return Ok(None);
        };
        let chunk = wire::encode(kind, self.number, &payload);
        self.number += 1;
        Ok(Some(chunk))
    }

    fn head(&mut self, state: &mut State, membership: Bytes) -> Vec<u8> {
        let LogPosition { term, node, index } = self.position;
        // That of the whole log, also where an export carries only its end.
        let first_index = state.begin().log_index.max(1);
        let head = Head {
            term,
            node,
            index,
            membership,
            // Of the receiving replica.
            device_state_epoch: 0,
        };
        let (points, skipped) = state.parts();
        self.points = points;
        self.skipped = skipped;
        self.end.points = self.points.len() as u64;
        self.end.skipped = self.skipped.len() as u64;
        proto::SnapshotHead {
            version: wire::VERSION,
            partition: self.hold.shared.id.0.into(),
            state: state.encode_head(&head).into(),
            first_index,
            log_bytes: state.retained_bytes(),
        }
        .encode_to_vec()
    }

    fn points(&mut self) -> Vec<u8> {
        let count = self.points.len().min(POINTS_PER_CHUNK);
        let points = self.points.drain(..count).map(Into::into).collect();
        proto::SnapshotPoints { points }.encode_to_vec()
    }

    fn skipped(&mut self) -> Vec<u8> {
        let count = self.skipped.len().min(SKIPPED_PER_CHUNK);
        let log_indexes = self.skipped.drain(..count).collect();
        proto::SnapshotSkipped { log_indexes }.encode_to_vec()
    }

    /// The next device state; `None` when all of it has been sent.
    fn device_states(&mut self) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(view) = &mut self.device_states else {
            return Ok(None);
        };
        let (mut states, mut bytes) = (Vec::new(), 0);
        loop {
            let next = match self.held_back.take() {
                Some(held_back) => Some(held_back),
                None => view.next()?.map(|(key, record)| proto::SnapshotDeviceState {
                    key: Bytes::copy_from_slice(key.get(DEVICE_PREFIX_BYTES..).unwrap_or_default()),
                    record: Bytes::copy_from_slice(record),
                }),
            };
            let Some(state) = next else {
                self.device_states = None;
                break;
            };
            bytes += state.key.len() + state.record.len() + DEVICE_STATE_OVERHEAD_BYTES;
            if bytes > MAX_PAYLOAD_BYTES && !states.is_empty() {
                self.held_back = Some(state);
                break;
            }
            states.push(state);
        }
        self.end.device_states += states.len() as u64;
        let chunk = (!states.is_empty()).then(|| proto::SnapshotDeviceStates { states }.encode_to_vec());
        Ok(chunk)
    }

    /// Where the next piece of the log is in [`Self::log`]; `None` when all of it has been sent.
    fn log(&mut self) -> Result<Option<Range<usize>>, StorageError> {
        if self.log.len() - self.sent < MAX_PAYLOAD_BYTES {
            self.log.drain(..self.sent);
            self.sent = 0;
            self.read()?;
        }
        let piece = self.sent..self.log.len().min(self.sent + MAX_PAYLOAD_BYTES);
        self.sent = piece.end;
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }

    /// Reads entries until there are enough for a chunk.
    fn read(&mut self) -> Result<(), StorageError> {
        let to = self.position.index + 1;
        if self.next_index >= to {
            return Ok(());
        }
        let keys = (
            layout::log_key(self.group.0, self.next_index),
            layout::log_key(self.group.0, to),
        );
        let (group, log, next_index, end) = (self.group, &mut self.log, &mut self.next_index, &mut self.end);
        let mut failed = None;
        let mut full = false;
        let hole = |index| StorageError::Hole { group: group.0, index };
        self.disk.scan(Family::Log, &keys.0, &keys.1, &mut |key, stored| {
            let checked = match layout::parse_log_key(key) {
                // Checked here, so that a damaged replica reports its damage instead of sending entries that are refused.
                Some((_, index)) if index == *next_index => StoredEntry::read(group, index, stored).map(|_| ()),
                _ => Err(hole(*next_index)),
            };
            if let Err(error) = checked {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            let length = u32::try_from(stored.len()).unwrap_or(u32::MAX);
            log.extend_from_slice(&length.to_be_bytes());
            log.extend_from_slice(stored);
            *next_index += 1;
            end.entries += 1;
            end.bytes += stored.len() as u64;
            full = log.len() >= MAX_PAYLOAD_BYTES + LENGTH_BYTES;
            if full {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if failed.is_none() && !full && self.next_index < to {
            failed = Some(hole(self.next_index));
        }
        match failed {
            Some(error) => {
                (self.on_fatal)(&error);
                Err(error)
            }
            None => Ok(()),
        }
    }
}
