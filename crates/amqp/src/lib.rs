//! AMQP 1.0 types, codec and connection engine, without I/O.
//!
//! Why: devices, back ends and Event Hubs readers all speak AMQP 1.0, each client with habits of its own (Spec amqp §2, §3),
//! and no engine at hand can put on the wire what the strictest of them reads. One engine serves both roles: the hub is
//! the server, `swarm` and `monitor-events` are clients.
//! Invariants: no input panics; what is decoded borrows from the input; memory that a peer can make us hold is bounded by
//! [`limits`]; what is encoded always has every field (Spec amqp §2).
//! Not here: sockets, timers, TLS, WebSocket (`net`); who may attach where (`service-api`, `gateway`).
//! Start at [`Connection`]: bytes go into [`Connection::receive`], [`Event`]s come out, calls answer them, and
//! [`Connection::output`] is what is to be written. [`message`] reads and writes what transfers carry.
#![warn(missing_docs)]

pub mod address;
mod connection;
mod error;
pub mod frame;
pub mod limits;
pub mod message;
pub mod performative;
pub mod selector;
pub mod types;

pub use connection::{
    Accept, AttachSpec, ClientSasl, Config, Connection, Credit, Delivery, Detached, Event, Expired, Incoming, LinkId,
    OpenSpec, Outgoing, SaslCode, SessionId,
};
pub use error::{DecodeError, SendError, Violation};
pub use performative::{
    Attach, Fault, InfoValue, Open, Outcome, ReceiverSettleMode, Role, SaslInit, SenderSettleMode, Source, Target,
    Terminus,
};
