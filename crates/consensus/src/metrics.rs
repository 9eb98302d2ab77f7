//! Metrics of groups; docs/metrics.md lists the names.

use metrics::{Counter, Histogram};

use crate::position::GroupId;

holdfast_model::metrics! {
    /// Entries proposed.
    counter proposals(kind) = "holdfast_consensus_proposals_total";
    /// Their bytes.
    counter proposed_bytes(kind) = "holdfast_consensus_proposed_bytes_total";
    /// Entries applied, replayed ones included.
    counter applied(kind) = "holdfast_consensus_applied_total";
    /// Time from a proposal to its commit.
    histogram commit_seconds(kind) = "holdfast_consensus_commit_seconds";
    /// How long a group of which this node has a replica was without a leader, as this node saw it; once for each new leader and replica. From the
    /// last append or heartbeat of the old leader that this node accepted, so it has up to a heartbeat's interval in which that leader still
    /// led (lost); or from the begin of a hand-over (handover). To the moment at which this node knows the new one: an acknowledgement takes
    /// a commit longer. Not counted: the first leader after a start, and on the old leader a loss without a hand-over. A node that was cut off
    /// alone counts until it hears a leader again.
    histogram leaderless_seconds(kind, cause) = "holdfast_consensus_leaderless_seconds";
    /// Proposals, reads and leases that were handed to a leader on another node.
    counter forwarded(kind) = "holdfast_consensus_forwarded_total";
    /// Calls of other members that could not be understood or were not for a member.
    counter refused(kind) = "holdfast_consensus_refused_calls_total";
    /// Snapshots for replicas that cannot catch up from the log.
    counter snapshots(kind, direction, outcome) = "holdfast_consensus_snapshots_total";
    /// Their bytes.
    counter snapshot_bytes(kind, direction) = "holdfast_consensus_snapshot_bytes_total";
}

/// Handles of one group.
#[derive(Clone)]
pub(crate) struct GroupMetrics {
    pub(crate) proposals: Counter,
    pub(crate) proposed_bytes: Counter,
    pub(crate) applied: Counter,
    pub(crate) commit_seconds: Histogram,
    pub(crate) forwarded: Counter,
    pub(crate) refused: Counter,
    pub(crate) snapshot_bytes_sent: Counter,
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
            proposals: proposals(kind),
            proposed_bytes: proposed_bytes(kind),
            applied: applied(kind),
            commit_seconds: commit_seconds(kind),
            forwarded: forwarded(kind),
            refused: refused(kind),
            snapshot_bytes_sent: snapshot_bytes(kind, "sent"),
            snapshot_bytes_received: snapshot_bytes(kind, "received"),
            kind,
        }
    }

    /// Times without a leader that `cause` began: `handover` or `lost`.
    pub(crate) fn leaderless(&self, cause: &'static str) -> Histogram {
        leaderless_seconds(self.kind, cause)
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
        snapshots(self.kind, direction, outcome).increment(1);
    }
}
