//! Snapshots for a replica that cannot catch up from the log: the state and the retained log entries.
//!
//! Why the entries too: they are the events; a replica with the state alone would own a partition whose readers find
//! nothing (docs/storage.md, "Snapshots").
//! Invariants: a snapshot shows one moment; retention keeps its entries while it is being sent ([`RetentionHold`]); the
//! receiver checks all of it (order, checksums, numbers of events) before it touches the replica; each side holds a few
//! chunks in memory, independent of the length of the log.
//! Not here: turning the files into the log ([`holdfast_storage::Staging`]), choosing sender and receiver (`consensus`).

mod receive;
mod send;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

pub(crate) use receive::{Received, Sink};
pub(crate) use send::{RetentionHold, Source};
