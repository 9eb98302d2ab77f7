//! CONNECT and CONNACK.

use super::reader::Reader;
use super::{PacketType, Properties, QoS, Version};
use crate::violation::Violation;

/// A client's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connect<'a> {
    /// 3.1.1 or 5; other levels are a [`Violation::ProtocolLevel`].
    pub version: Version,
    /// Clean session (3.1.1) or clean start (5).
    pub clean: bool,
    /// Seconds; 0 = no keep-alive asked.
    pub keep_alive: u16,
    /// MQTT 5 only, else empty.
    pub properties: Properties<'a>,
    /// May be empty.
    pub client_id: &'a str,
    /// What the server shall publish when the connection breaks.
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
    /// MQTT 5 only, else empty.
    pub properties: Properties<'a>,
}

/// The answer to a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnAck<'a> {
    /// The server kept a session of this client.
    pub session_present: bool,
    /// 0 = accepted; 3.1.1: 1–5; MQTT 5: a reason code.
    pub code: u8,
    /// MQTT 5 only, else empty.
    pub properties: Properties<'a>,
}

mod flag {
    pub(super) const RESERVED: u8 = 0x01;
    pub(super) const CLEAN: u8 = 0x02;
    pub(super) const WILL: u8 = 0x04;
    pub(super) const WILL_RETAIN: u8 = 0x20;
    pub(super) const PASSWORD: u8 = 0x40;
    pub(super) const USERNAME: u8 = 0x80;
}

pub(super) fn decode<'a>(reader: &mut Reader<'a>) -> Result<Connect<'a>, Violation> {
    let version = match (reader.binary()?, reader.byte()?) {
        (b"MQTT", 4) => Version::V311,
        (b"MQTT", 5) => Version::V5,
        // Level 3 is MQTT 3.1; the high bit marks the bridge mode of mosquitto and emqx.
        (b"MQTT" | b"MQIsdp", level) => {
            reader.take_rest();
            return Err(Violation::ProtocolLevel(level));
        }
        _ => return Err(Violation::ProtocolName),
    };
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
    if version == Version::V311 && has(flag::PASSWORD) && !has(flag::USERNAME) {
        return Err(Violation::PasswordWithoutUsername);
    }
    let keep_alive = reader.two_bytes()?;
    let properties = match version {
        Version::V311 => Properties::NONE,
        Version::V5 => Properties::decode(reader, PacketType::Connect)?,
    };
    let client_id = reader.text()?;
    let will = if has(flag::WILL) {
        Some(decode_will(reader, version, qos, has(flag::WILL_RETAIN))?)
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
        version,
        clean: has(flag::CLEAN),
        keep_alive,
        properties,
        client_id,
        will,
        username,
        password,
    })
}

fn decode_will<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    qos: QoS,
    retain: bool,
) -> Result<LastWill<'a>, Violation> {
    let properties = match version {
        Version::V311 => Properties::NONE,
        Version::V5 => Properties::decode_will(reader)?,
    };
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
        properties,
    })
}

pub(super) fn decode_connack<'a>(reader: &mut Reader<'a>, version: Version) -> Result<ConnAck<'a>, Violation> {
    let flags = reader.byte()?;
    let code = reader.byte()?;
    let (known, properties) = match version {
        Version::V311 => (code <= 5, Properties::NONE),
        Version::V5 => (
            known_connack_reason(code),
            Properties::decode(reader, PacketType::ConnAck)?,
        ),
    };
    if !known {
        return Err(Violation::ReasonCode(PacketType::ConnAck, code));
    }
    if flags > 1 || (flags == 1 && code != 0) {
        return Err(Violation::ConnAckFlags);
    }
    Ok(ConnAck {
        session_present: flags == 1,
        code,
        properties,
    })
}

fn known_connack_reason(code: u8) -> bool {
    matches!(code, 0 | 0x80..=0x8a | 0x8c | 0x90 | 0x95 | 0x97 | 0x99..=0x9d | 0x9f)
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
