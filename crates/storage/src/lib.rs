//! Storage of a node: one database, one synced file, one thread that syncs it.
//!
//! Why: an acknowledgement means "synced", and a sync costs as much as thousands of writes; so every group of the node
//! writes unsynced and one [`Flusher`] syncs for all of them (docs/storage.md, "Group commit").
//! Invariants: a failed sync is never retried; a damaged file is named, never skipped; state written without the
//! write-ahead log is never on disk ahead of the log that it was made from (atomic flush).
//! Not here: the meaning of entries (`registry`, `partition`), votes and terms (`consensus`).
//! Start at [`Disk`], then [`open`] and [`Flusher`].
#![warn(missing_docs)]

mod batch;
mod config;
mod datadir;
mod disk;
mod disk_space_guard;
mod envelope_encryption;
mod error;
mod flusher;
mod ingest;
mod install;
pub mod layout;
mod metrics;
mod record_file;
mod rocks;
mod sim;
mod view;

pub use batch::{Durability, Family, Op, WriteBatch};
pub use config::StorageConfig;
pub use datadir::{DataDir, FORMAT_VERSION, NodeIdentity};
pub use disk::{Disk, DiskSpace, Visit};
pub use disk_space_guard::{CHECK_INTERVAL, DiskGuard};
pub use envelope_encryption::{Kek, NONCE_BYTES, Rewrap, SealError, Sealer, fresh_nonce, rewrap};
pub use error::{IoFailure, OpenError, StorageError};
pub use flusher::{Completion, Flusher, MAX_QUEUED_COMPLETIONS, OnFatal};
pub use ingest::{Bulk, FileSum, Stage};
pub use install::{Staged, Staging};
pub use metrics::METRICS;
pub use rocks::{RocksDisk, open, raise_open_file_limit};
pub use sim::SimDisk;
pub use view::View;
