//! SUBSCRIBE, UNSUBSCRIBE and their answers: lists, checked when decoded and walked when needed.

use super::reader::Reader;
use super::{PacketType, Properties, QoS, Version};
use crate::violation::Violation;

/// Asks for topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Never 0.
    pub packet_id: u16,
    /// MQTT 5 only, else empty.
    pub properties: Properties<'a>,
    /// At least one.
    pub filters: Filters<'a>,
}

/// Gives topics up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Never 0.
    pub packet_id: u16,
    /// MQTT 5 only, else empty.
    pub properties: Properties<'a>,
    /// At least one.
    pub filters: TextList<'a>,
}

/// Answers a SUBSCRIBE, one code per filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// As in the SUBSCRIBE.
    pub packet_id: u16,
    /// MQTT 5 only, else empty.
    pub properties: Properties<'a>,
    /// The granted QoS, or a code from 0x80 up.
    pub codes: ReasonCodes<'a>,
}

/// Answers an UNSUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// As in the UNSUBSCRIBE.
    pub packet_id: u16,
    /// MQTT 5 only, else empty.
    pub properties: Properties<'a>,
    /// One code per filter in MQTT 5, none in 3.1.1.
    pub codes: ReasonCodes<'a>,
}

/// One byte per filter.
pub type ReasonCodes<'a> = &'a [u8];

/// One entry of a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter<'a> {
    /// Not empty, UTF-8 without NUL.
    pub filter: &'a str,
    /// QoS in the two low bits; MQTT 5 has more in bits 2–5.
    pub options: u8,
}

impl Filter<'_> {
    /// The QoS asked for.
    #[must_use]
    pub fn qos(&self) -> QoS {
        QoS::from_bits(self.options & 0b11).unwrap_or_default()
    }
}

/// The entries of a SUBSCRIBE: a checked list that is walked in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filters<'a>(&'a [u8]);

impl<'a> Filters<'a> {
    /// The list as it stands in the packet.
    pub(super) const fn raw(self) -> &'a [u8] {
        self.0
    }

    /// The entries in order.
    pub fn iter(self) -> impl Iterator<Item = Filter<'a>> {
        let mut reader = Reader::new(self.0);
        // The list was checked by the decoder; an error can only mean its end.
        std::iter::from_fn(move || {
            let filter = reader.text().ok()?;
            let options = reader.byte().ok()?;
            Some(Filter { filter, options })
        })
    }
}

/// The filters of an UNSUBSCRIBE: a checked list that is walked in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextList<'a>(&'a [u8]);

impl<'a> TextList<'a> {
    /// The list as it stands in the packet.
    pub(super) const fn raw(self) -> &'a [u8] {
        self.0
    }

    /// The filters in order.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || reader.text().ok())
    }
}

fn head<'a>(
    packet_type: PacketType,
    reader: &mut Reader<'a>,
    version: Version,
) -> Result<(u16, Properties<'a>), Violation> {
    let packet_id = reader.packet_id()?;
    let properties = match version {
        Version::V311 => Properties::NONE,
        Version::V5 => Properties::decode(reader, packet_type)?,
    };
    Ok((packet_id, properties))
}

fn filter<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Violation> {
    match reader.text()? {
        "" => Err(Violation::EmptyFilter),
        filter => Ok(filter),
    }
}

pub(super) fn decode_subscribe<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Subscribe<'a>, Violation> {
    let (packet_id, properties) = head(PacketType::Subscribe, reader, version)?;
    if reader.is_empty() {
        return Err(Violation::NoFilters(PacketType::Subscribe));
    }
    let list = reader.peek_rest();
    while !reader.is_empty() {
        filter(reader)?;
        let options = reader.byte()?;
        let valid = match version {
            Version::V311 => options <= 2,
            // Bits 4–5 are the retain handling, 3 is no value; bits 6–7 are reserved.
            Version::V5 => options & 0b11 != 3 && options & 0b11_0000 != 0b11_0000 && options & 0b1100_0000 == 0,
        };
        if !valid {
            return Err(Violation::SubscribeOptions(options));
        }
    }
    Ok(Subscribe {
        packet_id,
        properties,
        filters: Filters(list),
    })
}

pub(super) fn decode_unsubscribe<'a>(reader: &mut Reader<'a>, version: Version) -> Result<Unsubscribe<'a>, Violation> {
    let (packet_id, properties) = head(PacketType::Unsubscribe, reader, version)?;
    if reader.is_empty() {
        return Err(Violation::NoFilters(PacketType::Unsubscribe));
    }
    let list = reader.peek_rest();
    while !reader.is_empty() {
        filter(reader)?;
    }
    Ok(Unsubscribe {
        packet_id,
        properties,
        filters: TextList(list),
    })
}

pub(super) fn decode_suback<'a>(reader: &mut Reader<'a>, version: Version) -> Result<SubAck<'a>, Violation> {
    let (packet_id, properties) = head(PacketType::SubAck, reader, version)?;
    let codes = codes(PacketType::SubAck, reader, |code| match version {
        Version::V311 => matches!(code, 0..=2 | 0x80),
        Version::V5 => matches!(
            code,
            0..=2 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91 | 0x97 | 0x9e | 0xa1 | 0xa2
        ),
    })?;
    Ok(SubAck {
        packet_id,
        properties,
        codes,
    })
}

pub(super) fn decode_unsuback<'a>(reader: &mut Reader<'a>, version: Version) -> Result<UnsubAck<'a>, Violation> {
    let (packet_id, properties) = head(PacketType::UnsubAck, reader, version)?;
    let codes = match version {
        Version::V311 => &[],
        Version::V5 => codes(PacketType::UnsubAck, reader, |code| {
            matches!(code, 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91)
        })?,
    };
    Ok(UnsubAck {
        packet_id,
        properties,
        codes,
    })
}

fn codes<'a>(
    packet_type: PacketType,
    reader: &mut Reader<'a>,
    known: impl Fn(u8) -> bool,
) -> Result<ReasonCodes<'a>, Violation> {
    let codes = reader.take_rest();
    match codes.iter().find(|&&code| !known(code)) {
        _ if codes.is_empty() => Err(Violation::Truncated),
        Some(&code) => Err(Violation::ReasonCode(packet_type, code)),
        None => Ok(codes),
    }
}
