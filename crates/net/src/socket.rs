//! One device's connection, driven by hand so that an idle one costs no buffer of its own.
//!
//! Why not `AsyncRead + AsyncWrite` alone: acknowledgements are written by whoever learns of a commit, not by the
//! connection's task, and a plain connection must cost about a kilobyte (docs/architecture.md, "Threads and rounds").

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::ByteStream;

/// A TCP, TLS or WebSocket connection.
pub enum Socket {
    /// Unencrypted, loopback in dev mode.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsSocket>),
    /// Anything else that carries bytes, such as WebSocket messages.
    Stream(Box<BufferedStream>),
}

/// A TLS connection whose state is made when the first byte arrives.
pub struct TlsSocket {
    tcp: TcpStream,
    state: TlsState,
}

enum TlsState {
    Silent(Arc<ServerConfig>),
    Speaking(Box<ServerConnection>),
}

/// A stream with the bytes that it has not taken yet.
pub struct BufferedStream {
    stream: Box<dyn ByteStream>,
    pending: BytesMut,
}

impl Socket {
    /// A TLS connection at its very start.
    #[must_use]
    pub fn tls(tcp: TcpStream, config: Arc<ServerConfig>) -> Self {
        Self::Tls(Box::new(TlsSocket {
            tcp,
            state: TlsState::Silent(config),
        }))
    }

    /// A connection carried by another stream.
    #[must_use]
    pub fn stream(stream: Box<dyn ByteStream>) -> Self {
        Self::Stream(Box::new(BufferedStream {
            stream,
            pending: BytesMut::new(),
        }))
    }

    /// Reads what has arrived into `scratch`; 0 = the peer has closed. A TLS handshake happens in here.
    ///
    /// # Errors
    /// What the socket reports; `InvalidData` when the peer breaks TLS.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => poll_read_stream(tcp, cx, scratch),
            Self::Tls(tls) => tls.poll_read(cx, scratch),
            Self::Stream(buffered) => poll_read_stream(&mut buffered.stream, cx, scratch),
        }
    }

    /// Hands over as much of `data` as is taken without waiting, and says how much that was. When
    /// [`Self::wants_flush`] then holds, the connection's task must call [`Self::poll_flush`].
    ///
    /// # Errors
    /// What the socket reports, never `WouldBlock`.
    pub fn try_write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => match tcp.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                result => result,
            },
            Self::Tls(tls) => tls.try_write(data),
            Self::Stream(buffered) => {
                buffered.pending.extend_from_slice(data);
                Ok(data.len())
            }
        }
    }

    /// Whether bytes that were taken have not reached the kernel yet.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => matches!(&tls.state, TlsState::Speaking(connection) if connection.wants_write()),
            Self::Stream(buffered) => !buffered.pending.is_empty(),
        }
    }

    /// Returns once writing makes sense again and everything taken before has been handed to the kernel.
    ///
    /// # Errors
    /// What the socket reports.
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
                Pin::new(&mut buffered.stream).poll_flush(cx)
            }
        }
    }

    /// Says goodbye as far as that is possible without waiting: TLS close_notify, then the write side is shut.
    pub fn close(&mut self) {
        match self {
            Self::Plain(tcp) => shut(tcp),
            Self::Tls(tls) => {
                if let TlsState::Speaking(connection) = &mut tls.state {
                    connection.send_close_notify();
                    // The peer may be gone; nothing more can be done for it.
                    let _ = connection.write_tls(&mut TryWrite(&tls.tcp));
                }
                shut(&tls.tcp);
            }
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

fn shut(tcp: &TcpStream) {
    // An already closed socket is what is wanted.
    let _ = socket2::SockRef::from(tcp).shutdown(std::net::Shutdown::Write);
}

fn poll_read_stream<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    scratch: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(scratch);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

impl TlsSocket {
    fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<usize>> {
        if let TlsState::Silent(config) = &self.state {
            ready!(self.tcp.poll_read_ready(cx))?;
            let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
            self.state = TlsState::Speaking(Box::new(connection));
        }
        let TlsState::Speaking(connection) = &mut self.state else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
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
        }
    }

    fn try_write(&mut self, data: &[u8]) -> io::Result<usize> {
        let TlsState::Speaking(connection) = &mut self.state else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let taken = connection.writer().write(data)?;
        flush_tls(connection, &self.tcp)?;
        Ok(taken)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let TlsState::Speaking(connection) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        while connection.wants_write() {
            ready!(self.tcp.poll_write_ready(cx))?;
            flush_tls(connection, &self.tcp)?;
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
