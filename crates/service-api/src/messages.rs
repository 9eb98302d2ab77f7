//! Messages of back ends over AMQP 1.0: to devices, feedback, and notifications about uploaded files (Spec amqp §7).
//!
//! Why beside the events endpoint: the same port and even the same connection carry both; `amqp-server` tells links apart by
//! address.
//! Invariants: a message is accepted only when a quorum has stored it; messages of one connection to one device are queued in
//! their order; feedback and notifications that were sent and not settled go back when its link ends.
//! Not here: queues, feedback and notifications themselves (`device-hub`), connections and tokens (`amqp-server`).
//! Start at `links.rs`.

mod feedback;
mod files;
mod links;
mod read;
mod receiver;
mod sending;

pub use files::notification_body;
pub(crate) use links::MessageService;
pub(crate) use read::too_large;
pub(crate) use sending::error_code;
