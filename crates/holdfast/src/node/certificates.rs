//! The certificates that devices and back ends see: loaded at the start, and reloaded when their files change.
//!
//! Open connections keep the certificate of their handshake; new ones get the new certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_model::UnixMillis;
use holdfast_net::{CertificateReload, FileStamps, ReloadOutcome, ServerCertificates, ServerIdentity, server_config};
use holdfast_tasks::Stop;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certs;
use crate::config::TlsConfig;
use crate::metrics_catalogue;
use holdfast_cli::exit_code::Failure;

/// A certificate and its key.
#[derive(Debug, Clone)]
struct Files {
    /// As the metrics name it.
    name: &'static str,
    certificate: PathBuf,
    key: PathBuf,
}

/// The certificate of TLS listeners; nothing when no certificate is configured.
#[derive(Clone)]
pub(crate) struct Tls(Option<Arc<Inner>>);

struct Inner {
    /// In order of preference.
    files: Vec<Files>,
    /// The stamps of the files before they were loaded.
    stamps: FileStamps,
    certificates: ServerCertificates,
    config: Arc<ServerConfig>,
    reload_interval: Duration,
}

impl Tls {
    /// Reads the certificates.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub(crate) fn load(config: &TlsConfig) -> Result<Self, Failure> {
        // ECDSA handshakes cost less.
        let files: Vec<Files> = [
            ("server", &config.certificate_file, &config.key_file),
            ("rsa", &config.rsa_certificate_file, &config.rsa_key_file),
        ]
        .into_iter()
        .filter_map(|(name, certificate, key)| {
            Some(Files {
                name,
                certificate: certificate.clone()?,
                key: key.clone()?,
            })
        })
        .collect();
        if files.is_empty() {
            return Ok(Self(None));
        }
        let refused = |error: anyhow::Error| {
            Failure::cannot_start(format!("{error:#}"))
                .advise("tls.* must name PEM files: a chain, leaf first, and its PKCS #8 key")
        };
        let stamps = FileStamps::read(
            files
                .iter()
                .flat_map(|files| [files.certificate.clone(), files.key.clone()]),
        );
        let identities = identities(&files).map_err(refused)?;
        let certificates = ServerCertificates::new(identities).map_err(|error| refused(error.into()))?;
        let server = server_config(&certificates, &[]).map_err(|error| refused(error.into()))?;
        show_ends(&files);
        Ok(Self(Some(Arc::new(Inner {
            files,
            stamps,
            certificates,
            config: server,
            reload_interval: config.reload_interval.get(),
        }))))
    }

    /// The configuration of listeners.
    ///
    /// # Errors
    /// No certificate is configured.
    pub(crate) fn get(&self) -> Result<Arc<ServerConfig>> {
        let inner = self.0.as_ref();
        inner
            .map(|inner| Arc::clone(&inner.config))
            .context("there are TLS listeners, and no certificate is configured")
    }

    /// The ends of the certificates, by the names that the metrics give them; those whose files cannot be read are left out.
    pub(crate) fn ends(&self) -> Vec<(&'static str, UnixMillis)> {
        let files = self.0.iter().flat_map(|inner| &inner.files);
        let ends = files.filter_map(|files| {
            let end = u64::try_from(certs::not_after(&files.certificate).ok()?).ok()?;
            Some((files.name, UnixMillis(end.saturating_mul(1000))))
        });
        ends.collect()
    }

    /// Reloads the certificates when their files change, until the node closes.
    pub(crate) async fn follow(self, stop: Stop) {
        let Some(inner) = self.0 else { return };
        let reload = CertificateReload {
            name: "server",
            stamps: inner.stamps.clone(),
            interval: inner.reload_interval,
            load: move || inner.reload(),
            describe: |error: &anyhow::Error| format!("{error:#}"),
            report: |outcome| {
                let outcome = match outcome {
                    ReloadOutcome::Reloaded => "done",
                    ReloadOutcome::Failed => "failed",
                };
                metrics_catalogue::certificate_reloads(outcome).increment(1);
            },
        };
        reload.run(stop).await;
    }
}

impl Inner {
    fn reload(&self) -> Result<()> {
        self.certificates.replace(identities(&self.files)?)?;
        show_ends(&self.files);
        Ok(())
    }
}

fn identities(files: &[Files]) -> Result<Vec<ServerIdentity>> {
    files
        .iter()
        .map(|files| identity(&files.certificate, &files.key))
        .collect()
}

fn identity(certificate: &Path, key: &Path) -> Result<ServerIdentity> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read certificates from {}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read a key from {}", key.display()))?;
    Ok(ServerIdentity { chain, key })
}

/// Shows operators when the certificates end; a bad one is found when it is used.
#[expect(
    clippy::cast_precision_loss,
    reason = "times of certificates are far below 2^52 seconds"
)]
fn show_ends(files: &[Files]) {
    for files in files {
        if let Ok(end) = certs::not_after(&files.certificate) {
            metrics_catalogue::certificate_expiry(files.name).set(end as f64);
        }
    }
}
