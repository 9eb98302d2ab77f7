//! Reads that are not older than any answer given before, and the lease that spares them.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{LinearizerOption, ReadPolicy};
use tokio::time::Instant;

use super::Group;
use crate::error::ReadError;
use crate::transport::CallError;
use crate::wire::Kind;
use crate::wire::group::{ReadPoint, decode_read_point, encode_read};

/// How long the leader may take to answer a question about a lease, which is asked again soon anyway.
const LEASE_PATIENCE: Duration = Duration::from_secs(1);

/// What the leader grants: whoever has applied `index` knows, until `asked + (staleness - age)` on the clock that gave
/// `asked`, everything that was committed longer than `staleness` ago.
///
/// For: nobody else can have led before `age` ago as the leader answered, which was after `asked`; what this leader had
/// committed by then is at most `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGrant {
    /// When this node asked, before anything was sent.
    pub asked: Instant,
    /// What has to be applied here.
    pub index: u64,
    /// How long before its answer a quorum last confirmed the leader; 0 for the only voter.
    pub age: Duration,
}

impl Group {
    /// Returns when this node has applied everything that was committed before the call: what is read then is not older
    /// than any answer given before. A node that does not lead asks the leader, and waits for one for a while.
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

    /// What has to be applied before a read, by the word of this node, if it leads.
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

    async fn ask(&self, leader: u64, kind: Kind, patience: Duration) -> Result<ReadPoint, ReadError> {
        let call = self.0.peers.to_call(vec![encode_read(kind)], patience);
        match self.0.peers.transport.call(leader, call).await {
            Ok(body) => decode_read_point(body).unwrap_or(Err(ReadError::TimedOut)),
            // It cannot have said anything: another may lead meanwhile.
            Err(CallError::NotSent(_) | CallError::Refused(_)) => Err(ReadError::NotLeader { leader: None }),
            Err(CallError::Unknown(_)) => Err(ReadError::TimedOut),
        }
    }

    /// Asks for a lease: until when, and having applied what, this node may answer from its own state.
    ///
    /// # Errors
    /// [`ReadError`], without trying again: who holds a lease asks again before it ends.
    pub async fn lease(&self) -> Result<LeaseGrant, ReadError> {
        let asked = Instant::now();
        if self.is_stopped() {
            return Err(ReadError::Stopped);
        }
        let point = match self.leader() {
            Some(leader) if leader.node == self.0.node => self.lease_here(),
            Some(leader) => self.ask(leader.node, Kind::Lease, LEASE_PATIENCE).await,
            None => Err(ReadError::NotLeader { leader: None }),
        }?;
        Ok(LeaseGrant {
            asked,
            index: point.index,
            age: point.age,
        })
    }

    /// What this node grants, if it leads and has committed an entry of its own: before that it may not know what the
    /// leader before it has committed.
    pub(crate) fn lease_here(&self) -> Result<ReadPoint, ReadError> {
        let metrics = self.0.raft.metrics().borrow_watched().clone();
        if metrics.running_state.is_err() || self.is_stopped() {
            return Err(ReadError::Stopped);
        }
        let status = crate::status::GroupStatus::of(self.0.id, &metrics);
        if !self.is_leader() || status.leader != Some(self.0.node) {
            return Err(ReadError::NotLeader { leader: status.leader });
        }
        let committed = metrics.cluster_committed.filter(|committed| {
            committed.leader_id.term == metrics.current_term && committed.leader_id.node_id == self.0.node
        });
        match (committed, status.quorum_acked_ago) {
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
    /// [`ReadError::TimedOut`] when `patience` has ended, [`ReadError::Stopped`].
    pub async fn wait_applied(&self, index: u64, patience: Duration) -> Result<(), ReadError> {
        let applied = async {
            loop {
                // Made before the look, so that nothing falls between the look and the wait.
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
        tokio::time::timeout(patience, applied)
            .await
            .unwrap_or(Err(ReadError::TimedOut))
    }
}
