//! Metrics of the disk; docs/metrics.md lists the names.

use metrics::{Counter, Gauge, Histogram};

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
}

impl GuardMetrics {
    pub(crate) fn new() -> Self {
        Self {
            free: free(),
            refusing: refusing(),
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
