//! AMQP 1.0 types, codec and connection engine, without I/O.
//!
//! Why: devices, back ends and Event Hubs readers all speak AMQP 1.0, and each client library has its own requirements
//! (Spec amqp §2, §3); no existing engine can produce the encoding that the strictest of them needs. One engine serves
//! both roles: the hub is the server, `swarm` and `monitor-events` are clients.
//! Invariants: no input panics; decoded values borrow from the input; the memory that a peer can make us hold is bounded
//! by [`limits`]; encoded performatives contain every field (Spec amqp §2).
//! Not here: sockets, timers, TLS, WebSocket (`net`); authorization of links (`service-api`, `gateway`).
//! Start at [`Connection`]: bytes go into [`Connection::receive`], [`Event`]s come out, calls answer them, and
//! [`Connection::output`] is to be written. [`message`] reads and writes the payload of transfers.
#![warn(missing_docs)]

pub mod address;
mod connection;
mod error;
pub mod frame;
pub mod limits;
pub mod message;
pub mod performative;
pub mod sasl_tpm;
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
