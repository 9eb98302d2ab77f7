//! Metrics of the disk; docs/metrics.md lists the names.

use metrics::{Counter, Gauge, Histogram};

use crate::Family;

holdfast_model::metrics! {
    /// Syncs of the write-ahead log.
    counter syncs() = "holdfast_storage_syncs_total";
    /// Time of one sync.
    histogram sync_seconds() = "holdfast_storage_sync_seconds";
    /// Writes that one sync made durable.
    histogram completions() = "holdfast_storage_sync_completions";
    /// Writes that waited when the last sync began.
    gauge queued() = "holdfast_storage_sync_queue";
    /// Free bytes of the data directory's file system.
    gauge free() = "holdfast_storage_free_bytes";
    /// Bytes of the database's files: of the partitions' logs (log), votes and the registry's log (raft), identities and settings
    /// (registry), streams and positions (partition), twins, queues and connections (device_state), and their indexes (value_index).
    gauge file_bytes(family) = "holdfast_storage_file_bytes";
    /// 1 while writes are refused for lack of space.
    gauge refusing() = "holdfast_storage_refusing_writes";
    /// Bytes written through the write-ahead log (logged) and without it (replayed).
    counter written_bytes(durability) = "holdfast_storage_written_bytes_total";
}

/// Handles of the flusher.
pub(crate) struct FlusherMetrics {
    pub(crate) syncs: Counter,
    pub(crate) sync_seconds: Histogram,
    pub(crate) completions: Histogram,
    pub(crate) queued: Gauge,
}

impl FlusherMetrics {
    pub(crate) fn new() -> Self {
        Self {
            syncs: syncs(),
            sync_seconds: sync_seconds(),
            completions: completions(),
            queued: queued(),
        }
    }
}

/// Handles of the free-space guard.
pub(crate) struct GuardMetrics {
    pub(crate) free: Gauge,
    pub(crate) refusing: Gauge,
    pub(crate) file_bytes: [Gauge; Family::ALL.len()],
}

impl GuardMetrics {
    pub(crate) fn new() -> Self {
        Self {
            free: free(),
            refusing: refusing(),
            file_bytes: Family::ALL.map(|family| file_bytes(family.name())),
        }
    }
}

/// Handles of the database.
pub(crate) struct DiskMetrics {
    pub(crate) logged_bytes: Counter,
    pub(crate) replayed_bytes: Counter,
}

impl DiskMetrics {
    pub(crate) fn new() -> Self {
        Self {
            logged_bytes: written_bytes("logged"),
            replayed_bytes: written_bytes("replayed"),
        }
    }
}
