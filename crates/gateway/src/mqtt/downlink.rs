//! Deliveries to a client: a window of PUBLISH packets, and the credit that the hub has for it.
//!
//! Why: the owner sends only what was granted, so that a client that does not acknowledge costs one window and delays
//! no other client.
//! Invariants: a connection without an open channel for deliveries grants nothing and holds nothing; at most
//! [`WINDOW_MESSAGES`] and about [`WINDOW_BYTES`] are granted and not settled; each delivery is settled once: at QoS 1 by
//! its PUBACK, in any order, at QoS 0 when it is written (Spec device-mqtt §6).

use holdfast_device_hub::{DeliveryKind, DeliveryTag, MethodResult, ReceivedDelivery, Settlement};
use holdfast_mqtt::codec::{self, PacketId, Publish, QoS};
use holdfast_mqtt::{Channel, HubTopic};

use super::connection::{Connection, State};
use super::methods::{self, MethodsInFlight};

/// Deliveries of one connection that are not settled (Spec device-mqtt §6).
const WINDOW_MESSAGES: u32 = 50;

/// Bytes of them; the last one may exceed it. With one delivery more, it must fit into the output of a connection.
const WINDOW_BYTES: u32 = 256 * 1024;

/// The window of a connection that takes deliveries.
#[derive(Default)]
pub(super) struct Downlink {
    /// Sent at QoS 1 and not acknowledged, oldest first.
    in_flight: Vec<InFlight>,
    last_packet_id: PacketId,
    /// Methods that the client has received and not answered.
    pub(super) methods: MethodsInFlight,
}

struct InFlight {
    packet_id: PacketId,
    tag: DeliveryTag,
    bytes: usize,
}

impl Downlink {
    /// The next packet id that is not in flight. The window is smaller than the range of ids.
    fn next_packet_id(&mut self) -> PacketId {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let is_used = |one: &InFlight| one.packet_id == self.last_packet_id;
            if !self.in_flight.iter().any(is_used) {
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

/// The topic of a delivery; `None` when its head is not of its kind.
fn topic(delivery: &ReceivedDelivery) -> Option<HubTopic<'_>> {
    Some(match delivery.kind {
        DeliveryKind::CloudToDevice if delivery.head.is_empty() => return None,
        DeliveryKind::CloudToDevice => HubTopic::CloudToDevice { bag: &delivery.head },
        DeliveryKind::Method => {
            let (name, rid, _) = methods::head(&delivery.head)?;
            HubTopic::Method { name, rid }
        }
        DeliveryKind::TwinChange => HubTopic::Desired {
            version: delivery.head.parse().ok()?,
        },
    })
}

impl Connection {
    /// The client's active subscriptions have changed: the first one that deliveries may use opens the window.
    pub(super) fn subscriptions_changed(&self, state: &mut State) {
        let active = state.machine.subscriptions();
        let takes_deliveries = [Channel::C2d, Channel::Methods, Channel::Desired]
            .into_iter()
            .any(|channel| active.is_open(channel));
        if takes_deliveries
            && state.downlink.is_none()
            && let Some(session) = &state.session
        {
            state.downlink = Some(Box::default());
            self.front.core.grant_deliveries(session, WINDOW_MESSAGES, WINDOW_BYTES);
        }
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
            && !downlink.methods.add(rid, self.transport.now_ms(), timeout_ms)
        {
            self.front
                .core
                .report_method_result(session, rid, MethodResult::TooMany);
            return self.settle_delivery(state, tag, bytes, Settlement::Accepted);
        }
        let mut name = String::new();
        if let Some(topic) = topic(delivery) {
            topic.write(session.identity(), &mut name);
        }
        let packet_id = (qos != QoS::AtMostOnce).then(|| downlink.next_packet_id());
        let packet = Publish {
            qos,
            topic: &name,
            packet_id,
            payload: &delivery.body,
            ..Publish::default()
        };
        let mut output = Vec::with_capacity(name.len() + delivery.body.len() + 16);
        if name.is_empty() || codec::publish(&mut output, &packet).is_err() {
            tracing::warn!(
                identity = %session.identity(), kind = ?delivery.kind,
                "a delivery cannot be written as an MQTT packet; rejecting it"
            );
            return self.settle_delivery(state, tag, bytes, Settlement::Rejected);
        }
        match packet_id {
            Some(packet_id) => downlink.in_flight.push(InFlight { packet_id, tag, bytes }),
            None => self.settle_delivery(state, tag, bytes, Settlement::Accepted),
        }
        self.write(state, &output, self.transport.now_ms());
    }

    /// The client has acknowledged a packet; an unknown id is ignored.
    pub(super) fn delivery_acked(&self, state: &mut State, packet_id: PacketId) {
        let in_flight = state.downlink.as_mut().map(|downlink| &mut downlink.in_flight);
        if let Some(in_flight) = in_flight
            && let Some(index) = in_flight.iter().position(|one| one.packet_id == packet_id)
        {
            let InFlight { tag, bytes, .. } = in_flight.remove(index);
            self.settle_delivery(state, tag, bytes, Settlement::Accepted);
        }
    }

    /// Settles a delivery, and grants its part of the window again.
    fn settle_delivery(&self, state: &State, tag: DeliveryTag, bytes: usize, settlement: Settlement) {
        if let Some(session) = &state.session {
            let core = &self.front.core;
            core.settle_delivery(session, tag, settlement);
            core.grant_deliveries(session, 1, u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }
}
