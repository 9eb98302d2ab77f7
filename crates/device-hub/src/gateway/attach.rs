//! Attaches a session at the owner of its partition, on this node or on another one.
//!
//! When this node is the owner and no other session has to end first, that is decided at once. Otherwise the owner is
//! asked, and asked again over the next link when it has changed. Attaches for another node that come together go as one
//! call. One call per partition is in flight, and the owner answers it without waiting for anything: when a session has to
//! wait for an older one, a call of its own waits.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{IdentityId, Incarnation, LinkId, PartitionId, SessionKey, Term, UnixMillis};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use holdfast_spans::TraceContext;
use thiserror::Error;
use tokio::sync::oneshot;

use super::session_table::{Activity, AttachReply, Link, LocalSession, PartitionSessions, PendingAttach};
use super::subscription_requests::SubscriptionError;
use crate::DeviceHub;
use crate::api::session::CloseReason;
use crate::downlink::credit::Credit;
use crate::ingest::command_queue::Command;
use crate::owner::ownership::{AttachOutcome, AttachReadiness, SupersededSession};
use crate::rpc::codec;
use crate::session_types::{CallerLink, OwnerError, SessionAddress, SessionInfo, SessionNumber};

/// How many sessions of one partition wait to be sent to the owner.
const MAX_ATTACHES: usize = 100_000;

/// Requests of identities without a session that wait to be reported to one owner.
const MAX_REPORTED_REQUESTS: usize = 20_000;

/// How long an owner may take to answer about new sessions.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long one call waits for the end of an older session.
const WAIT_TIMEOUT: Duration = Duration::from_secs(4);

/// Sessions that may follow each other on one core before one of them waits until the others are drained.
const MAX_PREDECESSORS: usize = 8;

/// Delay between two attempts over the same link.
const RETRY_BACKOFF: Duration = Duration::from_millis(20);

/// Why a session could not be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum AttachError {
    /// A newer session has superseded it before it began.
    #[error("a newer session of the identity has begun")]
    Superseded,
    /// The identity has changed meanwhile.
    #[error("the identity has changed")]
    Revoked,
    /// The owner or this node refuses to queue more.
    #[error("too many sessions wait")]
    Busy,
    /// No owner, or an older session that did not end in time.
    #[error("no owner attached the session in time")]
    TimedOut,
}

impl From<SubscriptionError> for AttachError {
    fn from(error: SubscriptionError) -> Self {
        match error {
            SubscriptionError::SessionEnded => Self::Superseded,
            SubscriptionError::Busy => Self::Busy,
        }
    }
}

/// The part of an attach that is decided without waiting.
pub(crate) enum ImmediateAttach {
    /// It may begin; the sessions named, on the same core, have ended.
    Ready(SessionNumber, Vec<SessionKey>),
    /// [`DeviceHub::attach`] must be awaited.
    Pending,
}

impl DeviceHub {
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.parts.incarnation
    }

    pub(crate) fn caller_link(&self, link: LinkId) -> CallerLink {
        CallerLink {
            gateway: self.parts.node,
            incarnation: self.incarnation(),
            link,
        }
    }

    pub(crate) fn address(&self, key: SessionKey) -> SessionAddress {
        SessionAddress {
            gateway: self.parts.node,
            incarnation: self.incarnation(),
            key,
        }
    }

    /// The link over which the owner may be asked now.
    pub(super) fn usable_link(&self, partition: PartitionId, sessions: &PartitionSessions) -> Option<Link> {
        let link = sessions.open_link()?;
        self.sessions
            .is_valid(partition, self.sessions.now_ms())
            .then_some(link)
    }

    /// Attaches without waiting, where that is possible.
    pub(crate) fn attach_now(
        self: &Arc<Self>,
        partition: PartitionId,
        info: &Arc<SessionInfo>,
        key: SessionKey,
        core: u16,
    ) -> ImmediateAttach {
        let mut sessions = self.sessions.partition(partition);
        let Some(link) = self
            .usable_link(partition, &sessions)
            .filter(|link| link.owner.node == self.parts.node)
        else {
            return ImmediateAttach::Pending;
        };
        let term = link.owner.term;
        let outcome = self
            .ownership
            .attach(partition, term, self.caller_link(link.id), info, key);
        let mut predecessors = None;
        let (number, older): (SessionNumber, Vec<SessionKey>) = match outcome {
            Ok(AttachOutcome::Ready(number)) => (number, Vec::new()),
            Ok(AttachOutcome::Supersedes(number, superseded)) => {
                let older = sessions.live.get(&info.identity);
                let is_on_this_core = older.is_some_and(|older| {
                    let is_it = |superseded: &SupersededSession| superseded.address == self.address(older.key);
                    older.core == core && superseded.iter().all(is_it) && older.keys().count() <= MAX_PREDECESSORS
                });
                predecessors = older.map(|older| older.keys().collect::<Box<[SessionKey]>>());
                let address = self.address(key);
                // Only a session that begins at once ends the older one by that. One that waits may yet be cancelled, and
                // until the older one has been closed it must stay known.
                let begins = is_on_this_core && self.ownership.may_begin(partition, term, &info.identity);
                if !begins || superseded.is_empty() {
                    sessions.pending.insert(key, false);
                    drop(sessions);
                    self.supersede(partition, term, &info.identity, address, superseded);
                    return ImmediateAttach::Pending;
                }
                self.ownership
                    .superseded_are_gone(partition, term, &info.identity, address);
                let readiness = self.ownership.readiness(partition, term, &info.identity, address);
                if readiness != AttachReadiness::Ready {
                    sessions.pending.insert(key, false);
                    return ImmediateAttach::Pending;
                }
                self.metrics.taken_over.increment(superseded.len() as u64);
                superseded
                    .iter()
                    .for_each(|_| self.metrics.closed(CloseReason::TakenOver));
                (
                    number,
                    superseded.iter().map(|superseded| superseded.address.key).collect(),
                )
            }
            Ok(AttachOutcome::Waiting(_)) | Err(_) => return ImmediateAttach::Pending,
        };
        let replaced = sessions.insert(LocalSession {
            predecessors,
            ..LocalSession::new(info, key, core, number)
        });
        drop(sessions);
        if let Some(replaced) = replaced.filter(|replaced| !older.contains(&replaced.key)) {
            self.discard_predecessor(partition, &replaced);
        }
        if self.why_unauthorized(info).is_some() {
            // The identity has changed since it was read; the pending path reads it again and reports the reason.
            self.detach(partition, info, key);
            return ImmediateAttach::Pending;
        }
        ImmediateAttach::Ready(number, older)
    }

    /// Attaches at the owner, as soon as there is one. The caller limits the time, and calls [`Self::abandon`] when it
    /// gives up.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        partition: PartitionId,
        info: &Arc<SessionInfo>,
        key: SessionKey,
        core: u16,
        trace: Option<TraceContext>,
    ) -> Result<SessionNumber, AttachError> {
        let mut openings = self.sessions.openings(partition);
        loop {
            let link = {
                let mut sessions = self.sessions.partition(partition);
                let link = self.usable_link(partition, &sessions);
                if link.is_some() && *sessions.pending.entry(key).or_insert(false) {
                    return Err(AttachError::Superseded);
                }
                link
            };
            let Some(link) = link else {
                self.request_renewal(partition);
                // The sender lives in the hub, which outlives this call.
                let _ = openings.changed().await;
                continue;
            };
            let number = match self.attach_at_owner(partition, link, info, key, trace).await {
                AttachReply::Ready(number) => number,
                AttachReply::Waiting(number) => match self.wait_for_predecessor(partition, link, info, key).await {
                    Ok(AttachReadiness::Ready) => number,
                    Ok(AttachReadiness::Gone) if self.is_current(partition, link) => {
                        return Err(AttachError::Superseded);
                    }
                    Ok(_) | Err(OwnerError::NotOwner | OwnerError::LinkLost) => {
                        tokio::time::sleep(RETRY_BACKOFF).await;
                        continue;
                    }
                    Err(OwnerError::Busy | OwnerError::StaleIncarnation) => return Err(AttachError::Busy),
                },
                AttachReply::Revoked => return Err(AttachError::Revoked),
                AttachReply::Retry(OwnerError::Busy | OwnerError::StaleIncarnation) => return Err(AttachError::Busy),
                AttachReply::Retry(_) => {
                    self.request_renewal(partition);
                    tokio::time::sleep(RETRY_BACKOFF).await;
                    continue;
                }
            };
            let mut sessions = self.sessions.partition(partition);
            if sessions.pending.get(&key) != Some(&false) {
                return Err(AttachError::Superseded);
            }
            if self
                .usable_link(partition, &sessions)
                .is_none_or(|current| current.id != link.id)
            {
                // The next owner does not know of it.
                continue;
            }
            sessions.pending.remove(&key);
            let older = sessions.insert(LocalSession::new(info, key, core, number));
            drop(sessions);
            if let Some(older) = older {
                self.discard_predecessor(partition, &older);
            }
            if self.why_unauthorized(info).is_some() {
                return Err(AttachError::Revoked);
            }
            return Ok(number);
        }
    }

    /// Drops an older session of this node that the owner did not know, and therefore did not close.
    fn discard_predecessor(&self, partition: PartitionId, older: &LocalSession) {
        let commands = self.commands(older.core);
        for key in older.keys() {
            commands.push(Command::Discard { key, partition });
        }
        self.metrics.closed(CloseReason::TakenOver);
    }

    fn is_current(&self, partition: PartitionId, link: Link) -> bool {
        self.sessions
            .link(partition)
            .is_some_and(|current| current.id == link.id)
    }

    /// An attach was cancelled: the owner forgets the session, if it ever knew it.
    pub(crate) fn abandon(self: &Arc<Self>, partition: PartitionId, info: &Arc<SessionInfo>, key: SessionKey) {
        let was_sent = self.sessions.partition(partition).pending.remove(&key).is_some();
        if was_sent {
            self.report_ended(partition, info, key);
        } else {
            self.detach(partition, info, key);
        }
    }

    /// A session has ended.
    pub(crate) fn detach(self: &Arc<Self>, partition: PartitionId, info: &Arc<SessionInfo>, key: SessionKey) {
        let removed = self.sessions.partition(partition).remove(&info.identity, key);
        if removed.is_some() {
            self.report_ended(partition, info, key);
        }
    }

    fn report_ended(self: &Arc<Self>, partition: PartitionId, info: &Arc<SessionInfo>, key: SessionKey) {
        let mut sessions = self.sessions.partition(partition);
        let own_link = sessions.open_link().filter(|link| link.owner.node == self.parts.node);
        let Some(link) = own_link else {
            sessions.detach(info, key);
            drop(sessions);
            return self.flush(partition);
        };
        self.detach_locally(partition, link, info, key);
    }

    /// The owner on this node forgets a session.
    fn detach_locally(&self, partition: PartitionId, link: Link, info: &SessionInfo, key: SessionKey) {
        let caller = self.caller_link(link.id);
        self.ownership
            .detach(partition, link.owner.term, caller, &info.identity, key);
    }

    /// A session has sent something; reported with the next renewal.
    pub(crate) fn report_activity(
        &self,
        partition: PartitionId,
        info: &Arc<SessionInfo>,
        key: SessionKey,
        at: UnixMillis,
    ) {
        let mut sessions = self.sessions.partition(partition);
        match sessions.open_link() {
            Some(link) if link.owner.node == self.parts.node => {
                self.record_activity_locally(partition, link, info, key, at);
            }
            _ => {
                let info = Arc::clone(info);
                sessions.outbox.activities.insert(key, Activity { info, at });
            }
        }
    }

    /// An identity without a session has sent a request; reported with the next renewal. Beyond a bound it is not reported.
    pub(crate) fn report_request(
        &self,
        partition: PartitionId,
        info: &Arc<SessionInfo>,
        key: SessionKey,
        at: UnixMillis,
    ) {
        let mut sessions = self.sessions.partition(partition);
        match sessions.open_link() {
            Some(link) if link.owner.node == self.parts.node => {
                drop(sessions);
                self.record_request_locally(partition, link, info, at);
            }
            _ if sessions.outbox.requests.len() < MAX_REPORTED_REQUESTS => {
                let info = Arc::clone(info);
                sessions.outbox.requests.insert(key, Activity { info, at });
            }
            _ => {}
        }
    }

    fn record_request_locally(&self, partition: PartitionId, link: Link, info: &SessionInfo, at: UnixMillis) {
        let caller = self.caller_link(link.id);
        let (identity, generation) = (&info.identity, &info.generation);
        self.ownership
            .record_request(partition, link.owner.term, caller, identity, generation, at);
    }

    fn record_activity_locally(
        &self,
        partition: PartitionId,
        link: Link,
        info: &SessionInfo,
        key: SessionKey,
        at: UnixMillis,
    ) {
        let caller = self.caller_link(link.id);
        self.ownership
            .record_activity(partition, link.owner.term, caller, &info.identity, key, at);
    }

    async fn attach_at_owner(
        self: &Arc<Self>,
        partition: PartitionId,
        link: Link,
        info: &Arc<SessionInfo>,
        key: SessionKey,
        trace: Option<TraceContext>,
    ) -> AttachReply {
        if link.owner.node == self.parts.node {
            let (term, caller) = (link.owner.term, self.caller_link(link.id));
            return match self.ownership.attach(partition, term, caller, info, key) {
                Ok(AttachOutcome::Ready(number)) => AttachReply::Ready(number),
                Ok(AttachOutcome::Waiting(number)) => AttachReply::Waiting(number),
                Ok(AttachOutcome::Supersedes(number, superseded)) => {
                    self.supersede(partition, term, &info.identity, caller.address(key), superseded);
                    AttachReply::Waiting(number)
                }
                Err(error) => AttachReply::Retry(error),
            };
        }
        let (reply, replied) = oneshot::channel();
        {
            let mut sessions = self.sessions.partition(partition);
            if sessions.open_link().is_none_or(|current| current.id != link.id) {
                return AttachReply::Retry(OwnerError::LinkLost);
            }
            if sessions.outbox.attaches.len() >= MAX_ATTACHES {
                return AttachReply::Retry(OwnerError::Busy);
            }
            let info = Arc::clone(info);
            sessions.outbox.attaches.push_back(PendingAttach {
                info,
                key,
                trace,
                reply,
            });
        }
        self.flush(partition);
        replied.await.unwrap_or(AttachReply::Retry(OwnerError::LinkLost))
    }

    /// Waits until the older session is gone, for at most [`WAIT_TIMEOUT`].
    async fn wait_for_predecessor(
        &self,
        partition: PartitionId,
        link: Link,
        info: &SessionInfo,
        key: SessionKey,
    ) -> Result<AttachReadiness, OwnerError> {
        let term = link.owner.term;
        if link.owner.node == self.parts.node {
            return Ok(self
                .await_readiness(partition, term, &info.identity, self.address(key), WAIT_TIMEOUT)
                .await);
        }
        let request = Request::Await(proto::SessionAwait {
            term: term.get(),
            session: Some(codec::encode_ended(&info.identity, key)),
            wait_ms: codec::millis(WAIT_TIMEOUT),
        });
        match self
            .call_owner(partition, link.owner, request, WAIT_TIMEOUT + CALL_TIMEOUT)
            .await
        {
            Ok(Answer::Await(answer)) => Ok(match answer.outcome() {
                proto::session_await_answer::Outcome::Ready => AttachReadiness::Ready,
                proto::session_await_answer::Outcome::Gone => AttachReadiness::Gone,
                _ => AttachReadiness::Waiting,
            }),
            Ok(Answer::Error(error)) => Err(codec::decode_error(&error)),
            Ok(_) | Err(_) => Err(OwnerError::NotOwner),
        }
    }

    /// Whether a session may begin at this owner, as soon as that is decided, and after `timeout` at the latest.
    pub(crate) async fn await_readiness(
        &self,
        partition: PartitionId,
        term: Term,
        identity: &IdentityId,
        address: SessionAddress,
        timeout: Duration,
    ) -> AttachReadiness {
        let mut changes = self.ownership.readiness_changes(partition);
        let decided = async {
            loop {
                let readiness = self.ownership.readiness(partition, term, identity, address);
                if readiness != AttachReadiness::Waiting || changes.changed().await.is_err() {
                    return readiness;
                }
            }
        };
        tokio::time::timeout(timeout, decided)
            .await
            .unwrap_or(AttachReadiness::Waiting)
    }

    /// Sends the outbox to the owner, unless a task is doing that.
    pub(crate) fn flush(self: &Arc<Self>, partition: PartitionId) {
        {
            let mut sessions = self.sessions.partition(partition);
            let outbox = &sessions.outbox;
            if outbox.is_flushing || outbox.is_empty() || sessions.open_link().is_none() {
                return;
            }
            sessions.outbox.is_flushing = true;
        }
        let hub = Arc::clone(self);
        holdfast_tasks::spawn_critical(
            "session-changes",
            async move { while hub.flush_once(partition).await {} },
        );
    }

    /// One call; `false` when the outbox is empty or there is no link.
    async fn flush_once(self: &Arc<Self>, partition: PartitionId) -> bool {
        let (link, attaches, detaches, credits, settlements, activities, requests) = {
            let mut sessions = self.sessions.partition(partition);
            let link = sessions.open_link();
            let outbox = &mut sessions.outbox;
            let attaches = outbox.take_attaches(codec::MAX_ITEMS);
            let count = outbox.detaches.len().min(codec::MAX_ITEMS);
            let detaches: Vec<(Arc<SessionInfo>, SessionKey)> = match link {
                Some(_) => outbox.detaches.drain(..count).collect(),
                None => Vec::new(),
            };
            let (mut credits, mut settlements, mut activities) = (Vec::new(), Vec::new(), Vec::new());
            let mut requests = Vec::new();
            if let Some(link) = link {
                while requests.len() < codec::MAX_ITEMS
                    && let Some(request) = outbox.requests.pop_first()
                {
                    requests.push(request);
                }
                while activities.len() < codec::MAX_ITEMS
                    && let Some(activity) = outbox.activities.pop_first()
                {
                    activities.push(activity);
                }
                while credits.len() < codec::MAX_ITEMS
                    && let Some((_, credit)) = outbox.credits.pop_first()
                {
                    credits.push(credit);
                }
                let count = outbox.settlements.len().min(codec::MAX_ITEMS);
                let drained = outbox.settlements.drain(..count);
                // The queue of an earlier owner has ended with it.
                settlements.extend(drained.filter(|settlement| settlement.owner == link.owner));
            }
            let is_empty = attaches.is_empty()
                && detaches.is_empty()
                && credits.is_empty()
                && settlements.is_empty()
                && activities.is_empty()
                && requests.is_empty();
            let (Some(link), false) = (link, is_empty) else {
                sessions.outbox.is_flushing = false;
                drop(sessions);
                // Dropping the reply channels lets the callers retry.
                drop(attaches);
                return false;
            };
            (link, attaches, detaches, credits, settlements, activities, requests)
        };
        if link.owner.node == self.parts.node {
            for (key, activity) in &activities {
                self.record_activity_locally(partition, link, &activity.info, *key, activity.at);
            }
            for (_, request) in &requests {
                self.record_request_locally(partition, link, &request.info, request.at);
            }
            let mut refused = None;
            for settlement in settlements {
                if let Err(error) = self.settle_locally(partition, link, &settlement) {
                    refused = Some(error);
                    let mut sessions = self.sessions.partition(partition);
                    sessions.outbox.settlements.push_back(settlement);
                }
            }
            for credit in &credits {
                self.grant_locally(partition, link, credit);
            }
            for (info, key) in detaches {
                self.detach_locally(partition, link, &info, key);
            }
            if let Some(error) = refused {
                self.replace_link(partition, link, error);
            }
            return true;
        }
        let request = Request::Changes(proto::SessionChanges {
            term: link.owner.term.get(),
            link: link.id.0,
            registry_index: self.parts.registry.group().applied_index(),
            attach: attaches
                .iter()
                .map(|one| proto::SessionItem {
                    trace: TraceContext::to_wire(one.trace),
                    ..codec::encode_item(&one.info, one.key, None, Credit::default())
                })
                .collect(),
            detach: detaches
                .iter()
                .map(|(info, key)| codec::encode_ended(&info.identity, *key))
                .collect(),
            settlements: settlements.iter().map(codec::encode_settlement).collect(),
            credits: credits.iter().map(codec::encode_credit).collect(),
            activities: activities.iter().map(codec::encode_activity).collect(),
            requests: requests.iter().map(codec::encode_request_activity).collect(),
        });
        let failed = match self.call_owner(partition, link.owner, request, CALL_TIMEOUT).await {
            Ok(Answer::Changes(answer)) if answer.attached.len() == attaches.len() => {
                for (one, attached) in attaches.into_iter().zip(&answer.attached) {
                    // A cancelled caller has reported the end of its session.
                    let _ = one.reply.send(codec::decode_attached(attached));
                }
                return true;
            }
            Ok(Answer::Error(error)) => {
                let error = codec::decode_error(&error);
                if error != OwnerError::Busy {
                    self.sessions.close_link(partition, link.id);
                }
                error
            }
            Ok(_) => OwnerError::LinkLost,
            Err(error) => {
                tracing::debug!(
                    partition = partition.0, owner = %link.owner.node, %error,
                    "session changes did not reach the owner; retrying with the next renewal"
                );
                OwnerError::LinkLost
            }
        };
        {
            let mut sessions = self.sessions.partition(partition);
            if sessions.link.is_some_and(|current| current.id == link.id) {
                for ended in detaches.into_iter().rev() {
                    sessions.outbox.detaches.push_front(ended);
                }
                for credit in credits {
                    sessions.outbox.credits.entry(credit.key).or_insert(credit);
                }
                for (key, activity) in activities {
                    sessions.outbox.activities.entry(key).or_insert(activity);
                }
                sessions.outbox.requests.extend(requests);
            }
            // An owner may get a settlement twice; the second one changes nothing.
            for settlement in settlements.into_iter().rev() {
                sessions.outbox.settlements.push_front(settlement);
            }
            sessions.outbox.is_flushing = false;
        }
        for one in attaches {
            let _ = one.reply.send(AttachReply::Retry(failed));
        }
        self.request_renewal(partition);
        false
    }
}
