//! MQTT control packets, decoded without copying and encoded in one pass.
//!
//! Why: the packet is the unit in which hostile bytes arrive; each is checked completely before it is used,
//! and an oversized or misplaced one is refused on its fixed header, before it is buffered.
//! Wire facts: OASIS MQTT 3.1.1; Spec device-mqtt §2.1, §5.3, §10.1.
//! Invariants: no input panics; decoding allocates nothing; every strict prefix of a valid packet is `None`;
//! `decode(encode(p)) == p`. The direction is a parameter: the hub decodes a client's packets, `holdfast device simulate`
//! a server's.
//! Deliberately tolerated: a remaining length with padding bytes (old embedded clients reserve four); `+` and `#` in a
//! PUBLISH topic, which only [`crate::topic`] can judge, because device ids and raw property bags may contain them.
//! Not here: the meaning of a topic ([`crate::topic`]), the order of packets ([`crate::connection`]).

mod connect;
mod encode;
mod header;
mod packet;
mod publish;
mod reader;
mod subscribe;

pub use crate::packet_type::PacketType;
pub use connect::{ConnAck, Connect, ConnectCode, LastWill, refusal};
pub use encode::{
    EncodeError, connack, encode, pingreq, pingresp, puback, publish, suback, subscribe, unsuback, unsubscribe,
};
pub use header::{Header, header};
pub use packet::{Packet, PacketId, QoS};
pub use publish::Publish;
pub use subscribe::{Filter, Filters, ReasonCodes, SubAck, Subscribe, TextList, Unsubscribe};

use crate::limits::{MAX_CONNECT_REMAINING_LENGTH, MAX_REMAINING_LENGTH};
use crate::violation::Violation;
use reader::Reader;

/// The sender of the decoded packets: a packet of the other side, or at the wrong time, is refused on its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A client before its CONNECT: only a CONNECT is allowed.
    NewClient,
    /// A client after its CONNECT.
    Client,
    /// A server.
    Server,
}

/// The packets that [`decode`] accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The sender of the bytes.
    pub sender: Sender,
    /// The largest Remaining Length, bytes.
    pub max_remaining_length: u32,
}

impl Limits {
    /// For the first packet of a client.
    pub const NEW_CLIENT: Self = Self {
        sender: Sender::NewClient,
        max_remaining_length: MAX_CONNECT_REMAINING_LENGTH,
    };

    /// For the packets of a client after its CONNECT.
    pub const CLIENT: Self = Self {
        sender: Sender::Client,
        max_remaining_length: MAX_REMAINING_LENGTH,
    };

    /// For the packets of a server.
    pub const SERVER: Self = Self {
        sender: Sender::Server,
        max_remaining_length: MAX_REMAINING_LENGTH,
    };
}

/// Decodes the first packet of `input`, and says how many bytes it took.
///
/// `None`: the packet is not complete; nothing was consumed (see [`header`] for how much is missing).
///
/// # Errors
/// The first rule that the packet breaks. Type, flags, direction and size are judged as soon as the fixed header is there.
#[inline]
pub fn decode<'a>(input: &'a [u8], limits: &Limits) -> Result<Option<(Packet<'a>, usize)>, Violation> {
    let Some(header) = header(input, limits)? else {
        return Ok(None);
    };
    let length = header.packet_len();
    let Some(body) = input.get(header.header_len()..length) else {
        return Ok(None);
    };
    let mut reader = Reader::new(body);
    let packet = if header.packet_type == PacketType::Publish {
        Packet::Publish(publish::decode(header.flags, &mut reader)?)
    } else {
        other(header.packet_type, &mut reader)?
    };
    if !reader.is_empty() {
        return Err(Violation::TrailingBytes);
    }
    Ok(Some((packet, length)))
}

/// Everything but PUBLISH, kept apart so that the hot path stays small.
fn other<'a>(packet_type: PacketType, reader: &mut Reader<'a>) -> Result<Packet<'a>, Violation> {
    Ok(match packet_type {
        PacketType::Connect => Packet::Connect(connect::decode(reader)?),
        PacketType::ConnAck => Packet::ConnAck(connect::decode_connack(reader)?),
        PacketType::Publish => return Err(Violation::UnknownPacketType(3)),
        PacketType::PubAck => Packet::PubAck(reader.packet_id()?),
        PacketType::PubRec => Packet::PubRec(reader.packet_id()?),
        PacketType::PubRel => Packet::PubRel(reader.packet_id()?),
        PacketType::PubComp => Packet::PubComp(reader.packet_id()?),
        PacketType::Subscribe => Packet::Subscribe(subscribe::decode_subscribe(reader)?),
        PacketType::SubAck => Packet::SubAck(subscribe::decode_suback(reader)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(subscribe::decode_unsubscribe(reader)?),
        PacketType::UnsubAck => Packet::UnsubAck(reader.packet_id()?),
        PacketType::PingReq => Packet::PingReq,
        PacketType::PingResp => Packet::PingResp,
        PacketType::Disconnect => Packet::Disconnect,
    })
}

#[cfg(test)]
mod tests;
