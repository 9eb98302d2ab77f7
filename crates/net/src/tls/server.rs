//! The TLS of the listeners, and the handshake of protocols that do not put it off.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::client::ProofOfPossession;
use super::greeting::{ServerNames, is_browser};
use super::handshake::Handshake;
use super::tickets::TicketKeys;
use super::{ServerCertificates, TlsError};

/// How the listeners speak TLS.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// How long after a full handshake its session may be resumed; `None`: never.
    pub resumption: Option<Duration>,
    /// The names of the hub, for the metrics.
    pub names: ServerNames,
    /// Whether the time of each handshake is kept until its protocol takes it, for spans.
    pub times_handshakes: bool,
}

/// The TLS of a node's listeners: certificates, and the keys of session tickets. Clones share it, so that a session begun on one core
/// or port is resumed on another.
#[derive(Clone)]
pub struct TlsServer(pub(super) Arc<Shared>);

pub(super) struct Shared {
    /// What all handshakes have in common that request a certificate.
    pub(super) config: ServerConfig,
    /// The same for those that request none.
    pub(super) without_request: ServerConfig,
    pub(super) certificates: ServerCertificates,
    pub(super) names: Arc<ServerNames>,
    pub(super) tickets: Option<Arc<TicketKeys>>,
    pub(super) times_handshakes: bool,
}

impl TlsServer {
    /// For listeners that show `certificates`.
    ///
    /// # Errors
    /// [`TlsError::Certificate`] when rustls knows no version that it may use; [`TlsError::TicketKey`] without randomness.
    pub fn new(certificates: &ServerCertificates, options: TlsOptions) -> Result<Self, TlsError> {
        let tickets = match options.resumption {
            None => None,
            Some(lifetime) => Some(TicketKeys::new(lifetime).map_err(|_| TlsError::TicketKey)?),
        };
        Self::with_tickets(certificates, options.names, tickets, options.times_handshakes)
    }

    pub(super) fn with_tickets(
        certificates: &ServerCertificates,
        names: ServerNames,
        tickets: Option<TicketKeys>,
        times_handshakes: bool,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = |verifier: Arc<dyn ClientCertVerifier>| {
            let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(TlsError::Certificate)?
                .with_client_cert_verifier(verifier)
                // Each handshake puts its own one here.
                .with_cert_resolver(Arc::new(NoCertificate));
            // Tickets alone resume: a table of sessions would need a bound, and a lock that all cores share.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = usize::from(tickets.is_some());
            Ok(config)
        };
        Ok(Self(Arc::new(Shared {
            config: config(Arc::new(ProofOfPossession(Arc::clone(&provider))))?,
            without_request: config(WebPkiClientVerifier::no_client_auth())?,
            certificates: certificates.clone(),
            names: Arc::new(names),
            tickets: tickets.map(Arc::new),
            times_handshakes,
        })))
    }

    /// Replaces the keys of session tickets when their time has come. Handshakes do so too; a call every few seconds drops keys
    /// in time on a node that has no handshakes.
    pub fn rotate_ticket_keys(&self) {
        if let Some(tickets) = &self.0.tickets {
            tickets.rotate();
        }
    }

    /// Begins a handshake that requests a client certificate.
    pub(crate) fn begin(&self) -> Handshake {
        Handshake::begin(self, &self.0.config)
    }

    /// Begins a handshake with a client that has greeted so.
    fn begin_with(&self, hello: &ClientHello<'_>) -> Handshake {
        match is_browser(hello.cipher_suites()) {
            true => Handshake::begin(self, &self.0.without_request),
            false => self.begin(),
        }
    }
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::server::ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
}

/// Completes a handshake as server within `timeout`. No certificate is requested from a browser.
///
/// # Errors
/// `TimedOut` past the deadline; otherwise the error of the socket or of rustls.
pub async fn accept_tls(socket: TcpStream, server: &TlsServer, timeout: Duration) -> io::Result<TlsStream<TcpStream>> {
    let complete = async {
        let greeted = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let handshake = server.begin_with(&greeted.client_hello());
        let stream = greeted.into_stream(handshake.config()).await?;
        handshake.completed(stream.get_ref().1);
        Ok(stream)
    };
    match tokio::time::timeout(timeout, complete).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the TLS handshake took too long",
        )),
    }
}
