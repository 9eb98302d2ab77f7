//! Deliveries to a client: a window of PUBLISH packets, and the credit that the hub has for it.
//!
//! Why: the owner sends only what was granted, so that a client that does not acknowledge costs one window and delays
//! no other client.
//! Invariants: a connection without an open channel for deliveries grants nothing and holds nothing; at most
//! [`WINDOW_MESSAGES`] and about [`WINDOW_BYTES`] are granted and not settled; each delivery is settled once: at QoS 1 by
//! its PUBACK, in any order, at QoS 0 when it is written (Spec device-mqtt §6). A message that another owner delivers again,
//! which did not hear of this connection, is not sent twice: one in flight stays so, one that was acknowledged is settled.
//! Not here: topics and bags of messages ([`super::cloud_message`]).

use holdfast_device_hub::{DeliveryKind, DeliveryKinds, DeliveryTag, MethodResult, ReceivedDelivery, Settlement};
use holdfast_model::IdentityId;
use holdfast_mqtt::codec::{self, PacketId, Publish, QoS};
use holdfast_mqtt::{Channel, HubTopic};

use crate::methods_in_flight::{self as methods, MethodsInFlight};
use crate::sent_deliveries::{Again, MessageHead, Sent, SentDeliveries};

use super::cloud_message;
use super::connection::{Connection, State};

/// Deliveries of one connection that are not settled (Spec device-mqtt §6).
const WINDOW_MESSAGES: u32 = 50;

/// Bytes of them; the last one may exceed it. With one delivery more, it must fit into the output of a connection.
const WINDOW_BYTES: u32 = 256 * 1024;

/// The window of a connection that takes deliveries.
#[derive(Default)]
pub(super) struct Downlink {
    /// Sent at QoS 1 and not acknowledged.
    sent: SentDeliveries<PacketId>,
    last_packet_id: PacketId,
    /// Methods that the client has received and not answered.
    pub(super) methods: MethodsInFlight,
}

impl Downlink {
    /// The next packet id that is not in flight. The window is smaller than the range of ids.
    fn next_packet_id(&mut self) -> PacketId {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if !self.sent.is_used(&self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }
}

const fn channel(kind: DeliveryKind) -> Channel {
    match kind {
        DeliveryKind::CloudToDevice => Channel::C2d,
        DeliveryKind::Method => Channel::Methods,
        DeliveryKind::TwinChange => Channel::Desired,
    }
}

/// A delivery as a packet needs it.
struct Outgoing<'a> {
    topic: String,
    payload: std::borrow::Cow<'a, [u8]>,
    /// The device may have it already.
    is_repeated: bool,
}

/// `None` when head or body are not of the delivery's kind.
fn outgoing<'a>(
    delivery: &'a ReceivedDelivery,
    head: Option<&MessageHead>,
    identity: &IdentityId,
) -> Option<Outgoing<'a>> {
    let mut topic = String::new();
    let mut payload = (&delivery.body[..]).into();
    match delivery.kind {
        DeliveryKind::CloudToDevice => {
            let (bag, body) = cloud_message::bag(&delivery.body, identity)?;
            HubTopic::CloudToDevice { bag: &bag }.write(identity, &mut topic);
            payload = body.to_vec().into();
        }
        DeliveryKind::Method => {
            let (name, rid, _) = methods::head(&delivery.head)?;
            HubTopic::Method { name, rid }.write(identity, &mut topic);
        }
        DeliveryKind::TwinChange => {
            let version = delivery.head.parse().ok()?;
            HubTopic::Desired { version }.write(identity, &mut topic);
        }
    }
    Some(Outgoing {
        topic,
        payload,
        is_repeated: head.is_some_and(|head| head.deliveries > 0),
    })
}

impl Connection {
    /// The client's active subscriptions have changed: the first one that deliveries may use opens the window, and the hub hears
    /// of the kinds that the client takes.
    pub(super) fn subscriptions_changed(&self, state: &mut State) {
        let active = state.machine.subscriptions();
        let kinds = [
            DeliveryKind::CloudToDevice,
            DeliveryKind::Method,
            DeliveryKind::TwinChange,
        ];
        let open = kinds.into_iter().filter(|kind| active.is_open(channel(*kind)));
        let open = open.fold(DeliveryKinds::default(), DeliveryKinds::with);
        let takes_deliveries = open != DeliveryKinds::default();
        let Some(session) = &state.session else { return };
        if takes_deliveries && state.downlink.is_none() {
            state.downlink = Some(Box::default());
            self.front.core.grant_deliveries(session, WINDOW_MESSAGES, WINDOW_BYTES);
        }
        if state.downlink.is_some() {
            self.front.core.take_delivery_kinds(session, open);
        }
        self.desired_subscription_changed(state);
    }

    /// Writes a delivery to the client.
    pub(super) fn publish_delivery(&self, state: &mut State, delivery: &ReceivedDelivery) {
        let (Some(session), Some(downlink)) = (&state.session, &mut state.downlink) else {
            return;
        };
        let (tag, bytes) = (delivery.tag, delivery.bytes());
        let Some(qos) = state.machine.subscriptions().qos(channel(delivery.kind)) else {
            // The client has unsubscribed since.
            return self.settle_delivery(state, tag, bytes, Settlement::Released);
        };
        if delivery.kind == DeliveryKind::Method
            && let Some((_, rid, timeout_ms)) = methods::head(&delivery.head)
            && !downlink.methods.add(rid, rid, self.transport.now_ms(), timeout_ms)
        {
            self.front
                .core
                .report_method_result(session, rid, MethodResult::TooMany);
            return self.settle_delivery(state, tag, bytes, Settlement::Accepted);
        }
        let head = MessageHead::of(delivery);
        let message = head.as_ref().map(|head| head.sequence);
        match message.and_then(|message| downlink.sent.again(message, tag, bytes)) {
            Some(Again::Completed) => return self.settle_delivery(state, tag, bytes, Settlement::Accepted),
            Some(Again::InFlight(earlier, bytes)) => {
                // Its owner is gone; the window has a place for one of the two.
                return self.settle_delivery(state, earlier, bytes, Settlement::Released);
            }
            None => {}
        }
        let outgoing = outgoing(delivery, head.as_ref(), session.identity());
        let packet_id = (qos != QoS::AtMostOnce).then(|| downlink.next_packet_id());
        let mut output = Vec::with_capacity(delivery.body.len() + 256);
        let written = outgoing.as_ref().map(|outgoing| {
            let packet = Publish {
                dup: outgoing.is_repeated && packet_id.is_some(),
                qos,
                topic: &outgoing.topic,
                packet_id,
                payload: &outgoing.payload,
                ..Publish::default()
            };
            codec::publish(&mut output, &packet)
        });
        if !matches!(written, Some(Ok(_))) {
            tracing::warn!(
                identity = %session.identity(), kind = ?delivery.kind,
                "a delivery cannot be written as an MQTT packet; rejecting it"
            );
            return self.settle_delivery(state, tag, bytes, Settlement::Rejected);
        }
        match packet_id {
            Some(packet_id) => downlink.sent.push(Sent {
                name: packet_id,
                tag,
                bytes,
                message,
            }),
            None => {
                downlink.sent.complete(message);
                self.settle_delivery(state, tag, bytes, Settlement::Accepted);
            }
        }
        self.write(state, &output, self.transport.now_ms());
    }

    /// The client has acknowledged a packet; an unknown id is ignored.
    pub(super) fn delivery_acked(&self, state: &mut State, packet_id: PacketId) {
        if let Some(downlink) = state.downlink.as_mut()
            && let Some(Sent {
                tag, bytes, message, ..
            }) = downlink.sent.take(&packet_id)
        {
            downlink.sent.complete(message);
            self.settle_delivery(state, tag, bytes, Settlement::Accepted);
        }
    }

    /// Settles a delivery, and grants its part of the window again.
    pub(super) fn settle_delivery(&self, state: &State, tag: DeliveryTag, bytes: usize, settlement: Settlement) {
        if let Some(session) = &state.session {
            let core = &self.front.core;
            core.settle_delivery(session, tag, settlement);
            core.grant_deliveries(session, 1, u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }
}
