//! The cluster: members, the placement of partitions, the connections between nodes, and routing to partition owners.
//!
//! Why: a device may connect to any node and a back end may read from any node, while each partition has one owner; and
//! nodes join, leave and fail.
//! Invariants: the registry holds the desired state, and each new leader continues from there; retried steps are
//! idempotent; a call between nodes has one answer, or an error that says whether it may have been executed.
//! Not here: consensus itself (`consensus`), sessions (`device-hub`).
//! Start at [`route::Partitions`] and [`control::Control`].
#![warn(missing_docs)]

pub mod control;
mod error_chain;
pub mod join;
pub mod peer;
pub mod placement;
pub mod route;
pub mod status;

pub use holdfast_consensus::transport;
