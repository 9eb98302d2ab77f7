//! The contents of a frame: calls, answers, pieces of large ones, pings. Pure: bytes in, items out.
//!
//! Format (little-endian; docs/peer-protocol.md): a frame is a sequence of items. An item is a kind, its fixed fields and,
//! if it carries a body, `len` bytes. A body that is longer than its first piece continues in [`Item::More`] items.
//! Invariants: no input panics, reserves memory, or is read past its end; a [`Violation`] names the broken rule.
//! Not here: the order in which items may arrive ([`super::reassembly`]), gRPC's length prefix (`transport::codec`).

use bytes::Bytes;
use holdfast_consensus::transport::{MAX_CALL_BYTES, MAX_CHUNK_BYTES};
use thiserror::Error;

/// Largest frame in bytes: a chunk and its header.
pub(crate) const MAX_FRAME_BYTES: usize = MAX_CHUNK_BYTES + 4096;

/// Length of the longest item head in bytes.
pub(crate) const MAX_HEAD: usize = 26;

/// The id of the only call of an upload or download.
pub(crate) const STREAM_ID: u64 = 0;

const CALL: u8 = 1;
const MORE: u8 = 2;
const ANSWER: u8 = 3;
const PING: u8 = 4;
const PONG: u8 = 5;
const DROP: u8 = 6;
const END: u8 = 7;

/// How a call ended on the called node; the numbers are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Outcome {
    Done = 0,
    Refused = 1,
    Unknown = 2,
    NotExecuted = 3,
}

impl Outcome {
    fn from_number(number: u8) -> Result<Self, Violation> {
        Ok(match number {
            0 => Self::Done,
            1 => Self::Refused,
            2 => Self::Unknown,
            3 => Self::NotExecuted,
            other => return Err(Violation::Outcome(other)),
        })
    }
}

/// A rule that a frame broke. The connection is closed; [`Violation::rule`] is the label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Violation {
    #[error("an item is cut short")]
    Short,
    #[error("items of kind {0} are not known")]
    Kind(u8),
    #[error("outcome {0} is not known")]
    Outcome(u8),
    #[error("a body of {0} bytes is longer than the {MAX_CALL_BYTES} allowed")]
    BodyTooLong(usize),
    #[error("a piece is longer than the rest of its body")]
    PieceTooLong,
    #[error("call {0} is used twice")]
    DuplicateId(u64),
    #[error("a piece belongs to no call")]
    NoSuchBody,
    #[error("more than {0} bodies are open at once")]
    TooManyOpen(usize),
    #[error("an item came in the wrong direction or stream")]
    Misplaced,
}

impl Violation {
    /// All values of the metric's label.
    pub(crate) const RULES: [&'static str; 9] = [
        "short",
        "kind",
        "outcome",
        "body-too-long",
        "piece-too-long",
        "twice",
        "no-such-body",
        "too-many-open",
        "misplaced",
    ];

    /// The value of the metric's label.
    pub(crate) fn rule(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Kind(_) => "kind",
            Self::Outcome(_) => "outcome",
            Self::BodyTooLong(_) => "body-too-long",
            Self::PieceTooLong => "piece-too-long",
            Self::DuplicateId(_) => "twice",
            Self::NoSuchBody => "no-such-body",
            Self::TooManyOpen(_) => "too-many-open",
            Self::Misplaced => "misplaced",
        }
    }
}

/// The head of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallHead {
    /// Assigned by the caller.
    pub(crate) id: u64,
    /// Number of the service as on the wire: a newer node may know more services.
    pub(crate) service: u8,
    pub(crate) target: u32,
    pub(crate) timeout_ms: u32,
    /// Length of the whole body in bytes.
    pub(crate) total: u32,
}

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnswerHead {
    pub(crate) id: u64,
    pub(crate) outcome: Outcome,
    /// Length in bytes of the whole answer: a body, or the text of an error.
    pub(crate) total: u32,
}

/// One item of a frame. Pieces share the frame's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// A call and the first piece of its body.
    Call(CallHead, Bytes),
    /// The next piece of the body of the call or answer with this id.
    More(u64, Bytes),
    /// An answer and the first piece of its body.
    Answer(AnswerHead, Bytes),
    /// Must be answered by [`Item::Pong`] with the same number.
    Ping(u64),
    /// The answer to a ping.
    Pong(u64),
    /// The rest of the body with this id is not sent.
    Drop(u64),
    /// The stream of chunks is complete.
    End,
}

/// Iterates over the items of one frame; ends after the first error.
pub(crate) struct Items {
    frame: Bytes,
    at: usize,
}

impl Items {
    pub(crate) fn new(frame: Bytes) -> Self {
        Self { frame, at: 0 }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let bytes = self
            .frame
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .ok_or(Violation::Short)?;
        self.at += N;
        Ok(*bytes)
    }

    fn byte(&mut self) -> Result<u8, Violation> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, Violation> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Violation> {
        self.take().map(u64::from_le_bytes)
    }

    fn piece(&mut self) -> Result<Bytes, Violation> {
        let len = self.u32()? as usize;
        let end = self.at.checked_add(len).ok_or(Violation::Short)?;
        if end > self.frame.len() {
            return Err(Violation::Short);
        }
        let piece = self.frame.slice(self.at..end);
        self.at = end;
        Ok(piece)
    }

    fn first_piece(&mut self, total: u32) -> Result<Bytes, Violation> {
        if total as usize > MAX_CALL_BYTES {
            return Err(Violation::BodyTooLong(total as usize));
        }
        let piece = self.piece()?;
        if piece.len() > total as usize {
            return Err(Violation::PieceTooLong);
        }
        Ok(piece)
    }

    fn item(&mut self) -> Result<Item, Violation> {
        Ok(match self.byte()? {
            CALL => {
                let head = CallHead {
                    id: self.u64()?,
                    service: self.byte()?,
                    target: self.u32()?,
                    timeout_ms: self.u32()?,
                    total: self.u32()?,
                };
                Item::Call(head, self.first_piece(head.total)?)
            }
            MORE => Item::More(self.u64()?, self.piece()?),
            ANSWER => {
                let head = AnswerHead {
                    id: self.u64()?,
                    outcome: Outcome::from_number(self.byte()?)?,
                    total: self.u32()?,
                };
                Item::Answer(head, self.first_piece(head.total)?)
            }
            PING => Item::Ping(self.u64()?),
            PONG => Item::Pong(self.u64()?),
            DROP => Item::Drop(self.u64()?),
            END => Item::End,
            other => return Err(Violation::Kind(other)),
        })
    }
}

impl Iterator for Items {
    type Item = Result<Item, Violation>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.frame.len() {
            return None;
        }
        let item = self.item();
        if item.is_err() {
            self.at = self.frame.len();
        }
        Some(item)
    }
}

/// The encoded head of an item, on the stack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    bytes: [u8; MAX_HEAD],
    len: u8,
}

impl Head {
    fn new(kind: u8) -> Self {
        let mut bytes = [0; MAX_HEAD];
        bytes[0] = kind;
        Self { bytes, len: 1 }
    }

    fn with<const N: usize>(mut self, field: [u8; N]) -> Self {
        let at = usize::from(self.len);
        self.bytes[at..at + N].copy_from_slice(&field);
        // At most MAX_HEAD, which is below 256.
        self.len += N as u8;
        self
    }

    fn id(kind: u8, id: u64) -> Self {
        Self::new(kind).with(id.to_le_bytes())
    }

    /// The encoded bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The parts of one frame, in order.
pub(crate) type Batch = Vec<Part>;

/// An item to be sent: its head and the segments of its piece.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) head: Head,
    pub(crate) piece: Vec<Bytes>,
}

fn length(piece: &[Bytes]) -> u32 {
    // Callers keep pieces below MAX_CALL_BYTES.
    piece.iter().map(Bytes::len).sum::<usize>() as u32
}

impl Part {
    pub(crate) fn call(head: CallHead, piece: Vec<Bytes>) -> Self {
        let head = Head::id(CALL, head.id)
            .with([head.service])
            .with(head.target.to_le_bytes())
            .with(head.timeout_ms.to_le_bytes())
            .with(head.total.to_le_bytes())
            .with(length(&piece).to_le_bytes());
        Self { head, piece }
    }

    pub(crate) fn more(id: u64, piece: Vec<Bytes>) -> Self {
        Self {
            head: Head::id(MORE, id).with(length(&piece).to_le_bytes()),
            piece,
        }
    }

    pub(crate) fn answer(head: AnswerHead, piece: Vec<Bytes>) -> Self {
        let head = Head::id(ANSWER, head.id)
            .with([head.outcome as u8])
            .with(head.total.to_le_bytes())
            .with(length(&piece).to_le_bytes());
        Self { head, piece }
    }

    fn bare(head: Head) -> Self {
        Self {
            head,
            piece: Vec::new(),
        }
    }

    pub(crate) fn ping(nonce: u64) -> Self {
        Self::bare(Head::id(PING, nonce))
    }

    pub(crate) fn pong(nonce: u64) -> Self {
        Self::bare(Head::id(PONG, nonce))
    }

    pub(crate) fn dropped(id: u64) -> Self {
        Self::bare(Head::id(DROP, id))
    }

    pub(crate) fn end() -> Self {
        Self::bare(Head::new(END))
    }

    /// Arbitrary bytes, for tests of violations.
    #[cfg(test)]
    pub(crate) fn raw(bytes: Bytes) -> Self {
        let mut head = Head::new(0);
        head.len = 0;
        Self {
            head,
            piece: vec![bytes],
        }
    }

    /// Length in the frame in bytes.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.head.len) + self.piece.iter().map(Bytes::len).sum::<usize>()
    }
}
