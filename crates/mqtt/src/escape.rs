//! Percent escapes of topics and user names.
//!
//! Decoding is lenient about bad escapes (they stay literally, Spec §5.2) and strict about UTF-8; encoding escapes
//! everything but unreserved characters, upper case, because each SDK chokes on another one (Spec §4.2 rule 4).

use std::borrow::Cow;
use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything except letters, digits and `- _ . ~`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The text without escapes; borrowed when it has none. `None`: not UTF-8 after decoding.
#[inline]
pub(crate) fn decode(text: &str) -> Option<Cow<'_, str>> {
    match text.as_bytes().iter().position(|&byte| byte == b'%') {
        None => Some(Cow::Borrowed(text)),
        Some(first) => decode_from(text, first).map(Cow::Owned),
    }
}

/// One pass and one allocation; the crate's decoder takes three times as long.
fn decode_from(text: &str, first: usize) -> Option<String> {
    let (head, mut rest) = text.as_bytes().split_at_checked(first)?;
    let mut out = Vec::with_capacity(text.len());
    out.extend_from_slice(head);
    loop {
        rest = match rest {
            [b'%', high, low, tail @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    tail
                }
                _ => {
                    out.push(b'%');
                    rest.get(1..)?
                }
            },
            [byte, tail @ ..] => {
                out.push(*byte);
                tail
            }
            [] => return String::from_utf8(out).ok(),
        };
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Appends `text` with escapes.
pub fn encode(text: &str, out: &mut String) {
    for piece in utf8_percent_encode(text, RESERVED) {
        out.push_str(piece);
    }
}

/// Appends something printable that needs no escapes.
pub(crate) fn append(out: &mut String, value: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = out.write_fmt(value);
}
