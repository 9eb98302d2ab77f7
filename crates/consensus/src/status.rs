//! The status of a group: leader, members, progress.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::metrics::RaftServerMetrics;
use openraft::{Instant, RaftMetrics, ServerState};
use thiserror::Error;

use crate::ids::StoredMembership;
use crate::position::GroupId;
use crate::type_config::Types;

/// The leader of a group and its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Leader {
    /// Its term.
    pub term: u64,
    /// Its node id: of two leaders that follow each other in one term, the later one has the greater id.
    pub node: u64,
}

/// The role of a node in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It leads.
    Leader,
    /// It votes and follows.
    Follower,
    /// It follows without a vote.
    Learner,
    /// It stands for election.
    Candidate,
}

impl Role {
    /// Its name in status output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
            Self::Candidate => "candidate",
        }
    }
}

/// The members of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// The voters. During a change: those before and those after it.
    pub voters: BTreeSet<u64>,
    /// Members without a vote.
    pub learners: BTreeSet<u64>,
    /// A change of voters is in progress: quorums of the old and of the new voters are needed.
    pub joint: bool,
}

impl Members {
    /// Whether `node` is one of them.
    #[must_use]
    pub fn contains(&self, node: u64) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }

    /// Whether there are none: the group has never been bootstrapped, as far as this node knows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty() && self.learners.is_empty()
    }

    pub(crate) fn of(stored: &StoredMembership) -> Self {
        let membership = stored.membership();
        Self {
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            joint: membership.get_joint_config().len() > 1,
        }
    }
}

/// A group as this node sees it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub id: GroupId,
    /// This node.
    pub node: u64,
    /// The highest term that this node has seen.
    pub term: u64,
    /// The role of this node.
    pub role: Role,
    /// The node that leads, if known.
    pub leader: Option<u64>,
    /// The index of the last entry of this node's log; 0 when it has none.
    pub last_log: u64,
    /// The index of the last entry that this node has applied; 0 when none is.
    pub applied: u64,
    /// The members, by the last membership in this node's log.
    pub members: Members,
    /// The last index up to which each member's log is known to match the leader's; only if this node leads.
    pub matched: BTreeMap<u64, u64>,
    /// How long ago a quorum last confirmed this leader (0 for the only voter); only if this node leads.
    pub quorum_acked_ago: Option<Duration>,
}

impl GroupStatus {
    pub(crate) fn of(id: GroupId, metrics: &RaftMetrics<Types>) -> Self {
        let leads = metrics.state == ServerState::Leader;
        let members = Members::of(&metrics.membership_config);
        let alone = members.voters.len() == 1 && members.voters.contains(&metrics.id);
        let acked = match metrics.last_quorum_acked {
            _ if alone => Some(Duration::ZERO),
            Some(at) => Some(at.elapsed()),
            None => None,
        };
        Self {
            id,
            node: metrics.id,
            term: metrics.current_term,
            role: role(metrics.state),
            leader: leader_of(metrics).map(|leader| leader.node),
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: metrics.last_applied.map_or(0, |id| id.index),
            members,
            matched: metrics
                .replication
                .iter()
                .flatten()
                .map(|(node, matched)| (*node, matched.map_or(0, |id| id.index)))
                .collect(),
            quorum_acked_ago: acked.filter(|_| leads),
        }
    }
}

fn role(state: ServerState) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Follower => Role::Follower,
        ServerState::Learner | ServerState::Shutdown => Role::Learner,
    }
}

pub(crate) fn leader_of(metrics: &RaftMetrics<Types>) -> Option<Leader> {
    leader(metrics.id, metrics.state, metrics.current_leader, metrics.current_term)
}

/// The leader by the metrics that [`crate::Group::watch`] follows. The engine publishes these before the full metrics: a
/// task on another thread that is woken by them would read the old leader in the full ones, and is not woken again.
pub(crate) fn watched_leader_of(metrics: &RaftServerMetrics<Types>) -> Option<Leader> {
    leader(
        metrics.id,
        metrics.state,
        metrics.current_leader,
        metrics.vote.leader_id.term,
    )
}

fn leader(own: u64, state: ServerState, current: Option<u64>, term: u64) -> Option<Leader> {
    // It may still hold a candidate's own id from an earlier term.
    let node = if state == ServerState::Leader {
        own
    } else {
        current.filter(|node| *node != own)?
    };
    Some(Leader { node, term })
}

/// The group has stopped; nothing changes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the group has stopped")]
pub struct GroupStopped;

/// Waits for changes of a group's leader, term or members; replication does not wake it.
#[derive(Clone)]
pub struct GroupWatch(pub(crate) openraft::alias::WatchReceiverOf<Types, RaftServerMetrics<Types>>);

impl GroupWatch {
    /// Returns when something has changed since the last call, or since the watch was created. Then read
    /// [`Group::status`](crate::Group::status) or [`Group::leader`](crate::Group::leader). Cancel-safe.
    ///
    /// # Errors
    /// [`GroupStopped`], at once, for ever.
    pub async fn changed(&mut self) -> Result<(), GroupStopped> {
        self.0.changed().await.map_err(|_| GroupStopped)
    }
}
