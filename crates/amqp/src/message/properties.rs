//! The properties section: 13 fields with fixed meaning.

use std::borrow::Cow;

use crate::error::DecodeError;
use crate::types::{
    Raw, Reader, Value, put_binary, put_described_list, put_null, put_str, put_symbol, put_timestamp, put_uint,
};
use data_encoding::HEXLOWER;

/// The properties of a message.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[expect(missing_docs, reason = "named as in AMQP 1.0 §3.2.4")]
pub struct Properties<'a> {
    /// A ulong, uuid, binary or string, encoded: replies repeat value and type. As text: [`id_text`].
    pub message_id: Option<Raw<'a>>,
    pub user_id: Option<&'a [u8]>,
    pub to: Option<&'a str>,
    pub subject: Option<&'a str>,
    pub reply_to: Option<&'a str>,
    /// As `message_id`.
    pub correlation_id: Option<Raw<'a>>,
    pub content_type: Option<&'a str>,
    pub content_encoding: Option<&'a str>,
    /// Milliseconds since 1970.
    pub absolute_expiry_time: Option<i64>,
    /// Milliseconds since 1970.
    pub creation_time: Option<i64>,
    pub group_id: Option<&'a str>,
    pub group_sequence: Option<u32>,
    pub reply_to_group_id: Option<&'a str>,
}

impl<'a> Properties<'a> {
    pub(super) fn decode(raw: Raw<'a>) -> Result<Self, DecodeError> {
        let list = match raw.value()? {
            Value::List(list) => list,
            Value::Null => return Ok(Self::default()),
            _ => return Err(DecodeError::WrongType("properties")),
        };
        let (mut reader, mut left) = list.reader();
        let mut next = move || -> Result<Option<Raw<'a>>, DecodeError> {
            if left == 0 {
                return Ok(None);
            }
            left -= 1;
            Ok(Some(reader.raw()?).filter(|raw| !raw.is_null()))
        };
        Ok(Self {
            message_id: next()?,
            user_id: bytes(next()?)?,
            to: text(next()?)?,
            subject: text(next()?)?,
            reply_to: text(next()?)?,
            correlation_id: next()?,
            content_type: text(next()?)?,
            content_encoding: text(next()?)?,
            absolute_expiry_time: integer(next()?)?,
            creation_time: integer(next()?)?,
            group_id: text(next()?)?,
            group_sequence: integer(next()?)?.and_then(|n| u32::try_from(n).ok()),
            reply_to_group_id: text(next()?)?,
        })
    }

    /// Appends the list, 13 fields.
    pub(super) fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x73, 13, |buf| {
            buf.extend_from_slice(self.message_id.unwrap_or(Raw::NULL).bytes());
            or_null(buf, self.user_id, put_binary);
            or_null(buf, self.to, put_str);
            or_null(buf, self.subject, put_str);
            or_null(buf, self.reply_to, put_str);
            buf.extend_from_slice(self.correlation_id.unwrap_or(Raw::NULL).bytes());
            or_null(buf, self.content_type, put_symbol);
            or_null(buf, self.content_encoding, put_symbol);
            or_null(buf, self.absolute_expiry_time, put_timestamp);
            or_null(buf, self.creation_time, put_timestamp);
            or_null(buf, self.group_id, put_str);
            or_null(buf, self.group_sequence, put_uint);
            or_null(buf, self.reply_to_group_id, put_str);
        });
    }
}

fn or_null<T>(buf: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        Some(value) => put(buf, value),
        None => put_null(buf),
    }
}

fn text(raw: Option<Raw<'_>>) -> Result<Option<&str>, DecodeError> {
    let Some(raw) = raw else { return Ok(None) };
    raw.value()?
        .text()
        .ok_or(DecodeError::WrongType("properties"))
        .map(Some)
}

fn bytes(raw: Option<Raw<'_>>) -> Result<Option<&[u8]>, DecodeError> {
    match raw.map(Raw::value).transpose()? {
        None => Ok(None),
        Some(Value::Binary(bytes)) => Ok(Some(bytes)),
        Some(other) => other
            .text()
            .map(str::as_bytes)
            .ok_or(DecodeError::WrongType("properties"))
            .map(Some),
    }
}

fn integer(raw: Option<Raw<'_>>) -> Result<Option<i64>, DecodeError> {
    let Some(raw) = raw else { return Ok(None) };
    raw.value()?
        .integer()
        .ok_or(DecodeError::WrongType("properties"))
        .map(Some)
}

/// A message-id or correlation-id as text: strings as they are, ulong in decimal, uuid with hyphens, binary in hex.
///
/// `None` for other types.
#[must_use]
pub fn id_text(raw: Raw<'_>) -> Option<Cow<'_, str>> {
    match Reader::new(raw.bytes()).value().ok()? {
        Value::String(text) | Value::Symbol(text) => Some(Cow::Borrowed(text)),
        Value::Ulong(number) => Some(Cow::Owned(number.to_string())),
        Value::Uuid(uuid) => {
            let mut text = HEXLOWER.encode(&uuid);
            for hyphen in [20, 16, 12, 8] {
                text.insert(hyphen, '-');
            }
            Some(Cow::Owned(text))
        }
        Value::Binary(bytes) => Some(Cow::Owned(HEXLOWER.encode(bytes))),
        _ => None,
    }
}
