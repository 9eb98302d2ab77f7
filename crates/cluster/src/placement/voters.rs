//! Selects the voters of the registry: 1, 3 or 5 core nodes, in different zones if possible; all other nodes are learners.
//!
//! Why not all: each write waits for a majority. Why odd: a fourth voter costs a copy and tolerates no further failure.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use holdfast_model::NodeId;
use holdfast_registry::ClusterView;

use super::Candidates;
use super::rendezvous::{REGISTRY, score};

/// The desired voters. `current` ones are kept if nothing speaks against them; nodes in `lost` have been down for so long that
/// other nodes vote in their place, if there are any. Empty only if no core node is in service: then nothing is changed.
#[must_use]
pub fn registry_voters(view: &ClusterView, current: &BTreeSet<NodeId>, lost: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let nodes = Candidates::of(view);
    let kept = nodes.ids().filter(|node| current.contains(node)).count();
    let count = match nodes.len() {
        // Two voters tolerate no failure, but a second one that has a copy is kept.
        2 if kept == 2 => 2,
        0..=2 => nodes.len().min(1),
        3 | 4 => 3,
        _ => 5,
    };
    let mut chosen: Vec<NodeId> = Vec::with_capacity(count);
    while chosen.len() < count {
        let free = nodes.ids().filter(|node| !chosen.contains(node));
        let best = free.min_by_key(|node| {
            (
                lost.contains(node),
                nodes.neighbours(*node, &chosen),
                !current.contains(node),
                Reverse(score(REGISTRY, *node)),
            )
        });
        let Some(best) = best else { break };
        chosen.push(best);
    }
    chosen.into_iter().collect()
}
