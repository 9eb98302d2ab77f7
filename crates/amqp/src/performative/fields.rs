//! Walking the fields of a described list, however it was written.

use crate::error::DecodeError;
use crate::types::{Raw, Reader, Value};

/// Symbolic descriptors and their codes: performatives, SASL, delivery states, termini, error.
const SYMBOLS: [(&str, u64); 24] = [
    ("amqp:open:list", 0x10),
    ("amqp:begin:list", 0x11),
    ("amqp:attach:list", 0x12),
    ("amqp:flow:list", 0x13),
    ("amqp:transfer:list", 0x14),
    ("amqp:disposition:list", 0x15),
    ("amqp:detach:list", 0x16),
    ("amqp:end:list", 0x17),
    ("amqp:close:list", 0x18),
    ("amqp:error:list", 0x1d),
    ("amqp:received:list", 0x23),
    ("amqp:accepted:list", 0x24),
    ("amqp:rejected:list", 0x25),
    ("amqp:released:list", 0x26),
    ("amqp:modified:list", 0x27),
    ("amqp:source:list", 0x28),
    ("amqp:target:list", 0x29),
    ("amqp:coordinator:list", 0x30),
    ("amqp:delete-on-close:list", 0x2b),
    ("amqp:sasl-mechanisms:list", 0x40),
    ("amqp:sasl-init:list", 0x41),
    ("amqp:sasl-challenge:list", 0x42),
    ("amqp:sasl-response:list", 0x43),
    ("amqp:sasl-outcome:list", 0x44),
];

/// The numeric code of a descriptor; `u64::MAX` for symbols that are not ours.
pub(super) fn descriptor_code(value: Value<'_>) -> Result<u64, DecodeError> {
    match value {
        Value::Ulong(code) => Ok(code),
        Value::Symbol(symbol) => Ok(SYMBOLS
            .iter()
            .find(|(name, _)| *name == symbol)
            .map_or(u64::MAX, |(_, code)| *code)),
        _ => Err(DecodeError::WrongType("descriptor")),
    }
}

/// The fields of a list in order; past its end everything is null.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Fields<'a> {
    /// Reads a described list from `reader` and returns its code.
    pub(super) fn described(reader: &mut Reader<'a>) -> Result<(u64, Self), DecodeError> {
        if reader.byte()? != 0 {
            return Err(DecodeError::WrongType("descriptor"));
        }
        let code = descriptor_code(reader.value()?)?;
        match reader.value()? {
            Value::List(list) => {
                let (reader, left) = list.reader();
                Ok((code, Self { reader, left }))
            }
            _ => Err(DecodeError::WrongType("described list")),
        }
    }

    pub(super) fn value(&mut self) -> Result<Value<'a>, DecodeError> {
        if self.left == 0 {
            return Ok(Value::Null);
        }
        self.left -= 1;
        self.reader.value()
    }

    /// The next field undecoded; `None` when null.
    pub(super) fn raw(&mut self) -> Result<Option<Raw<'a>>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        Ok(Some(self.reader.raw()?).filter(|raw| !raw.is_null()))
    }

    pub(super) fn skip(&mut self, count: u32) -> Result<(), DecodeError> {
        for _ in 0..count {
            self.raw()?;
        }
        Ok(())
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<Option<&'a str>, DecodeError> {
        match self.value()? {
            Value::Null => Ok(None),
            value => value.text().ok_or(DecodeError::WrongType(field)).map(Some),
        }
    }

    pub(super) fn binary(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.value()? {
            Value::Null => Ok(None),
            Value::Binary(bytes) => Ok(Some(bytes)),
            _ => Err(DecodeError::WrongType(field)),
        }
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.value()? {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(flag),
            _ => Err(DecodeError::WrongType(field)),
        }
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<Option<u64>, DecodeError> {
        match self.value()? {
            Value::Null => Ok(None),
            value => value.unsigned().ok_or(DecodeError::WrongType(field)).map(Some),
        }
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<Option<u32>, DecodeError> {
        self.u64(field)?
            .map(|n| u32::try_from(n).map_err(|_| DecodeError::WrongType(field)))
            .transpose()
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<Option<u16>, DecodeError> {
        self.u64(field)?
            .map(|n| u16::try_from(n).map_err(|_| DecodeError::WrongType(field)))
            .transpose()
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<Option<u8>, DecodeError> {
        self.u64(field)?
            .map(|n| u8::try_from(n).map_err(|_| DecodeError::WrongType(field)))
            .transpose()
    }
}

/// A mandatory field.
pub(super) fn need<T>(value: Option<T>, field: &'static str) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Missing(field))
}

/// Appends `value` with `put`, or null.
pub(super) fn or_null<T>(buf: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        Some(value) => put(buf, value),
        None => crate::types::put_null(buf),
    }
}

/// Appends an encoded value, or null.
pub(super) fn put_raw(buf: &mut Vec<u8>, value: Option<Raw<'_>>) {
    buf.extend_from_slice(value.unwrap_or(Raw::NULL).bytes());
}
