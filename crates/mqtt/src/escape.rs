//! Percent escapes of topics and user names.
//!
//! Decoding is lenient about bad escapes (they stay literally, Spec §5.2) and strict about UTF-8; encoding escapes
//! everything but unreserved characters, upper case, because each SDK chokes on another one (Spec §4.2 rule 4).

use std::borrow::Cow;
use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Everything except letters, digits and `- _ . ~`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The text without escapes; borrowed when it has none. `None`: not UTF-8 after decoding.
#[inline]
pub(crate) fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.as_bytes().contains(&b'%') {
        return Some(Cow::Borrowed(text));
    }
    percent_decode_str(text).decode_utf8().ok()
}

/// Appends `text` with escapes.
pub(crate) fn encode(text: &str, out: &mut String) {
    for piece in utf8_percent_encode(text, RESERVED) {
        out.push_str(piece);
    }
}

/// Appends something printable that needs no escapes.
pub(crate) fn append(out: &mut String, value: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = out.write_fmt(value);
}
