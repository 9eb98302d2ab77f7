//! Closes an older session, wherever it lives, before a newer one begins.
//!
//! Everything that the older one has sent is decided first. When its gateway does not answer, the newer one waits until
//! that gateway can no longer act for it, and the gateway's link is broken: the gateway comes back with a report of all its
//! sessions, learns which have ended, and drops their messages in flight. A node that is cut off cannot know whether
//! another one owns the partition meanwhile: so after the wait a quorum confirms that this node still does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_model::{IdentityId, PartitionId, SessionKey, Term};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::ownership::SupersededSession;
use crate::DeviceHub;
use crate::api::session::CloseReason;
use crate::ingest::command_queue::Command;
use crate::rpc::codec;
use crate::session_types::SessionAddress;

/// How long a new session waits until everything that the older one has sent is decided.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Delay between two calls to a gateway that does not answer.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// How long a gateway may take to answer beyond [`DRAIN_TIMEOUT`].
const CALL_MARGIN: Duration = Duration::from_millis(250);

/// How long a quorum may take to confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// How long calls to an unreachable gateway are retried.
const UNREACHABLE_TIMEOUT: Duration = Duration::from_secs(1);

/// A gateway's answer about a session that it is to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseOutcome {
    /// Nothing of it is in flight any more.
    Drained,
    /// It is closed; some of its messages are not decided and will not be proposed again.
    Undecided,
    /// The gateway did not answer.
    Unreachable,
}

impl DeviceHub {
    /// Closes the sessions that the one at `address` supersedes, so that it may begin.
    pub(crate) fn supersede(
        self: &Arc<Self>,
        partition: PartitionId,
        term: Term,
        identity: &IdentityId,
        address: SessionAddress,
        superseded: Vec<SupersededSession>,
    ) {
        let (hub, identity) = (Arc::clone(self), identity.clone());
        holdfast_tasks::spawn_critical("session-supersede", async move {
            if hub.close_superseded(partition, term, superseded).await {
                hub.ownership.superseded_are_gone(partition, term, &identity, address);
            }
        });
    }

    /// Closes sessions that newer ones on other gateways have superseded, without waiting.
    pub(crate) fn spawn_close_superseded(
        self: &Arc<Self>,
        partition: PartitionId,
        term: Term,
        superseded: Vec<SupersededSession>,
    ) {
        if superseded.is_empty() {
            return;
        }
        let hub = Arc::clone(self);
        holdfast_tasks::spawn_critical("session-superseded", async move {
            // The newer sessions act already: nothing waits for the result.
            let _ = hub.close_superseded(partition, term, superseded).await;
        });
    }

    /// Closes superseded sessions; returns when no message of them can be stored any more. `false`: another node owns the
    /// partition by now.
    async fn close_superseded(
        self: &Arc<Self>,
        partition: PartitionId,
        term: Term,
        superseded: Vec<SupersededSession>,
    ) -> bool {
        self.metrics.taken_over.increment(superseded.len() as u64);
        let closed = join_all(superseded.iter().map(|one| self.close_one(partition, term, one))).await;
        closed.into_iter().all(|gone| gone)
    }

    async fn close_one(self: &Arc<Self>, partition: PartitionId, term: Term, superseded: &SupersededSession) -> bool {
        let address = superseded.address;
        let identity = &superseded.info.identity;
        if address.gateway == self.parts.node {
            // An earlier incarnation has nothing in flight any more.
            if address.incarnation == self.incarnation() {
                let reason = CloseReason::TakenOver;
                let drained = self.close_local(partition, identity, address.key, reason, DRAIN_TIMEOUT);
                if !drained.await {
                    self.break_own_link(partition, term);
                }
            }
            return true;
        }
        let outcome = tokio::select! {
            biased;
            outcome = self.close_remote(partition, superseded, CloseReason::TakenOver) => outcome,
            // A gateway that can no longer act need not be waited for: it may never answer.
            () = self.ownership.silence_of(partition, term, address.gateway) => CloseOutcome::Unreachable,
        };
        if outcome == CloseOutcome::Drained {
            return true;
        }
        tracing::info!(
            %identity, gateway = %address.gateway, partition = partition.0, ?outcome,
            "the gateway of a superseded session did not close it in time; breaking its link"
        );
        // From now on nothing over the old link is accepted.
        let acts_until = self.ownership.break_link(partition, term, address.gateway);
        if outcome == CloseOutcome::Undecided {
            return true;
        }
        // A later owner must know as well: the newer session may have ended when the gateway comes back.
        if !self.record_absence(partition, term, address.gateway).await {
            return false;
        }
        if let Some(until) = acts_until {
            tokio::time::sleep_until(until).await;
        }
        self.is_still_owner(partition, term).await
    }

    /// Breaks this node's own link: an entry of this node that waits for capacity holds records of the superseded session.
    /// It is refused, and proposed again over the next link without them.
    fn break_own_link(self: &Arc<Self>, partition: PartitionId, term: Term) {
        self.ownership.break_link(partition, term, self.parts.node);
        if let Some(link) = self.sessions.link(partition) {
            self.link_lost(partition, link.id);
        }
    }

    /// Returns `true` when a quorum, asked after this call began, has confirmed that this node owns the partition in
    /// `term`; `false` when it does not any more.
    async fn is_still_owner(&self, partition: PartitionId, term: Term) -> bool {
        while self.ownership.term(partition) == Some(term)
            && let Some(replica) = self.parts.partitions.local(partition)
        {
            let group = replica.group();
            let leads = || {
                let leader = group.leader();
                leader.is_some_and(|leader| leader.node == self.parts.node && leader.term == term)
            };
            // A replica that does not lead would forward the read to the leader.
            if leads() {
                let confirmed = tokio::time::timeout(CONFIRM_TIMEOUT, group.read_index()).await;
                if matches!(confirmed, Ok(Ok(()))) && leads() {
                    return true;
                }
            }
            tokio::time::sleep(RETRY_BACKOFF).await;
        }
        false
    }

    /// Closes a session on another gateway.
    pub(crate) async fn close_remote(
        &self,
        partition: PartitionId,
        session: &SupersededSession,
        reason: CloseReason,
    ) -> CloseOutcome {
        let address = session.address;
        let give_up = Instant::now() + UNREACHABLE_TIMEOUT;
        loop {
            let request = Request::Close(proto::SessionClose {
                gateway_incarnation: address.incarnation.0,
                session: Some(codec::encode_ended(&session.info.identity, address.key)),
                revoked: matches!(reason, CloseReason::Revoked | CloseReason::CertificateRevoked),
                certificate_revoked: reason == CloseReason::CertificateRevoked,
                wait_ms: codec::millis(DRAIN_TIMEOUT),
            });
            let timeout = DRAIN_TIMEOUT + CALL_MARGIN;
            match self.call_node(address.gateway, partition.0, request, timeout).await {
                Ok(Answer::Close(closed)) if closed.drained => return CloseOutcome::Drained,
                Ok(Answer::Close(_)) => return CloseOutcome::Undecided,
                Ok(_) | Err(_) if Instant::now() >= give_up => return CloseOutcome::Unreachable,
                Ok(_) | Err(_) => tokio::time::sleep(RETRY_BACKOFF).await,
            }
        }
    }

    /// Closes a session of this node, if it still exists. Returns whether everything that it sent is decided; messages
    /// that are undecided after `timeout` are dropped when the session was superseded.
    pub(crate) async fn close_local(
        &self,
        partition: PartitionId,
        identity: &IdentityId,
        key: SessionKey,
        reason: CloseReason,
        timeout: Duration,
    ) -> bool {
        let (drained, has_drained) = oneshot::channel();
        let session = {
            let mut sessions = self.sessions.partition(partition);
            if let Some(closed) = sessions.pending.get_mut(&key) {
                // It has not begun, and will not.
                *closed = true;
                return true;
            }
            let Some(session) = sessions.live.get(identity).filter(|live| live.key == key).cloned() else {
                return true;
            };
            // It stays in the table until everything is decided: the owner of a next term must know of it.
            if reason == CloseReason::TakenOver {
                sessions.closing.insert(key);
            }
            session
        };
        self.close_on_core(
            session.core,
            Command::close(&session, partition, reason, Some(drained)),
            reason,
        );
        // The sender is dropped when everything is decided. A core that is stuck must not keep the device out.
        if tokio::time::timeout(timeout, has_drained).await.is_ok() {
            return true;
        }
        if reason == CloseReason::TakenOver {
            tracing::warn!(%identity, "a superseded session still had undecided messages; they are dropped");
            self.sessions.partition(partition).remove(identity, key);
            for key in session.keys() {
                self.commands(session.core).push(Command::Discard { key, partition });
            }
        }
        false
    }
}
