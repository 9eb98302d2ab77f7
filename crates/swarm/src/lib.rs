//! Load generator and measuring rod: fleets of MQTT devices, what they were promised, and what readers find.
//!
//! Why: a claim like "nothing acknowledged is lost" or "so many microseconds a message" is worth what the thing that
//! measures it is worth. So every figure of the project comes from this one generator, against the hub and its peers
//! alike, and every message carries a stamp that tells a reader who sent it, when, and in which place.
//! Invariants: no allocation per message; a bounded ledger (spans, not messages); nothing of the server's crates is
//! used on the device side, not even its MQTT codec, so that a bug in it cannot hide itself.
//! Not here: peers' installation and the bench's plan (`benches/`), fault injection (`tests/`).
//! Start at [`fleet::Fleet`] (load) and [`verify`] (reading back).
#![warn(missing_docs)]

pub mod batch;
pub mod connect;
pub mod devices;
pub mod events;
pub mod fleet;
pub mod http;
pub mod hub;
mod idle;
pub mod latency;
pub mod ledger;
pub mod process;
mod publisher;
pub mod read;
pub mod readiness;
pub mod report;
pub mod stamp;
pub mod target;
pub mod verify;
pub mod window;
pub mod wire;
