//! The server and the device identities of a fleet: a Holdfast hub with its registry, or any MQTT broker.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use rand::seq::IndexedRandom;
use rustls_pki_types::ServerName;
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

/// The transport of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// Without TLS.
    Plain,
    /// TLS 1.3 only.
    Tls13,
    /// TLS 1.2 only.
    Tls12,
}

/// A device's credentials in CONNECT.
#[derive(Debug, Clone)]
pub struct Login {
    /// The client id.
    pub client_id: String,
    /// None = not sent.
    pub username: Option<String>,
    /// None = not sent.
    pub password: Option<String>,
}

/// How devices authenticate.
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

/// A TLS client and the server name that it verifies.
#[derive(Clone)]
pub struct Tls {
    /// The client's configuration.
    pub connector: TlsConnector,
    /// The name expected in the certificate.
    pub server: ServerName<'static>,
}

/// The server of a fleet and how devices reach it.
pub struct Target {
    /// The server's address.
    pub address: SocketAddr,
    /// The addresses of a hub's nodes, when it has several; devices connect to them round-robin. Empty: [`Self::address`].
    pub nodes: Vec<SocketAddr>,
    /// The index in [`Self::nodes`] to which all devices connect first.
    pub begin_at: Option<usize>,
    /// The node to which a device reconnects.
    pub reconnect_to: ReconnectTo,
    /// `None` = plain.
    pub tls: Option<Tls>,
    /// Local addresses to connect from, in turn; empty = the system's choice. One address has some 28,000 ports.
    pub sources: Vec<IpAddr>,
    /// The device names.
    pub names: DeviceNames,
    /// How the devices authenticate.
    pub credentials: Credentials,
    /// The topic to publish on, with `{device}` in place of the name.
    pub topic: String,
}

/// The node to which devices reconnect after their connection was lost.
#[derive(Debug, Clone)]
pub enum ReconnectTo {
    /// The node of the first connection; the next listening node when that one does not listen.
    Same,
    /// A random node, as with a DNS name that has all addresses; the next listening node when that one does not listen.
    Any,
    /// A random node that is in service, as behind a load balancer; one flag for each of [`Target::nodes`].
    InService(Arc<[AtomicBool]>),
}

impl Target {
    fn nodes(&self) -> &[SocketAddr] {
        match self.nodes.as_slice() {
            [] => std::slice::from_ref(&self.address),
            nodes => nodes,
        }
    }

    /// The addresses for the first connection of device `number`: its own node, then the others.
    pub fn addresses_of(&self, number: u32) -> impl Iterator<Item = SocketAddr> {
        self.nodes_from(self.begin_at.unwrap_or(number as usize))
    }

    /// The addresses for a reconnect of device `number`.
    pub fn reconnect_addresses(&self, number: u32) -> Vec<SocketAddr> {
        let any = rand::random_range(0..self.nodes().len());
        match &self.reconnect_to {
            ReconnectTo::Same => self.addresses_of(number).collect(),
            ReconnectTo::Any => self.nodes_from(any).collect(),
            ReconnectTo::InService(flags) => {
                let nodes = self.nodes().iter().zip(flags.iter());
                let in_service: Vec<SocketAddr> = nodes
                    .filter(|(_, flag)| flag.load(Ordering::Relaxed))
                    .map(|(node, _)| *node)
                    .collect();
                // A load balancer picks one; its clients do not know the others.
                in_service.choose(&mut rand::rng()).copied().into_iter().collect()
            }
        }
    }

    /// The local address of device `number`; `None`: the system's choice.
    pub(crate) fn source_of(&self, number: u32) -> Option<IpAddr> {
        match self.sources.len() {
            0 => None,
            count => Some(self.sources[number as usize % count]),
        }
    }

    fn nodes_from(&self, first: usize) -> impl Iterator<Item = SocketAddr> {
        let nodes = self.nodes();
        let (before, from) = nodes.split_at(first % nodes.len());
        from.iter().chain(before).copied()
    }

    /// The credentials of device `number`.
    ///
    /// # Errors
    /// When a hub's key is invalid.
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

/// A TLS client that trusts the CAs of `ca_file` only.
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
    let mut config = holdfast_client::tls::config(Some(ca_file), versions)?;
    config.resumption = rustls::client::Resumption::disabled();
    let server =
        ServerName::try_from(server.to_owned()).with_context(|| format!("{server:?} is not a valid server name"))?;
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
