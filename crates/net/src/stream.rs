//! A connection as a stream of bytes, whatever carries it.

use std::net::SocketAddr;

use holdfast_model::{CertificateChain, TlsParameters};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Bytes both ways: TCP, TLS or WebSocket messages joined.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> ByteStream for T {}

/// The other end of a connection, as far as the transport knows it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The peer's address.
    pub address: SocketAddr,
    /// Whether the bytes are encrypted.
    pub encrypted: bool,
    /// The host name that the client named in its TLS greeting.
    pub server_name: Option<String>,
    /// The certificates that the client has shown; TLS has proved that it owns the first one's key, and nothing else.
    pub certificates: Option<CertificateChain>,
    /// The parameters of the TLS connection.
    pub tls: Option<TlsParameters>,
}

impl Peer {
    /// The client of an unencrypted connection.
    #[must_use]
    pub const fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            encrypted: false,
            server_name: None,
            certificates: None,
            tls: None,
        }
    }

    /// The client of a TLS connection whose handshake is complete.
    #[must_use]
    pub fn tls(address: SocketAddr, stream: &TlsStream<TcpStream>) -> Self {
        let (_, connection) = stream.get_ref();
        Self {
            address,
            encrypted: true,
            server_name: connection.server_name().map(str::to_owned),
            certificates: crate::tls::chain(connection),
            tls: crate::tls::parameters(connection),
        }
    }
}
