//! Step `tls`: the versions that each address takes, and the chain that it shows.
//!
//! The handshake accepts any chain, so that a chain can be looked at which a client refuses; [`super::chain`] judges it.
//! Invariant: nothing secret goes over such a connection: [`super::credential`] needs a chain that was judged good.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ports::{Probe, Service};
use super::report::{Finding, Step};

/// Both versions, as a client that offers all it has.
pub(super) const ANY_VERSION: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Accepts every chain; checks that the server owns the key of the leaf.
#[derive(Debug)]
struct AnyChain(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyChain {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate with which this machine's device proves itself.
#[derive(Debug)]
pub(super) struct ClientIdentity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// A client that accepts every chain.
///
/// # Errors
/// When key and certificate of the client do not fit.
pub(super) fn any_chain(
    versions: &[&'static SupportedProtocolVersion],
    client: Option<&ClientIdentity>,
) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyChain(provider)));
    let config = match client {
        Some(client) => builder.with_client_auth_cert(client.chain.clone(), client.key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// Why there is no TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// TCP no longer connects.
    Tcp(String),
    /// TCP connects, then nothing comes.
    Silent,
    /// The server ends the connection in the middle of the handshake.
    Closed,
    /// The server, or this client, says why.
    Refused(String),
}

impl Fault {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Tcp(error) => format!("TCP failed: {error}"),
            Self::Silent => "TCP connects, but nothing answers TLS".to_owned(),
            Self::Closed => "closed in the middle of the handshake".to_owned(),
            Self::Refused(reason) => reason.clone(),
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::AlertReceived(alert)) => Self::Refused(format!("refused with alert {alert:?}")),
            Some(Error::InvalidMessage(_)) => Self::Refused("the answer is not TLS".to_owned()),
            Some(other) => Self::Refused(other.to_string()),
            None => match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    Self::Closed
                }
                _ => Self::Refused(error.to_string()),
            },
        }
    }
}

/// Connects and shakes hands within `limit`.
pub(super) async fn connect(
    address: SocketAddr,
    name: &ServerName<'static>,
    config: &Arc<ClientConfig>,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, Fault> {
    let socket = match timeout(limit, TcpStream::connect(address)).await {
        Err(_) => return Err(Fault::Tcp("no answer".to_owned())),
        Ok(Err(error)) => return Err(Fault::Tcp(error.to_string())),
        Ok(Ok(socket)) => socket,
    };
    let handshake = TlsConnector::from(Arc::clone(config)).connect(name.clone(), socket);
    match timeout(limit, handshake).await {
        Err(_) => Err(Fault::Silent),
        Ok(Err(error)) => Err(Fault::of(&error)),
        Ok(Ok(stream)) => Ok(stream),
    }
}

/// A finished handshake.
#[derive(Debug, Clone)]
pub(super) struct Shaken {
    pub(super) cipher: String,
    pub(super) chain: Vec<CertificateDer<'static>>,
}

/// One address with its handshakes.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) service: Service,
    pub(super) address: SocketAddr,
    pub(super) tls12: Result<Shaken, Fault>,
    pub(super) tls13: Result<Shaken, Fault>,
}

impl Endpoint {
    /// The chain that a client with both versions gets.
    pub(super) fn chain(&self) -> Option<&[CertificateDer<'static>]> {
        let shaken = self.tls13.as_ref().or(self.tls12.as_ref()).ok()?;
        Some(&shaken.chain)
    }

    fn text(&self) -> String {
        let version = |name: &str, outcome: &Result<Shaken, Fault>| match outcome {
            Ok(shaken) => format!("{name} taken ({})", shaken.cipher),
            Err(fault) => format!("{name} not taken: {}", fault.text()),
        };
        format!(
            "{}: {}; {}",
            self.address,
            version("TLS 1.3", &self.tls13),
            version("TLS 1.2", &self.tls12)
        )
    }
}

/// Shakes hands with every open port, with each version alone.
pub(super) async fn probe(
    probes: &[Probe],
    name: &ServerName<'static>,
    limit: Duration,
) -> Result<Vec<Endpoint>, Error> {
    let only12 = any_chain(&[&TLS12], None)?;
    let only13 = any_chain(&[&TLS13], None)?;
    let shake = |address: SocketAddr, config: Arc<ClientConfig>| async move {
        let stream = connect(address, name, &config, limit).await?;
        let (_, connection) = stream.get_ref();
        Ok(Shaken {
            cipher: connection
                .negotiated_cipher_suite()
                .map(|suite| format!("{:?}", suite.suite()))
                .unwrap_or_default(),
            chain: connection.peer_certificates().unwrap_or_default().to_vec(),
        })
    };
    let all = probes.iter().filter(|probe| probe.is_open()).map(|probe| {
        let (tls12, tls13) = (
            shake(probe.address, Arc::clone(&only12)),
            shake(probe.address, Arc::clone(&only13)),
        );
        async move {
            let (tls12, tls13) = tokio::join!(tls12, tls13);
            Endpoint {
                service: probe.service,
                address: probe.address,
                tls12,
                tls13,
            }
        }
    });
    Ok(join_all(all).await)
}

/// The finding: failed when an open port takes neither version, a warning when one takes a single version.
pub(super) fn finding(endpoints: &[Endpoint]) -> Finding {
    let details = endpoints.iter().map(Endpoint::text).collect();
    let version = |outcome: &Result<Shaken, Fault>| match outcome {
        Ok(shaken) => json!({"taken": true, "cipher": shaken.cipher}),
        Err(fault) => json!({"taken": false, "reason": fault.text()}),
    };
    let facts: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "address": endpoint.address.ip(),
                "port": endpoint.address.port(),
                "tls12": version(&endpoint.tls12),
                "tls13": version(&endpoint.tls13),
            })
        })
        .collect();
    let without: Vec<&Endpoint> = endpoints.iter().filter(|endpoint| endpoint.chain().is_none()).collect();
    let is_partial = |endpoint: &Endpoint| endpoint.tls12.is_ok() != endpoint.tls13.is_ok();
    let finding = if let Some(first) = without.first() {
        let list: Vec<String> = without.iter().map(|endpoint| endpoint.address.to_string()).collect();
        let is_silent = first.tls13 == Err(Fault::Silent);
        Finding::failed(Step::Tls, format!("no TLS with {}", list.join(", "))).advise(if is_silent {
            "a firewall or a load balancer takes the connection and nothing behind it answers; or another program has the port"
        } else {
            "is this the TLS port of the hub? A middlebox that knows only its own protocols cuts such connections too"
        })
    } else if endpoints.iter().any(is_partial) {
        Finding::warning(Step::Tls, "the server takes only one of TLS 1.2 and 1.3")
            .advise("a device that knows only the other version cannot connect; a hub of this version takes both")
    } else {
        Finding::passed(Step::Tls, "TLS 1.2 and 1.3 are taken")
    };
    finding.details(details).facts(facts.into())
}

impl PartialEq for Shaken {
    fn eq(&self, other: &Self) -> bool {
        self.cipher == other.cipher && self.chain == other.chain
    }
}
