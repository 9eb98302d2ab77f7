//! MQTT control packets, decoded without copying and encoded in one pass.
//!
//! Why: the packet is the unit in which hostile bytes arrive; each is checked completely before anything looks at it,
//! and an oversized or misplaced one is refused on its fixed header, before it is buffered.
//! Wire facts: OASIS MQTT 3.1.1 and 5.0; Spec device-mqtt §2.1, §5.3, §10.1.
//! Invariants: no input panics; decoding allocates nothing; every strict prefix of a valid packet is `None`;
//! `decode(encode(p)) == p`. Version and direction are parameters: the hub decodes a client's packets, the load
//! generator a server's.
//! Deliberately tolerated: a remaining length with padding bytes (old embedded clients reserve four); `+` and `#` in a
//! PUBLISH topic, which only [`crate::topic`] can judge, because device ids and raw property bags may contain them.
//! Not here: what a topic means ([`crate::topic`]), which packet is lawful when ([`crate::connection`]).

mod connect;
mod encode;
mod header;
mod packet;
mod properties;
mod publish;
mod reader;
mod small;
mod subscribe;
mod template;

pub use connect::{ConnAck, Connect, LastWill};
pub use encode::{
    EncodeError, connack, encode, pingreq, pingresp, puback, publish, suback, subscribe, unsuback, unsubscribe,
};
pub use header::{Header, header};
pub use packet::{Packet, PacketType, QoS, Version};
pub use properties::{Properties, Property, id as property_id};
pub use publish::Publish;
pub use small::{Ack, Auth, Disconnect};
pub use subscribe::{Filter, Filters, ReasonCodes, SubAck, Subscribe, TextList, UnsubAck, Unsubscribe};
pub use template::PublishTemplate;

use crate::limits::{MAX_CONNECT_REMAINING_LENGTH, MAX_REMAINING_LENGTH};
use crate::violation::Violation;
use reader::Reader;

/// Whose packets are decoded: a packet of the other side, or at the wrong time, is refused on its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A client that has not sent its CONNECT yet: nothing else is lawful.
    NewClient,
    /// A client after its CONNECT.
    Client,
    /// A server.
    Server,
}

/// What [`decode`] is to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Who sent the bytes.
    pub sender: Sender,
    /// Which version's packets follow; a CONNECT says its own.
    pub version: Version,
    /// The largest Remaining Length, bytes.
    pub max_remaining_length: u32,
}

impl Limits {
    /// For the first packet of a client, in any version.
    pub const NEW_CLIENT: Self = Self {
        sender: Sender::NewClient,
        version: Version::V311,
        max_remaining_length: MAX_CONNECT_REMAINING_LENGTH,
    };

    /// For the packets of a client after its CONNECT.
    #[must_use]
    pub const fn client(version: Version) -> Self {
        Self {
            sender: Sender::Client,
            version,
            max_remaining_length: MAX_REMAINING_LENGTH,
        }
    }

    /// For the packets of a server.
    #[must_use]
    pub const fn server(version: Version) -> Self {
        Self {
            sender: Sender::Server,
            version,
            max_remaining_length: MAX_REMAINING_LENGTH,
        }
    }
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
        Packet::Publish(publish::decode(header.flags, &mut reader, limits.version)?)
    } else {
        other(header.packet_type, &mut reader, limits.version)?
    };
    if !reader.is_empty() {
        return Err(Violation::TrailingBytes);
    }
    Ok(Some((packet, length)))
}

/// Everything but PUBLISH, kept apart so that the hot path stays small.
fn other<'a>(packet_type: PacketType, reader: &mut Reader<'a>, version: Version) -> Result<Packet<'a>, Violation> {
    Ok(match packet_type {
        PacketType::Connect => Packet::Connect(connect::decode(reader)?),
        PacketType::ConnAck => Packet::ConnAck(connect::decode_connack(reader, version)?),
        PacketType::Publish => return Err(Violation::UnknownPacketType(3)),
        PacketType::PubAck => Packet::PubAck(small::decode_ack(packet_type, reader, version)?),
        PacketType::PubRec => Packet::PubRec(small::decode_ack(packet_type, reader, version)?),
        PacketType::PubRel => Packet::PubRel(small::decode_ack(packet_type, reader, version)?),
        PacketType::PubComp => Packet::PubComp(small::decode_ack(packet_type, reader, version)?),
        PacketType::Subscribe => Packet::Subscribe(subscribe::decode_subscribe(reader, version)?),
        PacketType::SubAck => Packet::SubAck(subscribe::decode_suback(reader, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(subscribe::decode_unsubscribe(reader, version)?),
        PacketType::UnsubAck => Packet::UnsubAck(subscribe::decode_unsuback(reader, version)?),
        PacketType::PingReq => Packet::PingReq,
        PacketType::PingResp => Packet::PingResp,
        PacketType::Disconnect => Packet::Disconnect(small::decode_disconnect(reader, version)?),
        PacketType::Auth => Packet::Auth(small::decode_auth(reader)?),
    })
}

#[cfg(test)]
mod tests;
