//! Reassembles large bodies from their pieces. Pure.
//!
//! Invariants: memory grows with the pieces that arrive, never with the length that a head announces; at most
//! [`MAX_OPEN_BODIES`] bodies are incomplete; a rejected body takes no memory.
//! A body never keeps a much larger frame alive: a small body is copied out of its frame.

use bytes::{Bytes, BytesMut};

use super::frame::Violation;
use super::scheduler::MAX_OPEN_BODIES;

/// A body of at least 1/4 of its frame shares the frame's memory.
const SHARE: usize = 4;

struct Open<H> {
    id: u64,
    /// `None`: rejected, its pieces are discarded.
    head: Option<H>,
    body: BytesMut,
    left: usize,
}

/// The incomplete bodies of a stream of items; `H` is the head of their first item.
pub(crate) struct Reassembler<H>(Vec<Open<H>>);

impl<H> Default for Reassembler<H> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Copies `piece` out of its frame, unless it is a large part of it.
pub(crate) fn detach(piece: Bytes, frame: usize) -> Bytes {
    if piece.len().saturating_mul(SHARE) < frame {
        Bytes::copy_from_slice(&piece)
    } else {
        piece
    }
}

impl<H> Reassembler<H> {
    /// Starts a body whose first piece is `piece`; `head` is `None` when the body is rejected.
    pub(crate) fn begin(&mut self, id: u64, head: Option<H>, total: usize, piece: &[u8]) -> Result<(), Violation> {
        if self.0.iter().any(|open| open.id == id) {
            return Err(Violation::DuplicateId(id));
        }
        if self.0.len() >= MAX_OPEN_BODIES {
            return Err(Violation::TooManyOpen(MAX_OPEN_BODIES));
        }
        let mut body = BytesMut::new();
        if head.is_some() {
            body.extend_from_slice(piece);
        }
        self.0.push(Open {
            id,
            head,
            body,
            left: total.saturating_sub(piece.len()),
        });
        Ok(())
    }

    /// Adds a piece. Returns head and body when this was the last piece of a body that is not rejected.
    pub(crate) fn append(&mut self, id: u64, piece: &[u8]) -> Result<Option<(H, Bytes)>, Violation> {
        let at = self
            .0
            .iter()
            .position(|open| open.id == id)
            .ok_or(Violation::NoSuchBody)?;
        let open = &mut self.0[at];
        open.left = open.left.checked_sub(piece.len()).ok_or(Violation::PieceTooLong)?;
        if open.head.is_some() {
            open.body.extend_from_slice(piece);
        }
        if open.left > 0 {
            return Ok(None);
        }
        let open = self.0.swap_remove(at);
        Ok(open.head.map(|head| (head, open.body.freeze())))
    }

    /// Discards a body whose rest is not sent. Returns its head unless it was rejected.
    pub(crate) fn discard(&mut self, id: u64) -> Option<H> {
        let at = self.0.iter().position(|open| open.id == id)?;
        self.0.swap_remove(at).head
    }
}
