//! The registry writes that the registry's leader makes for the cluster. Pure.

use std::collections::BTreeSet;

use holdfast_consensus::Members;
use holdfast_model::NodeId;
use holdfast_registry::{ClusterView, NodeState, Placement};

use crate::placement::assign;

/// A write to the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LeaderTask {
    /// The node's replica of the registry has caught up: put the node into service.
    Activate(NodeId),
    /// Change the placement of these partitions.
    Place(Vec<Placement>),
}

/// The next write, if one is due. `ready` are the nodes that are up and have nearly all entries of the registry.
pub(super) fn next(view: &ClusterView, members: &Members, ready: &BTreeSet<NodeId>) -> Option<LeaderTask> {
    if view.cluster.is_empty() {
        return None;
    }
    let joining = view.nodes.values().filter(|node| node.state == NodeState::Joining);
    let mut caught_up = joining.filter(|node| members.contains(node.id) && ready.contains(&node.id));
    if let Some(node) = caught_up.next() {
        return Some(LeaderTask::Activate(node.id));
    }
    let wanted = assign(view).into_iter();
    let changed: Vec<Placement> = wanted
        .zip(&view.placements)
        .filter(|(wanted, present)| wanted != *present)
        .map(|(wanted, _)| wanted)
        .collect();
    (!changed.is_empty()).then_some(LeaderTask::Place(changed))
}

#[cfg(test)]
mod tests {
    use holdfast_model::{PartitionId, UnixMillis};
    use holdfast_registry::{NodeInfo, NodeRole};

    use super::*;

    fn view(states: &[NodeState]) -> ClusterView {
        let nodes = states.iter().zip(1_u64..).map(|(state, id)| NodeInfo {
            id: NodeId(id),
            name: format!("n{id}"),
            address: format!("n{id}:1"),
            zone: String::new(),
            role: NodeRole::Core,
            state: *state,
            version: String::new(),
            joined: UnixMillis(0),
        });
        ClusterView {
            version: 1,
            cluster: "c".to_owned(),
            replication_factor: 3,
            nodes: nodes.map(|node| (node.id, node)).collect(),
            placements: (0..4)
                .map(|partition| Placement {
                    partition: PartitionId(partition),
                    replicas: vec![NodeId(1)],
                    founder: NodeId(1),
                })
                .collect(),
        }
    }

    fn members(learners: &[NodeId]) -> Members {
        Members {
            voters: BTreeSet::from([NodeId(1)]),
            learners: learners.iter().copied().collect(),
            joint: false,
        }
    }

    #[test]
    fn a_node_enters_service_when_its_registry_has_caught_up_and_then_gets_replicas() {
        let joining = view(&[NodeState::Active, NodeState::Joining]);
        assert_eq!(
            next(&joining, &members(&[]), &BTreeSet::from([NodeId(1), NodeId(2)])),
            None,
            "not added yet"
        );
        assert_eq!(
            next(&joining, &members(&[NodeId(2)]), &BTreeSet::from([NodeId(1)])),
            None,
            "not caught up"
        );
        assert_eq!(
            next(
                &joining,
                &members(&[NodeId(2)]),
                &BTreeSet::from([NodeId(1), NodeId(2)])
            ),
            Some(LeaderTask::Activate(NodeId(2)))
        );
        let active = view(&[NodeState::Active, NodeState::Active]);
        let Some(LeaderTask::Place(placements)) =
            next(&active, &members(&[NodeId(2)]), &BTreeSet::from([NodeId(1), NodeId(2)]))
        else {
            panic!("nothing was placed");
        };
        assert_eq!(placements.len(), 4);
        let placed = ClusterView { placements, ..active };
        assert_eq!(
            next(&placed, &members(&[NodeId(2)]), &BTreeSet::from([NodeId(1), NodeId(2)])),
            None
        );
    }

    #[test]
    fn before_the_bootstrap_there_is_no_task() {
        assert_eq!(
            next(&ClusterView::default(), &members(&[]), &BTreeSet::from([NodeId(1)])),
            None
        );
    }
}
