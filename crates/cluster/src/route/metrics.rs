//! Metrics of routing.

use metrics::{Counter, Gauge};

holdfast_model::metrics! {
    /// Batches sent to owners on other nodes.
    counter remote_appends() = "holdfast_cluster_remote_appends_total";
    /// Their bytes.
    counter remote_append_bytes() = "holdfast_cluster_remote_append_bytes_total";
    /// Batches that an owner on another node did not acknowledge; they are sent again.
    counter remote_append_failures() = "holdfast_cluster_remote_append_failures_total";
    /// Batches of other nodes that this node, as the owner, has taken.
    counter served_appends() = "holdfast_cluster_served_appends_total";
    /// Batches of other nodes that were refused here, mostly since this node does not own the partition.
    counter refused_appends() = "holdfast_cluster_refused_appends_total";
    /// Calls of other nodes about partitions that could not be understood.
    counter malformed() = "holdfast_cluster_garbled_calls_total";
    /// Times that this node has learned of a new owner of a partition.
    counter owner_changes() = "holdfast_cluster_owner_changes_total";
    /// Partitions whose owner this node does not know or does not reach, or too few of whose replicas answer it for a quorum: nothing is acknowledged there.
    gauge unowned() = "holdfast_cluster_unowned_partitions";
    /// Readers on other nodes that read from a replica here.
    gauge served_readers() = "holdfast_cluster_served_readers";
    /// Times that a reader moved to another replica.
    counter reader_moves() = "holdfast_cluster_reader_moves_total";
    /// Messages that retention had deleted before a reader of another node's replica came to them.
    counter reader_missed_messages() = "holdfast_cluster_reader_missed_messages_total";
}

/// The handles of one node.
pub(super) struct Metrics {
    pub(super) remote_appends: Counter,
    pub(super) remote_append_bytes: Counter,
    pub(super) remote_append_failures: Counter,
    pub(super) served_appends: Counter,
    pub(super) refused_appends: Counter,
    pub(super) malformed: Counter,
    pub(super) owner_changes: Counter,
    pub(super) unowned: Gauge,
    pub(super) served_readers: Gauge,
    pub(super) reader_moves: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            remote_appends: remote_appends(),
            remote_append_bytes: remote_append_bytes(),
            remote_append_failures: remote_append_failures(),
            served_appends: served_appends(),
            refused_appends: refused_appends(),
            malformed: malformed(),
            owner_changes: owner_changes(),
            unowned: unowned(),
            served_readers: served_readers(),
            reader_moves: reader_moves(),
        }
    }
}
