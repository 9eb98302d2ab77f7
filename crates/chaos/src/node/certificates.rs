//! The run's own certificates: a CA with one server certificate for all nodes, and a CA for the nodes among themselves.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use time::{Duration, OffsetDateTime};

/// The name that every node's certificate carries for the other nodes.
const PEER_NAME: &str = "peer.holdfast";
/// The validity before and after now: wide enough for nodes with a wrong clock, and without expiry warnings.
const MARGIN: Duration = Duration::days(400);

/// The paths of the files.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The CA that devices and back ends trust.
    pub ca: PathBuf,
    /// The certificate of the listeners.
    pub server: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// The CA that nodes trust.
    pub peer_ca: PathBuf,
    folder: PathBuf,
}

impl Certificates {
    /// Makes CAs, the server certificate for `host` and `addresses`, and certificates for `nodes` nodes.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn make(folder: &Path, host: &str, addresses: &[Ipv4Addr], nodes: u32) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let files = Self {
            ca: folder.join("ca.pem"),
            server: folder.join("server.pem"),
            server_key: folder.join("server.key"),
            peer_ca: folder.join("peer-ca.pem"),
            folder: folder.to_owned(),
        };
        let ca = authority("Chaos CA", &files.ca)?;
        let mut names = vec![SanType::DnsName(host.try_into()?)];
        names.extend(addresses.iter().map(|address| SanType::IpAddress(IpAddr::V4(*address))));
        issue(&ca, "server", names, &files.server, &files.server_key)?;
        let peers = authority("Chaos peer CA", &files.peer_ca)?;
        for node in 1..=nodes {
            let names = vec![SanType::DnsName(PEER_NAME.try_into()?)];
            issue(
                &peers,
                &format!("node {node}"),
                names,
                &files.peer(node),
                &files.peer_key(node),
            )?;
        }
        Ok(files)
    }

    /// The certificate of a node for the others.
    #[must_use]
    pub fn peer(&self, node: u32) -> PathBuf {
        self.folder.join(format!("peer-{node}.pem"))
    }

    /// Its key.
    #[must_use]
    pub fn peer_key(&self, node: u32) -> PathBuf {
        self.folder.join(format!("peer-{node}.key"))
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - MARGIN;
    params.not_after = now + MARGIN;
    params
}

fn authority(name: &str, file: &Path) -> Result<Issuer<'static, KeyPair>> {
    let key = KeyPair::generate()?;
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    std::fs::write(file, params.self_signed(&key)?.pem())?;
    Ok(Issuer::new(params, key))
}

fn issue(
    ca: &Issuer<'static, KeyPair>,
    name: &str,
    names: Vec<SanType>,
    certificate: &Path,
    key_file: &Path,
) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = params(name);
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    std::fs::write(certificate, params.signed_by(&key, ca)?.pem())?;
    write_private(key_file, &key.serialize_pem())
}

/// Writes a file with mode 0600.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
