//! Reads that are not older than any answer given before, and the lease that spares them.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::time::Instant;

use super::Group;
use crate::error::ReadError;

/// What the leader grants: at `asked`, on the asker's clock, everything committed `age` before the leader's answer was at
/// most `index`. So whoever has applied `index` knows, until `asked + (staleness - age)`, all that was committed
/// longer than `staleness` ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGrant {
    /// When this node asked, before anything was sent.
    pub asked: Instant,
    /// What has to be applied here.
    pub index: u64,
    /// How long before its answer the leader was last confirmed by a quorum.
    pub age: Duration,
}

impl Group {
    /// Returns when this node has applied everything that was committed before the call: what is read then is not older
    /// than any answer given before. A node that does not lead asks the leader.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_index(&self) -> Result<(), ReadError> {
        match self.0.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(error) => Err(refusal(error)),
        }
    }

    /// Asks for a lease: until when, and having applied what, this node may answer from its own state.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn lease(&self) -> Result<LeaseGrant, ReadError> {
        let asked = Instant::now();
        let status = self.status();
        let Some(age) = status.quorum_acked_ago.filter(|_| self.is_leader()) else {
            return Err(ReadError::NotLeader { leader: status.leader });
        };
        Ok(LeaseGrant {
            asked,
            index: status.last_log,
            age,
        })
    }

    /// Returns when this node has applied `index`.
    ///
    /// # Errors
    /// [`ReadError::TimedOut`] when `patience` has ended, [`ReadError::Stopped`].
    pub async fn wait_applied(&self, index: u64, patience: Duration) -> Result<(), ReadError> {
        if self.0.log.applied_next() > index {
            return Ok(());
        }
        let wait = self.0.raft.wait(Some(patience));
        match wait
            .applied_index_at_least(Some(index), "apply what the leader named")
            .await
        {
            Ok(_) => Ok(()),
            Err(openraft::metrics::WaitError::Timeout(..)) => Err(ReadError::TimedOut),
            Err(openraft::metrics::WaitError::ShuttingDown) => Err(ReadError::Stopped),
        }
    }
}

pub(super) fn refusal(error: RaftError<crate::types::Types, LinearizableReadError<crate::types::Types>>) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => ReadError::NotLeader {
            leader: forward.leader_id,
        },
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ReadError::NoQuorum,
        RaftError::Fatal(_) => ReadError::Stopped,
    }
}
