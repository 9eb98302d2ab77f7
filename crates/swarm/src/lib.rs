//! Load generator: fleets of devices over MQTT, AMQP and HTTPS, a ledger of their acknowledgements, and verification of what readers find.
//!
//! Why: a claim such as "nothing acknowledged is lost" or "so many microseconds a message" is only as good as its
//! measurement. Every figure of the project comes from this one generator, for the hub and its peers alike, and every
//! message carries a marker with its sender, its time and its position.
//! Invariants: no allocation per message; a bounded ledger (spans, not messages); the device side uses none of the
//! server's crates, not even its MQTT codec, so that a bug there cannot hide itself.
//! Not here: installation of peers and the plan of a benchmark (`benches/`), fault injection (the `chaos` crate).
//! Start at [`fleet::Fleet`] (load), [`connects`] (the cost of a connect), [`down`] (twins and direct methods), [`multiplex`] (gateways), [`provision`] (devices that register) and [`verify`] (reading
//! back).
#![warn(missing_docs)]

pub mod accept_tls;
pub mod acknowledgements;
pub mod amqp;
pub mod batch;
pub mod certificates;
pub mod connect;
pub mod connects;
pub mod devices;
pub mod down;
pub mod events;
pub mod fleet;
pub mod http;
pub mod https;
pub mod hub;
mod idle;
pub mod latency;
pub mod ledger;
pub mod marker;
pub mod multiplex;
pub mod operator;
pub mod process;
pub mod provision;
mod publisher;
pub mod read;
pub mod readiness;
pub mod report;
pub mod rotate;
pub mod target;
pub mod verify;
pub mod window;
pub mod wire;
