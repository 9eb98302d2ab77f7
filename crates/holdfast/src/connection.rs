//! The hub's side of `connection.json` (`holdfast_client::connection_file`): its content, and how it is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use holdfast_auth::{EventHubsConnection, IotConnection, Key};
pub(crate) use holdfast_client::connection_file::{
    ConnectionFile, FILE_NAME, NodeFacts, Ports, Provisioning, hub_name,
};

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
) -> Result<ConnectionFile> {
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
    Ok(ConnectionFile {
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
pub(crate) fn write(file: &ConnectionFile, path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(file)?;
    text.push('\n');
    crate::certs::write_private(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_have_the_forms_that_sdks_parse() {
        let names = ["iothubowner", "service", "device", "registryRead", "registryReadWrite"];
        let key = Key::from_bytes(vec![0; 32]).unwrap();
        let text = key.to_base64().to_string();
        let keys: BTreeMap<_, _> = names.map(|name| (name.to_owned(), key.clone())).into();
        let file = new("hub1.example.com", &keys, None, String::new(), Ports::default()).unwrap();
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
        assert!(new("h", &BTreeMap::new(), None, String::new(), Ports::default()).is_err());
    }
}
