//! A partition: the telemetry log as a Raft state machine, and its readers. The log is the data.
//!
//! Why: a batch of messages is written once, as a Raft entry; applying it only gives sequence numbers and extends a
//! small index, and readers read the log itself (design, "The log is the data").
//! Invariants: a batch is acknowledged only when it is synced by a quorum and will be counted; sequence numbers have no
//! gaps and are given once; readers get committed events in order and skip none; memory of caches, readers and index is
//! bounded by [`PartitionConfig`], whatever the length of the log.
//! Not here: which partition a device belongs to (`model`), sessions and open batches (`device-hub`), wire forms of
//! events (`service-api`), consensus and files (`consensus`, `storage`).
//! Start at [`Partition`], then [`record::BatchWriter`] and [`Reader`].
#![warn(missing_docs)]

mod chunk;
mod config;
pub mod epoch;
mod error;
mod gate;
mod machine;
mod metrics;
mod partition;
mod reader;
pub mod record;
mod shared;
mod snapshot;
pub mod state;
mod store;
mod tail;
mod work;

pub use chunk::{Chunk, Event};
pub use config::{InvalidConfig, PartitionConfig};
pub use error::{AppendError, PartitionStartError};
pub use partition::{Clock, OnAppended, Partition, PartitionStatus};
pub use reader::{Bound, ReadError, Reader, StartError, StartPosition, UnknownPosition};
pub use shared::MAX_READERS;
