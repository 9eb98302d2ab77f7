//! What is counted about groups; the names are listed in docs/metrics.md.

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
        }
    }
}
