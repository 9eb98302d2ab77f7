//! Chunks in bytes.
//!
//! ```text
//! 0     1       5        9
//! kind  number  crc32c   payload …      (numbers big-endian; the checksum covers kind, number and payload)
//! ```
//!
//! The payloads of the log's chunks are one stream, cut where a chunk is full: each entry as stored, with its length in
//! four bytes in front. An entry may be longer than a chunk.

use bytes::{Buf, Bytes};
use holdfast_consensus::transport::MAX_CHUNK_BYTES;

pub(crate) const VERSION: u32 = 1;

pub(crate) const HEADER_BYTES: usize = 9;
/// The most that a chunk carries.
pub(crate) const MAX_PAYLOAD_BYTES: usize = MAX_CHUNK_BYTES - HEADER_BYTES;
/// The length in front of an entry.
pub(crate) const LENGTH_BYTES: usize = 4;
/// The longest stored entry: the limit of a Raft group, plus the header.
pub(crate) const MAX_ENTRY_BYTES: usize = (16 << 20) + 64;

/// The content of a chunk; the numbers are on the wire, [`Kind::rank`] is the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Head = 1,
    Points = 2,
    Skipped = 3,
    Log = 4,
    End = 5,
    /// Between 3 and 4.
    DeviceStates = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        ORDER.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Its place in the order of kinds.
    fn rank(self) -> usize {
        ORDER.iter().position(|kind| *kind == self).unwrap_or(ORDER.len())
    }

    /// Whether a chunk of this kind may come after one of kind `last`; `None`: at the beginning.
    pub(crate) fn may_follow(self, last: Option<Self>) -> bool {
        match last {
            None => self == Self::Head,
            Some(last) if last == self => !matches!(self, Self::Head | Self::End),
            Some(last) => self.rank() > last.rank(),
        }
    }
}

/// The kinds in the order in which they come.
const ORDER: [Kind; 6] = [
    Kind::Head,
    Kind::Points,
    Kind::Skipped,
    Kind::DeviceStates,
    Kind::Log,
    Kind::End,
];

pub(crate) fn encode(kind: Kind, number: u32, payload: &[u8]) -> Bytes {
    let mut chunk = Vec::with_capacity(HEADER_BYTES + payload.len());
    chunk.push(kind as u8);
    chunk.extend_from_slice(&number.to_be_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&chunk), payload);
    chunk.extend_from_slice(&sum.to_be_bytes());
    chunk.extend_from_slice(payload);
    chunk.into()
}

/// The kind and payload of the chunk that should be number `number`.
pub(crate) fn decode(mut chunk: Bytes, number: u32) -> Result<(Kind, Bytes), &'static str> {
    if chunk.len() < HEADER_BYTES {
        return Err("a chunk is shorter than its header");
    }
    let head = chunk.split_to(5);
    let sum = chunk.get_u32();
    if sum != crc32c::crc32c_append(crc32c::crc32c(&head), &chunk) {
        return Err("the checksum of a chunk does not match");
    }
    if head[1..] != number.to_be_bytes() {
        return Err("a chunk is missing, or is there twice");
    }
    let kind = Kind::from_byte(head[0]).ok_or("a chunk is of an unknown kind")?;
    Ok((kind, chunk))
}
