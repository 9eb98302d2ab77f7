//! Packets of a packet id or a reason code: acknowledgements, DISCONNECT, AUTH.

use super::reader::Reader;
use super::{PacketType, Properties, Version};
use crate::violation::Violation;

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Never 0.
    pub packet_id: u16,
    /// MQTT 5 reason code; 0 (success) in 3.1.1, which has none.
    pub reason: u8,
    /// MQTT 5 only, else empty.
    pub properties: Properties<'a>,
}

impl Ack<'_> {
    /// A plain success.
    #[must_use]
    pub const fn new(packet_id: u16) -> Self {
        Self {
            packet_id,
            reason: 0,
            properties: Properties::NONE,
        }
    }
}

/// DISCONNECT; in 3.1.1 it has no content, and only clients send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disconnect<'a> {
    /// MQTT 5 reason code; 0 = normal.
    pub reason: u8,
    /// MQTT 5 only, else empty.
    pub properties: Properties<'a>,
}

/// AUTH, MQTT 5 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Auth<'a> {
    /// 0 success, 0x18 continue, 0x19 re-authenticate.
    pub reason: u8,
    /// Method and data.
    pub properties: Properties<'a>,
}

pub(super) fn decode_ack<'a>(
    packet_type: PacketType,
    reader: &mut Reader<'a>,
    version: Version,
) -> Result<Ack<'a>, Violation> {
    let packet_id = reader.packet_id()?;
    let (reason, properties) = reason_and_properties(packet_type, reader, version)?;
    Ok(Ack {
        packet_id,
        reason,
        properties,
    })
}

pub(super) fn decode_disconnect<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Disconnect<'a>, Violation> {
    let (reason, properties) = reason_and_properties(PacketType::Disconnect, reader, version)?;
    Ok(Disconnect { reason, properties })
}

pub(super) fn decode_auth<'a>(reader: &mut Reader<'a>) -> Result<Auth<'a>, Violation> {
    let (reason, properties) = reason_and_properties(PacketType::Auth, reader, Version::V5)?;
    Ok(Auth { reason, properties })
}

/// MQTT 5 lets both be left out from the end; 3.1.1 knows neither.
fn reason_and_properties<'a>(
    packet_type: PacketType,
    reader: &mut Reader<'a>,
    version: Version,
) -> Result<(u8, Properties<'a>), Violation> {
    if version == Version::V311 || reader.is_empty() {
        return Ok((0, Properties::NONE));
    }
    let reason = reader.byte()?;
    if !known_reason(packet_type, reason) {
        return Err(Violation::ReasonCode(packet_type, reason));
    }
    let properties = if reader.is_empty() {
        Properties::NONE
    } else {
        Properties::decode(reader, packet_type)?
    };
    Ok((reason, properties))
}

/// MQTT 5 §2.4: which reason codes the packet has.
fn known_reason(packet_type: PacketType, reason: u8) -> bool {
    match packet_type {
        PacketType::PubAck | PacketType::PubRec => {
            matches!(reason, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
        }
        PacketType::PubRel | PacketType::PubComp => matches!(reason, 0 | 0x92),
        PacketType::Auth => matches!(reason, 0 | 0x18 | 0x19),
        PacketType::Disconnect => {
            matches!(reason, 0 | 4 | 0x80..=0x83 | 0x87 | 0x89 | 0x8b | 0x8d..=0x90 | 0x93..=0xa2)
        }
        _ => false,
    }
}
