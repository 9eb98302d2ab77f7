//! A connection as a stream of bytes, whatever carries it.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways: TCP, TLS or WebSocket messages joined.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteStream for T {}

/// Who is at the other end, as far as the transport knows.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The peer's address.
    pub address: SocketAddr,
    /// Whether the bytes are encrypted.
    pub encrypted: bool,
    /// The host name that the client asked for in its TLS greeting.
    pub server_name: Option<String>,
}
