//! The certificates that devices and back ends see: loaded at the start, and reloaded when their files change.
//!
//! Open connections keep the certificate of their handshake; new ones get the new certificate.
//! Invariant: an OCSP response that a client would refuse is not stapled; it never keeps a certificate from being used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_auth::x509::OcspResponse;
use holdfast_model::{Clock, UnixMillis};
use holdfast_net::{
    CertificateReload, FileStamps, NameKind, ReloadOutcome, ServerCertificates, ServerIdentity, ServerNames, Staple,
    TlsOptions, TlsServer,
};
use holdfast_tasks::{Phase, Stop};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::certs;
use crate::config::{HubConfig, MAX_ALTERNATIVES, Resumption, TlsConfig};
use crate::metrics_catalogue;
use holdfast_cli::exit_code::Failure;

/// A certificate and its key.
#[derive(Debug, Clone)]
struct Files {
    /// As the metrics name it.
    name: &'static str,
    /// The host name whose clients get it; `None`: all others.
    host: Option<String>,
    certificate: PathBuf,
    key: PathBuf,
    /// The OCSP response to staple.
    ocsp: Option<PathBuf>,
}

/// The names of `tls.alternatives` in metrics, in their order.
const ALTERNATIVES: [&str; MAX_ALTERNATIVES] = [
    "alternative1",
    "alternative2",
    "alternative3",
    "alternative4",
    "alternative5",
    "alternative6",
    "alternative7",
    "alternative8",
];

/// How often ticket keys are looked at.
const TICKET_KEYS_INTERVAL: Duration = Duration::from_secs(10);

/// The certificate of TLS listeners; nothing when no certificate is configured.
#[derive(Clone)]
pub(crate) struct Tls(Option<Arc<Inner>>);

struct Inner {
    /// In order of preference.
    files: Vec<Files>,
    /// The stamps of the files before they were loaded.
    stamps: FileStamps,
    certificates: ServerCertificates,
    server: TlsServer,
    reload_interval: Duration,
}

impl Tls {
    /// Reads the certificates.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub(crate) fn load(config: &TlsConfig, hub: &HubConfig, times_handshakes: bool) -> Result<Self, Failure> {
        // ECDSA handshakes cost less.
        let mut files: Vec<Files> = [
            ("server", &config.certificate_file, &config.key_file, &config.ocsp_file),
            (
                "rsa",
                &config.rsa_certificate_file,
                &config.rsa_key_file,
                &config.rsa_ocsp_file,
            ),
        ]
        .into_iter()
        .filter_map(|(name, certificate, key, ocsp)| {
            Some(Files {
                name,
                host: None,
                certificate: certificate.clone()?,
                key: key.clone()?,
                ocsp: ocsp.clone(),
            })
        })
        .collect();
        files.extend(
            std::iter::zip(ALTERNATIVES, config.alternatives()).map(|(name, alternative)| Files {
                name,
                host: Some(alternative.host),
                certificate: alternative.certificate,
                key: alternative.key,
                ocsp: None,
            }),
        );
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
                .flat_map(|files| [Some(&files.certificate), Some(&files.key), files.ocsp.as_ref()])
                .flatten()
                .cloned(),
        );
        let identities = identities(&files).map_err(refused)?;
        let certificates = ServerCertificates::new(identities).map_err(|error| refused(error.into()))?;
        let options = TlsOptions {
            resumption: match config.resumption {
                Resumption::Off => None,
                Resumption::Tickets => Some(config.ticket_lifetime.get()),
            },
            names: names(hub),
            times_handshakes,
        };
        let server = TlsServer::new(&certificates, options).map_err(|error| refused(error.into()))?;
        show_ends(&files);
        Ok(Self(Some(Arc::new(Inner {
            files,
            stamps,
            certificates,
            server,
            reload_interval: config.reload_interval.get(),
        }))))
    }

    /// The TLS of listeners.
    ///
    /// # Errors
    /// No certificate is configured.
    pub(crate) fn get(&self) -> Result<TlsServer> {
        let inner = self.0.as_ref();
        inner
            .map(|inner| inner.server.clone())
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

    /// Reloads the certificates when their files change, and replaces ticket keys, until the node closes.
    pub(crate) async fn follow(self, stop: Stop) {
        let Some(inner) = self.0 else { return };
        let server = inner.server.clone();
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
        tokio::join!(reload.run(stop.clone()), rotate_ticket_keys(server, stop));
    }
}

impl Inner {
    fn reload(&self) -> Result<()> {
        self.certificates.replace(identities(&self.files)?)?;
        show_ends(&self.files);
        Ok(())
    }
}

async fn rotate_ticket_keys(server: TlsServer, stop: Stop) {
    loop {
        tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => return,
            () = tokio::time::sleep(TICKET_KEYS_INTERVAL) => server.rotate_ticket_keys(),
        }
    }
}

/// The names of the hub that clients may name in their TLS greeting.
fn names(hub: &HubConfig) -> ServerNames {
    let split = holdfast_auth::split_names(&hub.host);
    let split = split.into_iter().flatten().zip([NameKind::Device, NameKind::Service]);
    let aliases = hub.aliases.iter().map(|alias| (alias.clone(), NameKind::Alias));
    ServerNames::new(
        [(hub.host.clone(), NameKind::Hub)]
            .into_iter()
            .chain(split)
            .chain(aliases),
    )
}

fn identities(files: &[Files]) -> Result<Vec<ServerIdentity>> {
    files.iter().map(identity).collect()
}

fn identity(files: &Files) -> Result<ServerIdentity> {
    let (certificate, key) = (&files.certificate, &files.key);
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read certificates from {}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read a key from {}", key.display()))?;
    let staple = files.ocsp.as_ref().and_then(|ocsp| staple(files.name, ocsp, &chain));
    Ok(ServerIdentity {
        name: files.name,
        host: files.host.clone(),
        chain,
        key,
        staple,
    })
}

/// The OCSP response in `file`; without one that clients accept the certificate is used alone, and the log says why.
fn staple(name: &'static str, file: &Path, chain: &[CertificateDer<'static>]) -> Option<Staple> {
    let read = || -> Result<(Vec<u8>, OcspResponse)> {
        let response = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let chain = chain.iter().map(|certificate| &**certificate);
        let read = OcspResponse::read(&response, chain, Clock::system().now())?;
        Ok((response, read))
    };
    let (response, read) = match read() {
        Ok(read) => read,
        Err(error) => {
            tracing::warn!(
                certificate = name,
                file = %file.display(),
                error = format!("{error:#}"),
                "the OCSP response is not stapled"
            );
            metrics_catalogue::ocsp_made(name).set(0.0);
            metrics_catalogue::ocsp_expiry(name).set(0.0);
            return None;
        }
    };
    metrics_catalogue::ocsp_made(name).set(seconds(read.this_update));
    metrics_catalogue::ocsp_expiry(name).set(seconds(read.next_update));
    Some(Staple {
        response,
        until: UnixTime::since_unix_epoch(Duration::from_millis(read.next_update.0)),
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "times of certificates are far below 2^52 seconds"
)]
fn seconds(at: UnixMillis) -> f64 {
    at.seconds() as f64
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
