//! Finding the sections of an encoded message.

use super::properties::Properties;
use crate::error::DecodeError;
use crate::types::{Map, Raw, Reader, Value};

/// The sections of a message, borrowed from its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Message<'a> {
    /// Durable, priority, ttl and so on: a list, undecoded.
    pub header: Option<Raw<'a>>,
    /// For this hop only.
    pub delivery_annotations: Map<'a>,
    /// Keys are symbols.
    pub message_annotations: Map<'a>,
    properties: Option<Raw<'a>>,
    /// Keys are strings, values simple.
    pub application_properties: Map<'a>,
    /// The kind of the body; [`Message::data`] iterates over several data sections.
    pub body: Body<'a>,
    all: &'a [u8],
}

/// The body of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// There is none, as in some requests.
    None,
    /// Bytes: the first data section, and how many there are.
    Data(&'a [u8], u32),
    /// One AMQP value.
    Value(Raw<'a>),
    /// Lists of AMQP values.
    Sequence,
}

impl<'a> Message<'a> {
    /// Finds the sections of `payload`. A section that comes twice counts as its last, but for data.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no sequence of described values, or a map section is no map.
    pub fn scan(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut message = Self {
            header: None,
            delivery_annotations: Map::EMPTY,
            message_annotations: Map::EMPTY,
            properties: None,
            application_properties: Map::EMPTY,
            body: Body::None,
            all: payload,
        };
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            let (code, value) = section(&mut reader)?;
            match code {
                0x70 => message.header = Some(value),
                0x71 => message.delivery_annotations = map(value)?,
                0x72 => message.message_annotations = map(value)?,
                0x73 => message.properties = Some(value),
                0x74 => message.application_properties = map(value)?,
                0x75 => {
                    let bytes = binary(value)?;
                    message.body = match message.body {
                        Body::Data(first, count) => Body::Data(first, count + 1),
                        _ => Body::Data(bytes, 1),
                    };
                }
                0x76 => message.body = Body::Sequence,
                0x77 => message.body = Body::Value(value),
                _ => {}
            }
        }
        Ok(message)
    }

    /// The properties section; the default when there is none.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no list of the right types.
    pub fn properties(&self) -> Result<Properties<'a>, DecodeError> {
        self.properties
            .map_or_else(|| Ok(Properties::default()), Properties::decode)
    }

    /// All data sections in order: of a batch, each is a message of its own.
    pub fn data(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut reader = Reader::new(self.all);
        std::iter::from_fn(move || {
            loop {
                if reader.is_empty() {
                    return None;
                }
                let (code, value) = section(&mut reader).ok()?;
                if code == 0x75 {
                    return binary(value).ok();
                }
            }
        })
    }
}

const SECTIONS: [(&str, u64); 9] = [
    ("amqp:header:list", 0x70),
    ("amqp:delivery-annotations:map", 0x71),
    ("amqp:message-annotations:map", 0x72),
    ("amqp:properties:list", 0x73),
    ("amqp:application-properties:map", 0x74),
    ("amqp:data:binary", 0x75),
    ("amqp:amqp-sequence:list", 0x76),
    ("amqp:amqp-value:*", 0x77),
    ("amqp:footer:map", 0x78),
];

fn section<'a>(reader: &mut Reader<'a>) -> Result<(u64, Raw<'a>), DecodeError> {
    if reader.byte()? != 0 {
        return Err(DecodeError::WrongType("section"));
    }
    let code = match reader.value()? {
        Value::Ulong(code) => code,
        Value::Symbol(name) => SECTIONS
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(u64::MAX, |(_, code)| *code),
        _ => return Err(DecodeError::WrongType("section")),
    };
    Ok((code, reader.raw()?))
}

fn map(raw: Raw<'_>) -> Result<Map<'_>, DecodeError> {
    match raw.value()? {
        Value::Map(map) => Ok(map),
        Value::Null => Ok(Map::EMPTY),
        _ => Err(DecodeError::WrongType("map section")),
    }
}

fn binary(raw: Raw<'_>) -> Result<&[u8], DecodeError> {
    match raw.value()? {
        Value::Binary(bytes) => Ok(bytes),
        _ => Err(DecodeError::WrongType("data section")),
    }
}
