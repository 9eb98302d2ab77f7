//! Who votes in the registry: 1, 3 or 5 core nodes, in different zones where there are some; all others learn.
//!
//! Why not all: each write waits for a majority. Why odd: a fourth voter costs a copy and survives nothing more.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use holdfast_registry::ClusterView;

use super::Candidates;
use super::rendezvous::{REGISTRY, score};

/// The wanted voters. `current` are kept where that costs nothing; nodes in `given_up` have been down for so long that
/// another one votes in their place while there is one. Empty only when there is no core node in service: then nothing
/// is to be changed.
#[must_use]
pub fn registry_voters(view: &ClusterView, current: &BTreeSet<u64>, given_up: &BTreeSet<u64>) -> BTreeSet<u64> {
    let nodes = Candidates::of(view);
    let kept = nodes.ids().filter(|node| current.contains(node)).count();
    let count = match nodes.len() {
        // Two voters survive no failure; but one that has a copy is not told to forget it.
        2 if kept == 2 => 2,
        0..=2 => nodes.len().min(1),
        3 | 4 => 3,
        _ => 5,
    };
    let mut chosen: Vec<u64> = Vec::with_capacity(count);
    while chosen.len() < count {
        let free = nodes.ids().filter(|node| !chosen.contains(node));
        let best = free.min_by_key(|node| {
            (
                given_up.contains(node),
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
