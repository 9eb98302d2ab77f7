//! `connection.json`: how to reach a running hub, for people, tools and tests.
//!
//! Invariant: the keys are a public contract, checked by `tests/connection_file.rs`; they are added to, never renamed.
//! The file appears when the hub is ready and is gone when it has stopped, so its presence means "ready".
//! It holds the policies' keys, so its mode is 0600.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use holdfast_auth::{EventHubsConnection, IotConnection, Key};
use serde::{Deserialize, Serialize};

/// The name of the file in a development hub's directory.
pub(crate) const FILE_NAME: &str = "connection.json";

/// Everything that a client needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConnectionFile {
    /// The hub's host name, without port.
    pub(crate) host_name: String,
    /// The CA that clients trust, absolute.
    pub(crate) ca_file: Option<PathBuf>,
    /// Connection string with all rights.
    pub(crate) owner: String,
    /// Connection string with ServiceConnect.
    pub(crate) service: String,
    /// Connection string with DeviceConnect.
    pub(crate) device: String,
    /// Connection string with RegistryRead.
    pub(crate) registry_read: String,
    /// Connection string with RegistryRead and RegistryWrite.
    pub(crate) registry_read_write: String,
    /// Event-Hubs-compatible connection string of the built-in endpoint.
    pub(crate) event_hub: String,
    /// The Device Provisioning Service.
    pub(crate) provisioning: Provisioning,
    /// The Prometheus endpoint.
    pub(crate) metrics: String,
    /// The hub's processes.
    pub(crate) pids: Vec<u32>,
    /// The ports in use.
    pub(crate) ports: Ports,
    /// The hub's nodes; the file of a single node has that node alone.
    #[serde(default)]
    pub(crate) nodes: Vec<NodeFacts>,
}

/// One node of a hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeFacts {
    /// Its name in the cluster.
    pub(crate) name: String,
    /// Where its listeners are.
    pub(crate) address: String,
    pub(crate) ports: Ports,
    /// Its metrics page.
    pub(crate) metrics: String,
    /// The file to start it with again: `holdfast start --config FILE`.
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) data_dir: PathBuf,
}

/// Where devices are provisioned; all `null` while this hub has no provisioning service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Provisioning {
    pub(crate) endpoint: Option<String>,
    pub(crate) id_scope: Option<String>,
    pub(crate) service: Option<String>,
}

/// Ports that clients connect to; `null` = not listening.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ports {
    /// MQTT over TLS.
    pub(crate) mqtt: Option<u16>,
    /// MQTT without TLS.
    pub(crate) mqtt_plain: Option<u16>,
    /// AMQP over TLS.
    pub(crate) amqp: Option<u16>,
    /// AMQP without TLS.
    pub(crate) amqp_plain: Option<u16>,
    /// HTTPS and WebSockets.
    pub(crate) https: Option<u16>,
    /// Metrics and health.
    pub(crate) ops: Option<u16>,
    /// Other nodes.
    #[serde(default)]
    pub(crate) peer: Option<u16>,
}

impl ConnectionFile {
    /// Puts the connection strings together, with the primary keys of the policies that every hub begins with.
    ///
    /// # Errors
    /// When a policy has been removed.
    pub(crate) fn new(
        host: &str,
        keys: &BTreeMap<String, Key>,
        ca_file: Option<PathBuf>,
        metrics: String,
        ports: Ports,
    ) -> Result<Self> {
        let key = |policy: &str| {
            keys.get(policy)
                .with_context(|| format!("the hub has no policy {policy}"))
        };
        let policy = |name| -> Result<String> {
            Ok(IotConnection::policy(host, name, key(name)?.clone())
                .reveal()
                .to_string())
        };
        let event_hub = EventHubsConnection::policy(host, "service", key("service")?, &hub_name(host));
        Ok(Self {
            host_name: host.to_owned(),
            ca_file,
            owner: policy("iothubowner")?,
            service: policy("service")?,
            device: policy("device")?,
            registry_read: policy("registryRead")?,
            registry_read_write: policy("registryReadWrite")?,
            event_hub: event_hub.reveal().to_string(),
            provisioning: Provisioning::default(),
            metrics,
            pids: vec![std::process::id()],
            ports,
            nodes: Vec::new(),
        })
    }

    /// Writes the file atomically, readable by its owner alone.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        crate::certs::write_private(path, text.as_bytes())
    }

    /// Reads a running hub's file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no connection file of a hub", path.display()))
    }
}

/// The hub's name: the first label of its host name, also when that is an IP address, because SDKs cut it there
/// without looking (Spec amqp §1.2). Colons of IPv6 addresses become dashes.
pub(crate) fn hub_name(host: &str) -> String {
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

    #[test]
    fn connection_strings_have_the_forms_that_sdks_parse() {
        let names = ["iothubowner", "service", "device", "registryRead", "registryReadWrite"];
        let key = Key::from_bytes(vec![0; 32]).unwrap();
        let text = key.to_base64().to_string();
        let keys: BTreeMap<_, _> = names.map(|name| (name.to_owned(), key.clone())).into();
        let file = ConnectionFile::new("hub1.example.com", &keys, None, String::new(), Ports::default()).unwrap();
        assert_eq!(
            file.service,
            format!("HostName=hub1.example.com;SharedAccessKeyName=service;SharedAccessKey={text}")
        );
        assert_eq!(
            file.event_hub,
            format!(
                "Endpoint=sb://hub1.example.com/;SharedAccessKeyName=service;SharedAccessKey={text};EntityPath=hub1"
            )
        );
        assert!(ConnectionFile::new("h", &BTreeMap::new(), None, String::new(), Ports::default()).is_err());
    }
}
