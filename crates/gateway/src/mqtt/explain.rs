//! The explanation of a connection that the hub ended, for the audit log and `holdfast device diagnose`.
//!
//! Why: a client that breaks a rule connects, is cut off and connects again; over MQTT 3.1.1 it never learns the cause.
//! The operator reads here the packet or topic, the rule, and the section of the specification.
//! Invariant: text of the peer is escaped and cut; it never contains a password or a payload.

use std::fmt::Write as _;
use std::time::Duration;

use holdfast_device_hub::CloseReason;
use holdfast_model::{ErrorCode, limits::MQTT_CONNECT_DEADLINE};
use holdfast_mqtt::codec::{Limits, Packet, decode};
use holdfast_mqtt::{PacketType, topic};
use holdfast_net::connection::TransportEnd;

use super::connection::{Connection, State};
use super::disconnect::DisconnectReason;

/// Longest part of a topic that is shown, in bytes.
const MAX_TOPIC_BYTES: usize = 200;

/// The packet that broke a rule.
pub(super) struct Offence {
    /// Its type, and its topic where it has one.
    pub(super) packet: Box<str>,
    /// The client id of a CONNECT; the identity of any other packet is known.
    pub(super) client_id: Box<str>,
}

impl Offence {
    /// The packet at the start of `bytes`, which may be malformed.
    pub(super) fn new(bytes: &[u8], limits: &Limits, machine: &holdfast_mqtt::Connection) -> Self {
        let Ok(Some((packet, _))) = decode(bytes, limits) else {
            let packet_type = bytes.first().and_then(|first| PacketType::from_number(first >> 4));
            return Self {
                packet: packet_type.map_or("malformed packet", PacketType::name).into(),
                client_id: Box::default(),
            };
        };
        let mut client_id = Box::default();
        let name = packet.packet_type().name();
        let text = match packet {
            Packet::Publish(publish) => format!("{name} to \"{}\"", shown(publish.topic)),
            Packet::Subscribe(subscribe) => {
                let is_foreign = |filter: &&str| {
                    let identity = machine.identity();
                    identity.is_some_and(|identity| topic::channels(identity, filter).is_err())
                };
                let foreign = subscribe.filters.iter().map(|item| item.filter).find(is_foreign);
                foreign.map_or_else(|| name.to_owned(), |filter| format!("{name} to \"{}\"", shown(filter)))
            }
            Packet::Connect(connect) => {
                client_id = connect.client_id.into();
                match &connect.will {
                    Some(will) => format!("{name} with a will for \"{}\"", shown(will.topic)),
                    None => name.to_owned(),
                }
            }
            _ => name.to_owned(),
        };
        Self {
            packet: text.into(),
            client_id,
        }
    }
}

pub(super) fn shown(topic: &str) -> String {
    let cut = topic.floor_char_boundary(MAX_TOPIC_BYTES);
    let (start, rest) = topic.split_at(cut);
    let mut shown = start.escape_debug().to_string();
    if !rest.is_empty() {
        shown.push('…');
    }
    shown
}

impl Connection {
    /// Why the connection ended, in one sentence.
    pub(super) fn explanation(&self, state: &State, end: DisconnectReason) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = match end {
            DisconnectReason::Violation(violation) => {
                let packet = state.offence.as_ref().map_or("packet", |offence| &*offence.packet);
                write!(text, "{packet}: {violation} ({})", violation.section())
            }
            DisconnectReason::ConnectTimeout => write!(
                text,
                "no complete CONNECT within {} s (device-mqtt §1)",
                self.front.config.connect_timeout.min(MQTT_CONNECT_DEADLINE).as_secs()
            ),
            DisconnectReason::KeepAlive => write!(
                text,
                "no packet for {} s, which is 1.5 times the keep-alive of the CONNECT or the hub's maximum (device-mqtt §3.3)",
                Duration::from_millis(u64::from(state.machine.silence_ms())).as_secs_f32()
            ),
            DisconnectReason::Hub(CloseReason::TakenOver) => {
                write!(
                    text,
                    "another connection of the same identity took its place (device-mqtt §3.2)"
                )
            }
            DisconnectReason::Hub(CloseReason::TokenExpired) => {
                write!(text, "the token of the connection expired (device-mqtt §3.4)")
            }
            DisconnectReason::Hub(CloseReason::CertificateExpired) => write!(
                text,
                "the certificate of the connection, or one of its issuers, has ended, and the grace is over (auth-and-limits §3)"
            ),
            DisconnectReason::Hub(CloseReason::Revoked) => write!(
                text,
                "the identity was deleted, disabled or given other keys or thumbprints, or its CA was removed (auth-and-limits §6.1)"
            ),
            DisconnectReason::Hub(CloseReason::CertificateRevoked) => write!(
                text,
                "a certificate of the connection's chain is on the deny list or on the CRL of its CA (auth-and-limits §3)"
            ),
            DisconnectReason::Hub(CloseReason::Unavailable) => write!(
                text,
                "a message could not be committed, or the node has lost contact with the registry"
            ),
            DisconnectReason::Throttled(ErrorCode::IotHubQuotaExceeded) => write!(
                text,
                "the hub's daily quota of messages is used up (throttles.daily_messages); it begins anew at 00:00 UTC (device-mqtt §10.3)"
            ),
            DisconnectReason::Throttled(code) => write!(
                text,
                "the client sent more than a rate of section [throttles] allows, for longer than throttles.max_wait: {} (device-mqtt §10.3)",
                code.meaning()
            ),
            DisconnectReason::Transport(TransportEnd::BrokenTls) => {
                write!(text, "the client broke TLS, or does not speak it on a TLS port")
            }
            DisconnectReason::Transport(TransportEnd::OutputOverflow) => write!(
                text,
                "the client did not read {} bytes that the hub had sent",
                self.front.config.max_output
            ),
            DisconnectReason::Transport(TransportEnd::Evicted) => write!(
                text,
                "more than {} connections of a core had not authenticated, and this one had waited longest",
                self.front.config.max_unauthenticated
            ),
            end => write!(text, "{}", end.label()),
        };
        text
    }
}
