//! The Event-Hubs-compatible endpoint: back ends read what devices have sent, over AMQP 1.0 (Spec amqp §5, §8).
//!
//! Why: back ends read an Azure IoT hub with an Event Hubs client; every such client must work when only the host name
//! changes.
//! Invariants: one connection is one task on one core; events go from the partition's chunks into the connection's
//! output buffer in one encoding, settled; what waits to be written is bounded by [`EventsConfig::output_bytes`], then
//! by the reader's credit and window; every refusal has a number and reaches the audit log; a connection without an
//! authenticated identity is closed after a minute.
//! Not here: AMQP itself (`amqp`), signatures (`auth`), where events are and which readers a partition admits
//! (`cluster::route`), devices over AMQP (their addresses are refused as not implemented).
//! Start at [`EventsEndpoint`], of which each core has one, then [`driver`](self).

mod cbs;
mod config;
mod delayed;
mod driver;
mod encode;
mod endpoint;
mod handle;
mod links;
mod management;
mod metrics;
mod opening;
mod pending_management;
mod receiver;
mod refusal;
mod refusal_backoff;
mod request_node;
mod tokens;

pub use config::EventsConfig;
pub use endpoint::EventsEndpoint;
