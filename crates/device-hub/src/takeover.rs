//! Closing an older session, wherever it lives, before a newer one begins.
//!
//! What the older one has sent is decided first. When its gateway does not answer, the newer one waits until that gateway
//! can no longer act for it, and the gateway's link is broken: it comes back by handing in all its sessions, learns which
//! are over, and drops what they had under way. Who is cut off cannot know whether the gateway has gone on with another
//! owner meanwhile: so after the wait a quorum is asked whether this node is still the owner.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_model::{IdentityId, PartitionId};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::DeviceHub;
use crate::mailbox::Message;
use crate::owner::Displaced;
use crate::session::CloseReason;
use crate::sessions::Address;
use crate::wire;

/// How long a new session waits for what the older one has sent to be decided.
pub(crate) const TAKEOVER_PATIENCE: Duration = Duration::from_secs(2);

/// Between two calls to a gateway that does not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long a gateway may take to answer beyond the time that it is told to wait.
const CALL_MARGIN: Duration = Duration::from_millis(250);

/// How long a quorum may take to confirm.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(1);

/// How long a gateway is called that cannot be reached.
const SILENCE_PATIENCE: Duration = Duration::from_secs(1);

/// What a gateway says of a session that it is to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Nothing of it is under way any more.
    Drained,
    /// It is closed; what it has sent is not all decided, and will not be proposed again.
    Undecided,
    /// The gateway did not answer.
    Silent,
}

impl DeviceHub {
    /// Sees to it that the session at `address` may begin: those that it displaces are closed.
    pub(crate) fn take_over(
        self: &Arc<Self>,
        partition: PartitionId,
        term: u64,
        identity: &IdentityId,
        address: Address,
        displaced: Vec<Displaced>,
    ) {
        let (hub, identity) = (Arc::clone(self), identity.clone());
        holdfast_tasks::spawn("session-takeover", async move {
            if hub.close_displaced(partition, term, displaced).await {
                hub.owners.displaced_are_gone(partition, term, &identity, address);
            }
        });
    }

    /// Closes sessions that have lost; returns when nothing of them can follow any more. `false`: another node decides about
    /// them by now.
    pub(crate) async fn close_displaced(
        self: &Arc<Self>,
        partition: PartitionId,
        term: u64,
        displaced: Vec<Displaced>,
    ) -> bool {
        self.metrics.taken_over.increment(displaced.len() as u64);
        let closed = join_all(displaced.iter().map(|one| self.close_one(partition, term, one))).await;
        closed.into_iter().all(|gone| gone)
    }

    async fn close_one(self: &Arc<Self>, partition: PartitionId, term: u64, displaced: &Displaced) -> bool {
        let address = displaced.address;
        let identity = &displaced.facts.identity;
        if address.gateway == self.parts.node {
            // What an earlier life had under way is gone with it.
            if address.life == self.parts.incarnation {
                let reason = CloseReason::TakenOver;
                let drained = self.close_here(partition, identity, address.key, reason, TAKEOVER_PATIENCE);
                if !drained.await {
                    self.break_own_link(partition, term);
                }
            }
            return true;
        }
        let closed = self.close_there(partition, displaced, CloseReason::TakenOver).await;
        if closed == Closed::Drained {
            return true;
        }
        tracing::info!(
            %identity, gateway = address.gateway, partition = partition.0, ?closed,
            "took over a session whose gateway does not answer or does not come to an end"
        );
        // Nothing over the link as it is counts from now on.
        let acts_until = self.owners.break_link(partition, term, address.gateway);
        if closed == Closed::Undecided {
            return true;
        }
        // A later owner has to know, too: the newer session may be over when the gateway comes back.
        if !self.mark_away(partition, term, address.gateway).await {
            return false;
        }
        if let Some(until) = acts_until {
            tokio::time::sleep_until(until).await;
        }
        self.is_still_owner(partition, term).await
    }

    /// An entry of this node that has been handed over and waits for room holds what must not follow: it is refused, and
    /// proposed again without it over the next link.
    fn break_own_link(self: &Arc<Self>, partition: PartitionId, term: u64) {
        self.owners.break_link(partition, term, self.parts.node);
        if let Some(link) = self.local.link(partition) {
            self.link_lost(partition, link.id);
        }
    }

    /// Returns `true` when a quorum has confirmed, asked after the call, that this node owns the partition in `term`;
    /// `false` when it does not any more.
    async fn is_still_owner(&self, partition: PartitionId, term: u64) -> bool {
        while self.owners.term(partition) == Some(term)
            && let Some(replica) = self.parts.partitions.local(partition)
        {
            let group = replica.group();
            let leads = || {
                let leader = group.leader();
                leader.is_some_and(|leader| leader.node == self.parts.node && leader.term == term)
            };
            // Who does not lead would ask who does.
            if leads() {
                let asked = tokio::time::timeout(CONFIRM_PATIENCE, group.read_index()).await;
                if matches!(asked, Ok(Ok(()))) && leads() {
                    return true;
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        false
    }

    /// Asks another gateway to close a session.
    pub(crate) async fn close_there(&self, partition: PartitionId, session: &Displaced, reason: CloseReason) -> Closed {
        let address = session.address;
        let give_up = Instant::now() + SILENCE_PATIENCE;
        loop {
            let request = Request::Close(proto::SessionClose {
                gateway_life: address.life,
                session: Some(wire::ended(&session.facts.identity, address.key)),
                revoked: reason == CloseReason::Revoked,
                wait_ms: u32::try_from(TAKEOVER_PATIENCE.as_millis()).unwrap_or(u32::MAX),
            });
            let patience = TAKEOVER_PATIENCE + CALL_MARGIN;
            match self.ask(address.gateway, partition.0, request, patience).await {
                Ok(Answer::Close(closed)) if closed.drained => return Closed::Drained,
                Ok(Answer::Close(_)) => return Closed::Undecided,
                Ok(_) | Err(_) if Instant::now() >= give_up => return Closed::Silent,
                Ok(_) | Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Closes a session of this node, if it is still there. Returns whether all that it had sent is decided; what is not
    /// after `patience` is dropped when a newer session has taken over.
    pub(crate) async fn close_here(
        &self,
        partition: PartitionId,
        identity: &IdentityId,
        key: u64,
        reason: CloseReason,
        patience: Duration,
    ) -> bool {
        let (drained, has_drained) = oneshot::channel();
        let live = {
            let mut state = self.local.state(partition);
            if let Some(closed) = state.pending.get_mut(&key) {
                // It has not begun, and will not.
                *closed = true;
                return true;
            }
            let Some(live) = state.live.get(identity).filter(|live| live.key == key).cloned() else {
                return true;
            };
            // It stays in the table until all is decided: an owner that comes meanwhile must know of it.
            if reason == CloseReason::TakenOver {
                state.closing.insert(key);
            }
            live
        };
        self.tell_core(
            live.core,
            Message::close(&live, partition, reason, Some(drained)),
            reason,
        );
        // The sender is dropped when all is decided; a core that is stuck must not keep the device out.
        if tokio::time::timeout(patience, has_drained).await.is_ok() {
            return true;
        }
        if reason == CloseReason::TakenOver {
            tracing::warn!(%identity, "took over a session before all that it had sent was decided");
            self.local.state(partition).remove(identity, key);
            for key in live.keys() {
                self.mailbox(live.core).put(Message::Forget { key, partition });
            }
        }
        false
    }
}
