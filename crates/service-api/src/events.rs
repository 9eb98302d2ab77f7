//! The Event-Hubs-compatible endpoint: back ends read what devices have sent, over AMQP 1.0 (Spec amqp §5, §8).
//!
//! Why: whoever reads an Azure IoT hub today does it with an Event Hubs client; each of them must work with nothing but
//! another host name.
//! Invariants: one connection is one task on one core; events go from the partition's chunks into the connection's
//! output buffer in one encoding, settled; what waits to be written is bounded by [`EventsConfig::output_bytes`], then
//! by the reader's credit and window; every refusal has a number and a line in the audit log; a connection that nobody
//! has authenticated is closed after a minute.
//! Not here: AMQP itself (`amqp`), signatures (`auth`), where events are and who may read (`cluster::route`), devices over AMQP (a later
//! issue: their addresses are refused as not implemented).
//! Start at [`EventsEndpoint`], of which each core has one, then [`driver`](self).

mod asking;
mod cbs;
mod config;
mod driver;
mod encode;
mod endpoint;
mod handle;
mod links;
mod management;
mod metrics;
mod opening;
mod receiver;
mod refusal;
mod replies;
mod tokens;

pub use config::EventsConfig;
pub use endpoint::EventsEndpoint;
