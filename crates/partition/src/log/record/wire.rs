//! The protobuf wire form, as far as our messages need it: varints, lengths, skipping unknown fields.
//!
//! Invariants: reads never run past the slice; every failure says at which byte and why; groups are refused, so nothing
//! here recurses.

use thiserror::Error;

use super::fields::{BYTES, FIXED32, FIXED64, VARINT};

/// Stored bytes that are no entry or record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("damaged at byte {offset}: {what}")]
pub struct Corrupt {
    /// Bytes from the start of the slice that was parsed.
    pub offset: usize,
    /// The kind of damage.
    pub what: &'static str,
}

/// Reads one message from its first byte to its last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(super) fn at(bytes: &'a [u8], offset: usize) -> Self {
        Self {
            bytes,
            offset: offset.min(bytes.len()),
        }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.offset == self.bytes.len()
    }

    pub(super) fn corrupt(&self, what: &'static str) -> Corrupt {
        Corrupt {
            offset: self.offset,
            what,
        }
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Corrupt> {
        let rest = &self.bytes[self.offset..];
        if let Some(&first) = rest.first()
            && first < 0x80
        {
            self.offset += 1;
            return Ok(u64::from(first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, Corrupt> {
        let mut value = 0_u64;
        for (position, &byte) in self.bytes[self.offset..].iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if position == 9 && bits > 1 {
                return Err(self.corrupt("a number has more than 64 bits"));
            }
            value |= bits << (7 * position);
            if byte < 0x80 {
                self.offset += position + 1;
                return Ok(value);
            }
        }
        Err(self.corrupt("a number does not end"))
    }

    #[inline]
    pub(super) fn tag(&mut self) -> Result<u32, Corrupt> {
        let tag = self.varint()?;
        u32::try_from(tag)
            .ok()
            .filter(|tag| tag >> 3 != 0)
            .ok_or_else(|| self.corrupt("a field has no valid number"))
    }

    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Corrupt> {
        let length = self.varint()?;
        let rest = self.bytes.len() - self.offset;
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= rest) else {
            return Err(self.corrupt("a length reaches past the end"));
        };
        let start = self.offset;
        self.offset += length;
        Ok(&self.bytes[start..self.offset])
    }

    #[inline]
    pub(super) fn text(&mut self) -> Result<&'a str, Corrupt> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|_| self.corrupt("a text is not UTF-8"))
    }

    pub(super) fn fixed32(&mut self) -> Result<u32, Corrupt> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn fixed64(&mut self) -> Result<u64, Corrupt> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let Some(array) = self.bytes[self.offset..].first_chunk::<N>() else {
            return Err(self.corrupt("a fixed-width number is cut off"));
        };
        self.offset += N;
        Ok(*array)
    }

    /// Steps over the value of a field that this version does not know.
    pub(super) fn skip(&mut self, tag: u32) -> Result<(), Corrupt> {
        match tag.to_le_bytes()[0] & 7 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.fixed64().map(drop),
            BYTES => self.bytes().map(drop),
            FIXED32 => self.fixed32().map(drop),
            _ => Err(self.corrupt("a field has an unknown wire type")),
        }
    }
}

/// The most bytes of a varint of 64 bits.
const MAX_VARINT: usize = 10;

/// Bytes that `value` takes as a varint.
pub(super) fn varint_bytes(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[inline]
pub(super) fn encode_varint(buffer: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        buffer.push(value.to_le_bytes()[0]);
    } else {
        encode_long_varint(buffer, value);
    }
}

fn encode_long_varint(buffer: &mut Vec<u8>, mut value: u64) {
    let mut scratch = [0_u8; MAX_VARINT];
    let mut length = 0;
    while value >= 0x80 {
        scratch[length] = value.to_le_bytes()[0] | 0x80;
        value >>= 7;
        length += 1;
    }
    scratch[length] = value.to_le_bytes()[0];
    buffer.extend_from_slice(&scratch[..=length]);
}

/// A tag of one byte (fields 1–15) or two, then the length, then the bytes.
#[inline]
pub(super) fn encode_bytes(buffer: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    let length = bytes.len();
    if tag < 0x80 && length < 0x80 {
        buffer.extend_from_slice(&[tag.to_le_bytes()[0], length.to_le_bytes()[0]]);
    } else {
        encode_varint(buffer, u64::from(tag));
        encode_varint(buffer, length as u64);
    }
    buffer.extend_from_slice(bytes);
}

#[inline]
pub(super) fn encode_number(buffer: &mut Vec<u8>, tag: u32, value: u64) {
    encode_varint(buffer, u64::from(tag));
    encode_varint(buffer, value);
}

/// Bytes of tag, length and content of a field.
pub(super) fn field_bytes(tag: u32, length: usize) -> usize {
    varint_bytes(tag as usize) + varint_bytes(length) + length
}
