//! Decides the next step that brings the members of a group to the desired ones. Pure.
//!
//! The order: a leader that is to be removed transfers its leadership → learners are added → they catch up → they become
//! voters and the old voters are removed in one joint change → leadership moves to the preferred leader. After each step, any
//! leader can take the remaining ones. A leader whose disk is full transfers its leadership first, since its group takes no
//! writes.
//! Invariants: voters are changed only if a majority of the new voters is up and has caught up; leadership is transferred
//! before the leader loses its vote; a group in its desired state gets no step.

use std::collections::BTreeSet;
use std::fmt;

use holdfast_consensus::Members;
use holdfast_model::NodeId;

/// The state of a group and its desired state, as its leader knows them.
#[derive(Debug, Clone)]
pub(super) struct Situation<'a> {
    /// This node, which leads.
    pub(super) me: NodeId,
    /// The members of the group.
    pub(super) members: &'a Members,
    /// Nodes that are up and have nearly all entries; always includes this node.
    pub(super) ready: &'a BTreeSet<NodeId>,
    /// Nodes that are up.
    pub(super) up: &'a BTreeSet<NodeId>,
    /// The desired voters.
    pub(super) voters: &'a BTreeSet<NodeId>,
    /// The desired learners.
    pub(super) learners: &'a BTreeSet<NodeId>,
    /// The preferred leader, if leadership is to move now.
    pub(super) preferred: Option<NodeId>,
    /// Nodes that have declined the leadership a moment ago.
    pub(super) declined: &'a BTreeSet<NodeId>,
    /// Whether this node's disk has space; otherwise the group takes no writes while this node leads it.
    pub(super) takes_writes: bool,
    /// The nodes that may lead if this node must not, the best first.
    pub(super) successors: &'a [NodeId],
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The group is in its desired state.
    Nothing,
    /// Add a node as a learner.
    AddLearner(NodeId),
    /// Make exactly these nodes voters.
    SetVoters(BTreeSet<NodeId>),
    /// Remove these learners.
    RemoveLearners(BTreeSet<NodeId>),
    /// Transfer the leadership to a voter.
    Transfer(NodeId),
    /// No step is possible at the moment.
    Wait(Wait),
}

/// The condition for the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wait {
    /// These nodes must catch up.
    CatchUp(BTreeSet<NodeId>),
    /// These nodes must come up.
    Down(BTreeSet<NodeId>),
    /// Too few of the desired voters are up for a quorum.
    NoQuorum(BTreeSet<NodeId>),
    /// No remaining node can take the leadership.
    NoSuccessor,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CatchUp(nodes) => write!(f, "waiting for {} to catch up", list(nodes)),
            Self::Down(nodes) => write!(f, "waiting for {}, which is down", list(nodes)),
            Self::NoQuorum(nodes) => write!(f, "too few of {} are up for a quorum", list(nodes)),
            Self::NoSuccessor => f.write_str("no node can take the leadership"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("in the desired state"),
            Self::AddLearner(node) => write!(f, "adding {node}"),
            Self::SetVoters(nodes) => write!(f, "changing the voters to {}", list(nodes)),
            Self::RemoveLearners(nodes) => write!(f, "removing {}", list(nodes)),
            Self::Transfer(node) => write!(f, "transferring the leadership to {node}"),
            Self::Wait(wait) => wait.fmt(f),
        }
    }
}

/// Node ids; the status replaces them by names.
fn list(nodes: &BTreeSet<NodeId>) -> String {
    let nodes = nodes.iter().map(NodeId::to_string).collect::<Vec<_>>();
    nodes.join(", ")
}

/// The next step.
pub(super) fn step(now: &Situation<'_>) -> Step {
    // A joint change is completed first: a transfer would leave it to a node that does not know of it yet.
    if !now.takes_writes
        && !now.members.joint
        && let Some(successor) = successor(now, &now.members.voters)
    {
        return Step::Transfer(successor);
    }
    if now.voters.is_empty() {
        return Step::Nothing;
    }
    // A leader that is to be removed transfers first: copying to its successors may take hours.
    if !now.members.joint && !now.voters.contains(&now.me) {
        let stay = now.voters.intersection(&now.members.voters).copied().collect();
        if let Some(successor) = successor(now, &stay) {
            return Step::Transfer(successor);
        }
    }
    let missing: BTreeSet<NodeId> = now
        .voters
        .union(now.learners)
        .copied()
        .filter(|node| !now.members.contains(*node))
        .collect();
    // A joint change is completed first: no other change is possible until then.
    if !now.members.joint
        && let Some(node) = missing.iter().find(|node| now.up.contains(node))
    {
        return Step::AddLearner(*node);
    }
    if now.members.voters != *now.voters || now.members.joint {
        return change_voters(now);
    }
    let stray: BTreeSet<NodeId> = now
        .members
        .learners
        .iter()
        .copied()
        .filter(|node| !now.learners.contains(node))
        .collect();
    if !stray.is_empty() {
        return Step::RemoveLearners(stray);
    }
    if let Some(to) = now.preferred
        && to != now.me
        && now.voters.contains(&to)
        && is_ready(now, to)
        && !now.declined.contains(&to)
    {
        return Step::Transfer(to);
    }
    if missing.is_empty() {
        Step::Nothing
    } else {
        Step::Wait(Wait::Down(missing))
    }
}

/// The best of `voters` that can take the leadership at once, so that it need not be transferred again. A node with a full
/// disk declines when it is asked.
fn successor(now: &Situation<'_>, voters: &BTreeSet<NodeId>) -> Option<NodeId> {
    let mut able = now.successors.iter().chain(voters).copied().filter(|node| {
        *node != now.me && voters.contains(node) && is_ready(now, *node) && !now.declined.contains(node)
    });
    able.next()
}

fn is_ready(now: &Situation<'_>, node: NodeId) -> bool {
    node == now.me || now.ready.contains(&node)
}

/// The step towards the desired voters, if the current voters differ or a joint change is incomplete.
fn change_voters(now: &Situation<'_>) -> Step {
    let target = target(now);
    if target == now.members.voters && !now.members.joint {
        return Step::Wait(missing_voters(now));
    }
    let alive = target.iter().filter(|node| is_ready(now, **node)).count();
    if alive <= target.len() / 2 {
        return Step::Wait(Wait::NoQuorum(target));
    }
    if target.contains(&now.me) {
        return Step::SetVoters(target);
    }
    // This leader will have no vote: another node must take over first.
    let stay = target.intersection(&now.members.voters).copied().collect();
    if let Some(successor) = successor(now, &stay) {
        if !now.members.joint {
            return Step::Transfer(successor);
        }
        return Step::SetVoters(with(target, now.me));
    }
    let wider = with(target, now.me);
    if wider == now.members.voters && !now.members.joint {
        return Step::Wait(Wait::NoSuccessor);
    }
    Step::SetVoters(wider)
}

fn with(mut nodes: BTreeSet<NodeId>, node: NodeId) -> BTreeSet<NodeId> {
    nodes.insert(node);
    nodes
}

/// The voters that are possible now: the desired ones that vote already or have caught up, and for each missing one a current
/// voter. If these are fewer than desired, the current voters.
fn target(now: &Situation<'_>) -> BTreeSet<NodeId> {
    let present = &now.members.voters;
    let mut target: BTreeSet<NodeId> = now
        .voters
        .iter()
        .copied()
        .filter(|node| present.contains(node) || is_ready(now, *node) && now.members.contains(*node))
        .collect();
    // The leader first, then ready nodes: they keep the quorum.
    let mut others: Vec<NodeId> = present.difference(now.voters).copied().collect();
    others.sort_by_key(|node| (*node != now.me, !is_ready(now, *node), *node));
    let open = now.voters.len().saturating_sub(target.len());
    target.extend(others.into_iter().take(open));
    if target.len() == now.voters.len() {
        return target;
    }
    present.clone()
}

fn missing_voters(now: &Situation<'_>) -> Wait {
    let missing = now.voters.difference(&now.members.voters).copied();
    let (up, down): (BTreeSet<NodeId>, BTreeSet<NodeId>) = missing.partition(|node| now.up.contains(node));
    if down.is_empty() {
        Wait::CatchUp(up)
    } else {
        Wait::Down(down)
    }
}

#[cfg(test)]
mod tests;
