//! Writing sections, each with the descriptor `00 53 code` that Python's client looks for.

use super::properties::Properties;
use crate::types::{MapWriter, descriptor, put_binary};

/// The `message-format` of a transfer whose data sections are messages of their own.
pub const BATCH_FORMAT: u32 = 0x8001_3700;

/// Starts delivery annotations; keys are symbols.
pub fn begin_delivery_annotations(buf: &mut Vec<u8>) -> MapWriter<'_> {
    descriptor(buf, 0x71);
    MapWriter::begin(buf)
}

/// Starts message annotations; keys are symbols.
pub fn begin_message_annotations(buf: &mut Vec<u8>) -> MapWriter<'_> {
    descriptor(buf, 0x72);
    MapWriter::begin(buf)
}

/// Starts application properties; keys are strings ([`MapWriter::string_key`]).
pub fn begin_application_properties(buf: &mut Vec<u8>) -> MapWriter<'_> {
    descriptor(buf, 0x74);
    MapWriter::begin(buf)
}

/// Appends the properties section.
pub fn put_properties(buf: &mut Vec<u8>, properties: &Properties<'_>) {
    properties.encode(buf);
}

/// Appends a data section.
pub fn put_data(buf: &mut Vec<u8>, bytes: &[u8]) {
    descriptor(buf, 0x75);
    put_binary(buf, bytes);
}

/// Appends a section of one value, which `value` writes.
pub fn put_value(buf: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    descriptor(buf, 0x77);
    value(buf);
}
