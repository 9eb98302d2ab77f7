//! The limits of the MQTT front end, each with its unit (Spec device-mqtt §3.3, §4.1, §5.3; auth-and-limits §9.2).

/// Payload and properties of one telemetry message, bytes.
pub const MAX_MESSAGE_BYTES: usize = 262_144;

/// A topic, bytes: MQTT's two-byte length allows no more.
pub const MAX_TOPIC_BYTES: usize = 65_535;

/// Remaining Length of any packet, bytes: the largest message, the longest topic and the fields between them.
pub const MAX_REMAINING_LENGTH: u32 = 262_144 + 65_535 + 8;

/// Remaining Length of a CONNECT, bytes (ours): a connection that has not proved anything yet may not fill memory.
/// User name, SAS token and a will of more than 60 KB fit.
pub const MAX_CONNECT_REMAINING_LENGTH: u32 = 65_536;

/// Topic filters in one SUBSCRIBE, and so of one connection.
pub const MAX_FILTERS: usize = 50;

/// A `$rid`, bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 256;

/// A message id, characters.
pub const MAX_MESSAGE_ID_CHARS: usize = 128;

/// Application properties of one message (ours: bounds the work per message).
pub const MAX_PROPERTIES: usize = 256;

/// From the opening of the connection to a complete CONNECT, milliseconds.
pub const CONNECT_TIMEOUT_MS: u64 = 60_000;

/// The longest silence of a connected client, milliseconds: 29 min 27 s.
pub const MAX_KEEP_ALIVE_MS: u32 = 1_767_000;

/// What is kept of `DeviceClientType`, bytes: it is a label for logs only.
pub const MAX_CLIENT_TYPE_BYTES: usize = 1024;

/// PUBLISH packets at QoS 1 that may wait for their PUBACK before the socket is no longer read.
pub const MAX_UNACKED_PUBLISHES: u16 = 64;

/// Bytes of PUBLISH packets at QoS 1 that may wait for their PUBACK before the socket is no longer read.
pub const MAX_UNACKED_BYTES: u32 = 2 * 1024 * 1024;
