//! The configuration: one typed tree, made of the sections that the crates own.
//!
//! Why: each limit and each switch has one name, one default and one sentence, and whoever asks for a key that does
//! not exist is told so before the hub starts.
//! Invariants: nobody below this crate reads the environment; secrets are never values, only files that hold them.
//! Not here: what a section's values do (the crate that owns it). Start at [`keys::keys`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod key;
pub(crate) mod keys;
pub(crate) mod load;
pub(crate) mod page;

use holdfast_consensus::ConsensusConfig;
use holdfast_device_hub::DeviceHubConfig;
use holdfast_gateway::MqttConfig;
use holdfast_model::PartitionCount;
use holdfast_net::NetConfig;
use holdfast_partition::PartitionConfig;
use holdfast_registry::RegistryConfig;
use holdfast_service_api::events::EventsConfig;
use holdfast_service_api::rest::RestConfig;
use holdfast_storage::StorageConfig;

pub(crate) use load::Sources;

/// The whole configuration of a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    pub(crate) hub: HubConfig,
    pub(crate) listen: ListenConfig,
    pub(crate) tls: TlsConfig,
    pub(crate) secrets: SecretsConfig,
    pub(crate) ops: OpsConfig,
    pub(crate) log: LogConfig,
    pub(crate) audit: AuditConfig,
    pub(crate) storage: StorageConfig,
    pub(crate) consensus: ConsensusConfig,
    pub(crate) registry: RegistryConfig,
    pub(crate) partition: PartitionConfig,
    pub(crate) device_hub: DeviceHubConfig,
    pub(crate) net: NetConfig,
    pub(crate) mqtt: MqttConfig,
    pub(crate) events: EventsConfig,
    pub(crate) rest: RestConfig,
}

/// What the hub is called and where it keeps its data.
#[derive(Debug, Clone)]
pub(crate) struct HubConfig {
    pub(crate) host: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) data_dir: PathBuf,
    pub(crate) connection_file: Option<PathBuf>,
    pub(crate) cores: u16,
    pub(crate) partitions: u16,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            aliases: Vec::new(),
            data_dir: PathBuf::from("/var/lib/holdfast"),
            connection_file: None,
            cores: 0,
            partitions: PartitionCount::DEFAULT.get(),
        }
    }
}

/// Where the hub listens. Plain MQTT and AMQP are for loopback and for load balancers that end TLS.
#[derive(Debug, Clone)]
pub(crate) struct ListenConfig {
    pub(crate) mqtts: Vec<SocketAddr>,
    pub(crate) amqps: Vec<SocketAddr>,
    pub(crate) https: Vec<SocketAddr>,
    pub(crate) mqtt: Vec<SocketAddr>,
    pub(crate) amqp: Vec<SocketAddr>,
}

impl Default for ListenConfig {
    fn default() -> Self {
        let all = |port| vec![SocketAddr::from(([0, 0, 0, 0], port))];
        Self {
            mqtts: all(8883),
            amqps: all(5671),
            https: all(443),
            mqtt: Vec::new(),
            amqp: Vec::new(),
        }
    }
}

/// Which certificates the TLS listeners show.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsConfig {
    pub(crate) certificate_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) rsa_certificate_file: Option<PathBuf>,
    pub(crate) rsa_key_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
}

/// Where the key comes from that seals stored secrets.
#[derive(Debug, Clone, Default)]
pub(crate) struct SecretsConfig {
    pub(crate) key_file: Option<PathBuf>,
}

/// Metrics, health and stopping.
#[derive(Debug, Clone)]
pub(crate) struct OpsConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) drain_timeout: Duration,
}

impl Default for OpsConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9600)),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// The log on standard error.
#[derive(Debug, Clone)]
pub(crate) struct LogConfig {
    pub(crate) format: String,
    pub(crate) level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: "text".to_owned(),
            level: "info".to_owned(),
        }
    }
}

/// The audit log: refusals and registry writes.
#[derive(Debug, Clone)]
pub(crate) struct AuditConfig {
    pub(crate) file: Option<PathBuf>,
    pub(crate) max_file_size: u64,
    pub(crate) max_files: u16,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            file: None,
            max_file_size: 64 << 20,
            max_files: 4,
        }
    }
}

/// A key whose value is well formed and still cannot be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    pub(crate) key: String,
    pub(crate) message: String,
}

impl Config {
    /// The audit log's file: the configured one, or `audit.jsonl` in the data directory.
    pub(crate) fn audit_file(&self) -> PathBuf {
        self.audit
            .file
            .clone()
            .unwrap_or_else(|| self.hub.data_dir.join("audit.jsonl"))
    }

    /// The file with the key-encryption key: the configured one, or `sealing.key` in the data directory.
    pub(crate) fn sealing_key_file(&self) -> PathBuf {
        self.secrets
            .key_file
            .clone()
            .unwrap_or_else(|| self.hub.data_dir.join("sealing.key"))
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

    /// What no single value shows to be wrong. Touches no file: whether certificates can be read is a start-up check.
    pub(crate) fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |key: &str, message: String| {
            problems.push(Problem {
                key: key.to_owned(),
                message,
            })
        };
        if let Err(message) = check_host(&self.hub.host) {
            refuse("hub.host", message);
        }
        for alias in &self.hub.aliases {
            if let Err(message) = check_host(alias) {
                refuse("hub.aliases", message);
            }
        }
        if PartitionCount::new(self.hub.partitions).is_none() {
            let (min, max) = (PartitionCount::MIN, PartitionCount::MAX);
            refuse(
                "hub.partitions",
                format!("wants {min} to {max}, found {}", self.hub.partitions),
            );
        }
        for (key, file, other) in [
            ("tls.certificate_file", &self.tls.certificate_file, &self.tls.key_file),
            ("tls.key_file", &self.tls.key_file, &self.tls.certificate_file),
            (
                "tls.rsa_certificate_file",
                &self.tls.rsa_certificate_file,
                &self.tls.rsa_key_file,
            ),
            (
                "tls.rsa_key_file",
                &self.tls.rsa_key_file,
                &self.tls.rsa_certificate_file,
            ),
        ] {
            if file.is_some() && other.is_none() {
                refuse(
                    key,
                    "a certificate and its key go together; the other one is not set".to_owned(),
                );
            }
        }
        if !matches!(self.log.format.as_str(), "text" | "json") {
            refuse(
                "log.format",
                format!("wants \"text\" or \"json\", found {:?}", self.log.format),
            );
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.level) {
            refuse("log.level", format!("is no level or filter: {error}"));
        }
        if self.audit.max_files == 0 {
            refuse("audit.max_files", "wants at least 1".to_owned());
        }
        let sections = [
            self.storage
                .validate()
                .map_err(|error| ("storage", error.key, error.reason)),
            self.consensus
                .validate()
                .map_err(|error| ("consensus", error.key, error.reason)),
            self.registry
                .validate()
                .map_err(|error| ("registry", error.key, error.reason.to_owned())),
            self.partition
                .validate()
                .map_err(|error| ("partition", error.key, error.reason.to_owned())),
            self.rest
                .validate()
                .map_err(|error| ("rest", error.key, error.reason.to_owned())),
        ];
        for (key, count) in [
            ("net.max_unauthenticated", self.net.max_unauthenticated),
            ("mqtt.max_unauthenticated", self.mqtt.max_unauthenticated),
            ("events.max_unauthenticated", self.events.max_unauthenticated),
            (
                "device_hub.max_unacknowledged",
                self.device_hub.max_unacknowledged_bytes,
            ),
            ("device_hub.max_batch", self.device_hub.max_batch_bytes),
            ("mqtt.max_output", self.mqtt.max_output_bytes),
            ("events.output", self.events.output_bytes),
        ] {
            if count == 0 {
                refuse(key, "wants more than nothing".to_owned());
            }
        }
        for (section, key, reason) in sections.into_iter().filter_map(Result::err) {
            refuse(&format!("{section}.{key}"), reason);
        }
        problems
    }

    /// The data directory as it was given, for messages.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.hub.data_dir
    }
}

/// A DNS name or an IP address, without scheme and port.
fn check_host(host: &str) -> Result<(), String> {
    let plain = !host.is_empty()
        && host.len() <= 253
        && host.chars().all(|c| c.is_ascii_alphanumeric() || "-.:_".contains(c))
        && (!host.contains(':') || host.parse::<std::net::Ipv6Addr>().is_ok());
    if plain {
        Ok(())
    } else {
        Err(format!(
            "{host:?} is no host name; write a DNS name or an IP, without port"
        ))
    }
}
