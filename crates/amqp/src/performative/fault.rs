//! The error that a detach, end, close or rejected outcome carries (AMQP 1.0 §2.8.14, Spec amqp §9).

use super::fields::{Fields, need, or_null};
use crate::error::DecodeError;
use crate::types::{MapWriter, Raw, Reader, put_described_list, put_int, put_null, put_str, put_symbol};

/// An error as it is sent or was received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault<'a> {
    /// A symbol such as `amqp:not-found`.
    pub condition: &'a str,
    /// Text for people.
    pub description: Option<&'a str>,
    /// The info map when sending, with symbol keys. Empty means null.
    pub info: &'a [(&'a str, InfoValue<'a>)],
    /// The map as received, undecoded; takes precedence over `info` when sending.
    pub received_info: Option<Raw<'a>>,
}

/// A value of the info map of an error, or of a link's properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfoValue<'a> {
    /// A string.
    Text(&'a str),
    /// An int.
    Int(i32),
    /// A long.
    Long(i64),
}

impl InfoValue<'_> {
    pub(super) fn encode(self, buf: &mut Vec<u8>) {
        match self {
            InfoValue::Text(text) => put_str(buf, text),
            InfoValue::Int(number) => put_int(buf, number),
            InfoValue::Long(number) => crate::types::put_long(buf, number),
        }
    }
}

/// Appends a map with symbol keys, or null when there are no entries.
pub(crate) fn put_properties(buf: &mut Vec<u8>, entries: &[(&str, InfoValue<'_>)]) {
    if entries.is_empty() {
        return put_null(buf);
    }
    let mut map = MapWriter::begin(buf);
    for (key, value) in entries {
        value.encode(map.key(key));
    }
    map.finish();
}

impl<'a> Fault<'a> {
    /// An error with a text and no info.
    #[must_use]
    pub fn new(condition: &'a str, description: &'a str) -> Self {
        Self {
            condition,
            description: Some(description),
            info: &[],
            received_info: None,
        }
    }

    /// The same error with an info map.
    #[must_use]
    pub fn with_info(self, info: &'a [(&'a str, InfoValue<'a>)]) -> Self {
        Self { info, ..self }
    }

    pub(super) fn decode(raw: Raw<'a>) -> Result<Self, DecodeError> {
        let (code, mut fields) = Fields::described(&mut Reader::new(raw.bytes()))?;
        if code != 0x1d {
            return Err(DecodeError::WrongType("error"));
        }
        Ok(Self {
            condition: need(fields.text("condition")?, "condition")?,
            description: fields.text("description")?,
            info: &[],
            received_info: fields.raw()?,
        })
    }

    /// Appends the described list, 3 fields.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x1d, 3, |buf| {
            put_symbol(buf, self.condition);
            or_null(buf, self.description, put_str);
            match self.received_info {
                Some(raw) => buf.extend_from_slice(raw.bytes()),
                None => put_properties(buf, self.info),
            }
        });
    }
}
