//! The certificates of this node and the CA of all nodes: loaded, checked, and loaded again when the files change.
//!
//! Why: whoever has a certificate of the peer CA is a node and may do everything, so nothing else gets in; and
//! certificates are renewed under a running node.
//! Invariant: a certificate that could not serve is refused when it is loaded, with what is wrong; a renewal that is
//! not whole leaves the old one in use. Connections that stand are not touched.
//! Not here: issuing (the binary's dev mode).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_tasks::Phase;
use holdfast_tasks::sync::RwLock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use thiserror::Error;
use tokio::time::sleep;

use super::state::Shared;

/// The DNS name that every node's certificate carries. It says "a node of the cluster", and is what TLS asks for:
/// addresses change.
pub const PEER_DNS_NAME: &str = "peer.holdfast";

/// The DNS name that says which node a certificate is for: the node's name in front of [`PEER_DNS_NAME`].
#[must_use]
pub fn node_dns_name(name: &str) -> String {
    format!("{name}.{PEER_DNS_NAME}")
}

const ALPN: &[u8] = b"h2";

/// Where the certificates are, all PEM.
#[derive(Debug, Clone)]
pub struct PeerTlsFiles {
    /// The CA certificates that nodes' certificates may chain to; several while the CA is being exchanged.
    pub ca: PathBuf,
    /// This node's chain, leaf first.
    pub certificate: PathBuf,
    /// The leaf's private key.
    pub key: PathBuf,
}

/// The certificates cannot be used.
#[derive(Debug, Error)]
pub enum PeerTlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM, or has nothing of its kind in it.
    #[error("{what}: no {kind} in PEM form")]
    Pem {
        /// Which of the three.
        what: String,
        /// What was looked for.
        kind: &'static str,
    },
    /// The certificate does not serve.
    #[error("the peer certificate cannot be used: {0}")]
    Certificate(String),
    /// rustls refuses the parts.
    #[error("the peer certificate cannot be used")]
    Tls(#[source] rustls::Error),
}

/// What one load gave.
pub(crate) struct Loaded {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) ends: Option<SystemTime>,
    /// The nodes that the certificate is for.
    nodes: Vec<String>,
}

/// This node's certificates as they stand; clones share them.
#[derive(Clone)]
pub struct PeerTls(Arc<Inner>);

struct Inner {
    files: Option<PeerTlsFiles>,
    current: RwLock<Arc<Loaded>>,
}

impl PeerTls {
    /// Loads from files, which [`Peers`](super::Peers) then looks at every few seconds.
    ///
    /// # Errors
    /// [`PeerTlsError`] says which file and what is wrong with it.
    pub fn load(files: PeerTlsFiles) -> Result<Self, PeerTlsError> {
        let loaded = load(&files)?;
        Ok(Self(Arc::new(Inner {
            files: Some(files),
            current: RwLock::new(Arc::new(loaded)),
        })))
    }

    /// From PEM text, never looked at again.
    ///
    /// # Errors
    /// [`PeerTlsError`] says what is wrong.
    pub fn from_pem(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, PeerTlsError> {
        Ok(Self(Arc::new(Inner {
            files: None,
            current: RwLock::new(Arc::new(assemble(
                ("the CA", ca),
                ("the certificate", certificate),
                ("the key", key),
            )?)),
        })))
    }

    /// When this node's certificate ends.
    #[must_use]
    pub fn ends(&self) -> Option<SystemTime> {
        self.0.current.read().ends
    }

    /// The names of the nodes that this node's certificate is for, in lower case; empty when it names none.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.0.current.read().nodes.clone()
    }

    pub(crate) fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.0.current.read())
    }

    pub(crate) fn files(&self) -> Option<&PeerTlsFiles> {
        self.0.files.as_ref()
    }

    /// Loads the files anew; the old certificates stay when that fails.
    ///
    /// # Errors
    /// As [`PeerTls::load`].
    pub fn reload(&self) -> Result<(), PeerTlsError> {
        if let Some(files) = &self.0.files {
            let loaded = load(files)?;
            *self.0.current.write() = Arc::new(loaded);
        }
        Ok(())
    }
}

/// What tells that a file has changed.
type Stamp = [Option<(SystemTime, u64)>; 3];

/// The files' stamps now; reads the disk.
fn stamp(files: &PeerTlsFiles) -> Stamp {
    [&files.ca, &files.certificate, &files.key].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    })
}

/// Looks at the files every few seconds and loads them when they have changed. A renewal that is not whole is tried again;
/// its trouble is logged once.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let ends = |tls: &PeerTls| {
        tls.ends()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .map_or(0.0, |at| at.as_secs_f64())
    };
    shared.metrics.certificate_ends.set(ends(&shared.tls));
    let Some(files) = shared.tls.files().cloned() else {
        return;
    };
    let mut known = stamp_of(&files).await;
    let mut logged = String::new();
    loop {
        tokio::select! {
            biased;
            () = shared.stop.reached(Phase::Closing) => return,
            () = sleep(shared.config.reload_interval) => {}
        }
        let now = stamp_of(&files).await;
        if now == known {
            continue;
        }
        let tls = shared.tls.clone();
        match holdfast_tasks::spawn_blocking(move || tls.reload()).await {
            Ok(()) => {
                known = now;
                logged.clear();
                shared.metrics.reloads.increment(1);
                shared.metrics.certificate_ends.set(ends(&shared.tls));
                tracing::info!("the peer certificates have been loaded anew");
            }
            Err(error) => {
                shared.metrics.reloads_failed.increment(1);
                let text = super::wire::explain(&error);
                if text != logged {
                    tracing::warn!(
                        error = text,
                        "the changed peer certificates cannot be used; the old ones stay"
                    );
                    logged = text;
                }
            }
        }
    }
}

async fn stamp_of(files: &PeerTlsFiles) -> Stamp {
    let files = files.clone();
    holdfast_tasks::spawn_blocking(move || stamp(&files)).await
}

fn load(files: &PeerTlsFiles) -> Result<Loaded, PeerTlsError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| PeerTlsError::Read {
            path: path.to_owned(),
            source,
        })
    };
    let name = |path: &Path| path.display().to_string();
    assemble(
        (&name(&files.ca), &read(&files.ca)?),
        (&name(&files.certificate), &read(&files.certificate)?),
        (&name(&files.key), &read(&files.key)?),
    )
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PeerTlsError> {
    let missing = || PeerTlsError::Pem {
        what: what.to_owned(),
        kind: "certificate",
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| missing())?;
    if found.is_empty() { Err(missing()) } else { Ok(found) }
}

fn assemble(ca: (&str, &[u8]), certificate: (&str, &[u8]), key: (&str, &[u8])) -> Result<Loaded, PeerTlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(ca.0, ca.1)? {
        roots.add(root).map_err(PeerTlsError::Tls)?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(certificate.0, certificate.1)?;
    let private = PrivateKeyDer::from_pem_slice(key.1).map_err(|_| PeerTlsError::Pem {
        what: key.0.to_owned(),
        kind: "private key",
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    check(&roots, &provider, &chain)?;

    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(|error| PeerTlsError::Certificate(error.to_string()))?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PeerTlsError::Tls)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.clone(), private.clone_key())
        .map_err(PeerTlsError::Tls)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.send_tls13_tickets = 0;

    let ends = not_after(&chain[0]);
    let nodes = nodes_of(&chain[0]);
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PeerTlsError::Tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private)
        .map_err(PeerTlsError::Tls)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = rustls::client::Resumption::disabled();
    Ok(Loaded {
        server: Arc::new(server),
        client: Arc::new(client),
        ends,
        nodes,
    })
}

/// Whether this chain would be let in by another node with the same CA file.
fn check(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    chain: &[CertificateDer<'static>],
) -> Result<(), PeerTlsError> {
    let failed = |error: rustls::Error| PeerTlsError::Certificate(explain(&error));
    let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(|error| PeerTlsError::Certificate(error.to_string()))?;
    let now = UnixTime::now();
    servers
        .verify_server_cert(&chain[0], &chain[1..], &peer_name(), &[], now)
        .map_err(failed)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(|error| PeerTlsError::Certificate(error.to_string()))?;
    clients
        .verify_client_cert(&chain[0], &chain[1..], now)
        .map_err(failed)?;
    Ok(())
}

/// The name that nodes call each other by in TLS.
pub(crate) fn peer_name() -> ServerName<'static> {
    // A constant; the fallback is never taken, and would fail every handshake rather than let anybody in.
    ServerName::try_from(PEER_DNS_NAME).unwrap_or(ServerName::IpAddress(rustls_pki_types::IpAddr::from(
        std::net::IpAddr::from([0, 0, 0, 0]),
    )))
}

/// Whether a certificate, whose chain has been verified, is one of a node.
pub(crate) fn is_of_a_node(certificate: &CertificateDer<'_>) -> bool {
    rustls::server::ParsedCertificate::try_from(certificate)
        .and_then(|parsed| rustls::client::verify_server_name(&parsed, &peer_name()))
        .is_ok()
}

/// The names of the nodes that a certificate is for, in lower case: of each DNS name below [`PEER_DNS_NAME`] what stands
/// in front of it.
pub(crate) fn nodes_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let below = |name: String| Some(name.strip_suffix(PEER_DNS_NAME)?.strip_suffix('.')?.to_owned());
    names.filter_map(below).collect()
}

/// When a certificate ends.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// A TLS error in words that say what to do.
pub(crate) fn explain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(cause) => match cause {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the certificate was not issued by a CA in cluster.ca_file".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired: renew it".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet: compare the clocks".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the certificate does not carry the DNS name {PEER_DNS_NAME}: it is not one of a node")
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the certificate must be good for both server and client authentication".to_owned()
            }
            other => format!("the certificate is refused: {other}"),
        },
        rustls::Error::NoCertificatesPresented => "it presented no certificate".to_owned(),
        rustls::Error::AlertReceived(alert) => {
            format!("the other side refused this node's certificate ({alert:?}): compare cluster.ca_file on both nodes")
        }
        other => other.to_string(),
    }
}
