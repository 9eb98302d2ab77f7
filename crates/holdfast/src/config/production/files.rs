//! The rules about files: their modes, and the contents of certificates.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use holdfast_auth::x509::OcspResponse;
use holdfast_model::UnixMillis;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{Oid, asn1_rs::oid};
use x509_parser::prelude::FromDer as _;

use super::{Config, Severity, Weakness};

/// A certificate with less left is a weakness.
const SOON_DAYS: i64 = 30;
const DAY: i64 = 86_400;
/// id-pe-tlsfeature (RFC 7633).
const TLS_FEATURE: Oid<'static> = oid!(1.3.6.1.5.5.7.1.24);
/// Texts that a secret follows.
const SECRETS: [&str; 4] = [
    "SharedAccessKey=",
    "SharedAccessSignature ",
    "-----BEGIN",
    "AccountKey=",
];

pub(super) fn weaknesses(config: &Config, file: Option<(&Path, &str)>, now: OffsetDateTime) -> Vec<Weakness> {
    let mut found = Vec::new();
    let sealing = config.sealing_key_file();
    let secret = [
        (
            "secrets.key_file",
            config.has_sealing_key_file().then_some(sealing.as_path()),
        ),
        ("tls.key_file", config.tls.key_file.as_deref()),
        ("tls.rsa_key_file", config.tls.rsa_key_file.as_deref()),
        ("cluster.key_file", config.cluster.key_file.as_deref()),
        ("cluster.join_token_file", config.cluster.join_token_file.as_deref()),
        (
            "cluster.initial_tokens_file",
            config.cluster.initial_tokens_file.as_deref(),
        ),
        ("hub.connection_file", config.hub.connection_file.as_deref()),
        ("hub.initial_policies_file", config.hub.initial_policies_file.as_deref()),
        ("s3.credentials_file", config.s3.credentials_file.as_deref()),
        ("backup.credentials_file", config.backup.credentials_file.as_deref()),
    ];
    for (setting, path) in secret {
        found.extend(path.and_then(|path| readable_by_others(setting, path)));
    }
    for alternative in config.tls.alternatives() {
        found.extend(readable_by_others("tls.alternatives", &alternative.key));
        let (path, host) = (&alternative.certificate, Some(&*alternative.host));
        certificate("tls.alternatives", path, host, now, &mut found);
    }
    if let Some(mode) = mode(&config.hub.data_dir)
        && mode & 0o007 != 0
    {
        found.push(Weakness::new(
            Severity::Medium,
            "hub.data_dir",
            format!("mode {mode:03o}: every user of this machine reads the stored messages"),
            format!("chmod 700 {}", config.hub.data_dir.display()),
        ));
    }
    let certificates = [
        ("tls.certificate_file", config.tls.certificate_file.as_deref(), true),
        (
            "tls.rsa_certificate_file",
            config.tls.rsa_certificate_file.as_deref(),
            true,
        ),
        (
            "cluster.certificate_file",
            config.cluster.certificate_file.as_deref(),
            false,
        ),
    ];
    for (setting, path, is_server) in certificates {
        if let Some(path) = path {
            let host = is_server.then_some(&*config.hub.host);
            certificate(setting, path, host, now, &mut found);
        }
    }
    let tls = &config.tls;
    let responses = [
        ("tls.ocsp_file", &tls.ocsp_file, &tls.certificate_file),
        ("tls.rsa_ocsp_file", &tls.rsa_ocsp_file, &tls.rsa_certificate_file),
    ];
    for (setting, response, path) in responses {
        if let Some(path) = path {
            found.extend(stapling(setting, response.as_deref(), path, now));
        }
    }
    if let Some((path, text)) = file {
        own_file(path, text, &mut found);
    }
    found
}

/// The permission bits; `None` for a file that is not here, or not readable by this user: another machine's.
fn mode(path: &Path) -> Option<u32> {
    Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o777)
}

fn readable_by_others(setting: &str, path: &Path) -> Option<Weakness> {
    let mode = mode(path)?;
    let severity = match mode {
        mode if mode & 0o007 != 0 => Severity::High,
        mode if mode & 0o070 != 0 => Severity::Medium,
        _ => return None,
    };
    Some(Weakness::new(
        severity,
        setting,
        format!(
            "{} has mode {mode:03o}: others than its owner may read or change it",
            path.display()
        ),
        format!("chmod 600 {}", path.display()),
    ))
}

fn certificate(setting: &str, path: &Path, host: Option<&str>, now: OffsetDateTime, found: &mut Vec<Weakness>) {
    let mut add = |severity, reason: String, set: &str| found.push(Weakness::new(severity, setting, reason, set));
    let Ok(leaf) = CertificateDer::from_pem_file(path) else {
        let reason = format!("{} is no certificate that can be read here", path.display());
        return add(
            Severity::Low,
            reason,
            "check it on the hub's machine, as the hub's user",
        );
    };
    let Ok((_, certificate)) = X509Certificate::from_der(&leaf) else {
        let reason = format!("{} holds no certificate", path.display());
        return add(Severity::High, reason, "a certificate in PEM");
    };
    let issuer = certificate.issuer().to_string();
    if issuer.contains("Holdfast development CA") {
        let reason = format!("it was issued by dev mode's CA ({issuer}), whose key is in a data directory");
        add(Severity::High, reason, "a certificate of a CA that your devices trust");
    }
    let left = certificate.validity().not_after.timestamp() - now.unix_timestamp();
    if left < 0 {
        add(
            Severity::High,
            format!("it ended {} days ago", -left / DAY),
            "a renewed certificate",
        );
    } else if left < SOON_DAYS * DAY {
        add(
            Severity::Medium,
            format!("it ends in {} days", left / DAY),
            "a renewed certificate",
        );
    }
    if let Some(host) = host
        && !names(&certificate, host)
    {
        let reason = format!("it does not name hub.host ({host}): clients refuse it");
        add(Severity::High, reason, "a certificate with that name");
    }
}

/// The OCSP response to be stapled to the certificate in `path`, or the one that is missing.
fn stapling(setting: &str, response: Option<&Path>, path: &Path, now: OffsetDateTime) -> Option<Weakness> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
        .ok()?
        .collect::<Result<_, _>>()
        .ok()?;
    let Some(response) = response else {
        let must_staple = must_staple(chain.first()?);
        return must_staple.then(|| {
            Weakness::new(
                Severity::High,
                setting,
                "the certificate has clients refuse the hub without a stapled OCSP response (TLS feature)",
                "a response of the CA's responder, renewed before its end; or a certificate without that extension",
            )
        });
    };
    let Ok(bytes) = std::fs::read(response) else {
        return Some(Weakness::new(
            Severity::Low,
            setting,
            format!("{} cannot be read here", response.display()),
            "check it on the hub's machine, as the hub's user",
        ));
    };
    let now = UnixMillis(u64::try_from(now.unix_timestamp()).unwrap_or(0).saturating_mul(1000));
    let error = OcspResponse::read(&bytes, chain.iter().map(|certificate| &**certificate), now).err()?;
    Some(Weakness::new(
        Severity::Medium,
        setting,
        format!("it is not stapled: {error}"),
        "a response of the CA's responder about this certificate, renewed before its end",
    ))
}

/// Whether the certificate requires a stapled response (RFC 7633: status_request among its TLS features).
fn must_staple(leaf: &CertificateDer<'_>) -> bool {
    /// `INTEGER 5`.
    const STATUS_REQUEST: &[u8] = &[2, 1, 5];
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return false;
    };
    let feature = certificate
        .extensions()
        .iter()
        .find(|extension| extension.oid == TLS_FEATURE);
    feature.is_some_and(|feature| {
        feature
            .value
            .windows(STATUS_REQUEST.len())
            .any(|part| part == STATUS_REQUEST)
    })
}

/// Whether a client that calls the server `host` finds the name.
fn names(certificate: &X509Certificate<'_>, host: &str) -> bool {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|extension| &extension.value.general_names);
    let mut names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    // An address is compared in another form; hubs with one are for tests.
    host.parse::<std::net::IpAddr>().is_ok()
        || names.any(|name| {
            let parent = host.split_once('.').map(|(_, parent)| parent);
            name.eq_ignore_ascii_case(host)
                || name
                    .strip_prefix("*.")
                    .is_some_and(|wild| parent.is_some_and(|parent| parent.eq_ignore_ascii_case(wild)))
        })
}

/// The configuration file itself.
fn own_file(path: &Path, text: &str, found: &mut Vec<Weakness>) {
    if let Some(mode) = mode(path)
        && mode & 0o022 != 0
    {
        found.push(Weakness::new(
            Severity::High,
            path.display().to_string(),
            format!("mode {mode:03o}: others than its owner may change the configuration"),
            format!("chmod 644 {}", path.display()),
        ));
    }
    let has_secret = |line: &str| SECRETS.iter().any(|secret| line.contains(secret));
    if let Some(line) = text.lines().position(has_secret) {
        found.push(Weakness::new(
            Severity::High,
            path.display().to_string(),
            format!("line {} looks like a key or token in clear", line + 1),
            "take it out, make a new key, and name a file that only the hub reads",
        ));
    }
}
