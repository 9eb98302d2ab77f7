//! This node's certificate and the CA of all nodes: load, check, and reload after a renewal.
//!
//! Why: a certificate of the peer CA makes its holder a node with all rights, so only those are accepted; and certificates
//! are renewed while the node runs.
//! Invariants: a certificate that other nodes would refuse is refused when it is loaded, with the reason; an incomplete
//! renewal leaves the old certificate in use. Open connections are not affected.
//! Not here: watching the files (`certificate_watch`), issuing certificates (the binary's dev mode).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_net::FileStamps;
use holdfast_tasks::sync::RwLock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use thiserror::Error;

use crate::peer::error_text;
use crate::peer::protocol::names::PEER_DNS_NAME;

const ALPN: &[u8] = b"h2";

/// The files with the certificates, all PEM.
#[derive(Debug, Clone)]
pub struct PeerTlsFiles {
    /// The CA certificates that the certificates of nodes may chain to; several while the CA is being replaced.
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
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM, or does not contain what it should.
    #[error("{what}: no {kind} in PEM form")]
    Pem {
        /// The file.
        what: String,
        /// The expected content.
        kind: &'static str,
        /// The cause; none if the file is valid PEM.
        #[source]
        source: Option<rustls_pki_types::pem::Error>,
    },
    /// Other nodes would refuse the certificate.
    #[error("the peer certificate cannot be used: {}", error_text::of_tls_error(.0))]
    Certificate(#[source] rustls::Error),
    /// The CA certificates cannot be used.
    #[error("the CA certificates cannot be used")]
    Authority(#[source] rustls::server::VerifierBuilderError),
    /// rustls refuses the certificate or its key.
    #[error("the peer certificate cannot be used")]
    Tls(#[source] rustls::Error),
}

/// The result of one load.
pub(crate) struct Loaded {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) expires: Option<SystemTime>,
    /// The nodes that the certificate names, in lower case.
    nodes: Vec<String>,
}

/// This node's current certificates. Clones share them.
#[derive(Clone)]
pub struct PeerTls(Arc<Inner>);

struct Inner {
    files: Option<(PeerTlsFiles, FileStamps)>,
    current: RwLock<Arc<Loaded>>,
}

impl PeerTls {
    /// Loads from files. [`Peers`](crate::peer::Peers) then checks every few seconds whether they have changed.
    ///
    /// # Errors
    /// [`PeerTlsError`] says which file and what is wrong with it.
    pub fn load(files: PeerTlsFiles) -> Result<Self, PeerTlsError> {
        let stamps = FileStamps::read([files.ca.clone(), files.certificate.clone(), files.key.clone()]);
        let loaded = load(&files)?;
        Ok(Self(Arc::new(Inner {
            files: Some((files, stamps)),
            current: RwLock::new(Arc::new(loaded)),
        })))
    }

    /// From PEM text; never reloaded.
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

    /// When this node's certificate expires.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.0.current.read().expires
    }

    /// The nodes that this node's certificate names, in lower case; empty if it names none.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.0.current.read().nodes.clone()
    }

    pub(crate) fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.0.current.read())
    }

    /// The stamps of the files before they were first loaded.
    pub(crate) fn stamps(&self) -> Option<&FileStamps> {
        self.0.files.as_ref().map(|(_, stamps)| stamps)
    }

    /// Reloads the files; if that fails, the old certificates stay in use.
    ///
    /// # Errors
    /// As [`PeerTls::load`].
    pub fn reload(&self) -> Result<(), PeerTlsError> {
        if let Some((files, _)) = &self.0.files {
            let loaded = load(files)?;
            *self.0.current.write() = Arc::new(loaded);
        }
        Ok(())
    }
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
    let missing = |source| PeerTlsError::Pem {
        what: what.to_owned(),
        kind: "certificate",
        source,
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| missing(Some(error)))?;
    if found.is_empty() {
        Err(missing(None))
    } else {
        Ok(found)
    }
}

fn assemble(ca: (&str, &[u8]), certificate: (&str, &[u8]), key: (&str, &[u8])) -> Result<Loaded, PeerTlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(ca.0, ca.1)? {
        roots.add(root).map_err(PeerTlsError::Tls)?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(certificate.0, certificate.1)?;
    let private = PrivateKeyDer::from_pem_slice(key.1).map_err(|error| PeerTlsError::Pem {
        what: key.0.to_owned(),
        kind: "private key",
        source: Some(error),
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    check(&roots, &provider, &chain)?;

    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(PeerTlsError::Authority)?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PeerTlsError::Tls)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.clone(), private.clone_key())
        .map_err(PeerTlsError::Tls)?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.send_tls13_tickets = 0;

    let expires = not_after(&chain[0]);
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
        expires,
        nodes,
    })
}

/// Checks that another node with the same CA file would accept this chain.
fn check(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    chain: &[CertificateDer<'static>],
) -> Result<(), PeerTlsError> {
    let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(PeerTlsError::Authority)?;
    let now = UnixTime::now();
    servers
        .verify_server_cert(&chain[0], &chain[1..], &peer_name(), &[], now)
        .map_err(PeerTlsError::Certificate)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(PeerTlsError::Authority)?;
    clients
        .verify_client_cert(&chain[0], &chain[1..], now)
        .map_err(PeerTlsError::Certificate)?;
    Ok(())
}

/// The server name that TLS verifies for every node.
pub(crate) fn peer_name() -> ServerName<'static> {
    // The constant is valid; the unreachable fallback would fail every handshake.
    ServerName::try_from(PEER_DNS_NAME).unwrap_or(ServerName::IpAddress(rustls_pki_types::IpAddr::from(
        std::net::IpAddr::from([0, 0, 0, 0]),
    )))
}

/// Whether a certificate with a verified chain belongs to a node.
pub(crate) fn is_of_a_node(certificate: &CertificateDer<'_>) -> bool {
    rustls::server::ParsedCertificate::try_from(certificate)
        .and_then(|parsed| rustls::client::verify_server_name(&parsed, &peer_name()))
        .is_ok()
}

/// The nodes that a certificate names, in lower case: the labels in front of [`PEER_DNS_NAME`] of each DNS name below it.
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

/// When a certificate expires.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
