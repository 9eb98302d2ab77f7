//! Proposing entries: here when this node leads, otherwise by way of the leader.
//!
//! Invariant: an entry proposed in a term is appended in that term or not at all.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use holdfast_model::{NodeId, Term};
use holdfast_tasks::Permit;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{FORWARD_TIMEOUT, Group, RETRY_INTERVAL};
use crate::error::ProposeError;
use crate::ids::{Command, LeaderId};
use crate::log::entry::MAX_ENTRY_BYTES;
use crate::position::LogPosition;
use crate::proposal::{Applied, OnCommit, Proposal, Waiting};
use crate::transport::CallError;
use crate::wire::group::{decode_applied, encode_propose};

/// Permission to propose one entry: its share of the bytes that a group may have in flight.
pub struct ProposalPermit {
    bytes: Permit,
    term: Option<Term>,
}

impl ProposalPermit {
    /// Binds the permit to `term`: an entry whose content is valid only there, since it was computed from the state of
    /// that term's leader, is refused with [`ProposeError::TermChanged`] once this node does not lead in it any more.
    #[must_use]
    pub fn in_term(self, term: Term) -> Self {
        Self {
            term: Some(term),
            ..self
        }
    }
}

impl Group {
    /// Appends `entry` if this node leads; consecutive calls append in their order. Waits while the group has too many
    /// bytes in flight, which is the caller's back-pressure; returns long before the commit.
    ///
    /// `committed` is called exactly once, on the group's thread: when the entry is committed and synced, before it is
    /// applied, or when it failed.
    pub async fn propose_detached(&self, entry: Bytes, committed: OnCommit) {
        match self.acquire_permit(&entry).await {
            Ok(permit) => self.propose_with_permit(permit, entry, committed).await,
            Err(error) => committed(Err(error)),
        }
    }

    /// The waiting part of [`Self::propose_detached`], for callers that must check again what may have changed while they
    /// waited.
    ///
    /// # Errors
    /// [`ProposeError`]: this node cannot accept the entry.
    pub async fn acquire_permit(&self, entry: &Bytes) -> Result<ProposalPermit, ProposeError> {
        self.admit(entry)?;
        Ok(ProposalPermit {
            bytes: self.0.in_flight.acquire(entry.len()).await,
            term: None,
        })
    }

    /// The other part of [`Self::propose_detached`]. With a permit that is bound to a term, the entry is appended only if
    /// this node leads in that term at the moment of appending.
    pub async fn propose_with_permit(&self, permit: ProposalPermit, entry: Bytes, committed: OnCommit) {
        // An error drops the proposal, which reports it as unknown; later ones are refused at once.
        if self.write(permit, entry, Waiting::Commit(committed)).await.is_err() {
            self.0.stopped.store(true, Ordering::Relaxed);
        }
    }

    /// Hands the entry to the engine, which checks the term in the same step in which it appends.
    async fn write(&self, permit: ProposalPermit, entry: Bytes, waiting: Waiting) -> Result<(), ProposeError> {
        let ProposalPermit { bytes, term } = permit;
        let proposal = Proposal::new(waiting, bytes, self.0.metrics.commit_seconds.clone(), term);
        let mut write = self.0.raft.write(Command(entry)).responder(proposal);
        if let Some(term) = term {
            write = write.with_leader(LeaderId {
                term: term.get(),
                node_id: self.0.node,
            });
        }
        write.await.map_err(|_| ProposeError::Stopped)
    }

    /// Appends `entry`, here or by way of the leader, and returns its position and the state machine's answer when it is
    /// committed and applied on this node too: later reads on this node see it. Retries for a while when no leader is
    /// known. Dropping the future does not withdraw the entry.
    ///
    /// # Errors
    /// [`ProposeError`]; [`ProposeError::Unknown`] also when it takes longer than ten seconds.
    pub async fn propose(&self, entry: Bytes) -> Result<(LogPosition, Bytes), ProposeError> {
        let give_up = Instant::now() + self.0.settle;
        loop {
            let outcome = match self.leader() {
                Some(leader) if leader.node != self.0.node => self.forward(leader.node, entry.clone()).await,
                // Also without a leader: this node's own reasons to refuse are reported first.
                _ => self.propose_here(None, entry.clone()).await,
            };
            // Refused before it was appended, while there is no leader yet.
            if !matches!(outcome, Err(ProposeError::NotLeader { .. })) || Instant::now() >= give_up {
                return outcome;
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Appends `entry` if this node leads in `term`, and returns its position and the state machine's answer once it is
    /// applied here. For entries whose content was computed from the state of that term's leader.
    ///
    /// # Errors
    /// [`ProposeError`]; [`ProposeError::TermChanged`] when this node does not lead in `term` at the moment of appending.
    pub async fn propose_in_term(&self, term: Term, entry: Bytes) -> Result<(LogPosition, Bytes), ProposeError> {
        self.propose_here(Some(term), entry).await
    }

    /// Appends it if this node leads, in `term` if one is given.
    pub(crate) async fn propose_here(&self, term: Option<Term>, entry: Bytes) -> Applied {
        let permit = self.acquire_permit(&entry).await?;
        let permit = match term {
            Some(term) => permit.in_term(term),
            None => permit,
        };
        let (answer, answered) = oneshot::channel();
        self.write(permit, entry, Waiting::Apply(answer)).await?;
        match tokio::time::timeout(FORWARD_TIMEOUT, answered).await {
            Ok(Ok(applied)) => applied,
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    async fn forward(&self, leader: NodeId, entry: Bytes) -> Applied {
        self.acceptable(&entry)?;
        self.0.metrics.forwarded.increment(1);
        let peers = &self.0.peers;
        // Longer than the leader's own time-out, so that its answer arrives.
        let call = peers.to_call(encode_propose(entry), FORWARD_TIMEOUT + Duration::from_secs(1));
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
        self.wait_applied(position.index, FORWARD_TIMEOUT)
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
