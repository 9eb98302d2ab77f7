//! A stream of events in bytes: frames, cut into chunks wherever it suits.
//!
//! An events frame carries an entry as it lies in the log, with what apply gave it; large ones are neither copied when
//! they are sent nor, as long as they arrive in one piece, when they are received.
//! Invariant: a frame is whole and its entry is one, or the stream is an error; memory grows with what has arrived, not
//! with what was announced.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_consensus::transport::MAX_CHUNK_BYTES;
use holdfast_model::{SequenceNumber, UnixMillis};
use holdfast_partition::record::EntryError;
use holdfast_partition::{Chunk, PartitionStatus};
use thiserror::Error;

/// Kind and length.
const HEAD_BYTES: usize = 5;
/// In front of the entry of an events frame: number, time, records, flags.
const STAMP_BYTES: usize = 21;
/// The longest frame: the largest entry that a group takes, with its stamp.
const MAX_FRAME_BYTES: usize = (16 << 20) + STAMP_BYTES;
/// Entries from this size on are not copied into a chunk with others.
const OWN_CHUNK_BYTES: usize = 32 << 10;
/// Events that wait to be sent: as much as is put into one chunk before it leaves.
pub(super) const CHUNK_BYTES: usize = 128 << 10;

const EVENTS: u8 = 1;
const STATUS: u8 = 2;
const END: u8 = 3;

/// Flag: events before these have been removed by retention.
const OVERTAKEN: u8 = 1;

/// One frame, read.
#[derive(Debug)]
pub(super) enum Frame {
    /// Events; whether retention has removed some before them.
    Events(Chunk, bool),
    /// What can be read now; also says that the other side is alive.
    Status(PartitionStatus),
    /// The replica cannot go on; another one can.
    End,
}

/// What arrives is no stream of events.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum BadFrame {
    #[error("a frame of kind {0}")]
    Kind(u8),
    #[error("a frame of {0} bytes")]
    Length(usize),
    #[error("an entry that cannot be read")]
    Entry(#[from] EntryError),
}

/// Makes chunks of frames.
#[derive(Debug, Default)]
pub(super) struct Writer {
    open: BytesMut,
    ready: VecDeque<Bytes>,
    bytes: usize,
}

impl Writer {
    /// Bytes that wait to be taken.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn events(&mut self, chunk: &Chunk, is_overtaken: bool) {
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

    pub(super) fn status(&mut self, status: &PartitionStatus) {
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

    pub(super) fn end(&mut self) {
        self.head(END, 0);
        self.bytes += HEAD_BYTES;
    }

    /// The next chunk to be sent.
    pub(super) fn take(&mut self) -> Option<Bytes> {
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

/// Makes frames of chunks.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// Of the last chunk: what has not been looked at.
    rest: Bytes,
    /// The beginning of a frame that goes on in the next chunk.
    begun: BytesMut,
}

impl Parser {
    /// Adds a chunk; all frames of the one before have been taken.
    pub(super) fn put(&mut self, chunk: Bytes) {
        debug_assert!(self.rest.is_empty());
        self.rest = chunk;
    }

    /// The next whole frame.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, BadFrame> {
        let Some(mut frame) = self.whole()? else {
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

    /// The bytes of the next frame, head included, once they are all here.
    fn whole(&mut self) -> Result<Option<Bytes>, BadFrame> {
        if self.begun.is_empty() {
            match frame_bytes(&self.rest)? {
                Some(bytes) if bytes <= self.rest.len() => return Ok(Some(self.rest.split_to(bytes))),
                _ => {}
            }
        }
        loop {
            let wanted = frame_bytes(&self.begun)?.unwrap_or(HEAD_BYTES);
            let missing = wanted - self.begun.len();
            let part = self.rest.split_to(missing.min(self.rest.len()));
            self.begun.extend_from_slice(&part);
            if self.begun.len() < wanted {
                return Ok(None);
            }
            if frame_bytes(&self.begun)? == Some(wanted) {
                return Ok(Some(self.begun.split().freeze()));
            }
        }
    }
}

/// How long the frame is that begins here, head included; `None` when its head is not all here.
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
