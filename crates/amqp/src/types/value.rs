//! One AMQP value, decoded one level deep, or left encoded.

use super::read::{Array, List, Map, Reader};
use crate::error::DecodeError;

/// The bytes of exactly one encoded value; its content is not validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a>(pub(super) &'a [u8]);

impl<'a> Raw<'a> {
    /// The null value.
    pub const NULL: Raw<'static> = Raw(&[0x40]);

    /// Takes `bytes` for one value.
    ///
    /// # Errors
    /// [`DecodeError`] when they are cut short or followed by more.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let raw = reader.raw()?;
        if reader.is_empty() {
            Ok(raw)
        } else {
            Err(DecodeError::BadCount)
        }
    }

    /// The encoded form.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Decodes one level.
    ///
    /// # Errors
    /// [`DecodeError`] when the constructor is unknown or a string is not UTF-8.
    pub fn value(self) -> Result<Value<'a>, DecodeError> {
        Reader::new(self.0).value()
    }

    /// Whether it is null.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0.first() == Some(&0x40)
    }
}

/// A value, decoded one level deep.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the names are those of AMQP 1.0 §1.6")]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Ubyte(u8),
    Ushort(u16),
    Uint(u32),
    Ulong(u64),
    Byte(i8),
    Short(i16),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    /// `decimal32`, `decimal64` and `decimal128`, undecoded: 4, 8 or 16 bytes.
    Decimal(&'a [u8]),
    /// A code point, not checked to be one.
    Char(u32),
    /// Milliseconds since 1970.
    Timestamp(i64),
    Uuid([u8; 16]),
    Binary(&'a [u8]),
    String(&'a str),
    Symbol(&'a str),
    List(List<'a>),
    Map(Map<'a>),
    Array(Array<'a>),
    /// Descriptor and value.
    Described(Raw<'a>, Raw<'a>),
}

impl<'a> Value<'a> {
    /// Text of a string or symbol.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        match self {
            Value::String(text) | Value::Symbol(text) => Some(text),
            _ => None,
        }
    }

    /// Any integer, timestamp included, that fits.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match *self {
            Value::Ubyte(n) => Some(n.into()),
            Value::Ushort(n) => Some(n.into()),
            Value::Uint(n) => Some(n.into()),
            Value::Ulong(n) => i64::try_from(n).ok(),
            Value::Byte(n) => Some(n.into()),
            Value::Short(n) => Some(n.into()),
            Value::Int(n) => Some(n.into()),
            Value::Long(n) | Value::Timestamp(n) => Some(n),
            _ => None,
        }
    }

    /// Any non-negative integer.
    #[must_use]
    pub fn unsigned(&self) -> Option<u64> {
        match *self {
            Value::Ulong(n) => Some(n),
            _ => self.integer().and_then(|n| u64::try_from(n).ok()),
        }
    }
}
