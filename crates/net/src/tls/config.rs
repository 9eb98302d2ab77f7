//! The configuration of the TLS listeners, and the handshake of protocols that do not put it off.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::client::ProofOfPossession;
use super::{ServerCertificates, TlsError};

/// Builds the configuration of the listeners.
///
/// # Errors
/// [`TlsError::Certificate`] when rustls knows no version that it may use.
pub fn server_config(certificates: &ServerCertificates, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Certificate)?
        .with_client_cert_verifier(Arc::new(ProofOfPossession(provider)))
        .with_cert_resolver(Arc::new(certificates.clone()));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // Resumption saves nothing with an ECDSA key, and its tickets cost a write and memory on every connection.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Completes a handshake as server within `timeout`.
///
/// # Errors
/// `TimedOut` past the deadline; otherwise the error of the socket or of rustls.
pub async fn accept_tls(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    timeout: Duration,
) -> io::Result<TlsStream<TcpStream>> {
    match tokio::time::timeout(timeout, tokio_rustls::TlsAcceptor::from(config).accept(socket)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the TLS handshake took too long",
        )),
    }
}
