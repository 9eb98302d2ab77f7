//! Received bytes that have not been handled: an unfinished packet, or packets that have to wait.

use std::rc::Rc;

use super::Protocol;

/// How far [`Protocol::received`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes that were handled.
    pub consumed: usize,
    /// The rest begins with a complete packet that has to wait. Nothing more is read until [`super::Transport::resume`];
    /// then the rest is offered again.
    pub is_blocked: bool,
}

/// The rest of earlier reads; no memory when there is none.
#[derive(Default)]
pub(super) struct ReadBuffer {
    bytes: Vec<u8>,
    state: State,
}

/// Whether the bytes are worth another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// They are no complete packet: more has to be read.
    #[default]
    Incomplete,
    /// Their first packet has to wait.
    Blocked,
    /// Their first packet may be handled now.
    Resumed,
}

impl ReadBuffer {
    /// Whether the bytes have to wait.
    pub(super) fn is_blocked(&self) -> bool {
        self.state == State::Blocked
    }

    /// Whether the bytes are to be offered again; at most once per call of [`Self::resume`].
    pub(super) fn take_resumed(&mut self) -> bool {
        let is_resumed = self.state == State::Resumed;
        if is_resumed {
            self.state = State::Incomplete;
        }
        is_resumed
    }

    /// The bytes may be handled; `false` when they were not waiting.
    pub(super) fn resume(&mut self) -> bool {
        let was_blocked = self.is_blocked();
        if was_blocked {
            self.state = State::Resumed;
        }
        was_blocked
    }

    /// Drops the bytes, with their memory.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Offers the kept bytes and `chunk` behind them to the protocol, and keeps the rest.
pub(super) fn offer<P: Protocol>(protocol: &Rc<P>, chunk: &[u8]) {
    let buffer = &protocol.transport().read_buffer;
    let mut kept = std::mem::take(&mut buffer.borrow_mut().bytes);
    let received = if kept.is_empty() {
        let received = protocol.received(chunk);
        kept.extend_from_slice(chunk.get(received.consumed..).unwrap_or_default());
        received
    } else {
        kept.extend_from_slice(chunk);
        let received = protocol.received(&kept);
        kept.drain(..received.consumed.min(kept.len()));
        received
    };
    let mut buffer = buffer.borrow_mut();
    // A buffer that was needed for one large packet is not kept for an idle connection.
    if !kept.is_empty() {
        buffer.bytes = kept;
    }
    if received.is_blocked {
        buffer.state = State::Blocked;
    }
}
