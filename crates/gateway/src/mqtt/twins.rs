//! A client's requests about its twin, and the changes of its desired properties (Spec device-mqtt §7).
//!
//! Invariants: every request has exactly one answer, in the order of the requests, and one is carried out after the other,
//! so that a GET contains every patch before it; the PUBACK of a request leaves with its answer, after the change is
//! committed; past [`MAX_WAITING`] requests, and beyond a rate of the hub or the device, they are answered with 429, past [`MAX_ENTRIES`] nothing more is read; a change of
//! desired properties is sent only if its version is above all that the client has got on this connection, and the next
//! one: where changes are missing, the client gets all desired properties in place of them.
//! Not here: what a twin may contain, and who decides it (`device-hub`).

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use holdfast_device_hub::{CloseReason, ReceivedDelivery, Settlement, ThrottleClass, Twin, TwinError, TwinRates};
use holdfast_model::{ErrorCode, round_trip, us_date};
use holdfast_mqtt::codec::{self, PacketId, Publish};
use holdfast_mqtt::topic::Version;
use holdfast_mqtt::{Channel, HubTopic};
use serde_json::{Value, json};

use super::connection::{Connection, State};
use super::disconnect::DisconnectReason;

/// Requests of one client that wait for the one in flight.
const MAX_WAITING: usize = 32;

/// Bytes of their patches; the last one may exceed it.
const MAX_WAITING_BYTES: usize = 256 * 1024;

/// Requests that wait, those to be refused included.
const MAX_ENTRIES: usize = 256;

/// The version of a delivery that stands for changes that the owner could not send one by one.
const SEVERAL: Version = 0;

/// One request, its turn not come yet.
struct Waiting {
    request: TwinRequest,
    /// Of the PUBACK that is due with the answer.
    packet_id: Option<PacketId>,
}

enum TwinRequest {
    Get {
        rid: Box<str>,
    },
    Patch {
        /// Without it there is no answer.
        rid: Option<Box<str>>,
        patch: Bytes,
        if_version: Option<Version>,
    },
    /// Too many wait.
    Refused {
        rid: Option<Box<str>>,
    },
    /// The hub's own: the client gets the desired properties if they are newer than what it has got.
    Resend,
}

impl TwinRequest {
    fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::Resend)
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Patch { patch, .. } => patch.len(),
            Self::Get { .. } | Self::Refused { .. } | Self::Resend => 0,
        }
    }
}

enum TwinAnswer {
    Read(Box<Twin>),
    Reported(Version),
}

type Asked = Pin<Box<dyn Future<Output = Result<TwinAnswer, TwinError>>>>;

/// The twin of one connection.
#[derive(Default)]
pub(super) struct TwinRequests {
    in_flight: Option<(Waiting, Asked)>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// PUBACKs that are due with answers.
    withheld_acks: usize,
    /// The greatest version of the desired properties that the client has got on this connection; 0: none.
    seen: Version,
    /// Changes that came while a read is in flight or waits; bounded by the window of deliveries.
    held: Vec<ReceivedDelivery>,
    /// Whether the client had subscribed to changes when that was looked at last.
    was_subscribed: bool,
    /// Counts the errors that have been answered.
    errors: u64,
    /// Since the first request.
    rates: Option<TwinRates>,
}

impl TwinRequests {
    /// Whether no answer is due.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.waiting.is_empty()
    }

    /// Whether later PUBACKs have to wait.
    pub(super) fn withholds_acks(&self) -> bool {
        self.withheld_acks > 0
    }

    /// Whether further requests are kept unread.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_ENTRIES
    }

    fn is_reading(&self) -> bool {
        let in_flight = self.in_flight.iter().map(|(waiting, _)| waiting);
        in_flight.chain(&self.waiting).any(|one| one.request.is_read())
    }

    fn push(&mut self, request: TwinRequest, packet_id: Option<PacketId>) {
        let is_over = self.waiting.len() >= MAX_WAITING || self.waiting_bytes >= MAX_WAITING_BYTES;
        let request = match request {
            TwinRequest::Get { rid } if is_over => TwinRequest::Refused { rid: Some(rid) },
            TwinRequest::Patch { rid, .. } if is_over => TwinRequest::Refused { rid },
            request => request,
        };
        self.waiting_bytes += request.bytes();
        self.withheld_acks += usize::from(packet_id.is_some());
        self.waiting.push_back(Waiting { request, packet_id });
    }
}

impl Connection {
    /// The client reads its twin.
    pub(super) fn twin_requested(&self, state: &mut State, rid: &str, packet_id: Option<PacketId>) {
        let twins = state.twins.get_or_insert_default();
        twins.push(TwinRequest::Get { rid: rid.into() }, packet_id);
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
            rid: rid.map(Into::into),
            patch: Bytes::copy_from_slice(packet.payload),
            if_version,
        };
        let twins = state.twins.get_or_insert_default();
        twins.push(request, packet.packet_id);
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
            twins.push(TwinRequest::Resend, None);
            self.transport.wake();
        }
    }

    /// Carries out the requests, one after the other; `cx` is woken when the one in flight is decided.
    pub(super) fn poll_twins(&self, state: &mut State, cx: &mut Context<'_>) {
        loop {
            let Some(twins) = &mut state.twins else { return };
            if let Some((_, asked)) = &mut twins.in_flight {
                let Poll::Ready(result) = asked.as_mut().poll(cx) else {
                    return;
                };
                let Some((waiting, _)) = twins.in_flight.take() else {
                    return;
                };
                self.answer_twin(state, waiting, result);
            } else if let Some(waiting) = twins.waiting.pop_front() {
                twins.waiting_bytes -= waiting.request.bytes();
                self.begin_twin(state, waiting);
            } else {
                return;
            }
            if self.transport.has_ended() {
                return;
            }
        }
    }

    fn begin_twin(&self, state: &mut State, waiting: Waiting) {
        let (Some(session), Some(twins)) = (&state.session, &mut state.twins) else {
            return;
        };
        let hub = self.front.core.hub();
        let class = match &waiting.request {
            TwinRequest::Get { .. } => Some(ThrottleClass::TwinReads),
            TwinRequest::Patch { .. } => Some(ThrottleClass::TwinUpdates),
            TwinRequest::Refused { .. } | TwinRequest::Resend => None,
        };
        let turn = match class {
            Some(class) => {
                let new_rates = || self.front.core.twin_rates(self.protocol);
                twins.rates.get_or_insert_with(new_rates).admit(hub, class)
            }
            None => Ok(None),
        };
        let asked: Asked = match (&waiting.request, turn) {
            (_, Err(throttled)) => {
                let refused = TwinError::Refused {
                    code: throttled.code,
                    text: throttled.to_string(),
                };
                Box::pin(std::future::ready(Err(refused)))
            }
            (TwinRequest::Get { .. } | TwinRequest::Resend, Ok(turn)) => {
                let twin = hub.session_twin(session);
                Box::pin(async move {
                    come(turn).await;
                    twin.await.map(|twin| TwinAnswer::Read(Box::new(twin)))
                })
            }
            (TwinRequest::Patch { patch, if_version, .. }, Ok(turn)) => {
                let reported = hub.report_twin(session, patch.clone(), *if_version);
                Box::pin(async move {
                    come(turn).await;
                    reported.await.map(TwinAnswer::Reported)
                })
            }
            (TwinRequest::Refused { .. }, Ok(_)) => {
                let refused = TwinError::Refused {
                    code: ErrorCode::ThrottlingException,
                    text: format!("more than {MAX_WAITING} requests about the twin wait; this one was not carried out"),
                };
                Box::pin(std::future::ready(Err(refused)))
            }
        };
        twins.in_flight = Some((waiting, asked));
    }

    fn answer_twin(&self, state: &mut State, waiting: Waiting, result: Result<TwinAnswer, TwinError>) {
        let Some(twins) = &mut state.twins else { return };
        let mut desired = None;
        match (&waiting.request, result) {
            (TwinRequest::Resend, Ok(TwinAnswer::Read(twin))) => desired = Some(twin),
            (TwinRequest::Resend, _) => {}
            (TwinRequest::Get { rid }, Ok(TwinAnswer::Read(twin))) => {
                twins.seen = twins.seen.max(twin.desired_version());
                let body = twin.device_view().to_string();
                self.reply(state, 200, rid, None, body.as_bytes());
            }
            (TwinRequest::Patch { rid, .. }, Ok(TwinAnswer::Reported(version))) => {
                if let Some(rid) = rid {
                    self.reply(state, 204, rid, Some(version), &[]);
                }
            }
            (TwinRequest::Patch { rid: None, .. } | TwinRequest::Refused { rid: None }, Err(error)) => {
                if waiting.packet_id.is_some() && !is_refusal(&error) {
                    // Nothing else tells the client that the patch may be lost. Closing withholds the acknowledgement.
                    return self.transport.end(DisconnectReason::Hub(CloseReason::Unavailable));
                }
            }
            (
                TwinRequest::Get { rid }
                | TwinRequest::Patch { rid: Some(rid), .. }
                | TwinRequest::Refused { rid: Some(rid) },
                Err(error),
            ) => {
                let body = self.error_body(state, &error).to_string();
                self.reply(state, error.code().http_status(), rid, None, body.as_bytes());
            }
            (TwinRequest::Get { .. } | TwinRequest::Patch { .. } | TwinRequest::Refused { .. }, Ok(_)) => {}
        }
        if let Some(packet_id) = waiting.packet_id {
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
    fn publish(&self, state: &mut State, topic: &str, payload: &[u8]) {
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

    /// The body of a refusal (Spec device-mqtt §7.2).
    fn error_body(&self, state: &mut State, error: &TwinError) -> Value {
        if !is_refusal(error) {
            let identity = state.machine.identity().map(ToString::to_string);
            tracing::debug!(identity, %error, "a request about a twin failed; its client is told to retry");
        }
        let number = state.twins.as_mut().map_or(0, |twins| {
            twins.errors += 1;
            twins.errors
        });
        let session = state.session.as_ref().map_or(0, |session| session.number().counter);
        let now = self.front.core.clock().now();
        json!({
            "errorCode": error.code().number(),
            "trackingId": format!("{session:016x}{number:016x}-TimeStamp:{}", us_date(now)),
            "message": error.to_string(),
            "timestampUtc": round_trip(now.0.cast_signed()).unwrap_or_default(),
        })
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
        let is_missing = twins.seen > 0 && version > twins.seen + 1;
        if version == SEVERAL || is_missing {
            if !twins.is_reading() {
                twins.push(TwinRequest::Resend, None);
                self.transport.wake();
            }
            if version == SEVERAL {
                return self.settle_delivery(state, tag, bytes, Settlement::Accepted);
            }
        }
        if twins.is_reading() {
            twins.held.push(delivery);
        } else {
            self.send_change(state, &delivery, version);
        }
    }

    /// Sends a change, unless the client has got it already.
    fn send_change(&self, state: &mut State, delivery: &ReceivedDelivery, version: Version) {
        let Some(twins) = &mut state.twins else { return };
        if version <= twins.seen {
            return self.settle_delivery(state, delivery.tag, delivery.bytes(), Settlement::Accepted);
        }
        twins.seen = version;
        self.publish_delivery(state, delivery);
    }

    /// Sends the changes that waited for a read. What is still missing now stays so: the read has failed.
    fn release_held(&self, state: &mut State) {
        let Some(twins) = &mut state.twins else { return };
        if twins.is_reading() {
            return;
        }
        for delivery in std::mem::take(&mut twins.held) {
            if let Ok(version) = delivery.head.parse() {
                self.send_change(state, &delivery, version);
            }
        }
    }

    /// Sends all desired properties, if the client has not got their version.
    fn resend(&self, state: &mut State, twin: &Twin) {
        let version = twin.desired_version();
        let (Some(session), Some(twins)) = (&state.session, &mut state.twins) else {
            return;
        };
        // Version 1 is that of properties that were never written.
        if version <= twins.seen.max(1) || !state.machine.subscriptions().is_open(Channel::Desired) {
            return;
        }
        twins.seen = version;
        let mut topic = String::new();
        HubTopic::Desired { version }.write(session.identity(), &mut topic);
        self.publish(state, &topic, twin.desired_view().to_string().as_bytes());
    }
}

async fn come(turn: Option<impl Future<Output = ()>>) {
    if let Some(turn) = turn {
        turn.await;
    }
}

/// Whether the request certainly had no effect, and will never have one.
fn is_refusal(error: &TwinError) -> bool {
    matches!(error, TwinError::Refused { .. })
}
