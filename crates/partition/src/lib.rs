//! A partition: the telemetry log as a Raft state machine, and its readers. The log is the data.
//!
//! Why: a batch of messages is written once, as a Raft entry. Applying it assigns sequence numbers and extends a small
//! index; readers read the log itself (docs/architecture.md).
//! Invariants: a batch is acknowledged only when a quorum has synced it and apply will count it; sequence numbers have no
//! gaps and each is assigned once; readers get committed events in order and skip none; the memory of caches, readers and
//! index is bounded by [`PartitionConfig`] and does not grow with the log.
//! Not here: the mapping from devices to partitions (`model`), sessions and open batches (`device-hub`), wire forms of
//! events (`service-api`), consensus and files (`consensus`, `storage`).
//! Start at [`Partition`], then [`record::BatchWriter`] and [`Reader`].
#![warn(missing_docs)]

pub mod backup;
mod config;
mod error;
mod log;
mod machine;
mod metrics;
mod partition;
mod readers;
mod shared;
mod snapshot;
pub mod state;

pub use config::PartitionConfig;
pub use error::{AppendError, PartitionStartError};
pub use log::chunk::{Chunk, Event};
pub use log::record;
pub use metrics::METRICS;
pub use partition::{OnAppended, OpenLinks, Partition, PartitionStatus, SenderLink};
pub use readers::epoch;
pub use readers::reader::{Bound, ReadError, Reader, StartError, StartPosition, UnknownPosition};
pub use shared::MAX_READERS;
pub use state::ValueIndexing;
