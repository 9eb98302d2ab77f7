//! A partition for a replica that cannot catch up from the log: its state, and the log entries that retention has left.
//!
//! Why the entries too: they are the events; a replica with the state alone would own a partition whose readers find
//! nothing (docs/storage.md, "Snapshots").
//! Invariants: a snapshot is of one moment; what it promises is not deleted while it is being sent ([`Hold`]); what arrives
//! is checked whole (order, checksums, numbers of events) before anything of the replica is touched; memory on either
//! side is a few chunks, whatever the length of the log.
//! Not here: how the files become the log ([`holdfast_storage::Staging`]), who sends to whom (`consensus`).

mod receive;
mod send;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use receive::{Received, Sink};
pub(crate) use send::{Hold, Source};
