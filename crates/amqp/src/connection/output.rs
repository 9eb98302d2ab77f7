//! Bytes that wait to be written.

use crate::frame::{self, TYPE_AMQP};

/// Written bytes that are kept at the front of the buffer before it is moved together.
const MAX_WRITTEN: usize = 64 * 1024;

/// A buffer that grows at its end and is written from its start; given back when empty.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) buf: Vec<u8>,
    /// The number of bytes already written.
    start: usize,
}

impl Output {
    pub(super) fn pending(&self) -> &[u8] {
        &self.buf[self.start..]
    }

    pub(super) fn advance(&mut self, written: usize) {
        self.start = (self.start + written).min(self.buf.len());
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
        } else if self.start >= MAX_WRITTEN && self.start * 2 >= self.buf.len() {
            // A peer that never catches up must not make the buffer grow without bound. Each byte is moved at most once.
            self.buf.drain(..self.start);
            self.start = 0;
        }
    }

    pub(super) fn release(&mut self) {
        if self.buf.is_empty() {
            self.buf = Vec::new();
        }
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// Appends an AMQP frame.
    pub(super) fn frame(&mut self, channel: u16, body: impl FnOnce(&mut Vec<u8>)) {
        frame::encode(&mut self.buf, TYPE_AMQP, channel, body);
    }
}
