//! The configuration: one typed tree, made of the sections that the crates own.
//!
//! Why: each limit and each switch has one name, one default and one sentence, and a key that does not exist is reported
//! before the hub starts.
//! Invariants: no crate below this one reads the environment; secrets are never values, only files that hold them.
//! Not here: what a section's values do (the crate that owns it). Start at [`keys::keys`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod key;
pub(crate) mod keys;
pub(crate) mod load;
pub(crate) mod page;

use holdfast_cluster::control::ControlConfig;
use holdfast_cluster::peer::PeersConfig;
use holdfast_consensus::ConsensusConfig;
use holdfast_device_hub::DeviceHubConfig;
use holdfast_gateway::MqttConfig;
use holdfast_model::{HumanDuration, PartitionCount};
use holdfast_net::NetConfig;
use holdfast_partition::PartitionConfig;
use holdfast_registry::{NodeRole, RegistryConfig};
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
    pub(crate) cluster: ClusterConfig,
    pub(crate) control: ControlConfig,
    pub(crate) peers: PeersConfig,
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

/// The hub's names and the place of its data.
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
#[derive(Debug, Clone)]
pub(crate) struct TlsConfig {
    pub(crate) certificate_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) rsa_certificate_file: Option<PathBuf>,
    pub(crate) rsa_key_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) reload_interval: HumanDuration,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificate_file: None,
            key_file: None,
            rsa_certificate_file: None,
            rsa_key_file: None,
            ca_file: None,
            reload_interval: HumanDuration::secs(5),
        }
    }
}

/// Where the key comes from that seals stored secrets.
#[derive(Debug, Clone, Default)]
pub(crate) struct SecretsConfig {
    pub(crate) key_file: Option<PathBuf>,
}

/// The identity of this node in its cluster, and the addresses of the nodes.
#[derive(Debug, Clone)]
pub(crate) struct ClusterConfig {
    pub(crate) node_name: String,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) advertise: String,
    pub(crate) zone: String,
    pub(crate) role: NodeRole,
    pub(crate) certificate_file: Option<PathBuf>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) bootstrap: bool,
    pub(crate) join: Vec<String>,
    pub(crate) join_token_file: Option<PathBuf>,
    pub(crate) initial_tokens_file: Option<PathBuf>,
    pub(crate) replication_factor: u16,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            listen: Vec::new(),
            advertise: String::new(),
            zone: String::new(),
            role: NodeRole::Core,
            certificate_file: None,
            key_file: None,
            ca_file: None,
            bootstrap: false,
            join: Vec::new(),
            join_token_file: None,
            initial_tokens_file: None,
            replication_factor: 3,
        }
    }
}

impl ClusterConfig {
    /// Whether this node takes part in a cluster; otherwise it is a hub by itself.
    pub(crate) fn is_on(&self) -> bool {
        !self.listen.is_empty()
    }

    /// The node's name: the configured one, else the machine's.
    pub(crate) fn name(&self) -> String {
        if !self.node_name.is_empty() {
            return self.node_name.clone();
        }
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name: String = machine
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c))
            .take(MAX_NODE_NAME)
            .collect();
        if name.is_empty() { "node".to_owned() } else { name }
    }

    /// Where the others reach it: the configured address, else the one it listens on.
    pub(crate) fn advertised(&self, bound: Option<SocketAddr>) -> String {
        match bound {
            _ if !self.advertise.is_empty() => self.advertise.clone(),
            Some(bound) => bound.to_string(),
            None => String::new(),
        }
    }

    fn check(&self, mut refuse: impl FnMut(&str, String)) {
        let legal = |name: &str| {
            name.len() <= MAX_NODE_NAME && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        };
        if !legal(&self.node_name) {
            let text = format!("wants at most {MAX_NODE_NAME} ASCII letters, digits and - . _");
            refuse("cluster.node_name", text);
        }
        if !legal(&self.zone) {
            let text = format!("wants at most {MAX_NODE_NAME} ASCII letters, digits and - . _");
            refuse("cluster.zone", text);
        }
        if !matches!(self.replication_factor, 1 | 3) {
            refuse(
                "cluster.replication_factor",
                format!("wants 1 or 3, found {}", self.replication_factor),
            );
        }
        if !self.is_on() {
            if !self.join.is_empty() {
                refuse(
                    "cluster.join",
                    "needs cluster.listen: the others must reach this node too".to_owned(),
                );
            }
            return;
        }
        for (key, file) in [
            ("cluster.certificate_file", &self.certificate_file),
            ("cluster.key_file", &self.key_file),
            ("cluster.ca_file", &self.ca_file),
        ] {
            if file.is_none() {
                refuse(
                    key,
                    "is needed with cluster.listen: nodes trust each other by certificate alone".to_owned(),
                );
            }
        }
        if self.listen.len() > 1 {
            refuse("cluster.listen", "wants one address".to_owned());
        }
        if self.advertise.is_empty() && self.listen.iter().all(|address| address.ip().is_unspecified()) {
            let text = "is needed when cluster.listen is an unspecified address: a name or IP that the others reach";
            refuse("cluster.advertise", text.to_owned());
        }
        for (key, address) in self.join.iter().map(|address| ("cluster.join", address)).chain(
            [("cluster.advertise", &self.advertise)]
                .into_iter()
                .filter(|(_, address)| !address.is_empty()),
        ) {
            let parts = address.rsplit_once(':');
            if parts.is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
                refuse(key, format!("wants host:port, found {address:?}"));
            }
        }
    }
}

/// The longest name of a node or zone, in bytes.
const MAX_NODE_NAME: usize = 63;

/// The shortest interval at which certificate files are checked.
const SHORTEST_RELOAD: Duration = Duration::from_millis(100);

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

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

/// The log on standard error.
#[derive(Debug, Clone)]
pub(crate) struct LogConfig {
    pub(crate) format: LogFormat,
    pub(crate) level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
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

/// A value that is well formed and still not possible.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    pub(crate) key: String,
    pub(crate) message: String,
}

/// Session calls that one node may have in flight at another, besides those of waiting connects: link renewals, new
/// links, and changes of each partition.
const SESSION_CALLS_KEPT: usize = 1024;

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

    /// Errors that no single value shows. Touches no file: whether certificates can be read is a start-up check.
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
        self.cluster.check(&mut refuse);
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
            self.control
                .validate()
                .map_err(|error| ("cluster", error.key, error.reason.to_owned())),
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
        for (key, interval) in [
            ("tls.reload_interval", self.tls.reload_interval.get()),
            ("cluster.reload_interval", self.peers.reload_interval),
        ] {
            if interval < SHORTEST_RELOAD {
                refuse(key, format!("wants at least {} ms", SHORTEST_RELOAD.as_millis()));
            }
        }
        for (key, count) in [
            ("cluster.queue", self.peers.queue_bytes),
            ("cluster.under_way", self.peers.under_way_bytes),
            ("cluster.streams", self.peers.streams),
            ("cluster.handshakes", self.peers.handshakes),
            ("net.max_unauthenticated", self.net.max_unauthenticated),
            ("mqtt.max_unauthenticated", self.mqtt.max_unauthenticated),
            ("events.max_unauthenticated", self.events.max_unauthenticated),
            (
                "device_hub.max_unacknowledged",
                self.device_hub.max_unacknowledged_bytes,
            ),
            ("device_hub.max_batch", self.device_hub.max_batch_bytes),
            ("device_hub.drain_rate", self.device_hub.drain_rate as usize),
            ("mqtt.max_output", self.mqtt.max_output_bytes),
            ("events.output", self.events.output_bytes),
        ] {
            if count == 0 {
                refuse(key, "wants more than nothing".to_owned());
            }
        }
        // Each of them may have a call under way at one owner, which carries out so many of a node; what keeps the other
        // sessions alive goes the same way.
        let most = self.peers.under_way_calls.saturating_sub(SESSION_CALLS_KEPT);
        if self.device_hub.max_waiting_connects > most {
            let found = self.device_hub.max_waiting_connects;
            refuse(
                "device_hub.max_waiting_connects",
                format!("wants at most {most}, found {found}"),
            );
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
