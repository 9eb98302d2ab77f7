//! Entries on their way into the log, from whichever node they come.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use holdfast_tasks::Permit;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{FORWARD_PATIENCE, Group, MAX_ENTRY_BYTES, RETRY_EVERY};
use crate::error::ProposeError;
use crate::position::LogPosition;
use crate::proposal::{Applied, OnCommit, Proposal, Waiting};
use crate::transport::CallError;
use crate::types::Command;
use crate::wire::group::{decode_applied, encode_propose};

/// An entry's share of what a group may have in flight.
pub struct Room(Permit);

impl Group {
    /// Appends `entry`, if this node leads; calls that follow each other append in their order. Waits while the group has
    /// too much in flight, so that it is the caller's back-pressure; returns long before the commit.
    ///
    /// `committed` is called exactly once, on the group's thread: when the entry is committed and synced, before it is
    /// applied, or when it failed.
    pub async fn propose_detached(&self, entry: Bytes, committed: OnCommit) {
        match self.room_for(&entry).await {
            Ok(room) => self.propose_in(room, entry, committed).await,
            Err(error) => committed(Err(error)),
        }
    }

    /// The waiting part of [`Self::propose_detached`], for callers who have to look again at what may have changed
    /// meanwhile.
    ///
    /// # Errors
    /// [`ProposeError`]: this node cannot take the entry.
    pub async fn room_for(&self, entry: &Bytes) -> Result<Room, ProposeError> {
        self.admit(entry)?;
        Ok(Room(self.0.in_flight.take(entry.len()).await))
    }

    /// The other part of [`Self::propose_detached`].
    pub async fn propose_in(&self, room: Room, entry: Bytes, committed: OnCommit) {
        let seconds = self.0.metrics.commit_seconds.clone();
        let proposal = Proposal::new(Waiting::Commit(committed), room.0, seconds);
        // An error drops the proposal, which reports it as unknown; the next ones are refused at once.
        if self
            .0
            .raft
            .client_write_ff(Command(entry), Some(proposal))
            .await
            .is_err()
        {
            self.0.stopped.store(true, Ordering::Relaxed);
        }
    }

    /// Appends `entry`, here or by way of the leader, and gives its place and the state machine's answer when it is
    /// committed and applied on this node too: what is read here then contains it. Tries again for a while when no leader
    /// is known. Dropping the future leaves the entry under way.
    ///
    /// # Errors
    /// [`ProposeError`]; [`ProposeError::Unknown`] also when it takes longer than ten seconds.
    pub async fn propose(&self, entry: Bytes) -> Result<(LogPosition, Bytes), ProposeError> {
        let give_up = Instant::now() + self.0.settle;
        loop {
            let outcome = match self.leader() {
                Some(leader) if leader.node != self.0.node => self.forward(leader.node, entry.clone()).await,
                // Also without a leader: what this node lacks itself is told first.
                _ => self.propose_here(entry.clone()).await,
            };
            // Refused before it was appended, while a new leader settles.
            if !matches!(outcome, Err(ProposeError::NotLeader { .. })) || Instant::now() >= give_up {
                return outcome;
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Appends it, if this node leads.
    pub(crate) async fn propose_here(&self, entry: Bytes) -> Applied {
        self.admit(&entry)?;
        let permit = self.0.in_flight.take(entry.len()).await;
        let (answer, answered) = oneshot::channel();
        let seconds = self.0.metrics.commit_seconds.clone();
        let proposal = Proposal::new(Waiting::Apply(answer), permit, seconds);
        if self
            .0
            .raft
            .client_write_ff(Command(entry), Some(proposal))
            .await
            .is_err()
        {
            return Err(ProposeError::Stopped);
        }
        match tokio::time::timeout(FORWARD_PATIENCE, answered).await {
            Ok(Ok(applied)) => applied,
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    async fn forward(&self, leader: u64, entry: Bytes) -> Applied {
        self.acceptable(&entry)?;
        self.0.metrics.forwarded.increment(1);
        let peers = &self.0.peers;
        // Longer than the leader's own patience, so that its word arrives.
        let call = peers.to_call(encode_propose(entry), FORWARD_PATIENCE + Duration::from_secs(1));
        let (position, answer) = match peers.transport.call(leader, call).await {
            Ok(body) => decode_applied(body)
                .unwrap_or(Err(ProposeError::Unknown))
                .map_err(|error| {
                    // The leader has stopped, not this node.
                    if error == ProposeError::Stopped {
                        ProposeError::NotLeader { leader: None }
                    } else {
                        error
                    }
                })?,
            Err(CallError::NotSent(_) | CallError::Refused(_)) => {
                return Err(ProposeError::NotLeader { leader: None });
            }
            Err(CallError::Unknown(_)) => return Err(ProposeError::Unknown),
        };
        self.wait_applied(position.index, FORWARD_PATIENCE)
            .await
            .map_err(|_| ProposeError::Unknown)?;
        Ok((position, answer))
    }

    fn acceptable(&self, entry: &Bytes) -> Result<(), ProposeError> {
        if entry.len() > MAX_ENTRY_BYTES {
            return Err(ProposeError::TooLarge {
                bytes: entry.len(),
                limit: MAX_ENTRY_BYTES,
            });
        }
        if self.is_stopped() {
            return Err(ProposeError::Stopped);
        }
        Ok(())
    }

    fn admit(&self, entry: &Bytes) -> Result<(), ProposeError> {
        self.acceptable(entry)?;
        if !self.0.guard.writable() {
            return Err(ProposeError::DiskFull);
        }
        self.0.metrics.proposals.increment(1);
        self.0.metrics.proposed_bytes.increment(entry.len() as u64);
        Ok(())
    }
}
