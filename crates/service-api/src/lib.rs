//! Back-end front ends: REST, messages over AMQP, and the Event-Hubs-compatible endpoint.
//!
//! Why: service SDKs and the CLI speak HTTPS, readers of events and senders of messages speak AMQP; both translate to the registry, the device
//! hub and the partitions, and are independent of each other.
//! Not here: listeners and TLS (`net`), devices (`gateway`), what is stored (`registry`, `partition`).
#![warn(missing_docs)]

pub mod events;
mod messages;
pub mod rest;

pub use messages::notification_body;
