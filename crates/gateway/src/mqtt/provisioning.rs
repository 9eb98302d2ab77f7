//! A connection of a device that registers with the provisioning service (Spec provisioning §4).
//!
//! It begins like any other, and its CONNECT decides: the user name names an id scope instead of a hub.
//! Invariants: the PUBACK of a request leaves before its reply; one request is carried out at a time, and further packets wait
//! unread; each request proves the credential of the CONNECT anew; no session of the hub begins.
//! Not here: who the device is and where it belongs (`provisioning`), user names and topics (`mqtt`).

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use holdfast_device_hub::{CloseReason, Credential};
use holdfast_model::{CertificateChain, ErrorCode, RefusalReason};
use holdfast_mqtt::Violation;
use holdfast_mqtt::codec::{self, Connect, ConnectCode, Limits, Packet, Publish, QoS, Subscribe, decode};
use holdfast_mqtt::provisioning::{ProvisioningLogin, ProvisioningRequest, REPLY_FILTER, reply_topic};
use holdfast_net::connection::Received;
use holdfast_provisioning::{DeviceCall, Provisioning, ProvisioningError, RegisterBody, check_version, error_body};
use smallvec::SmallVec;

use super::connection::{Connection, State};
use super::disconnect::DisconnectReason;
use super::packets::UNREADABLE_TOKEN;

/// How long a connection may be open without a request.
const MAX_IDLE_MS: u64 = 60_000;

/// How long a device whose credential was refused may read the reply before the connection is closed.
const REFUSED_LINGER_MS: u64 = 5_000;

/// The code of a filter that is not granted.
const SUBACK_FAILURE: u8 = 0x80;

/// A filter per SUBSCRIBE is all that a client needs.
const MAX_FILTERS: usize = 8;

/// A reply, ready to be sent.
struct Reply {
    topic: String,
    body: String,
    /// The credential was refused.
    is_refused: bool,
}

/// The state of such a connection.
pub(super) struct Registering {
    service: Arc<Provisioning>,
    id_scope: String,
    pub(super) registration_id: String,
    /// Of the CONNECT.
    api_version: Option<String>,
    token: Option<String>,
    certificates: Option<CertificateChain>,
    /// The QoS of the subscription to replies.
    replies: Option<QoS>,
    request: Option<Pin<Box<dyn Future<Output = Reply>>>>,
    next_packet_id: u16,
    deadline_ms: u64,
    /// Its end is the keep-alive's, as far as the deadline is.
    is_idle_deadline: bool,
}

impl Registering {
    /// When the connection is closed.
    pub(super) const fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// What its deadline ends it with.
    pub(super) const fn end(&self) -> DisconnectReason {
        match self.is_idle_deadline {
            true => DisconnectReason::KeepAlive,
            false => DisconnectReason::Refused,
        }
    }

    fn touched(&mut self, now_ms: u64) {
        if self.is_idle_deadline {
            self.deadline_ms = now_ms + MAX_IDLE_MS;
        }
    }

    fn packet_id(&mut self) -> u16 {
        self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
        self.next_packet_id
    }
}

impl Connection {
    /// Takes the CONNECT of a device that registers; `false`: it is one of a hub's device.
    pub(super) fn begin_registering(&self, state: &mut State, connect: &Connect<'_>) -> bool {
        let Some(service) = &self.front.provisioning else {
            return false;
        };
        let login = connect.username.and_then(ProvisioningLogin::parse);
        // A device named "registrations" may have modules.
        let is_hub = |host: &str| self.front.core.hub().hub_names().contains(host);
        let Some(login) = login.filter(|login| !is_hub(login.id_scope)) else {
            return false;
        };
        let token = connect.password.filter(|bytes| !bytes.is_empty());
        let token = token.map(|bytes| std::str::from_utf8(bytes).unwrap_or(UNREADABLE_TOKEN).to_owned());
        let now_ms = self.transport.now_ms();
        state.registering = Some(Box::new(Registering {
            service: Arc::clone(service),
            id_scope: login.id_scope.to_owned(),
            registration_id: login.registration_id.clone().into_owned(),
            api_version: login.api_version.as_deref().map(str::to_owned),
            token,
            certificates: self.transport.peer_certificates(),
            replies: None,
            request: None,
            next_packet_id: 0,
            deadline_ms: now_ms + MAX_IDLE_MS,
            is_idle_deadline: true,
        }));
        let refused = |code: ErrorCode| {
            let connack = codec::connack(false, ConnectCode::for_error(code) as u8);
            self.transport.write_last(&connack, DisconnectReason::Refused);
        };
        match self.check_login(state, &login, connect) {
            Ok(()) => {
                self.transport.set_authenticated();
                self.transport.write(&codec::connack(false, 0));
                self.transport.check_earlier(now_ms + MAX_IDLE_MS);
            }
            Err((reason, code, detail)) => {
                self.audit_registering(state, reason, code, detail);
                refused(code);
            }
        }
        true
    }

    /// The rule that the CONNECT breaks, before any credential is checked.
    fn check_login(
        &self,
        state: &State,
        login: &ProvisioningLogin<'_>,
        connect: &Connect<'_>,
    ) -> Result<(), (RefusalReason, ErrorCode, String)> {
        let Some(registering) = &state.registering else {
            return Ok(());
        };
        if let Err(text) = check_version(login.api_version.as_deref()) {
            return Err((RefusalReason::Version, ErrorCode::InvalidProtocolVersion, text));
        }
        if !connect.client_id.eq_ignore_ascii_case(&login.registration_id) {
            let text = "the client id is not the registration id of the user name".to_owned();
            return Err((RefusalReason::IdentityMismatch, ErrorCode::GenericUnauthorized, text));
        }
        if let Err(error) = registering.service.check_scope(login.id_scope) {
            // A scope that does not exist is refused like a credential (Spec provisioning §4.3).
            let code = match error.code {
                ErrorCode::IdScopeNotFound => ErrorCode::GenericUnauthorized,
                code => code,
            };
            return Err((RefusalReason::Scope, code, error.text));
        }
        if registering.token.is_none() && registering.certificates.is_none() {
            let text = "the CONNECT has no password, and the client no certificate".to_owned();
            return Err((RefusalReason::Missing, ErrorCode::GenericUnauthorized, text));
        }
        Ok(())
    }

    /// Handles the complete packets at the start of `input`.
    pub(super) fn registering_packets(self: &Rc<Self>, state: &mut State, input: &[u8]) -> Received {
        let mut consumed = 0;
        while consumed < input.len() && !self.transport.has_ended() {
            let rest = &input[consumed..];
            let limits = Limits::CLIENT;
            let (packet, length) = match decode(rest, &limits) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break,
                Err(violation) => {
                    self.violation(state, violation, rest, &limits);
                    break;
                }
            };
            let Some(registering) = &mut state.registering else {
                break;
            };
            if registering.request.is_some() {
                return Received {
                    consumed,
                    is_blocked: true,
                };
            }
            registering.touched(self.transport.now_ms());
            if let Err(violation) = self.registering_packet(registering, &packet) {
                self.violation(state, violation, rest, &limits);
            }
            consumed += length;
        }
        Received {
            consumed,
            is_blocked: false,
        }
    }

    fn registering_packet(
        self: &Rc<Self>,
        registering: &mut Registering,
        packet: &Packet<'_>,
    ) -> Result<(), Violation> {
        match packet {
            Packet::Publish(publish) => return self.registering_request(registering, publish),
            Packet::Subscribe(subscribe) => return self.registering_subscribe(registering, subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                registering.replies = None;
                self.transport.write(&codec::unsuback(unsubscribe.packet_id));
            }
            Packet::PingReq => self.transport.write(&codec::pingresp()),
            Packet::Disconnect => self.transport.end(DisconnectReason::Disconnected),
            Packet::PubAck(_) => {}
            Packet::Connect(_) => return Err(Violation::SecondConnect),
            Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => return Err(Violation::QosTwo),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                return Err(Violation::WrongDirection(packet.packet_type()));
            }
        }
        Ok(())
    }

    fn registering_subscribe(&self, registering: &mut Registering, subscribe: &Subscribe<'_>) -> Result<(), Violation> {
        let mut codes: SmallVec<[u8; MAX_FILTERS]> = SmallVec::new();
        for filter in subscribe.filters.iter() {
            if codes.len() == MAX_FILTERS {
                return Err(Violation::TooManyFilters);
            }
            codes.push(match filter.filter == REPLY_FILTER {
                true => {
                    registering.replies = Some(filter.qos.granted());
                    filter.qos.granted() as u8
                }
                false => SUBACK_FAILURE,
            });
        }
        let mut ack = Vec::with_capacity(codes.len() + 5);
        // The codes are bounded, so that encoding them cannot fail.
        let _ = codec::suback(&mut ack, subscribe.packet_id, &codes);
        self.transport.write(&ack);
        Ok(())
    }

    fn registering_request(
        self: &Rc<Self>,
        registering: &mut Registering,
        publish: &Publish<'_>,
    ) -> Result<(), Violation> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(Violation::QosTwo);
        }
        let request = ProvisioningRequest::parse(publish.topic)?;
        if let Some(packet_id) = publish.packet_id {
            self.transport.write(&codec::puback(packet_id));
        }
        let (service, connection) = (Arc::clone(&registering.service), Rc::clone(self));
        let (scope, id) = (registering.id_scope.clone(), registering.registration_id.clone());
        let (token, certificates) = (registering.token.clone(), registering.certificates.clone());
        let rid = request.rid().to_owned();
        let work = match request {
            ProvisioningRequest::Register { .. } => {
                let version = registering.api_version.as_deref();
                Work::Register(RegisterBody::parse(publish.payload, &id).map(|body| body.at_version(version)))
            }
            ProvisioningRequest::Status { operation_id, .. } => Work::Status(operation_id.to_owned()),
        };
        registering.request = Some(Box::pin(async move {
            let call = DeviceCall {
                id_scope: &scope,
                registration_id: &id,
                credential: Credential::new(token.as_deref(), certificates.as_ref()),
                protocol: connection.protocol,
                address: connection.transport.address(),
            };
            let outcome = match work {
                Work::Register(Ok(body)) => service.register(&call, &body).await,
                Work::Register(Err(error)) => Err(error),
                Work::Status(operation_id) => service.operation(&call, &operation_id).await,
            };
            match outcome {
                Ok(answer) => Reply {
                    topic: match answer.retry_after {
                        Some(after) => reply_topic(202, &rid, Some(after.as_secs())),
                        None => reply_topic(200, &rid, None),
                    },
                    body: answer.body.to_string(),
                    is_refused: false,
                },
                Err(mut error) => {
                    error.served().await;
                    connection.error_reply(&rid, &error)
                }
            }
        }));
        Ok(())
    }

    fn error_reply(&self, rid: &str, error: &ProvisioningError) -> Reply {
        let tracking_id = format!("{:032x}", rand::random::<u128>());
        let body = error_body(error.code, &error.text, &tracking_id, self.front.core.clock().now());
        Reply {
            topic: reply_topic(error.status(), rid, error.retry_after.map(|after| after.as_secs())),
            body: body.to_string(),
            is_refused: error.reason.is_some(),
        }
    }

    /// Sends the reply of the request in progress; ready when there is none.
    pub(super) fn poll_registering(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<()> {
        let Some(registering) = &mut state.registering else {
            return Poll::Ready(());
        };
        if let Some(request) = &mut registering.request {
            let reply = ready!(request.as_mut().poll(cx));
            registering.request = None;
            self.send_reply(registering, &reply);
            self.transport.resume();
        }
        if state.draining {
            self.end_if_drained(state);
        }
        Poll::Ready(())
    }

    fn send_reply(&self, registering: &mut Registering, reply: &Reply) {
        let now_ms = self.transport.now_ms();
        registering.touched(now_ms);
        if let Some(qos) = registering.replies {
            let publish = Publish {
                topic: &reply.topic,
                payload: reply.body.as_bytes(),
                qos,
                packet_id: (qos != QoS::AtMostOnce).then(|| registering.packet_id()),
                dup: false,
                retain: false,
            };
            let mut packet = Vec::with_capacity(reply.topic.len() + reply.body.len() + 16);
            match codec::publish(&mut packet, &publish) {
                Ok(()) => self.transport.write(&packet),
                // A reply fits into a packet.
                Err(_) => self.transport.end(DisconnectReason::Hub(CloseReason::Unavailable)),
            }
        }
        if reply.is_refused {
            registering.is_idle_deadline = false;
            registering.deadline_ms = now_ms + REFUSED_LINGER_MS;
            self.transport.check_earlier(registering.deadline_ms);
        }
    }
}

/// A request, taken out of its packet.
enum Work {
    Register(Result<RegisterBody, ProvisioningError>),
    Status(String),
}
