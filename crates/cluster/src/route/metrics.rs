//! Counters of the ways between nodes.

use metrics::{Counter, Gauge, counter, gauge};

/// Handles made once per node.
pub(super) struct Metrics {
    /// Batches sent to owners on other nodes.
    pub(super) remote_appends: Counter,
    /// Their bytes.
    pub(super) remote_append_bytes: Counter,
    /// Those that were not acknowledged.
    pub(super) remote_append_failures: Counter,
    /// Batches taken from other nodes.
    pub(super) served_appends: Counter,
    /// Batches refused because their sender has too much under way.
    pub(super) refused_appends: Counter,
    /// Calls that make no sense.
    pub(super) garbled: Counter,
    /// Changes of owners that this node has learned.
    pub(super) owner_changes: Counter,
    /// Partitions of which no owner is known.
    pub(super) unowned: Gauge,
    /// Streams of events to readers on other nodes.
    pub(super) served_readers: Gauge,
    /// Times that a reader went on at another replica.
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
            garbled: counter!("holdfast_cluster_garbled_calls_total"),
            owner_changes: counter!("holdfast_cluster_owner_changes_total"),
            unowned: gauge!("holdfast_cluster_unowned_partitions"),
            served_readers: gauge!("holdfast_cluster_served_readers"),
            reader_moves: counter!("holdfast_cluster_reader_moves_total"),
        }
    }
}
