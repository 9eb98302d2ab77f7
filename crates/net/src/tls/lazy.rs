//! TLS whose state is made when the first byte arrives, so that a silent connection costs no handshake buffers.

use std::io::{self, Read, Write};
use std::task::{Context, Poll, ready};

use holdfast_model::{CertificateChain, TlsParameters};
use rustls::ServerConnection;
use tokio::net::TcpStream;

use super::{Handshake, TlsServer};
use crate::socket::{poll_read_stream, reset_on_close, shut_down};

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
    connection: ServerConnection,
    /// Until it is complete.
    handshake: Option<Handshake>,
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
            TlsState::Started(started) => super::chain(&started.connection),
        }
    }

    /// The parameters of the handshake, once it has agreed on them.
    pub(crate) fn parameters(&self) -> Option<TlsParameters> {
        match &self.state {
            TlsState::Idle(_) => None,
            TlsState::Started(started) => super::parameters(&started.connection),
        }
    }

    /// Whether the first byte has been received.
    pub(crate) fn has_begun(&self) -> bool {
        matches!(self.state, TlsState::Started(_))
    }

    pub(crate) fn wants_flush(&self) -> bool {
        match &self.state {
            TlsState::Idle(_) => false,
            TlsState::Started(started) => started.connection.wants_write(),
        }
    }

    pub(crate) fn reset_on_close(&self) {
        reset_on_close(&self.tcp);
    }

    pub(crate) fn close(&mut self) {
        if let TlsState::Started(started) = &mut self.state {
            let connection = &mut started.connection;
            connection.send_close_notify();
            // The peer may be gone; nothing more can be done for it.
            let _ = connection.write_tls(&mut TryWrite(&self.tcp));
        }
        shut_down(&self.tcp);
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<usize>> {
        if let TlsState::Idle(server) = &self.state {
            ready!(self.tcp.poll_read_ready(cx))?;
            let handshake = server.begin();
            let connection = ServerConnection::new(handshake.config()).map_err(io::Error::other)?;
            let handshake = Some(handshake);
            self.state = TlsState::Started(Box::new(Started { connection, handshake }));
        }
        let TlsState::Started(started) = &mut self.state else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let Started { connection, handshake } = &mut **started;
        loop {
            match connection.reader().read(scratch) {
                Ok(read) => return Poll::Ready(Ok(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            match connection.read_tls(&mut PollRead { tcp: &mut self.tcp, cx }) {
                Ok(0) => return Poll::Ready(Ok(0)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
            let processed = connection.process_new_packets();
            // Also after an error: that is how the peer gets the alert.
            flush_tls(connection, &self.tcp)?;
            if let Err(error) = processed {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            if !connection.is_handshaking()
                && let Some(handshake) = handshake.take()
            {
                handshake.completed(connection);
            }
        }
    }

    pub(crate) fn try_write(&mut self, data: &[u8]) -> io::Result<usize> {
        let TlsState::Started(started) = &mut self.state else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let taken = started.connection.writer().write(data)?;
        flush_tls(&mut started.connection, &self.tcp)?;
        Ok(taken)
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let TlsState::Started(started) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        while started.connection.wants_write() {
            ready!(self.tcp.poll_write_ready(cx))?;
            flush_tls(&mut started.connection, &self.tcp)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn flush_tls(connection: &mut ServerConnection, tcp: &TcpStream) -> io::Result<()> {
    while connection.wants_write() {
        match connection.write_tls(&mut TryWrite(tcp)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads for rustls; `WouldBlock` has registered the task for the next readiness.
struct PollRead<'a, 'b, 'c> {
    tcp: &'a mut TcpStream,
    cx: &'b mut Context<'c>,
}

impl Read for PollRead<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match poll_read_stream(self.tcp, self.cx, buffer) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Writes for rustls without waiting.
struct TryWrite<'a>(&'a TcpStream);

impl Write for TryWrite<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.try_write(data)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
