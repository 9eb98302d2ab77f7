//! Dev mode's own certificate authority and the two server certificates that it issues.
//!
//! Why: SDKs insist on TLS, and trying the hub should not need openssl.
//! Invariants: keys are written with mode 0600 and never leave the directory; the CA stays the same as long as it is
//! there, because users have configured their SDKs to trust it; server certificates are replaced when their names change or
//! when they are near their end.
//! Not here: certificates of production hubs (`tls.*` in the configuration), CAs that sign devices.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use holdfast_auth::split_names;
use holdfast_cluster::peer::{PEER_DNS_NAME, node_dns_name};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SanType,
};
use time::{Duration, OffsetDateTime};

/// How long the CA is good for.
const CA_VALIDITY: Duration = Duration::days(3650);
/// How long a server certificate is good for; some verifiers refuse more than 398 days, the begin before now included, and check
/// tools complain beyond 366.
const SERVER_VALIDITY: Duration = Duration::days(364);
/// A certificate with less than this left is replaced at the next start.
const RENEW_BEFORE: Duration = Duration::days(30);
/// Certificates are valid from this long before they are made, for clients whose clock is behind.
const BACKDATE: Duration = Duration::days(1);

/// Where the files are.
#[derive(Debug, Clone)]
pub(crate) struct DevCertificates {
    pub(crate) ca_file: PathBuf,
    pub(crate) certificate_file: PathBuf,
    pub(crate) key_file: PathBuf,
    pub(crate) rsa_certificate_file: PathBuf,
    pub(crate) rsa_key_file: PathBuf,
}

/// The certificate with which a node authenticates to the others.
#[derive(Debug, Clone)]
pub(crate) struct PeerCertificate {
    pub(crate) ca_file: PathBuf,
    pub(crate) certificate_file: PathBuf,
    pub(crate) key_file: PathBuf,
}

/// Makes what is missing or near its end of the certificate that node `name` shows to its peers. Their CA, in `ca_dir`,
/// issues nothing else: the holder of a certificate of it is trusted as a node.
///
/// # Errors
/// Files that cannot be read or written, with their path.
pub(crate) fn ensure_peer(ca_dir: &Path, dir: &Path, name: &str, now: OffsetDateTime) -> Result<PeerCertificate> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let files = PeerCertificate {
        ca_file: ca_dir.join("peer-ca.pem"),
        certificate_file: dir.join("peer.pem"),
        key_file: dir.join("peer.key"),
    };
    let ca = authority(&files.ca_file, &ca_dir.join("peer-ca.key"), now)?;
    let own = node_dns_name(name);
    let names: Vec<SanType> = [PEER_DNS_NAME, own.as_str(), name]
        .into_iter()
        .filter_map(|name| name.try_into().ok().map(SanType::DnsName))
        .collect();
    if !is_current(&files.certificate_file, &files.key_file, &ca.name, &names, now) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        issue(&ca, &key, &names, ExtendedKeyUsage::Both, now)?.write(&files.certificate_file, &files.key_file)?;
    }
    Ok(files)
}

/// Makes whatever is missing or near its end in `dir`, for a hub that clients call by any of `hosts`.
///
/// # Errors
/// Files that cannot be read or written, with their path.
pub(crate) fn ensure(dir: &Path, hosts: &[String], now: OffsetDateTime) -> Result<DevCertificates> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let files = DevCertificates {
        ca_file: dir.join("ca.pem"),
        certificate_file: dir.join("server.pem"),
        key_file: dir.join("server.key"),
        rsa_certificate_file: dir.join("server-rsa.pem"),
        rsa_key_file: dir.join("server-rsa.key"),
    };
    let ca = authority(&files.ca_file, &dir.join("ca.key"), now)?;
    let names = server_names(hosts);
    if !is_current(&files.certificate_file, &files.key_file, &ca.name, &names, now) {
        issue(
            &ca,
            &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            &names,
            ExtendedKeyUsage::Server,
            now,
        )
        .and_then(|issued| issued.write(&files.certificate_file, &files.key_file))?;
    }
    if !is_current(&files.rsa_certificate_file, &files.rsa_key_file, &ca.name, &names, now) {
        issue(
            &ca,
            &KeyPair::generate_for(&PKCS_RSA_SHA256)?,
            &names,
            ExtendedKeyUsage::Server,
            now,
        )
        .and_then(|issued| issued.write(&files.rsa_certificate_file, &files.rsa_key_file))?;
    }
    Ok(files)
}

/// The end of the first certificate in `file`, in seconds since 1970.
pub(crate) fn not_after(file: &Path) -> Result<i64> {
    let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|_| anyhow!("{} holds no PEM", file.display()))?;
    let certificate = pem
        .parse_x509()
        .map_err(|_| anyhow!("{} holds no certificate", file.display()))?;
    Ok(certificate.validity().not_after.timestamp())
}

/// Writes `bytes` so that only the owner can read them; no reader sees half a file, and a crash does not undo it.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, bytes, 0o600)
}

fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.tmp", std::process::id()));
    let draft = PathBuf::from(draft);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        // The new name is on disk only once the directory is.
        path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

struct Authority {
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(file: &Path, key_file: &Path, now: OffsetDateTime) -> Result<Authority> {
    if file.exists() && key_file.exists() {
        let pem = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let key = std::fs::read_to_string(key_file).with_context(|| format!("cannot read {}", key_file.display()))?;
        let key = KeyPair::from_pem(&key).with_context(|| format!("{} holds no usable key", key_file.display()))?;
        let name = common_name(pem.as_bytes()).with_context(|| format!("{} is no CA of ours", file.display()))?;
        let left = not_after(file)? - now.unix_timestamp();
        if left > RENEW_BEFORE.whole_seconds() {
            let issuer = Issuer::new(authority_params(&name, now), key);
            return Ok(Authority { name, issuer });
        }
        tracing::warn!(file = %file.display(), "the development CA is near its end and is replaced; clients must trust the new one");
    }
    // RSA, so that clients which cannot verify ECDSA signatures have a chain that they can follow.
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
    // The name differs from CA to CA: a trust store that holds an old one must not pick it by name.
    let name = format!("Holdfast development CA {:08x}", rand::random::<u32>());
    let params = authority_params(&name, now);
    let pem = params.self_signed(&key)?.pem();
    write_private(key_file, key.serialize_pem().as_bytes())?;
    write_atomically(file, pem.as_bytes(), 0o644)?;
    Ok(Authority {
        name,
        issuer: Issuer::new(params, key),
    })
}

fn authority_params(name: &str, now: OffsetDateTime) -> CertificateParams {
    let mut params = base_params(name, now, CA_VALIDITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn base_params(name: &str, now: OffsetDateTime, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.not_before = now - BACKDATE;
    params.not_after = now + validity;
    params
}

struct Issued {
    chain: String,
    key: String,
}

impl Issued {
    fn write(&self, file: &Path, key_file: &Path) -> Result<()> {
        write_private(key_file, self.key.as_bytes())?;
        write_atomically(file, self.chain.as_bytes(), 0o644)
    }
}

/// The permitted uses of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExtendedKeyUsage {
    /// By a server.
    Server,
    /// By a node, which connects and is connected to.
    Both,
}

fn issue(
    ca: &Authority,
    key: &KeyPair,
    names: &[SanType],
    usage: ExtendedKeyUsage,
    now: OffsetDateTime,
) -> Result<Issued> {
    let common_name = names.iter().rev().find_map(|name| match name {
        SanType::DnsName(name) => Some(name.to_string()),
        SanType::IpAddress(ip) => Some(ip.to_string()),
        _ => None,
    });
    let mut params = base_params(common_name.as_deref().unwrap_or("localhost"), now, SERVER_VALIDITY);
    params.subject_alt_names = names.to_vec();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if usage == ExtendedKeyUsage::Both {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(key, &ca.issuer)?;
    Ok(Issued {
        chain: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// `localhost`, `*.localhost`, `127.0.0.1`, `::1`, and `hosts` with their names for devices and back ends.
fn server_names(hosts: &[String]) -> Vec<SanType> {
    let dns = |name: &str| name.to_ascii_lowercase().try_into().ok().map(SanType::DnsName);
    let mut names: Vec<SanType> = [dns("localhost"), dns("*.localhost")].into_iter().flatten().collect();
    names.push(SanType::IpAddress(IpAddr::from([127, 0, 0, 1])));
    names.push(SanType::IpAddress(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)));
    for host in hosts {
        let own = host
            .parse::<IpAddr>()
            .map_or_else(|_| dns(host), |ip| Some(SanType::IpAddress(ip)));
        // The own name comes last: it becomes the common name.
        let split = split_names(host).into_iter().flatten().filter_map(|name| dns(&name));
        for name in split.chain(own) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// Whether the certificate in `file` has its key, these names, this issuer and enough time left.
fn is_current(file: &Path, key_file: &Path, ca_name: &str, names: &[SanType], now: OffsetDateTime) -> bool {
    let check = || -> Option<bool> {
        KeyPair::from_pem(&std::fs::read_to_string(key_file).ok()?).ok()?;
        let text = std::fs::read_to_string(file).ok()?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let left = certificate.validity().not_after.timestamp() - now.unix_timestamp();
        let found = &certificate.subject_alternative_name().ok()??.value.general_names;
        let has = |name: &SanType| {
            found.iter().any(|general| match (general, name) {
                (x509_parser::extensions::GeneralName::DNSName(found), SanType::DnsName(name)) => {
                    *found == name.as_str()
                }
                (x509_parser::extensions::GeneralName::IPAddress(found), SanType::IpAddress(IpAddr::V4(ip))) => {
                    *found == ip.octets()
                }
                (x509_parser::extensions::GeneralName::IPAddress(found), SanType::IpAddress(IpAddr::V6(ip))) => {
                    *found == ip.octets()
                }
                _ => false,
            })
        };
        let issuer = certificate
            .issuer()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok());
        Some(issuer == Some(ca_name) && left > RENEW_BEFORE.whole_seconds() && names.iter().all(has))
    };
    check().unwrap_or(false)
}

fn common_name(pem: &[u8]) -> Result<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| anyhow!("no PEM"))?;
    let certificate = pem.parse_x509().map_err(|_| anyhow!("no certificate"))?;
    let name = certificate
        .subject()
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok());
    name.map(str::to_owned).ok_or_else(|| anyhow!("no common name"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn certificates_are_kept_while_they_are_good_and_replaced_near_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let files = ensure(dir.path(), &["hub.example".to_owned()], now).unwrap();
        let (ca, server) = (read(&files.ca_file), read(&files.certificate_file));

        ensure(dir.path(), &["hub.example".to_owned()], now + Duration::days(300)).unwrap();
        assert_eq!(read(&files.certificate_file), server, "67 days are left: kept");

        ensure(dir.path(), &["hub.example".to_owned()], now + Duration::days(380)).unwrap();
        assert_ne!(read(&files.certificate_file), server, "17 days are left: replaced");
        assert_eq!(read(&files.ca_file), ca, "the CA that clients trust stays");
    }

    #[test]
    fn a_new_host_name_replaces_the_server_certificates_but_not_the_ca() {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let files = ensure(dir.path(), &["localhost".to_owned()], now).unwrap();
        let (ca, server) = (read(&files.ca_file), read(&files.certificate_file));
        ensure(dir.path(), &["127.7.8.9".to_owned()], now).unwrap();
        assert_ne!(read(&files.certificate_file), server);
        assert_eq!(read(&files.ca_file), ca);
    }

    #[test]
    fn a_standard_client_accepts_both_certificates_for_every_promised_name() {
        use rustls::client::danger::ServerCertVerifier as _;
        use rustls_pki_types::pem::PemObject as _;
        use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

        let dir = tempfile::tempdir().unwrap();
        let hosts = ["hub1.example.com", "localhost", "127.7.8.9"].map(str::to_owned);
        let files = ensure(dir.path(), &hosts, OffsetDateTime::now_utc()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&files.ca_file).unwrap())
            .unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .unwrap();
        for file in [&files.certificate_file, &files.rsa_certificate_file] {
            let chain: Vec<_> = CertificateDer::pem_file_iter(file)
                .unwrap()
                .map(Result::unwrap)
                .collect();
            for name in [
                "localhost",
                "localhost.device.localhost",
                "localhost.service.localhost",
                "127.0.0.1",
                "::1",
                "127.7.8.9",
                "hub1.example.com",
                "hub1.device.example.com",
                "hub1.service.example.com",
            ] {
                let server = ServerName::try_from(name).unwrap();
                verifier
                    .verify_server_cert(&chain[0], &chain[1..], &server, &[], UnixTime::now())
                    .expect(name);
            }
        }
    }

    #[test]
    fn keys_are_readable_by_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), &["localhost".to_owned()], OffsetDateTime::now_utc()).unwrap();
        for name in ["ca.key", "server.key", "server-rsa.key"] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}
