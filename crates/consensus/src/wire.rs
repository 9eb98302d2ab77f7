//! The messages between the members of a group, encoded by hand: an append carries every byte that a replica stores.
//!
//! ```text
//! request   version 1 │ kind 1 │ …          numbers are big-endian
//! answer    code 1 │ …                      the request says what a code means
//! vote      term 8 │ node 8 │ committed 1
//! place     present 1 │ term 8 │ node 8 │ index 8
//! ```
//!
//! Invariants: every received message is checked before it reaches the engine: lengths, numbers, order, checksums. A
//! payload is copied neither when it is sent nor when it is received. A new field goes after the others of its message, a
//! new message has a new kind; a decoder ignores trailing bytes that it does not know.
//! Not here: entries in an append ([`append`]), the parts of a snapshot (`snapshot`).

pub(crate) mod append;
pub(crate) mod group;
pub(crate) mod vote;

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_model::NodeId;
use thiserror::Error;

use crate::ids::{LeaderId, LogId, Vote};

/// The version of everything in this module.
pub(crate) const VERSION: u8 = 1;

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Entries of the leader, or its heartbeat.
    Append = 1,
    /// A vote.
    Vote = 2,
    /// Whether a vote would be granted.
    PreVote = 3,
    /// The leader requests that the receiver stand for election.
    TransferLeader = 4,
    /// An entry to be proposed by the leader.
    Propose = 5,
    /// The index to be applied for a linearizable read.
    ReadIndex = 6,
    /// The same for a lease.
    Lease = 7,
    /// A state, in parts.
    Snapshot = 8,
    /// The receiver's state, in parts.
    Export = 9,
}

impl Kind {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Append,
            2 => Self::Vote,
            3 => Self::PreVote,
            4 => Self::TransferLeader,
            5 => Self::Propose,
            6 => Self::ReadIndex,
            7 => Self::Lease,
            8 => Self::Snapshot,
            9 => Self::Export,
            _ => return None,
        })
    }
}

/// Why a message of another node is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum WireError {
    #[error("the message ends too early")]
    Short,
    #[error(
        "this node speaks version {VERSION} of the group protocol, not {0}: upgrade the older one of the two nodes"
    )]
    Version(u8),
    #[error("unknown request {0}")]
    Kind(u8),
    #[error("{0}")]
    Invalid(&'static str),
}

/// Decodes a message from its front.
pub(crate) struct Cursor(pub(crate) Bytes);

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Entries hold customers' data: never in a log line.
        write!(f, "Cursor({} bytes)", self.0.len())
    }
}

impl Cursor {
    pub(crate) fn take(&mut self, length: usize) -> Result<Bytes, WireError> {
        if self.0.len() < length {
            return Err(WireError::Short);
        }
        Ok(self.0.split_to(length))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let bytes = *self.0.first_chunk::<N>().ok_or(WireError::Short)?;
        let _ = self.take(N)?;
        Ok(bytes)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Invalid("a flag is neither 0 nor 1")),
        }
    }

    pub(crate) fn vote(&mut self) -> Result<Vote, WireError> {
        let leader_id = LeaderId {
            term: self.u64()?,
            node_id: NodeId(self.u64()?),
        };
        Ok(Vote {
            leader_id,
            committed: self.bool()?,
        })
    }

    pub(crate) fn place(&mut self) -> Result<Option<LogId>, WireError> {
        let present = self.bool()?;
        let leader_id = LeaderId {
            term: self.u64()?,
            node_id: NodeId(self.u64()?),
        };
        let id = LogId::new(leader_id, self.u64()?);
        Ok(present.then_some(id))
    }
}

/// Decodes the kind of a request; the cursor then points behind it.
pub(crate) fn decode(body: Bytes) -> Result<(Kind, Cursor), WireError> {
    let mut cursor = Cursor(body);
    let version = cursor.u8()?;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let kind = cursor.u8()?;
    Ok((Kind::from_byte(kind).ok_or(WireError::Kind(kind))?, cursor))
}

/// The beginning of a request.
pub(crate) fn request(kind: Kind, capacity: usize) -> BytesMut {
    let mut body = BytesMut::with_capacity(capacity);
    body.put_u8(VERSION);
    body.put_u8(kind as u8);
    body
}

pub(crate) fn put_vote(body: &mut BytesMut, vote: &Vote) {
    body.put_u64(vote.leader_id.term);
    body.put_u64(vote.leader_id.node_id.get());
    body.put_u8(u8::from(vote.committed));
}

pub(crate) fn put_place(body: &mut BytesMut, place: Option<&LogId>) {
    body.put_u8(u8::from(place.is_some()));
    body.put_u64(place.map_or(0, |id| id.leader_id.term));
    body.put_u64(place.map_or(0, |id| id.leader_id.node_id.get()));
    body.put_u64(place.map_or(0, |id| id.index));
}

#[cfg(test)]
mod tests;
