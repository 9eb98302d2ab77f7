//! The hub's reaction to each packet of a client.

use std::rc::Rc;

use holdfast_device_hub::{
    ConnectAttempt, ConnectRequest, Credential, EndedConnection, Operation, Receipt, ReceiptTarget, Refusal, Session,
    SessionTarget, StoredSession, TraceKind,
};
use holdfast_model::{ErrorCode, ModuleId, RefusalReason, TelemetryMessage, UnixMillis, redact};
use holdfast_mqtt::codec::{self, ConnectCode, Limits, Packet, Publish, QoS, decode};
use holdfast_mqtt::connection::Phase;
use holdfast_mqtt::topic::DeviceTopic;
use holdfast_mqtt::will::Will;
use holdfast_mqtt::{Action, SubscriptionSet, Violation, bag, login};
use holdfast_net::connection::Received;

use super::connection::{Connection, State};
use super::disconnect::DisconnectReason;
use super::explain::Offence;
use super::throttle::Verdict;

/// A token that no parser accepts, for a password that is not UTF-8.
pub(super) const UNREADABLE_TOKEN: &str = "?";

impl Connection {
    /// Handles the complete packets at the start of `input`.
    pub(super) fn packets(self: &Rc<Self>, state: &mut State, input: &[u8]) -> Received {
        if state.registering.is_some() {
            return self.registering_packets(state, input);
        }
        let now_ms = self.transport.now_ms();
        let received = self.front.core.clock().now();
        let mut consumed = 0;
        while consumed < input.len() && !self.transport.has_ended() {
            let rest = &input[consumed..];
            let limits = state.machine.limits();
            let (packet, length) = match decode(rest, &limits) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break,
                Err(violation) => {
                    self.violation(state, violation, rest, &limits);
                    break;
                }
            };
            if let (Phase::AwaitConnect, Packet::Connect(connect)) = (state.machine.phase(), &packet)
                && self.begin_registering(state, connect)
            {
                let mut received = self.registering_packets(state, &rest[length..]);
                received.consumed += consumed + length;
                return received;
            }
            if state.connecting.is_some() || must_wait(state, &packet) {
                return Received {
                    consumed,
                    is_blocked: true,
                };
            }
            let mut verdict = Verdict::Store;
            if self.front.limits_sends
                && state.session.is_some()
                && let Packet::Publish(publish) = &packet
                && !publish.topic.starts_with('$')
            {
                verdict = self.admit_send(state, publish);
            }
            if verdict == Verdict::Keep {
                return Received {
                    consumed,
                    is_blocked: true,
                };
            }
            if self.front.core.hub().is_tracing() {
                self.trace_packet(state, &packet);
            }
            let result = match state.machine.handle(packet, now_ms) {
                Ok(_) if verdict == Verdict::Drop => Ok(()),
                Ok(action) => self.act(state, action, length, now_ms, received),
                Err(violation) => Err(violation),
            };
            if let Err(violation) = result {
                self.violation(state, violation, rest, &limits);
            }
            consumed += length;
        }
        Received {
            consumed,
            is_blocked: false,
        }
    }

    fn act(
        self: &Rc<Self>,
        state: &mut State,
        action: Action<'_>,
        length: usize,
        now_ms: u64,
        received: UnixMillis,
    ) -> Result<(), Violation> {
        match action {
            Action::Publish {
                topic: DeviceTopic::Events { bag },
                packet,
            } => {
                let message = bag::telemetry(bag, &packet)?;
                self.telemetry(state, &message, &packet, length, received);
            }
            Action::Publish { topic, packet } => self.request(state, &topic, &packet, now_ms),
            Action::Authenticate(claim) => self.authenticate(state, &claim)?,
            Action::Subscribe {
                packet_id,
                codes,
                set,
                changed,
            } => {
                let mut ack = Vec::with_capacity(codes.len() + 5);
                // The machine bounds the codes, so that encoding them cannot fail.
                let _ = codec::suback(&mut ack, packet_id, &codes);
                self.subscriptions_requested(state, set, changed, ack, now_ms);
            }
            Action::Unsubscribe {
                packet_id,
                set,
                changed,
            } => self.subscriptions_requested(state, set, changed, codec::unsuback(packet_id).to_vec(), now_ms),
            Action::Ping => self.write(state, &codec::pingresp(), now_ms),
            Action::Disconnect => self.transport.end(DisconnectReason::Disconnected),
            Action::Acked { packet_id } => self.delivery_acked(state, packet_id),
            // `packets` keeps packets while a CONNECT is being decided.
            Action::Wait | Action::Ignore => {}
        }
        Ok(())
    }

    fn telemetry(
        self: &Rc<Self>,
        state: &mut State,
        message: &TelemetryMessage<'_>,
        packet: &Publish<'_>,
        length: usize,
        received: UnixMillis,
    ) {
        holdfast_tasks::panic_point("connection", packet.payload);
        let State {
            session: Some(session),
            machine,
            unacked,
            unacked_bytes,
            sends,
            ..
        } = state
        else {
            return;
        };
        // The codec requires a packet id of every PUBLISH above QoS 0.
        let receipt = if let Some(packet_id) = packet.packet_id {
            if packet.dup && unacked.contains(&packet_id) {
                // The first copy still waits: one record, one PUBACK (Spec device-mqtt §10.2).
                machine.acked(1);
                return;
            }
            unacked.push(packet_id);
            if let Some(sends) = sends {
                sends.stored();
            }
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
        self.plan_fault(state, message);
    }

    /// Takes answers to methods, and requests about the twin.
    fn request(&self, state: &mut State, topic: &DeviceTopic<'_>, packet: &Publish<'_>, now_ms: u64) {
        match topic {
            DeviceTopic::TwinGet { rid } => return self.twin_requested(state, rid, packet.packet_id),
            DeviceTopic::TwinPatch { rid, version } => return self.twin_patched(state, *rid, *version, packet),
            DeviceTopic::MethodResponse { status, rid } => self.method_answered(state, rid, *status, packet.payload),
            DeviceTopic::IssueCertificate { .. } | DeviceTopic::Events { .. } => {}
        }
        if let Some(packet_id) = packet.packet_id {
            self.write(state, &codec::puback(packet_id), now_ms);
            state.machine.acked(1);
        }
        // The replies follow the PUBACK.
        if let DeviceTopic::IssueCertificate { rid } = topic {
            self.certificate_requested(state, rid, packet.payload);
        }
    }

    pub(super) fn write(&self, state: &mut State, bytes: &[u8], now_ms: u64) {
        if !bytes.is_empty() {
            state.machine.wrote(now_ms);
            self.transport.write(bytes);
        }
    }

    fn authenticate(self: &Rc<Self>, state: &mut State, login: &login::Claim<'_>) -> Result<(), Violation> {
        if let Some(will) = &login.connect.will {
            state.will = Some(Box::new(Will::accept(&login.identity, will)?));
        }
        let token = login
            .password
            .map(|bytes| std::str::from_utf8(bytes).unwrap_or(UNREADABLE_TOKEN));
        let certificates = self.transport.peer_certificates();
        let tls = self.transport.tls_parameters();
        let handshake = self.transport.take_handshake_time();
        let handshake = handshake.map(|time| (time.began, time.ended));
        let request = ConnectRequest {
            device: login.identity.device.as_str(),
            module: login.identity.module.as_ref().map(ModuleId::as_str),
            host: login.login.host_name(),
            credential: Credential::new(token, certificates.as_ref()),
            model_id: login.login.model_id.as_deref(),
            stored_session: if login.connect.clean {
                StoredSession::Discard
            } else {
                StoredSession::Resume
            },
            protocol: self.protocol,
            address: self.transport.address(),
            tls: tls.as_ref(),
            handshake,
            trace: None,
        };
        let target: Rc<dyn SessionTarget> = Rc::clone(self) as Rc<dyn SessionTarget>;
        match self.front.core.connect(&request, &target) {
            ConnectAttempt::Done(result) => self.decided(state, result),
            ConnectAttempt::Pending(later) => state.connecting = Some(later),
        }
        Ok(())
    }

    /// The CONNECT has been decided.
    pub(super) fn decided(&self, state: &mut State, result: Result<Session, Refusal>) {
        let now_ms = self.transport.now_ms();
        match result {
            Ok(session) => {
                let stored = session.stored_subscriptions();
                let stored = stored.map(|stored| SubscriptionSet::from_bits(stored.0));
                state.session = Some(session);
                self.transport.set_authenticated();
                self.front.metrics.connected.increment(1);
                let connack = state.machine.accept(stored, now_ms);
                self.write(state, &connack, now_ms);
                self.subscriptions_changed(state);
                // So far only the CONNECT had a deadline; a short keep-alive or an old token has an earlier one.
                self.transport.check_earlier(self.next_check(state, now_ms));
            }
            Err(refusal) => {
                let connack = state.machine.refuse(ConnectCode::for_error(refusal.code));
                self.transport.write_last(&connack, DisconnectReason::Refused);
            }
        }
    }

    /// The client broke a rule with the packet at the start of `bytes`.
    pub(super) fn violation(&self, state: &mut State, violation: Violation, bytes: &[u8], limits: &Limits) {
        state.offence = Some(Box::new(Offence::new(bytes, limits, &state.machine)));
        self.front.metrics.violation(violation.label());
        self.transport
            .write_last(codec::refusal(violation), DisconnectReason::Violation(violation));
    }

    /// The connection is over: publishes the will if it is due, ends the session, records the cause.
    pub(super) fn finish(&self, end: DisconnectReason) {
        let mut state = self.state.borrow_mut();
        self.audit(&state, end);
        self.trace(
            &state,
            TraceKind::Decided,
            &|| format!("connection ended: {}", self.explanation(&state, end)),
            None,
        );
        state.connecting = None;
        state.storing = None;
        // Its request holds the connection.
        state.registering = None;
        let will = state.will.take().filter(|_| state.machine.will_is_due());
        if let Some(session) = state.session.take() {
            let now = self.front.core.clock().now();
            if let Some(will) = will
                && let Ok(message) = will.message()
            {
                self.front.core.send(&session, &message, None, now);
            }
            state.twins = None;
            if let Some(downlink) = &mut state.downlink {
                let now_ms = self.transport.now_ms();
                downlink.methods.ended(&self.front.core, &session, now_ms);
            }
            self.front.core.disconnect(&session);
        }
        tracing::debug!(
            identity = state.machine.identity().map(|identity| redact(&identity.to_string()).into_owned()),
            protocol = self.protocol.as_str(),
            address = %self.transport.address(),
            reason = end.label(),
            code = end.code().map(ErrorCode::number),
            "connection ended"
        );
        drop(state);
        self.front.metrics.ended(end.label());
        self.front.metrics.connections.decrement(1.0);
    }

    /// Records the refused CONNECT of a device that registers.
    pub(super) fn audit_registering(&self, state: &State, reason: RefusalReason, code: ErrorCode, detail: String) {
        let core = &self.front.core;
        let identity = state.registering.as_ref().map(|device| device.registration_id.as_str());
        let ended = EndedConnection {
            operation: Operation::Register,
            identity: identity.unwrap_or_default(),
            protocol: self.protocol,
            address: self.transport.address(),
            refusal: Refusal { code, reason },
            detail,
        };
        core.hub().audit().ended(ended, core.clock().now());
    }

    /// Records a connection that the hub ended, under the identity that the client claims to be; without one before its
    /// CONNECT.
    fn audit(&self, state: &State, end: DisconnectReason) {
        let Some(reason) = end.refusal() else { return };
        let core = &self.front.core;
        let claimed = state.offence.as_ref().map(|offence| offence.client_id.to_string());
        let registering = state.registering.as_ref().map(|device| device.registration_id.clone());
        let identity = state.machine.identity().map(ToString::to_string);
        let identity = identity.or(registering).or(claimed);
        let operation = match state.machine.phase() {
            _ if state.registering.is_some() => Operation::Register,
            Phase::AwaitConnect | Phase::Authenticating | Phase::Refused => Operation::Connect,
            Phase::Connected | Phase::Disconnected | Phase::Broken => Operation::Session,
        };
        let ended = EndedConnection {
            operation,
            identity: identity.as_deref().unwrap_or_default(),
            protocol: self.protocol,
            address: self.transport.address(),
            refusal: Refusal {
                code: end.code().unwrap_or(reason.code()),
                reason,
            },
            detail: self.explanation(state, end),
        };
        core.hub().audit().ended(ended, core.clock().now());
    }
}

/// Packets that must not be handled now.
///
/// PUBACKs leave in the order of the PUBLISHes (Spec device-mqtt §4.2 rule 16): a request must not overtake telemetry before
/// it, nor telemetry a request about the twin.
fn must_wait(state: &State, packet: &Packet<'_>) -> bool {
    match packet {
        Packet::Publish(publish) => {
            let is_request = publish.topic.starts_with('$');
            let is_of_twin = publish.topic.starts_with("$iothub/twin/");
            let is_acked = publish.qos == QoS::AtLeastOnce;
            let twins = state.twins.as_ref();
            is_acked && is_request && !state.unacked.is_empty()
                || is_acked && !is_of_twin && twins.is_some_and(|twins| twins.withholds_acks())
                || is_of_twin && twins.is_some_and(|twins| twins.is_full())
        }
        Packet::Subscribe(_) | Packet::Unsubscribe(_) => state.storing.as_ref().is_some_and(|change| change.is_full()),
        _ => false,
    }
}
