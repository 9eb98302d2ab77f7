//! Encoders of both roles.
//!
//! Lengths are computed first, so each packet is written in one pass. The small answers of the hub are arrays.

use bytes::BufMut;
use thiserror::Error;

use super::connect::flags as connect_flags;
use super::{Ack, Connect, Packet, PacketType, Properties, Publish, QoS, Version};

/// A packet that MQTT cannot carry: only our own mistake makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A text or binary field longer than 65,535 bytes.
    #[error("a field has {0} bytes; MQTT allows 65535")]
    FieldTooLong(usize),
    /// A packet longer than 268,435,455 bytes.
    #[error("a packet has {0} bytes; MQTT allows 268435455")]
    PacketTooLong(usize),
    /// A packet id is missing, zero or too many.
    #[error("the packet id does not fit the QoS")]
    PacketId,
}

/// The four bytes of a PUBACK (3.1.1, or 5 with success).
#[must_use]
pub const fn puback(packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [0x40, 2, high, low]
}

/// The four bytes of a 3.1.1 CONNACK: `code` 0 = accepted, 1 version, 3 unavailable, 5 not authorised (Spec §2.4).
#[must_use]
pub const fn connack(session_present: bool, code: u8) -> [u8; 4] {
    // A refusal never announces a session.
    [0x20, 2, (session_present && code == 0) as u8, code]
}

/// The four bytes of a 3.1.1 UNSUBACK.
#[must_use]
pub const fn unsuback(packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [0xb0, 2, high, low]
}

/// The two bytes of a PINGREQ.
#[must_use]
pub const fn pingreq() -> [u8; 2] {
    [0xc0, 0]
}

/// The two bytes of a PINGRESP.
#[must_use]
pub const fn pingresp() -> [u8; 2] {
    [0xd0, 0]
}

/// Appends a 3.1.1 SUBACK with one code per filter, in the order of the SUBSCRIBE.
pub fn suback<B: BufMut>(out: &mut B, packet_id: u16, codes: &[u8]) -> Result<(), EncodeError> {
    fixed_header(out, 0x90, 2 + codes.len())?;
    out.put_u16(packet_id);
    out.put_slice(codes);
    Ok(())
}

/// Appends a 3.1.1 SUBSCRIBE.
///
/// # Errors
/// A filter is longer than 65,535 bytes, or all together exceed a packet.
pub fn subscribe<B: BufMut>(out: &mut B, packet_id: u16, filters: &[(&str, QoS)]) -> Result<(), EncodeError> {
    fixed_header(
        out,
        0x82,
        2 + filters.iter().map(|(filter, _)| 3 + filter.len()).sum::<usize>(),
    )?;
    out.put_u16(packet_id);
    for (filter, qos) in filters {
        field(out, filter.as_bytes())?;
        out.put_u8(*qos as u8);
    }
    Ok(())
}

/// Appends a 3.1.1 UNSUBSCRIBE.
///
/// # Errors
/// As [`subscribe`].
pub fn unsubscribe<B: BufMut>(out: &mut B, packet_id: u16, filters: &[&str]) -> Result<(), EncodeError> {
    fixed_header(
        out,
        0xa2,
        2 + filters.iter().map(|filter| 2 + filter.len()).sum::<usize>(),
    )?;
    out.put_u16(packet_id);
    for filter in filters {
        field(out, filter.as_bytes())?;
    }
    Ok(())
}

/// Appends a PUBLISH.
///
/// # Errors
/// The topic is too long, or the packet id does not fit the QoS. On an error `out` may hold a part of the packet.
#[inline]
pub fn publish<B: BufMut>(out: &mut B, packet: &Publish<'_>, version: Version) -> Result<(), EncodeError> {
    match (packet.qos, packet.packet_id) {
        (QoS::AtMostOnce, None) | (QoS::AtLeastOnce | QoS::ExactlyOnce, Some(1..)) => {}
        _ => return Err(EncodeError::PacketId),
    }
    let id_len = if packet.packet_id.is_some() { 2 } else { 0 };
    let remaining = 2 + packet.topic.len() + id_len + properties_len(packet.properties, version) + packet.payload.len();
    let first = 0x30 | u8::from(packet.dup) << 3 | (packet.qos as u8) << 1 | u8::from(packet.retain);
    fixed_header(out, first, remaining)?;
    field(out, packet.topic.as_bytes())?;
    if let Some(id) = packet.packet_id {
        out.put_u16(id);
    }
    properties(out, packet.properties, version)?;
    out.put_slice(packet.payload);
    Ok(())
}

/// Appends any packet.
///
/// # Errors
/// A field or the packet is too long for MQTT. On an error `out` may hold a part of the packet.
pub fn encode<B: BufMut>(out: &mut B, packet: &Packet<'_>, version: Version) -> Result<(), EncodeError> {
    match packet {
        Packet::Connect(connect) => encode_connect(out, connect),
        Packet::ConnAck(ack) => {
            fixed_header(out, 0x20, 2 + properties_len(ack.properties, version))?;
            out.put_u8(u8::from(ack.session_present));
            out.put_u8(ack.code);
            properties(out, ack.properties, version)
        }
        Packet::Publish(packet) => publish(out, packet, version),
        Packet::PubAck(ack) => encode_ack(out, 0x40, ack, version),
        Packet::PubRec(ack) => encode_ack(out, 0x50, ack, version),
        Packet::PubRel(ack) => encode_ack(out, 0x62, ack, version),
        Packet::PubComp(ack) => encode_ack(out, 0x70, ack, version),
        Packet::Subscribe(packet) => list(
            out,
            0x82,
            packet.packet_id,
            packet.properties,
            packet.filters.raw(),
            version,
        ),
        Packet::SubAck(packet) => list(out, 0x90, packet.packet_id, packet.properties, packet.codes, version),
        Packet::Unsubscribe(packet) => list(
            out,
            0xa2,
            packet.packet_id,
            packet.properties,
            packet.filters.raw(),
            version,
        ),
        Packet::UnsubAck(packet) => list(out, 0xb0, packet.packet_id, packet.properties, packet.codes, version),
        Packet::PingReq => {
            out.put_slice(&pingreq());
            Ok(())
        }
        Packet::PingResp => {
            out.put_slice(&pingresp());
            Ok(())
        }
        Packet::Disconnect(packet) => reason(out, 0xe0, None, packet.reason, packet.properties, version),
        Packet::Auth(packet) => reason(out, 0xf0, None, packet.reason, packet.properties, Version::V5),
    }
}

fn encode_connect<B: BufMut>(out: &mut B, connect: &Connect<'_>) -> Result<(), EncodeError> {
    let version = connect.version;
    let mut remaining = 10 + properties_len(connect.properties, version) + 2 + connect.client_id.len();
    if let Some(will) = &connect.will {
        remaining += properties_len(will.properties, version) + 4 + will.topic.len() + will.payload.len();
    }
    remaining += connect.username.map_or(0, |text| 2 + text.len());
    remaining += connect.password.map_or(0, |bytes| 2 + bytes.len());
    fixed_header(out, (PacketType::Connect as u8) << 4, remaining)?;
    field(out, b"MQTT")?;
    out.put_u8(version.level());
    out.put_u8(connect_flags(connect));
    out.put_u16(connect.keep_alive);
    properties(out, connect.properties, version)?;
    field(out, connect.client_id.as_bytes())?;
    if let Some(will) = &connect.will {
        properties(out, will.properties, version)?;
        field(out, will.topic.as_bytes())?;
        field(out, will.payload)?;
    }
    if let Some(username) = connect.username {
        field(out, username.as_bytes())?;
    }
    if let Some(password) = connect.password {
        field(out, password)?;
    }
    Ok(())
}

fn encode_ack<B: BufMut>(out: &mut B, first: u8, ack: &Ack<'_>, version: Version) -> Result<(), EncodeError> {
    reason(out, first, Some(ack.packet_id), ack.reason, ack.properties, version)
}

/// Packet id, reason and properties, the last two left out where they say nothing.
fn reason<B: BufMut>(
    out: &mut B,
    first: u8,
    packet_id: Option<u16>,
    reason: u8,
    block: Properties<'_>,
    version: Version,
) -> Result<(), EncodeError> {
    let id_len = if packet_id.is_some() { 2 } else { 0 };
    let (has_reason, has_block) = match version {
        Version::V311 => (false, false),
        Version::V5 => (reason != 0 || !block.is_empty(), !block.is_empty()),
    };
    let block_len = if has_block { properties_len(block, version) } else { 0 };
    fixed_header(out, first, id_len + usize::from(has_reason) + block_len)?;
    if let Some(id) = packet_id {
        out.put_u16(id);
    }
    if has_reason {
        out.put_u8(reason);
    }
    if has_block {
        properties(out, block, version)?;
    }
    Ok(())
}

fn list<B: BufMut>(
    out: &mut B,
    first: u8,
    packet_id: u16,
    block: Properties<'_>,
    items: &[u8],
    version: Version,
) -> Result<(), EncodeError> {
    fixed_header(out, first, 2 + properties_len(block, version) + items.len())?;
    out.put_u16(packet_id);
    properties(out, block, version)?;
    out.put_slice(items);
    Ok(())
}

/// The largest number that a variable byte integer holds.
const MAX_VARIABLE: usize = 268_435_455;

pub(super) fn fixed_header<B: BufMut>(out: &mut B, first: u8, remaining: usize) -> Result<(), EncodeError> {
    let length = match u32::try_from(remaining) {
        Ok(length) if remaining <= MAX_VARIABLE => length,
        _ => return Err(EncodeError::PacketTooLong(remaining)),
    };
    out.put_u8(first);
    variable(out, length);
    Ok(())
}

pub(super) fn variable<B: BufMut>(out: &mut B, mut value: u32) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

fn field<B: BufMut>(out: &mut B, bytes: &[u8]) -> Result<(), EncodeError> {
    let length = u16::try_from(bytes.len()).map_err(|_| EncodeError::FieldTooLong(bytes.len()))?;
    out.put_u16(length);
    out.put_slice(bytes);
    Ok(())
}

fn properties_len(block: Properties<'_>, version: Version) -> usize {
    match version {
        Version::V311 => 0,
        Version::V5 => {
            let length = block.raw().len();
            let length_bytes = match length {
                0..=0x7f => 1,
                0x80..=0x3fff => 2,
                0x4000..=0x1f_ffff => 3,
                _ => 4,
            };
            length_bytes + length
        }
    }
}

fn properties<B: BufMut>(out: &mut B, block: Properties<'_>, version: Version) -> Result<(), EncodeError> {
    if version == Version::V311 {
        return Ok(());
    }
    let raw = block.raw();
    match u32::try_from(raw.len()) {
        Ok(length) if raw.len() <= MAX_VARIABLE => variable(out, length),
        _ => return Err(EncodeError::PacketTooLong(raw.len())),
    }
    out.put_slice(raw);
    Ok(())
}
