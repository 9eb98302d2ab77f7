//! The table of all configuration keys. A key that is not here does not exist.

use super::key::Key;

/// Sections in the order in which they are shown, with what they are about.
pub(crate) const SECTIONS: &[(&str, &str)] = &[
    (
        "hub",
        "The hub's names, the place of its data, and its share of the machine.",
    ),
    (
        "listen",
        "Where the hub listens. Plain `mqtt` and `amqp` carry keys in clear: loopback only, or behind TLS.",
    ),
    ("tls", "Server certificates, PEM. A leaf first, then its intermediates."),
    (
        "secrets",
        "The key that seals symmetric keys and policy keys before they reach the disk.",
    ),
    (
        "cluster",
        "This node in its cluster. Without `listen` it is a hub by itself; it stores the same data.",
    ),
    ("ops", "Metrics, health checks and stopping."),
    (
        "log",
        "The log on standard error. It never holds keys, tokens or message bodies.",
    ),
    ("audit", "Refusals and registry writes as JSON lines."),
    ("storage", "The database: free space, memory and files."),
    ("consensus", "Timers and memory of the replicated logs."),
    ("registry", "Identities and settings on this node."),
    (
        "partition",
        "The telemetry log: how long events are kept, and what reading them may cost.",
    ),
    (
        "device_hub",
        "Messages and sessions between devices and the log, and the audit of refusals.",
    ),
    ("net", "Connections before they have authenticated."),
    ("mqtt", "MQTT connections of devices."),
    ("events", "The Event-Hubs-compatible endpoint."),
    ("rest", "The REST service API."),
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
        Key::new(
            "hub.data_dir",
            "The directory that holds everything the hub stores.",
            |c| &mut c.hub.data_dir,
        ),
        Key::new(
            "hub.connection_file",
            "Where to write connection strings, CA and ports as JSON (mode 0600) once the hub is ready. Holds the \
             policies' keys in clear; leave it unset where it is not needed.",
            |c| &mut c.hub.connection_file,
        ),
        Key::new(
            "hub.cores",
            "How many single-threaded core runtimes to run; 0 means one per two CPUs.",
            |c| &mut c.hub.cores,
        ),
        Key::new(
            "hub.partitions",
            "How many partitions the telemetry log has, 4 to 128. Fixed when the data directory is created.",
            |c| &mut c.hub.partitions,
        ),
        Key::new("listen.mqtts", "MQTT over TLS.", |c| &mut c.listen.mqtts),
        Key::new("listen.amqps", "AMQP 1.0 over TLS.", |c| &mut c.listen.amqps),
        Key::new("listen.https", "HTTPS, and MQTT and AMQP over WebSockets.", |c| {
            &mut c.listen.https
        }),
        Key::new("listen.mqtt", "MQTT without TLS.", |c| &mut c.listen.mqtt),
        Key::new("listen.amqp", "AMQP 1.0 without TLS.", |c| &mut c.listen.amqp),
        Key::new(
            "tls.certificate_file",
            "The server certificate that most clients get; ECDSA P-256 is the fast choice. Needed by every TLS listener.",
            |c| &mut c.tls.certificate_file,
        ),
        Key::new(
            "tls.key_file",
            "Its private key, PKCS #8, readable by the hub alone.",
            |c| &mut c.tls.key_file,
        ),
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
            "tls.reload_interval",
            "How often the certificate files are checked; changed ones count for later connections.",
            |c| &mut c.tls.reload_interval,
        ),
        Key::new(
            "secrets.key_file",
            "A file of 64 hexadecimal digits, mode 0600; made at the first start when it is missing. Without it the \
             stored keys cannot be read. Default: sealing.key in the data directory; keep it elsewhere, so that a stolen \
             disk is not enough.",
            |c| &mut c.secrets.key_file,
        ),
        Key::new(
            "cluster.node_name",
            "The node's name in status and commands, unique in the cluster. Default: the machine's host name.",
            |c| &mut c.cluster.node_name,
        ),
        Key::new(
            "cluster.listen",
            "Where other nodes connect, such as `[\"0.0.0.0:9700\"]`. Empty: no cluster.",
            |c| &mut c.cluster.listen,
        ),
        Key::new(
            "cluster.advertise",
            "The `host:port` under which other nodes reach this one; a DNS name survives a new IP. Default: cluster.listen.",
            |c| &mut c.cluster.advertise,
        ),
        Key::new(
            "cluster.zone",
            "The failure zone (rack, room, availability zone): replicas of a partition are spread over zones.",
            |c| &mut c.cluster.zone,
        ),
        Key::new(
            "cluster.role",
            "`core`, or `gateway`: takes connections, holds no partitions. Of a node that joins.",
            |c| &mut c.cluster.role,
        ),
        Key::new(
            "cluster.certificate_file",
            "The node's certificate towards other nodes, PEM; it must bear the DNS names peer.holdfast and NODE_NAME.peer.holdfast. Re-read when it changes.",
            |c| &mut c.cluster.certificate_file,
        ),
        Key::new("cluster.key_file", "Its private key, PKCS #8.", |c| {
            &mut c.cluster.key_file
        }),
        Key::new(
            "cluster.ca_file",
            "The CA that has issued the certificates of all nodes, and nothing else: the holder of such a certificate is trusted as a node.",
            |c| &mut c.cluster.ca_file,
        ),
        Key::new(
            "cluster.bootstrap",
            "A node without data creates the hub when no address of cluster.join answers. Without cluster.join it always does.",
            |c| &mut c.cluster.bootstrap,
        ),
        Key::new(
            "cluster.join",
            "Addresses of members, such as `[\"node1:9700\"]`: a node without data joins by any of them.",
            |c| &mut c.cluster.join,
        ),
        Key::new(
            "cluster.join_token_file",
            "A file with the token that `holdfast node token` has printed; used once, to join.",
            |c| &mut c.cluster.join_token_file,
        ),
        Key::new(
            "cluster.initial_tokens_file",
            "A file of join tokens, one a line of 64 hexadecimal digits, that a hub accepts from its creation on, once \
             each and for 7 days: for nodes that are started together, before any token can be requested.",
            |c| &mut c.cluster.initial_tokens_file,
        ),
        Key::new(
            "cluster.tick",
            "How often members, placements and leaders are checked without a change.",
            |c| &mut c.control.tick,
        ),
        Key::new(
            "cluster.settle",
            "How long a node must have been up before the leaderships that it prefers move back to it.",
            |c| &mut c.control.settle,
        ),
        Key::new(
            "cluster.voter_patience",
            "How long a voter of the registry may be down before another core node, if there is one, votes in its place.",
            |c| &mut c.control.voter_patience,
        ),
        Key::new(
            "cluster.max_lag",
            "How many entries a replica may be behind and still count as caught up.",
            |c| &mut c.control.max_lag,
        ),
        Key::bytes(
            "cluster.queue",
            "The most bytes of calls to one node that wait to be sent; a call beyond is refused at once.",
            |c| &mut c.peers.queue_bytes,
        ),
        Key::bytes(
            "cluster.under_way",
            "The most bytes of calls of one node for one service that are executed at once; one beyond is refused.",
            |c| &mut c.peers.under_way_bytes,
        ),
        Key::new(
            "cluster.streams",
            "The most uploads and downloads (snapshots, remote readers) towards one node at once.",
            |c| &mut c.peers.streams,
        ),
        Key::new(
            "cluster.handshakes",
            "The most connections of nodes that have not authenticated yet; one beyond is closed.",
            |c| &mut c.peers.handshakes,
        ),
        Key::new("cluster.ping_interval", "How often a connected node is pinged.", |c| {
            &mut c.peers.ping_interval
        }),
        Key::new(
            "cluster.silence",
            "A node that has not been heard for so long is no longer connected: calls to it end, and fail at once.",
            |c| &mut c.peers.silence,
        ),
        Key::new(
            "cluster.connect_timeout",
            "How long it may take to be connected to a node: TCP, TLS and hello.",
            |c| &mut c.peers.connect_timeout,
        ),
        Key::new(
            "cluster.retry_pause",
            "The longest backoff between two attempts to connect to a node.",
            |c| &mut c.peers.retry_pause,
        ),
        Key::new(
            "cluster.reload_interval",
            "How often the files of cluster.certificate_file, key_file and ca_file are checked.",
            |c| &mut c.peers.reload_interval,
        ),
        Key::new(
            "cluster.accept_unnamed_certificates",
            "Accept certificates that do not name their node. The holder of one may then claim to be any node.",
            |c| &mut c.peers.accept_unnamed,
        ),
        Key::new(
            "cluster.replication_factor",
            "How many replicas each partition has, 1 or 3, as far as there are nodes. Of a hub that is created.",
            |c| &mut c.cluster.replication_factor,
        ),
        Key::new(
            "ops.listen",
            "Where /metrics, /livez and /readyz are served, without authentication.",
            |c| &mut c.ops.listen,
        ),
        Key::new(
            "ops.drain_timeout",
            "How long a stopping hub waits for messages in flight before it closes the sessions.",
            |c| &mut c.ops.drain_timeout,
        ),
        Key::new("log.format", "`text` for people, `json` for collectors.", |c| {
            &mut c.log.format
        }),
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
            "How often a leader sends heartbeats to its followers.",
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
            "Entries of one group that are proposed and not yet applied; further proposals wait.",
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
            "How many changes a subscriber of the change feed may be behind before it is told to read \
             everything again.",
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
        Key::new(
            "partition.retention",
            "How long events stay readable. Removed are whole stretches of the log that are older.",
            |c| &mut c.partition.retention,
        ),
        Key::new(
            "partition.retention_size",
            "The most bytes of events that a partition keeps; the oldest go first. 0B: no limit but the disk.",
            |c| &mut c.partition.retention_size,
        ),
        Key::new("partition.retention_interval", "How often retention is applied.", |c| {
            &mut c.partition.retention_interval
        }),
        Key::new(
            "partition.reclaim_step",
            "Disk space is given back when at least this much can go at once: it is done by deleting whole files.",
            |c| &mut c.partition.reclaim_step,
        ),
        Key::new(
            "partition.tail_cache",
            "Memory for the newest events of a partition, from which readers at its end are served.",
            |c| &mut c.partition.tail_cache,
        ),
        Key::new(
            "partition.device_state_cache",
            "Memory for the most recently used device state of a partition.",
            |c| &mut c.partition.device_state_cache,
        ),
        Key::new(
            "partition.read_ahead",
            "How much a reader that is behind reads from disk at once; it holds up to twice that in memory.",
            |c| &mut c.partition.read_ahead,
        ),
        Key::new(
            "partition.index_spacing",
            "Bytes of log between two points of the index. Smaller finds a start position faster and takes more memory.",
            |c| &mut c.partition.index_spacing,
        ),
        Key::new(
            "partition.index_spacing_entries",
            "The most log entries between two points of the index.",
            |c| &mut c.partition.index_spacing_entries,
        ),
        Key::new(
            "partition.state_interval",
            "After how many bytes of applied log the partition's state is stored anew; as much is replayed after a crash.",
            |c| &mut c.partition.state_interval,
        ),
        Key::bytes(
            "device_hub.max_unacknowledged",
            "Bytes of messages of one core that may wait for their commit before connections stop being read; beyond it each partition may hold one batch.",
            |c| &mut c.device_hub.max_unacknowledged_bytes,
        ),
        Key::bytes(
            "device_hub.max_batch",
            "Bytes after which a batch is closed even though its round goes on; one batch is one entry of the log.",
            |c| &mut c.device_hub.max_batch_bytes,
        ),
        Key::new(
            "device_hub.max_refusal_identities",
            "Identities whose last refusals are remembered for `holdfast device diagnose`.",
            |c| &mut c.device_hub.max_refusal_identities,
        ),
        Key::new(
            "device_hub.max_audit_refusals_per_second",
            "Audit records of refusals that are written per second; more are counted, not written.",
            |c| &mut c.device_hub.max_audit_refusals_per_second,
        ),
        Key::new(
            "device_hub.max_waiting_connects",
            "Connections of a node that may wait for the registry's lease, for the owner of their partition or for the end of \
             an older session; more are told to come again. At most 15360: the renewals of the other sessions share the \
             same queue.",
            |c| &mut c.device_hub.max_waiting_connects,
        ),
        Key::new(
            "device_hub.drain_rate",
            "Sessions closed per second when the node drains, stops, or has been cut off for registry.session_grace; more when \
             it stops and ops.drain_timeout would not be enough for all.",
            |c| &mut c.device_hub.drain_rate,
        ),
        Key::new(
            "net.handshake_timeout",
            "Time from accepting a connection to the end of its TLS handshake, and, for HTTP, of each request's head.",
            |c| &mut c.net.handshake_timeout,
        ),
        Key::new(
            "net.max_unauthenticated",
            "TLS handshakes of AMQP and HTTPS that one core has under way; a connection beyond that is dropped.",
            |c| &mut c.net.max_unauthenticated,
        ),
        Key::new(
            "net.accept_backlog",
            "Length of the kernel's accept queue of each listener.",
            |c| &mut c.net.accept_backlog,
        ),
        Key::new(
            "net.user_timeout",
            "How long sent data may stay unacknowledged by the peer's kernel before the connection is dropped.",
            |c| &mut c.net.user_timeout,
        ),
        Key::new(
            "mqtt.connect_timeout",
            "Time from accepting a connection to its complete CONNECT.",
            |c| &mut c.mqtt.connect_timeout,
        ),
        Key::new(
            "mqtt.max_unauthenticated",
            "Connections of one core that have not authenticated yet; past it the one that has waited longest is closed.",
            |c| &mut c.mqtt.max_unauthenticated,
        ),
        Key::bytes(
            "mqtt.max_output",
            "Bytes that wait to be written to one device; a device that lets more pile up is closed.",
            |c| &mut c.mqtt.max_output_bytes,
        ),
        Key::new(
            "mqtt.expiry_jitter",
            "Upper end of the random time after a token's expiry at which its connection is closed.",
            |c| &mut c.mqtt.expiry_jitter,
        ),
        Key::bytes(
            "events.output",
            "Bytes of events that wait to be written to one connection; a reader that is slower is served from the log later.",
            |c| &mut c.events.output_bytes,
        ),
        Key::new(
            "events.max_unauthenticated",
            "AMQP connections of one core that have not authenticated yet; past it the one that has waited longest is closed.",
            |c| &mut c.events.max_unauthenticated,
        ),
        Key::new(
            "events.unauthenticated_timeout",
            "How long an AMQP connection may stay open without any authenticated identity.",
            |c| &mut c.events.unauthenticated_timeout,
        ),
        Key::new(
            "events.confirm_timeout",
            "How long the registry's leader may take to confirm a refusal before the client is told to come again.",
            |c| &mut c.events.confirm_timeout,
        ),
        Key::new(
            "events.redirect",
            "Whether links under messages/events are redirected to the hub's name, as Azure does, instead of being served.",
            |c| &mut c.events.redirect,
        ),
        Key::new(
            "events.redirect_port",
            "The port that redirected readers are sent to.",
            |c| &mut c.events.redirect_port,
        ),
        Key::new(
            "rest.request_timeout",
            "How long a call may wait for the registry before it is answered with 503.",
            |c| &mut c.rest.request_timeout,
        ),
        Key::new(
            "rest.body_timeout",
            "How long a request's body may take to arrive.",
            |c| &mut c.rest.body_timeout,
        ),
        Key::new(
            "rest.max_requests",
            "How many calls may be under way at once on this node; more are answered with 503.",
            |c| &mut c.rest.max_requests,
        ),
        Key::new(
            "rest.max_body_bytes",
            "How many bytes of bodies may be held at once on this node; more calls are answered with 503.",
            |c| &mut c.rest.max_body_bytes,
        ),
    ]
}
