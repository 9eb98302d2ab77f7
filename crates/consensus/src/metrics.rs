//! Metrics of groups; docs/metrics.md lists the names.

use metrics::{Counter, Histogram, counter, histogram};

use crate::position::GroupId;

/// Handles of one group.
#[derive(Clone)]
pub(crate) struct GroupMetrics {
    /// Entries proposed.
    pub(crate) proposals: Counter,
    /// Bytes of entries proposed.
    pub(crate) proposed_bytes: Counter,
    /// Entries applied, replayed ones included.
    pub(crate) applied: Counter,
    /// Seconds from the proposal to its commit.
    pub(crate) commit_seconds: Histogram,
    /// Entries proposed here and sent to the leader.
    pub(crate) forwarded: Counter,
    /// Calls of other nodes that were refused: malformed, or in the name of another node.
    pub(crate) refused: Counter,
    /// Bytes of states sent to replicas.
    pub(crate) snapshot_bytes_sent: Counter,
    /// Bytes of states received.
    pub(crate) snapshot_bytes_received: Counter,
    kind: &'static str,
}

impl GroupMetrics {
    pub(crate) fn new(group: GroupId) -> Self {
        let kind = if group == GroupId::REGISTRY {
            "registry"
        } else {
            "partition"
        };
        Self {
            proposals: counter!("holdfast_consensus_proposals_total", "kind" => kind),
            proposed_bytes: counter!("holdfast_consensus_proposed_bytes_total", "kind" => kind),
            applied: counter!("holdfast_consensus_applied_total", "kind" => kind),
            commit_seconds: histogram!("holdfast_consensus_commit_seconds", "kind" => kind),
            forwarded: counter!("holdfast_consensus_forwarded_total", "kind" => kind),
            refused: counter!("holdfast_consensus_refused_calls_total", "kind" => kind),
            snapshot_bytes_sent: counter!("holdfast_consensus_snapshot_bytes_total", "kind" => kind, "direction" => "sent"),
            snapshot_bytes_received: counter!("holdfast_consensus_snapshot_bytes_total", "kind" => kind, "direction" => "received"),
            kind,
        }
    }

    /// A snapshot was sent, or could not be.
    pub(crate) fn snapshot_sent(&self, installed: bool) {
        self.snapshot("sent", installed);
    }

    /// A snapshot was received and installed, or not.
    pub(crate) fn snapshot_received(&self, installed: bool) {
        self.snapshot("received", installed);
    }

    fn snapshot(&self, direction: &'static str, installed: bool) {
        let outcome = if installed { "installed" } else { "failed" };
        counter!("holdfast_consensus_snapshots_total", "kind" => self.kind, "direction" => direction, "outcome" => outcome)
            .increment(1);
    }
}
