//! MQTT as the hub speaks it: packets, topics, property bags, logins and the server side of one connection, without I/O.
//!
//! Why: framing and grammar are where hostile input arrives first; as pure functions over bytes and a time argument
//! they can be tested, fuzzed and measured without a socket. Both roles are here, so that the load generator is a
//! second reader of the same bytes.
//! Invariants: no input panics; nothing owns a buffer; what is decoded borrows from the caller's bytes; no allocation
//! on the way of a PUBLISH unless a percent escape has to be decoded.
//! Not here: sockets, timers and WebSocket framing (`net`), who may connect (`auth`), what happens to a message
//! (`device-hub`).
//! Start at [`codec::decode`], then [`Connection`]. Wire facts: Spec device-mqtt.
#![warn(missing_docs, clippy::cast_possible_truncation)]

pub mod bag;
pub mod codec;
pub mod connection;
mod escape;
pub mod limits;
pub mod login;
pub mod subscriptions;
pub mod topic;
mod violation;
pub mod will;

pub use codec::{Limits, Packet, PacketType, QoS, Sender, Version};
pub use connection::{Action, Connection};
pub use login::{Login, LoginError};
pub use subscriptions::{Channel, ChannelSet, SubscriptionSet};
pub use topic::{DeviceTopic, HubTopic};
pub use violation::Violation;
