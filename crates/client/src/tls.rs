//! TLS as a client of a hub.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Where distributions keep the CAs that they trust.
const SYSTEM_CAS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// A client that trusts the CAs in `ca_file`, else the system's.
///
/// # Errors
/// When there is no list of CAs, or no certificate in it.
pub fn config(ca_file: Option<&Path>, versions: &[&'static SupportedProtocolVersion]) -> Result<ClientConfig> {
    config_with(roots(ca_file)?, versions)
}

/// The same with a certificate of the client's own, its chain behind it.
///
/// # Errors
/// As [`config`], and when the key cannot be used.
pub fn config_as(
    ca_file: Option<&Path>,
    versions: &[&'static SupportedProtocolVersion],
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig> {
    Ok(builder(roots(ca_file)?, versions)?.with_client_auth_cert(chain, key)?)
}

/// A client that trusts `roots`.
///
/// # Errors
/// When a version of TLS cannot be used.
pub fn config_with(roots: RootCertStore, versions: &[&'static SupportedProtocolVersion]) -> Result<ClientConfig> {
    Ok(builder(roots, versions)?.with_no_client_auth())
}

fn builder(
    roots: RootCertStore,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    Ok(builder.with_root_certificates(roots))
}

/// The CAs in a PEM text.
///
/// # Errors
/// When there is no certificate in it.
pub fn roots_of(pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
    ensure!(!roots.is_empty(), "the text holds no certificate");
    Ok(roots)
}

/// The CAs in `ca_file`, else the system's.
///
/// # Errors
/// As [`config`].
pub fn roots(ca_file: Option<&Path>) -> Result<RootCertStore> {
    let file = ca_file.or_else(|| SYSTEM_CAS.map(Path::new).into_iter().find(|path| path.exists()));
    let file = file.context("this system has no list of trusted CAs")?;
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(file).with_context(|| format!("cannot read the CA file {}", file.display()))?;
    // A system's list may hold certificates that no longer parse.
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    ensure!(!roots.is_empty(), "{} holds no certificate", file.display());
    Ok(roots)
}
