//! Sending the state to a replica that cannot catch up from the log.
//!
//! ```text
//! body   … │ leader's vote 17 │ place: term 8, node 8, index 8 │ length 4 │ membership
//! part   head: 1 │ number 8 │ length 4 │ crc32c 4 over what precedes it and the part │ then the part, a chunk of its own
//! end    2 │ parts 8 │ bytes 8 │ crc32c 4 over what precedes it
//! answer 0 │ vote 17
//! ```
//!
//! The state is read when it is sent: its position is in the body, and newer than the one that the engine requested.
//! Invariants: a part is sent as the state machine gave it, uncopied; one part at a time is in memory at each end beside
//! the transport's buffers; nothing is installed unless the end has been received and its totals match.
//! Not here: the content of a part (the state machine), the installation (`applier`).

pub(crate) mod export;
pub(crate) mod receive;
pub(crate) mod send;

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_model::{NodeId, Term};

use crate::ids::Vote;
use crate::position::LogPosition;
use crate::transport::MAX_CHUNK_BYTES;
use crate::wire::{self, Cursor, Kind, WireError};

/// Longer than any membership.
const MAX_MEMBERSHIP_BYTES: usize = 1 << 20;

/// The first message: everything that the receiver checks before the first part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) vote: Vote,
    /// The last entry that the state contains.
    pub(crate) position: LogPosition,
    /// As the state machine keeps it.
    pub(crate) membership: Bytes,
}

impl Head {
    fn encode(&self) -> Bytes {
        let mut body = wire::request(Kind::Snapshot, 64 + self.membership.len());
        wire::put_vote(&mut body, &self.vote);
        body.put_u64(self.position.term.get());
        body.put_u64(self.position.node.get());
        body.put_u64(self.position.index);
        body.put_u32(u32::try_from(self.membership.len()).unwrap_or(u32::MAX));
        body.put_slice(&self.membership);
        body.freeze()
    }

    pub(crate) fn decode(mut body: Cursor) -> Result<Self, WireError> {
        let vote = body.vote()?;
        let position = LogPosition {
            term: Term(body.u64()?),
            node: NodeId(body.u64()?),
            index: body.u64()?,
        };
        let length = body.u32()? as usize;
        if length > MAX_MEMBERSHIP_BYTES {
            return Err(WireError::Invalid("a membership is too large"));
        }
        let leader = (Term(vote.leader_id.term), vote.leader_id.node_id);
        if !vote.committed || (position.term, position.node) > leader {
            return Err(WireError::Invalid("a snapshot is newer than its leader"));
        }
        Ok(Self {
            vote,
            position,
            membership: body.take(length)?,
        })
    }
}

/// A chunk that is not a part itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// The next chunk is part `number`.
    Part { number: u64, length: u32, sum: u32 },
    /// The totals.
    End { parts: u64, bytes: u64 },
}

impl Mark {
    fn of_part(number: u64, part: &[u8]) -> Bytes {
        let mut chunk = BytesMut::with_capacity(17);
        chunk.put_u8(1);
        chunk.put_u64(number);
        chunk.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
        let sum = crc32c::crc32c_append(crc32c::crc32c(&chunk), part);
        chunk.put_u32(sum);
        chunk.freeze()
    }

    fn of_end(parts: u64, bytes: u64) -> Bytes {
        let mut chunk = BytesMut::with_capacity(21);
        chunk.put_u8(2);
        chunk.put_u64(parts);
        chunk.put_u64(bytes);
        let sum = crc32c::crc32c(&chunk);
        chunk.put_u32(sum);
        chunk.freeze()
    }

    fn decode(chunk: &Bytes) -> Result<Self, WireError> {
        let mut cursor = Cursor(chunk.clone());
        match cursor.u8()? {
            1 => {
                let (number, length, sum) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
                if length as usize > MAX_CHUNK_BYTES {
                    return Err(WireError::Invalid("a part of a snapshot is too large"));
                }
                Ok(Self::Part { number, length, sum })
            }
            2 => {
                let (parts, bytes, sum) = (cursor.u64()?, cursor.u64()?, cursor.u32()?);
                if chunk.get(..17).is_none_or(|end| crc32c::crc32c(end) != sum) {
                    return Err(WireError::Invalid("the end of a snapshot is damaged"));
                }
                Ok(Self::End { parts, bytes })
            }
            _ => Err(WireError::Invalid("an unknown chunk of a snapshot")),
        }
    }

    /// Whether `part` matches `mark`, the chunk before it.
    fn fits(mark: &Bytes, sum: u32, part: &[u8]) -> bool {
        mark.get(..13)
            .is_some_and(|head| crc32c::crc32c_append(crc32c::crc32c(head), part) == sum)
    }
}

fn encode_answer(vote: &Vote) -> Bytes {
    let mut body = BytesMut::with_capacity(18);
    body.put_u8(0);
    wire::put_vote(&mut body, vote);
    body.freeze()
}

fn decode_answer(body: Bytes) -> Result<Vote, WireError> {
    let mut body = Cursor(body);
    match body.u8()? {
        0 => body.vote(),
        _ => Err(WireError::Invalid("an unknown answer to a snapshot")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LeaderId;

    fn head() -> Head {
        Head {
            vote: Vote {
                leader_id: LeaderId {
                    term: 5,
                    node_id: NodeId(3),
                },
                committed: true,
            },
            position: LogPosition {
                term: Term(5),
                node: NodeId(3),
                index: 70,
            },
            membership: Bytes::from_static(b"members"),
        }
    }

    fn decode(body: Bytes) -> Result<Head, WireError> {
        let (kind, cursor) = wire::decode(body)?;
        assert_eq!(kind, Kind::Snapshot);
        Head::decode(cursor)
    }

    #[test]
    fn a_head_decodes_to_what_was_encoded_and_invalid_ones_are_refused() {
        assert_eq!(decode(head().encode()), Ok(head()));
        for length in 2..head().encode().len() {
            assert!(decode(head().encode().slice(..length)).is_err(), "cut to {length}");
        }
        let mut newer = head();
        newer.position.term = Term(6);
        assert!(decode(newer.encode()).is_err());
        let mut candidate = head();
        candidate.vote.committed = false;
        assert!(decode(candidate.encode()).is_err());
    }

    #[test]
    fn a_changed_part_or_end_is_seen() {
        let part = b"some part of a state";
        let chunk = Mark::of_part(7, part);
        let Ok(Mark::Part { number, length, sum }) = Mark::decode(&chunk) else {
            panic!("not a part");
        };
        assert_eq!((number, length as usize), (7, part.len()));
        assert!(Mark::fits(&chunk, sum, part));
        assert!(!Mark::fits(&chunk, sum, b"some part of a statE"));
        assert!(!Mark::fits(&Mark::of_part(8, part), sum, part), "the number is covered");
        let end = Mark::of_end(3, 3_000);
        assert_eq!(Mark::decode(&end), Ok(Mark::End { parts: 3, bytes: 3_000 }));
        for bit in 8..end.len() * 8 {
            let mut changed = end.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Mark::decode(&changed.into()).is_err(), "bit {bit}");
        }
        assert!(Mark::decode(&Bytes::new()).is_err());
        assert!(Mark::decode(&Bytes::from_static(&[9])).is_err());
    }
}
