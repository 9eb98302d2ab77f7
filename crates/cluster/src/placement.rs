//! Places partitions on nodes, and selects the voters of the registry. Pure.
//!
//! Why: the registry's leader may change while a plan is carried out, so the plan is a function of the registry's content:
//! the next leader computes the same plan and continues.
//! Invariants: only core nodes in service get replicas; a replica stays on its node unless the node leaves, its zone has more
//! replicas than another zone needs, or its node has at least two more than another; the replicas of a partition are in as
//! many zones as possible; a valid placement is not changed (`assign(assign(view)) = assign(view)`); every partition has a
//! node. Whether a node is up does not matter: it returns, or an operator removes it.
//! Not here: how groups follow (`control`).
//! Start at [`assign`] and [`registry_voters`].

mod leaders;
mod rendezvous;
mod spread;
#[cfg(test)]
mod tests;
mod voters;

use std::collections::BTreeMap;

use holdfast_model::NodeId;
use holdfast_registry::{ClusterView, NodeRole, NodeState, Placement};

pub use voters::registry_voters;

/// The failure zone of a node. A node without a named zone is a zone of its own, so that a cluster without zones spreads over
/// nodes by the same rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Zone<'a> {
    Named(&'a str),
    Alone(NodeId),
}

/// The nodes that may hold replicas, with their zones.
struct Candidates<'a>(BTreeMap<NodeId, Zone<'a>>);

impl<'a> Candidates<'a> {
    /// Core nodes in service: neither joining nor draining.
    fn of(view: &'a ClusterView) -> Self {
        let nodes = view.nodes.values();
        Self(
            nodes
                .filter(|node| node.role == NodeRole::Core && node.state == NodeState::Active)
                .map(|node| {
                    let zone = match node.zone.as_str() {
                        "" => Zone::Alone(node.id),
                        name => Zone::Named(name),
                    };
                    (node.id, zone)
                })
                .collect(),
        )
    }

    fn contains(&self, node: NodeId) -> bool {
        self.0.contains_key(&node)
    }

    fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.keys().copied()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    /// The number of other nodes of `chosen` in the zone of `node`.
    fn neighbours(&self, node: NodeId, chosen: &[NodeId]) -> usize {
        let zone = self.0.get(&node);
        let others = chosen.iter().filter(|other| **other != node);
        others
            .filter(|other| zone.is_some() && self.0.get(other) == zone)
            .count()
    }
}

/// The number of replicas of a partition: the replication factor, limited by the number of nodes.
#[must_use]
pub fn replica_count(view: &ClusterView) -> usize {
    let nodes = Candidates::of(view).len();
    usize::from(view.replication_factor.max(1)).min(nodes)
}

/// The desired placements. Equal to the view's placements if those are valid, or if no node may hold replicas.
///
/// The first replica of each partition is the preferred leader; the others are in order of their ids.
#[must_use]
pub fn assign(view: &ClusterView) -> Vec<Placement> {
    let candidates = Candidates::of(view);
    if candidates.len() == 0 {
        return view.placements.clone();
    }
    let before: Vec<Vec<NodeId>> = view
        .placements
        .iter()
        .map(|placement| {
            let kept = placement.replicas.iter().copied();
            kept.filter(|node| candidates.contains(*node)).collect()
        })
        .collect();
    let preferred: Vec<Option<NodeId>> = view.placements.iter().map(|p| p.replicas.first().copied()).collect();
    let replicas = spread::spread(&candidates, before, replica_count(view));
    let leaders = leaders::spread(&candidates, &replicas, &preferred);
    let placements = view.placements.iter().zip(replicas).zip(leaders);
    placements
        .map(|((placement, mut replicas), leader)| {
            // The leader first, then by id, so that equal sets are equal lists.
            replicas.sort_unstable_by_key(|node| (*node != leader, *node));
            Placement {
                partition: placement.partition,
                replicas,
                founder: placement.founder,
            }
        })
        .collect()
}
