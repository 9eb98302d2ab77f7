//! The state in bytes: one record for the counters and streams, one for each point of the index and each skipped entry.
//!
//! Why in parts: the index grows with the log; writing all of it every time would cost more than the log itself.
//! Form: `PartitionState` and `IndexPoint` of `proto/holdfast/partition/v1`; a skipped entry is its key alone.
//! Invariants: loaded state is checked like external input, since a wrong counter would number every later event wrongly.
//! Not here: keys, and writing to the disk (`store`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use holdfast_consensus::LogPosition;
use holdfast_model::{Incarnation, NodeId, SequenceNumber, Term, UnixMillis};
use holdfast_proto::partition::v1 as proto;
use prost::Message;
use thiserror::Error;

use super::streams::{MAX_STREAMS, Position};
use super::{AbsentGateways, Index, IndexPoint, MAX_ABSENT_GATEWAYS, Spacing, State, Streams};

/// The version of a state that no effect has touched.
const STATE_VERSION: u32 = 1;
/// The version of any other state; the newest that this version of Holdfast knows.
const EFFECTS_VERSION: u32 = 2;

/// The applied position of a state, and the membership there, which is opaque here and belongs to `consensus`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Term of the last applied entry.
    pub term: Term,
    /// Leader of that term.
    pub node: NodeId,
    /// Log index of the last applied entry of any kind.
    pub index: u64,
    /// Empty = none.
    pub membership: Bytes,
    /// The number in the keys of this replica's device state.
    pub device_state_epoch: u32,
}

impl Head {
    /// The position of the last applied entry.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        LogPosition {
            term: self.term,
            node: self.node,
            index: self.index,
        }
    }
}

/// The stored state cannot be used. Replaying the log from its start is impossible once retention has run, so the node
/// must stop.
#[derive(Debug, Error)]
pub enum StoredStateError {
    /// Not the protobuf message that should be there.
    #[error("the stored partition state cannot be decoded")]
    Decode(#[from] prost::DecodeError),
    /// A later version wrote it.
    #[error("the stored partition state has version {0}; this version of Holdfast knows {EFFECTS_VERSION}")]
    Version(u32),
    /// Its parts contradict each other.
    #[error("the stored partition state is damaged: {0}")]
    Damaged(&'static str),
}

impl IndexPoint {
    /// As stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        proto::IndexPoint::from(*self).encode_to_vec()
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`StoredStateError::Decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, StoredStateError> {
        Ok(proto::IndexPoint::decode(bytes)?.into())
    }
}

impl From<IndexPoint> for proto::IndexPoint {
    fn from(point: IndexPoint) -> Self {
        Self {
            log_index: point.log_index,
            sequence: point.sequence.0,
            enqueued_ms: point.enqueued.0,
            log_bytes: point.log_bytes,
        }
    }
}

impl From<proto::IndexPoint> for IndexPoint {
    fn from(point: proto::IndexPoint) -> Self {
        Self {
            log_index: point.log_index,
            sequence: SequenceNumber(point.sequence),
            enqueued: UnixMillis(point.enqueued_ms),
            log_bytes: point.log_bytes,
        }
    }
}

/// The changes of the parts since they were last stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Points to store.
    pub points: Vec<IndexPoint>,
    /// Log indexes of points to remove.
    pub dropped: Vec<u64>,
    /// Log indexes of skipped entries to store.
    pub skipped: Vec<u64>,
}

impl State {
    /// The counters and streams, as stored.
    #[must_use]
    pub fn encode_head(&self, head: &Head) -> Vec<u8> {
        let streams = self
            .streams
            .positions
            .iter()
            .map(|((gateway_node, core), position)| proto::Stream {
                gateway_node: gateway_node.get(),
                core: *core,
                incarnation: position.incarnation.get(),
                last_batch: position.last_batch,
                last_used: position.last_used,
            });
        proto::PartitionState {
            version: if self.has_effects {
                EFFECTS_VERSION
            } else {
                STATE_VERSION
            },
            applied_term: head.term.get(),
            applied_node: head.node.get(),
            applied_index: head.index,
            membership: head.membership.clone(),
            next_sequence: self.next.0,
            last_enqueued_ms: self.last_enqueued.0,
            log_bytes: self.log_bytes,
            begin: Some(self.begin.into()),
            index_doublings: self.index.doublings,
            streams: streams.collect(),
            absent_gateways: if self.has_effects {
                self.absent_gateways.iter().map(u64::from).collect()
            } else {
                Vec::new()
            },
            device_state_epoch: head.device_state_epoch,
        }
        .encode_to_vec()
    }

    /// The changes to store beside the head when everything up to log index `stored` has been stored before.
    pub fn take_changes(&mut self, stored: u64) -> Changes {
        let first = self.index.points.partition_point(|point| point.log_index <= stored);
        Changes {
            points: self.index.points.range(first..).copied().collect(),
            dropped: std::mem::take(&mut self.index.dropped),
            skipped: self.skipped.range(stored + 1..).copied().collect(),
        }
    }

    /// Takes all points and skipped entries, which are stored beside the head, out of the state.
    pub(crate) fn parts(&mut self) -> (VecDeque<IndexPoint>, VecDeque<u64>) {
        let points = std::mem::take(&mut self.index.points);
        (points, std::mem::take(&mut self.skipped).into_iter().collect())
    }

    /// The numbers of points and skipped entries.
    pub(crate) fn part_counts(&self) -> (usize, usize) {
        (self.index.points.len(), self.skipped.len())
    }

    /// [`State::begin`] of a stored head, without the rest.
    ///
    /// # Errors
    /// [`StoredStateError::Decode`], [`StoredStateError::Version`].
    pub fn decode_begin(head: &[u8]) -> Result<IndexPoint, StoredStateError> {
        Ok(decode_head(head)?.begin.unwrap_or_default().into())
    }

    /// Assembles a state from its stored parts.
    ///
    /// # Errors
    /// [`StoredStateError`] when a part cannot be decoded or contradicts the others.
    pub fn restore(
        head: &[u8],
        points: VecDeque<IndexPoint>,
        skipped: BTreeSet<u64>,
        spacing: Spacing,
    ) -> Result<(Head, Self), StoredStateError> {
        let stored = decode_head(head)?;
        let mut index = Index::new(spacing);
        index.doublings = stored.index_doublings;
        index.points = points;
        let has_effects = stored.version == EFFECTS_VERSION;
        let streams = restore_streams(stored.streams)?;
        if stored.absent_gateways.len() > MAX_ABSENT_GATEWAYS {
            return Err(StoredStateError::Damaged("there are too many absent gateways"));
        }
        let absent_gateways = if has_effects {
            AbsentGateways::restored(stored.absent_gateways)
        } else {
            AbsentGateways::of_streams(&streams)
        };
        let state = Self {
            next: SequenceNumber(stored.next_sequence),
            last_enqueued: UnixMillis(stored.last_enqueued_ms),
            log_bytes: stored.log_bytes,
            begin: stored.begin.unwrap_or_default().into(),
            streams,
            index,
            skipped,
            absent_gateways,
            has_effects,
        };
        let head = Head {
            term: Term(stored.applied_term),
            node: NodeId(stored.applied_node),
            index: stored.applied_index,
            membership: stored.membership,
            device_state_epoch: stored.device_state_epoch,
        };
        state.check(&head)?;
        Ok((head, state))
    }

    fn check(&self, head: &Head) -> Result<(), StoredStateError> {
        let damaged = |what| Err(StoredStateError::Damaged(what));
        if self.index.doublings > 32 {
            return damaged("the index spacing is out of range");
        }
        let points = &self.index.points;
        let end = IndexPoint {
            log_index: head.index + 1,
            sequence: self.next,
            enqueued: self.last_enqueued,
            log_bytes: self.log_bytes,
        };
        let ascending = points
            .iter()
            .zip(points.iter().skip(1))
            .all(|(earlier, later)| earlier.is_before(later));
        if !ascending
            || points
                .iter()
                .any(|point| point.log_index > head.index || !point.is_before(&end))
        {
            return damaged("the index does not ascend towards the end of the log");
        }
        // All entries may have been removed, or there may have been none.
        let behind_end = IndexPoint {
            log_index: end.log_index + 1,
            ..end
        };
        if !self.begin.is_before(&behind_end)
            || points
                .front()
                .is_some_and(|first| first.log_index < self.begin.log_index)
        {
            return damaged("the log begins after its end or after its index");
        }
        if self.skipped.last().is_some_and(|last| *last > head.index) {
            return damaged("a skipped entry lies beyond the end of the log");
        }
        Ok(())
    }
}

fn decode_head(head: &[u8]) -> Result<proto::PartitionState, StoredStateError> {
    let stored = proto::PartitionState::decode(head)?;
    if (STATE_VERSION..=EFFECTS_VERSION).contains(&stored.version) {
        Ok(stored)
    } else {
        Err(StoredStateError::Version(stored.version))
    }
}

impl IndexPoint {
    fn is_before(&self, later: &Self) -> bool {
        self.log_index < later.log_index
            && self.sequence <= later.sequence
            && self.enqueued <= later.enqueued
            && self.log_bytes <= later.log_bytes
    }
}

fn restore_streams(stored: Vec<proto::Stream>) -> Result<Streams, StoredStateError> {
    let count = stored.len();
    let positions: BTreeMap<_, _> = stored
        .into_iter()
        .map(|stream| {
            let position = Position {
                incarnation: Incarnation(stream.incarnation),
                last_batch: stream.last_batch,
                last_used: stream.last_used,
            };
            ((NodeId(stream.gateway_node), stream.core), position)
        })
        .collect();
    if count > MAX_STREAMS || positions.len() != count {
        return Err(StoredStateError::Damaged(
            "a stream is there twice, or there are too many",
        ));
    }
    Ok(Streams { positions })
}
