//! One connection: its protocol state, and the calls of the driver and of the device hub.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use holdfast_device_hub::{
    CloseReason, DeliveryKind, Outcome, Protocol, ReceiptTarget, ReceivedDelivery, Refusal, Session, SessionTarget,
    TraceKind,
};
use holdfast_mqtt::codec;
use holdfast_mqtt::connection::Timeout;
use holdfast_mqtt::limits::MAX_UNACKED_BYTES;
use holdfast_mqtt::will::Will;
use holdfast_net::connection::{self, Received, Transport};
use smallvec::SmallVec;

use super::MqttFront;
use super::credentials::Issuing;
use super::disconnect::DisconnectReason;
use super::downlink::Downlink;
use super::explain::Offence;
use super::faults::PlannedFault;
use super::provisioning::Registering;
use super::subscriptions::StoredChange;
use super::throttle::ThrottledSends;
use super::twins::TwinRequests;

/// Longest time for which a connection with withheld acknowledgements is not read: its PINGREQ may be behind
/// (Spec device-mqtt §3.3).
const MAX_READ_SUSPENSION_MS: u64 = 20_000;

pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Session, Refusal>>>>;

/// A connection; shared by its task, the table, and the receipts of its messages.
pub(super) struct Connection {
    pub(super) front: Rc<MqttFront>,
    pub(super) protocol: Protocol,
    pub(super) transport: Transport<Self>,
    pub(super) state: RefCell<State>,
}

/// The part that changes.
pub(super) struct State {
    pub(super) machine: holdfast_mqtt::Connection,
    pub(super) session: Option<Session>,
    pub(super) connecting: Option<Connecting>,
    pub(super) will: Option<Box<Will>>,
    pub(super) storing: Option<Box<StoredChange>>,
    /// Packet ids whose PUBACK is due, oldest first.
    pub(super) unacked: SmallVec<[u16; 8]>,
    pub(super) unacked_bytes: u32,
    /// Only of a connection that has sent something to a hub with rates.
    pub(super) sends: Option<Box<ThrottledSends>>,
    /// When reading was suspended because of withheld acknowledgements.
    suspended_since: Option<u64>,
    /// The connection ends once everything that it has sent is acknowledged.
    pub(super) draining: bool,
    /// Only of a connection that takes deliveries.
    pub(super) downlink: Option<Box<Downlink>>,
    /// The fault that a message of the client requests.
    pub(super) fault: Option<Box<PlannedFault>>,
    /// Only of a connection that has to do with its twin.
    pub(super) twins: Option<Box<TwinRequests>>,
    /// Only of a connection that is being issued a certificate.
    pub(super) issuing: Option<Box<Issuing>>,
    /// The packet that broke a rule, for the audit log.
    pub(super) offence: Option<Box<Offence>>,
    /// Only of a connection to the provisioning service.
    pub(super) registering: Option<Box<Registering>>,
}

impl Connection {
    pub(super) fn new(front: Rc<MqttFront>, transport: Transport<Self>, protocol: Protocol) -> Self {
        let connect_timeout_ms = u32::try_from(front.config.connect_timeout.as_millis()).unwrap_or(u32::MAX);
        let machine = holdfast_mqtt::Connection::new(transport.now_ms()).with_connect_timeout(connect_timeout_ms);
        Self {
            front,
            protocol,
            transport,
            state: RefCell::new(State {
                machine,
                session: None,
                connecting: None,
                will: None,
                storing: None,
                unacked: SmallVec::new(),
                unacked_bytes: 0,
                sends: None,
                suspended_since: None,
                draining: false,
                downlink: None,
                fault: None,
                twins: None,
                issuing: None,
                offence: None,
                registering: None,
            }),
        }
    }

    /// Milliseconds until the session's token or certificate has expired; `None` = never.
    fn credential_left_ms(&self, state: &State) -> Option<u64> {
        let expires = state.session.as_ref().and_then(Session::expires)?;
        Some(expires.0.saturating_sub(self.front.core.clock().now().0))
    }

    /// Milliseconds since the session's token or certificate has expired.
    fn credential_overdue_ms(&self, state: &State) -> Option<u64> {
        let expires = state.session.as_ref().and_then(Session::expires)?;
        self.front.core.clock().now().0.checked_sub(expires.0)
    }

    /// Spreads the ends of connections whose tokens or certificates were made together; constant for one connection.
    fn jitter_ms(&self) -> u64 {
        let jitter = self.front.config.expiry_jitter.max(Duration::from_millis(1));
        let range = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX);
        self.transport.number().wrapping_mul(0x9E37_79B9_7F4A_7C15) % range
    }

    pub(super) fn next_check(&self, state: &State, now_ms: u64) -> u64 {
        if let Some(registering) = &state.registering {
            return registering.deadline_ms();
        }
        let later = now_ms + MAX_READ_SUSPENSION_MS;
        let mut next = state.machine.deadline_ms().unwrap_or(later);
        if let Some(left) = self.credential_left_ms(state) {
            let wait = if left > 0 { left } else { self.jitter_ms().min(1000) };
            next = next.min(now_ms.saturating_add(wait));
        }
        if let Some(fault) = &state.fault {
            next = next.min(fault.at_ms());
        }
        if let Some(since) = state.suspended_since {
            next = next.min((since + MAX_READ_SUSPENSION_MS).max(now_ms + 1));
        }
        next
    }

    /// Ends the connection now, or once everything that it has sent is acknowledged.
    fn end_when_acknowledged(&self) {
        let mut state = self.state.borrow_mut();
        state.draining = true;
        self.acknowledge_all(&mut state);
        self.end_if_drained(&state);
    }
}

impl Connection {
    pub(super) fn end_if_drained(&self, state: &State) {
        if state.draining && state.unacked.is_empty() && state.twins.as_ref().is_none_or(|twins| twins.is_idle()) {
            self.transport.end(DisconnectReason::Hub(CloseReason::Stopping));
        }
    }
}

impl Connection {
    /// Writes the acknowledgements of the `count` oldest messages.
    pub(super) fn acknowledge(&self, state: &mut State, acks: &[u8], count: usize) {
        let was_suspended = state.suspended_since.is_some();
        let text = || format!("PUBACK of {count} messages, which are committed");
        self.trace(state, TraceKind::Sent, &text, None);
        state.settle(count);
        state.machine.wrote(self.transport.now_ms());
        self.transport.write(acks);
        if state.unacked.is_empty() {
            self.end_if_drained(state);
            if self.transport.has_ended() {
                return;
            }
            self.transport.resume();
        }
        if was_suspended || self.transport.needs_flush() {
            state.suspended_since = None;
            self.transport.wake();
        }
    }
}

impl State {
    /// Whether the window of unacknowledged messages is open; otherwise reading is suspended. A suspension is interrupted
    /// by one read each [`MAX_READ_SUSPENSION_MS`], within a second window.
    fn may_read(&mut self, now_ms: u64) -> bool {
        if self.machine.may_read() && self.unacked_bytes < MAX_UNACKED_BYTES {
            self.suspended_since = None;
            return true;
        }
        let since = *self.suspended_since.get_or_insert(now_ms);
        let is_due = now_ms.saturating_sub(since) >= MAX_READ_SUSPENSION_MS;
        if is_due && self.unacked_bytes < 2 * MAX_UNACKED_BYTES {
            self.suspended_since = Some(now_ms);
            return true;
        }
        false
    }

    /// Takes the acknowledged packet ids out of the window.
    fn settle(&mut self, count: usize) {
        let count = count.min(self.unacked.len());
        if count == self.unacked.len() {
            self.unacked.clear();
            self.unacked_bytes = 0;
        } else {
            let share = u64::from(self.unacked_bytes) * count as u64 / self.unacked.len() as u64;
            self.unacked_bytes -= u32::try_from(share).unwrap_or(self.unacked_bytes);
            self.unacked.drain(..count);
        }
        self.machine.acked(u16::try_from(count).unwrap_or(u16::MAX));
    }
}

impl connection::Protocol for Connection {
    type End = DisconnectReason;

    const TASK: &'static str = "mqtt-connection";

    fn transport(&self) -> &Transport<Self> {
        &self.transport
    }

    fn received(self: &Rc<Self>, input: &[u8]) -> Received {
        self.packets(&mut self.state.borrow_mut(), input)
    }

    fn poll_ready(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        ready!(self.poll_registering(state, cx));
        if let Some(connecting) = &mut state.connecting {
            let result = ready!(connecting.as_mut().poll(cx));
            state.connecting = None;
            self.decided(state, result);
            self.transport.resume();
        }
        self.poll_stored(state, cx);
        self.poll_twins(state, cx);
        self.poll_issuing(state, cx);
        self.poll_sends(state, cx);
        if self.transport.needs_flush() {
            // The driver writes first.
            return Poll::Ready(());
        }
        if self.transport.has_ended() {
            return Poll::Ready(());
        }
        if state.draining || !state.may_read(self.transport.now_ms()) {
            return Poll::Pending;
        }
        // A connection without a session has no messages.
        match &state.session {
            Some(session) if !self.front.core.has_capacity(session, cx) => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    fn next_deadline(&self, now_ms: u64) -> u64 {
        self.next_check(&self.state.borrow(), now_ms)
    }

    fn check_deadlines(&self, now_ms: u64) {
        let state = &mut *self.state.borrow_mut();
        if state.draining {
            // Nothing is read any more, so that the client's silence means nothing.
            return;
        }
        if let Some(registering) = &state.registering {
            if now_ms >= registering.deadline_ms() {
                self.transport.end(registering.end());
            }
            return;
        }
        self.inject_fault(state, now_ms);
        match state.machine.expire(now_ms) {
            Some(Timeout::Connect) => self.transport.end(DisconnectReason::ConnectTimeout),
            Some(Timeout::KeepAlive) => self.transport.end(DisconnectReason::KeepAlive),
            None => {}
        }
        if self
            .credential_overdue_ms(state)
            .is_some_and(|overdue| overdue >= self.jitter_ms())
        {
            let reason = state
                .session
                .as_ref()
                .map_or(CloseReason::TokenExpired, Session::expiry_reason);
            self.transport.end(DisconnectReason::Hub(reason));
        }
        if state
            .suspended_since
            .is_some_and(|since| now_ms.saturating_sub(since) >= MAX_READ_SUSPENSION_MS)
        {
            self.transport.wake();
        }
    }

    fn drain(&self) {
        self.end_when_acknowledged();
    }

    fn ended(&self, end: DisconnectReason) {
        self.finish(end);
    }
}

impl ReceiptTarget for Connection {
    fn settled(&self, cookies: &[u64], outcome: Outcome) {
        if self.transport.has_ended() {
            return;
        }
        if outcome == Outcome::Failed {
            // Closing withholds the acknowledgement; the client sends again after it has reconnected.
            self.transport.end(DisconnectReason::Hub(CloseReason::Unavailable));
            return;
        }
        let state = &mut *self.state.borrow_mut();
        if state.sends.is_some() {
            return self.send_committed(state, cookies.len());
        }
        let mut acks: SmallVec<[u8; 256]> = SmallVec::new();
        for cookie in cookies {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the cookie of a publish is its packet id"
            )]
            let packet_id = *cookie as u16;
            acks.extend_from_slice(&codec::puback(packet_id));
        }
        self.acknowledge(state, &acks, cookies.len());
    }
}

impl SessionTarget for Connection {
    fn close(&self, reason: CloseReason) {
        match reason {
            CloseReason::Stopping => self.end_when_acknowledged(),
            reason => self.transport.end(DisconnectReason::Hub(reason)),
        }
    }

    fn deliver(&self, delivery: ReceivedDelivery) {
        let state = &mut *self.state.borrow_mut();
        self.trace_delivery(state, &delivery);
        match delivery.kind {
            DeliveryKind::TwinChange => self.desired_changed(state, delivery),
            DeliveryKind::CloudToDevice | DeliveryKind::Method => self.publish_delivery(state, &delivery),
        }
        if self.transport.needs_flush() {
            // Only the connection's task waits for the socket.
            self.transport.wake();
        }
    }
}
