//! Device front ends: they translate a protocol to the device-session API and back.
//!
//! Why: what a protocol says on the wire is here, what a session may do is in `device-hub`.
//! Invariants: one connection lives on one core; between two connections of a core nothing is locked; an idle
//! connection owns no buffer; acknowledgements leave in the order of the messages.
//! Not here: credentials, rounds, takeover (`device-hub`); sockets and TLS (`net`).
#![warn(missing_docs)]

mod config;
mod metrics;
mod mqtt;

pub use config::MqttConfig;
pub use mqtt::MqttFront;
