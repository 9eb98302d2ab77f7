//! Requests about the twin as packets (Spec device-mqtt §7). The order of requests, answers and changes is that of
//! [`crate::twin_requests`].
//!
//! Invariant: the PUBACK of a request leaves with its answer, after the change is committed.

use std::task::{Context, Poll};

use bytes::Bytes;
use holdfast_device_hub::{CloseReason, ReceivedDelivery, Settlement, Twin, TwinError};
use holdfast_mqtt::codec::{self, PacketId, Publish};
use holdfast_mqtt::topic::Version;
use holdfast_mqtt::{Channel, HubTopic};

use super::connection::{Connection, State};
use super::disconnect::DisconnectReason;
use crate::twin_requests::{self, Change, TwinAnswer, TwinRequest, Waiting, is_refusal};

/// Where the answer of a request goes.
#[derive(Default)]
pub(super) struct Answer {
    /// Without it there is no answer.
    rid: Option<Box<str>>,
    /// Of the PUBACK that is due with the answer.
    packet_id: Option<PacketId>,
}

/// The twin of one connection.
#[derive(Default)]
pub(super) struct TwinRequests {
    requests: twin_requests::TwinRequests<Answer>,
    /// PUBACKs that are due with answers.
    withheld_acks: usize,
    /// Whether the client had subscribed to changes when that was looked at last.
    was_subscribed: bool,
}

impl TwinRequests {
    /// Whether no answer is due.
    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_idle()
    }

    /// Whether later PUBACKs have to wait.
    pub(super) fn withholds_acks(&self) -> bool {
        self.withheld_acks > 0
    }

    /// Whether further requests are kept unread.
    pub(super) fn is_full(&self) -> bool {
        self.requests.is_full()
    }

    fn push(&mut self, request: TwinRequest, answer: Answer) {
        self.withheld_acks += usize::from(answer.packet_id.is_some());
        self.requests.push(request, answer);
    }
}

impl Connection {
    /// The client reads its twin.
    pub(super) fn twin_requested(&self, state: &mut State, rid: &str, packet_id: Option<PacketId>) {
        let answer = Answer {
            rid: Some(rid.into()),
            packet_id,
        };
        state.twins.get_or_insert_default().push(TwinRequest::Get, answer);
    }

    /// The client patches its reported properties.
    pub(super) fn twin_patched(
        &self,
        state: &mut State,
        rid: Option<&str>,
        if_version: Option<Version>,
        packet: &Publish<'_>,
    ) {
        let request = TwinRequest::Patch {
            patch: Bytes::copy_from_slice(packet.payload),
            if_version,
        };
        let answer = Answer {
            rid: rid.map(Into::into),
            packet_id: packet.packet_id,
        };
        state.twins.get_or_insert_default().push(request, answer);
    }

    /// The client's subscriptions have changed.
    pub(super) fn desired_subscription_changed(&self, state: &mut State) {
        let is_subscribed = state.machine.subscriptions().is_open(Channel::Desired);
        let resends = self.front.core.hub().twins_config().resend_desired_on_subscribe;
        if !is_subscribed && state.twins.is_none() {
            return;
        }
        let twins = state.twins.get_or_insert_default();
        let begins = is_subscribed && !std::mem::replace(&mut twins.was_subscribed, is_subscribed);
        if begins && resends {
            twins.push(TwinRequest::Resend, Answer::default());
            self.transport.wake();
        }
    }

    /// Carries out the requests; `cx` is woken when the one in flight is decided.
    pub(super) fn poll_twins(&self, state: &mut State, cx: &mut Context<'_>) {
        loop {
            let State {
                twins: Some(twins),
                session: Some(session),
                ..
            } = state
            else {
                return;
            };
            let Poll::Ready(Some((waiting, result))) =
                twins.requests.poll(&self.front.core, session, self.protocol, cx)
            else {
                return;
            };
            self.answer_twin(state, waiting, result);
            if self.transport.has_ended() {
                return;
            }
        }
    }

    fn answer_twin(&self, state: &mut State, waiting: Waiting<Answer>, result: Result<TwinAnswer, TwinError>) {
        let Some(twins) = &mut state.twins else { return };
        let Answer { rid, packet_id } = waiting.answer;
        let mut desired = None;
        match (&waiting.request, rid, result) {
            (TwinRequest::Resend, _, Ok(TwinAnswer::Read(twin))) => desired = Some(twin),
            (TwinRequest::Resend, _, _) => {}
            (TwinRequest::Get, Some(rid), Ok(TwinAnswer::Read(twin))) => {
                twins.requests.read(&twin);
                let body = twin.device_view().to_string();
                self.reply(state, 200, &rid, None, body.as_bytes());
            }
            (TwinRequest::Patch { .. }, Some(rid), Ok(TwinAnswer::Reported(version))) => {
                self.reply(state, 204, &rid, Some(version), &[]);
            }
            (_, None, Err(error)) => {
                if packet_id.is_some() && !is_refusal(&error) {
                    // Nothing else tells the client that the patch may be lost. Closing withholds the acknowledgement.
                    return self.transport.end(DisconnectReason::Hub(CloseReason::Unavailable));
                }
            }
            (_, Some(rid), Err(error)) => {
                let Some(session) = &state.session else { return };
                let body = twins.requests.error_body(&self.front.core, session, &error).to_string();
                self.reply(state, error.code().http_status(), &rid, None, body.as_bytes());
            }
            (TwinRequest::Get | TwinRequest::Patch { .. } | TwinRequest::Refused, _, Ok(_)) => {}
        }
        if let Some(packet_id) = packet_id {
            self.write(state, &codec::puback(packet_id), self.transport.now_ms());
            state.machine.acked(1);
            if let Some(twins) = &mut state.twins {
                twins.withheld_acks -= 1;
            }
        }
        if let Some(twin) = desired {
            self.resend(state, &twin);
        }
        if waiting.request.is_read() {
            self.release_held(state);
        }
        self.transport.resume();
        self.end_if_drained(state);
    }

    fn reply(&self, state: &mut State, status: u16, rid: &str, version: Option<Version>, payload: &[u8]) {
        let Some(session) = &state.session else { return };
        if !state.machine.subscriptions().is_open(Channel::TwinRes) {
            return;
        }
        let mut topic = String::new();
        HubTopic::TwinResponse { status, rid, version }.write(session.identity(), &mut topic);
        self.publish(state, &topic, payload);
    }

    /// Sends a packet at QoS 0.
    pub(super) fn publish(&self, state: &mut State, topic: &str, payload: &[u8]) {
        let packet = Publish {
            topic,
            payload,
            ..Publish::default()
        };
        let mut bytes = Vec::with_capacity(topic.len() + payload.len() + 8);
        // Topics are short, and the largest twin fits into a packet.
        let _ = codec::publish(&mut bytes, &packet);
        self.write(state, &bytes, self.transport.now_ms());
    }

    /// A change of the desired properties has come.
    pub(super) fn desired_changed(&self, state: &mut State, delivery: ReceivedDelivery) {
        let version = delivery.head.parse::<Version>();
        let (tag, bytes) = (delivery.tag, delivery.bytes());
        let Ok(version) = version else {
            return self.settle_delivery(state, tag, bytes, Settlement::Rejected);
        };
        if !state.machine.subscriptions().is_open(Channel::Desired) {
            return self.settle_delivery(state, tag, bytes, Settlement::Released);
        }
        let twins = state.twins.get_or_insert_default();
        let change = twins.requests.change(delivery, version, Answer::default);
        if !twins.is_idle() {
            self.transport.wake();
        }
        self.send_change(state, change);
    }

    fn send_change(&self, state: &mut State, change: Change) {
        match change {
            Change::Send(delivery) => self.publish_delivery(state, &delivery),
            Change::Accept(delivery) => {
                self.settle_delivery(state, delivery.tag, delivery.bytes(), Settlement::Accepted);
            }
            Change::Held => {}
        }
    }

    /// Sends the changes that waited for a read.
    fn release_held(&self, state: &mut State) {
        while let Some(change) = state.twins.as_mut().and_then(|twins| twins.requests.next_held()) {
            self.send_change(state, change);
        }
    }

    /// Sends all desired properties, if the client has not got their version.
    fn resend(&self, state: &mut State, twin: &Twin) {
        let is_open = state.machine.subscriptions().is_open(Channel::Desired);
        let (Some(session), Some(twins)) = (&state.session, &mut state.twins) else {
            return;
        };
        let Some(version) = Some(()).filter(|()| is_open).and_then(|()| twins.requests.resend(twin)) else {
            return;
        };
        let mut topic = String::new();
        HubTopic::Desired { version }.write(session.identity(), &mut topic);
        self.publish(state, &topic, twin.desired_view().to_string().as_bytes());
    }
}
