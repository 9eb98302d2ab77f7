//! One request of a device without a session: HTTPS is a protocol of requests, and takes no session away.
//!
//! Why: a device that is connected over MQTT may send over HTTPS meanwhile, and its MQTT session stays. So a request is
//! authenticated as a connection is, by the same procedure, and enters no session at the owner of its partition.
//! Invariants: a message is acknowledged only after it is committed and synced; a message whose sender does not wait any
//! more is not proposed again, so that it is not stored behind what its sender has sent since; each request is checked against
//! the registry, so that a revocation needs no session to be closed.
//! Not here: what a request asks for (front ends), batches (`ingest`).

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use holdfast_model::{
    AuthMethod, GenerationId, IdentityId, PartitionId, RefusalReason, SessionKey, TelemetryMessage, UnixMillis,
};
use holdfast_partition::record::Origin;
use tokio::sync::oneshot;

use super::authenticate::{Verified, authenticate};
use super::connect_request::{ConnectRequest, Refusal};
use super::core::{Core, Outcome, Receipt, ReceiptTarget};
use crate::session_types::SessionInfo;

/// Identities whose last report of activity a core remembers; when there are more, all are forgotten, and reported once more.
const MAX_REMEMBERED: usize = 20_000;

/// An identity that has proved itself, for one request.
#[derive(Debug, Clone)]
pub struct Requester {
    info: Arc<SessionInfo>,
    auth: AuthMethod,
    partition: PartitionId,
}

impl Requester {
    /// The identity.
    #[must_use]
    pub fn identity(&self) -> &IdentityId {
        &self.info.identity
    }

    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> &GenerationId {
        &self.info.generation
    }
}

/// When the activity of identities without a session is due to be reported, by identity.
#[derive(Debug, Default)]
pub(crate) struct ReportedActivity(HashMap<IdentityId, UnixMillis>);

impl ReportedActivity {
    /// Whether a request at `now` is reported; the next one then is at `next`.
    fn is_due(&mut self, identity: &IdentityId, now: UnixMillis, next: UnixMillis) -> bool {
        if let Some(due) = self.0.get_mut(identity) {
            if *due > now {
                return false;
            }
            *due = next;
            return true;
        }
        if self.0.len() >= MAX_REMEMBERED {
            self.0.clear();
        }
        self.0.insert(identity.clone(), next);
        true
    }
}

impl Core {
    /// Checks the credential of one request. Refusals are recorded and penalised as those of connections are.
    ///
    /// # Errors
    /// The refusal, after its penalty; uncertain ones ([`Refusal::is_certain`]) may be tried again.
    pub async fn authenticate_request(self: &Rc<Self>, request: &ConnectRequest<'_>) -> Result<Requester, Refusal> {
        if self.hub.sessions.refuses_sessions() {
            return Err(self.refuse(request, Refusal::new(RefusalReason::Draining)));
        }
        let now = self.clock().now();
        let registry = &self.hub.parts.registry;
        let denied = match authenticate(&self.hub, request, now) {
            // Without the lease the replica may be stale: nothing is accepted (docs/decisions/0022).
            Ok(_) if !registry.in_lease() => None,
            Ok(verified) => return self.accept_request(request, verified, now),
            Err(denied) if denied.needs_confirmation => None,
            Err(denied) => Some(denied),
        };
        let denied = match denied {
            Some(denied) => denied,
            None => match self.confirm_request(request).await {
                Ok(verified) => return self.accept_request(request, verified, self.clock().now()),
                Err(denied) => denied,
            },
        };
        let refusal = self.deny(request, denied);
        if let Some(penalty) = self.hub.connect_penalty(request, refusal.reason) {
            penalty.served().await;
        }
        Err(refusal)
    }

    fn accept_request(
        &self,
        request: &ConnectRequest<'_>,
        verified: Verified,
        now: UnixMillis,
    ) -> Result<Requester, Refusal> {
        let identity = verified.identity.id.clone();
        if let Some(refusal) = self.hub.injected_faults.refusal(&identity) {
            return Err(self.refuse(request, refusal));
        }
        let partition = self.hub.partition_of(&identity);
        let info = Arc::new(SessionInfo {
            identity,
            generation: verified.identity.generation.clone(),
            key: verified.key,
            certificate: verified.certificate.map(Box::new),
            policy: verified.policy,
            protocol: request.protocol,
            address: Some(request.address),
            since: now,
            expires: verified.expires,
        });
        self.report_request(partition, &info, now);
        Ok(Requester {
            info,
            auth: verified.auth,
            partition,
        })
    }

    /// Has the owner note that the identity was active, once per `device_hub.activity_interval`.
    fn report_request(&self, partition: PartitionId, info: &Arc<SessionInfo>, now: UnixMillis) {
        let next = self.hub.next_activity(now);
        if self.requests.borrow_mut().is_due(&info.identity, now, next) {
            let key = self.hub.sessions.next_key();
            self.hub.report_request(partition, info, key, now);
        }
    }

    /// Sends `messages` of one request, in their order. [`Outcome::Committed`] once all are committed and synced;
    /// [`Outcome::Failed`] when that is not so after `timeout`: some may be stored nevertheless.
    ///
    /// The caller checks size limits. While the core holds as many bytes as it may, this waits. A dropped future takes back what
    /// has not been proposed.
    pub async fn send_request(
        self: &Rc<Self>,
        requester: &Requester,
        messages: &[TelemetryMessage<'_>],
        timeout: Duration,
    ) -> Outcome {
        if messages.is_empty() {
            return Outcome::Committed;
        }
        let key = self.hub.sessions.next_key();
        let mut sending = Sending {
            core: Rc::clone(self),
            partition: requester.partition,
            key,
            is_decided: false,
        };
        let committed = async {
            std::future::poll_fn(|cx| match self.has_capacity_for(requester.partition, key, cx) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
            let (target, decided) = Decision::new(messages.len());
            let now = self.clock().now();
            let origin = Origin {
                identity: &requester.info.identity,
                generation: &requester.info.generation,
                auth: requester.auth,
                model_id: None,
            };
            for (cookie, message) in messages.iter().enumerate() {
                let receipt = Receipt {
                    target: Rc::clone(&target) as Rc<dyn ReceiptTarget>,
                    cookie: cookie as u64,
                };
                self.push(requester.partition, key, &origin, message, Some(receipt), now);
            }
            drop(target);
            // A record that no batch can hold drops its receipt.
            decided.await.unwrap_or(Outcome::Failed)
        };
        let outcome = tokio::time::timeout(timeout, committed).await;
        sending.is_decided = outcome.is_ok();
        outcome.unwrap_or(Outcome::Failed)
    }
}

/// A request whose messages are not decided: when it ends before that, they are not proposed again.
struct Sending {
    core: Rc<Core>,
    partition: PartitionId,
    key: SessionKey,
    is_decided: bool,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.is_decided {
            holdfast_tasks::critical(|| {
                self.core.batcher.stop_waiting(self.partition, self.key);
                self.core.discard(self.key, self.partition);
            });
        }
    }
}

/// The outcome of all messages of a request.
struct Decision {
    left: Cell<usize>,
    outcome: Cell<Outcome>,
    reply: Cell<Option<oneshot::Sender<Outcome>>>,
}

impl Decision {
    fn new(messages: usize) -> (Rc<Self>, oneshot::Receiver<Outcome>) {
        let (reply, decided) = oneshot::channel();
        let decision = Self {
            left: Cell::new(messages),
            outcome: Cell::new(Outcome::Committed),
            reply: Cell::new(Some(reply)),
        };
        (Rc::new(decision), decided)
    }
}

impl ReceiptTarget for Decision {
    fn settled(&self, cookies: &[u64], outcome: Outcome) {
        if outcome == Outcome::Failed {
            self.outcome.set(Outcome::Failed);
        }
        self.left.set(self.left.get().saturating_sub(cookies.len()));
        if self.left.get() == 0
            && let Some(reply) = self.reply.take()
        {
            // The request may have ended.
            let _ = reply.send(self.outcome.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;

    use super::*;

    fn identity(number: usize) -> IdentityId {
        IdentityId::device(DeviceId::parse(&format!("d{number}")).unwrap())
    }

    #[test]
    fn activity_is_reported_once_an_interval_and_the_memory_for_it_is_bounded() {
        let mut reported = ReportedActivity::default();
        let at = UnixMillis;
        assert!(reported.is_due(&identity(1), at(1), at(10)));
        assert!(!reported.is_due(&identity(1), at(9), at(19)));
        assert!(reported.is_due(&identity(2), at(9), at(19)));
        assert!(reported.is_due(&identity(1), at(10), at(20)));
        for number in 0..=MAX_REMEMBERED {
            reported.is_due(&identity(number), at(10), at(20));
        }
        assert!(reported.0.len() <= MAX_REMEMBERED);
    }

    #[tokio::test]
    async fn a_request_is_decided_with_its_last_message_and_fails_with_any() {
        for (second, expected) in [
            (Outcome::Committed, Outcome::Committed),
            (Outcome::Failed, Outcome::Failed),
        ] {
            let (target, mut decided) = Decision::new(3);
            target.settled(&[0], second);
            target.settled(&[1], Outcome::Committed);
            assert!(decided.try_recv().is_err());
            target.settled(&[2], Outcome::Committed);
            assert_eq!(decided.await, Ok(expected));
        }
    }
}
