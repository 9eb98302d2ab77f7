//! Every limit of the wire and of the data model: one constant each, with its unit, source and reason.
//!
//! Why: a limit that is written in two places soon has two values. Relations between limits are asserted at compile time.
//! Sources are sections of the Spec; *ours* marks a decision of this project.
//! Not here: rates and quotas (configuration), sizes of queues and caches (the crate that owns them).

use std::time::Duration;

/// One KiB in bytes.
const KIB: usize = 1024;

// Identities (auth-and-limits §9.2, rest §2.1).

/// Longest device or module id, in characters of one byte each.
pub const MAX_ID_CHARS: usize = 128;
/// Most devices and modules of one hub, by default.
pub const MAX_IDENTITIES: u64 = 1_000_000;
/// Most modules of one device.
pub const MAX_MODULES_PER_DEVICE: usize = 50;
/// Most devices that one list call returns.
pub const MAX_LIST_DEVICES: usize = 1000;
/// Most entries of one bulk registry call.
pub const MAX_BULK_IDENTITIES: usize = 100;
/// Longest `statusReason`, in characters.
pub const MAX_STATUS_REASON_CHARS: usize = 128;
/// Shortest symmetric key, in decoded bytes.
pub const MIN_SYMMETRIC_KEY_BYTES: usize = 16;
/// Longest symmetric key, in decoded bytes.
pub const MAX_SYMMETRIC_KEY_BYTES: usize = 64;
/// Length of a generated symmetric key, in bytes.
pub const GENERATED_KEY_BYTES: usize = 32;
/// Deepest chain of edge parents (rest §2.1, ours).
pub const MAX_SCOPE_DEPTH: usize = 5;

// Hub settings (auth-and-limits §2, §9.2).

/// Most shared access policies of a hub.
pub const MAX_POLICIES: usize = 16;
/// Most policies with the right ServiceConnect among them.
pub const MAX_SERVICE_CONNECT_POLICIES: usize = 10;
/// Longest bearer token, in bytes (ours): a token with some hundred groups has about 8 KiB.
pub const MAX_BEARER_TOKEN_BYTES: usize = 16 * 1024;
/// Longest name of a policy, in bytes (ours).
pub const MAX_POLICY_NAME_BYTES: usize = 64;
/// Fewest partitions of a hub.
pub const MIN_PARTITIONS: u16 = 4;
/// Most partitions of a hub.
pub const MAX_PARTITIONS: u16 = 128;
/// Most consumer groups of the built-in endpoint, `$Default` included.
pub const MAX_CONSUMER_GROUPS: usize = 20;
/// Longest name of a consumer group, in characters.
pub const MAX_CONSUMER_GROUP_CHARS: usize = 50;
/// Most saved queries.
pub const MAX_SAVED_QUERIES: usize = 100;
/// Longest name of a saved query, in characters.
pub const MAX_SAVED_QUERY_NAME_CHARS: usize = 50;
/// Longest text of a saved query, in bytes: the characters of a query (Spec query-and-routing §3.5), four bytes each.
pub const MAX_SAVED_QUERY_BYTES: usize = 4 * 8192;
/// Longest description of a saved query, in characters.
pub const MAX_SAVED_QUERY_DESCRIPTION_CHARS: usize = 512;
/// Shortest retention of events (1 day).
pub const MIN_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Longest retention of events (7 days).
pub const MAX_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

// Direct methods (auth-and-limits §9.2, rest §4).

/// Longest name of a method, in characters (ours).
pub const MAX_METHOD_NAME_CHARS: usize = 100;
/// Largest payload of a method's request, and of its answer.
pub const MAX_METHOD_PAYLOAD_BYTES: usize = 128 * KIB;
/// Shortest time that a device may be given to answer.
pub const MIN_METHOD_RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that a device may be given to connect, and to answer.
pub const MAX_METHOD_TIMEOUT: Duration = Duration::from_secs(300);

// Cloud-to-device messages (auth-and-limits §9.2, device-mqtt §6).

/// Largest cloud-to-device message, properties included, in bytes.
pub const MAX_CLOUD_MESSAGE_BYTES: usize = 64 * KIB;
/// Most messages in the queue of one device.
pub const MAX_CLOUD_QUEUE: usize = 50;
/// Longest time that a message may wait for its device; a later expiry counts as this one.
pub const MAX_CLOUD_MESSAGE_TTL: Duration = Duration::from_secs(2 * 24 * 3600);
/// Dead letters that are kept of one device, the latest ones (ours).
pub const MAX_DEAD_LETTERS: usize = 50;
/// Feedback records of one device that are kept until a back end accepts them, the latest ones (ours).
pub const MAX_DEVICE_FEEDBACK: usize = 64;
/// Most records of one feedback message (amqp §7).
pub const MAX_FEEDBACK_BATCH: usize = 64;
/// How long feedback is kept for a back end.
pub const FEEDBACK_TTL: Duration = Duration::from_secs(2 * 24 * 3600);
/// How long a back end may take to settle feedback before another one gets it.
pub const FEEDBACK_LOCK: Duration = Duration::from_secs(60);

// File upload (rest §5, auth-and-limits §9.2).

/// Most uploads of one device that are begun and neither reported nor expired.
pub const MAX_DEVICE_UPLOADS: usize = 10;
/// Notifications about uploads of one device that are kept until a back end accepts them, the latest ones (ours).
pub const MAX_DEVICE_NOTIFICATIONS: usize = 64;
/// Longest name of a blob as a device gives it, in characters.
pub const MAX_BLOB_NAME_CHARS: usize = 1024;
/// Most segments of it.
pub const MAX_BLOB_NAME_SEGMENTS: usize = 254;

// The embedded blob endpoint: the limits of Azure's block blobs.

/// Largest blob that is written by one request.
pub const MAX_BLOB_PUT_BYTES: u64 = 5000 * 1024 * 1024;
/// Largest block.
pub const MAX_BLOB_BLOCK_BYTES: u64 = 4000 * 1024 * 1024;
/// Longest id of a block, decoded.
pub const MAX_BLOB_BLOCK_ID_BYTES: usize = 64;
/// Most blocks of a blob, and as many uncommitted ones.
pub const MAX_BLOB_BLOCKS: usize = 50_000;
/// Names and values of a blob's metadata together.
pub const MAX_BLOB_METADATA_BYTES: usize = 8 * KIB;

// Shared access signatures (auth-and-limits §1).

/// How long after `se` a token still counts, for clocks that differ (§1.3).
pub const SAS_CLOCK_SKEW: Duration = Duration::from_secs(300);
/// Longest token that is parsed, in bytes (ours; real ones are below 1 KiB).
pub const MAX_SAS_TOKEN_BYTES: usize = 4 * KIB;
/// Most fields of a token that are parsed, unknown ones included (ours).
pub const MAX_SAS_FIELDS: usize = 16;
/// Lifetime of a token that the SDKs make by themselves.
pub const SAS_DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);
/// Longest connection string that is parsed, in bytes (ours).
pub const MAX_CONNECTION_STRING_BYTES: usize = 4 * KIB;

// Certificates (auth-and-limits §3; ours).

/// Most certificates of a client's chain; an operating PKI has three or four levels.
pub const MAX_CHAIN_CERTIFICATES: usize = 10;
/// Largest chain of a client, in bytes. rustls itself takes no handshake message beyond 64 KiB.
pub const MAX_CHAIN_BYTES: usize = 32 * KIB;
/// Largest certificate of a client, or of a CA, in bytes; real ones are below 4 KiB.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * KIB;
/// Largest revocation list, in bytes: some 400,000 entries.
pub const MAX_CRL_BYTES: usize = 16 * 1024 * KIB;

// Device-to-cloud messages (auth-and-limits §9.2, device-mqtt §5).

/// Largest message of a device, properties included, in bytes.
pub const MAX_TELEMETRY_BYTES: usize = 256 * KIB;
/// Longest message id, in characters (query-and-routing §13).
pub const MAX_MESSAGE_ID_CHARS: usize = 128;
/// Most application properties of one message (ours: bounds the work per message).
pub const MAX_PROPERTIES: usize = 256;

// MQTT (device-mqtt).

/// Longest topic, in bytes: MQTT counts it in 16 bits.
pub const MAX_TOPIC_BYTES: usize = 65_535;
/// Largest Remaining Length that is read (§5.3): a full message, the longest topic, and 8 bytes of lengths and ids.
pub const MAX_MQTT_REMAINING_LENGTH: usize = MAX_TELEMETRY_BYTES + MAX_TOPIC_BYTES + 8;
/// Most subscriptions of one connection (§4.1, ours).
pub const MAX_SUBSCRIPTIONS: usize = 50;
/// Longest time without a packet that the hub ever allows (§3.3).
pub const MQTT_MAX_IDLE: Duration = Duration::from_secs(1767);
/// Largest keep-alive that has an effect, in seconds: 1.5 × it stays within [`MQTT_MAX_IDLE`].
pub const MQTT_MAX_KEEP_ALIVE_SECONDS: u16 = 1177;
/// From the first byte of a connection to its complete CONNECT (§1).
pub const MQTT_CONNECT_DEADLINE: Duration = Duration::from_secs(60);
/// Longest `DeviceClientType` that is kept for logs, in bytes (§2.2).
pub const MAX_CLIENT_TYPE_BYTES: usize = KIB;

// Readers (amqp §8.3).

/// Most readers without an epoch per consumer group and partition (§8.3).
pub const MAX_READERS_PER_GROUP: usize = 5;

// HTTPS (rest §1).

/// Largest request body, in bytes.
pub const MAX_HTTP_BODY_BYTES: usize = 1024 * KIB;
/// Deepest nesting of JSON.
pub const MAX_JSON_DEPTH: usize = 32;

const _: () = assert!(MIN_PARTITIONS <= MAX_PARTITIONS);
const _: () = assert!(MAX_SERVICE_CONNECT_POLICIES <= MAX_POLICIES);
const _: () = assert!(MIN_SYMMETRIC_KEY_BYTES <= GENERATED_KEY_BYTES && GENERATED_KEY_BYTES <= MAX_SYMMETRIC_KEY_BYTES);
// A full message must fit into one packet and one request.
const _: () = assert!(MAX_TELEMETRY_BYTES < MAX_MQTT_REMAINING_LENGTH);
const _: () = assert!(MAX_TELEMETRY_BYTES < MAX_HTTP_BODY_BYTES);
// MQTT's Remaining Length has at most 28 bits.
const _: () = assert!(MAX_MQTT_REMAINING_LENGTH < 1 << 28);
const _: () = assert!(MQTT_MAX_KEEP_ALIVE_SECONDS as u64 * 3 / 2 <= MQTT_MAX_IDLE.as_secs());
const _: () = assert!(MAX_CONNECTION_STRING_BYTES >= MAX_ID_CHARS * 2);
const _: () = assert!(SAS_CLOCK_SKEW.as_secs() < SAS_DEFAULT_LIFETIME.as_secs());
