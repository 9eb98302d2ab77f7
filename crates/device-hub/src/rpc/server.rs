//! Serves the calls of other nodes: to this node as the owner of partitions, and as the gateway of sessions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_cluster::transport::{Answer as AnswerFuture, CallError, Handler};
use holdfast_model::limits::MAX_FEEDBACK_BATCH;
use holdfast_model::{GenerationId, Incarnation, LinkId, NodeId, PartitionId, SessionKey, Term, UnixMillis};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_attached::Outcome;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use holdfast_spans::{Attribute, SpanName, TraceContext};

use super::codec::{self, refused};
use crate::DeviceHub;
use crate::api::session::CloseReason;
use crate::api::trace::TraceRequest;
use crate::c2d;
use crate::downlink::delivery::{DeliveryId, Settlement};
use crate::downlink::receive::ReceivedDeliveries;
use crate::downlink::route::MAX_DELIVERY_TIMEOUT;
use crate::downlink::term::DeliveryAnswer;
use crate::outbox::{Outbox, Record};
use crate::owner::ownership::{AttachOutcome, AttachReadiness, ReportedSession};
use crate::queries::SliceError;
use crate::session_types::{CallerLink, OwnerError, SessionInfo, SyncPhase};
use crate::uploads::{self, UploadReader};

/// The longest time for which a call may wait here.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// For [`Service::Session`](holdfast_cluster::transport::Service::Session) of the node's dispatch.
impl Handler for DeviceHub {
    fn call(&self, from: NodeId, target: u32, body: Bytes) -> AnswerFuture {
        let hub = self.this.upgrade();
        Box::pin(async move {
            let hub = hub.ok_or_else(|| refused("the node is stopping"))?;
            let request: proto::SessionRequest = codec::decode(&body)?;
            drop(body);
            let server = CallServer {
                hub,
                gateway: from,
                incarnation: Incarnation(request.incarnation),
            };
            let answer = server.answer(target, request.request).await?;
            Ok(codec::encode(&proto::SessionAnswer { answer: Some(answer) }))
        })
    }
}

/// One call, and its caller.
struct CallServer {
    hub: Arc<DeviceHub>,
    gateway: NodeId,
    incarnation: Incarnation,
}

impl CallServer {
    async fn answer(self, target: u32, request: Option<Request>) -> Result<Answer, CallError> {
        let request = request.ok_or_else(|| refused("a request that this version does not know; update this node"))?;
        Ok(match request {
            Request::Sync(sync) => self.sync(self.partition(target)?, &sync).await?,
            Request::Changes(changes) => self.changes(self.partition(target)?, &changes)?,
            Request::Await(wait) => self.await_readiness(self.partition(target)?, &wait).await?,
            Request::KeepAlive(keep_alive) => self.keep_alive(&keep_alive)?,
            Request::Close(close) => self.close(self.partition(target)?, &close).await?,
            Request::Deliver(deliver) => self.deliver(self.partition(target)?, deliver).await?,
            Request::Subscriptions(subscriptions) => {
                self.subscriptions(self.partition(target)?, &subscriptions).await?
            }
            Request::Send(send) => {
                let (identity, delivery) = codec::decode_send(&send)?;
                let timeout = Duration::from_millis(send.wait_ms.into()).min(MAX_DELIVERY_TIMEOUT);
                codec::encode_sent(self.hub.deliver_and_wait(&identity, delivery, timeout).await)
            }
            Request::Query(query) => {
                codec::check_count(query.identities.len())?;
                let identities = query.identities.iter().map(codec::decode_queried);
                let identities = identities.collect::<Result<Vec<_>, CallError>>()?;
                let found = self.hub.find_connections(identities).await;
                Answer::Query(proto::SessionQueryAnswer { found })
            }
            Request::Count(_) => {
                let (devices, sessions) = self.hub.ownership.count();
                Answer::Count(proto::SessionCountAnswer { devices, sessions })
            }
            Request::Twin(_) | Request::CloudQueue(_) | Request::Upload(_) => {
                let answer = self.hub.answer_as_owner(self.partition(target)?, request).await;
                answer.unwrap_or_else(codec::encode_change_error)
            }
            Request::MethodResult(result) => {
                let (id, identity, outcome) = codec::decode_method_result(self.hub.parts.node, result)?;
                self.hub.method_calls.complete(id, &identity, outcome);
                Answer::MethodResult(proto::MethodResultAnswer {})
            }
            Request::DeviceQuery(query) => match self.hub.serve_device_query(query).await {
                Ok(answer) => Answer::DeviceQuery(answer),
                Err(SliceError::NotOwner) => codec::encode_error(OwnerError::NotOwner),
                Err(SliceError::Registry(_)) => codec::encode_error(OwnerError::Busy),
                Err(error @ (SliceError::Query(_) | SliceError::Request(_) | SliceError::Twin(_))) => {
                    return Err(refused(&error.to_string()));
                }
            },
            Request::TakeFeedback(take) => {
                let most = usize::try_from(take.most).unwrap_or(usize::MAX).min(MAX_FEEDBACK_BATCH);
                let wait = Duration::from_millis(take.wait_ms.into()).min(MAX_WAIT);
                let records = self.hub.take_records_here(Outbox::Feedback, most, wait).await;
                let records = records.iter().filter_map(|record| match record {
                    Record::Feedback(feedback) => Some(c2d::codec::encode_feedback(feedback)),
                    Record::Upload(_) => None,
                });
                Answer::TakeFeedback(proto::FeedbackTaken {
                    records: records.collect(),
                })
            }
            Request::TakeUploads(take) => {
                let most = usize::try_from(take.most).unwrap_or(usize::MAX).min(MAX_FEEDBACK_BATCH);
                let wait = Duration::from_millis(take.wait_ms.into()).min(MAX_WAIT);
                let reader = UploadReader::from_number(take.reader);
                let reader = reader.ok_or_else(|| refused("an unknown reader of notifications"))?;
                let records = self.hub.take_records_here(Outbox::Uploads(reader), most, wait).await;
                let records = records.iter().filter_map(|record| match record {
                    Record::Upload(notification) => Some(uploads::codec::encode_notification(notification)),
                    Record::Feedback(_) => None,
                });
                Answer::TakeUploads(proto::UploadsTaken {
                    records: records.collect(),
                })
            }
            Request::Rates(report) => self.hub.answer_rates(self.gateway, &report)?,
            Request::TakeTrace(take) => {
                let identity = codec::decode_identity(&take.device, &take.module)?;
                let request = TraceRequest {
                    identity: &identity,
                    number: take.number,
                    left: Duration::from_millis(take.left_ms),
                    payloads: take.payloads,
                };
                let taken = self.hub.take_trace_here(&request);
                Answer::TakeTrace(taken.map_err(|error| refused(&error.to_string()))?)
            }
            Request::Refusals(refusals) => Answer::Refusals(proto::SessionRefusalsAnswer {
                refusals: self.hub.refusals_here(codec::check_text(&refusals.identity)?),
            }),
        })
    }

    fn partition(&self, target: u32) -> Result<PartitionId, CallError> {
        let count = self.hub.parts.partitions.count().get();
        let id = u16::try_from(target).ok().filter(|id| *id < count);
        id.map(PartitionId)
            .ok_or_else(|| refused(&format!("there is no partition {target}; the hub has {count}")))
    }

    fn caller(&self, link: LinkId) -> CallerLink {
        CallerLink {
            gateway: self.gateway,
            incarnation: self.incarnation,
            link,
        }
    }

    async fn sync(&self, partition: PartitionId, sync: &proto::SessionSync) -> Result<Answer, CallError> {
        codec::check_count(sync.items.len())?;
        let mut reported = Vec::with_capacity(sync.items.len());
        let mut lost = Vec::new();
        for item in &sync.items {
            let info = codec::decode_info(item)?;
            if let Some(reason) = self.hub.revocation(&info, sync.registry_index) {
                lost.push(proto::SessionLost {
                    key: item.key,
                    revoked: true,
                    certificate_revoked: reason == CloseReason::CertificateRevoked,
                });
                continue;
            }
            reported.push(ReportedSession {
                info,
                key: SessionKey(item.key),
                number: codec::decode_number(item),
                credit: codec::decode_counters(item.credit.as_ref()),
            });
        }
        let phase = SyncPhase::from_flags(sync.first, sync.last);
        if phase.is_first() && !self.hub.load_absences(partition, Term(sync.term)).await {
            return Ok(codec::encode_error(OwnerError::NotOwner));
        }
        let members = || self.hub.members();
        let caller = self.caller(LinkId(sync.link));
        let result = self
            .hub
            .ownership
            .sync(partition, Term(sync.term), caller, phase, reported, members);
        let result = match result {
            Ok(result) => result,
            Err(error) => return Ok(codec::encode_error(error)),
        };
        lost.extend(result.lost.into_iter().map(|key| proto::SessionLost {
            key: key.0,
            revoked: false,
            certificate_revoked: false,
        }));
        self.hub
            .spawn_close_superseded(partition, Term(sync.term), result.superseded);
        if result.has_returned {
            self.hub.update_absences(partition, Term(sync.term), Vec::new());
        }
        for identity in &result.take_messages {
            self.hub.deliver_queue(partition, identity);
        }
        self.hub.resume_notifications(partition, &result.take_changes);
        if phase.is_last() {
            self.hub.send_deliveries(partition, Term(sync.term), self.gateway);
        }
        let mut granted = self.hub.ownership.grant(partition, Term(sync.term));
        if phase.is_last() && granted.is_zero() {
            // A gateway may call before this node has noticed that it owns the partition.
            self.hub.confirm_own(partition, Term(sync.term)).await;
            granted = self.hub.ownership.grant(partition, Term(sync.term));
        }
        Ok(Answer::Sync(proto::SessionSyncAnswer {
            lost,
            granted_ms: codec::millis(granted),
        }))
    }

    fn changes(&self, partition: PartitionId, changes: &proto::SessionChanges) -> Result<Answer, CallError> {
        codec::check_count(changes.attach.len())?;
        codec::check_count(changes.detach.len())?;
        let caller = self.caller(LinkId(changes.link));
        if let Err(error) = self.settle(partition, caller, changes)? {
            return Ok(codec::encode_error(error));
        }
        let mut attached = Vec::with_capacity(changes.attach.len());
        for item in &changes.attach {
            let info = codec::decode_info(item)?;
            if self.hub.revocation(&info, changes.registry_index).is_some() {
                attached.push(codec::encode_attached(Outcome::Revoked, None));
                continue;
            }
            let key = SessionKey(item.key);
            let trace = TraceContext::from_wire(&item.trace);
            let mut span = self.hub.tracer().child(SpanName::BeginSession, trace);
            span.set(Attribute::Partition, || partition.0.to_string());
            span.set(Attribute::Identity, || info.identity.to_string());
            let outcome = self
                .hub
                .ownership
                .attach(partition, Term(changes.term), caller, &info, key);
            attached.push(match outcome {
                Ok(AttachOutcome::Ready(number)) => codec::encode_attached(Outcome::Ready, Some(number)),
                Ok(AttachOutcome::Waiting(number)) => codec::encode_attached(Outcome::Waiting, Some(number)),
                Ok(AttachOutcome::Supersedes(number, superseded)) => {
                    let (term, address) = (Term(changes.term), caller.address(key));
                    self.hub.supersede(partition, term, &info.identity, address, superseded);
                    codec::encode_attached(Outcome::Waiting, Some(number))
                }
                Err(OwnerError::Busy) => codec::encode_attached(Outcome::Busy, None),
                Err(error) => return Ok(codec::encode_error(error)),
            });
        }
        self.grant_credit(partition, caller, changes)?;
        codec::check_count(changes.activities.len())?;
        for activity in &changes.activities {
            let (identity, key) = codec::decode_session(activity.session.as_ref())?;
            let at = UnixMillis(activity.at_ms);
            self.hub
                .ownership
                .record_activity(partition, Term(changes.term), caller, &identity, key, at);
        }
        codec::check_count(changes.requests.len())?;
        for request in &changes.requests {
            let identity = codec::decode_identity(&request.device, &request.module)?;
            let generation = GenerationId(Arc::from(request.generation.as_str()));
            let (term, at) = (Term(changes.term), UnixMillis(request.at_ms));
            let ownership = &self.hub.ownership;
            ownership.record_request(partition, term, caller, &identity, &generation, at);
        }
        for ended in &changes.detach {
            let identity = codec::decode_identity(&ended.device, &ended.module)?;
            let key = SessionKey(ended.key);
            self.hub
                .ownership
                .detach(partition, Term(changes.term), caller, &identity, key);
        }
        Ok(Answer::Changes(proto::SessionChangesAnswer { attached }))
    }

    /// Settlements come before everything else: they may be the last reports of sessions that have ended, and while the link is not
    /// open here, the gateway must keep them.
    fn settle(
        &self,
        partition: PartitionId,
        caller: CallerLink,
        changes: &proto::SessionChanges,
    ) -> Result<Result<(), OwnerError>, CallError> {
        codec::check_count(changes.settlements.len())?;
        let term = Term(changes.term);
        for report in &changes.settlements {
            let (identity, key) = codec::decode_session(report.session.as_ref())?;
            let settlement =
                Settlement::from_number(report.settlement).ok_or_else(|| refused("an unknown settlement"))?;
            let id = DeliveryId(report.delivery);
            let ownership = &self.hub.ownership;
            let settled = ownership.settle_delivery(partition, term, caller, &identity, key, id, settlement);
            if settled.is_err() {
                return Ok(settled);
            }
        }
        Ok(Ok(()))
    }

    fn grant_credit(
        &self,
        partition: PartitionId,
        caller: CallerLink,
        changes: &proto::SessionChanges,
    ) -> Result<(), CallError> {
        codec::check_count(changes.credits.len())?;
        let ownership = &self.hub.ownership;
        for report in &changes.credits {
            let (identity, key) = codec::decode_session(report.session.as_ref())?;
            let credit = codec::decode_counters(report.credit.as_ref());
            if ownership.grant_credit(partition, Term(changes.term), caller, &identity, key, credit) {
                self.hub.deliver_queue(partition, &identity);
                self.hub.notify_missed(partition, &identity);
            }
        }
        if !changes.credits.is_empty() {
            self.hub.send_deliveries(partition, Term(changes.term), self.gateway);
        }
        Ok(())
    }

    async fn deliver(&self, partition: PartitionId, deliver: proto::SessionDeliver) -> Result<Answer, CallError> {
        codec::check_count(deliver.sessions.len())?;
        let sessions = deliver.sessions.into_iter().map(codec::decode_deliveries);
        let received = sessions.collect::<Result<Vec<_>, CallError>>()?;
        codec::check_count(received.iter().map(|session| session.items.len()).sum())?;
        let answers = if deliver.gateway_incarnation == self.hub.parts.incarnation.get() {
            self.hub
                .receive_deliveries(partition, LinkId(deliver.link), received)
                .await
        } else {
            // The sessions have ended with their process.
            let gone = |session: ReceivedDeliveries| vec![DeliveryAnswer::Gone; session.items.len()];
            received.into_iter().map(gone).collect()
        };
        Ok(Answer::Deliver(codec::encode_delivery_answers(answers)))
    }

    async fn subscriptions(
        &self,
        partition: PartitionId,
        call: &proto::SessionSubscriptions,
    ) -> Result<Answer, CallError> {
        codec::check_count(call.requests.len())?;
        let requests = call.requests.iter().map(codec::decode_subscription_request);
        let requests = requests.collect::<Result<Vec<_>, CallError>>()?;
        let caller = self.caller(LinkId(call.link));
        let answers = self
            .hub
            .answer_subscriptions(partition, Term(call.term), caller, requests)
            .await;
        Ok(match answers {
            Ok(answers) => Answer::Subscriptions(proto::SessionSubscriptionsAnswer {
                answers: answers.into_iter().map(codec::encode_subscription_answer).collect(),
            }),
            Err(error) => codec::encode_error(error),
        })
    }

    async fn await_readiness(&self, partition: PartitionId, wait: &proto::SessionAwait) -> Result<Answer, CallError> {
        let (identity, key) = codec::decode_session(wait.session.as_ref())?;
        if self.hub.ownership.term(partition) != Some(Term(wait.term)) {
            return Ok(codec::encode_error(OwnerError::NotOwner));
        }
        let address = self.caller(LinkId(0)).address(key);
        let readiness = self
            .hub
            .await_readiness(partition, Term(wait.term), &identity, address, wait_time(wait.wait_ms))
            .await;
        // A term that has ended meanwhile says nothing about the session.
        if self.hub.ownership.term(partition) != Some(Term(wait.term)) {
            return Ok(codec::encode_error(OwnerError::NotOwner));
        }
        let outcome = match readiness {
            AttachReadiness::Ready => proto::session_await_answer::Outcome::Ready,
            AttachReadiness::Waiting => proto::session_await_answer::Outcome::Waiting,
            AttachReadiness::Gone => proto::session_await_answer::Outcome::Gone,
        };
        Ok(Answer::Await(proto::SessionAwaitAnswer {
            outcome: outcome.into(),
        }))
    }

    fn keep_alive(&self, keep_alive: &proto::SessionKeepAlive) -> Result<Answer, CallError> {
        codec::check_count(keep_alive.links.len())?;
        let mut granted_ms = Vec::with_capacity(keep_alive.links.len());
        for link in &keep_alive.links {
            let partition = self.partition(link.partition)?;
            let caller = self.caller(LinkId(link.link));
            let granted = self
                .hub
                .ownership
                .renew(partition, Term(link.term), caller, link.sessions);
            // 0 means that the link is lost.
            granted_ms.push(granted.map_or(0, |granted| codec::millis(granted).max(1)));
        }
        Ok(Answer::KeepAlive(proto::SessionKeepAliveAnswer { granted_ms }))
    }

    async fn close(&self, partition: PartitionId, close: &proto::SessionClose) -> Result<Answer, CallError> {
        let (identity, key) = codec::decode_session(close.session.as_ref())?;
        // An earlier incarnation has nothing in flight any more.
        let drained = close.gateway_incarnation != self.hub.parts.incarnation.get() || {
            let reason = codec::decode_close_reason(close.revoked, close.certificate_revoked);
            self.hub
                .close_local(partition, &identity, key, reason, wait_time(close.wait_ms))
                .await
        };
        Ok(Answer::Close(proto::SessionCloseAnswer { drained }))
    }
}

impl DeviceHub {
    /// Why a session must end: what opened it has certainly been revoked since a gateway authenticated it, whose replica was at
    /// `registry_index`.
    fn revocation(&self, info: &SessionInfo, registry_index: u64) -> Option<CloseReason> {
        // A replica that is behind the gateway's is no evidence.
        let is_evidence = self.parts.registry.group().applied_index() >= registry_index;
        is_evidence.then(|| self.why_unauthorized(info)).flatten()
    }
}

fn wait_time(ms: u32) -> Duration {
    Duration::from_millis(ms.into()).min(MAX_WAIT)
}
