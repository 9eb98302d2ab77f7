//! Metrics of routing.

use metrics::{Counter, Gauge, counter, gauge};

/// The handles of one node.
pub(super) struct Metrics {
    /// Batches sent to owners on other nodes.
    pub(super) remote_appends: Counter,
    /// Bytes of batches sent to owners on other nodes.
    pub(super) remote_append_bytes: Counter,
    /// Batches sent to owners on other nodes that were not acknowledged.
    pub(super) remote_append_failures: Counter,
    /// Batches received from other nodes.
    pub(super) served_appends: Counter,
    /// Batches refused because their sender has exceeded its limit, or by the append admission.
    pub(super) refused_appends: Counter,
    /// Calls that cannot be decoded.
    pub(super) malformed: Counter,
    /// Changes of owners.
    pub(super) owner_changes: Counter,
    /// Partitions without a known owner.
    pub(super) unowned: Gauge,
    /// Event streams to readers on other nodes.
    pub(super) served_readers: Gauge,
    /// Readers that have continued at another replica.
    pub(super) reader_moves: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            remote_appends: counter!("holdfast_cluster_remote_appends_total"),
            remote_append_bytes: counter!("holdfast_cluster_remote_append_bytes_total"),
            remote_append_failures: counter!("holdfast_cluster_remote_append_failures_total"),
            served_appends: counter!("holdfast_cluster_served_appends_total"),
            refused_appends: counter!("holdfast_cluster_refused_appends_total"),
            malformed: counter!("holdfast_cluster_garbled_calls_total"),
            owner_changes: counter!("holdfast_cluster_owner_changes_total"),
            unowned: gauge!("holdfast_cluster_unowned_partitions"),
            served_readers: gauge!("holdfast_cluster_served_readers"),
            reader_moves: counter!("holdfast_cluster_reader_moves_total"),
        }
    }
}
