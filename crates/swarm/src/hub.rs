//! A Holdfast hub as its `connection.json` describes it, and the devices that the generator registers there.
//!
//! Device keys are derived from the owner policy's key and the device's name, so a later run (or a second process)
//! knows the keys of its devices without a file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use holdfast_client::connection_file::{ConnectionFile, NodeFacts, Ports};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;

use crate::amqp::Credential;
use crate::fleet::Protocol;
use crate::target::{Login, Tls, Transport, resolve, tls};

/// The API version that current service SDKs send (Spec rest §1.1).
const API_VERSION: &str = "2021-04-12";
/// The characters that are not escaped in a percent-encoded resource.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A hub as its file describes it.
#[derive(Debug, Clone)]
pub struct Hub(pub ConnectionFile);

/// A shared access key and the name of its policy.
#[derive(Debug, Clone)]
pub struct PolicyKey {
    /// The policy.
    pub name: String,
    /// The key as text, base64.
    pub key: String,
    /// The event hub's name, in Event-Hubs-compatible strings.
    pub entity: Option<String>,
}

impl PolicyKey {
    /// Reads a connection string.
    ///
    /// # Errors
    /// When it has no policy name or no key.
    pub fn parse(text: &str) -> Result<Self> {
        let value = |wanted: &str| {
            let parts = text.split(';').filter_map(|part| part.split_once('='));
            parts
                .filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.to_owned())
                .next()
        };
        Ok(Self {
            name: value("SharedAccessKeyName").context("a connection string without SharedAccessKeyName")?,
            key: value("SharedAccessKey").context("a connection string without SharedAccessKey")?,
            entity: value("EntityPath"),
        })
    }
}

impl Hub {
    /// Reads `connection.json`. Relative paths in it count from its own folder.
    ///
    /// # Errors
    /// When the file cannot be read or lacks a field.
    pub fn load(path: &Path) -> Result<Self> {
        let mut file = ConnectionFile::read(path)?;
        if let (Some(folder), Some(ca)) = (path.parent(), &mut file.ca_file) {
            *ca = folder.join(&ca);
        }
        Ok(Self(file))
    }

    /// The hub's name without a port.
    #[must_use]
    pub fn host(&self) -> &str {
        match self.0.host_name.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.0.host_name,
        }
    }

    /// The MQTT address.
    ///
    /// # Errors
    /// When the hub has no such listener, or its name does not resolve.
    pub fn mqtt_address(&self, transport: Transport) -> Result<SocketAddr> {
        self.address(transport, self.0.ports.mqtt_plain, self.0.ports.mqtt)
            .context("MQTT")
    }

    /// The MQTT address of each node of a hub that has several; empty for one node.
    ///
    /// # Errors
    /// When a node has no such listener.
    pub fn mqtt_nodes(&self, transport: Transport) -> Result<Vec<SocketAddr>> {
        self.nodes(|ports| match transport {
            Transport::Plain => ports.mqtt_plain,
            Transport::Tls13 | Transport::Tls12 => ports.mqtt,
        })
    }

    /// The AMQP address of each node; as [`Hub::mqtt_nodes`].
    ///
    /// # Errors
    /// When a node has no such listener.
    pub fn amqp_nodes(&self, transport: Transport) -> Result<Vec<SocketAddr>> {
        self.nodes(|ports| match transport {
            Transport::Plain => ports.amqp_plain,
            Transport::Tls13 | Transport::Tls12 => ports.amqp,
        })
    }

    /// The address of a fleet of `protocol`, and that of each node of a hub that has several.
    ///
    /// # Errors
    /// When the hub or a node has no such listener, or HTTPS is to be without TLS.
    pub fn addresses(&self, protocol: Protocol, transport: Transport) -> Result<(SocketAddr, Vec<SocketAddr>)> {
        Ok(match protocol {
            Protocol::Mqtt => (self.mqtt_address(transport)?, self.mqtt_nodes(transport)?),
            Protocol::Amqp { .. } => (self.amqp_address(transport)?, self.amqp_nodes(transport)?),
            Protocol::Https => {
                ensure!(transport != Transport::Plain, "HTTPS is with TLS");
                (self.https_address()?, self.nodes(|ports| ports.https)?)
            }
        })
    }

    fn nodes(&self, port: impl Fn(&Ports) -> Option<u16>) -> Result<Vec<SocketAddr>> {
        let address = |node: &NodeFacts| node_address(node, port(&node.ports).context("a node without this listener")?);
        self.0.nodes.iter().map(address).collect()
    }

    /// The REST address of each node; one address for a hub whose file lists no nodes.
    ///
    /// # Errors
    /// When a node has no such listener, or the hub's name does not resolve.
    pub fn https_nodes(&self) -> Result<Vec<SocketAddr>> {
        if self.0.nodes.is_empty() {
            return Ok(vec![self.https_address()?]);
        }
        let address =
            |node: &NodeFacts| node_address(node, node.ports.https.context("a node does not listen for HTTPS")?);
        self.0.nodes.iter().map(address).collect()
    }

    /// The AMQP address.
    ///
    /// # Errors
    /// As [`Hub::mqtt_address`].
    pub fn amqp_address(&self, transport: Transport) -> Result<SocketAddr> {
        self.address(transport, self.0.ports.amqp_plain, self.0.ports.amqp)
            .context("AMQP")
    }

    /// The REST address.
    ///
    /// # Errors
    /// As [`Hub::mqtt_address`].
    pub fn https_address(&self) -> Result<SocketAddr> {
        self.address(Transport::Tls13, None, self.0.ports.https)
            .context("HTTPS")
    }

    /// Plain listeners are on loopback, whatever the host name; a hub with a loopback address as its name listens there alone.
    fn address(&self, transport: Transport, plain: Option<u16>, secured: Option<u16>) -> Result<SocketAddr> {
        let port = if transport == Transport::Plain { plain } else { secured };
        let port = port.with_context(|| format!("the hub does not listen for {transport:?}"))?;
        match self.host().parse::<IpAddr>() {
            Ok(ip) => Ok(SocketAddr::new(ip, port)),
            Err(_) if transport == Transport::Plain => Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
            Err(_) => resolve(&format!("{}:{port}", self.host())),
        }
    }

    /// A TLS client for it; `None` for plain transport.
    ///
    /// # Errors
    /// When its CA file cannot be used.
    pub fn tls(&self, transport: Transport) -> Result<Option<Tls>> {
        match transport {
            Transport::Plain => Ok(None),
            secured => {
                let ca = self.0.ca_file.as_deref().context("the hub's file names no CA")?;
                tls(secured, ca, self.host()).map(Some)
            }
        }
    }

    /// A token of the owner policy for the whole hub, valid for `lifetime`.
    ///
    /// # Errors
    /// When the key is not base64.
    pub fn owner_token(&self, lifetime: Duration) -> Result<String> {
        let owner = PolicyKey::parse(&self.0.owner)?;
        let key = STANDARD.decode(&owner.key).context("the owner's key is not base64")?;
        Ok(sign(self.host(), &key, Some(&owner.name), lifetime))
    }

    /// The devices of a fleet on this hub.
    ///
    /// # Errors
    /// When the owner's connection string is invalid.
    pub fn devices(&self, token_lifetime: Duration) -> Result<HubDevices> {
        let key = STANDARD
            .decode(PolicyKey::parse(&self.0.owner)?.key)
            .context("the owner's key is not base64")?;
        Ok(HubDevices {
            host: self.host().to_owned(),
            fleet_key: key,
            token_lifetime,
        })
    }
}

fn node_address(node: &NodeFacts, port: u16) -> Result<SocketAddr> {
    let ip = node.address.parse();
    Ok(SocketAddr::new(
        ip.with_context(|| format!("a node at {}", node.address))?,
        port,
    ))
}

/// The keys and tokens of a hub's simulated devices.
pub struct HubDevices {
    host: String,
    fleet_key: Vec<u8>,
    token_lifetime: Duration,
}

impl HubDevices {
    /// Devices with the names and tokens of a hub's, for a server that checks neither.
    #[must_use]
    pub fn without_hub(host: &str, token_lifetime: Duration) -> Self {
        Self {
            host: host.to_owned(),
            fleet_key: vec![0; 32],
            token_lifetime,
        }
    }

    /// The hub's name.
    #[must_use]
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The device's token, for `$cbs` and for HTTPS.
    pub(crate) fn credential(&self, device: String) -> Credential {
        let resource = format!("{}/devices/{device}", self.host);
        let token = sign(&resource, &self.key(&device), None, self.token_lifetime);
        Credential {
            device,
            resource,
            token,
        }
    }

    /// The key of the device, decoded.
    #[must_use]
    pub fn key(&self, device: &str) -> [u8; 32] {
        mac(&self.fleet_key, &["swarm device ", device])
    }

    /// The device's second key, decoded.
    #[must_use]
    pub fn secondary_key(&self, device: &str) -> [u8; 32] {
        mac(&self.fleet_key, &["swarm device, second key ", device])
    }

    /// The device's credentials in CONNECT (Spec device-mqtt §2).
    ///
    /// # Errors
    /// Never so far; the signature leaves room for devices with certificates.
    pub fn login(&self, device: String) -> Result<Login> {
        let key = self.key(&device);
        Ok(self.login_with_key(device, &key))
    }

    /// As [`Self::login`], with a token signed with `key`.
    #[must_use]
    pub fn login_with_key(&self, device: String, key: &[u8]) -> Login {
        let resource = format!("{}/devices/{device}", self.host);
        let password = sign(&resource, key, None, self.token_lifetime);
        Login {
            password: Some(password),
            ..self.login_with_certificate(device)
        }
    }

    /// The CONNECT of a device that proves itself in the TLS handshake: no password.
    #[must_use]
    pub fn login_with_certificate(&self, device: String) -> Login {
        let username = format!("{}/{device}/?api-version={API_VERSION}", self.host);
        Login {
            client_id: device,
            username: Some(username),
            password: None,
        }
    }
}

/// A shared access signature (Spec auth-and-limits §1.1), made here and not by the hub's own code, so that the two
/// check each other.
#[must_use]
pub fn sign(resource: &str, key: &[u8], policy: Option<&str>, lifetime: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    sign_until(resource, key, policy, (now + lifetime).as_secs())
}

fn sign_until(resource: &str, key: &[u8], policy: Option<&str>, expiry: u64) -> String {
    let resource = utf8_percent_encode(resource, UNRESERVED).to_string();
    let expiry = expiry.to_string();
    let signature = STANDARD.encode(mac(key, &[&resource, "\n", &expiry]));
    let signature = utf8_percent_encode(&signature, UNRESERVED);
    let policy = policy.map(|name| format!("&skn={name}")).unwrap_or_default();
    format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}{policy}")
}

pub(crate) fn mac(key: &[u8], parts: &[&str]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    parts.iter().for_each(|part| mac.update(part.as_bytes()));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_equal_the_vectors_of_the_specification() {
        let key = STANDARD.decode("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        assert_eq!(
            sign_until("hub1.example.com/devices/dev-1", &key, None, 1_900_000_000),
            "SharedAccessSignature sr=hub1.example.com%2Fdevices%2Fdev-1&sig=rjpFnOHAmNX1p%2FKKHsF9VuY7uPf5V3Y0gTeDrNQTkjk%3D&se=1900000000"
        );
        assert_eq!(
            sign_until("hub1.example.com", &key, Some("service"), 1_900_000_000),
            "SharedAccessSignature sr=hub1.example.com&sig=9OcOBjASNcgRvBFEbcd4kwzxifKmmhaKjaos6bPG1xs%3D&se=1900000000&skn=service"
        );
    }

    #[test]
    fn a_hub_is_reached_where_its_connection_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("connection.json");
        let event_hub = "Endpoint=sb://localhost/;SharedAccessKeyName=service;SharedAccessKey=a=;EntityPath=localhost";
        let file = ConnectionFile {
            host_name: "localhost:8443".to_owned(),
            ca_file: Some("ca.pem".into()),
            event_hub: event_hub.to_owned(),
            ports: Ports {
                mqtt_plain: Some(1884),
                ..Ports::default()
            },
            ..ConnectionFile::default()
        };
        std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
        let mut hub = Hub::load(&path).unwrap();
        assert_eq!(hub.host(), "localhost");
        assert_eq!(hub.0.ca_file, Some(folder.path().join("ca.pem")));
        let key = PolicyKey::parse(&hub.0.event_hub).unwrap();
        assert_eq!((key.key.as_str(), key.entity.as_deref()), ("a=", Some("localhost")));
        let address = |hub: &Hub| hub.mqtt_address(Transport::Plain).unwrap().to_string();
        assert_eq!(address(&hub), "127.0.0.1:1884");
        assert!(hub.amqp_address(Transport::Plain).is_err());
        hub.0.host_name = "127.9.8.7".to_owned();
        assert_eq!(address(&hub), "127.9.8.7:1884");
    }

    #[test]
    fn keys_differ_by_device_and_slot() {
        let devices = HubDevices {
            host: "h".into(),
            fleet_key: vec![1],
            token_lifetime: Duration::from_secs(60),
        };
        assert_ne!(devices.key("a"), devices.key("b"));
        assert_ne!(devices.key("a"), devices.secondary_key("a"));
        let login = devices.login("a".into()).unwrap();
        assert_eq!(login.username.as_deref(), Some("h/a/?api-version=2021-04-12"));
    }
}
