//! The gateway's side of the way down: hands deliveries to front ends, and reports credit and settlements to owners.
//!
//! Invariants: a delivery is handed over only while the link over which it came is the current one and its lease is valid,
//! checked on the session's core in that moment: nothing reaches a session that another one may have superseded. The
//! deliveries of a session are handed over in the order of their sequence numbers, each once, within the session's credit
//! and the node's budget.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use holdfast_cluster::route::Owner;
use holdfast_model::{IdentityId, LinkId, PartitionId, SessionKey};
use holdfast_spans::{Attribute, Span, SpanName, TraceContext, Tracer};
use tokio::sync::oneshot;

use super::credit::SharedCredit;
use super::delivery::{DeliveryId, DeliveryKind, DeliveryKinds, DeliveryTag, Settlement};
use super::report::ReportedSettlement;
use super::term::DeliveryAnswer;
use crate::DeviceHub;
use crate::api::core::Core;
use crate::api::session::{Session, Target};
use crate::ingest::command_queue::Command;
use crate::methods::pending::MethodResult;

/// A delivery at the gateway of its session.
#[derive(Debug, Clone)]
pub struct ReceivedDelivery {
    /// The session's name for it.
    pub tag: DeliveryTag,
    /// The feature that it belongs to.
    pub kind: DeliveryKind,
    /// As in [`Delivery`](super::delivery::Delivery).
    pub head: Arc<str>,
    /// The encoded message.
    pub body: Bytes,
    pub(crate) id: DeliveryId,
    /// The recorded span that it belongs to.
    pub(crate) trace: Option<TraceContext>,
}

impl ReceivedDelivery {
    /// Bytes that it counts for in credit.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// The deliveries of one session in a call.
#[derive(Debug)]
pub(crate) struct ReceivedDeliveries {
    pub(crate) identity: IdentityId,
    pub(crate) key: SessionKey,
    pub(crate) items: Vec<ReceivedDelivery>,
}

/// The deliveries of a session on its core.
#[derive(Debug, Default)]
pub(crate) struct SessionDownlink {
    credit: Arc<SharedCredit>,
    /// Handed to the front end and not settled, with their bytes; bounded by the credit.
    unsettled: BTreeMap<DeliveryTag, Unsettled>,
    /// The recorded methods that the device has not answered, by request id; the front end limits their number.
    methods: Vec<(Box<str>, Span)>,
}

#[derive(Debug)]
struct Unsettled {
    id: DeliveryId,
    /// The owner that sent it: another one knows other deliveries under the same ids.
    owner: Owner,
    bytes: usize,
    /// Of a cloud-to-device message.
    span: Span,
}

impl SessionDownlink {
    /// The span of a delivery that is handed over; that of a method lasts until its answer and is kept here.
    fn span_of(&mut self, item: &ReceivedDelivery, tracer: &Tracer) -> Span {
        match item.kind {
            DeliveryKind::CloudToDevice => {
                let mut span = tracer.child(SpanName::SettleMessage, item.trace);
                span.set(Attribute::BodyBytes, || item.body.len());
                span
            }
            DeliveryKind::Method => {
                // `name/id/ms`, and a name has no slash.
                let id = item.head.split('/').nth(1).unwrap_or_default();
                let mut span = tracer.child(SpanName::RunMethod, item.trace);
                span.set(Attribute::BodyBytes, || item.body.len());
                if span.is_recorded() {
                    self.methods.push((id.into(), span));
                }
                Span::none()
            }
            DeliveryKind::TwinChange => Span::none(),
        }
    }
}

impl Core {
    /// The front end of `session` takes so many more deliveries and bytes. Without any grant a session gets none.
    pub fn grant_deliveries(&self, session: &Session, messages: u32, bytes: u32) {
        let credit = {
            let mut downlinks = self.downlinks.borrow_mut();
            Arc::clone(&downlinks.entry(session.key).or_default().credit)
        };
        credit.grant(messages.into(), bytes.into());
        self.hub
            .report_credit(session.partition, &session.info, session.key, &credit);
    }

    /// The front end of `session` takes deliveries of these kinds from now on. Kinds that wait for a session to take them are sent
    /// at once.
    pub fn take_delivery_kinds(&self, session: &Session, kinds: DeliveryKinds) {
        let credit = {
            let mut downlinks = self.downlinks.borrow_mut();
            Arc::clone(&downlinks.entry(session.key).or_default().credit)
        };
        if credit.take_kinds(kinds) {
            self.hub
                .report_credit(session.partition, &session.info, session.key, &credit);
        }
    }

    /// The device has settled a delivery of `session`.
    pub fn settle_delivery(&self, session: &Session, tag: DeliveryTag, settlement: Settlement) {
        let unsettled = {
            let mut downlinks = self.downlinks.borrow_mut();
            downlinks
                .get_mut(&session.key)
                .and_then(|downlink| downlink.unsettled.remove(&tag))
        };
        if let Some(mut unsettled) = unsettled {
            unsettled.span.set(Attribute::Settlement, || settlement.as_str());
            self.hub.release_downlink(unsettled.bytes);
            let report = ReportedSettlement {
                info: Arc::clone(&session.info),
                key: session.key,
                owner: unsettled.owner,
                id: unsettled.id,
                settlement,
            };
            self.hub.report_settlement(session.partition, report);
        }
    }

    /// The result of a method that `session` has received; `request_id` is the second part of the delivery's head.
    pub fn report_method_result(&self, session: &Session, request_id: &str, result: MethodResult) {
        self.end_method_span(session.key, request_id, &result);
        self.hub
            .report_method_result(&session.info.identity, request_id, result);
    }

    fn end_method_span(&self, key: SessionKey, request_id: &str, result: &MethodResult) {
        let mut downlinks = self.downlinks.borrow_mut();
        let methods = downlinks.get_mut(&key).map(|downlink| &mut downlink.methods);
        let Some(methods) = methods.filter(|methods| !methods.is_empty()) else {
            return;
        };
        let Some(index) = methods.iter().position(|(id, _)| **id == *request_id) else {
            return;
        };
        let (_, mut span) = methods.swap_remove(index);
        match result {
            MethodResult::Answered(answer) => span.set(Attribute::MethodStatus, || answer.status),
            MethodResult::TooMany => span.fail("too-many-in-flight", || "too many calls in flight".to_owned()),
            MethodResult::Disconnected => span.fail("disconnected", || "the connection ended first".to_owned()),
        }
    }

    /// The session has ended: its unsettled deliveries do not count any more.
    pub(crate) fn end_downlink(&self, key: SessionKey) {
        let ended = self.downlinks.borrow_mut().remove(&key);
        if let Some(downlink) = ended {
            let bytes = downlink.unsettled.values().map(|unsettled| unsettled.bytes).sum();
            self.hub.release_downlink(bytes);
        }
    }

    /// Hands deliveries of a call to the session's front end.
    pub(crate) fn deliver(
        &self,
        partition: PartitionId,
        link: LinkId,
        key: SessionKey,
        items: Vec<ReceivedDelivery>,
    ) -> Vec<DeliveryAnswer> {
        items
            .into_iter()
            .map(|item| self.deliver_one(partition, link, key, item))
            .collect()
    }

    fn deliver_one(
        &self,
        partition: PartitionId,
        link: LinkId,
        key: SessionKey,
        item: ReceivedDelivery,
    ) -> DeliveryAnswer {
        let target = self.targets.borrow().get(&key).and_then(Target::upgrade);
        let Some(target) = target else {
            return DeliveryAnswer::Gone;
        };
        let credit = match self.downlinks.borrow().get(&key) {
            Some(downlink) => Arc::clone(&downlink.credit),
            None => return DeliveryAnswer::NoCapacity,
        };
        let bytes = item.bytes();
        let owner = {
            // Under the lock of the link: a report for a next link counts this delivery, or this one is not handed over.
            let sessions = self.hub.sessions.partition(partition);
            let Some(current) = sessions.open_link().filter(|current| current.id == link) else {
                return DeliveryAnswer::Gone;
            };
            if !self.hub.sessions.is_valid(partition, self.hub.sessions.now_ms()) {
                // The lease has expired; it may be renewed.
                return DeliveryAnswer::NoCapacity;
            }
            let now = credit.read();
            if item.tag.0 <= now.used_messages {
                // The answer to an earlier call was lost.
                return DeliveryAnswer::Accepted;
            }
            let is_next = item.tag.0 == now.used_messages + 1;
            if !is_next || !now.is_available() || !self.hub.reserve_downlink(bytes) {
                return DeliveryAnswer::NoCapacity;
            }
            credit.received(bytes);
            current.owner
        };
        // Before the front end has it: it may settle the delivery at once.
        if let Some(downlink) = self.downlinks.borrow_mut().get_mut(&key) {
            let span = match item.trace {
                None => Span::none(),
                Some(_) => downlink.span_of(&item, self.hub.tracer()),
            };
            let unsettled = Unsettled {
                id: item.id,
                owner,
                bytes,
                span,
            };
            downlink.unsettled.insert(item.tag, unsettled);
        }
        target.deliver(item);
        DeliveryAnswer::Accepted
    }
}

impl DeviceHub {
    /// Counts bytes of a delivery against the node's budget, unless it is used up.
    fn reserve_downlink(&self, bytes: usize) -> bool {
        let limit = self.parts.config.max_downlink_bytes;
        let reserved = self
            .downlink_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                (used < limit).then(|| used.saturating_add(bytes))
            });
        reserved.is_ok()
    }

    fn release_downlink(&self, bytes: usize) {
        self.downlink_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Hands the deliveries of a call to the cores of their sessions; the answers are in the same order.
    pub(crate) async fn receive_deliveries(
        &self,
        partition: PartitionId,
        link: LinkId,
        received: Vec<ReceivedDeliveries>,
    ) -> Vec<Vec<DeliveryAnswer>> {
        let mut replies = Vec::with_capacity(received.len());
        for session in received {
            let core = {
                let sessions = self.sessions.partition(partition);
                let live = sessions.live.get(&session.identity);
                live.filter(|live| live.key == session.key && !sessions.closing.contains(&live.key))
                    .map(|live| live.core)
            };
            let (reply, replied) = oneshot::channel();
            let count = session.items.len();
            if let Some(core) = core {
                self.commands(core).push(Command::Deliver {
                    partition,
                    link,
                    key: session.key,
                    items: session.items,
                    reply,
                });
            }
            replies.push((count, replied));
        }
        let mut answers = Vec::with_capacity(replies.len());
        for (count, replied) in replies {
            // Without a core, or with one that has ended, the session is gone.
            answers.push(replied.await.unwrap_or_else(|_| vec![DeliveryAnswer::Gone; count]));
        }
        answers
    }
}
