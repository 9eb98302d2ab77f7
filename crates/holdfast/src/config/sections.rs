//! The sections that belong to the process itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use holdfast_backup::{InvalidSchedule, MIN_INTERVAL, Schedule};
use holdfast_blob::{InvalidPlace, RemoteAccess, RemotePlace};
use holdfast_config::Choice;
use holdfast_model::{ByteSize, HumanDuration, PartitionCount};
use tracing_subscriber::EnvFilter;

/// The longest name of a node or zone, in bytes.
const MAX_NODE_NAME: usize = 63;

holdfast_config::section! {
    /// The hub's names, the place of its data, and its share of the machine.
    pub(crate) struct HubConfig = "hub" {
        /// The host name that devices and back ends use; in tokens, connection strings and certificates. The first
        /// label is the hub's name and the Event Hubs entity path. `HUB.DOMAIN` is also reached as `HUB.device.DOMAIN` and
        /// `HUB.service.DOMAIN`: have them in DNS and in the server certificate.
        pub(crate) host: String = "localhost".to_owned();
        /// Other names under which tokens may address this hub.
        pub(crate) aliases: Vec<String> = Vec::new();
        /// The directory that holds everything the hub stores.
        pub(crate) data_dir: PathBuf = PathBuf::from("/var/lib/holdfast");
        /// Where to write connection strings, CA and ports as JSON (mode 0600) once the hub is ready. Holds the
        /// policies' keys in clear; leave it unset where it is not needed.
        pub(crate) connection_file: Option<PathBuf> = None;
        /// A file of connection strings of shared access policies, one a line: the hub is created with these policies and keys, so
        /// that back ends can have theirs before it exists. Two lines of one policy are its primary and its secondary key. A policy
        /// of another name than the five that every hub has names its rights: `…;SharedAccessKey=KEY;Rights=RegistryRead,ServiceConnect`.
        /// The host name in them does not count. Later changes: `holdfast policy`.
        pub(crate) initial_policies_file: Option<PathBuf> = None;
        /// How many single-threaded core runtimes to run; 0 means one per two CPUs.
        pub(crate) cores: u16 = 0;
        /// How many partitions the telemetry log has, 4 to 128. Fixed when the data directory is created.
        pub(crate) partitions: u16 = PartitionCount::DEFAULT.get();
    }
    check |hub| {
        PartitionCount::new(hub.partitions).is_some() => partitions,
            format!("must be {} to {}, found {}", PartitionCount::MIN, PartitionCount::MAX, hub.partitions);
    }
}

holdfast_config::section! {
    /// Where the hub listens. Plain `mqtt` and `amqp` carry keys in clear: loopback only, or behind TLS.
    pub(crate) struct ListenConfig = "listen" {
        /// MQTT over TLS.
        pub(crate) mqtts: Vec<SocketAddr> = on_all_addresses(8883);
        /// AMQP 1.0 over TLS.
        pub(crate) amqps: Vec<SocketAddr> = on_all_addresses(5671);
        /// HTTPS, and MQTT and AMQP over WebSockets.
        pub(crate) https: Vec<SocketAddr> = on_all_addresses(443);
        /// MQTT without TLS.
        pub(crate) mqtt: Vec<SocketAddr> = Vec::new();
        /// AMQP 1.0 without TLS.
        pub(crate) amqp: Vec<SocketAddr> = Vec::new();
    }
}

fn on_all_addresses(port: u16) -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0, 0, 0, 0], port))]
}

/// Whether clients may resume TLS sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resumption {
    /// Every handshake is a full one.
    Off,
    /// By session tickets.
    Tickets,
}

impl Choice for Resumption {
    const NAMES: &'static [(&'static str, Self)] = &[("off", Self::Off), ("tickets", Self::Tickets)];
}

/// How many chains for host names there may be: each is a label of metrics.
pub(crate) const MAX_ALTERNATIVES: usize = 8;

/// Why a certificate or key file is refused.
const ALONE: &str = "a certificate and its key go together; the other one is not set";

holdfast_config::section! {
    /// Server certificates, PEM. A leaf first, then its intermediates.
    pub(crate) struct TlsConfig = "tls" {
        /// The server certificate that most clients get; ECDSA P-256 is the fast choice. Needed by every TLS listener.
        pub(crate) certificate_file: Option<PathBuf> = None;
        /// Its private key, PKCS #8, readable by the hub alone.
        pub(crate) key_file: Option<PathBuf> = None;
        /// An RSA certificate for clients that cannot do ECDSA.
        pub(crate) rsa_certificate_file: Option<PathBuf> = None;
        /// Its private key.
        pub(crate) rsa_key_file: Option<PathBuf> = None;
        /// An OCSP response about `certificate_file` in DER, as `openssl ocsp -respout` writes it; stapled for clients that ask for one, until
        /// its nextUpdate. Replace the file before; a response that a client would refuse is not stapled, and is logged. The
        /// certificate's issuer must be in `certificate_file`, behind it.
        pub(crate) ocsp_file: Option<PathBuf> = None;
        /// The same about `rsa_certificate_file`.
        pub(crate) rsa_ocsp_file: Option<PathBuf> = None;
        /// Chains for the clients of single host names, such as old devices that trust an older root:
        /// `["old.example.com=/etc/holdfast/old.pem:/etc/holdfast/old.key"]`, HOST=CERTIFICATE_FILE:KEY_FILE. A client that names HOST in
        /// its TLS greeting (SNI) gets it, all others those above; several for one host are chosen among by kind of key. At most 8.
        pub(crate) alternatives: Vec<String> = Vec::new();
        /// Whether clients may resume TLS sessions: `tickets`, or `off`. A resumed session needs no signatures; its client
        /// certificate is checked like that of a new one. Each node has its own ticket keys, in memory.
        pub(crate) resumption: Resumption = Resumption::Tickets;
        /// How long after a full handshake its session may be resumed. Ticket keys are replaced as often, and opened tickets for as
        /// long again.
        pub(crate) ticket_lifetime: HumanDuration = HumanDuration::secs(6 * 3600),
            in HumanDuration::secs(60)..=HumanDuration::secs(7 * 86_400) => "must be 60 s to 7 days";
        /// The CA that clients trust, for the connection file and the command line; the hub itself does not need it.
        pub(crate) ca_file: Option<PathBuf> = None;
        /// How often the certificate files are checked; changed ones count for later connections.
        pub(crate) reload_interval: HumanDuration = HumanDuration::secs(5),
            in HumanDuration::millis(100).. => "must be at least 100 ms";
    }
    check |tls| {
        tls.certificate_file.is_none() || tls.key_file.is_some() => certificate_file, ALONE;
        tls.key_file.is_none() || tls.certificate_file.is_some() => key_file, ALONE;
        tls.rsa_certificate_file.is_none() || tls.rsa_key_file.is_some() => rsa_certificate_file, ALONE;
        tls.rsa_key_file.is_none() || tls.rsa_certificate_file.is_some() => rsa_key_file, ALONE;
        tls.ocsp_file.is_none() || tls.certificate_file.is_some() => ocsp_file, "needs tls.certificate_file";
        tls.rsa_ocsp_file.is_none() || tls.rsa_certificate_file.is_some() => rsa_ocsp_file, "needs tls.rsa_certificate_file";
        bad_alternative(&tls.alternatives).is_none()
            => alternatives, bad_alternative(&tls.alternatives).unwrap_or_default();
        tls.alternatives().next().is_none() || tls.certificate_file.is_some() || tls.rsa_certificate_file.is_some()
            => alternatives, "needs tls.certificate_file: clients of other names, and without a name, get that one";
    }
}

/// A chain for the clients of one host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alternative {
    pub(crate) host: String,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl TlsConfig {
    /// The well-formed alternatives, in order.
    pub(crate) fn alternatives(&self) -> impl Iterator<Item = Alternative> {
        self.alternatives.iter().filter_map(|text| parse_alternative(text))
    }
}

fn parse_alternative(text: &str) -> Option<Alternative> {
    let (host, files) = text.split_once('=')?;
    let (certificate, key) = files.split_once(':')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let is_whole = !host.is_empty() && host.chars().all(is_name) && !certificate.is_empty() && !key.is_empty();
    is_whole.then(|| Alternative {
        host: host.to_ascii_lowercase(),
        certificate: certificate.into(),
        key: key.into(),
    })
}

fn bad_alternative(alternatives: &[String]) -> Option<String> {
    if alternatives.len() > MAX_ALTERNATIVES {
        return Some(format!(
            "must be at most {MAX_ALTERNATIVES}, found {}",
            alternatives.len()
        ));
    }
    let bad = alternatives.iter().find(|text| parse_alternative(text).is_none())?;
    Some(format!("must be HOST=CERTIFICATE_FILE:KEY_FILE, found {bad:?}"))
}

holdfast_config::section! {
    /// Revocation lists (CRLs) of the CAs of devices that the hub fetches itself; the leader of the registry does.
    pub(crate) struct CrlConfig = "crl" {
        /// Whose lists, and where they are: `["fleet=http://pki.example.com/fleet.crl"]`, with the hub's name of the CA; http or https,
        /// without redirections, at most 16 MiB within 60 s. The same on all nodes.
        pub(crate) sources: Vec<String> = Vec::new();
        /// How often they are fetched, give or take a tenth; after a failure earlier, from a minute on.
        pub(crate) fetch_interval: HumanDuration = HumanDuration::secs(3600),
            in HumanDuration::secs(60)..=HumanDuration::secs(7 * 86_400) => "must be 60 s to 7 days";
        /// The CAs that https addresses are checked with; those of the system when it is not set.
        pub(crate) ca_file: Option<PathBuf> = None;
    }
    check |crl| {
        bad_source(&crl.sources).is_none() => sources, bad_source(&crl.sources).unwrap_or_default();
    }
}

fn bad_source(sources: &[String]) -> Option<String> {
    sources
        .iter()
        .find_map(|source| crate::node::crl_fetch::parse_source(source).err())
}

holdfast_config::section! {
    /// The key that seals symmetric keys and policy keys before they reach the disk.
    pub(crate) struct SecretsConfig = "secrets" {
        /// A file of 64 hexadecimal digits, mode 0600; made at the first start when it is missing. Without it the
        /// stored keys cannot be read. Default: sealing.key in the data directory; keep it elsewhere, so that a stolen
        /// disk is not enough.
        pub(crate) key_file: Option<PathBuf> = None;
        /// The name of an environment variable with the 64 digits, instead of a file.
        pub(crate) key_variable: String = String::new();
        /// A program with its arguments that prints the 64 digits within 30 s, instead of a file.
        pub(crate) key_command: Vec<String> = Vec::new();
    }
}

holdfast_config::section! {
    /// Credentials of back ends.
    pub(crate) struct ServiceAuthConfig = "auth.service" {
        /// Whether tokens and keys of shared access policies open anything: REST, AMQP, and MQTT as any device. `false` needs
        /// `auth.oidc.issuer`; keys of devices and modules count in any case. The same on all nodes.
        pub(crate) shared_policies: bool = true;
    }
}

/// Why a missing certificate, key or CA of a node is refused.
const NEEDED: &str = "is needed with cluster.listen: nodes trust each other by certificate alone";

holdfast_config::section! {
    /// This node in its cluster. Without `listen` it is a hub by itself; it stores the same data.
    pub(crate) struct ClusterConfig = "cluster" {
        /// The node's name in status and commands, unique in the cluster. Default: the machine's host name.
        pub(crate) node_name: String = String::new();
        /// Where other nodes connect, such as `["0.0.0.0:9700"]`. Empty: no cluster.
        pub(crate) listen: Vec<SocketAddr> = Vec::new();
        /// The `host:port` under which other nodes reach this one; a DNS name survives a new IP. Default: cluster.listen.
        pub(crate) advertise: String = String::new();
        /// The failure zone (rack, room, availability zone): replicas of a partition are spread over zones.
        pub(crate) zone: String = String::new();
        /// `core`, or `gateway`: takes connections, holds no partitions. Of a node that joins.
        pub(crate) role: holdfast_registry::NodeRole = holdfast_registry::NodeRole::Core;
        /// The node's certificate towards other nodes, PEM; it must bear the DNS names peer.holdfast and
        /// NODE_NAME.peer.holdfast. Re-read when it changes.
        pub(crate) certificate_file: Option<PathBuf> = None;
        /// Its private key, PKCS #8.
        pub(crate) key_file: Option<PathBuf> = None;
        /// The CA that has issued the certificates of all nodes, and nothing else: the holder of such a certificate is
        /// trusted as a node.
        pub(crate) ca_file: Option<PathBuf> = None;
        /// A node without data creates the hub when no address of cluster.join answers. Without cluster.join it always
        /// does.
        pub(crate) bootstrap: bool = false;
        /// With bootstrap: the hub is created only once every address of cluster.join answers that it has no data either, never
        /// because of silence. A node that has lost its disk then cannot create a second hub while the others are not reached.
        pub(crate) bootstrap_with_all: bool = false;
        /// Addresses of members, such as `["node1:9700"]`: a node without data joins by any of them.
        pub(crate) join: Vec<String> = Vec::new();
        /// A file with the token that `holdfast node token` has printed; used once, to join.
        pub(crate) join_token_file: Option<PathBuf> = None;
        /// A gateway that stops in order leaves the cluster and deletes its data: for one that does not come back, or joins anew when
        /// it does. Its next start needs a new join token. Killed, it stays a member.
        pub(crate) leave_on_stop: bool = false;
        /// A file of join tokens, one a line of 64 hexadecimal digits, that a hub accepts from its creation on, once
        /// each and for 7 days: for nodes that are started together, before any token can be requested. A token followed by
        /// `gateway` admits a gateway.
        pub(crate) initial_tokens_file: Option<PathBuf> = None;
        /// How many replicas each partition has, 1 or 3, as far as there are nodes. Of a hub that is created.
        pub(crate) replication_factor: u16 = 3;
    }
    check |cluster| {
        is_node_name(&cluster.node_name) => node_name, node_name_rule();
        is_node_name(&cluster.zone) => zone, node_name_rule();
        matches!(cluster.replication_factor, 1 | 3)
            => replication_factor, format!("must be 1 or 3, found {}", cluster.replication_factor);
        cluster.is_on() || cluster.join.is_empty()
            => join, "needs cluster.listen: the others must reach this node too";
        !cluster.bootstrap_with_all || cluster.bootstrap && !cluster.join.is_empty()
            => bootstrap_with_all, "needs cluster.bootstrap, and the other nodes in cluster.join";
        !cluster.leave_on_stop || cluster.role == holdfast_registry::NodeRole::Gateway
            => leave_on_stop, "is for gateways: a core node holds data, which `holdfast node drain` moves first";
        !cluster.is_on() || cluster.certificate_file.is_some() => certificate_file, NEEDED;
        !cluster.is_on() || cluster.key_file.is_some() => key_file, NEEDED;
        !cluster.is_on() || cluster.ca_file.is_some() => ca_file, NEEDED;
        cluster.listen.len() <= 1 => listen, "must be one address";
        cluster.is_reachable() => advertise,
            "is needed when cluster.listen is an unspecified address: a name or IP that the others reach";
        !cluster.is_on() || bad_address(&cluster.join).is_none()
            => join, format!("must be host:port, found {:?}", bad_address(&cluster.join).unwrap_or_default());
        !cluster.is_on() || cluster.advertise.is_empty() || is_host_and_port(&cluster.advertise)
            => advertise, format!("must be host:port, found {:?}", cluster.advertise);
    }
}

impl ClusterConfig {
    /// Whether this node takes part in a cluster; otherwise it is a hub by itself.
    pub(crate) fn is_on(&self) -> bool {
        !self.listen.is_empty()
    }

    /// Whether the advertised address reaches this node.
    fn is_reachable(&self) -> bool {
        let is_specified = |address: &SocketAddr| !address.ip().is_unspecified();
        !self.is_on() || !self.advertise.is_empty() || self.listen.iter().any(is_specified)
    }

    /// The node's name: the configured one, else the machine's.
    pub(crate) fn name(&self) -> String {
        if !self.node_name.is_empty() {
            return self.node_name.clone();
        }
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name: String = (machine.chars().filter(|c| is_name_character(*c)))
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
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._".contains(c)
}

fn is_node_name(name: &str) -> bool {
    name.len() <= MAX_NODE_NAME && name.chars().all(is_name_character)
}

fn node_name_rule() -> String {
    format!("must be at most {MAX_NODE_NAME} ASCII letters, digits and - . _")
}

fn is_host_and_port(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn bad_address(addresses: &[String]) -> Option<&str> {
    let bad = addresses.iter().find(|address| !is_host_and_port(address));
    bad.map(String::as_str)
}

holdfast_config::section! {
    /// Metrics, health checks and stopping.
    pub(crate) struct OpsConfig = "ops" {
        /// Where /metrics, /livez and /readyz are served, without authentication.
        pub(crate) listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9600));
        /// How long a stopping hub waits for messages in flight before it closes the sessions.
        pub(crate) drain_timeout: std::time::Duration = std::time::Duration::from_secs(20);
    }
}

holdfast_config::section! {
    /// Backups that the hub makes by itself, and how `holdfast backup` and `holdfast restore` reach an object store. The same on all nodes.
    pub(crate) struct BackupConfig = "backup" {
        /// Where backups go: s3://BUCKET/PREFIX, azure://ACCOUNT/CONTAINER/PREFIX, or a folder; where there are several core nodes, a folder that all of them
        /// have mounted.
        pub(crate) target: String = String::new();
        /// When: a time of the day in UTC, as "02:30", or the time between two, as "6h". Empty: the hub makes none.
        /// The leader of the registry makes it.
        pub(crate) schedule: String = String::new();
        /// With the events.
        pub(crate) with_log: bool = true;
        /// How often the registry is kept between two backups, if it has changed, for `holdfast restore --at`. 0s: never.
        pub(crate) registry_interval: HumanDuration = HumanDuration::secs(0);
        /// How many of the newest backups stay.
        pub(crate) keep: usize = 14, in 1..=100_000 => "must be 1 to 100000";
        /// Backups of so many days stay as well.
        pub(crate) keep_days: u32 = 0, in 0..=36_500 => "must be at most 36500";
        /// The URL of the object store's service, https or http; of an emulator of Azure with its account as path. Default: AWS in the region, or Azure.
        pub(crate) endpoint: String = String::new();
        /// The region that requests to S3 are signed for.
        pub(crate) region: String = "us-east-1".to_owned();
        /// Whether the bucket of S3 is the first label of the host's name; otherwise it is the first segment of the path.
        pub(crate) virtual_hosted: bool = false;
        /// A file, mode 0600. S3: two lines, the access key's id and the secret access key, and a session token as a third one. Azure: the account's
        /// key. Default: the environment's credentials (those of `s3.credentials_file`; for Azure AZURE_STORAGE_ACCOUNT_KEY,
        /// AZURE_STORAGE_SAS_TOKEN, or AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE).
        pub(crate) credentials_file: Option<PathBuf> = None;
        /// Whether the metadata service of the machine gives the credentials, where nothing else does.
        pub(crate) instance_credentials: bool = false;
        /// The CA of the service's certificate, PEM. Default: the system's list.
        pub(crate) ca_file: Option<PathBuf> = None;
        /// How long one request may take; an object has at most 36 MiB.
        pub(crate) request_timeout: HumanDuration = HumanDuration::secs(60),
            in HumanDuration::secs(1)..=HumanDuration::secs(3600) => "must be 1 s to 1 h";
    }
    check |backup| {
        RemotePlace::parse(&backup.target).is_ok() => target, InvalidPlace.to_string();
        backup.schedule.is_empty() || backup.schedule.parse::<Schedule>().is_ok() => schedule, InvalidSchedule.to_string();
        backup.schedule.is_empty() || !backup.target.is_empty() => schedule, "needs backup.target";
        backup.registry_interval.get().is_zero() || backup.registry_interval.get() >= MIN_INTERVAL
            => registry_interval, "must be 0s or at least 1m";
        backup.registry_interval.get().is_zero() || !backup.schedule.is_empty()
            => registry_interval, "needs backup.schedule: the registry is kept between two backups";
        backup.endpoint.is_empty() || holdfast_blob::is_remote_endpoint(&backup.endpoint)
            => endpoint, "must be a URL with http or https and a host";
    }
}

impl BackupConfig {
    /// How its object store is reached.
    pub(crate) fn access(&self) -> RemoteAccess {
        RemoteAccess {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            virtual_hosted: self.virtual_hosted,
            credentials_file: self.credentials_file.clone(),
            instance_credentials: self.instance_credentials,
            ca_file: self.ca_file.clone(),
            request_timeout: self.request_timeout,
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

impl Choice for LogFormat {
    const NAMES: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

holdfast_config::section! {
    /// The log on standard error. It never holds keys, tokens or message bodies.
    pub(crate) struct LogConfig = "log" {
        /// `text` for people, `json` for collectors.
        pub(crate) format: LogFormat = LogFormat::Text;
        /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,holdfast_gateway=debug`.
        pub(crate) level: String = "info".to_owned();
    }
    check |log| {
        filter_fault(&log.level).is_none() => level, filter_fault(&log.level).unwrap_or_default();
    }
}

fn filter_fault(level: &str) -> Option<String> {
    let fault = EnvFilter::try_new(level).err()?;
    Some(format!("is no level or filter: {fault}"))
}

holdfast_config::section! {
    /// Refusals and registry writes as JSON lines.
    pub(crate) struct AuditConfig = "audit" {
        /// The audit log's file. Default: audit.jsonl in the data directory.
        pub(crate) file: Option<PathBuf> = None;
        /// The file is rotated to audit.jsonl.1 and so on when it reaches this size.
        pub(crate) max_file_size: ByteSize = ByteSize::mib(64);
        /// How many files are kept, the current one included.
        pub(crate) max_files: u16 = 4, in 1.. => "must be at least 1";
    }
}
