//! The driver's part of one connection: socket, buffers, and how its protocol ends or wakes it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use holdfast_model::{CertificateChain, TlsParameters};

use super::admission::{Progress, Row};
use super::read_buffer::ReadBuffer;
use super::{Connections, Protocol, TransportEnd};
use crate::Socket;
use crate::tls::HandshakeTime;

/// The connection as its protocol uses it. Made by [`Connections::open`].
pub struct Transport<P: Protocol> {
    pub(super) table: Rc<Connections<P>>,
    pub(super) row: Row,
    address: SocketAddr,
    is_authenticated: Cell<bool>,
    /// Bytes have been received.
    pub(super) has_received: Cell<bool>,
    /// The second in which the deadlines are checked next.
    pub(super) next_check: Cell<u64>,
    pub(super) io: RefCell<Io>,
    pub(super) read_buffer: RefCell<ReadBuffer>,
    pub(super) waker: RefCell<Option<Waker>>,
    pub(super) end: Cell<Option<P::End>>,
}

/// The socket and the bytes that it has not taken.
pub(super) struct Io {
    pub(super) socket: Socket,
    output: Vec<u8>,
    /// The socket is dropped without a word to the peer.
    is_reset: bool,
}

impl<P: Protocol> Transport<P> {
    pub(super) fn new(table: Rc<Connections<P>>, row: Row, socket: Socket, address: SocketAddr) -> Self {
        Self {
            table,
            row,
            address,
            is_authenticated: Cell::new(false),
            has_received: Cell::new(false),
            next_check: Cell::new(0),
            io: RefCell::new(Io {
                socket,
                output: Vec::new(),
                is_reset: false,
            }),
            read_buffer: RefCell::default(),
            waker: RefCell::new(None),
            end: Cell::new(None),
        }
    }

    /// The peer's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of the connection among all of its core.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.row.1
    }

    /// Milliseconds since the table was made; never goes back.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.table.now_ms()
    }

    /// The certificates that the client has shown in its TLS handshake, and whose key it owns.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<CertificateChain> {
        self.io.borrow().socket.peer_certificates()
    }

    /// The parameters of its TLS connection; `None` without TLS.
    #[must_use]
    pub fn tls_parameters(&self) -> Option<TlsParameters> {
        self.io.borrow().socket.tls_parameters()
    }

    /// When its TLS handshake was, once; `None` where handshakes are not timed.
    #[must_use]
    pub fn take_handshake_time(&self) -> Option<HandshakeTime> {
        self.io.borrow_mut().socket.take_handshake_time()
    }

    /// Writes `bytes`, keeping what the socket does not take. Ends the connection when it is lost, or when the peer
    /// lets more than [`super::ConnectionLimits::max_output_bytes`] pile up.
    pub fn write(&self, bytes: &[u8]) {
        if bytes.is_empty() || self.end.get().is_some() {
            return;
        }
        if let Err(end) = self.io.borrow_mut().write(bytes, self.table.limits.max_output_bytes) {
            self.end(end.into());
        }
    }

    /// Writes `bytes` as the last ones of the connection, as far as the socket takes them at once.
    pub fn write_last(&self, bytes: &[u8], end: P::End) {
        self.write(bytes);
        self.end(end);
    }

    /// Whether written bytes have not reached the kernel.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.io.borrow().needs_flush()
    }

    /// Ends the connection; the first cause counts.
    pub fn end(&self, end: P::End) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            self.wake();
        }
    }

    /// Resets the connection: what is not written is lost, and the peer sees an error. WebSockets are closed in order.
    pub fn reset(&self, end: P::End) {
        let mut io = self.io.borrow_mut();
        io.socket.reset_on_close();
        io.is_reset = true;
        drop(io);
        self.end(end);
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    /// Wakes the connection's task, which then asks [`Protocol::poll_ready`] again.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Offers the bytes again that [`super::Received::is_blocked`] has put off.
    pub fn resume(&self) {
        if self.read_buffer.borrow_mut().resume() {
            self.wake();
        }
    }

    /// Counts the connection among the authenticated ones from now on: it is not evicted any more.
    pub fn set_authenticated(&self) {
        if !self.is_authenticated.replace(true) {
            self.table.admission.remove();
        }
    }

    pub(super) fn progress(&self) -> Progress {
        if self.is_authenticated.get() {
            Progress::Done
        } else if self.has_received.get() || self.io.borrow().socket.has_begun_handshake() {
            Progress::Speaking
        } else {
            Progress::Silent
        }
    }

    /// Has the deadlines checked at `at_ms`, if that is earlier than planned.
    pub fn check_earlier(&self, at_ms: u64) {
        if at_ms.div_ceil(1000) < self.next_check.get() {
            self.table.check_at(self, at_ms);
        }
    }

    /// Hands all waiting bytes to the kernel.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        self.io.borrow_mut().poll_flush(cx)
    }

    /// Closes the socket and drops the buffers.
    pub(super) fn close(&self) {
        let mut io = self.io.borrow_mut();
        if !io.is_reset {
            io.socket.close();
        }
        io.output = Vec::new();
        self.read_buffer.borrow_mut().clear();
        self.set_authenticated();
    }
}

impl Io {
    fn write(&mut self, bytes: &[u8], max_output: usize) -> Result<(), TransportEnd> {
        let mut rest = bytes;
        if self.output.is_empty() {
            match self.socket.try_write(bytes) {
                Ok(taken) => rest = bytes.get(taken..).unwrap_or_default(),
                Err(error) => return Err(TransportEnd::from(&error)),
            }
        }
        if self.output.len() + rest.len() + self.socket.buffered() > max_output {
            return Err(TransportEnd::OutputOverflow);
        }
        self.output.extend_from_slice(rest);
        Ok(())
    }

    fn needs_flush(&self) -> bool {
        !self.output.is_empty() || self.socket.wants_flush()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportEnd>> {
        while self.needs_flush() {
            if let Err(error) = ready!(self.socket.poll_flush(cx)) {
                return Poll::Ready(Err(TransportEnd::from(&error)));
            }
            if self.output.is_empty() {
                continue;
            }
            let output = std::mem::take(&mut self.output);
            match self.socket.try_write(&output) {
                Ok(taken) if taken == output.len() => {}
                Ok(taken) => self.output = output.get(taken..).unwrap_or_default().to_vec(),
                Err(error) => return Poll::Ready(Err(TransportEnd::from(&error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}
