//! The status of a group: leader, members, progress.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_model::{NodeId, Term};
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::{Instant, ServerState};
use thiserror::Error;

use crate::ids::{StoredMembership, Vote};
use crate::position::GroupId;
use crate::type_config::Types;

/// The leader of a group and its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Leader {
    /// Its term.
    pub term: Term,
    /// Its node id: of two leaders that follow each other in one term, the later one has the greater id.
    pub node: NodeId,
}

impl Leader {
    /// The one that a vote is for.
    pub(crate) fn of(vote: &Vote) -> Self {
        Self {
            term: Term(vote.leader_id.term),
            node: vote.leader_id.node_id,
        }
    }
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
    pub voters: BTreeSet<NodeId>,
    /// Members without a vote.
    pub learners: BTreeSet<NodeId>,
    /// A change of voters is in progress: quorums of the old and of the new voters are needed.
    pub joint: bool,
}

impl Members {
    /// Whether `node` is one of them.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
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
    pub node: NodeId,
    /// The highest term that this node has seen.
    pub term: Term,
    /// The role of this node.
    pub role: Role,
    /// The node that leads, if known.
    pub leader: Option<NodeId>,
    /// The index of the last entry of this node's log; 0 when it has none.
    pub last_log: u64,
    /// The index of the last entry that this node has applied; 0 when none is.
    pub applied: u64,
    /// The members, by the last membership in this node's log.
    pub members: Members,
    /// The last index up to which each member's log is known to match the leader's; only if this node leads.
    pub matched: BTreeMap<NodeId, u64>,
    /// How long ago a quorum last confirmed this leader (0 for the only voter); only if this node leads.
    pub quorum_acked_ago: Option<Duration>,
}

impl GroupStatus {
    /// From the metrics that [`crate::Group::watch`] follows, and the progress, to be read after them: the engine publishes
    /// the progress first, and the full metrics of both last. A task on another thread that is woken by the watch would
    /// read the old leader or members in the full ones, and is not woken again.
    pub(crate) fn of(id: GroupId, server: &RaftServerMetrics<Types>, data: &RaftDataMetrics<Types>) -> Self {
        let leads = server.state == ServerState::Leader;
        let members = Members::of(&server.membership_config);
        let acked = acked_ago(server.id, &members, data.last_quorum_acked.map(|at| at.elapsed()));
        Self {
            id,
            node: server.id,
            term: Term(server.vote.leader_id.term),
            role: role(server.state),
            leader: leader_of(server).map(|leader| leader.node),
            last_log: data.last_log.map_or(0, |id| id.index),
            applied: data.last_applied.map_or(0, |id| id.index),
            members,
            matched: data
                .replication
                .iter()
                .flatten()
                .map(|(node, matched)| (*node, matched.map_or(0, |id| id.index)))
                .collect(),
            quorum_acked_ago: acked.filter(|_| leads),
        }
    }
}

/// How long ago a quorum last confirmed the leader `own`, whose last confirmation was `acked` ago; 0 for the only voter.
pub(crate) fn acked_ago(own: NodeId, members: &Members, acked: Option<Duration>) -> Option<Duration> {
    let alone = members.voters.len() == 1 && members.voters.contains(&own);
    if alone { Some(Duration::ZERO) } else { acked }
}

fn role(state: ServerState) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Follower => Role::Follower,
        ServerState::Learner | ServerState::Shutdown => Role::Learner,
    }
}

/// The leader, for [`GroupStatus::of`] too: see there.
pub(crate) fn leader_of(server: &RaftServerMetrics<Types>) -> Option<Leader> {
    // It may still hold a candidate's own id from an earlier term.
    let node = if server.state == ServerState::Leader {
        server.id
    } else {
        server.current_leader.filter(|node| *node != server.id)?
    };
    let term = server.vote.leader_id.term;
    Some(Leader { node, term: Term(term) })
}

/// The group has stopped; nothing changes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the group has stopped")]
pub struct GroupStopped;

/// Waits for changes of a group's leader, term or members; replication does not wake it.
#[derive(Clone)]
pub struct GroupWatch(pub(crate) openraft::alias::WatchReceiverOf<Types, RaftServerMetrics<Types>>);

impl GroupWatch {
    /// Returns when something has changed since the last call, or since the watch was created. What
    /// [`Group::status`](crate::Group::status), [`Group::leader`](crate::Group::leader) and
    /// [`Group::members`](crate::Group::members) return from then on is at least as new. Cancel-safe.
    ///
    /// # Errors
    /// [`GroupStopped`], at once and from then on.
    pub async fn changed(&mut self) -> Result<(), GroupStopped> {
        self.0.changed().await.map_err(|_| GroupStopped)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use openraft::Membership;

    use super::*;
    use crate::ids::{LeaderId, LogId};

    /// The engine publishes progress, then role and members, then all of it: a task that the second step has woken.
    #[test]
    fn a_status_is_not_older_than_the_change_that_woke_its_reader() {
        let leader_id = LeaderId {
            term: 7,
            node_id: NodeId(2),
        };
        let entry = LogId { leader_id, index: 40 };
        let members = Membership::new_with_defaults(vec![[1, 2, 3].map(NodeId).into()], [1, 2, 3].map(NodeId));
        let stored = Arc::new(StoredMembership::new(Some(entry), members));
        let server = RaftServerMetrics::<Types> {
            id: NodeId(2),
            vote: Vote {
                leader_id,
                committed: true,
            },
            state: ServerState::Leader,
            current_leader: Some(NodeId(2)),
            membership_config: stored.clone(),
            committed_membership_config: stored,
        };
        let data = RaftDataMetrics::<Types> {
            last_log: Some(entry),
            ..RaftDataMetrics::default()
        };
        let status = GroupStatus::of(GroupId::REGISTRY, &server, &data);
        assert_eq!(
            (status.role, status.term, status.leader),
            (Role::Leader, Term(7), Some(NodeId(2)))
        );
        assert_eq!(
            (status.members.voters, status.last_log),
            ([1, 2, 3].map(NodeId).into(), 40)
        );
    }
}
