//! Requests of this node's sessions about stored subscriptions, on their way to the owner of the partition.
//!
//! Requests of one partition that come together go as one call, and become one entry there; one call is in flight. They
//! are sent again over the next link when the owner has changed or does not answer, and are dropped with their session.
//! Not here: the decision ([`crate::owner::subscriptions`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::transport::CallError;
use holdfast_model::{PartitionId, SessionKey};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use thiserror::Error;
use tokio::sync::oneshot;

use super::session_table::Link;
use crate::DeviceHub;
use crate::device_state::Subscriptions;
use crate::owner::subscriptions::{SubscriptionAction, SubscriptionAnswer, SubscriptionRequest};
use crate::rpc::codec::{self, MAX_ITEMS};
use crate::session_types::{OwnerError, SessionInfo};

/// Requests of one partition that wait for the owner; a session has at most one.
const MAX_WAITING: usize = 100_000;

/// How long an owner may take to commit changes.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Delay before an owner is asked again that could not answer.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// Why stored subscriptions could not be read or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubscriptionError {
    /// A newer session of the identity has begun, or this one has ended.
    #[error("the session is not the current one of its identity")]
    SessionEnded,
    /// Too many requests wait for the owner of the partition.
    #[error("too many requests wait for the owner of the partition")]
    Busy,
}

pub(crate) type SubscriptionResult = Result<Option<Subscriptions>, SubscriptionError>;

/// A request whose caller waits.
struct PendingRequest {
    info: Arc<SessionInfo>,
    key: SessionKey,
    action: SubscriptionAction,
    reply: oneshot::Sender<SubscriptionResult>,
}

impl PendingRequest {
    fn answer(self, result: SubscriptionResult) {
        // A caller that has gone wants no answer.
        let _ = self.reply.send(result);
    }
}

/// The requests of one partition.
#[derive(Default)]
pub(crate) struct SubscriptionRequests {
    waiting: VecDeque<PendingRequest>,
    /// A task is sending them.
    is_sending: bool,
}

impl SubscriptionRequests {
    /// The next ones, at most as many as fit a call; those whose caller has gone are dropped.
    fn take(&mut self) -> Vec<PendingRequest> {
        let mut taken = Vec::new();
        while taken.len() < MAX_ITEMS
            && let Some(request) = self.waiting.pop_front()
        {
            if !request.reply.is_closed() {
                taken.push(request);
            }
        }
        taken
    }

    fn put_back(&mut self, requests: impl DoubleEndedIterator<Item = PendingRequest>) {
        requests.rev().for_each(|request| self.waiting.push_front(request));
    }
}

impl DeviceHub {
    /// Carries out `action` at the owner, as soon as there is one. The caller limits the time.
    pub(crate) fn request_subscriptions(
        self: &Arc<Self>,
        partition: PartitionId,
        info: &Arc<SessionInfo>,
        key: SessionKey,
        action: SubscriptionAction,
    ) -> impl Future<Output = SubscriptionResult> + use<> {
        let (reply, replied) = oneshot::channel();
        let request = PendingRequest {
            info: Arc::clone(info),
            key,
            action,
            reply,
        };
        let mut sessions = self.sessions.partition(partition);
        let requests = &mut sessions.subscriptions;
        if requests.waiting.len() >= MAX_WAITING {
            request.answer(Err(SubscriptionError::Busy));
        } else {
            requests.waiting.push_back(request);
            if !std::mem::replace(&mut requests.is_sending, true) {
                let hub = Arc::clone(self);
                holdfast_tasks::spawn_critical("subscription-requests", async move {
                    hub.send_subscription_requests(partition).await;
                });
            }
        }
        drop(sessions);
        async move { replied.await.unwrap_or(Err(SubscriptionError::Busy)) }
    }

    async fn send_subscription_requests(self: &Arc<Self>, partition: PartitionId) {
        let mut openings = self.sessions.openings(partition);
        loop {
            let (link, requests) = {
                let mut sessions = self.sessions.partition(partition);
                let link = self.usable_link(partition, &sessions);
                let queue = &mut sessions.subscriptions;
                let requests = queue.take();
                if requests.is_empty() {
                    queue.is_sending = false;
                    return;
                }
                if link.is_none() {
                    queue.put_back(requests.into_iter());
                    (None, Vec::new())
                } else {
                    (link, requests)
                }
            };
            let Some(link) = link else {
                self.request_renewal(partition);
                // The sender lives in the hub, which outlives this call.
                let _ = openings.changed().await;
                continue;
            };
            let again = match self.ask_about_subscriptions(partition, link, &requests).await {
                Ok(answers) => self.give_answers(partition, link, requests, answers),
                Err(error) => {
                    if error == OwnerError::LinkLost {
                        self.sessions.close_link(partition, link.id);
                    }
                    requests
                }
            };
            if !again.is_empty() {
                self.sessions
                    .partition(partition)
                    .subscriptions
                    .put_back(again.into_iter());
                self.request_renewal(partition);
                tokio::time::sleep(RETRY_BACKOFF).await;
            }
        }
    }

    /// Answers the callers; returns the requests to send again.
    fn give_answers(
        &self,
        partition: PartitionId,
        link: Link,
        requests: Vec<PendingRequest>,
        answers: Vec<SubscriptionAnswer>,
    ) -> Vec<PendingRequest> {
        let is_valid = {
            let sessions = self.sessions.partition(partition);
            let usable = self.usable_link(partition, &sessions);
            usable.is_some_and(|current| current.id == link.id)
        };
        let mut again = Vec::new();
        for (request, answer) in requests.into_iter().zip(answers) {
            match answer {
                SubscriptionAnswer::Done(stored) => {
                    // A value that was read over a link that has ended may be outdated. A change that is committed stays.
                    if is_valid || matches!(request.action, SubscriptionAction::Store(_)) {
                        request.answer(Ok(stored));
                    } else {
                        again.push(request);
                    }
                }
                SubscriptionAnswer::Gone => request.answer(Err(SubscriptionError::SessionEnded)),
                SubscriptionAnswer::Busy => again.push(request),
            }
        }
        again
    }

    async fn ask_about_subscriptions(
        self: &Arc<Self>,
        partition: PartitionId,
        link: Link,
        requests: &[PendingRequest],
    ) -> Result<Vec<SubscriptionAnswer>, OwnerError> {
        let asked = requests.iter().map(|request| SubscriptionRequest {
            identity: request.info.identity.clone(),
            key: request.key,
            action: request.action,
        });
        let asked: Vec<SubscriptionRequest> = asked.collect();
        let term = link.owner.term;
        if link.owner.node == self.parts.node {
            let caller = self.caller_link(link.id);
            return self.answer_subscriptions(partition, term, caller, asked).await;
        }
        let request = Request::Subscriptions(proto::SessionSubscriptions {
            term: term.get(),
            link: link.id.0,
            requests: asked.iter().map(codec::encode_subscription_request).collect(),
        });
        match self.call_owner(partition, link.owner, request, CALL_TIMEOUT).await {
            Ok(Answer::Subscriptions(answer)) if answer.answers.len() == asked.len() => {
                Ok(answer.answers.iter().map(codec::decode_subscription_answer).collect())
            }
            Ok(Answer::Error(error)) => Err(codec::decode_error(&error)),
            // An owner of a version that stores no subscriptions: none are stored, and changes wait for its update.
            Err(CallError::Refused(reason)) => {
                tracing::debug!(
                    partition = partition.0,
                    owner = %link.owner.node,
                    %reason,
                    "the owner stores no subscriptions; clients find no session"
                );
                Ok(asked
                    .iter()
                    .map(|request| match request.action {
                        SubscriptionAction::Store(_) => SubscriptionAnswer::Busy,
                        _ => SubscriptionAnswer::Done(None),
                    })
                    .collect())
            }
            Ok(_) | Err(_) => Err(OwnerError::NotOwner),
        }
    }
}
