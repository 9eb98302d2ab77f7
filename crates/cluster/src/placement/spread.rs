//! Spreads replicas over nodes: first the desired number, then over zones, then evenly.
//!
//! Each step makes the change with the largest gain and stops when none has a gain, so that a good placement is kept. It
//! terminates, since every change lowers either the number of replicas in a zone or the sum of squared loads.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use holdfast_model::NodeId;

use super::Candidates;
use super::rendezvous::score;

struct Spread<'a> {
    nodes: &'a Candidates<'a>,
    /// By partition.
    replicas: Vec<Vec<NodeId>>,
    /// Replicas by node.
    loads: BTreeMap<NodeId, usize>,
}

/// Gives each partition `count` nodes, and keeps its current ones where possible.
pub(super) fn spread(nodes: &Candidates<'_>, kept: Vec<Vec<NodeId>>, count: usize) -> Vec<Vec<NodeId>> {
    let mut loads: BTreeMap<NodeId, usize> = nodes.ids().map(|node| (node, 0)).collect();
    for node in kept.iter().flatten() {
        *loads.entry(*node).or_default() += 1;
    }
    let mut spread = Spread {
        nodes,
        replicas: kept,
        loads,
    };
    for partition in 0..spread.replicas.len() {
        spread.fit(partition, count);
    }
    for partition in 0..spread.replicas.len() {
        while spread.leave_crowded_zone(partition) {}
    }
    while spread.even_out() {}
    spread.replicas
}

impl Spread<'_> {
    fn load(&self, node: NodeId) -> usize {
        self.loads.get(&node).copied().unwrap_or(0)
    }

    fn put(&mut self, partition: usize, node: NodeId) {
        self.replicas[partition].push(node);
        *self.loads.entry(node).or_default() += 1;
    }

    fn take(&mut self, partition: usize, node: NodeId) {
        self.replicas[partition].retain(|other| *other != node);
        let load = self.loads.entry(node).or_default();
        *load = load.saturating_sub(1);
    }

    /// The best node for another replica: in the zone with the fewest replicas, then with the lowest load.
    fn best(&self, partition: usize) -> Option<NodeId> {
        let held = &self.replicas[partition];
        let free = self.nodes.ids().filter(|node| !held.contains(node));
        free.min_by_key(|node| {
            (
                self.nodes.neighbours(*node, held),
                self.load(*node),
                Reverse(score_of(partition, *node)),
            )
        })
    }

    /// The replica to remove first: in the zone with the most replicas, then with the highest load.
    fn worst(&self, partition: usize) -> Option<NodeId> {
        let held = &self.replicas[partition];
        held.iter().copied().max_by_key(|node| {
            (
                self.nodes.neighbours(*node, held),
                self.load(*node),
                Reverse(score_of(partition, *node)),
            )
        })
    }

    /// Adds or removes replicas until there are `count`.
    fn fit(&mut self, partition: usize, count: usize) {
        while self.replicas[partition].len() < count {
            let Some(node) = self.best(partition) else { break };
            self.put(partition, node);
        }
        while self.replicas[partition].len() > count {
            let Some(node) = self.worst(partition) else { break };
            self.take(partition, node);
        }
    }

    /// Moves a replica to a zone that has at least two fewer; returns whether it did.
    fn leave_crowded_zone(&mut self, partition: usize) -> bool {
        let (Some(from), Some(to)) = (self.worst(partition), self.best(partition)) else {
            return false;
        };
        let held = &self.replicas[partition];
        // `from` counts in its own zone, and `to` would count in its.
        if self.nodes.neighbours(from, held) <= self.nodes.neighbours(to, held) {
            return false;
        }
        self.take(partition, from);
        self.put(partition, to);
        true
    }

    /// Moves a replica to a node that has at least two fewer, unless its zone would have more replicas of the partition.
    fn even_out(&mut self) -> bool {
        let mut best: Option<(usize, u64, usize, NodeId, NodeId)> = None;
        for (partition, held) in self.replicas.iter().enumerate() {
            for from in held.iter().copied() {
                for to in self.nodes.ids().filter(|node| !held.contains(node)) {
                    let gap = self.load(from).saturating_sub(self.load(to));
                    if gap < 2 || best.is_some_and(|(found, ..)| gap < found) {
                        continue;
                    }
                    let rest: Vec<NodeId> = held.iter().copied().filter(|node| *node != from).collect();
                    if self.nodes.neighbours(to, &rest) > self.nodes.neighbours(from, &rest) {
                        continue;
                    }
                    let change = (gap, score_of(partition, to), partition, from, to);
                    if best.is_none_or(|found| change > found) {
                        best = Some(change);
                    }
                }
            }
        }
        let Some((_, _, partition, from, to)) = best else {
            return false;
        };
        self.take(partition, from);
        self.put(partition, to);
        true
    }
}

fn score_of(partition: usize, node: NodeId) -> u64 {
    score(u32::try_from(partition).unwrap_or(u32::MAX), node)
}
