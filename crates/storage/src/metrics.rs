//! Metrics of the disk; docs/metrics.md lists the names.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// Handles of the flusher.
pub(crate) struct FlusherMetrics {
    /// Syncs of the write-ahead log.
    pub(crate) syncs: Counter,
    /// Seconds of one sync.
    pub(crate) sync_seconds: Histogram,
    /// Completions that one sync served.
    pub(crate) completions: Histogram,
    /// Completions that waited when the last sync began.
    pub(crate) queued: Gauge,
}

impl FlusherMetrics {
    pub(crate) fn new() -> Self {
        Self {
            syncs: counter!("holdfast_storage_syncs_total"),
            sync_seconds: histogram!("holdfast_storage_sync_seconds"),
            completions: histogram!("holdfast_storage_sync_completions"),
            queued: gauge!("holdfast_storage_sync_queue"),
        }
    }
}

/// Handles of the free-space guard.
pub(crate) struct GuardMetrics {
    /// Free bytes of the data directory's file system.
    pub(crate) free: Gauge,
    /// 1 while writes are refused for lack of space.
    pub(crate) refusing: Gauge,
}

impl GuardMetrics {
    pub(crate) fn new() -> Self {
        Self {
            free: gauge!("holdfast_storage_free_bytes"),
            refusing: gauge!("holdfast_storage_refusing_writes"),
        }
    }
}

/// Handles of the database.
pub(crate) struct DiskMetrics {
    /// Bytes of keys and values written through the write-ahead log.
    pub(crate) logged_bytes: Counter,
    /// Bytes of keys and values written without it.
    pub(crate) replayed_bytes: Counter,
}

impl DiskMetrics {
    pub(crate) fn new() -> Self {
        Self {
            logged_bytes: counter!("holdfast_storage_written_bytes_total", "durability" => "logged"),
            replayed_bytes: counter!("holdfast_storage_written_bytes_total", "durability" => "replayed"),
        }
    }
}
