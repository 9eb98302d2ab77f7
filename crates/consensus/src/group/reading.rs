//! Linearizable reads, and the lease that makes most of them unnecessary.

use std::time::Duration;

use holdfast_model::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Instant as _, LinearizerOption, ReadPolicy, ServerState};
use tokio::time::Instant;

use super::Group;
use crate::error::ReadError;
use crate::status::{self, Members};
use crate::transport::CallError;
use crate::wire::Kind;
use crate::wire::group::{ReadPoint, decode_read_point, encode_read};

/// Time-out of a lease request, which is repeated soon anyway.
const LEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// A lease granted by the leader: a replica that has applied `index` has, until `asked + (staleness - age)` on the clock
/// that gave `asked`, every entry that was committed longer than `staleness` ago.
///
/// Reason: no other node can have led before `age` ago, counted from the leader's answer, which came after `asked`; the
/// entries that this leader had committed by then end at `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGrant {
    /// When this node sent its request; taken before the request left.
    pub asked: Instant,
    /// The index to be applied here first.
    pub index: u64,
    /// How long before its answer a quorum last confirmed the leader; 0 for the only voter.
    pub age: Duration,
}

impl Group {
    /// Returns when this node has applied everything that was committed before the call, so that a read after it is
    /// linearizable. A node that does not lead asks the leader, and waits a while if there is none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_index(&self) -> Result<(), ReadError> {
        let give_up = Instant::now() + self.0.settle;
        let point = loop {
            let point = match self.leader() {
                Some(leader) if leader.node == self.0.node => self.read_point_here().await,
                Some(leader) => self.ask(leader.node, Kind::ReadIndex, self.0.settle).await,
                None => Err(ReadError::NotLeader { leader: None }),
            };
            match point {
                Ok(point) => break point,
                Err(ReadError::NotLeader { .. }) if Instant::now() < give_up && !self.is_stopped() => {
                    tokio::time::sleep(super::RETRY_INTERVAL).await;
                }
                Err(error) => return Err(error),
            }
        };
        self.wait_applied(point.index, super::FORWARD_TIMEOUT).await
    }

    /// The read index, if this node leads.
    pub(crate) async fn read_point_here(&self) -> Result<ReadPoint, ReadError> {
        let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(self.0.settle);
        match self.0.raft.get_read_linearizer(option).await {
            Ok(linearizer) => Ok(ReadPoint {
                index: linearizer.read_log_id().index(),
                age: Duration::ZERO,
            }),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => Err(ReadError::NotLeader {
                leader: forward.leader_id,
            }),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ReadError::NoQuorum),
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
        }
    }

    async fn ask(&self, leader: NodeId, kind: Kind, timeout: Duration) -> Result<ReadPoint, ReadError> {
        let call = self.0.peers.to_call(vec![encode_read(kind)], timeout);
        match self.0.peers.transport.call(leader, call).await {
            Ok(body) => decode_read_point(body).unwrap_or(Err(ReadError::TimedOut)),
            // No answer can have come: another node may lead by now.
            Err(CallError::NotSent(_) | CallError::Refused(_)) => Err(ReadError::NotLeader { leader: None }),
            Err(CallError::Unknown(_)) => Err(ReadError::TimedOut),
        }
    }

    /// Requests a lease: until when this node may answer from its own state, and which index it must have applied.
    ///
    /// # Errors
    /// [`ReadError`], without a retry: the holder of a lease renews it before it ends.
    pub async fn lease(&self) -> Result<LeaseGrant, ReadError> {
        let asked = Instant::now();
        if self.is_stopped() {
            return Err(ReadError::Stopped);
        }
        let point = match self.leader() {
            Some(leader) if leader.node == self.0.node => self.lease_here(),
            Some(leader) => self.ask(leader.node, Kind::Lease, LEASE_TIMEOUT).await,
            None => Err(ReadError::NotLeader { leader: None }),
        }?;
        Ok(LeaseGrant {
            asked,
            index: point.index,
            age: point.age,
        })
    }

    /// The grant of this node, if it leads and has committed an entry of its own term: before that it may not know all
    /// entries that the previous leader has committed.
    pub(crate) fn lease_here(&self) -> Result<ReadPoint, ReadError> {
        // All of one moment: the commit index of one leadership is no answer with the confirmation of a later one.
        let metrics = self.0.raft.metrics().borrow_watched().clone();
        if metrics.running_state.is_err() || self.is_stopped() {
            return Err(ReadError::Stopped);
        }
        if !self.is_leader() || metrics.state != ServerState::Leader {
            let other = self.leader().filter(|leader| leader.node != self.0.node);
            return Err(ReadError::NotLeader {
                leader: other.map(|leader| leader.node),
            });
        }
        let acked = metrics.last_quorum_acked.map(|at| at.elapsed());
        let acked = status::acked_ago(self.0.node, &Members::of(&metrics.membership_config), acked);
        let committed = metrics.cluster_committed.filter(|committed| {
            committed.leader_id.term == metrics.current_term && committed.leader_id.node_id == self.0.node
        });
        match (committed, acked) {
            (Some(committed), Some(age)) => Ok(ReadPoint {
                index: committed.index,
                age,
            }),
            _ => Err(ReadError::NoQuorum),
        }
    }

    /// Returns when this node has applied `index`.
    ///
    /// # Errors
    /// [`ReadError::TimedOut`] when `timeout` has ended, [`ReadError::Stopped`].
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<(), ReadError> {
        let applied = async {
            loop {
                // Created before the check, so that no change is missed between the check and the wait.
                let grew = self.0.log.applied_grew.notified();
                if self.0.log.applied_next() > index {
                    return Ok(());
                }
                if self.is_stopped() {
                    return Err(ReadError::Stopped);
                }
                grew.await;
            }
        };
        tokio::time::timeout(timeout, applied)
            .await
            .unwrap_or(Err(ReadError::TimedOut))
    }
}
