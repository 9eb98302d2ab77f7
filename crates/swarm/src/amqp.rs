//! Devices over AMQP 1.0: one for each connection, or many that share one (Spec amqp §3 to §6).
//!
//! Why: a gateway carries hundreds of devices over one connection, and what they cost is to be compared with MQTT in one run.
//! The wire format is written here again, so that a mistake in the hub's codec cannot hide itself.
//! Invariants: a device has a session of its own, as the Java and .NET SDKs have it, so delivery numbers follow from the numbers
//! of its messages; a message is acknowledged only by the outcome `accepted`; input that is held is bounded by one frame.
//! Not here: WebSockets, several frames for one message, and the reader of events ([`crate::events`]).

mod connection;
mod device;
mod frame;
mod idle;
mod publisher;
mod section;
mod single;
mod value;

pub(crate) use connection::Connection;
pub(crate) use device::{Credential, Devices, SessionCredit};
pub(crate) use frame::{Outcome, Reply, Role, put_accepted, put_credit, put_transfer};
pub(crate) use idle::run as idle;
pub(crate) use publisher::run as publish;
pub(crate) use section::{data, properties_field, property};
pub use single::AmqpDevice;
pub(crate) use value::{
    Value, put_binary, put_descriptor, put_int, put_list, put_map, put_null, put_string, put_symbol,
};
