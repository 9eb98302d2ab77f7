//! SUBSCRIBE, UNSUBSCRIBE and their answers: lists, checked when decoded and walked when needed.

use super::reader::Reader;
use super::{PacketId, PacketType, QoS};
use crate::violation::Violation;

/// Asks for topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Never 0.
    pub packet_id: PacketId,
    /// At least one.
    pub filters: Filters<'a>,
}

/// Gives topics up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Never 0.
    pub packet_id: PacketId,
    /// At least one.
    pub filters: TextList<'a>,
}

/// Answers a SUBSCRIBE, one code per filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// As in the SUBSCRIBE.
    pub packet_id: PacketId,
    /// The granted QoS, or 0x80 for a refused filter.
    pub codes: ReasonCodes<'a>,
}

/// One byte per filter.
pub type ReasonCodes<'a> = &'a [u8];

/// One entry of a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter<'a> {
    /// Not empty, UTF-8 without NUL.
    pub filter: &'a str,
    /// The requested QoS.
    pub qos: QoS,
}

/// The entries of a SUBSCRIBE: a checked list that is walked in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filters<'a>(&'a [u8]);

impl<'a> Filters<'a> {
    /// The list as encoded in the packet.
    pub(super) const fn raw(self) -> &'a [u8] {
        self.0
    }

    /// The entries in order.
    pub fn iter(self) -> impl Iterator<Item = Filter<'a>> {
        let mut reader = Reader::new(self.0);
        // The list was checked by the decoder; an error can only mean its end.
        std::iter::from_fn(move || {
            let filter = reader.text().ok()?;
            let qos = QoS::from_bits(reader.byte().ok()?)?;
            Some(Filter { filter, qos })
        })
    }
}

/// The filters of an UNSUBSCRIBE: a checked list that is walked in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextList<'a>(&'a [u8]);

impl<'a> TextList<'a> {
    /// The list as encoded in the packet.
    pub(super) const fn raw(self) -> &'a [u8] {
        self.0
    }

    /// The filters in order.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || reader.text().ok())
    }
}

fn filter<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Violation> {
    match reader.text()? {
        "" => Err(Violation::EmptyFilter),
        filter => Ok(filter),
    }
}

pub(super) fn decode_subscribe<'a>(reader: &mut Reader<'a>) -> Result<Subscribe<'a>, Violation> {
    let packet_id = reader.packet_id()?;
    if reader.is_empty() {
        return Err(Violation::NoFilters(PacketType::Subscribe));
    }
    let list = reader.peek_rest();
    while !reader.is_empty() {
        filter(reader)?;
        let options = reader.byte()?;
        QoS::from_bits(options).ok_or(Violation::SubscribeOptions(options))?;
    }
    Ok(Subscribe {
        packet_id,
        filters: Filters(list),
    })
}

pub(super) fn decode_unsubscribe<'a>(reader: &mut Reader<'a>) -> Result<Unsubscribe<'a>, Violation> {
    let packet_id = reader.packet_id()?;
    if reader.is_empty() {
        return Err(Violation::NoFilters(PacketType::Unsubscribe));
    }
    let list = reader.peek_rest();
    while !reader.is_empty() {
        filter(reader)?;
    }
    Ok(Unsubscribe {
        packet_id,
        filters: TextList(list),
    })
}

pub(super) fn decode_suback<'a>(reader: &mut Reader<'a>) -> Result<SubAck<'a>, Violation> {
    let packet_id = reader.packet_id()?;
    let codes = reader.take_rest();
    match codes.iter().find(|&&code| !matches!(code, 0..=2 | 0x80)) {
        _ if codes.is_empty() => Err(Violation::Truncated),
        Some(&code) => Err(Violation::ReasonCode(PacketType::SubAck, code)),
        None => Ok(SubAck { packet_id, codes }),
    }
}
