//! MQTT as the hub speaks it: packets, topics, property bags, logins and the server side of one connection, without I/O.
//!
//! Why: framing and grammar are where hostile input arrives first; as pure functions over bytes and a time argument
//! they can be tested, fuzzed and measured without a socket. Both roles are here: `holdfast device simulate` reads the
//! hub's packets.
//! Invariants: no input panics; nothing owns a buffer; decoded values borrow from the caller's bytes; no allocation
//! on the way of a PUBLISH unless a percent escape has to be decoded.
//! Not here: sockets, timers and WebSocket framing (`net`), credentials (`auth`), storing a message (`device-hub`).
//! Start at [`codec::decode`], then [`Connection`]. Wire facts: Spec device-mqtt.
#![warn(missing_docs, clippy::cast_possible_truncation)]

pub mod bag;
pub mod codec;
pub mod connection;
pub mod escape;
pub mod limits;
pub mod login;
mod login_error;
mod packet_type;
pub mod provisioning;
pub mod subscriptions;
pub mod topic;
mod violation;
pub mod will;

pub use codec::{Limits, Packet, PacketType, QoS, Sender};
pub use connection::{Action, Connection};
pub use login::{Login, LoginError};
pub use subscriptions::{Channel, ChannelSet, SubscriptionSet};
pub use topic::{DeviceTopic, HubTopic};
pub use violation::Violation;
