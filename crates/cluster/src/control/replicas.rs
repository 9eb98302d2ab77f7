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

#[cfg(test)]
mod tests {
    use holdfast_model::UnixMillis;
    use holdfast_registry::{NodeInfo, NodeRole, NodeState, Placement};

    use super::*;

    fn view(members: &[u64], placements: &[&[u64]]) -> ClusterView {
        let node = |id: &u64| NodeInfo {
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
                    founder: 1,
                })
                .collect(),
        }
    }

    fn check(me: u64, view: &ClusterView, running: &[u16], on_disk: &[u16], expected: &[ReplicaStep]) {
        let set = |ids: &[u16]| ids.iter().copied().map(PartitionId).collect::<BTreeSet<_>>();
        assert_eq!(steps(view, me, &set(running), &set(on_disk)), expected);
    }

    #[test]
    fn the_founder_makes_what_is_nowhere_and_others_start_empty() {
        let view = view(&[1, 2], &[&[1, 2], &[2, 1]]);
        let (first, second) = (PartitionId(0), PartitionId(1));
        check(
            1,
            &view,
            &[],
            &[],
            &[ReplicaStep::Found(first), ReplicaStep::Found(second)],
        );
        check(
            2,
            &view,
            &[],
            &[],
            &[ReplicaStep::Start(first), ReplicaStep::Start(second)],
        );
        check(2, &view, &[0], &[0], &[ReplicaStep::Start(second)]);
        check(2, &view, &[0, 1], &[0, 1], &[]);
    }

    #[test]
    fn what_is_on_the_disk_is_started_and_never_made_again() {
        let view = view(&[1, 2], &[&[1], &[2]]);
        let steps = [ReplicaStep::Start(PartitionId(0)), ReplicaStep::Start(PartitionId(1))];
        check(1, &view, &[], &[0, 1], &steps);
    }

    #[test]
    fn what_is_elsewhere_now_is_given_up_but_not_by_who_is_no_member() {
        let view = view(&[1, 2], &[&[2], &[2, 1]]);
        check(1, &view, &[0, 1], &[0, 1], &[ReplicaStep::Leave(PartitionId(0))]);
        check(3, &view, &[0, 1], &[0, 1], &[]);
    }
}
