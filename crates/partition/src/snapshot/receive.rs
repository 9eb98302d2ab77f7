//! The receiving side: checks each chunk and gathers the log in files beside the database.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_consensus::{GroupId, LogPosition, SealedSnapshot, SnapshotSink, StoredEntry};
use holdfast_model::PartitionId;
use holdfast_proto::partition::v1 as proto;
use holdfast_storage::{Disk, DiskGuard, Family, Staged, Staging, StorageError, layout};
use prost::Message;

use super::wire::{self, Kind, LENGTH_BYTES, MAX_ENTRY_BYTES};
use crate::log::record::EntryView;
use crate::state::device_state::{decode_key, decode_record};
use crate::state::store::device_key;
use crate::state::{Head, IndexPoint, Spacing, State};

/// The free disk space is checked again after this many bytes: other writers use it too.
const SPACE_CHECK_BYTES: u64 = 64 << 20;

/// A complete and durable snapshot, for [`crate::machine::Machine`] to install.
pub(crate) struct Received {
    pub(crate) state: State,
    pub(crate) position: LogPosition,
    /// The log begins after this entry.
    pub(crate) retained_after: LogPosition,
    pub(crate) log: Staged,
    /// `None`: there is none.
    pub(crate) device_states: Option<Staged>,
    /// In the keys of `device_states`.
    pub(crate) device_state_epoch: u32,
}

/// A snapshot being received.
pub(crate) struct Sink {
    id: PartitionId,
    group: GroupId,
    spacing: Spacing,
    /// `None`: the snapshot is checked and not kept.
    files: Option<Files>,
    device_state_count: u64,
    last_device_key: Bytes,
    number: u32,
    last: Option<Kind>,
    head: Option<proto::SnapshotHead>,
    points: VecDeque<IndexPoint>,
    skipped: BTreeSet<u64>,
    /// Present once head, points and skipped entries are complete.
    log: Option<Log>,
    /// The beginning of an entry that continues in the next chunk.
    cut: Vec<u8>,
}

/// Where a snapshot is gathered.
struct Files {
    guard: Arc<DiskGuard>,
    disk: Arc<dyn Disk>,
    log: Staging,
    /// There once device state has come.
    device_states: Option<Staging>,
    device_state_epoch: u32,
    space_checked_at: u64,
}

impl Files {
    /// Refuses a snapshot that would leave too little space; checked every [`SPACE_CHECK_BYTES`].
    fn check_space(&mut self) -> Result<(), StorageError> {
        let bytes = self.log.bytes() + self.device_states.as_ref().map_or(0, Staging::bytes);
        if bytes - self.space_checked_at >= SPACE_CHECK_BYTES {
            self.space_checked_at = bytes;
            self.guard.check_space_for(0)?;
        }
        Ok(())
    }

    fn put_device_state(&mut self, group: GroupId, key: &[u8], record: &[u8]) -> Result<(), StorageError> {
        let mut staging = match self.device_states.take() {
            Some(staging) => staging,
            None => Staging::new(self.disk.clone(), Family::DeviceState, group.0)?,
        };
        staging.put(&device_key(group.0, self.device_state_epoch, key), record)?;
        self.device_states = Some(staging);
        Ok(())
    }
}

/// The log received so far, numbered as apply did.
struct Log {
    head: Head,
    state: State,
    next_index: u64,
    /// The place of the last entry.
    position: Option<LogPosition>,
    first: Option<LogPosition>,
    counted: IndexPoint,
    entries: u64,
    bytes: u64,
}

impl Sink {
    pub(crate) fn new(
        id: PartitionId,
        disk: Arc<dyn Disk>,
        guard: Arc<DiskGuard>,
        spacing: Spacing,
        device_state_epoch: u32,
    ) -> Result<Self, StorageError> {
        let group = GroupId::partition(id.0);
        let log = Staging::new(disk.clone(), group.family_of_log(), group.0)?;
        let files = Files {
            guard,
            disk,
            log,
            device_states: None,
            device_state_epoch,
            space_checked_at: 0,
        };
        Ok(Self {
            files: Some(files),
            ..Self::checking(id, spacing)
        })
    }

    /// A sink that checks a snapshot and keeps nothing of it; it cannot be sealed.
    pub(crate) fn checking(id: PartitionId, spacing: Spacing) -> Self {
        Self {
            id,
            group: GroupId::partition(id.0),
            spacing,
            files: None,
            device_state_count: 0,
            last_device_key: Bytes::new(),
            number: 0,
            last: None,
            head: None,
            points: VecDeque::new(),
            skipped: BTreeSet::new(),
            log: None,
            cut: Vec::new(),
        }
    }

    /// Whether the whole snapshot has been taken.
    pub(crate) fn has_ended(&self) -> bool {
        self.last == Some(Kind::End)
    }

    fn damaged(&self, reason: impl ToString) -> StorageError {
        StorageError::Damaged {
            file: format!("snapshot of partition {}", self.id.0),
            offset: None,
            reason: reason.to_string(),
        }
    }

    fn take_head(&mut self, payload: Bytes) -> Result<(), StorageError> {
        let head = proto::SnapshotHead::decode(payload).map_err(|error| self.damaged(error))?;
        if head.version != wire::VERSION {
            return Err(self.damaged(format!(
                "it has version {}; this version of Holdfast knows {}",
                head.version,
                wire::VERSION
            )));
        }
        if head.partition != u32::from(self.id.0) {
            return Err(self.damaged(format!("it is of partition {}", head.partition)));
        }
        if let Some(files) = &mut self.files {
            files.guard.check_space_for(head.log_bytes)?;
            files.log.expect(head.log_bytes);
        }
        self.head = Some(head);
        Ok(())
    }

    fn take_points(&mut self, payload: Bytes) -> Result<(), StorageError> {
        let points = proto::SnapshotPoints::decode(payload).map_err(|error| self.damaged(error))?;
        if self.points.len() + points.points.len() > State::MAX_POINTS {
            return Err(self.damaged("its index has too many points"));
        }
        self.points.extend(points.points.into_iter().map(IndexPoint::from));
        Ok(())
    }

    fn take_skipped(&mut self, payload: Bytes) -> Result<(), StorageError> {
        let skipped = proto::SnapshotSkipped::decode(payload).map_err(|error| self.damaged(error))?;
        self.skipped.extend(skipped.log_indexes);
        Ok(())
    }

    fn take_device_states(&mut self, payload: Bytes) -> Result<(), StorageError> {
        let states = proto::SnapshotDeviceStates::decode(payload).map_err(|error| self.damaged(error))?;
        for state in states.states {
            if decode_key(&state.key).is_none() {
                return Err(self.damaged("a device state has no name"));
            }
            decode_record(&state.record).map_err(|error| self.damaged(error))?;
            if state.key <= self.last_device_key {
                return Err(self.damaged("its device states do not ascend"));
            }
            if let Some(files) = &mut self.files {
                files.put_device_state(self.group, &state.key, &state.record)?;
            }
            self.last_device_key = state.key;
            self.device_state_count += 1;
        }
        self.check_space()
    }

    fn check_space(&mut self) -> Result<(), StorageError> {
        self.files.as_mut().map_or(Ok(()), Files::check_space)
    }

    /// Assembles the state once all its parts have arrived.
    fn log(&mut self) -> Result<Log, StorageError> {
        if let Some(log) = self.log.take() {
            return Ok(log);
        }
        let head = self.head.as_ref().ok_or_else(|| self.damaged("its head is missing"))?;
        let (first_index, state) = (head.first_index, head.state.clone());
        let (points, skipped) = (std::mem::take(&mut self.points), std::mem::take(&mut self.skipped));
        let (head, mut state) =
            State::restore(&state, points, skipped, self.spacing).map_err(|error| self.damaged(error))?;
        if first_index == 0 || first_index < state.begin().log_index || first_index > head.index + 1 {
            return Err(self.damaged("its log does not begin where its events do"));
        }
        if first_index > state.begin().log_index && (state.begin().log_index, first_index) != (0, 1) {
            return Err(self.damaged("its log begins after its events"));
        }
        state.begin_at(first_index);
        Ok(Log {
            next_index: first_index,
            position: None,
            first: None,
            counted: state.begin(),
            head,
            state,
            entries: 0,
            bytes: 0,
        })
    }

    fn take_log(&mut self, mut payload: &[u8]) -> Result<(), StorageError> {
        let mut log = self.log()?;
        while !payload.is_empty() {
            if self.cut.is_empty()
                && let Some((entry, rest)) = whole_entry(payload)
            {
                self.take_entry(&mut log, entry)?;
                payload = rest;
                continue;
            }
            // First the length, then the entry; takes only the bytes needed of each.
            let wanted = match length_of(&self.cut) {
                None => LENGTH_BYTES,
                Some(length) if length > MAX_ENTRY_BYTES => return Err(self.damaged("an entry is too long")),
                Some(length) => LENGTH_BYTES + length,
            };
            let taken = payload.len().min(wanted - self.cut.len());
            self.cut.extend_from_slice(&payload[..taken]);
            payload = &payload[taken..];
            if whole_entry(&self.cut).is_some() {
                let cut = std::mem::take(&mut self.cut);
                self.take_entry(&mut log, &cut[LENGTH_BYTES..])?;
            }
        }
        self.log = Some(log);
        self.check_space()
    }

    fn take_entry(&mut self, log: &mut Log, stored: &[u8]) -> Result<(), StorageError> {
        let index = log.next_index;
        if index > log.head.index {
            return Err(self.damaged("an entry lies beyond its state"));
        }
        let entry = StoredEntry::read(self.group, index, stored)?;
        if log.position.is_some_and(|last| last.term > entry.position.term) {
            return Err(self.damaged("the terms of its entries go back"));
        }
        if let Some(proposed) = entry.proposed
            && !log.state.is_skipped(index)
        {
            log.count(index, proposed).map_err(|reason| self.damaged(reason))?;
        }
        if let Some(files) = &mut self.files {
            files.log.put(&layout::log_key(self.group.0, index), stored)?;
        }
        log.first = log.first.or(Some(entry.position));
        log.position = Some(entry.position);
        log.next_index += 1;
        log.entries += 1;
        log.bytes += stored.len() as u64;
        Ok(())
    }

    fn take_end(&mut self, payload: Bytes) -> Result<(), StorageError> {
        let end = proto::SnapshotEnd::decode(payload).map_err(|error| self.damaged(error))?;
        let log = self.log()?;
        let state = &log.state;
        let (points, skipped) = state.part_counts();
        let is_whole = self.cut.is_empty()
            && (end.entries, end.bytes) == (log.entries, log.bytes)
            && (end.points, end.skipped) == (points as u64, skipped as u64)
            && end.device_states == self.device_state_count
            && log.next_index == log.head.index + 1
            && log.position.is_none_or(|last| last == log.head.position());
        if !is_whole {
            return Err(self.damaged("parts of it are missing"));
        }
        if log.counted.sequence != state.next()
            || log.counted.log_bytes != state.log_bytes()
            || log.counted.enqueued != state.last_enqueued()
        {
            return Err(self.damaged("its entries do not lead to its state"));
        }
        self.log = Some(log);
        Ok(())
    }
}

impl Log {
    /// Numbers an entry as apply did, and compares with the index.
    fn count(&mut self, index: u64, proposed: &[u8]) -> Result<(), &'static str> {
        let header = EntryView::parse(proposed)
            .map_err(|_| "an entry that was counted cannot be read")?
            .header();
        self.counted.enqueued = self.counted.enqueued.max(header.proposed);
        if let Some(point) = self.state.point_at(index)
            && (point.sequence, point.log_bytes, point.enqueued)
                != (self.counted.sequence, self.counted.log_bytes, self.counted.enqueued)
        {
            return Err("its index does not fit its entries");
        }
        self.counted.sequence.0 += u64::from(header.records);
        self.counted.log_bytes += proposed.len() as u64;
        Ok(())
    }
}

fn length_of(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk::<LENGTH_BYTES>()?;
    Some(u32::from_be_bytes(*length) as usize)
}

/// The entry at the front and the rest, if the entry is complete.
fn whole_entry(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = length_of(bytes)?;
    bytes[LENGTH_BYTES..].split_at_checked(length)
}

impl SnapshotSink for Sink {
    fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        let (kind, payload) = wire::decode(chunk, self.number).map_err(|reason| self.damaged(reason))?;
        if !kind.may_follow(self.last) {
            return Err(self.damaged("a chunk is out of order"));
        }
        self.number += 1;
        self.last = Some(kind);
        match kind {
            Kind::Head => self.take_head(payload),
            Kind::Points => self.take_points(payload),
            Kind::Skipped => self.take_skipped(payload),
            Kind::DeviceStates => self.take_device_states(payload),
            Kind::Log => self.take_log(&payload),
            Kind::End => self.take_end(payload),
        }
    }

    fn seal(mut self: Box<Self>) -> Result<SealedSnapshot, StorageError> {
        if self.last != Some(Kind::End) {
            return Err(self.damaged("its end is missing"));
        }
        let log = self.log()?;
        let Some(files) = self.files.take() else {
            return Err(StorageError::Unsupported("keeping a snapshot that is only checked"));
        };
        let position = log.head.position();
        let after = log.first.unwrap_or(position);
        Ok(Box::new(Received {
            // Leader and term of the entry before the first are unknown here; those of the first are not older.
            retained_after: LogPosition {
                index: log.state.begin().log_index - 1,
                ..after
            },
            state: log.state,
            position,
            log: files.log.seal()?,
            device_states: files.device_states.map(Staging::seal).transpose()?,
            device_state_epoch: files.device_state_epoch,
        }))
    }
}
