//! Membership changes and leadership transfers, made by the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_model::NodeId;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, Instant as _, RaftMetrics, ServerState};
use tokio::time::Instant;

use super::Group;
use crate::error::{ChangeError, TransferError};
use crate::ids::Node;
use crate::type_config::Types;

type Changed = Result<ClientWriteResponse<Types>, RaftError<Types, ClientWriteError<Types>>>;

impl Group {
    /// Adds `node` as a learner; returns when that is committed, long before the learner has caught up (see
    /// [`GroupStatus::matched`](crate::GroupStatus::matched)). Does nothing for a member.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), ChangeError> {
        if self.members().contains(node) && self.is_leader() {
            return Ok(());
        }
        let change = ChangeMembers::AddNodes(BTreeMap::from([(node, Node::default())]));
        self.change(change, true).await
    }

    /// Makes exactly `voters` the voters, by way of a joint membership. Learners among them are promoted; former voters leave
    /// the group; other learners stay.
    ///
    /// # Errors
    /// [`ChangeError`]. After [`ChangeError::Unknown`] check the members: a change that stopped half-way (`joint`) is
    /// completed by making it again.
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let members = self.members();
        if voters.is_empty() {
            return Err(ChangeError::NoVoters);
        }
        if let Some(node) = voters.iter().find(|node| !members.contains(**node)) {
            return Err(self.unless_leader(ChangeError::NotMember { node: *node }));
        }
        if members.voters == voters && !members.joint && self.is_leader() {
            return Ok(());
        }
        self.change(ChangeMembers::ReplaceAllVoters(voters), false).await
    }

    /// Removes learners; ids of non-members are ignored.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn remove_learners(&self, learners: BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let members = self.members();
        if let Some(node) = learners.iter().find(|node| members.voters.contains(node)) {
            return Err(self.unless_leader(ChangeError::Votes { node: *node }));
        }
        let gone: BTreeSet<NodeId> = learners.intersection(&members.learners).copied().collect();
        if gone.is_empty() && self.is_leader() {
            return Ok(());
        }
        self.change(ChangeMembers::RemoveNodes(gone), true).await
    }

    /// The other leader, if this node does not lead: then its view of the members may be old.
    fn unless_leader(&self, error: ChangeError) -> ChangeError {
        if self.is_leader() {
            return error;
        }
        ChangeError::NotLeader {
            leader: self.leader().map(|leader| leader.node),
        }
    }

    async fn change(&self, change: ChangeMembers<NodeId, Node>, retain: bool) -> Result<(), ChangeError> {
        let give_up = Instant::now() + self.0.settle;
        loop {
            let changed: Changed = self.0.raft.change_membership(change.clone(), retain).await;
            let refused = match changed {
                Ok(_) => return Ok(()),
                Err(RaftError::Fatal(_)) => return Err(ChangeError::Unknown),
                Err(RaftError::APIError(error)) => refusal(error),
            };
            // A leader that has not heard a quorum yet accepts no change: not of the old voters right after its election, not
            // of the new ones between the two halves of a change.
            let waits_for_quorum = refused == ChangeError::NotLeader { leader: None } && self.is_leader();
            if waits_for_quorum && Instant::now() < give_up {
                tokio::time::sleep(super::RETRY_INTERVAL).await;
                continue;
            }
            return Err(if self.members().joint {
                ChangeError::Unknown
            } else {
                refused
            });
        }
    }

    /// Transfers the leadership to the voter `to`, and returns when another node leads. First waits a while for `to` to catch
    /// up, since nothing is written between the start of a transfer and the new leader's first entry.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), TransferError> {
        let Some(before) = self.leader().filter(|_| self.is_leader()) else {
            return Err(TransferError::NotLeader {
                leader: self.leader().map(|leader| leader.node),
            });
        };
        if to == self.0.node {
            return Ok(());
        }
        if !self.members().voters.contains(&to) {
            return Err(TransferError::NotVoter { node: to });
        }
        let give_up = Instant::now() + self.0.settle;
        let last = self.status().last_log;
        let lease = self.0.lease;
        let caught_up = self
            .0
            .raft
            .wait(Some(self.0.settle))
            .metrics(
                |now| {
                    now.state != ServerState::Leader
                        || now.running_state.is_err()
                        || (matched(now, to) >= Some(last) && heard(now, to, lease))
                },
                "see the next leader catch up",
            )
            .await;
        if caught_up.is_err() {
            return Err(TransferError::Behind { node: to });
        }
        let mut watch = self.watch();
        self.0.leaderless.hands_over(before);
        self.0
            .raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|_| TransferError::Stopped)?;
        loop {
            match self.leader() {
                Some(now) if now.node != self.0.node && (now.term, now.node) > (before.term, before.node) => {
                    return Ok(());
                }
                _ => {}
            }
            let left: Duration = give_up.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, watch.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(TransferError::Stopped),
                Err(_) => return Err(TransferError::TimedOut { node: to }),
            }
        }
    }
}

fn matched(now: &RaftMetrics<Types>, node: NodeId) -> Option<u64> {
    now.replication.as_ref()?.get(&node)?.map(|id| id.index)
}

fn heard(now: &RaftMetrics<Types>, node: NodeId, within: Duration) -> bool {
    let heard = now.heartbeat.as_ref().and_then(|heard| *heard.get(&node)?);
    heard.is_some_and(|at| at.elapsed() < within)
}

fn refusal(error: ClientWriteError<Types>) -> ChangeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => ChangeError::NotLeader {
            leader: forward.leader_id,
        },
        ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_) => ChangeError::Unknown,
        ClientWriteError::ChangeMembershipError(error) => match error {
            ChangeMembershipError::EmptyMembership(_) => ChangeError::NoVoters,
            ChangeMembershipError::LearnerNotFound(node) => ChangeError::NotMember { node: node.node_id },
            ChangeMembershipError::InProgress(_)
            | ChangeMembershipError::UncommittedLeaderLog(_)
            | ChangeMembershipError::UnsupportedMembershipTransition(_)
            | ChangeMembershipError::NodeMetadataChanged(_) => ChangeError::InProgress,
        },
    }
}
