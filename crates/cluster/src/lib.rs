//! The cluster: who is a member, which node holds which partition, and how nodes talk to each other.
//!
//! Why: a device may connect to any node and a back end read from any node, while each partition has one owner; and
//! nodes come, go and die (design, "Cluster life").
//! Invariants: what is wanted stands in the registry, and whoever leads carries it on from there; nothing is done twice
//! by being tried again; a call between nodes has one answer, or an error that says whether it may have been done.
//! Not here: consensus itself (`consensus`), sessions (`device-hub`).
//! Start at [`route::Partitions`] and [`control::Control`].
#![warn(missing_docs)]

pub mod control;
pub mod join;
pub mod peer;
pub mod placement;
pub mod route;
pub mod status;

pub use holdfast_consensus::transport;
