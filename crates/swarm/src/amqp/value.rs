//! AMQP's types, as far as devices need them (AMQP 1.0 part 1).

use anyhow::{Context, Result, bail, ensure};

/// A value that was read; what devices never look into is skipped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    /// Null.
    Null,
    /// A boolean.
    Bool(bool),
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// A string or symbol.
    Text(&'a [u8]),
    /// Binary.
    Binary(&'a [u8]),
    /// A list's or map's elements: how many, and their bytes.
    Items(u32, &'a [u8]),
    /// A described value: the descriptor's number and the bytes of the value.
    Described(u64, &'a [u8]),
    /// Any other type.
    Other,
}

impl<'a> Value<'a> {
    pub(crate) fn unsigned(self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn text(self) -> Option<&'a [u8]> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The next values of some bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values<'a>(pub(crate) &'a [u8]);

impl<'a> Values<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count).context("a value that is cut short")?;
        self.0 = rest;
        Ok(head)
    }

    fn number(&mut self, bytes: usize) -> Result<u64> {
        Ok(self
            .take(bytes)?
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn sized(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let length = self.number(bytes)?;
        self.take(usize::try_from(length)?)
    }

    fn items(&mut self, bytes: usize) -> Result<Value<'a>> {
        let mut inside = Self(self.sized(bytes)?);
        let count = inside.number(bytes)?;
        Ok(Value::Items(u32::try_from(count)?, inside.0))
    }

    /// Whether all are read.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next value.
    pub(crate) fn next(&mut self) -> Result<Value<'a>> {
        let code = self.number(1)?;
        Ok(match code {
            0x00 => return self.described(),
            0x40 => Value::Null,
            0x41 => Value::Bool(true),
            0x42 => Value::Bool(false),
            0x56 => Value::Bool(self.number(1)? != 0),
            0x43 | 0x44 => Value::Unsigned(0),
            0x50 | 0x52 | 0x53 => Value::Unsigned(self.number(1)?),
            0x60 => Value::Unsigned(self.number(2)?),
            0x70 => Value::Unsigned(self.number(4)?),
            0x80 => Value::Unsigned(self.number(8)?),
            // Sign extension: the value's own width, then the widest.
            0x51 | 0x54 | 0x55 => Value::Signed(i64::from(self.number(1)? as u8 as i8)),
            0x61 => Value::Signed(i64::from(self.number(2)? as u16 as i16)),
            0x71 => Value::Signed(i64::from(self.number(4)? as u32 as i32)),
            0x81 => Value::Signed(self.number(8)? as i64),
            0xa0 => Value::Binary(self.sized(1)?),
            0xb0 => Value::Binary(self.sized(4)?),
            0xa1 | 0xa3 => Value::Text(self.sized(1)?),
            0xb1 | 0xb3 => Value::Text(self.sized(4)?),
            0x45 => Value::Items(0, &[]),
            0xc0 | 0xc1 => self.items(1)?,
            0xd0 | 0xd1 => self.items(4)?,
            0xe0 => self.sized(1).map(|_| Value::Other)?,
            0xf0 => self.sized(4).map(|_| Value::Other)?,
            0x72..=0x74 => self.take(4).map(|_| Value::Other)?,
            0x82..=0x84 => self.take(8).map(|_| Value::Other)?,
            0x94 | 0x98 => self.take(16).map(|_| Value::Other)?,
            other => bail!("a value of the unknown type {other:#04x}"),
        })
    }

    /// The next value as it is encoded.
    pub(crate) fn raw(&mut self) -> Result<&'a [u8]> {
        let from = self.0;
        self.next()?;
        Ok(&from[..from.len() - self.0.len()])
    }

    fn described(&mut self) -> Result<Value<'a>> {
        ensure!(self.0.first() != Some(&0), "a descriptor that is described");
        let descriptor = self.next()?.unsigned().context("a descriptor that is no number")?;
        ensure!(self.0.first() != Some(&0), "a described value in a described value");
        let from = self.0;
        self.next()?;
        Ok(Value::Described(descriptor, &from[..from.len() - self.0.len()]))
    }
}

pub(crate) fn put_null(out: &mut Vec<u8>) {
    out.push(0x40);
}

pub(crate) fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(if value { 0x41 } else { 0x42 });
}

pub(crate) fn put_ubyte(out: &mut Vec<u8>, value: u8) {
    out.extend_from_slice(&[0x50, value]);
}

pub(crate) fn put_ushort(out: &mut Vec<u8>, value: u16) {
    out.push(0x60);
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_uint(out: &mut Vec<u8>, value: u32) {
    out.push(0x70);
    out.extend_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_int(out: &mut Vec<u8>, value: i32) {
    out.push(0x71);
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_sized(out: &mut Vec<u8>, code: u8, bytes: &[u8]) {
    out.push(code);
    // Devices send no text of 4 GB.
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    put_sized(out, 0xb1, text.as_bytes());
}

pub(crate) fn put_symbol(out: &mut Vec<u8>, text: &str) {
    put_sized(out, 0xb3, text.as_bytes());
}

pub(crate) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    put_sized(out, 0xb0, bytes);
}

/// The descriptor of the next value.
pub(crate) fn put_descriptor(out: &mut Vec<u8>, code: u8) {
    out.extend_from_slice(&[0x00, 0x53, code]);
}

/// A list of `count` elements, which `elements` writes.
pub(crate) fn put_list(out: &mut Vec<u8>, count: u32, elements: impl FnOnce(&mut Vec<u8>)) {
    put_items(out, 0xd0, count, elements);
}

/// A map of `count` keys and values together, which `elements` writes.
pub(crate) fn put_map(out: &mut Vec<u8>, count: u32, elements: impl FnOnce(&mut Vec<u8>)) {
    put_items(out, 0xd1, count, elements);
}

fn put_items(out: &mut Vec<u8>, code: u8, count: u32, elements: impl FnOnce(&mut Vec<u8>)) {
    out.push(code);
    let size_at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&count.to_be_bytes());
    elements(out);
    let size = (out.len() - size_at - 4) as u32;
    out[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_back_as_written_and_cuts_are_errors() {
        let mut out = Vec::new();
        put_descriptor(&mut out, 0x24);
        put_list(&mut out, 3, |out| {
            put_uint(out, 7);
            put_string(out, "x");
            put_int(out, -2);
        });
        put_null(&mut out);
        let mut values = Values(&out);
        let Value::Described(0x24, list) = values.next().unwrap() else {
            panic!("no described list");
        };
        let Value::Items(3, inside) = Values(list).next().unwrap() else {
            panic!("no list");
        };
        let mut inside = Values(inside);
        assert_eq!(inside.next().unwrap(), Value::Unsigned(7));
        assert_eq!(inside.next().unwrap(), Value::Text(b"x"));
        assert_eq!(inside.next().unwrap(), Value::Signed(-2));
        assert_eq!(values.next().unwrap(), Value::Null);
        assert!(values.is_empty());
        for length in 0..out.len() - 1 {
            assert!(Values(&out[..length]).next().is_err(), "cut at {length}");
        }
        // Descriptors of descriptors would be recursion without end.
        assert!(Values(&[0; 100_000]).next().is_err());
    }
}
