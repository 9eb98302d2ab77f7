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
