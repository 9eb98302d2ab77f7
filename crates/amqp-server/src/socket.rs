//! The socket of one connection: writes the engine's output, and reads whole and unfinished frames.
//!
//! An idle connection owns no buffer: it reads into its core's scratch and keeps only the rest of an unfinished frame.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use holdfast_amqp::Connection;
use holdfast_net::ByteStream;
use metrics::Counter;
use tokio::io::ReadBuf;

/// The socket is closed or broken.
pub(crate) struct ConnectionLost;

pub(crate) struct Socket {
    stream: Box<dyn ByteStream>,
    address: SocketAddr,
    written: Counter,
    /// Bytes that were read and are not a whole frame, or follow a request that waits for confirmation.
    held: Vec<u8>,
    /// `held` can be parsed again: the confirmation has arrived.
    held_is_ready: bool,
    needs_flush: bool,
}

impl Socket {
    pub(crate) fn new(stream: Box<dyn ByteStream>, address: SocketAddr, written: Counter) -> Self {
        Self {
            stream,
            address,
            written,
            held: Vec::new(),
            held_is_ready: false,
            needs_flush: false,
        }
    }

    /// Lets the next read begin with the bytes that were held back.
    pub(crate) fn retry_held(&mut self) {
        self.held_is_ready = true;
    }

    /// Writes the output and flushes.
    pub(crate) fn poll_write(
        &mut self,
        engine: &mut Connection,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionLost>> {
        while !engine.output().is_empty() {
            match Pin::new(&mut *self.stream).poll_write(cx, engine.output()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ConnectionLost)),
                Poll::Ready(Ok(written)) => {
                    engine.advance_output(written, now);
                    self.written.increment(written as u64);
                    self.needs_flush = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(&error))),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.needs_flush {
            match Pin::new(&mut *self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.needs_flush = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(&error))),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and passes the input to `receive`, which returns how many bytes it has consumed and a result.
    pub(crate) fn poll_read<R>(
        &mut self,
        scratch: &RefCell<Box<[u8]>>,
        cx: &mut Context<'_>,
        receive: impl FnOnce(&[u8]) -> (usize, R),
    ) -> Poll<Result<R, ConnectionLost>> {
        if std::mem::take(&mut self.held_is_ready) && !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let (consumed, result) = receive(&held);
            self.held = held[consumed..].to_vec();
            return Poll::Ready(Ok(result));
        }
        let mut scratch = scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        match Pin::new(&mut *self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(&error))),
            Poll::Ready(Ok(())) => {}
        }
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Err(ConnectionLost));
        }
        if self.held.is_empty() {
            let (consumed, result) = receive(read);
            self.held = read[consumed..].to_vec();
            return Poll::Ready(Ok(result));
        }
        // An unfinished frame is below 64 KiB, and so is what one read adds.
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(read);
        let (consumed, result) = receive(&held);
        held.drain(..consumed);
        self.held = if held.is_empty() { Vec::new() } else { held };
        Poll::Ready(Ok(result))
    }

    fn lost(&self, error: &std::io::Error) -> ConnectionLost {
        tracing::debug!(address = %self.address, %error, "AMQP connection lost; its links are released");
        ConnectionLost
    }
}
