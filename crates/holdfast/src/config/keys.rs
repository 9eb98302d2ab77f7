//! The table of all configuration keys. A key that is not here does not exist.

use super::key::Key;

/// Sections in the order in which they are shown, with what they are about.
pub(crate) const SECTIONS: &[(&str, &str)] = &[
    ("hub", "What the hub is called, where it keeps its data, and how much of the machine it uses."),
    ("listen", "Where the hub listens. Plain `mqtt` and `amqp` carry keys in clear: loopback only, or behind TLS."),
    ("tls", "Server certificates, PEM. A leaf first, then its intermediates."),
    ("secrets", "The key that seals symmetric keys and policy keys before they reach the disk."),
    ("ops", "Metrics, health checks and stopping."),
    ("log", "The log on standard error. It never holds keys, tokens or message bodies."),
    ("audit", "Refusals and registry writes as JSON lines."),
    ("storage", "The database: free space, memory and files."),
    ("consensus", "Timers and memory of the replicated logs."),
    ("registry", "Identities and settings on this node."),
];

/// All keys, section by section.
pub(crate) fn keys() -> Vec<Key> {
    vec![
        Key::new(
            "hub.host",
            "The host name that devices and back ends use; in tokens, connection strings and certificates. The first \
             label is the hub's name and the Event Hubs entity path.",
            |c| &mut c.hub.host,
        ),
        Key::new(
            "hub.aliases",
            "Other names under which tokens may address this hub.",
            |c| &mut c.hub.aliases,
        ),
        Key::new("hub.data_dir", "The directory that holds everything the hub stores.", |c| &mut c.hub.data_dir),
        Key::new(
            "hub.connection_file",
            "Where to write connection strings, CA and ports as JSON (mode 0600) once the hub is ready. Holds the \
             policies' keys in clear; leave it unset where nobody needs it.",
            |c| &mut c.hub.connection_file,
        ),
        Key::new(
            "hub.cores",
            "How many single-threaded core runtimes to run; 0 means one per CPU.",
            |c| &mut c.hub.cores,
        ),
        Key::new(
            "hub.partitions",
            "How many partitions the telemetry log has, 4 to 128. Fixed when the data directory is created.",
            |c| &mut c.hub.partitions,
        ),
        Key::new("listen.mqtts", "MQTT over TLS.", |c| &mut c.listen.mqtts),
        Key::new("listen.amqps", "AMQP 1.0 over TLS.", |c| &mut c.listen.amqps),
        Key::new(
            "listen.https",
            "HTTPS, and MQTT and AMQP over WebSockets.",
            |c| &mut c.listen.https,
        ),
        Key::new("listen.mqtt", "MQTT without TLS.", |c| &mut c.listen.mqtt),
        Key::new("listen.amqp", "AMQP 1.0 without TLS.", |c| &mut c.listen.amqp),
        Key::new(
            "tls.certificate_file",
            "The server certificate that most clients get; ECDSA P-256 is the fast choice. Needed by every TLS listener.",
            |c| &mut c.tls.certificate_file,
        ),
        Key::new("tls.key_file", "Its private key, PKCS #8, readable by the hub alone.", |c| &mut c.tls.key_file),
        Key::new(
            "tls.rsa_certificate_file",
            "An RSA certificate for clients that cannot do ECDSA.",
            |c| &mut c.tls.rsa_certificate_file,
        ),
        Key::new("tls.rsa_key_file", "Its private key.", |c| &mut c.tls.rsa_key_file),
        Key::new(
            "tls.ca_file",
            "The CA that clients trust, for the connection file and the command line; the hub itself does not need it.",
            |c| &mut c.tls.ca_file,
        ),
        Key::new(
            "secrets.key_file",
            "A file of 64 hexadecimal digits, mode 0600; made at the first start when it is missing. Without it the \
             stored keys cannot be read. Default: sealing.key in the data directory; keep it elsewhere, so that a stolen \
             disk is not enough.",
            |c| &mut c.secrets.key_file,
        ),
        Key::new(
            "ops.listen",
            "Where /metrics, /livez and /readyz are served, without authentication.",
            |c| &mut c.ops.listen,
        ),
        Key::new(
            "ops.drain_timeout",
            "How long a stopping hub waits for what is under way before it closes the sessions.",
            |c| &mut c.ops.drain_timeout,
        ),
        Key::new("log.format", "`text` for people, `json` for collectors.", |c| &mut c.log.format),
        Key::new(
            "log.level",
            "`error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,holdfast_gateway=debug`.",
            |c| &mut c.log.level,
        ),
        Key::new(
            "audit.file",
            "The audit log's file. Default: audit.jsonl in the data directory.",
            |c| &mut c.audit.file,
        ),
        Key::bytes(
            "audit.max_file_size",
            "The file is rotated to audit.jsonl.1 and so on when it reaches this size.",
            |c| &mut c.audit.max_file_size,
        ),
        Key::new(
            "audit.max_files",
            "How many files are kept, the current one included.",
            |c| &mut c.audit.max_files,
        ),
        Key::new(
            "storage.min_free",
            "Below this much free space telemetry and registry writes are refused (error 503005) until there is more.",
            |c| &mut c.storage.min_free,
        ),
        Key::new(
            "storage.min_free_percent",
            "The same as a share of the file system, in percent; the larger of the two counts.",
            |c| &mut c.storage.min_free_percent,
        ),
        Key::new(
            "storage.write_buffer",
            "Memory for writes that are not yet in files, for the whole database. More means fewer, larger files.",
            |c| &mut c.storage.write_buffer,
        ),
        Key::new(
            "storage.max_replay",
            "The most that is read back from the write-ahead log after a crash.",
            |c| &mut c.storage.max_replay,
        ),
        Key::new(
            "storage.block_cache",
            "Memory for blocks that were read from files.",
            |c| &mut c.storage.block_cache,
        ),
        Key::new(
            "storage.max_open_files",
            "The most files that the database holds open. Connections need file handles too.",
            |c| &mut c.storage.max_open_files,
        ),
        Key::new(
            "storage.background_jobs",
            "Threads that write and merge files in the background.",
            |c| &mut c.storage.background_jobs,
        ),
        Key::new(
            "consensus.heartbeat",
            "How often a leader tells its followers that it lives.",
            |c| &mut c.consensus.heartbeat,
        ),
        Key::new(
            "consensus.election_timeout_min",
            "The shortest silence after which a follower stands for election.",
            |c| &mut c.consensus.election_timeout_min,
        ),
        Key::new(
            "consensus.election_timeout_max",
            "The longest; each time one between the two is drawn. Also the leader's lease.",
            |c| &mut c.consensus.election_timeout_max,
        ),
        Key::new(
            "consensus.max_in_flight",
            "Entries of one group that are proposed and not yet applied; who proposes more waits.",
            |c| &mut c.consensus.max_in_flight,
        ),
        Key::new(
            "consensus.tail_cache",
            "Recent entries of one group that are kept in memory until they are applied.",
            |c| &mut c.consensus.tail_cache,
        ),
        Key::new(
            "registry.max_staleness",
            "How old the local replica may be when it accepts a credential, and so how long a revocation may take to \
             reach every node.",
            |c| &mut c.registry.max_staleness,
        ),
        Key::new(
            "registry.session_grace",
            "How long a node whose replica cannot be confirmed keeps the sessions that it has, before it closes them.",
            |c| &mut c.registry.session_grace,
        ),
        Key::new(
            "registry.identity_cache",
            "How many devices are kept in memory with their modules and opened keys for credential checks. A miss costs \
             one read of the local replica (some microseconds).",
            |c| &mut c.registry.identity_cache,
        ),
        Key::new(
            "registry.change_feed",
            "How many changes a subscriber of the change feed may be behind before it is told to look again at \
             everything.",
            |c| &mut c.registry.change_feed,
        ),
        Key::new(
            "registry.max_waiting_confirms",
            "How many callers may wait for a confirmation of the replica at once; more are told that the hub is busy.",
            |c| &mut c.registry.max_waiting_confirms,
        ),
        Key::new(
            "registry.max_writes",
            "How many writes may be under way at once; more are told that the hub is busy.",
            |c| &mut c.registry.max_writes,
        ),
    ]
}
