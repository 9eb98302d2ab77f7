//! The limits of the MQTT front end, each with its unit (Spec device-mqtt §3.3, §4.1, §5.3; auth-and-limits §9.2).
//!
//! Limits that other protocols share are defined in `holdfast_model::limits` and re-exported here.

use std::time::Duration;

use holdfast_model::limits as model;

pub use holdfast_model::limits::{
    MAX_CLIENT_TYPE_BYTES, MAX_MESSAGE_ID_CHARS, MAX_PROPERTIES, MAX_SUBSCRIPTIONS, MAX_TELEMETRY_BYTES,
    MAX_TOPIC_BYTES,
};

/// Remaining Length of any packet, bytes: the largest message, the longest topic and the fields between them.
#[expect(clippy::cast_possible_truncation, reason = "below 2^28, as the model asserts")]
pub const MAX_REMAINING_LENGTH: u32 = model::MAX_MQTT_REMAINING_LENGTH as u32;

/// Remaining Length of a CONNECT, bytes (ours): a connection that has not proved anything yet may not fill memory.
/// User name, SAS token and a will of 60 KB fit.
pub const MAX_CONNECT_REMAINING_LENGTH: u32 = 65_536;

/// A `$rid`, bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 256;

/// From the opening of the connection to a complete CONNECT, milliseconds.
pub const CONNECT_TIMEOUT_MS: u32 = milliseconds(model::MQTT_CONNECT_DEADLINE);

/// The longest silence of a connected client, milliseconds: 29 min 27 s.
pub const MAX_SILENCE_MS: u32 = milliseconds(model::MQTT_MAX_IDLE);

/// PUBLISH packets at QoS 1 that may wait for their PUBACK before the socket is no longer read.
pub const MAX_UNACKED_PUBLISHES: u16 = 64;

/// Bytes of PUBLISH packets at QoS 1 that may wait for their PUBACK before the socket is no longer read. The driver
/// counts them: it knows the size of each.
pub const MAX_UNACKED_BYTES: u32 = 2 * 1024 * 1024;

#[expect(clippy::cast_possible_truncation, reason = "asserted below")]
const fn milliseconds(duration: Duration) -> u32 {
    assert!(duration.as_millis() <= u32::MAX as u128);
    duration.as_millis() as u32
}

const _: () = assert!(MAX_CONNECT_REMAINING_LENGTH <= MAX_REMAINING_LENGTH);
