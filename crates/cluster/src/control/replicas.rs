//! Decides which replicas this node starts and removes. Pure.
//!
//! Invariants: a replica with data on the disk is started whether it is placed here or not, since it may still be a voter of
//! its group; only the founder of a partition may create it, and only if no replica of it has ever existed.

use std::collections::BTreeSet;

use holdfast_model::{NodeId, PartitionId};
use holdfast_registry::ClusterView;

/// A step for a local replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplicaStep {
    /// Start it from the data on the disk.
    Start(PartitionId),
    /// Start it empty, to be added by the group's leader.
    StartEmpty(PartitionId),
    /// Create the partition, unless a replica of it exists on any node.
    Create(PartitionId),
    /// It is not placed here: delete it once its group has removed it.
    Remove(PartitionId),
}

/// The steps to take now; they are independent of each other. `running` and `on_disk` are this node's.
pub(super) fn steps(
    view: &ClusterView,
    me: NodeId,
    running: &BTreeSet<PartitionId>,
    on_disk: &BTreeSet<PartitionId>,
) -> Vec<ReplicaStep> {
    let known = view.placements.iter().filter_map(|placement| {
        let partition = placement.partition;
        let wanted = placement.replicas.contains(&me);
        match (running.contains(&partition), on_disk.contains(&partition)) {
            (true, _) if wanted => None,
            // A node that is not a member of the cluster any more cannot ask others.
            (true, _) => view.node(me).map(|_| ReplicaStep::Remove(partition)),
            (false, true) => Some(ReplicaStep::Start(partition)),
            (false, false) if wanted && placement.founder == me => Some(ReplicaStep::Create(partition)),
            (false, false) if wanted => Some(ReplicaStep::StartEmpty(partition)),
            (false, false) => None,
        }
    });
    known.collect()
}

#[cfg(test)]
mod tests {
    use holdfast_model::UnixMillis;
    use holdfast_registry::{NodeInfo, NodeRole, NodeState, Placement};

    use super::*;

    fn view(members: &[NodeId], placements: &[&[NodeId]]) -> ClusterView {
        let node = |id: &NodeId| NodeInfo {
            id: *id,
            name: format!("n{id}"),
            address: format!("n{id}:1"),
            zone: String::new(),
            role: NodeRole::Core,
            state: NodeState::Active,
            version: String::new(),
            joined: UnixMillis(0),
        };
        ClusterView {
            version: 1,
            cluster: "c".to_owned(),
            replication_factor: 3,
            nodes: members.iter().map(|id| (*id, node(id))).collect(),
            placements: placements
                .iter()
                .zip(0..)
                .map(|(replicas, partition)| Placement {
                    partition: PartitionId(partition),
                    replicas: replicas.to_vec(),
                    founder: NodeId(1),
                })
                .collect(),
        }
    }

    fn check(me: NodeId, view: &ClusterView, running: &[u16], on_disk: &[u16], expected: &[ReplicaStep]) {
        let set = |ids: &[u16]| ids.iter().copied().map(PartitionId).collect::<BTreeSet<_>>();
        assert_eq!(steps(view, me, &set(running), &set(on_disk)), expected);
    }

    #[test]
    fn the_founder_creates_new_partitions_and_others_start_empty() {
        let view = view(
            &[NodeId(1), NodeId(2)],
            &[&[NodeId(1), NodeId(2)], &[NodeId(2), NodeId(1)]],
        );
        let (first, second) = (PartitionId(0), PartitionId(1));
        check(
            NodeId(1),
            &view,
            &[],
            &[],
            &[ReplicaStep::Create(first), ReplicaStep::Create(second)],
        );
        check(
            NodeId(2),
            &view,
            &[],
            &[],
            &[ReplicaStep::StartEmpty(first), ReplicaStep::StartEmpty(second)],
        );
        check(NodeId(2), &view, &[0], &[0], &[ReplicaStep::StartEmpty(second)]);
        check(NodeId(2), &view, &[0, 1], &[0, 1], &[]);
    }

    #[test]
    fn replicas_on_the_disk_are_started_and_never_created_again() {
        let view = view(&[NodeId(1), NodeId(2)], &[&[NodeId(1)], &[NodeId(2)]]);
        let steps = [ReplicaStep::Start(PartitionId(0)), ReplicaStep::Start(PartitionId(1))];
        check(NodeId(1), &view, &[], &[0, 1], &steps);
    }

    #[test]
    fn replicas_placed_elsewhere_are_removed_except_on_a_removed_node() {
        let view = view(&[NodeId(1), NodeId(2)], &[&[NodeId(2)], &[NodeId(2), NodeId(1)]]);
        check(
            NodeId(1),
            &view,
            &[0, 1],
            &[0, 1],
            &[ReplicaStep::Remove(PartitionId(0))],
        );
        check(NodeId(3), &view, &[0, 1], &[0, 1], &[]);
    }
}
