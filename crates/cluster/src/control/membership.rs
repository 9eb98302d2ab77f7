//! The next step that brings a group's members to what is wanted. Pure.
//!
//! The order: a leader that is to leave hands on → learners in → caught up → they vote and the old ones leave, in one joint
//! change → leadership where it is preferred. Each step leaves a state from which the rest can be done by whoever leads
//! then. A leader whose disk is full hands on first of all: its group takes no writes.
//! Invariants: a change of voters is made only when a majority of the new ones is up and caught up; leadership is handed
//! on before its holder loses its vote; a group that is as wanted gets no step.

use std::collections::BTreeSet;
use std::fmt;

use holdfast_consensus::Members;

/// What the leader of a group knows.
#[derive(Debug, Clone)]
pub(super) struct Situation<'a> {
    /// This node, which leads.
    pub(super) me: u64,
    /// Who belongs to the group.
    pub(super) members: &'a Members,
    /// Who is up and has nearly all entries; this node counts in any case.
    pub(super) ready: &'a BTreeSet<u64>,
    /// Who is up.
    pub(super) up: &'a BTreeSet<u64>,
    /// Who is to vote.
    pub(super) voters: &'a BTreeSet<u64>,
    /// Who is to learn besides.
    pub(super) learners: &'a BTreeSet<u64>,
    /// Who is to lead, if that is to be changed now.
    pub(super) preferred: Option<u64>,
    /// Who has refused to lead a moment ago.
    pub(super) unwilling: &'a BTreeSet<u64>,
    /// Whether this node's disk has room; else the group takes no writes while this node leads it.
    pub(super) takes_writes: bool,
    /// Who is to lead in this node's place when it cannot go on leading, the best first.
    pub(super) successors: &'a [u64],
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Everything is as wanted.
    Nothing,
    /// Add a node that does not vote yet.
    AddLearner(u64),
    /// Let exactly these vote.
    SetVoters(BTreeSet<u64>),
    /// These leave.
    RemoveLearners(BTreeSet<u64>),
    /// Hand leadership to a voter.
    Transfer(u64),
    /// Nothing can be done until something else happens.
    Wait(Wait),
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wait {
    /// These are to catch up first.
    CatchUp(BTreeSet<u64>),
    /// These are to come up first.
    Down(BTreeSet<u64>),
    /// The wanted voters cannot reach a quorum: too few of them are up.
    NoQuorum(BTreeSet<u64>),
    /// Nobody who stays can take the leadership now.
    NoSuccessor,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CatchUp(nodes) => write!(f, "waiting for {} to catch up", list(nodes)),
            Self::Down(nodes) => write!(f, "waiting for {}, which is down", list(nodes)),
            Self::NoQuorum(nodes) => write!(f, "too few of {} are up to go on without the others", list(nodes)),
            Self::NoSuccessor => f.write_str("nobody can take the leadership now"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("as wanted"),
            Self::AddLearner(node) => write!(f, "adding {node}"),
            Self::SetVoters(nodes) => write!(f, "changing the voters to {}", list(nodes)),
            Self::RemoveLearners(nodes) => write!(f, "removing {}", list(nodes)),
            Self::Transfer(node) => write!(f, "handing the leadership to {node}"),
            Self::Wait(wait) => wait.fmt(f),
        }
    }
}

/// Ids, as `{17}` each, which who shows them replaces by names.
fn list(nodes: &BTreeSet<u64>) -> String {
    let nodes = nodes.iter().map(u64::to_string).collect::<Vec<_>>();
    nodes.join(", ")
}

/// The next step.
pub(super) fn step(now: &Situation<'_>) -> Step {
    // A half-made change is ended first: a transfer would leave it to somebody who does not know of it yet.
    if !now.takes_writes
        && !now.members.joint
        && let Some(successor) = successor(now, &now.members.voters)
    {
        return Step::Transfer(successor);
    }
    if now.voters.is_empty() {
        return Step::Nothing;
    }
    // Who is to leave hands on what it leads first: until its successors have copied everything may take hours.
    if !now.members.joint && !now.voters.contains(&now.me) {
        let stay = now.voters.intersection(&now.members.voters).copied().collect();
        if let Some(successor) = successor(now, &stay) {
            return Step::Transfer(successor);
        }
    }
    let missing: BTreeSet<u64> = now
        .voters
        .union(now.learners)
        .copied()
        .filter(|node| !now.members.contains(*node))
        .collect();
    // A half-made change is ended first: until then no other can be made.
    if !now.members.joint
        && let Some(node) = missing.iter().find(|node| now.up.contains(node))
    {
        return Step::AddLearner(*node);
    }
    if now.members.voters != *now.voters || now.members.joint {
        return change_voters(now);
    }
    let stray: BTreeSet<u64> = now
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
        && !now.unwilling.contains(&to)
    {
        return Step::Transfer(to);
    }
    if missing.is_empty() {
        Step::Nothing
    } else {
        Step::Wait(Wait::Down(missing))
    }
}

/// Who of `voters` can take the leadership at once, the best first: that saves the next leader from handing it on again.
/// Whether its disk has room it says when it is asked.
fn successor(now: &Situation<'_>, voters: &BTreeSet<u64>) -> Option<u64> {
    let mut able = now.successors.iter().chain(voters).copied().filter(|node| {
        *node != now.me && voters.contains(node) && is_ready(now, *node) && !now.unwilling.contains(node)
    });
    able.next()
}

fn is_ready(now: &Situation<'_>, node: u64) -> bool {
    node == now.me || now.ready.contains(&node)
}

/// Towards the wanted voters, when the present ones are others or a change stands half-way.
fn change_voters(now: &Situation<'_>) -> Step {
    let target = target(now);
    if target == now.members.voters && !now.members.joint {
        return Step::Wait(waits_for(now));
    }
    let alive = target.iter().filter(|node| is_ready(now, **node)).count();
    if alive <= target.len() / 2 {
        return Step::Wait(Wait::NoQuorum(target));
    }
    if target.contains(&now.me) {
        return Step::SetVoters(target);
    }
    // Who leads now will have no vote: another one takes over first.
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

fn with(mut nodes: BTreeSet<u64>, node: u64) -> BTreeSet<u64> {
    nodes.insert(node);
    nodes
}

/// The voters that can be had now: the wanted ones that vote already or have caught up, and in the place of those who
/// have not, some of the present ones. The present ones where that would be fewer than wanted.
fn target(now: &Situation<'_>) -> BTreeSet<u64> {
    let present = &now.members.voters;
    let mut target: BTreeSet<u64> = now
        .voters
        .iter()
        .copied()
        .filter(|node| present.contains(node) || is_ready(now, *node) && now.members.contains(*node))
        .collect();
    // The leader first, then who is ready: they keep the quorum.
    let mut others: Vec<u64> = present.difference(now.voters).copied().collect();
    others.sort_by_key(|node| (*node != now.me, !is_ready(now, *node), *node));
    let open = now.voters.len().saturating_sub(target.len());
    target.extend(others.into_iter().take(open));
    if target.len() == now.voters.len() {
        return target;
    }
    present.clone()
}

fn waits_for(now: &Situation<'_>) -> Wait {
    let missing = now.voters.difference(&now.members.voters).copied();
    let (up, down): (BTreeSet<u64>, BTreeSet<u64>) = missing.partition(|node| now.up.contains(node));
    if down.is_empty() {
        Wait::CatchUp(up)
    } else {
        Wait::Down(down)
    }
}

#[cfg(test)]
mod tests;
