//! Requests of a member to the leader on behalf of its own callers: propose an entry, confirm a read.
//!
//! ```text
//! propose      … │ entry
//!   answer     0 applied (term 8, node 8, index 8, the state machine's answer) │ 1 does not lead (present 1, leader 8)
//!              │ 2 stopped │ 3 too large (bytes 8, limit 8) │ 4 disk full │ 5 outcome unknown
//! read index, lease   …
//!   answer     0 (index 8, age in microseconds 8) │ 1 does not lead (present 1, leader 8) │ 2 no quorum │ 3 stopped
//!              │ 4 not in time
//! ```

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_model::{NodeId, Term};

use super::{Cursor, Kind, WireError, request};
use crate::error::{ProposeError, ReadError};
use crate::position::LogPosition;
use crate::proposal::Applied;

/// The leader's answer to a read request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadPoint {
    /// The index to be applied first.
    pub(crate) index: u64,
    /// How long ago a quorum last confirmed the leader.
    pub(crate) age: Duration,
}

pub(crate) fn encode_propose(entry: Bytes) -> Vec<Bytes> {
    vec![request(Kind::Propose, 2).freeze(), entry]
}

pub(crate) fn encode_read(kind: Kind) -> Bytes {
    request(kind, 2).freeze()
}

fn put_leader(body: &mut BytesMut, leader: Option<NodeId>) {
    body.put_u8(u8::from(leader.is_some()));
    body.put_u64(leader.map_or(0, NodeId::get));
}

fn leader(body: &mut Cursor) -> Result<Option<NodeId>, WireError> {
    let present = body.bool()?;
    let node = body.u64()?;
    Ok(present.then_some(NodeId(node)))
}

pub(crate) fn encode_applied(applied: &Applied) -> Bytes {
    let mut body = BytesMut::with_capacity(32);
    match applied {
        Ok((position, answer)) => {
            body.put_u8(0);
            body.put_u64(position.term.get());
            body.put_u64(position.node.get());
            body.put_u64(position.index);
            body.put_slice(answer);
        }
        // No caller on another node names a term.
        Err(ProposeError::NotLeader { leader } | ProposeError::TermChanged { leader, .. }) => {
            body.put_u8(1);
            put_leader(&mut body, *leader);
        }
        Err(ProposeError::Stopped) => body.put_u8(2),
        Err(ProposeError::TooLarge { bytes, limit }) => {
            body.put_u8(3);
            body.put_u64(*bytes as u64);
            body.put_u64(*limit as u64);
        }
        Err(ProposeError::DiskFull) => body.put_u8(4),
        Err(ProposeError::Unknown) => body.put_u8(5),
    }
    body.freeze()
}

pub(crate) fn decode_applied(body: Bytes) -> Result<Applied, WireError> {
    let mut body = Cursor(body);
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(Err(match body.u8()? {
        0 => {
            let position = LogPosition {
                term: Term(body.u64()?),
                node: NodeId(body.u64()?),
                index: body.u64()?,
            };
            return Ok(Ok((position, body.0)));
        }
        1 => ProposeError::NotLeader {
            leader: leader(&mut body)?,
        },
        2 => ProposeError::Stopped,
        3 => ProposeError::TooLarge {
            bytes: size(body.u64()?),
            limit: size(body.u64()?),
        },
        4 => ProposeError::DiskFull,
        5 => ProposeError::Unknown,
        _ => return Err(WireError::Invalid("an unknown answer to a proposal")),
    }))
}

pub(crate) fn encode_read_point(point: &Result<ReadPoint, ReadError>) -> Bytes {
    let mut body = BytesMut::with_capacity(17);
    match point {
        Ok(point) => {
            body.put_u8(0);
            body.put_u64(point.index);
            body.put_u64(u64::try_from(point.age.as_micros()).unwrap_or(u64::MAX));
        }
        Err(ReadError::NotLeader { leader }) => {
            body.put_u8(1);
            put_leader(&mut body, *leader);
        }
        Err(ReadError::NoQuorum) => body.put_u8(2),
        Err(ReadError::Stopped) => body.put_u8(3),
        Err(ReadError::TimedOut) => body.put_u8(4),
    }
    body.freeze()
}

pub(crate) fn decode_read_point(body: Bytes) -> Result<Result<ReadPoint, ReadError>, WireError> {
    let mut body = Cursor(body);
    Ok(Err(match body.u8()? {
        0 => {
            return Ok(Ok(ReadPoint {
                index: body.u64()?,
                age: Duration::from_micros(body.u64()?),
            }));
        }
        1 => ReadError::NotLeader {
            leader: leader(&mut body)?,
        },
        2 => ReadError::NoQuorum,
        3 => ReadError::Stopped,
        4 => ReadError::TimedOut,
        _ => return Err(WireError::Invalid("an unknown answer about a read")),
    }))
}
