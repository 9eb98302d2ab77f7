//! The rules about files: their modes, and the contents of certificates.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::{Config, Severity, Weakness};

/// A certificate with less left is a weakness.
const SOON_DAYS: i64 = 30;
const DAY: i64 = 86_400;
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
    ];
    for (setting, path) in secret {
        found.extend(path.and_then(|path| readable_by_others(setting, path)));
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
