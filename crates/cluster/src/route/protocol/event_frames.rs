//! The encoding of a stream of events: frames, cut into chunks at any point.
//!
//! An events frame carries an entry as it is in the log, and the values that apply has assigned to it. Large entries are not
//! copied when they are sent, nor when they are received in one piece.
//! Invariants: a frame is complete and its entry valid, or the stream is an error; memory grows with the bytes that arrive,
//! not with the length that a head announces.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_consensus::transport::MAX_CHUNK_BYTES;
use holdfast_model::{SequenceNumber, UnixMillis};
use holdfast_partition::record::EntryError;
use holdfast_partition::{Chunk, PartitionStatus};
use thiserror::Error;

/// Kind and length.
const HEAD_BYTES: usize = 5;
/// In front of the entry of an events frame: sequence number, time, records, flags.
const STAMP_BYTES: usize = 21;
/// Longest frame: the largest entry that a group accepts, with its stamp.
const MAX_FRAME_BYTES: usize = (16 << 20) + STAMP_BYTES;
/// Entries of at least this size get chunks of their own, without a copy.
const OWN_CHUNK_BYTES: usize = 32 << 10;
/// Interval at which a stream sends the status of its partition.
pub(in crate::route) const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Target size of a chunk in bytes.
pub(in crate::route) const CHUNK_BYTES: usize = 128 << 10;

const EVENTS: u8 = 1;
const STATUS: u8 = 2;
const END: u8 = 3;

/// Flag: retention has removed events before these.
const OVERTAKEN: u8 = 1;

/// A decoded frame.
#[derive(Debug)]
pub(in crate::route) enum Frame {
    /// Events, and whether retention has removed some before them.
    Events(Chunk, bool),
    /// The readable events; also shows that the sender is alive.
    Status(PartitionStatus),
    /// The replica cannot continue; another one may.
    End,
}

/// The received bytes are not a stream of events.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(in crate::route) enum BadFrame {
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("a frame has an invalid length of {0} bytes")]
    Length(usize),
    #[error("an entry cannot be decoded")]
    Entry(#[from] EntryError),
}

/// Encodes frames into chunks.
#[derive(Debug, Default)]
pub(in crate::route) struct Writer {
    open: BytesMut,
    ready: VecDeque<Bytes>,
    bytes: usize,
}

impl Writer {
    /// Encoded bytes that have not been taken.
    pub(in crate::route) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(in crate::route) fn events(&mut self, chunk: &Chunk, is_overtaken: bool) {
        let entry = chunk.entry();
        self.head(EVENTS, STAMP_BYTES + entry.len());
        self.open.put_u64(chunk.next_sequence().0);
        self.open.put_u64(chunk.enqueued().0);
        self.open.put_u32(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
        self.open.put_u8(if is_overtaken { OVERTAKEN } else { 0 });
        if entry.len() < OWN_CHUNK_BYTES {
            self.open.put_slice(entry);
        } else {
            self.close();
            let mut rest = entry.clone();
            while !rest.is_empty() {
                let part = rest.split_to(rest.len().min(MAX_CHUNK_BYTES));
                self.ready.push_back(part);
            }
        }
        self.bytes += HEAD_BYTES + STAMP_BYTES + entry.len();
        if self.open.len() >= CHUNK_BYTES {
            self.close();
        }
    }

    pub(in crate::route) fn status(&mut self, status: &PartitionStatus) {
        self.head(STATUS, 32);
        for number in [
            status.begin.0,
            status.next.0,
            status.last_enqueued.0,
            status.retained_bytes,
        ] {
            self.open.put_u64(number);
        }
        self.bytes += HEAD_BYTES + 32;
    }

    pub(in crate::route) fn end(&mut self) {
        self.head(END, 0);
        self.bytes += HEAD_BYTES;
    }

    /// Takes the next chunk.
    pub(in crate::route) fn take(&mut self) -> Option<Bytes> {
        if self.ready.is_empty() {
            self.close();
        }
        let chunk = self.ready.pop_front()?;
        self.bytes -= chunk.len();
        Some(chunk)
    }

    fn head(&mut self, kind: u8, length: usize) {
        self.open.put_u8(kind);
        self.open.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.ready.push_back(self.open.split().freeze());
        }
    }
}

/// Decodes frames from chunks.
#[derive(Debug, Default)]
pub(in crate::route) struct Parser {
    /// The rest of the last chunk.
    rest: Bytes,
    /// The start of a frame that continues in the next chunk.
    partial: BytesMut,
}

impl Parser {
    /// Adds a chunk; all frames of the previous one must have been taken.
    pub(in crate::route) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.rest.is_empty());
        self.rest = chunk;
    }

    /// The next complete frame.
    pub(in crate::route) fn next(&mut self) -> Result<Option<Frame>, BadFrame> {
        let Some(mut frame) = self.next_bytes()? else {
            return Ok(None);
        };
        let kind = frame.get_u8();
        frame.advance(HEAD_BYTES - 1);
        let length = frame.len();
        match kind {
            EVENTS if length >= STAMP_BYTES => {
                let next = SequenceNumber(frame.get_u64());
                let enqueued = UnixMillis(frame.get_u64());
                let left = frame.get_u32();
                let flags = frame.get_u8();
                let chunk = Chunk::received(frame, next, left, enqueued)?;
                Ok(Some(Frame::Events(chunk, flags & OVERTAKEN != 0)))
            }
            STATUS if length == 32 => Ok(Some(Frame::Status(PartitionStatus {
                begin: SequenceNumber(frame.get_u64()),
                next: SequenceNumber(frame.get_u64()),
                last_enqueued: UnixMillis(frame.get_u64()),
                retained_bytes: frame.get_u64(),
            }))),
            END => Ok(Some(Frame::End)),
            EVENTS | STATUS => Err(BadFrame::Length(length)),
            other => Err(BadFrame::Kind(other)),
        }
    }

    /// The bytes of the next frame with its head, once it is complete.
    fn next_bytes(&mut self) -> Result<Option<Bytes>, BadFrame> {
        if self.partial.is_empty() {
            match frame_bytes(&self.rest)? {
                Some(bytes) if bytes <= self.rest.len() => return Ok(Some(self.rest.split_to(bytes))),
                _ => {}
            }
        }
        loop {
            let wanted = frame_bytes(&self.partial)?.unwrap_or(HEAD_BYTES);
            let missing = wanted - self.partial.len();
            let part = self.rest.split_to(missing.min(self.rest.len()));
            self.partial.extend_from_slice(&part);
            if self.partial.len() < wanted {
                return Ok(None);
            }
            if frame_bytes(&self.partial)? == Some(wanted) {
                return Ok(Some(self.partial.split().freeze()));
            }
        }
    }
}

/// Length of the frame that starts here, with its head; `None` if the head is incomplete.
fn frame_bytes(bytes: &[u8]) -> Result<Option<usize>, BadFrame> {
    let Some([_, length @ ..]) = bytes.first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return Err(BadFrame::Length(length));
    }
    Ok(Some(HEAD_BYTES + length))
}

#[cfg(test)]
mod tests;
