//! Encoders of both roles.
//!
//! Lengths are computed first, so each packet is written in one pass. The small answers of the hub are arrays.

use bytes::BufMut;
use thiserror::Error;

use super::connect::{LEVEL, flags as connect_flags};
use super::{Connect, Packet, PacketId, PacketType, Publish, QoS};

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

/// The four bytes of a PUBACK.
#[must_use]
pub const fn puback(packet_id: PacketId) -> [u8; 4] {
    acknowledgement(0x40, packet_id)
}

/// The four bytes of a CONNACK: `code` 0 = accepted, 1 version, 3 unavailable, 5 not authorised (Spec §2.4).
#[must_use]
pub const fn connack(session_present: bool, code: u8) -> [u8; 4] {
    // A refusal never announces a session.
    [0x20, 2, (session_present && code == 0) as u8, code]
}

/// The four bytes of an UNSUBACK.
#[must_use]
pub const fn unsuback(packet_id: PacketId) -> [u8; 4] {
    acknowledgement(0xb0, packet_id)
}

/// A packet that consists of its packet id.
const fn acknowledgement(first: u8, packet_id: PacketId) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [first, 2, high, low]
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

/// Appends a SUBACK with one code per filter, in the order of the SUBSCRIBE.
pub fn suback<B: BufMut>(out: &mut B, packet_id: PacketId, codes: &[u8]) -> Result<(), EncodeError> {
    fixed_header(out, 0x90, 2 + codes.len())?;
    out.put_u16(packet_id);
    out.put_slice(codes);
    Ok(())
}

/// Appends a SUBSCRIBE.
///
/// # Errors
/// A filter is longer than 65,535 bytes, or all together exceed a packet.
pub fn subscribe<B: BufMut>(out: &mut B, packet_id: PacketId, filters: &[(&str, QoS)]) -> Result<(), EncodeError> {
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

/// Appends an UNSUBSCRIBE.
///
/// # Errors
/// As [`subscribe`].
pub fn unsubscribe<B: BufMut>(out: &mut B, packet_id: PacketId, filters: &[&str]) -> Result<(), EncodeError> {
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
pub fn publish<B: BufMut>(out: &mut B, packet: &Publish<'_>) -> Result<(), EncodeError> {
    match (packet.qos, packet.packet_id) {
        (QoS::AtMostOnce, None) | (QoS::AtLeastOnce | QoS::ExactlyOnce, Some(1..)) => {}
        _ => return Err(EncodeError::PacketId),
    }
    let id_len = if packet.packet_id.is_some() { 2 } else { 0 };
    let remaining = 2 + packet.topic.len() + id_len + packet.payload.len();
    let first = 0x30 | u8::from(packet.dup) << 3 | (packet.qos as u8) << 1 | u8::from(packet.retain);
    fixed_header(out, first, remaining)?;
    field(out, packet.topic.as_bytes())?;
    if let Some(id) = packet.packet_id {
        out.put_u16(id);
    }
    out.put_slice(packet.payload);
    Ok(())
}

/// Appends any packet.
///
/// # Errors
/// A field or the packet is too long for MQTT. On an error `out` may hold a part of the packet.
pub fn encode<B: BufMut>(out: &mut B, packet: &Packet<'_>) -> Result<(), EncodeError> {
    match packet {
        Packet::Connect(packet) => return connect(out, packet),
        Packet::ConnAck(packet) => out.put_slice(&connack(packet.session_present, packet.code)),
        Packet::Publish(packet) => return publish(out, packet),
        Packet::PubAck(id) => out.put_slice(&puback(*id)),
        Packet::PubRec(id) => out.put_slice(&acknowledgement(0x50, *id)),
        Packet::PubRel(id) => out.put_slice(&acknowledgement(0x62, *id)),
        Packet::PubComp(id) => out.put_slice(&acknowledgement(0x70, *id)),
        Packet::Subscribe(packet) => return list(out, 0x82, packet.packet_id, packet.filters.raw()),
        Packet::SubAck(packet) => return suback(out, packet.packet_id, packet.codes),
        Packet::Unsubscribe(packet) => return list(out, 0xa2, packet.packet_id, packet.filters.raw()),
        Packet::UnsubAck(id) => out.put_slice(&unsuback(*id)),
        Packet::PingReq => out.put_slice(&pingreq()),
        Packet::PingResp => out.put_slice(&pingresp()),
        Packet::Disconnect => out.put_slice(&[0xe0, 0]),
    }
    Ok(())
}

fn connect<B: BufMut>(out: &mut B, packet: &Connect<'_>) -> Result<(), EncodeError> {
    let mut remaining = 10 + 2 + packet.client_id.len();
    if let Some(will) = &packet.will {
        remaining += 4 + will.topic.len() + will.payload.len();
    }
    remaining += packet.username.map_or(0, |text| 2 + text.len());
    remaining += packet.password.map_or(0, |bytes| 2 + bytes.len());
    fixed_header(out, (PacketType::Connect as u8) << 4, remaining)?;
    field(out, b"MQTT")?;
    out.put_u8(LEVEL);
    out.put_u8(connect_flags(packet));
    out.put_u16(packet.keep_alive);
    field(out, packet.client_id.as_bytes())?;
    if let Some(will) = &packet.will {
        field(out, will.topic.as_bytes())?;
        field(out, will.payload)?;
    }
    if let Some(username) = packet.username {
        field(out, username.as_bytes())?;
    }
    if let Some(password) = packet.password {
        field(out, password)?;
    }
    Ok(())
}

fn list<B: BufMut>(out: &mut B, first: u8, packet_id: PacketId, items: &[u8]) -> Result<(), EncodeError> {
    fixed_header(out, first, 2 + items.len())?;
    out.put_u16(packet_id);
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
