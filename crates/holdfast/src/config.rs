//! The configuration: one typed tree, made of the sections that the crates own.
//!
//! Why: each limit and each switch has one name, one default and one sentence, and a key that does not exist is reported
//! before the hub starts.
//! Invariants: no crate below this one reads the environment; secrets are never values, only files that hold them.
//! Not here: the effect of a section's values (the crate that owns it), and how keys are read and shown (`holdfast_config`).

pub(crate) mod production;
mod sections;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use holdfast_blob::{BlobConfig, S3Config};
use holdfast_cluster::control::ControlConfig;
use holdfast_cluster::peer::PeersConfig;
use holdfast_config::{Invalid, Section, Tree};
use holdfast_consensus::ConsensusConfig;
use holdfast_device_hub::{DeviceHubConfig, ThrottlesConfig, TwinsConfig, UploadConfig, UploadStorageKind};
use holdfast_gateway::{AmqpConfig, HttpsConfig, MqttConfig};
use holdfast_net::NetConfig;
use holdfast_oidc::OidcConfig;
use holdfast_partition::PartitionConfig;
use holdfast_provisioning::ProvisioningConfig;
use holdfast_registry::RegistryConfig;
use holdfast_service_api::events::EventsConfig;
use holdfast_service_api::rest::RestConfig;
use holdfast_spans::TracingConfig;
use holdfast_storage::StorageConfig;

use sections::{AuditConfig, LogConfig, OpsConfig, SecretsConfig, ServiceAuthConfig};
pub(crate) use sections::{
    BackupConfig, ClusterConfig, CrlConfig, HubConfig, ListenConfig, LogFormat, MAX_ALTERNATIVES, Resumption, TlsConfig,
};

/// The whole configuration of a node; the fields in the order of the manual.
macro_rules! tree {
    ($($section:ident: $Section:ty),*) => {
        #[derive(Debug, Clone, Default)]
        pub(crate) struct Config {
            $(pub(crate) $section: $Section,)*
        }

        impl Tree for Config {
            fn sections(&mut self) -> Vec<&mut dyn Section> {
                vec![$(&mut self.$section),*]
            }

            fn problems(&self) -> Vec<Invalid> {
                self.check()
            }
        }
    };
}

tree! {
    hub: HubConfig, listen: ListenConfig, tls: TlsConfig, crl: CrlConfig, secrets: SecretsConfig, service_auth: ServiceAuthConfig, oidc: OidcConfig, cluster: ClusterConfig,
    control: ControlConfig, peers: PeersConfig, ops: OpsConfig, log: LogConfig, audit: AuditConfig, tracing: TracingConfig,
    storage: StorageConfig, consensus: ConsensusConfig, registry: RegistryConfig, partition: PartitionConfig,
    device_hub: DeviceHubConfig, twins: TwinsConfig, throttles: ThrottlesConfig, net: NetConfig, mqtt: MqttConfig, amqp: AmqpConfig, https: HttpsConfig, provisioning: ProvisioningConfig, upload: UploadConfig, blob: BlobConfig, s3: S3Config, backup: BackupConfig, events: EventsConfig, rest: RestConfig
}

/// Session calls that one node may have in flight at another, besides those of waiting connects: link renewals, new
/// links, and changes of each partition.
const SESSION_CALLS_KEPT: usize = 1024;

impl Config {
    /// The audit log's file: the configured one, or `audit.jsonl` in the data directory.
    pub(crate) fn audit_file(&self) -> PathBuf {
        let configured = self.audit.file.clone();
        configured.unwrap_or_else(|| self.hub.data_dir.join("audit.jsonl"))
    }

    /// The file with the key-encryption key: the configured one, or `sealing.key` in the data directory.
    pub(crate) fn sealing_key_file(&self) -> PathBuf {
        let configured = self.secrets.key_file.clone();
        configured.unwrap_or_else(|| self.hub.data_dir.join("sealing.key"))
    }

    /// How many core runtimes to start: the configured number, or one per two CPUs. Syncs, compaction and reads from
    /// disk have threads of their own, and waking one core from another costs more than two cores win on two CPUs
    /// (docs/decisions/0005).
    pub(crate) fn core_count(&self) -> usize {
        match self.hub.cores {
            0 => std::thread::available_parallelism()
                .map_or(1, std::num::NonZero::get)
                .div_ceil(2),
            cores => usize::from(cores),
        }
    }

    /// Errors that no single section shows. Touches no file: whether certificates can be read is a start-up check.
    fn check(&self) -> Vec<Invalid> {
        let named = [("host", &self.hub.host)].into_iter();
        let named = named.chain(self.hub.aliases.iter().map(|alias| ("aliases", alias)));
        let mut found: Vec<Invalid> = named
            .filter(|(_, host)| !is_host(host))
            .map(|(key, host)| {
                let reason = format!("{host:?} is no host name; write a DNS name or an IP, without port");
                Invalid::new("hub", key, reason)
            })
            .collect();
        // Each of them may have a call in flight at one owner, which carries out so many of a node; what keeps the other
        // sessions alive goes the same way.
        let most = self.peers.max_in_flight_calls.saturating_sub(SESSION_CALLS_KEPT);
        if self.device_hub.max_waiting_connects > most {
            let reason = format!("must be at most {most}, found {}", self.device_hub.max_waiting_connects);
            found.push(Invalid::new("device_hub", "max_waiting_connects", reason));
        }
        if !self.service_auth.shared_policies && !self.oidc.is_on() {
            let reason = "cannot be false without auth.oidc.issuer: nothing would open the hub for back ends";
            found.push(Invalid::new("auth.service", "shared_policies", reason));
        }
        if !self.provisioning.device_host.is_empty() && !is_host(&self.provisioning.device_host) {
            let reason = format!(
                "{:?} is no host name; write a DNS name or an IP, without port",
                self.provisioning.device_host
            );
            found.push(Invalid::new("provisioning", "device_host", reason));
        }
        self.check_uploads(&mut found);
        let secrets = &self.secrets;
        let places = [
            secrets.key_file.is_some(),
            !secrets.key_variable.is_empty(),
            !secrets.key_command.is_empty(),
        ];
        if places.into_iter().filter(|is_set| *is_set).count() > 1 {
            let reason = "is one of three places of the key: set only one of key_file, key_variable and key_command";
            found.push(Invalid::new("secrets", "key_file", reason));
        }
        found
    }

    fn check_uploads(&self, found: &mut Vec<Invalid>) {
        let upload = &self.upload;
        if let Err(error) = holdfast_blob::is_container(&upload.container) {
            found.push(Invalid::new("upload", "container", error.to_string()));
        } else if holdfast_blob::is_hub_word(&upload.container) || upload.container == self.blob.account {
            let reason = "is a path of the hub, or the account of section [blob]; choose another name";
            found.push(Invalid::new("upload", "container", reason));
        }
        if upload.storage.is_embedded() && !self.blob.enabled && upload.endpoint.is_empty() {
            let reason = "is needed with upload.storage = \"embedded\" or \"s3\" on a node without blob.enabled: the host of a node that has it";
            found.push(Invalid::new("upload", "endpoint", reason));
        }
        if upload.storage == UploadStorageKind::S3 && self.s3.bucket.is_empty() {
            found.push(Invalid::new("s3", "bucket", "is needed with upload.storage = \"s3\""));
        }
    }

    /// The file with the keys of the embedded endpoint: the configured one, or `blob.key` in the data directory.
    pub(crate) fn blob_key_file(&self) -> PathBuf {
        let configured = self.blob.key_file.clone();
        configured.unwrap_or_else(|| self.hub.data_dir.join("blob.key"))
    }

    /// The directory of the embedded endpoint: the configured one, or `blobs` in the data directory.
    pub(crate) fn blob_directory(&self) -> PathBuf {
        let configured = self.blob.directory.clone();
        configured.unwrap_or_else(|| self.hub.data_dir.join("blobs"))
    }

    /// Whether the key-encryption key is in a file.
    pub(crate) fn has_sealing_key_file(&self) -> bool {
        self.secrets.key_variable.is_empty() && self.secrets.key_command.is_empty()
    }

    /// The data directory as it was given, for messages.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.hub.data_dir
    }
}

/// A DNS name or an IP address, without scheme and port.
fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.chars().all(|c| c.is_ascii_alphanumeric() || "-.:_".contains(c))
        && (!host.contains(':') || host.parse::<std::net::Ipv6Addr>().is_ok())
}
