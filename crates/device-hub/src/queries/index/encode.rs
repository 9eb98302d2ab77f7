//! Values in the form in which indexes store them.
//!
//! Invariants: the order of encoded values of one type is that of the values; equal values have equal forms; no form is the begin
//! of another. Of a long string the begin is stored, so that its form stands for others as well.

use holdfast_query::Value;

/// The version of the form. Indexes of another one are built again.
pub(super) const VERSION: u32 = 1;

/// Bytes of a string that are stored.
pub(super) const MAX_STRING_BYTES: usize = 256;

pub(super) const NULL: u8 = 1;
pub(super) const FALSE: u8 = 2;
pub(super) const TRUE: u8 = 3;
pub(super) const NUMBER: u8 = 4;
pub(super) const STRING: u8 = 5;

/// Ends a string. A byte 0 inside is followed by [`ZERO`].
const END: [u8; 2] = [0, 1];
const ZERO: u8 = 0xff;

/// The form of a value; `None` for arrays, objects and undefined, which no index has.
pub(super) fn encode(value: &Value<'_>) -> Option<Vec<u8>> {
    match value {
        Value::Null => Some(vec![NULL]),
        Value::Bool(false) => Some(vec![FALSE]),
        Value::Bool(true) => Some(vec![TRUE]),
        Value::Number(number) => {
            // There are two zeros, which are equal.
            let bits = (number + 0.0).to_bits();
            let ordered = match bits >> 63 {
                0 => bits | 1 << 63,
                _ => !bits,
            };
            Some([&[NUMBER][..], &ordered.to_be_bytes()].concat())
        }
        Value::String(text) => Some([&string_begin(text)[..], &END].concat()),
        Value::Undefined | Value::Compound(_) => None,
    }
}

/// The begin of the forms of all strings that begin with `text`.
pub(super) fn string_begin(text: &str) -> Vec<u8> {
    let stored = text.as_bytes().iter().take(MAX_STRING_BYTES);
    let mut bytes = Vec::with_capacity(text.len().min(MAX_STRING_BYTES) + 3);
    bytes.push(STRING);
    for byte in stored {
        bytes.push(*byte);
        if *byte == 0 {
            bytes.push(ZERO);
        }
    }
    bytes
}

/// The first form behind all that begin so.
pub(super) fn successor(begin: &[u8]) -> Vec<u8> {
    let mut end = begin.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}
