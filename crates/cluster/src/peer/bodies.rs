//! Puts the pieces of large bodies together again. Pure.
//!
//! Invariants: memory is taken as pieces arrive, never for what a head announces; at most [`MAX_OPEN_BODIES`] are open;
//! a body that is not wanted takes none.
//! Bodies never keep a much larger frame alive: a small one is copied out of it.

use bytes::{Bytes, BytesMut};

use super::frame::Violation;
use super::lanes::MAX_OPEN_BODIES;

/// A body shares its frame's memory from this part of the frame on.
const SHARE: usize = 4;

struct Open<H> {
    id: u64,
    /// `None`: not wanted, what comes is thrown away.
    head: Option<H>,
    body: BytesMut,
    left: usize,
}

/// Bodies that are begun and not complete; `H` is what their first item said.
pub(crate) struct Bodies<H>(Vec<Open<H>>);

impl<H> Default for Bodies<H> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A body of its own size, or a share of the frame when it is a good part of it.
pub(crate) fn own(piece: Bytes, frame: usize) -> Bytes {
    if piece.len().saturating_mul(SHARE) < frame {
        Bytes::copy_from_slice(&piece)
    } else {
        piece
    }
}

impl<H> Bodies<H> {
    /// A body of which `piece` is not all; `head` is `None` when it is not wanted.
    pub(crate) fn begin(&mut self, id: u64, head: Option<H>, total: usize, piece: &[u8]) -> Result<(), Violation> {
        if self.0.iter().any(|open| open.id == id) {
            return Err(Violation::Twice(id));
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

    /// More of it; its head and body when that was all of one that is wanted.
    pub(crate) fn more(&mut self, id: u64, piece: &[u8]) -> Result<Option<(H, Bytes)>, Violation> {
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

    /// The rest will not come; its head, when it was wanted.
    pub(crate) fn give_up(&mut self, id: u64) -> Option<H> {
        let at = self.0.iter().position(|open| open.id == id)?;
        self.0.swap_remove(at).head
    }
}
