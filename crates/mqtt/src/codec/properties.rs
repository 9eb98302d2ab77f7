//! The property block of MQTT 5: checked completely when decoded, walked in place when needed.
//!
//! Why now, when MQTT 5 is off: the framing of every packet depends on it, and a codec that learns it later is
//! rewritten. Wire facts: MQTT 5 §2.2.2; Spec device-mqtt §13.
//! Invariants: bounded by the packet; each identifier is known, allowed in its packet, and there once where it must be.

use super::PacketType;
use super::reader::Reader;
use crate::violation::Violation;

/// A checked block of properties, possibly empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a>(&'a [u8]);

/// One property, by the shape of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property<'a> {
    /// One byte; flags are 0 or 1.
    Byte(u8, u8),
    /// A two-byte integer.
    Short(u8, u16),
    /// A four-byte integer.
    Long(u8, u32),
    /// A variable byte integer.
    Variable(u8, u32),
    /// UTF-8 text.
    Text(u8, &'a str),
    /// Bytes.
    Binary(u8, &'a [u8]),
    /// A user property: name and value.
    User(&'a str, &'a str),
}

/// Identifiers, as in MQTT 5 table 2-4.
pub mod id {
    #![expect(missing_docs, reason = "named as in the standard")]
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0b;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTH_METHOD: u8 = 0x15;
    pub const AUTH_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM: u8 = 0x17;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REQUEST_RESPONSE: u8 = 0x19;
    pub const RESPONSE_INFO: u8 = 0x1a;
    pub const SERVER_REFERENCE: u8 = 0x1c;
    pub const REASON: u8 = 0x1f;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub const WILDCARD_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
    pub const SHARED_AVAILABLE: u8 = 0x2a;
}

impl<'a> Properties<'a> {
    /// The empty block; also what MQTT 3.1.1 has.
    pub const NONE: Self = Self(&[]);

    /// The block without its length.
    pub(super) const fn raw(self) -> &'a [u8] {
        self.0
    }

    /// Whether the block is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Checks a block made by [`Property::write`] for a packet of this type.
    ///
    /// # Errors
    /// The first rule that the block breaks.
    pub fn new(block: &'a [u8], packet_type: PacketType) -> Result<Self, Violation> {
        check(block, packet_type, allowed_in(packet_type)).map(|()| Self(block))
    }

    /// The properties in order.
    pub fn iter(self) -> impl Iterator<Item = Property<'a>> {
        let mut reader = Reader::new(self.0);
        // Checked by the decoder; an error can only mean the end.
        std::iter::from_fn(move || {
            if reader.is_empty() {
                None
            } else {
                Property::read(&mut reader).ok()
            }
        })
    }

    /// Whether a PUBLISH may leave its topic empty.
    #[must_use]
    pub fn has_topic_alias(self) -> bool {
        self.iter()
            .any(|property| matches!(property, Property::Short(id::TOPIC_ALIAS, _)))
    }

    pub(super) fn decode(reader: &mut Reader<'a>, packet_type: PacketType) -> Result<Self, Violation> {
        Self::decode_allowing(reader, packet_type, allowed_in(packet_type))
    }

    /// The properties of the will inside a CONNECT.
    pub(super) fn decode_will(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        Self::decode_allowing(reader, PacketType::Connect, WILL)
    }

    fn decode_allowing(reader: &mut Reader<'a>, packet_type: PacketType, allowed: u64) -> Result<Self, Violation> {
        let length = reader.variable()?;
        let block = reader.take(length as usize)?;
        check(block, packet_type, allowed).map(|()| Self(block))
    }
}

fn check(block: &[u8], packet_type: PacketType, allowed: u64) -> Result<(), Violation> {
    let mut reader = Reader::new(block);
    let mut seen = 0u64;
    while !reader.is_empty() {
        let id = reader.peek_rest().first().copied().unwrap_or(0);
        let property = Property::read(&mut reader)?;
        let bit = 1u64 << id;
        if allowed & bit == 0 {
            return Err(Violation::ForeignProperty(id, packet_type));
        }
        let repeatable = id == id::USER || (id == id::SUBSCRIPTION_ID && packet_type == PacketType::Publish);
        if seen & bit != 0 && !repeatable {
            return Err(Violation::RepeatedProperty(id));
        }
        seen |= bit;
        check_value(property)?;
    }
    Ok(())
}

fn check_value(property: Property<'_>) -> Result<(), Violation> {
    let (id, valid) = match property {
        // All one-byte properties are switches, Maximum QoS included (0 or 1).
        Property::Byte(id, value) => (id, value <= 1),
        Property::Short(id @ (id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS), value) => (id, value != 0),
        Property::Long(id @ id::MAXIMUM_PACKET_SIZE, value) => (id, value != 0),
        Property::Variable(id, value) => (id, value != 0),
        _ => return Ok(()),
    };
    if valid {
        Ok(())
    } else {
        Err(Violation::PropertyValue(id))
    }
}

impl<'a> Property<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        // Identifiers are variable byte integers, but none needs a second byte.
        let id = reader.byte()?;
        Ok(match id {
            id::PAYLOAD_FORMAT
            | id::REQUEST_PROBLEM
            | id::REQUEST_RESPONSE
            | id::MAXIMUM_QOS
            | id::RETAIN_AVAILABLE
            | id::WILDCARD_AVAILABLE
            | id::SUBSCRIPTION_ID_AVAILABLE
            | id::SHARED_AVAILABLE => Self::Byte(id, reader.byte()?),
            id::SERVER_KEEP_ALIVE | id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAXIMUM | id::TOPIC_ALIAS => {
                Self::Short(id, reader.two_bytes()?)
            }
            id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::MAXIMUM_PACKET_SIZE => {
                Self::Long(id, reader.four_bytes()?)
            }
            id::SUBSCRIPTION_ID => Self::Variable(id, reader.variable()?),
            id::CONTENT_TYPE
            | id::RESPONSE_TOPIC
            | id::ASSIGNED_CLIENT_ID
            | id::AUTH_METHOD
            | id::RESPONSE_INFO
            | id::SERVER_REFERENCE
            | id::REASON => Self::Text(id, reader.text()?),
            id::CORRELATION_DATA | id::AUTH_DATA => Self::Binary(id, reader.binary()?),
            id::USER => Self::User(reader.text()?, reader.text()?),
            _ => return Err(Violation::UnknownProperty(id)),
        })
    }

    /// Appends the property to a block; texts beyond 65,535 bytes are cut away whole (nothing is appended).
    pub fn write(&self, block: &mut Vec<u8>) {
        fn counted(block: &mut Vec<u8>, bytes: &[u8]) {
            if let Ok(length) = u16::try_from(bytes.len()) {
                block.extend_from_slice(&length.to_be_bytes());
                block.extend_from_slice(bytes);
            }
        }
        let start = block.len();
        match *self {
            Self::Byte(id, value) => block.extend_from_slice(&[id, value]),
            Self::Short(id, value) => {
                block.push(id);
                block.extend_from_slice(&value.to_be_bytes());
            }
            Self::Long(id, value) => {
                block.push(id);
                block.extend_from_slice(&value.to_be_bytes());
            }
            Self::Variable(id, value) => {
                block.push(id);
                super::encode::variable(block, value);
            }
            Self::Text(_, text) if text.len() > usize::from(u16::MAX) => block.truncate(start),
            Self::Text(id, text) => {
                block.push(id);
                counted(block, text.as_bytes());
            }
            Self::Binary(_, bytes) if bytes.len() > usize::from(u16::MAX) => block.truncate(start),
            Self::Binary(id, bytes) => {
                block.push(id);
                counted(block, bytes);
            }
            Self::User(name, value) if name.len().max(value.len()) > usize::from(u16::MAX) => block.truncate(start),
            Self::User(name, value) => {
                block.push(id::USER);
                counted(block, name.as_bytes());
                counted(block, value.as_bytes());
            }
        }
    }
}

const fn bits(ids: &[u8]) -> u64 {
    let mut set = 1 << id::USER;
    let mut at = 0;
    while at < ids.len() {
        set |= 1 << ids[at];
        at += 1;
    }
    set
}

const CONNECT: u64 = bits(&[
    id::SESSION_EXPIRY,
    id::AUTH_METHOD,
    id::AUTH_DATA,
    id::REQUEST_PROBLEM,
    id::REQUEST_RESPONSE,
    id::RECEIVE_MAXIMUM,
    id::TOPIC_ALIAS_MAXIMUM,
    id::MAXIMUM_PACKET_SIZE,
]);
const CONNACK: u64 = bits(&[
    id::SESSION_EXPIRY,
    id::ASSIGNED_CLIENT_ID,
    id::SERVER_KEEP_ALIVE,
    id::AUTH_METHOD,
    id::AUTH_DATA,
    id::RESPONSE_INFO,
    id::SERVER_REFERENCE,
    id::REASON,
    id::RECEIVE_MAXIMUM,
    id::TOPIC_ALIAS_MAXIMUM,
    id::MAXIMUM_QOS,
    id::RETAIN_AVAILABLE,
    id::MAXIMUM_PACKET_SIZE,
    id::WILDCARD_AVAILABLE,
    id::SUBSCRIPTION_ID_AVAILABLE,
    id::SHARED_AVAILABLE,
]);
const PUBLISH: u64 = bits(&[
    id::PAYLOAD_FORMAT,
    id::MESSAGE_EXPIRY,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::SUBSCRIPTION_ID,
    id::TOPIC_ALIAS,
]);
const WILL: u64 = bits(&[
    id::PAYLOAD_FORMAT,
    id::MESSAGE_EXPIRY,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::WILL_DELAY,
]);

const fn allowed_in(packet_type: PacketType) -> u64 {
    match packet_type {
        PacketType::Connect => CONNECT,
        PacketType::ConnAck => CONNACK,
        PacketType::Publish => PUBLISH,
        PacketType::PubAck
        | PacketType::PubRec
        | PacketType::PubRel
        | PacketType::PubComp
        | PacketType::SubAck
        | PacketType::UnsubAck => bits(&[id::REASON]),
        PacketType::Subscribe => bits(&[id::SUBSCRIPTION_ID]),
        PacketType::Unsubscribe => bits(&[]),
        PacketType::Disconnect => bits(&[id::SESSION_EXPIRY, id::SERVER_REFERENCE, id::REASON]),
        PacketType::Auth => bits(&[id::AUTH_METHOD, id::AUTH_DATA, id::REASON]),
        PacketType::PingReq | PacketType::PingResp => 0,
    }
}
