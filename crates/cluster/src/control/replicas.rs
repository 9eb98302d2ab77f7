//! Which replicas this node starts and which it gives up. Pure.
//!
//! Invariants: what is on the disk is started whether it is wanted or not, since its group may still count on its vote;
//! only the founder of a partition may make it, and only where no replica has ever been.

use std::collections::BTreeSet;

use holdfast_model::PartitionId;
use holdfast_registry::ClusterView;

/// Something to be done about a replica here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplicaStep {
    /// Start it from what is on the disk, or empty, to be added by the group's leader.
    Start(PartitionId),
    /// Make the partition, unless there is a replica of it anywhere.
    Found(PartitionId),
    /// It is not wanted here: delete it, once its group has let it go.
    Leave(PartitionId),
}

/// What is to be done now, all of it independent. `running` and `on_disk` are this node's.
pub(super) fn steps(
    view: &ClusterView,
    me: u64,
    running: &BTreeSet<PartitionId>,
    on_disk: &BTreeSet<PartitionId>,
) -> Vec<ReplicaStep> {
    let known = view.placements.iter().filter_map(|placement| {
        let partition = placement.partition;
        let wanted = placement.replicas.contains(&me);
        match (running.contains(&partition), on_disk.contains(&partition)) {
            (true, _) if wanted => None,
            // Who is no member of the cluster any more has nobody to ask.
            (true, _) => view.node(me).map(|_| ReplicaStep::Leave(partition)),
            (false, true) => Some(ReplicaStep::Start(partition)),
            (false, false) if wanted && placement.founder == me => Some(ReplicaStep::Found(partition)),
            (false, false) if wanted => Some(ReplicaStep::Start(partition)),
            (false, false) => None,
        }
    });
    known.collect()
}
