//! CONNECT and CONNACK.

use holdfast_model::{ErrorCode, MqttAnswer};

use super::reader::Reader;
use super::{PacketType, QoS};
use crate::violation::Violation;

/// A client's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connect<'a> {
    /// The session ends with the connection.
    pub clean: bool,
    /// Seconds; 0 = no keep-alive asked.
    pub keep_alive: u16,
    /// May be empty.
    pub client_id: &'a str,
    /// The message that the server publishes when the connection breaks.
    pub will: Option<LastWill<'a>>,
    /// The user name, if the flag is set.
    pub username: Option<&'a str>,
    /// The password, if the flag is set; any bytes.
    pub password: Option<&'a [u8]>,
}

/// The will inside a CONNECT, as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastWill<'a> {
    /// UTF-8 without NUL, not empty.
    pub topic: &'a str,
    /// May be empty; at most 65,535 bytes.
    pub payload: &'a [u8],
    /// 0–2 here; the hub takes 0 and 1.
    pub qos: QoS,
    /// Treated as the flag of a PUBLISH.
    pub retain: bool,
}

/// The answer to a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnAck {
    /// The server kept a session of this client.
    pub session_present: bool,
    /// 0 = accepted, else 1–5.
    pub code: u8,
}

/// CONNACK codes with which the hub refuses; 2 and 4 it never sends (Spec §2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ConnectCode {
    /// The api-version or protocol version is not supported.
    Version = 1,
    /// Not now: failover, overload, draining. Clients retry.
    Unavailable = 3,
    /// The credential is refused for certain: several SDKs never retry.
    NotAuthorized = 5,
}

impl ConnectCode {
    /// The code that answers a CONNECT refused with `error`, by the catalogue's table. An error without an answer of
    /// its own at CONNECT must not look final.
    #[must_use]
    pub fn for_error(error: ErrorCode) -> Self {
        match error.mqtt() {
            MqttAnswer::RefuseVersion => Self::Version,
            MqttAnswer::NotAuthorized => Self::NotAuthorized,
            MqttAnswer::Unavailable
            | MqttAnswer::Close
            | MqttAnswer::Throttle
            | MqttAnswer::Status
            | MqttAnswer::Never => Self::Unavailable,
        }
    }

    const fn packet(self) -> &'static [u8] {
        match self {
            Self::Version => &[0x20, 2, 0, 1],
            Self::Unavailable => &[0x20, 2, 0, 3],
            Self::NotAuthorized => &[0x20, 2, 0, 5],
        }
    }
}

/// The bytes to send before the connection is closed because of `violation`: a CONNACK, or none. Only a CONNECT is
/// ever answered with a refusal (Spec §2.4).
#[must_use]
pub fn refusal(violation: Violation) -> &'static [u8] {
    match violation {
        // In the client's own version: reason 0x84 and no properties.
        Violation::Mqtt5Disabled => &[0x20, 3, 0, 0x84, 0],
        Violation::ProtocolLevel(_) | Violation::Login(_) => ConnectCode::for_error(violation.code()).packet(),
        _ => &[],
    }
}

/// The protocol level of MQTT 3.1.1.
pub(super) const LEVEL: u8 = 4;

mod flag {
    pub(super) const RESERVED: u8 = 0x01;
    pub(super) const CLEAN: u8 = 0x02;
    pub(super) const WILL: u8 = 0x04;
    pub(super) const WILL_RETAIN: u8 = 0x20;
    pub(super) const PASSWORD: u8 = 0x40;
    pub(super) const USERNAME: u8 = 0x80;
}

pub(super) fn decode<'a>(reader: &mut Reader<'a>) -> Result<Connect<'a>, Violation> {
    match (reader.binary()?, reader.byte()?) {
        (b"MQTT", LEVEL) => {}
        (b"MQTT", 5) => return Err(Violation::Mqtt5Disabled),
        // Level 3 is MQTT 3.1; the high bit marks the bridge mode of mosquitto and emqx.
        (b"MQTT" | b"MQIsdp", level) => return Err(Violation::ProtocolLevel(level)),
        _ => return Err(Violation::ProtocolName),
    }
    let flags = reader.byte()?;
    let has = |bit: u8| flags & bit != 0;
    if has(flag::RESERVED) {
        return Err(Violation::ConnectFlags);
    }
    let will_qos = (flags >> 3) & 0b11;
    if !has(flag::WILL) && (will_qos != 0 || has(flag::WILL_RETAIN)) {
        return Err(Violation::WillFlags);
    }
    let qos = QoS::from_bits(will_qos).ok_or(Violation::WillQos(will_qos))?;
    if has(flag::PASSWORD) && !has(flag::USERNAME) {
        return Err(Violation::PasswordWithoutUsername);
    }
    let keep_alive = reader.two_bytes()?;
    let client_id = reader.text()?;
    let will = if has(flag::WILL) {
        Some(decode_will(reader, qos, has(flag::WILL_RETAIN))?)
    } else {
        None
    };
    let username = if has(flag::USERNAME) {
        Some(reader.text()?)
    } else {
        None
    };
    let password = if has(flag::PASSWORD) {
        Some(reader.binary()?)
    } else {
        None
    };
    Ok(Connect {
        clean: has(flag::CLEAN),
        keep_alive,
        client_id,
        will,
        username,
        password,
    })
}

fn decode_will<'a>(reader: &mut Reader<'a>, qos: QoS, retain: bool) -> Result<LastWill<'a>, Violation> {
    let topic = reader.text()?;
    if topic.is_empty() {
        return Err(Violation::EmptyTopic);
    }
    let payload = reader.binary()?;
    Ok(LastWill {
        topic,
        payload,
        qos,
        retain,
    })
}

pub(super) fn decode_connack(reader: &mut Reader<'_>) -> Result<ConnAck, Violation> {
    let flags = reader.byte()?;
    let code = reader.byte()?;
    if code > 5 {
        return Err(Violation::ReasonCode(PacketType::ConnAck, code));
    }
    if flags > 1 || (flags == 1 && code != 0) {
        return Err(Violation::ConnAckFlags);
    }
    Ok(ConnAck {
        session_present: flags == 1,
        code,
    })
}

/// The connect flags of `connect`, for the encoder.
pub(super) fn flags(connect: &Connect<'_>) -> u8 {
    let mut flags = 0;
    if connect.clean {
        flags |= flag::CLEAN;
    }
    if let Some(will) = &connect.will {
        flags |= flag::WILL | (will.qos as u8) << 3;
        if will.retain {
            flags |= flag::WILL_RETAIN;
        }
    }
    if connect.username.is_some() {
        flags |= flag::USERNAME;
    }
    if connect.password.is_some() {
        flags |= flag::PASSWORD;
    }
    flags
}
