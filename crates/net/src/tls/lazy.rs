//! TLS whose state is made when the first byte arrives, so that a silent connection costs no handshake buffers.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use holdfast_model::{CertificateChain, TlsParameters};
use tokio::net::TcpStream;

use super::session::TlsSession;
use super::{Handshake, HandshakeTime, TlsServer};
use crate::socket::{poll_read_stream, reset_on_close, shut_down};

/// Bytes of one read.
const RECEIVED_BYTES: usize = 32 * 1024;

/// A TLS connection whose state is made when the first byte arrives.
pub struct TlsSocket {
    tcp: TcpStream,
    state: TlsState,
}

enum TlsState {
    Idle(TlsServer),
    Started(Box<Started>),
}

struct Started {
    session: TlsSession,
    /// Until it is complete.
    handshake: Option<Handshake>,
    /// Until the protocol takes it.
    time: Option<Box<HandshakeTime>>,
}

thread_local! {
    /// Received records on their way into the session: one buffer for all connections of the thread.
    static RECEIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECEIVED_BYTES].into_boxed_slice());
}

impl TlsSocket {
    pub(crate) fn new(tcp: TcpStream, server: TlsServer) -> Self {
        Self {
            tcp,
            state: TlsState::Idle(server),
        }
    }

    /// The client's certificates, once the handshake is complete.
    pub(crate) fn peer_certificates(&self) -> Option<CertificateChain> {
        match &self.state {
            TlsState::Idle(_) => None,
            TlsState::Started(started) => super::chain(started.session.common()),
        }
    }

    /// The parameters of the handshake, once it has agreed on them.
    pub(crate) fn parameters(&self) -> Option<TlsParameters> {
        match &self.state {
            TlsState::Idle(_) => None,
            TlsState::Started(started) => super::parameters(started.session.common()),
        }
    }

    /// When the handshake was, once; `None` where it is not timed.
    pub(crate) fn take_handshake_time(&mut self) -> Option<HandshakeTime> {
        match &mut self.state {
            TlsState::Idle(_) => None,
            TlsState::Started(started) => started.time.take().map(|time| *time),
        }
    }

    /// Whether the first byte has been received.
    pub(crate) fn has_begun(&self) -> bool {
        matches!(self.state, TlsState::Started(_))
    }

    pub(crate) fn wants_flush(&self) -> bool {
        match &self.state {
            TlsState::Idle(_) => false,
            TlsState::Started(started) => !started.session.outgoing().is_empty(),
        }
    }

    pub(crate) fn reset_on_close(&self) {
        reset_on_close(&self.tcp);
    }

    pub(crate) fn close(&mut self) {
        if let TlsState::Started(started) = &mut self.state {
            // The handshake may be incomplete or the peer gone; nothing more can be done for it.
            let _ = started.session.send_close_notify();
            let _ = flush(&mut started.session, &self.tcp);
        }
        shut_down(&self.tcp);
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<usize>> {
        if let TlsState::Idle(server) = &self.state {
            ready!(self.tcp.poll_read_ready(cx))?;
            let handshake = server.begin();
            let session = TlsSession::new(handshake.config()).map_err(io::Error::other)?;
            let handshake = Some(handshake);
            self.state = TlsState::Started(Box::new(Started {
                session,
                handshake,
                time: None,
            }));
        }
        let TlsState::Started(started) = &mut self.state else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let tcp = &mut self.tcp;
        RECEIVED.with_borrow_mut(|received| started.poll_read(tcp, cx, received, scratch))
    }

    pub(crate) fn try_write(&mut self, data: &[u8]) -> io::Result<usize> {
        let TlsState::Started(started) = &mut self.state else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let taken = started.session.send(data).map_err(|error| match error {
            rustls::Error::HandshakeNotComplete => io::ErrorKind::NotConnected.into(),
            error => io::Error::other(error),
        })?;
        flush(&mut started.session, &self.tcp)?;
        Ok(taken)
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let TlsState::Started(started) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        while !started.session.outgoing().is_empty() {
            ready!(self.tcp.poll_write_ready(cx))?;
            flush(&mut started.session, &self.tcp)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Started {
    /// Reads until there is plaintext in `scratch`, the peer has ended, or nothing more is there.
    fn poll_read(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        received: &mut [u8],
        scratch: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self {
            session,
            handshake,
            time,
        } = self;
        while !session.is_ended() {
            let capacity = session.capacity(scratch.len()).min(received.len());
            let Some(place) = received.get_mut(..capacity).filter(|place| !place.is_empty()) else {
                let text = "a message of the TLS handshake is too long";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
            };
            let read = ready!(poll_read_stream(tcp, cx, place))?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            let outcome = session.receive(place.get_mut(..read).unwrap_or_default(), scratch);
            // Also after an error: that is how the peer gets the alert.
            flush(session, tcp)?;
            let plain = outcome.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if !session.common().is_handshaking()
                && let Some(handshake) = handshake.take()
            {
                *time = handshake.completed(session.common()).map(Box::new);
            }
            if plain > 0 {
                return Poll::Ready(Ok(plain));
            }
        }
        Poll::Ready(Ok(0))
    }
}

/// Hands the kernel what it takes without waiting.
fn flush(session: &mut TlsSession, tcp: &TcpStream) -> io::Result<()> {
    while !session.outgoing().is_empty() {
        match tcp.try_write(session.outgoing()) {
            Ok(written) => session.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
