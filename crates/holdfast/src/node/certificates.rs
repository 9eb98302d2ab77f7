//! The server certificates: loaded at the start, and again whenever the files change.
//!
//! Why: certificates are renewed every few weeks by another program (cert-manager, an ACME client), and a restart would
//! close every connection of the node. Open connections keep their certificate; new ones get the new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use holdfast_net::{ServerCertificates, ServerIdentity, server_config};
use holdfast_tasks::{Phase, Stop};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certs;
use crate::config::TlsConfig;
use crate::exit_code::Failure;

/// A certificate and its key.
#[derive(Debug, Clone)]
struct Files {
    /// As the metrics name it.
    name: &'static str,
    certificate: PathBuf,
    key: PathBuf,
}

/// Time and length of each file: differ when a file has changed.
type Stamp = Vec<Option<(SystemTime, u64)>>;

/// The certificates of TLS listeners; none when none is configured.
#[derive(Clone)]
pub(crate) struct Tls(Option<Arc<Inner>>);

struct Inner {
    /// In order of preference.
    files: Vec<Files>,
    /// The files' stamp when they were loaded first.
    stamp: Stamp,
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
                .advise("tls.* wants PEM files: a chain, leaf first, and its PKCS #8 key")
        };
        let stamp = stamp(&files);
        let identities = identities(&files).map_err(refused)?;
        let certificates = ServerCertificates::new(identities).map_err(|error| refused(error.into()))?;
        let server = server_config(&certificates, &[]).map_err(|error| refused(error.into()))?;
        show_ends(&files);
        Ok(Self(Some(Arc::new(Inner {
            files,
            stamp,
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

    /// Checks the files at an interval, until the node closes. Unusable files are logged once, and the old certificates stay;
    /// a renewal that is half done is loaded at a later check.
    pub(crate) async fn follow(self, stop: Stop) {
        let Some(inner) = self.0 else { return };
        let mut known = inner.stamp.clone();
        let mut said = String::new();
        let reloads = |outcome| metrics::counter!("holdfast_tls_certificate_reloads_total", "outcome" => outcome);
        loop {
            tokio::select! {
                biased;
                () = stop.reached(Phase::Closing) => return,
                () = tokio::time::sleep(inner.reload_interval) => {}
            }
            let (looked, before) = (Arc::clone(&inner), known.clone());
            let reloaded = holdfast_tasks::spawn_blocking(move || {
                let now = stamp(&looked.files);
                (now != before).then(|| (now, looked.reload()))
            });
            match reloaded.await {
                None => {}
                Some((now, Ok(()))) => {
                    known = now;
                    said.clear();
                    reloads("done").increment(1);
                    tracing::info!("server certificates reloaded");
                }
                Some((_, Err(error))) => {
                    reloads("failed").increment(1);
                    let text = format!("{error:#}");
                    if text != said {
                        tracing::warn!(
                            error = text,
                            "the changed server certificates cannot be used; keeping the old ones"
                        );
                        said = text;
                    }
                }
            }
        }
    }
}

impl Inner {
    fn reload(&self) -> Result<()> {
        self.certificates.replace(identities(&self.files)?)?;
        show_ends(&self.files);
        Ok(())
    }
}

fn stamp(files: &[Files]) -> Stamp {
    let paths = files.iter().flat_map(|files| [&files.certificate, &files.key]);
    paths
        .map(|path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        })
        .collect()
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
            metrics::gauge!("holdfast_tls_certificate_expiry_seconds", "certificate" => files.name).set(end as f64);
        }
    }
}
