//! The fixed header: type, flags and length, judged before the rest of the packet is there.

use super::{Limits, PacketType, Sender};
use crate::violation::Violation;

/// A fixed header that passed all checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The packet's type.
    pub packet_type: PacketType,
    /// The low four bits of the first byte.
    pub flags: u8,
    /// Bytes after the fixed header.
    pub remaining: u32,
    /// Bytes of the length field itself: 1–4.
    length_bytes: u8,
}

impl Header {
    /// Bytes of the fixed header: 2–5.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        1 + self.length_bytes as usize
    }

    /// Bytes of the whole packet.
    #[must_use]
    pub const fn packet_len(&self) -> usize {
        self.header_len() + self.remaining as usize
    }
}

/// Decodes and judges a fixed header; `None` while its last byte is missing.
///
/// A driver that got `None` from [`super::decode`] learns here how much to read, and that it may: the size is within
/// the limit.
///
/// # Errors
/// Type, flags or direction (on the first byte), length encoding or size (on the last one).
#[inline]
pub fn header(input: &[u8], limits: &Limits) -> Result<Option<Header>, Violation> {
    let Some((&first, rest)) = input.split_first() else {
        return Ok(None);
    };
    let packet_type = check_first_byte(first, limits)?;
    // Nearly all packets have one or two length bytes.
    let (remaining, length_bytes) = match rest {
        [] => return Ok(None),
        [low, ..] if *low < 0x80 => (u32::from(*low), 1),
        [low, high, ..] if *high < 0x80 => (u32::from(*low & 0x7f) | u32::from(*high) << 7, 2),
        _ => match long_length(rest)? {
            Some(found) => found,
            None => return Ok(None),
        },
    };
    if remaining > limits.max_remaining_length {
        return Err(Violation::PacketTooLarge {
            remaining,
            limit: limits.max_remaining_length,
        });
    }
    Ok(Some(Header {
        packet_type,
        flags: first & 0x0f,
        remaining,
        length_bytes,
    }))
}

#[cold]
fn long_length(bytes: &[u8]) -> Result<Option<(u32, u8)>, Violation> {
    let mut value = 0;
    for (length_bytes, &byte) in (1u8..=4).zip(bytes) {
        value |= u32::from(byte & 0x7f) << (7 * (length_bytes - 1));
        if byte & 0x80 == 0 {
            return Ok(Some((value, length_bytes)));
        }
    }
    if bytes.len() >= 4 {
        Err(Violation::RemainingLength)
    } else {
        Ok(None)
    }
}

#[inline]
fn check_first_byte(first: u8, limits: &Limits) -> Result<PacketType, Violation> {
    // Nearly every packet is a PUBLISH after CONNECT.
    if first >> 4 == PacketType::Publish as u8 && limits.sender != Sender::NewClient {
        return match first & 0x0f {
            flags if flags & 0b0110 == 0b0110 => Err(Violation::PublishQos),
            flags if flags & 0b1110 == 0b1000 => Err(Violation::PublishDup),
            _ => Ok(PacketType::Publish),
        };
    }
    check_other(first, limits)
}

fn check_other(first: u8, limits: &Limits) -> Result<PacketType, Violation> {
    let number = first >> 4;
    let packet_type = PacketType::from_number(number).ok_or(Violation::UnknownPacketType(number))?;
    check_direction(packet_type, limits.sender)?;
    match packet_type.required_flags() {
        Some(required) if required != first & 0x0f => Err(Violation::HeaderFlags(packet_type)),
        _ => Ok(packet_type),
    }
}

fn check_direction(packet_type: PacketType, sender: Sender) -> Result<(), Violation> {
    use PacketType::{ConnAck, Connect, Disconnect, PingReq, PingResp, SubAck, Subscribe, UnsubAck, Unsubscribe};
    use PacketType::{PubAck, PubComp, PubRec, PubRel, Publish};
    match (sender, packet_type) {
        (Sender::NewClient, Connect)
        | (Sender::Client | Sender::Server, Publish | PubAck | PubRec | PubRel | PubComp)
        | (Sender::Client, Subscribe | Unsubscribe | PingReq | Disconnect)
        | (Sender::Server, ConnAck | SubAck | UnsubAck | PingResp) => Ok(()),
        (Sender::NewClient, _) => Err(Violation::FirstPacketNotConnect),
        (Sender::Client, Connect) => Err(Violation::SecondConnect),
        (Sender::Client, ConnAck | SubAck | UnsubAck | PingResp)
        | (Sender::Server, Connect | Subscribe | Unsubscribe | PingReq | Disconnect) => {
            Err(Violation::WrongDirection(packet_type))
        }
    }
}
