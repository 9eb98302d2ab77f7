//! `connection.json`: how to reach a running hub, for people, tools and tests.
//!
//! Invariant: the keys are a public contract, checked by `holdfast/tests/connection_file.rs`; they are added to, never
//! renamed. The file appears when the hub is ready and is gone when it has stopped, so its presence means "ready".
//! It holds the policies' keys, so its mode is 0600.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The name of the file in a development hub's directory.
pub const FILE_NAME: &str = "connection.json";

/// Everything that a client needs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionFile {
    /// The hub's host name, without port.
    pub host_name: String,
    /// The name for devices beside `host_name`, if it has one.
    #[serde(default)]
    pub device_host_name: Option<String>,
    /// The name for back ends.
    #[serde(default)]
    pub service_host_name: Option<String>,
    /// The CA that clients trust, absolute.
    pub ca_file: Option<PathBuf>,
    /// Connection string with all rights.
    pub owner: String,
    /// Connection string with ServiceConnect.
    pub service: String,
    /// Connection string with DeviceConnect.
    pub device: String,
    /// Connection string with RegistryRead.
    pub registry_read: String,
    /// Connection string with RegistryRead and RegistryWrite.
    pub registry_read_write: String,
    /// Event-Hubs-compatible connection string of the built-in endpoint.
    pub event_hub: String,
    /// The embedded blob endpoint; `null`: this hub has none.
    #[serde(default)]
    pub blobs: Option<Blobs>,
    /// The Device Provisioning Service.
    pub provisioning: Provisioning,
    /// The Prometheus endpoint.
    pub metrics: String,
    /// The hub's processes.
    pub pids: Vec<u32>,
    /// The ports in use.
    pub ports: Ports,
    /// The hub's nodes; the file of a single node has that node alone.
    #[serde(default)]
    pub nodes: Vec<NodeFacts>,
}

/// One node of a hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// Its name in the cluster.
    pub name: String,
    /// Where its listeners are.
    pub address: String,
    /// On which ports.
    pub ports: Ports,
    /// Its metrics page.
    pub metrics: String,
    /// The file to start it with again: `holdfast start --config FILE`.
    pub config_file: Option<PathBuf>,
    /// Its data directory.
    pub data_dir: PathBuf,
}

/// How back ends reach the embedded blob endpoint: for the Blob SDKs, and for checkpoint stores of event processors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blobs {
    /// Connection string, with the account's key.
    pub connection_string: String,
    /// The account.
    pub account: String,
    /// Its key, base64: it opens every blob.
    pub key: String,
    /// The URL below which containers are.
    pub endpoint: String,
    /// The container of the devices' uploads.
    pub uploads: String,
}

/// Where devices are provisioned; all `null` while this hub has no provisioning service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provisioning {
    /// The global endpoint.
    pub endpoint: Option<String>,
    /// The id scope.
    pub id_scope: Option<String>,
    /// Connection string of its service API.
    pub service: Option<String>,
}

/// Ports that clients connect to; `null` = not listening.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// MQTT over TLS.
    pub mqtt: Option<u16>,
    /// MQTT without TLS.
    pub mqtt_plain: Option<u16>,
    /// AMQP over TLS.
    pub amqp: Option<u16>,
    /// AMQP without TLS.
    pub amqp_plain: Option<u16>,
    /// HTTPS and WebSockets.
    pub https: Option<u16>,
    /// Metrics and health.
    pub ops: Option<u16>,
    /// Other nodes.
    #[serde(default)]
    pub peer: Option<u16>,
}

impl ConnectionFile {
    /// Reads a running hub's file.
    ///
    /// # Errors
    /// When it cannot be read, or is no connection file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no connection file of a hub", path.display()))
    }
}

/// The hub's name: the first label of its host name, also when that is an IP address, because SDKs cut it there
/// without looking (Spec amqp §1.2). Colons of IPv6 addresses become dashes.
#[must_use]
pub fn hub_name(host: &str) -> String {
    host.split('.').next().unwrap_or(host).replace(':', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_is_named_after_the_first_label_of_its_host() {
        assert_eq!(hub_name("localhost"), "localhost");
        assert_eq!(hub_name("hub1.example.com"), "hub1");
        assert_eq!(hub_name("127.7.8.9"), "127");
        assert_eq!(hub_name("::1"), "--1");
    }
}
