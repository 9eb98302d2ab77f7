//! What the registry's leader does for the cluster besides the registry's own members. Pure.

use std::collections::BTreeSet;

use holdfast_consensus::Members;
use holdfast_registry::{ClusterView, NodeState, Placement};

use crate::placement::assign;

/// A write to the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Duty {
    /// The node's replica of the registry has caught up: it is in service.
    Activate(u64),
    /// These partitions are to be elsewhere.
    Place(Vec<Placement>),
}

/// The next write, if one is due. `ready` are the nodes that are up and have nearly all of the registry.
pub(super) fn duty(view: &ClusterView, members: &Members, ready: &BTreeSet<u64>) -> Option<Duty> {
    if view.cluster.is_empty() {
        return None;
    }
    let joining = view.nodes.values().filter(|node| node.state == NodeState::Joining);
    let mut caught_up = joining.filter(|node| members.contains(node.id) && ready.contains(&node.id));
    if let Some(node) = caught_up.next() {
        return Some(Duty::Activate(node.id));
    }
    let wanted = assign(view).into_iter();
    let changed: Vec<Placement> = wanted
        .zip(&view.placements)
        .filter(|(wanted, present)| wanted != *present)
        .map(|(wanted, _)| wanted)
        .collect();
    (!changed.is_empty()).then_some(Duty::Place(changed))
}

#[cfg(test)]
mod tests {
    use holdfast_model::{PartitionId, UnixMillis};
    use holdfast_registry::{NodeInfo, NodeRole};

    use super::*;

    fn view(states: &[NodeState]) -> ClusterView {
        let nodes = states.iter().zip(1_u64..).map(|(state, id)| NodeInfo {
            id,
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
                    replicas: vec![1],
                    founder: 1,
                })
                .collect(),
        }
    }

    fn members(learners: &[u64]) -> Members {
        Members {
            voters: BTreeSet::from([1]),
            learners: learners.iter().copied().collect(),
            joint: false,
        }
    }

    #[test]
    fn a_node_is_in_service_when_it_has_the_registry_and_gets_replicas_then() {
        let joining = view(&[NodeState::Active, NodeState::Joining]);
        assert_eq!(
            duty(&joining, &members(&[]), &BTreeSet::from([1, 2])),
            None,
            "not added yet"
        );
        assert_eq!(
            duty(&joining, &members(&[2]), &BTreeSet::from([1])),
            None,
            "not caught up"
        );
        assert_eq!(
            duty(&joining, &members(&[2]), &BTreeSet::from([1, 2])),
            Some(Duty::Activate(2))
        );
        let active = view(&[NodeState::Active, NodeState::Active]);
        let Some(Duty::Place(placements)) = duty(&active, &members(&[2]), &BTreeSet::from([1, 2])) else {
            panic!("nothing was placed");
        };
        assert_eq!(placements.len(), 4);
        let placed = ClusterView { placements, ..active };
        assert_eq!(duty(&placed, &members(&[2]), &BTreeSet::from([1, 2])), None);
    }

    #[test]
    fn before_the_cluster_is_founded_there_is_nothing_to_do() {
        assert_eq!(duty(&ClusterView::default(), &members(&[]), &BTreeSet::from([1])), None);
    }
}
