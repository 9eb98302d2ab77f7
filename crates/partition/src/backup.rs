//! A partition's snapshot outside of the hub: its chunks taken apart for a backup, checked, and put together again.
//!
//! Why: a backup keeps device state and log in objects of its own, so that what has not changed is stored once; the form of
//! a chunk stays in this crate.
//! Invariants: the same checks as for a snapshot of another member ([`crate::snapshot`]) hold for what is verified and
//! restored; a replica is restored as the only voter of its group, in a term above all terms of its log.
//! Not here: objects and files (`backup`).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_consensus::{
    GroupHost, GroupId, LogPosition, SnapshotSink, StateMachine, StoredEntry, set_vote_of, sole_membership,
};
use holdfast_model::{PartitionId, SequenceNumber};
use holdfast_proto::partition::v1 as proto;
use holdfast_storage::{Durability, StorageError, WriteBatch};
use prost::Message;

use crate::config::PartitionConfig;
use crate::machine::Machine;
use crate::shared::Shared;
use crate::snapshot::Sink;
use crate::snapshot::wire::{self, Kind, LENGTH_BYTES, MAX_PAYLOAD_BYTES};
use crate::state::store::Store;
use crate::state::{Head, State};

/// Bytes of a device state in a chunk beside key and record.
const DEVICE_STATE_OVERHEAD_BYTES: usize = 32;

/// A value of device state as a snapshot carries it: the key without group and epoch, and the record.
pub type StateRecord = (Bytes, Bytes);

/// A chunk of a snapshot, by its content.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// The state without what follows; opaque.
    Head(Bytes),
    /// Points of the index; opaque.
    Points(Bytes),
    /// Entries that readers step over; opaque.
    Skipped(Bytes),
    /// Device state, ascending by key.
    DeviceStates(Vec<StateRecord>),
    /// A piece of the stream of entries, each behind its length.
    Log(Bytes),
    /// The end.
    End(Totals),
}

/// The numbers by which a snapshot ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Points of the index.
    pub points: u64,
    /// Entries that readers step over.
    pub skipped: u64,
    /// Values of device state.
    pub device_states: u64,
    /// Entries of the log.
    pub entries: u64,
    /// Their bytes as stored.
    pub bytes: u64,
}

/// What a head says of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadFacts {
    /// The partition.
    pub partition: PartitionId,
    /// The last entry that the state contains.
    pub position: LogPosition,
    /// The first entry of the log; one behind [`Self::position`] when it has none.
    pub first_index: u64,
    /// The oldest event.
    pub begin: SequenceNumber,
    /// The number of the next event.
    pub next: SequenceNumber,
}

/// Takes the chunk apart that should be number `number` of a snapshot.
///
/// # Errors
/// [`StorageError::Damaged`].
pub fn decode_part(chunk: Bytes, number: u32) -> Result<Part, StorageError> {
    let (kind, payload) = wire::decode(chunk, number).map_err(|reason| damaged(&reason))?;
    Ok(match kind {
        Kind::Head => Part::Head(payload),
        Kind::Points => Part::Points(payload),
        Kind::Skipped => Part::Skipped(payload),
        Kind::DeviceStates => {
            let states = proto::SnapshotDeviceStates::decode(payload).map_err(|error| damaged(&error))?;
            Part::DeviceStates(
                states
                    .states
                    .into_iter()
                    .map(|state| (state.key, state.record))
                    .collect(),
            )
        }
        Kind::Log => Part::Log(payload),
        Kind::End => {
            let end = proto::SnapshotEnd::decode(payload).map_err(|error| damaged(&error))?;
            Part::End(Totals {
                points: end.points,
                skipped: end.skipped,
                device_states: end.device_states,
                entries: end.entries,
                bytes: end.bytes,
            })
        }
    })
}

/// Reads the content of [`Part::Head`].
///
/// # Errors
/// [`StorageError::Damaged`].
pub fn head_facts(head: Bytes, config: &PartitionConfig) -> Result<HeadFacts, StorageError> {
    let head = proto::SnapshotHead::decode(head).map_err(|error| damaged(&error))?;
    let restored = State::restore(&head.state, Default::default(), Default::default(), config.spacing());
    let (at, state): (Head, State) = restored.map_err(|error| damaged(&error))?;
    let partition = u16::try_from(head.partition).map_err(|_| damaged(&"its partition is no number of one"))?;
    Ok(HeadFacts {
        partition: PartitionId(partition),
        position: at.position(),
        first_index: head.first_index,
        begin: state.begin().sequence,
        next: state.next(),
    })
}

/// Puts parts together to the chunks of one snapshot.
#[derive(Debug, Default)]
pub struct PartEncoder {
    number: u32,
}

impl PartEncoder {
    /// The chunks of `part`; device state and log may take several, and none if they are empty.
    pub fn encode(&mut self, part: &Part) -> Vec<Bytes> {
        match part {
            Part::Head(payload) => vec![self.chunk(Kind::Head, payload)],
            Part::Points(payload) => vec![self.chunk(Kind::Points, payload)],
            Part::Skipped(payload) => vec![self.chunk(Kind::Skipped, payload)],
            Part::DeviceStates(states) => self.device_states(states),
            Part::Log(payload) => payload
                .chunks(MAX_PAYLOAD_BYTES)
                .map(|piece| self.chunk(Kind::Log, piece))
                .collect(),
            Part::End(totals) => {
                let end = proto::SnapshotEnd {
                    points: totals.points,
                    skipped: totals.skipped,
                    device_states: totals.device_states,
                    entries: totals.entries,
                    bytes: totals.bytes,
                };
                vec![self.chunk(Kind::End, &end.encode_to_vec())]
            }
        }
    }

    fn chunk(&mut self, kind: Kind, payload: &[u8]) -> Bytes {
        let chunk = wire::encode(kind, self.number, payload);
        self.number += 1;
        chunk
    }

    fn device_states(&mut self, states: &[StateRecord]) -> Vec<Bytes> {
        let (mut chunks, mut open, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (key, record) in states {
            let more = key.len() + record.len() + DEVICE_STATE_OVERHEAD_BYTES;
            if bytes + more > MAX_PAYLOAD_BYTES && !open.is_empty() {
                chunks.push(self.states_chunk(&mut open));
                bytes = 0;
            }
            bytes += more;
            open.push(proto::SnapshotDeviceState {
                key: key.clone(),
                record: record.clone(),
            });
        }
        if !open.is_empty() {
            chunks.push(self.states_chunk(&mut open));
        }
        chunks
    }

    fn states_chunk(&mut self, open: &mut Vec<proto::SnapshotDeviceState>) -> Bytes {
        let states = std::mem::take(open);
        self.chunk(
            Kind::DeviceStates,
            &proto::SnapshotDeviceStates { states }.encode_to_vec(),
        )
    }
}

/// Cuts a stream of entries, each behind its length, into entries; pieces may be cut anywhere.
#[derive(Debug, Default)]
pub struct EntryCutter {
    /// An entry whose end has not come.
    begun: BytesMut,
    /// What follows it.
    piece: Bytes,
}

impl EntryCutter {
    /// Adds the next piece of the stream.
    pub fn push(&mut self, piece: Bytes) {
        self.begun.put_slice(&self.piece);
        self.piece = piece;
    }

    /// The next entry that has come completely, with its length in front.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when an entry is longer than any entry.
    pub fn next_entry(&mut self) -> Result<Option<Bytes>, StorageError> {
        // Only an entry that begins in an earlier piece is copied.
        self.complete(LENGTH_BYTES);
        let head = if self.begun.is_empty() {
            &self.piece[..]
        } else {
            &self.begun
        };
        let Some(length) = head.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > wire::MAX_ENTRY_BYTES {
            return Err(damaged(&"an entry is too long"));
        }
        let length = LENGTH_BYTES + length;
        self.complete(length);
        if !self.begun.is_empty() {
            return Ok((self.begun.len() >= length).then(|| self.begun.split_to(length).freeze()));
        }
        Ok((self.piece.len() >= length).then(|| self.piece.split_to(length)))
    }

    /// Moves what is missing of the entry that has begun, so that it has `length` bytes.
    fn complete(&mut self, length: usize) {
        if !self.begun.is_empty() {
            let missing = length.saturating_sub(self.begun.len()).min(self.piece.len());
            self.begun.put_slice(&self.piece.split_to(missing));
        }
    }

    /// Whether all that was pushed has been taken as entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.piece.is_empty()
    }
}

/// Checks that `entry`, with its length in front, is the entry `index` of the partition as it was stored there.
///
/// # Errors
/// [`StorageError::Damaged`].
pub fn check_entry(partition: PartitionId, index: u64, entry: &[u8]) -> Result<LogPosition, StorageError> {
    let stored = entry.get(LENGTH_BYTES..).unwrap_or_default();
    Ok(StoredEntry::read(GroupId::partition(partition.0), index, stored)?.position)
}

/// Checks the chunks of a whole snapshot as a member does that receives it, and keeps nothing.
pub struct SnapshotCheck(Sink);

impl SnapshotCheck {
    /// A check of a snapshot of `partition`.
    #[must_use]
    pub fn new(partition: PartitionId, config: &PartitionConfig) -> Self {
        Self(Sink::checking(partition, config.spacing()))
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`StorageError::Damaged`].
    pub fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        self.0.write(chunk)
    }

    /// Called after the last chunk.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when there is no end.
    pub fn finish(self) -> Result<(), StorageError> {
        match self.0.has_ended() {
            true => Ok(()),
            false => Err(damaged(&"its end is missing")),
        }
    }
}

/// What [`PartitionRestore::begin`] finds.
pub enum Begun {
    /// The partition can be restored.
    Restore(Box<PartitionRestore>),
    /// The disk has it already, up to this position.
    Already(LogPosition),
}

/// A replica that is being restored on a disk without a running hub.
pub struct PartitionRestore {
    id: PartitionId,
    host: GroupHost,
    machine: Machine,
    sink: Box<dyn SnapshotSink>,
}

impl PartitionRestore {
    /// Begins to restore `id`.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn begin(id: PartitionId, host: &GroupHost, config: &PartitionConfig) -> Result<Begun, StorageError> {
        let interval = config.state_interval.bytes();
        let (store, recovered) = Store::recover(host.disk.clone(), id, config.spacing(), interval, false)?;
        if let Some(position) = recovered.position {
            return Ok(Begun::Already(position));
        }
        let shared = Shared::new(id, config.clone(), host.blocking_pool, None, recovered);
        let mut machine = Machine::new(shared, Arc::new(store), host);
        let sink = machine.receive()?;
        Ok(Begun::Restore(Box::new(Self {
            id,
            host: host.clone(),
            machine,
            sink,
        })))
    }

    /// Takes the next chunk. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when it is none of the snapshot; other errors of the disk.
    pub fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        self.sink.write(chunk)
    }

    /// Installs the snapshot of `position`; afterwards this node alone votes in the partition. Atomic over crashes. Blocks.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn finish(mut self, position: LogPosition) -> Result<(), StorageError> {
        let sealed = self.sink.seal()?;
        let mut vote = WriteBatch::new();
        set_vote_of(&mut vote, GroupId::partition(self.id.0), position);
        self.host.disk.write(&vote, Durability::Logged)?;
        // The installation reaches the disk by itself: the vote must be there before it.
        self.host.disk.sync()?;
        let membership = sole_membership(position, self.host.node)?;
        self.machine.restore(position, membership, sealed)?;
        Ok(())
    }
}

fn damaged(reason: &dyn std::fmt::Display) -> StorageError {
    StorageError::Damaged {
        file: "snapshot of a partition".to_owned(),
        offset: None,
        reason: reason.to_string(),
    }
}
