//! Where a fleet connects to and who its devices are: a Holdfast hub with its registry, or any MQTT broker.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use rand::seq::IndexedRandom;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;

use crate::hub::HubDevices;

/// Digits of a device's number in its name.
const DIGITS: usize = 7;

/// The names of a fleet's devices: a prefix and a number, all of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNames(String);

impl DeviceNames {
    /// Names that begin with `prefix`.
    ///
    /// # Errors
    /// When the names would be longer than a device id may be, or break out of a topic.
    pub fn new(prefix: &str) -> Result<Self> {
        ensure!(
            prefix.len() + DIGITS <= 128,
            "the prefix {prefix:?} is too long for a device id"
        );
        ensure!(
            !prefix.contains(['/', '#', '+', '{']),
            "the prefix {prefix:?} has characters that topics reserve"
        );
        Ok(Self(prefix.to_owned()))
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0
    }

    /// The name of device `number`.
    #[must_use]
    pub fn name(&self, number: u32) -> String {
        format!("{}{number:0DIGITS$}", self.0)
    }

    /// The part of a name that differs from device to device.
    #[must_use]
    pub fn digits(&self, number: u32) -> [u8; DIGITS] {
        let mut digits = [b'0'; DIGITS];
        let mut rest = number;
        for digit in digits.iter_mut().rev() {
            *digit += (rest % 10) as u8;
            rest /= 10;
        }
        digits
    }

    /// Where in a name the digits begin.
    #[must_use]
    pub fn digits_at(&self) -> usize {
        self.0.len()
    }

    /// Bytes of every name.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.len() + DIGITS
    }
}

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// Without TLS.
    Plain,
    /// TLS 1.3 only.
    Tls13,
    /// TLS 1.2 only.
    Tls12,
}

/// What a device says of itself in CONNECT.
#[derive(Debug, Clone)]
pub struct Login {
    /// The client id.
    pub client_id: String,
    /// None = not sent.
    pub username: Option<String>,
    /// None = not sent.
    pub password: Option<String>,
}

/// How devices prove who they are.
pub enum Credentials {
    /// The same user and password for all, or none.
    Shared {
        /// None = no user.
        username: Option<String>,
        /// None = no password.
        password: Option<String>,
    },
    /// A shared access signature per device of a hub.
    Hub(HubDevices),
}

/// A TLS client and the name that the server must prove.
#[derive(Clone)]
pub struct Tls {
    /// The client's configuration.
    pub connector: TlsConnector,
    /// The name expected in the certificate.
    pub server: ServerName<'static>,
}

/// Where a fleet connects to and how.
pub struct Target {
    /// The server's address.
    pub address: SocketAddr,
    /// The addresses of a hub's nodes, when it has several: device n connects to the n-th, in turn. Empty: [`Self::address`].
    pub nodes: Vec<SocketAddr>,
    /// All devices begin at this one of [`Self::nodes`].
    pub begin_at: Option<usize>,
    /// Where a device goes whose connection was lost.
    pub again: Again,
    /// `None` = plain.
    pub tls: Option<Tls>,
    /// Local addresses to connect from, in turn; empty = the system's choice. One address has some 28,000 ports.
    pub sources: Vec<IpAddr>,
    /// Who the devices are.
    pub names: DeviceNames,
    /// How they prove it.
    pub credentials: Credentials,
    /// Where they publish, with `{device}` for the name.
    pub topic: String,
}

/// Where devices go whose connection was lost.
#[derive(Debug, Clone)]
pub enum Again {
    /// To where they were first; to the next node that listens when that one does not.
    Same,
    /// To any node, as behind a name with all addresses; to the next one that listens when that one does not.
    Any,
    /// To any node that is in service, as behind a load balancer: one flag for each of [`Target::nodes`].
    InService(Arc<[AtomicBool]>),
}

impl Target {
    fn nodes(&self) -> &[SocketAddr] {
        match self.nodes.as_slice() {
            [] => std::slice::from_ref(&self.address),
            nodes => nodes,
        }
    }

    /// Where device `number` connects to: its own node first, then the others.
    pub fn addresses_of(&self, number: u32) -> impl Iterator<Item = SocketAddr> {
        self.nodes_from(self.begin_at.unwrap_or(number as usize))
    }

    /// Where device `number` connects to after its connection was lost.
    pub fn addresses_again(&self, number: u32) -> Vec<SocketAddr> {
        let any = rand::random_range(0..self.nodes().len());
        match &self.again {
            Again::Same => self.addresses_of(number).collect(),
            Again::Any => self.nodes_from(any).collect(),
            Again::InService(flags) => {
                let nodes = self.nodes().iter().zip(flags.iter());
                let in_service: Vec<SocketAddr> = nodes
                    .filter(|(_, flag)| flag.load(Ordering::Relaxed))
                    .map(|(node, _)| *node)
                    .collect();
                // A load balancer picks one; its client does not know of others.
                in_service.choose(&mut rand::rng()).copied().into_iter().collect()
            }
        }
    }

    fn nodes_from(&self, first: usize) -> impl Iterator<Item = SocketAddr> {
        let nodes = self.nodes();
        let (before, from) = nodes.split_at(first % nodes.len());
        from.iter().chain(before).copied()
    }

    /// What device `number` says in CONNECT.
    ///
    /// # Errors
    /// When a hub's key is no key.
    pub fn login(&self, number: u32) -> Result<Login> {
        let client_id = self.names.name(number);
        match &self.credentials {
            Credentials::Shared { username, password } => Ok(Login {
                client_id,
                username: username.clone(),
                password: password.clone(),
            }),
            Credentials::Hub(devices) => devices.login(client_id),
        }
    }
}

/// A TLS client that trusts what is in `ca_file` and nothing else.
///
/// Sessions are never resumed: each connection of a measurement costs the same.
///
/// # Errors
/// When the file has no certificate, or `transport` is plain.
pub fn tls(transport: Transport, ca_file: &Path, server: &str) -> Result<Tls> {
    let versions: &[&rustls::SupportedProtocolVersion] = match transport {
        Transport::Plain => bail!("plain transport has no TLS"),
        Transport::Tls13 => &[&rustls::version::TLS13],
        Transport::Tls12 => &[&rustls::version::TLS12],
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca_file)
        .with_context(|| format!("cannot read the CA file {}", ca_file.display()))?;
    for certificate in certificates {
        roots.add(certificate?)?;
    }
    ensure!(!roots.is_empty(), "no certificate in {}", ca_file.display());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let server = ServerName::try_from(server.to_owned()).with_context(|| format!("{server:?} is no server name"))?;
    Ok(Tls {
        connector: TlsConnector::from(Arc::new(config)),
        server,
    })
}

/// The first address of `host:port`, IPv4 before IPv6: dev mode listens there.
///
/// # Errors
/// When there is none.
pub fn resolve(host_and_port: &str) -> Result<SocketAddr> {
    let addresses: Vec<SocketAddr> = host_and_port
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {host_and_port}"))?
        .collect();
    let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    first
        .copied()
        .with_context(|| format!("{host_and_port} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_length_and_their_digits_are_where_they_are_said_to_be() {
        let names = DeviceNames::new("swarm-").unwrap();
        for number in [0, 9, 10, 123_456, 9_999_999] {
            let name = names.name(number);
            assert_eq!(name.len(), names.length());
            assert_eq!(&name.as_bytes()[names.digits_at()..], names.digits(number));
        }
        assert!(DeviceNames::new("a/b").is_err());
    }
}
