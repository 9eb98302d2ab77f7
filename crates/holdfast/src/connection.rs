//! The hub's side of `connection.json` (`holdfast_client::connection_file`): its content, and how it is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use holdfast_auth::{DEFAULT_POLICIES, EventHubsConnection, IotConnection, Policy, Rights, split_names};
use holdfast_client::connection_file::Provisioning;
pub(crate) use holdfast_client::connection_file::{Blobs, ConnectionFile, FILE_NAME, NodeFacts, Ports, hub_name};
use holdfast_registry::{PROVISIONING_POLICY, ProvisioningSettings};

/// Puts the connection strings together, with the primary keys of the policies that every hub begins with.
///
/// # Errors
/// As [`set_policies`].
pub(crate) fn new(
    host: &str,
    policies: &[Arc<Policy>],
    ca_file: Option<PathBuf>,
    metrics: String,
    ports: Ports,
) -> Result<ConnectionFile> {
    let [device_host_name, service_host_name] = match split_names(host) {
        Some(names) => names.map(Some),
        None => [None, None],
    };
    let mut file = ConnectionFile {
        host_name: host.to_owned(),
        device_host_name,
        service_host_name,
        ca_file,
        metrics,
        pids: vec![std::process::id()],
        ports,
        ..ConnectionFile::default()
    };
    set_policies(&mut file, policies)?;
    Ok(file)
}

/// Replaces the connection strings. Where the policy of a hub's beginning has been removed or has lost its right, they have the
/// policy with the fewest rights that suffice: there is one with all of them (docs/security.md).
///
/// # Errors
/// When no policy has a right.
pub(crate) fn set_policies(file: &mut ConnectionFile, policies: &[Arc<Policy>]) -> Result<()> {
    let host = file.host_name.clone();
    let find = |(name, rights): (&str, Rights)| {
        let mut fitting: Vec<&Arc<Policy>> = policies
            .iter()
            .filter(|policy| policy.rights.contains(rights))
            .collect();
        fitting.sort_by_key(|policy| (policy.name != name, policy.rights.bits().count_ones()));
        let found = fitting.first().copied();
        found.with_context(|| format!("the hub has no policy with the rights of {name}: {rights}"))
    };
    let [owner, service, device, registry_read, registry_read_write] = DEFAULT_POLICIES.map(find);
    let string = |policy: Result<&Arc<Policy>>| {
        let policy = policy?;
        let connection = IotConnection::policy(&host, &policy.name, policy.keys.primary.clone());
        anyhow::Ok(connection.reveal().to_string())
    };
    let reader = service?;
    let key = reader.keys.primary.clone();
    let events = EventHubsConnection::policy(&host, &reader.name, &key, &hub_name(&host));
    file.event_hub = events.reveal().to_string();
    file.service = string(Ok(reader))?;
    file.owner = string(owner)?;
    file.device = string(device)?;
    file.registry_read = string(registry_read)?;
    file.registry_read_write = string(registry_read_write)?;
    Ok(())
}

/// Fills in where devices are provisioned.
pub(crate) fn set_provisioning(file: &mut ConnectionFile, host: &str, settings: &ProvisioningSettings) {
    let policy = settings.policy(PROVISIONING_POLICY).or(settings.policies.first());
    file.provisioning = Provisioning {
        endpoint: Some(host.to_owned()),
        id_scope: Some(settings.id_scope.clone()),
        service: policy.map(|policy| {
            let connection = IotConnection::policy(host, &policy.name, policy.keys.primary.clone());
            connection.reveal().to_string()
        }),
    };
}

/// Writes the file atomically, readable by its owner alone.
pub(crate) fn write(file: &ConnectionFile, path: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(file)?;
    text.push('\n');
    crate::certs::write_private(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use holdfast_auth::{Key, KeyPair};

    use super::*;

    #[test]
    fn connection_strings_have_the_forms_that_sdks_parse() {
        let key = Key::from_bytes(vec![0; 32]).unwrap();
        let text = key.to_base64().to_string();
        let policy = |(name, rights): (&str, Rights)| {
            let keys = KeyPair {
                primary: key.clone(),
                secondary: key.clone(),
            };
            Arc::new(Policy {
                name: name.to_owned(),
                keys,
                rights,
            })
        };
        let mut policies = DEFAULT_POLICIES.map(policy).to_vec();
        let file = new("hub1.example.com", &policies, None, String::new(), Ports::default()).unwrap();
        let string = |name| format!("HostName=hub1.example.com;SharedAccessKeyName={name};SharedAccessKey={text}");
        assert_eq!(file.service, string("service"));
        assert_eq!(
            file.event_hub,
            format!(
                "Endpoint=sb://hub1.example.com/;SharedAccessKeyName=service;SharedAccessKey={text};EntityPath=hub1"
            )
        );
        // Without the default ones: the one with the fewest rights that suffice.
        policies.retain(|policy| policy.name != "service" && policy.name != "registryRead");
        let file = new("hub1.example.com", &policies, None, String::new(), Ports::default()).unwrap();
        assert_eq!(file.service, string("iothubowner"));
        assert_eq!(file.registry_read, string("registryReadWrite"));
        assert!(new("h", &[], None, String::new(), Ports::default()).is_err());
    }
}
