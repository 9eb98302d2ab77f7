//! The Event-Hubs-compatible endpoint: back ends read what devices have sent, over AMQP 1.0 (Spec amqp §8).
//!
//! Why: back ends read an Azure IoT hub with an Event Hubs client; every such client must work when only the host name
//! changes.
//! Invariants: events go from the partition's chunks into the connection's output buffer in one encoding, settled; what
//! waits to be written is bounded by [`EventsConfig::output`], then by the reader's credit and window.
//! Not here: connections, tokens and refusals (`amqp-server`), AMQP itself (`amqp`), where events are and which readers a
//! partition admits (`cluster::route`), devices over AMQP (their addresses are refused as not implemented).
//! Start at [`EventsEndpoint`], of which each core has one, then `readers.rs`.

mod attach;
mod config;
mod encode;
mod endpoint;
mod management;
mod metrics;
mod opening;
mod pending_management;
mod readers;
mod receiver;
mod scope;

pub use config::EventsConfig;
pub use endpoint::EventsEndpoint;
pub use metrics::METRICS;
