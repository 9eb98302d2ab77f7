//! Spreads the preferred leaders over the nodes as evenly as the replicas allow, with as few changes as possible.
//!
//! A change may need a chain: a node gives a partition to a second node, which gives another one to a third. The shortest
//! chain from a node to one that leads at least two fewer is applied until there is none, which gives an optimal
//! semi-matching.

use std::collections::{BTreeMap, VecDeque};

use holdfast_model::NodeId;

use super::Candidates;
use super::rendezvous::score;

/// The preferred leader of each partition, one of its `replicas`, which are not empty; keeps `before` where possible.
pub(super) fn spread(nodes: &Candidates<'_>, replicas: &[Vec<NodeId>], before: &[Option<NodeId>]) -> Vec<NodeId> {
    let mut counts: BTreeMap<NodeId, usize> = nodes.ids().map(|node| (node, 0)).collect();
    let kept: Vec<Option<NodeId>> = replicas
        .iter()
        .zip(before)
        .map(|(held, before)| before.filter(|node| held.contains(node)))
        .collect();
    for node in kept.iter().flatten() {
        *counts.entry(*node).or_default() += 1;
    }
    let mut leaders = Vec::with_capacity(replicas.len());
    for (partition, held) in replicas.iter().enumerate() {
        let key = u32::try_from(partition).unwrap_or(u32::MAX);
        let fewest = || {
            let held = held.iter().copied();
            held.min_by_key(|node| {
                (
                    counts.get(node).copied().unwrap_or(0),
                    std::cmp::Reverse(score(key, *node)),
                )
            })
        };
        let leader = kept[partition].or_else(fewest).unwrap_or_default();
        if kept[partition].is_none() {
            *counts.entry(leader).or_default() += 1;
        }
        leaders.push(leader);
    }
    while let Some(chain) = chain(replicas, &leaders, &counts) {
        if let (Some((_, first)), Some((last, _))) = (chain.first(), chain.last()) {
            *counts.entry(leaders[*first]).or_default() -= 1;
            *counts.entry(*last).or_default() += 1;
        }
        for (to, partition) in chain {
            leaders[partition] = to;
        }
    }
    leaders
}

/// Changes (new leader, partition) along a shortest chain from a node to one with at least two fewer.
fn chain(
    replicas: &[Vec<NodeId>],
    leaders: &[NodeId],
    counts: &BTreeMap<NodeId, usize>,
) -> Option<Vec<(NodeId, usize)>> {
    let mut from: Vec<(usize, NodeId)> = counts.iter().map(|(node, count)| (*count, *node)).collect();
    from.sort_unstable_by(|a, b| b.cmp(a));
    from.into_iter().find_map(|(count, node)| {
        let enough = count.checked_sub(2)?;
        // How a node was reached: by which partition, from which node.
        let mut reached: BTreeMap<NodeId, Option<(usize, NodeId)>> = BTreeMap::from([(node, None)]);
        let mut queue = VecDeque::from([node]);
        while let Some(at) = queue.pop_front() {
            if at != node && counts.get(&at).is_some_and(|count| *count <= enough) {
                let mut chain = Vec::new();
                let mut to = at;
                while let Some(Some((partition, giver))) = reached.get(&to) {
                    chain.push((to, *partition));
                    to = *giver;
                }
                chain.reverse();
                return Some(chain);
            }
            for (partition, held) in replicas.iter().enumerate().filter(|(p, _)| leaders[*p] == at) {
                for to in held.iter().copied() {
                    reached.entry(to).or_insert_with(|| {
                        queue.push_back(to);
                        Some((partition, at))
                    });
                }
            }
        }
        None
    })
}
