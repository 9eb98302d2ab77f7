//! Deliveries to the devices of a connection: what the hub has handed over, and what each link takes now (Spec amqp §4.3).
//!
//! Invariants: a session without a link for deliveries grants nothing and holds nothing; messages are requested only while
//! their link has credit; at most [`WINDOW_MESSAGES`] and about [`WINDOW_BYTES`] are granted and not settled.

use std::collections::VecDeque;
use std::rc::Rc;

use holdfast_amqp::{Delivery, LinkId};
use holdfast_amqp_server::Links;
use holdfast_device_hub::{DeliveryKind, DeliveryKinds, DeliveryTag, ReceivedDelivery, Session, Settlement, TraceKind};
use tokio::time::Instant;
use uuid::Uuid;

use super::Front;
use super::device::{Device, LinkKind, SessionState};
use super::handler::Devices;
use super::inbox::Place;
use crate::methods_in_flight::MethodsInFlight;
use crate::sent_deliveries::SentDeliveries;

/// Deliveries of one session that are not settled.
const WINDOW_MESSAGES: u32 = 50;

/// Bytes of them; the last one may exceed it.
const WINDOW_BYTES: u32 = 256 * 1024;

/// The deliveries of one session.
#[derive(Default)]
pub(super) struct Downlink {
    /// Messages that wait for credit.
    pub(super) messages: VecDeque<ReceivedDelivery>,
    /// Messages that the client has, by their lock tokens.
    pub(super) sent: SentDeliveries<Uuid>,
    /// When the locks end, oldest first.
    pub(super) locks: VecDeque<(Instant, Uuid)>,
    /// The end of the oldest lock is waited for.
    pub(super) watches_locks: bool,
    /// Methods that wait for credit.
    pub(super) calls: VecDeque<ReceivedDelivery>,
    /// Methods that the client has and has not answered.
    pub(super) methods: MethodsInFlight,
    /// Answers and changes of the twin that wait for credit, encoded, and the delivery that is settled when one is sent.
    pub(super) twin_output: VecDeque<(Vec<u8>, Option<Settled>)>,
    /// Counts transfers that are sent settled.
    pub(super) transfers: u32,
    /// The hub has been granted a window.
    has_granted: bool,
}

/// Whether a transfer was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sendable {
    /// There is none.
    Nothing,
    /// It has been sent, or given up.
    Sent,
    /// It waits for credit, window or output.
    Later,
}

/// A delivery that is settled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    tag: DeliveryTag,
    bytes: usize,
    settlement: Settlement,
}

impl Settled {
    pub(super) fn new(tag: DeliveryTag, bytes: usize, settlement: Settlement) -> Self {
        Self { tag, bytes, settlement }
    }

    pub(super) fn of(delivery: &ReceivedDelivery, settlement: Settlement) -> Self {
        Self::new(delivery.tag, delivery.bytes(), settlement)
    }

    /// Tells the hub, and grants its part of the window again.
    pub(super) fn report(self, front: &Front, session: &Session) {
        front.core.settle_delivery(session, self.tag, self.settlement);
        let bytes = u32::try_from(self.bytes).unwrap_or(u32::MAX);
        front.core.grant_deliveries(session, 1, bytes);
    }
}

/// A device as its deliveries need it.
pub(super) struct OpenDevice<'a> {
    pub(super) downlink: &'a mut Option<Box<Downlink>>,
    pub(super) messages_link: Option<LinkId>,
    pub(super) calls_link: Option<LinkId>,
    pub(super) twin_link: Option<LinkId>,
}

/// Whether a transfer may be sent on the link now.
pub(super) fn has_room(links: &mut Links, link: LinkId) -> bool {
    let most = links.output_bytes();
    let engine = links.engine();
    engine.sendable(link) > 0 && engine.output().len() < most
}

impl Downlink {
    /// Sends a transfer that needs no outcome.
    pub(super) fn transfer(&mut self, links: &mut Links, link: LinkId, payload: &[u8]) -> bool {
        self.transfers = self.transfers.wrapping_add(1);
        let delivery = Delivery {
            tag: &self.transfers.to_be_bytes(),
            settled: true,
            message_format: 0,
        };
        let sent = links
            .engine()
            .send_with(link, &delivery, |buf| buf.extend_from_slice(payload));
        sent.is_ok()
    }
}

impl Devices {
    /// A device whose session is open.
    pub(super) fn open(&mut self, slot: u32) -> Option<(OpenDevice<'_>, &Session)> {
        let device = self.devices.get_mut(slot as usize)?.as_deref_mut()?;
        let (messages_link, calls_link) = (device.link(LinkKind::Messages), device.link(LinkKind::Calls));
        let twin_link = device.link(LinkKind::TwinAnswers);
        let Device {
            session: SessionState::Open(session),
            downlink,
            ..
        } = device
        else {
            return None;
        };
        let open = OpenDevice {
            downlink,
            messages_link,
            calls_link,
            twin_link,
        };
        Some((open, session))
    }

    /// The hub hands a delivery over.
    pub(super) fn delivered(&mut self, links: &mut Links, place: Place, delivery: ReceivedDelivery) {
        if self.at(place).is_none() {
            return;
        }
        self.trace(place.slot, TraceKind::Sent, &|| {
            format!("delivery of {:?}, {} bytes", delivery.kind, delivery.body.len())
        });
        match delivery.kind {
            DeliveryKind::CloudToDevice => self.message_delivered(place.slot, delivery),
            DeliveryKind::Method => self.call_delivered(place.slot, delivery),
            DeliveryKind::TwinChange => self.twin_changed(place.slot, delivery),
        }
        self.pump(links, place.slot);
    }

    /// Sends what waits for a device as far as its links take it, and reports to the hub what they take further.
    pub(super) fn pump(&mut self, links: &mut Links, slot: u32) {
        let mut waits = false;
        for send in [Self::send_twin_output, Self::send_call, Self::send_message] {
            let mut sendable = send(self, links, slot);
            while sendable == Sendable::Sent {
                sendable = send(self, links, slot);
            }
            waits |= sendable == Sendable::Later;
        }
        self.take_kinds(links, slot);
        let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        for offer in &mut device.links {
            if std::mem::take(&mut offer.drains) {
                links.engine().finish_drain(offer.link);
            }
        }
        if waits && !std::mem::replace(&mut device.is_pending, true) {
            self.pending.push(slot);
        }
    }

    /// Tries again to send what could not be sent.
    pub(super) fn pump_pending(&mut self, links: &mut Links) {
        for slot in std::mem::take(&mut self.pending) {
            if let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) {
                device.is_pending = false;
                self.pump(links, slot);
            }
        }
    }

    /// Has a device looked at in this turn.
    pub(super) fn pump_soon(&mut self, slot: u32) {
        if let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut)
            && !std::mem::replace(&mut device.is_pending, true)
        {
            self.pending.push(slot);
        }
    }

    /// Reports to the hub the kinds of deliveries that the links of a device take now.
    fn take_kinds(&mut self, links: &mut Links, slot: u32) {
        let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let waiting = device.downlink.as_ref().map_or(0, |downlink| downlink.messages.len());
        let mut kinds = DeliveryKinds::default();
        if let Some(link) = device.link(LinkKind::Messages)
            && links.engine().granted(link) as usize > waiting
        {
            kinds = kinds.with(DeliveryKind::CloudToDevice);
        }
        if device.link(LinkKind::Calls).is_some() {
            kinds = kinds.with(DeliveryKind::Method);
        }
        if device.link(LinkKind::TwinAnswers).is_some() && device.wants_changes {
            kinds = kinds.with(DeliveryKind::TwinChange);
        }
        if kinds == DeliveryKinds::default() && device.downlink.is_none() {
            return;
        }
        let SessionState::Open(session) = &device.session else {
            return;
        };
        let downlink = device.downlink.get_or_insert_default();
        if !std::mem::replace(&mut downlink.has_granted, true) {
            self.front.core.grant_deliveries(session, WINDOW_MESSAGES, WINDOW_BYTES);
        }
        self.front.core.take_delivery_kinds(session, kinds);
    }

    /// A link for deliveries is gone: what it had goes back.
    pub(super) fn delivery_link_gone(&mut self, slot: u32, kind: LinkKind) {
        let now_ms = self.now_ms();
        let front = Rc::clone(&self.front);
        if kind == LinkKind::TwinAnswers
            && let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut)
        {
            device.wants_changes = false;
        }
        let Some((device, session)) = self.open(slot) else {
            return;
        };
        let Some(downlink) = device.downlink else { return };
        match kind {
            LinkKind::Messages => {
                for delivery in downlink.messages.drain(..) {
                    Settled::of(&delivery, Settlement::Released).report(&front, session);
                }
                for sent in downlink.sent.take_all() {
                    Settled::new(sent.tag, sent.bytes, Settlement::Released).report(&front, session);
                }
                downlink.locks.clear();
            }
            LinkKind::Calls => {
                for delivery in downlink.calls.drain(..) {
                    Settled::of(&delivery, Settlement::Released).report(&front, session);
                }
                downlink.methods.ended(&front.core, session, now_ms);
            }
            LinkKind::TwinAnswers => {
                for settled in downlink.twin_output.drain(..).filter_map(|(_, settled)| settled) {
                    let released = Settled {
                        settlement: Settlement::Released,
                        ..settled
                    };
                    released.report(&front, session);
                }
            }
            LinkKind::Telemetry | LinkKind::Inputs | LinkKind::Answers | LinkKind::TwinRequests => {}
        }
        self.pump_soon(slot);
    }

    /// Records an event of a device in a live trace.
    pub(super) fn trace(&self, slot: u32, kind: TraceKind, text: &dyn Fn() -> String) {
        let hub = self.front.core.hub();
        if !hub.is_tracing() {
            return;
        }
        if let Some(device) = self.devices.get(slot as usize).and_then(Option::as_ref) {
            hub.trace(&device.name.to_string(), kind, text, None);
        }
    }

    /// Milliseconds of a clock that never goes back.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.front.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
