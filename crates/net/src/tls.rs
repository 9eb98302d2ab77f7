//! The server's TLS configuration and handshake.
//!
//! Spec auth-and-limits §3.1 and §4: TLS 1.2 and 1.3, an ECDSA and an RSA certificate with ECDSA preferred, no client
//! certificate demanded.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_tasks::sync::RwLock;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A certificate chain, leaf first, and its key.
pub struct ServerIdentity {
    /// Leaf first, all intermediates, without the root (Spec device-mqtt §12).
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
}

/// A TLS configuration could not be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// No certificate was given.
    #[error("no server certificate is configured")]
    NoCertificate,
    /// A key does not fit its certificate, or its kind is unknown.
    #[error("a server certificate or its key cannot be used")]
    Certificate(#[source] rustls::Error),
}

/// The certificates that listeners show, in order of preference. Clones share them; they may be replaced at any time, and
/// count for handshakes that begin afterwards.
#[derive(Debug, Clone)]
pub struct ServerCertificates(Arc<RwLock<Vec<Arc<CertifiedKey>>>>);

impl ServerCertificates {
    /// The first ones.
    ///
    /// # Errors
    /// [`TlsError`] when there is no usable certificate.
    pub fn new(identities: Vec<ServerIdentity>) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(certified(identities)?))))
    }

    /// Others from now on; the old ones stay when these cannot be used.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn replace(&self, identities: Vec<ServerIdentity>) -> Result<(), TlsError> {
        let keys = certified(identities)?;
        *self.0.write() = keys;
        Ok(())
    }
}

fn certified(identities: Vec<ServerIdentity>) -> Result<Vec<Arc<CertifiedKey>>, TlsError> {
    let provider = aws_lc_rs::default_provider();
    let mut keys = Vec::with_capacity(identities.len());
    for identity in identities {
        let certified =
            CertifiedKey::from_der(identity.chain, identity.key, &provider).map_err(TlsError::Certificate)?;
        keys.push(Arc::new(certified));
    }
    if keys.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    Ok(keys)
}

/// Chooses the first certificate whose key the client can verify.
impl ResolvesServerCert for ServerCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.0.read();
        keys.iter()
            .find(|certified| certified.key.choose_scheme(hello.signature_schemes()).is_some())
            .or(keys.first())
            .cloned()
    }
}

/// Builds the configuration of the listeners.
///
/// # Errors
/// [`TlsError::Certificate`] when rustls knows no version that it may use.
pub fn server_config(certificates: &ServerCertificates, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Certificate)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates.clone()));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // Resumption saves nothing with an ECDSA key, and its tickets cost a write and memory on every connection.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Completes a handshake as server within `timeout`.
///
/// # Errors
/// `TimedOut` past the deadline; otherwise what the socket or rustls reports.
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
