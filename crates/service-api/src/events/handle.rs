//! Handles the events of the engine.

use std::borrow::Cow;

use holdfast_amqp::message::{Request, Response};
use holdfast_amqp::types::Raw;
use holdfast_amqp::{Detached, Event, Fault, Incoming, LinkId, OpenSpec, Outcome, SaslCode, SaslInit, limits};
use holdfast_model::{ErrorCode, RefusalReason, UnixMillis};

use super::cbs::{Certainty, Verdict, plain, put_token};
use super::delayed::Refusal;
use super::driver::{Driver, Unconfirmed};
use super::management::{self, Decision};
use super::receiver::ReceiverError;
use super::refusal::{LINK_STOLEN, Refused, Tracking};

/// How a request is answered.
enum Answered {
    /// With this response.
    Now(Vec<u8>),
    /// With this response, which is a refusal.
    Refused(Vec<u8>),
    /// The response follows.
    Later,
    /// After the registry's leader has confirmed a refusal.
    NeedsConfirmation,
}

impl Driver {
    /// Handles one event. `true`: deadlines may have moved.
    pub(super) fn handle(&mut self, event: Event<'_>) -> bool {
        match event {
            Event::SaslInit(init) => self.sasl(&init),
            Event::Open(open) => {
                tracing::debug!(address = %self.address, container = open.container_id, "AMQP connection opened");
                let container_id = format!("{}-{}", self.endpoint.hub_name(), self.number);
                self.engine.open(&OpenSpec {
                    container_id,
                    hostname: None,
                });
                self.watch_authentication();
            }
            Event::AttachRequested { link, attach } => self.attach(link, &attach),
            Event::Transfer(incoming) => self.transfer(&incoming, Certainty::Local),
            Event::Credit { link, drain, .. } => {
                match self.receivers.iter_mut().find(|receiver| receiver.link == link) {
                    Some(receiver) => receiver.drain = drain,
                    None if self.openings.iter().any(|opening| opening.link == link) => {
                        for opening in self.openings.iter_mut().filter(|opening| opening.link == link) {
                            opening.drain = drain;
                        }
                    }
                    None => {
                        self.outbox.send(&mut self.engine);
                        if drain {
                            self.engine.finish_drain(link);
                        }
                    }
                }
                return false;
            }
            Event::WindowOpened(_) => {
                self.outbox.send(&mut self.engine);
                return false;
            }
            Event::Detached { link, .. } => self.forget(|gone| gone == link),
            Event::Ended { session, .. } => self.forget(|gone| gone.session() == session),
            Event::Closed(_) => self.forget(|_| true),
            // All deliveries are sent settled, so outcomes carry nothing; the engine answers begins.
            Event::Disposition { .. } | Event::SenderSettled { .. } | Event::Begun(_) => return false,
            Event::Attached { .. } | Event::Drained(_) | Event::SaslFailed(_) => return false,
        }
        true
    }

    /// Removes links; dropping a receiver releases its lease.
    fn forget(&mut self, is_gone: impl Fn(LinkId) -> bool) {
        let before = self.receivers.len();
        self.receivers.retain(|receiver| !is_gone(receiver.link));
        let gone = before - self.receivers.len();
        #[expect(clippy::cast_precision_loss, reason = "a few links")]
        self.endpoint.metrics().receivers.decrement(gone as f64);
        self.openings.retain(|opening| !is_gone(opening.link));
        self.pending_management.retain(|pending| !is_gone(pending.link));
        self.delayed.retain(|delayed| !delayed.link().is_some_and(&is_gone));
        self.cbs.retain(|link| !is_gone(link));
        self.management.retain(|link| !is_gone(link));
        self.outbox.retain(|link| !is_gone(link));
    }

    fn sasl(&mut self, init: &SaslInit<'_>) {
        match init.mechanism {
            "PLAIN" => match init.plain() {
                Some((user, password)) => self.plain(user, password, Certainty::Local),
                None => self.refuse_sasl("", &Refused::credentials(RefusalReason::Malformed)),
            },
            // EXTERNAL needs a client certificate, and the listener requests none (Spec amqp §1.2).
            "EXTERNAL" => self.refuse_sasl("", &Refused::credentials(RefusalReason::NoCertificate)),
            _ => self.engine.sasl_outcome(SaslCode::Ok),
        }
    }

    /// Decides about SASL PLAIN, at once or after the leader's confirmation.
    pub(super) fn plain(&mut self, user: &str, password: &str, certainty: Certainty) {
        let hub = self.endpoint.hub_arc();
        let now = hub.clock().now();
        match plain(&hub, &mut self.tokens, user, password, certainty, now) {
            Verdict::Accepted => {
                self.authenticated();
                self.engine.sasl_outcome(SaslCode::Ok);
            }
            Verdict::NeedsConfirmation => {
                self.unconfirmed = Some(Unconfirmed::Plain {
                    user: user.to_owned(),
                    password: password.to_owned(),
                });
            }
            Verdict::Refused(refused) => self.refuse_sasl(user, &refused),
        }
    }

    fn refuse_sasl(&mut self, user: &str, refused: &Refused) {
        let now = self.endpoint.hub().clock().now();
        self.audit_as(user, refused, now);
        let is_certain = refused.reason != Some(RefusalReason::Unconfirmed);
        let code = if is_certain {
            SaslCode::Auth
        } else {
            SaslCode::Temporary
        };
        self.refuse(user, "SASL", Refusal::Sasl(code));
    }

    /// A delivery: a request to `$cbs` or `$management`; clients can send to no other node.
    pub(super) fn transfer(&mut self, incoming: &Incoming<'_>, certainty: Certainty) {
        let is_cbs = self.cbs.takes(incoming.link);
        if !is_cbs && !self.management.takes(incoming.link) {
            // The link is being detached.
            return;
        }
        let request = match Request::parse(&incoming.payload) {
            Ok(request) => request,
            Err(error) => {
                let fault = Fault::new("amqp:decode-error", "The message cannot be decoded.");
                tracing::debug!(address = %self.address, %error, "a request cannot be decoded and is rejected");
                self.settle(incoming, &Outcome::Rejected(Some(fault)));
                return;
            }
        };
        let hub = self.endpoint.hub_arc();
        let now = hub.clock().now();
        let answered = if is_cbs {
            self.answer_cbs(&request, certainty, now)
        } else {
            self.answer_management(incoming.link, &request, certainty, now)
        };
        let answered = match answered {
            Answered::NeedsConfirmation => {
                self.unconfirmed = Some(Unconfirmed::Request(Incoming {
                    tag: Cow::Owned(incoming.tag.to_vec()),
                    payload: Cow::Owned(incoming.payload.to_vec()),
                    ..incoming.clone()
                }));
                return;
            }
            other => other,
        };
        // uamqp reports a failed put when the response overtakes the disposition (Spec amqp §5).
        self.settle(incoming, &Outcome::Accepted);
        self.engine.top_up(incoming.link, limits::RECEIVER_CREDIT);
        match answered {
            Answered::Now(response) => self.respond(incoming.link, response),
            Answered::Refused(response) => {
                // A retry with another token, or about another entity, is another request.
                let repeated = request.text.or(request.name).unwrap_or_default();
                self.refuse(&self.identity(), repeated, Refusal::Response(incoming.link, response));
            }
            Answered::Later | Answered::NeedsConfirmation => {}
        }
    }

    /// Sends the response to a request that came on `link`.
    pub(super) fn respond(&mut self, link: LinkId, response: Vec<u8>) {
        let node = if self.cbs.takes(link) {
            &self.cbs
        } else {
            &self.management
        };
        match node.answer_to(link) {
            Some(link) => self.outbox.put(&mut self.engine, link, response),
            None => {
                tracing::debug!(address = %self.address, "a request has no link for its response; the response is dropped")
            }
        }
    }

    fn settle(&mut self, incoming: &Incoming<'_>, outcome: &Outcome<'_>) {
        if !incoming.settled {
            self.engine
                .settle(incoming.link, incoming.delivery_id, incoming.delivery_id, outcome);
        }
    }

    /// The response to a put-token.
    fn answer_cbs(&mut self, request: &Request<'_>, certainty: Certainty, now: UnixMillis) -> Answered {
        let hub = self.endpoint.hub_arc();
        let refused = match put_token(&hub, &mut self.tokens, request, certainty, now) {
            Verdict::NeedsConfirmation => return Answered::NeedsConfirmation,
            Verdict::Accepted => {
                self.authenticated();
                let response = response(request.message_id, 200, "OK", None, |buf| {
                    holdfast_amqp::types::put_null(buf)
                });
                return Answered::Now(response);
            }
            Verdict::Refused(refused) => refused,
        };
        self.audit(&refused, now);
        Answered::Refused(self.refusal(request.message_id, &refused))
    }

    fn answer_management(
        &mut self,
        link: LinkId,
        request: &Request<'_>,
        certainty: Certainty,
        now: UnixMillis,
    ) -> Answered {
        let hub = self.endpoint.hub_arc();
        let decision = match hub.registry().settings() {
            Ok(settings) => management::read(&hub, &settings, &self.tokens, request, certainty, now),
            Err(_) => Decision::Refused(Refused::busy("The hub is not ready.")),
        };
        match decision {
            Decision::NeedsConfirmation => Answered::NeedsConfirmation,
            Decision::Answer(answer) => {
                Answered::Now(response(request.message_id, 200, "OK", None, |buf| answer.encode(buf)))
            }
            Decision::Partition(about) => self
                .query_partition(link, request.message_id, about)
                .map_or(Answered::Later, Answered::Now),
            Decision::Refused(refused) => {
                self.audit(&refused, now);
                Answered::Refused(self.refusal(request.message_id, &refused))
            }
        }
    }

    pub(super) fn refusal(&self, message_id: Option<Raw<'_>>, refused: &Refused) -> Vec<u8> {
        let now = self.endpoint.hub().clock().now();
        let description = Tracking::new(&self.endpoint.hub_name(), now).text(&refused.text);
        response(
            message_id,
            refused.status(),
            &description,
            Some(refused.condition),
            |buf| {
                holdfast_amqp::types::put_null(buf);
            },
        )
    }

    /// Detaches a receiver that has failed or was preempted.
    pub(super) fn receiver_failed(&mut self, link: LinkId, error: ReceiverError) {
        let refused = match error {
            ReceiverError::Stolen(stolen) => {
                Refused::new(ErrorCode::LinkCreationConflict, stolen.to_string()).with_condition(LINK_STOLEN)
            }
            ReceiverError::Failed(refused) => refused,
        };
        self.detach_receiver(link, &refused);
    }

    fn detach_receiver(&mut self, link: LinkId, refused: &Refused) {
        let now = self.endpoint.hub().clock().now();
        self.audit(refused, now);
        let (hub, monotonic) = (self.endpoint.hub_name(), self.now);
        refused.with_fault(&hub, now, |fault| {
            self.engine.detach(link, Detached::Closed, Some(fault), monotonic)
        });
        self.forget(|gone| gone == link);
    }

    /// After tokens have expired or policies have changed: detaches receivers that no token covers any more.
    pub(super) fn recheck_authorization(&mut self) {
        let hub = self.endpoint.hub_arc();
        let now = hub.clock().now();
        let has_expired = self.tokens.expire(now);
        let is_revoked = self.tokens.revoke(|name| hub.registry().policy(name));
        if self.tokens.is_empty() && (has_expired || is_revoked) {
            self.watch_authentication();
        }
        let Ok(settings) = hub.registry().settings() else {
            return;
        };
        let mut gone = Vec::new();
        for receiver in &self.receivers {
            let id = receiver.reader.id().0.to_string();
            let part = super::tokens::EndpointScope::Partition {
                group: &receiver.group,
                partition: &id,
            };
            if settings.consumer_group(&receiver.group).is_none() {
                let host = hub.hub_names().primary().unwrap_or_default();
                let path = format!("{}/ConsumerGroups/{}", settings.hub_name, receiver.group);
                gone.push((receiver.link, Refused::no_entity(host, &path)));
            } else if self.tokens.covering(&settings.hub_name, part).is_none() {
                let reason = if is_revoked {
                    RefusalReason::Signature
                } else {
                    RefusalReason::Expired
                };
                gone.push((receiver.link, Refused::credentials(reason)));
            }
        }
        for (link, refused) in gone {
            self.detach_receiver(link, &refused);
        }
    }
}

/// The response to the request with this message id.
pub(super) fn response(
    message_id: Option<Raw<'_>>,
    status: i32,
    description: &str,
    condition: Option<&str>,
    body: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    Response {
        correlation_id: message_id,
        status,
        description,
        condition,
    }
    .encode(&mut bytes, body);
    bytes
}
