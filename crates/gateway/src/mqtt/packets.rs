//! What each packet of a client leads to.

use std::rc::Rc;

use holdfast_device_hub::{
    ConnectAttempt, ConnectRequest, Credential, Operation, Protocol, Receipt, ReceiptTarget, Refusal, Session,
    SessionTarget,
};
use holdfast_model::{ErrorCode, TelemetryMessage, UnixMillis};
use holdfast_mqtt::codec::{self, ConnectCode, Packet, Publish, QoS, decode};
use holdfast_mqtt::topic::{DeviceTopic, HubTopic};
use holdfast_mqtt::will::Will;
use holdfast_mqtt::{Action, Channel, Violation, bag, login};

use super::connection::{Connection, Inner};
use super::end::End;

/// A token that no parser takes, for a password that is no text.
const UNREADABLE_TOKEN: &str = "?";

impl Connection {
    /// Handles what has been read, and what earlier reads have left.
    pub(super) fn received(self: &Rc<Self>, inner: &mut Inner, chunk: &[u8], now_ms: u64) {
        if inner.held.is_empty() {
            let consumed = self.packets(inner, chunk, now_ms);
            if consumed < chunk.len() {
                inner.held.extend_from_slice(&chunk[consumed..]);
            }
            return;
        }
        let mut held = std::mem::take(&mut inner.held);
        held.extend_from_slice(chunk);
        let consumed = self.packets(inner, &held, now_ms);
        if consumed < held.len() {
            held.drain(..consumed);
            inner.held = held;
        }
    }

    /// Handles the whole packets at the start of `input` and says how many bytes they had.
    fn packets(self: &Rc<Self>, inner: &mut Inner, input: &[u8], now_ms: u64) -> usize {
        let mut consumed = 0;
        let received = self.front.core.clock().now();
        while consumed < input.len() && inner.end.is_none() {
            let rest = &input[consumed..];
            let (packet, length) = match decode(rest, &inner.state.limits()) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break,
                Err(violation) => {
                    self.violation(inner, violation);
                    break;
                }
            };
            if inner.connecting.is_some() || must_wait(inner, &packet) {
                inner.held_is_ready = true;
                break;
            }
            match inner.state.handle(packet, now_ms) {
                Ok(action) => self.act(inner, action, length, now_ms, received),
                Err(violation) => self.violation(inner, violation),
            }
            consumed += length;
        }
        consumed
    }

    fn act(self: &Rc<Self>, inner: &mut Inner, action: Action<'_>, length: usize, now_ms: u64, received: UnixMillis) {
        match action {
            Action::Publish {
                topic: DeviceTopic::Events { bag },
                packet,
            } => match bag::telemetry(bag, &packet) {
                Ok(message) => self.telemetry(inner, &message, &packet, length, received),
                Err(violation) => self.violation(inner, violation),
            },
            Action::Publish { topic, packet } => self.request(inner, &topic, &packet, now_ms),
            Action::Authenticate(claim) => self.authenticate(inner, &claim),
            Action::Subscribe {
                packet_id,
                codes,
                set,
                changed: _,
            } => {
                let mut bytes = Vec::with_capacity(codes.len() + 5);
                if codec::suback(&mut bytes, packet_id, &codes).is_ok() {
                    self.write(inner, &bytes, now_ms);
                }
                inner.state.activate(set);
            }
            Action::Unsubscribe {
                packet_id,
                set,
                changed: _,
            } => {
                self.write(inner, &codec::unsuback(packet_id), now_ms);
                inner.state.activate(set);
            }
            Action::Ping => self.write(inner, &codec::pingresp(), now_ms),
            Action::Disconnect => inner.end = Some(End::Disconnected),
            // `packets` keeps what comes while a CONNECT is being decided, and nothing has been sent to acknowledge.
            Action::Acked { .. } | Action::Wait | Action::Ignore => {}
        }
    }

    fn telemetry(
        self: &Rc<Self>,
        inner: &mut Inner,
        message: &TelemetryMessage<'_>,
        packet: &Publish<'_>,
        length: usize,
        received: UnixMillis,
    ) {
        holdfast_tasks::panic_point("connection", packet.payload);
        let Inner {
            session: Some(session),
            state,
            unacked,
            unacked_bytes,
            ..
        } = inner
        else {
            return;
        };
        // The codec gives a packet id to every PUBLISH above QoS 0.
        let receipt = if let Some(packet_id) = packet.packet_id {
            if packet.dup && unacked.contains(&packet_id) {
                // The first copy still waits: one record, one PUBACK (Spec device-mqtt §10.2).
                state.acked(1);
                return;
            }
            unacked.push(packet_id);
            *unacked_bytes = unacked_bytes.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
            let target: Rc<dyn ReceiptTarget> = Rc::clone(self) as Rc<dyn ReceiptTarget>;
            Some(Receipt {
                target,
                cookie: u64::from(packet_id),
            })
        } else {
            None
        };
        self.front.core.send(session, message, receipt, received);
    }

    /// Twins, methods and certificates come with a later version; every request gets an answer all the same, since
    /// some SDKs wait for ever (Spec device-mqtt §7.1).
    fn request(&self, inner: &mut Inner, topic: &DeviceTopic<'_>, packet: &Publish<'_>, now_ms: u64) {
        let mut bytes = Vec::new();
        let answer = match topic {
            DeviceTopic::TwinGet { rid } => Some(*rid),
            DeviceTopic::TwinPatch { rid, .. } => *rid,
            _ => None,
        };
        if let (Some(rid), true) = (answer, inner.state.subscriptions().is_open(Channel::TwinRes)) {
            let code = ErrorCode::FeatureNotSupported;
            let body = format!(
                r#"{{"errorCode":{},"trackingId":"","message":"device twins are not part of this version of the hub","timestampUtc":""}}"#,
                code.number()
            );
            let mut name = String::new();
            if let Some(session) = &inner.session {
                HubTopic::TwinResponse {
                    status: code.http_status(),
                    rid,
                    version: None,
                }
                .write(session.identity(), &mut name);
            }
            let publish = Publish {
                topic: &name,
                payload: body.as_bytes(),
                ..Publish::default()
            };
            // The topic and body are short, so that encoding them cannot fail.
            let _ = codec::publish(&mut bytes, &publish);
        }
        if let Some(packet_id) = packet.packet_id {
            bytes.extend_from_slice(&codec::puback(packet_id));
            inner.state.acked(1);
        }
        self.write(inner, &bytes, now_ms);
    }

    pub(super) fn write(&self, inner: &mut Inner, bytes: &[u8], now_ms: u64) {
        if bytes.is_empty() {
            return;
        }
        inner.state.wrote(now_ms);
        if let Err(end) = inner.write(bytes, self.front.config.max_output_bytes) {
            inner.end = Some(end);
        }
    }

    fn authenticate(self: &Rc<Self>, inner: &mut Inner, login: &login::Claim<'_>) {
        if let Some(will) = &login.connect.will {
            match Will::accept(&login.identity, will) {
                Ok(will) => inner.will = Some(Box::new(will)),
                Err(violation) => return self.violation(inner, violation),
            }
        }
        let token = login
            .password
            .map(|bytes| std::str::from_utf8(bytes).unwrap_or(UNREADABLE_TOKEN));
        let request = ConnectRequest {
            device: login.identity.device.as_str(),
            module: login.identity.module.as_ref().map(holdfast_model::ModuleId::as_str),
            host: login.login.host_name(),
            credential: Credential::new(token, None),
            model_id: login.login.model_id.as_deref(),
            protocol: self.protocol,
            address: self.address,
        };
        let target: Rc<dyn SessionTarget> = Rc::clone(self) as Rc<dyn SessionTarget>;
        match self.front.core.connect(&request, &target) {
            ConnectAttempt::Done(result) => self.decided(inner, result),
            ConnectAttempt::Pending(later) => inner.connecting = Some(later),
        }
    }

    /// The CONNECT has been decided.
    pub(super) fn decided(&self, inner: &mut Inner, result: Result<Session, Refusal>) {
        let now_ms = self.front.now_ms();
        match result {
            Ok(session) => {
                inner.session = Some(session);
                self.set_authenticated();
                self.front.metrics.connected.increment(1);
                let connack = inner.state.accept(None, now_ms);
                self.write(inner, &connack, now_ms);
                inner.held_is_ready = !inner.held.is_empty();
                // So far only the CONNECT had a deadline; a short keep-alive or an old token has an earlier one.
                self.front.look_earlier(self, self.next_deadline(inner, now_ms));
            }
            Err(refusal) => {
                let connack = inner.state.refuse(ConnectCode::for_error(refusal.code));
                self.write(inner, &connack, now_ms);
                inner.end.get_or_insert(End::Refused);
            }
        }
    }

    fn violation(&self, inner: &mut Inner, violation: Violation) {
        let refusal = codec::refusal(violation);
        if !refusal.is_empty() {
            // The connection ends anyway.
            let _ = inner.write(refusal, self.front.config.max_output_bytes);
        }
        self.front.metrics.violation(violation.label());
        if let Violation::Login(error) = violation {
            self.audit_login(inner, Refusal::new(error.reason()));
        }
        inner.end.get_or_insert(End::Broken(violation));
    }

    fn audit_login(&self, inner: &Inner, refusal: Refusal) {
        let identity = inner.state.identity().map(ToString::to_string).unwrap_or_default();
        let hub = self.front.core.hub();
        let now = self.front.core.clock().now();
        hub.audit()
            .refused_identity(Operation::Connect, &identity, self.protocol, self.address, refusal, now);
    }

    /// The connection is over: publishes the will if it is due, frees the session and the row, says why.
    pub(super) fn finish(&self, end: End) {
        let mut inner = self.inner.borrow_mut();
        inner.socket.close();
        let session = inner.session.take();
        let will = inner.will.take();
        let is_due = end != End::Disconnected && end != End::Refused;
        if let Some(session) = session {
            if let (Some(will), true) = (will, is_due)
                && let Ok(message) = will.message()
            {
                self.front
                    .core
                    .send(&session, &message, None, self.front.core.clock().now());
            }
            self.front.core.disconnect(&session);
            tracing::debug!(
                identity = %session.identity(), protocol = Protocol::as_str(self.protocol), address = %self.address,
                reason = end.label(), code = end.code().map(ErrorCode::number), "connection ended"
            );
        } else {
            tracing::debug!(address = %self.address, reason = end.label(), code = end.code().map(ErrorCode::number), ?end, "connection ended before it was accepted");
        }
        inner.held = Vec::new();
        inner.output = Vec::new();
        inner.connecting = None;
        drop(inner);
        self.set_authenticated();
        self.front.metrics.ended(end.label());
        self.front.metrics.connections.decrement(1.0);
        self.front.remove(self.key);
    }
}

/// A request that is answered at once must not overtake the acknowledgements of telemetry before it: PUBACKs leave in
/// the order of the PUBLISHes (Spec device-mqtt §4.2 rule 16).
fn must_wait(inner: &Inner, packet: &Packet<'_>) -> bool {
    matches!(packet, Packet::Publish(publish) if publish.qos == QoS::AtLeastOnce
        && publish.topic.starts_with('$') && !inner.unacked.is_empty())
}
