//! Cloud-to-device messages of back ends over AMQP 1.0: sending, and feedback (Spec amqp §7).
//!
//! Why beside the events endpoint: the same port and even the same connection carry both; `amqp-server` tells links apart by
//! address.
//! Invariants: a message is accepted only when a quorum has stored it; messages of one connection to one device are queued in
//! their order; feedback that was sent and not settled goes back when its link ends.
//! Not here: queues and feedback themselves (`device-hub`), connections and tokens (`amqp-server`).
//! Start at `links.rs`.

mod feedback;
mod links;
mod read;
mod sending;

pub(crate) use links::MessageService;
pub(crate) use read::too_large;
pub(crate) use sending::error_code;
