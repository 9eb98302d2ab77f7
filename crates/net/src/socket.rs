//! One device's connection, driven by hand so that an idle one costs no buffer of its own.
//!
//! Why not `AsyncRead + AsyncWrite` alone: acknowledgements are written at the commit, outside the connection's task,
//! and a plain connection must cost about a kilobyte (docs/architecture.md, "Threads and rounds").

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use holdfast_model::{CertificateChain, TlsParameters};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::{HandshakeTime, TlsSocket};
use crate::{ByteStream, TlsServer};

/// A TCP, TLS or WebSocket connection.
pub enum Socket {
    /// Unencrypted, loopback in dev mode.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsSocket>),
    /// Anything else that carries bytes, such as WebSocket messages.
    Stream(Box<BufferedStream>),
}

/// A stream with the bytes that have not been written to it yet.
pub struct BufferedStream {
    stream: Box<dyn ByteStream>,
    /// The client certificates of the TLS connection that carries the stream.
    peer_certificates: Option<CertificateChain>,
    /// The parameters of that connection.
    tls_parameters: Option<TlsParameters>,
    /// Bytes that the stream has not taken.
    pending: BytesMut,
    /// The stream may hold bytes back until it is flushed.
    needs_flush: bool,
}

impl Socket {
    /// A TLS connection at its very start.
    #[must_use]
    pub fn tls(tcp: TcpStream, server: TlsServer) -> Self {
        Self::Tls(Box::new(TlsSocket::new(tcp, server)))
    }

    /// A connection carried by another stream, whose TLS handshake showed `peer_certificates`.
    #[must_use]
    pub fn stream(stream: Box<dyn ByteStream>, peer_certificates: Option<CertificateChain>) -> Self {
        Self::Stream(Box::new(BufferedStream {
            stream,
            peer_certificates,
            tls_parameters: None,
            pending: BytesMut::new(),
            needs_flush: false,
        }))
    }

    /// The same connection, with the parameters of the TLS connection that carries it.
    #[must_use]
    pub fn with_tls_parameters(mut self, parameters: Option<TlsParameters>) -> Self {
        if let Self::Stream(buffered) = &mut self {
            buffered.tls_parameters = parameters;
        }
        self
    }

    /// The parameters of its TLS connection; `None` without TLS, and before the handshake has agreed on them.
    #[must_use]
    pub fn tls_parameters(&self) -> Option<TlsParameters> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.parameters(),
            Self::Stream(buffered) => buffered.tls_parameters.clone(),
        }
    }

    /// When its TLS handshake was, once; `None` where handshakes are not timed, and on connections whose protocol begins later.
    pub fn take_handshake_time(&mut self) -> Option<HandshakeTime> {
        match self {
            Self::Tls(tls) => tls.take_handshake_time(),
            Self::Plain(_) | Self::Stream(_) => None,
        }
    }

    /// The certificates that the client has shown in its TLS handshake, and whose key it owns; `None` before the
    /// handshake is complete, and when it has shown none.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<CertificateChain> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.peer_certificates(),
            Self::Stream(buffered) => buffered.peer_certificates.clone(),
        }
    }

    /// Whether a TLS handshake has begun: the first bytes of a TLS connection have been received.
    pub(crate) fn has_begun_handshake(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.has_begun())
    }

    /// Reads received bytes into `scratch`; 0 = the peer has closed. The TLS handshake is part of the first reads; its largest message must fit
    /// `scratch`, so that this has 32 KiB or more.
    ///
    /// # Errors
    /// The error of the socket; `InvalidData` when the peer breaks TLS.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => poll_read_stream(tcp, cx, scratch),
            Self::Tls(tls) => tls.poll_read(cx, scratch),
            Self::Stream(buffered) => poll_read_stream(&mut buffered.stream, cx, scratch),
        }
    }

    /// Writes as much of `data` as is possible without waiting, and returns how much that was. When
    /// [`Self::wants_flush`] then holds, the connection's task must call [`Self::poll_flush`].
    ///
    /// # Errors
    /// The error of the socket, never `WouldBlock`.
    pub fn try_write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => match tcp.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                result => result,
            },
            Self::Tls(tls) => tls.try_write(data),
            Self::Stream(buffered) => buffered.write(data),
        }
    }

    /// Whether bytes that were taken have not reached the kernel yet.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.wants_flush(),
            Self::Stream(buffered) => buffered.needs_flush,
        }
    }

    /// Bytes that were taken and wait in this process's memory.
    #[must_use]
    pub(crate) fn buffered(&self) -> usize {
        match self {
            // rustls bounds its own buffer.
            Self::Plain(_) | Self::Tls(_) => 0,
            Self::Stream(buffered) => buffered.pending.len(),
        }
    }

    /// Ready once the socket is writable and everything written before has reached the kernel.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => tcp.poll_write_ready(cx),
            Self::Tls(tls) => tls.poll_flush(cx),
            Self::Stream(buffered) => {
                while !buffered.pending.is_empty() {
                    let written = ready!(Pin::new(&mut buffered.stream).poll_write(cx, &buffered.pending))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    buffered.pending.advance(written);
                }
                buffered.pending = BytesMut::new();
                ready!(Pin::new(&mut buffered.stream).poll_flush(cx))?;
                buffered.needs_flush = false;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Has the close reset the connection instead of ending it in order; of a stream over another one it changes nothing.
    pub fn reset_on_close(&self) {
        match self {
            Self::Plain(tcp) => reset_on_close(tcp),
            Self::Tls(tls) => tls.reset_on_close(),
            Self::Stream(_) => {}
        }
    }

    /// Closes the connection as far as that is possible without waiting: TLS close_notify, then the write side.
    pub fn close(&mut self) {
        match self {
            Self::Plain(tcp) => shut_down(tcp),
            Self::Tls(tls) => tls.close(),
            Self::Stream(buffered) => {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                if !buffered.pending.is_empty() {
                    let _ = Pin::new(&mut buffered.stream).poll_write(&mut cx, &buffered.pending);
                }
                let _ = Pin::new(&mut buffered.stream).poll_shutdown(&mut cx);
            }
        }
    }
}

impl BufferedStream {
    /// Takes all of `data`; the rest that the stream does not take at once waits for [`Socket::poll_flush`], which the connection's
    /// task calls with a waker.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        if self.pending.is_empty() {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            match Pin::new(&mut self.stream).poll_write(&mut cx, data) {
                Poll::Ready(Ok(0)) if !data.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(result) => taken = result?,
                Poll::Pending => {}
            }
        }
        self.pending.extend_from_slice(data.get(taken..).unwrap_or_default());
        self.needs_flush = true;
        Ok(data.len())
    }
}

pub(crate) fn reset_on_close(tcp: &TcpStream) {
    // A socket that refuses the option is closed in order.
    let _ = socket2::SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO));
}

pub(crate) fn shut_down(tcp: &TcpStream) {
    // It may be closed already, which is the aim.
    let _ = socket2::SockRef::from(tcp).shutdown(std::net::Shutdown::Write);
}

pub(crate) fn poll_read_stream<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    scratch: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(scratch);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}
