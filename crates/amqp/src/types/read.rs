//! Reading values from a slice.

use super::value::{Raw, Value};
use crate::error::DecodeError;
use crate::limits::{MAX_EMPTY_ELEMENTS, MAX_NESTING};

/// A cursor over encoded values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The unread input.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.fixed::<1>()?[0])
    }

    fn length(&mut self, wide: bool) -> Result<usize, DecodeError> {
        if wide {
            Ok(u32::from_be_bytes(self.fixed()?) as usize)
        } else {
            Ok(usize::from(self.byte()?))
        }
    }

    fn sized(&mut self, wide: bool) -> Result<&'a [u8], DecodeError> {
        let length = self.length(wide)?;
        self.take(length)
    }

    fn text(&mut self, wide: bool) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.sized(wide)?).map_err(|_| DecodeError::NotUtf8)
    }

    /// Body and count of a list, map or array: the size counts from after itself.
    fn compound(&mut self, wide: bool) -> Result<(u32, &'a [u8]), DecodeError> {
        let mut inner = Reader::new(self.sized(wide)?);
        #[expect(clippy::cast_possible_truncation, reason = "at most a 32-bit count")]
        let count = inner.length(wide)? as u32;
        Ok((count, inner.rest))
    }

    /// Reads one value, one level deep.
    ///
    /// # Errors
    /// [`DecodeError`]; the position is undefined afterwards.
    pub fn value(&mut self) -> Result<Value<'a>, DecodeError> {
        let code = self.byte()?;
        if code == 0x00 {
            let descriptor = self.raw_at(1)?;
            return Ok(Value::Described(descriptor, self.raw_at(1)?));
        }
        self.value_of(code)
    }

    /// Reads what follows the constructor `code`.
    pub(super) fn value_of(&mut self, code: u8) -> Result<Value<'a>, DecodeError> {
        Ok(match code {
            0x40 => Value::Null,
            0x41 => Value::Bool(true),
            0x42 => Value::Bool(false),
            0x43 => Value::Uint(0),
            0x44 => Value::Ulong(0),
            0x45 => Value::List(List { count: 0, body: &[] }),
            0x50 => Value::Ubyte(self.byte()?),
            0x51 => Value::Byte(i8::from_be_bytes(self.fixed()?)),
            0x52 => Value::Uint(self.byte()?.into()),
            0x53 => Value::Ulong(self.byte()?.into()),
            0x54 => Value::Int(i8::from_be_bytes(self.fixed()?).into()),
            0x55 => Value::Long(i8::from_be_bytes(self.fixed()?).into()),
            0x56 => Value::Bool(self.byte()? != 0),
            0x60 => Value::Ushort(u16::from_be_bytes(self.fixed()?)),
            0x61 => Value::Short(i16::from_be_bytes(self.fixed()?)),
            0x70 => Value::Uint(u32::from_be_bytes(self.fixed()?)),
            0x71 => Value::Int(i32::from_be_bytes(self.fixed()?)),
            0x72 => Value::Float(f32::from_be_bytes(self.fixed()?)),
            0x73 => Value::Char(u32::from_be_bytes(self.fixed()?)),
            0x74 => Value::Decimal(self.take(4)?),
            0x80 => Value::Ulong(u64::from_be_bytes(self.fixed()?)),
            0x81 => Value::Long(i64::from_be_bytes(self.fixed()?)),
            0x82 => Value::Double(f64::from_be_bytes(self.fixed()?)),
            0x83 => Value::Timestamp(i64::from_be_bytes(self.fixed()?)),
            0x84 => Value::Decimal(self.take(8)?),
            0x94 => Value::Decimal(self.take(16)?),
            0x98 => Value::Uuid(self.fixed()?),
            0xa0 => Value::Binary(self.sized(false)?),
            0xb0 => Value::Binary(self.sized(true)?),
            0xa1 => Value::String(self.text(false)?),
            0xb1 => Value::String(self.text(true)?),
            0xa3 => Value::Symbol(self.text(false)?),
            0xb3 => Value::Symbol(self.text(true)?),
            0xc0 | 0xd0 => {
                let (count, body) = self.compound(code == 0xd0)?;
                Value::List(List { count, body })
            }
            0xc1 | 0xd1 => {
                let (count, body) = self.compound(code == 0xd1)?;
                Value::Map(Map { pairs: count / 2, body })
            }
            0xe0 | 0xf0 => {
                let (count, body) = self.compound(code == 0xf0)?;
                Value::Array(Array::new(count, body)?)
            }
            other => return Err(DecodeError::UnknownConstructor(other)),
        })
    }

    /// Reads one value without looking into it.
    ///
    /// # Errors
    /// [`DecodeError`]; the position is undefined afterwards.
    pub fn raw(&mut self) -> Result<Raw<'a>, DecodeError> {
        self.raw_at(0)
    }

    fn raw_at(&mut self, depth: u32) -> Result<Raw<'a>, DecodeError> {
        let start = self.rest;
        self.skip(depth)?;
        Ok(Raw(&start[..start.len() - self.rest.len()]))
    }

    fn skip(&mut self, depth: u32) -> Result<(), DecodeError> {
        if depth > MAX_NESTING {
            return Err(DecodeError::TooDeep);
        }
        let code = self.byte()?;
        let width = match code >> 4 {
            0 if code == 0 => {
                self.skip(depth + 1)?;
                return self.skip(depth + 1);
            }
            4 => 0,
            5 => 1,
            6 => 2,
            7 => 4,
            8 => 8,
            9 => 16,
            0xa | 0xc | 0xe => self.length(false)?,
            0xb | 0xd | 0xf => self.length(true)?,
            _ => return Err(DecodeError::UnknownConstructor(code)),
        };
        self.take(width)?;
        Ok(())
    }
}

/// A list, walked on demand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct List<'a> {
    count: u32,
    body: &'a [u8],
}

impl<'a> List<'a> {
    /// Elements that the list claims to have.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether it claims to have none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements in order; ends after the first error.
    pub fn iter(&self) -> impl Iterator<Item = Result<Raw<'a>, DecodeError>> + use<'a> {
        let (mut reader, mut left) = (Reader::new(self.body), self.count);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let item = reader.raw();
            if item.is_err() {
                left = 0;
            }
            Some(item)
        })
    }

    pub(crate) fn reader(&self) -> (Reader<'a>, u32) {
        (Reader::new(self.body), self.count)
    }
}

/// A map, walked on demand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Map<'a> {
    pairs: u32,
    body: &'a [u8],
}

impl<'a> Map<'a> {
    /// A map without entries.
    pub const EMPTY: Map<'static> = Map { pairs: 0, body: &[] };

    /// Entries that the map claims to have.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.pairs
    }

    /// Whether it claims to have none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// Keys and values in order; ends after the first error.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Raw<'a>, Raw<'a>), DecodeError>> + use<'a> {
        let (mut reader, mut left) = (Reader::new(self.body), self.pairs);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let pair = reader.raw().and_then(|key| Ok((key, reader.raw()?)));
            if pair.is_err() {
                left = 0;
            }
            Some(pair)
        })
    }

    /// The value under the string or symbol `key`, the first if there are several; null counts as absent.
    ///
    /// # Errors
    /// [`DecodeError`] when an entry up to the one sought is malformed.
    pub fn get(&self, key: &str) -> Result<Option<Value<'a>>, DecodeError> {
        for pair in self.iter() {
            let (name, value) = pair?;
            if name.value()?.text() == Some(key) {
                return Ok(Some(value.value()?).filter(|value| *value != Value::Null));
            }
        }
        Ok(None)
    }
}

/// An array, walked on demand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    count: u32,
    constructor: u8,
    body: &'a [u8],
}

impl<'a> Array<'a> {
    fn new(count: u32, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        if count == 0 && body.is_empty() {
            // Some encoders leave the constructor out of an empty array.
            return Ok(Self {
                count: 0,
                constructor: 0x40,
                body,
            });
        }
        let mut constructor = reader.byte()?;
        if constructor == 0 {
            reader.raw_at(1)?;
            constructor = reader.byte()?;
        }
        let limit = if constructor >> 4 == 4 {
            MAX_EMPTY_ELEMENTS as usize
        } else {
            reader.rest.len()
        };
        if count as usize > limit {
            return Err(DecodeError::BadCount);
        }
        Ok(Self {
            count,
            constructor,
            body: reader.rest,
        })
    }

    /// Elements in the array.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements in order, without a common descriptor; ends after the first error.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, DecodeError>> + use<'a> {
        let (mut reader, mut left, constructor) = (Reader::new(self.body), self.count, self.constructor);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let item = reader.value_of(constructor);
            if item.is_err() {
                left = 0;
            }
            Some(item)
        })
    }
}

/// Validates every part of one value: types known, strings UTF-8, counts right, nesting within
/// [`crate::limits::MAX_NESTING`].
///
/// For bytes of one peer that are kept and later sent to another.
///
/// # Errors
/// The first [`DecodeError`] met.
pub fn validate(raw: Raw<'_>) -> Result<(), DecodeError> {
    validate_at(raw.value()?, 0)
}

fn validate_at(value: Value<'_>, depth: u32) -> Result<(), DecodeError> {
    if depth > MAX_NESTING {
        return Err(DecodeError::TooDeep);
    }
    match value {
        Value::Described(descriptor, value) => {
            validate_at(descriptor.value()?, depth + 1)?;
            validate_at(value.value()?, depth + 1)
        }
        Value::List(list) => list.iter().try_for_each(|item| validate_at(item?.value()?, depth + 1)),
        Value::Map(map) => map.iter().try_for_each(|pair| {
            let (key, value) = pair?;
            validate_at(key.value()?, depth + 1)?;
            validate_at(value.value()?, depth + 1)
        }),
        Value::Array(array) => array.iter().try_for_each(|item| validate_at(item?, depth + 1)),
        _ => Ok(()),
    }
}
