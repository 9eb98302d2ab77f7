//! Which nodes are to hold which partition, and which are to vote in the registry. Pure.
//!
//! Why: the registry's leader may change in the middle of a plan, so the plan is a function of what the registry holds:
//! the next leader comes to the same one and goes on.
//! Invariants: only core nodes in service get anything; a replica stays where it is unless its node leaves, its zone is
//! crowded while another has room, or its node has at least two more than another; replicas of a partition are in as
//! many zones as there are; what fits is left alone (`assign(assign(view)) = assign(view)`); nobody is left without a
//! node. Whether a node is up does not count: who is down comes back, or is removed by an operator.
//! Not here: how groups follow (`control`).
//! Start at [`assign`] and [`registry_voters`].

mod leaders;
mod rendezvous;
mod spread;
#[cfg(test)]
mod tests;
mod voters;

use std::collections::BTreeMap;

use holdfast_registry::{ClusterView, NodeRole, NodeState, Placement};

pub use voters::registry_voters;

/// The failure zone of a node. One without a name is a zone by itself, so that a cluster without zones spreads over
/// nodes by the same rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Zone<'a> {
    Named(&'a str),
    Alone(u64),
}

/// The nodes that may hold something, with their zones.
struct Candidates<'a>(BTreeMap<u64, Zone<'a>>);

impl<'a> Candidates<'a> {
    /// Core nodes in service: not those that are still joining, and not those that are on their way out.
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

    fn contains(&self, node: u64) -> bool {
        self.0.contains_key(&node)
    }

    fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.keys().copied()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    /// How many of `chosen` are in the zone of `node`, itself not counted.
    fn neighbours(&self, node: u64, chosen: &[u64]) -> usize {
        let zone = self.0.get(&node);
        let others = chosen.iter().filter(|other| **other != node);
        others
            .filter(|other| zone.is_some() && self.0.get(other) == zone)
            .count()
    }
}

/// How many replicas a partition gets: the replication factor, as far as there are nodes.
#[must_use]
pub fn replica_count(view: &ClusterView) -> usize {
    let nodes = Candidates::of(view).len();
    usize::from(view.replication_factor.max(1)).min(nodes)
}

/// Where everything is to be. Equal to the view's placements when those are as they should be, or when there is no node
/// that could hold anything.
///
/// The first replica of each is the preferred leader; the others are in order of their ids.
#[must_use]
pub fn assign(view: &ClusterView) -> Vec<Placement> {
    let candidates = Candidates::of(view);
    if candidates.len() == 0 {
        return view.placements.clone();
    }
    let before: Vec<Vec<u64>> = view
        .placements
        .iter()
        .map(|placement| {
            let kept = placement.replicas.iter().copied();
            kept.filter(|node| candidates.contains(*node)).collect()
        })
        .collect();
    let preferred: Vec<Option<u64>> = view.placements.iter().map(|p| p.replicas.first().copied()).collect();
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
