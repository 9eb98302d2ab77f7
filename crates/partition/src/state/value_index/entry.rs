//! Keys of entries: number of the index · encoded value · key of the device state. Group, epoch and kind come in front on
//! disk; the stored value is the length of the encoded value.
//!
//! No encoded value is the begin of another, so that all entries of a value are one range, in the order of their states.

use bytes::Bytes;

use crate::log::record::DeviceStateKind;

/// Bytes of an encoded value.
pub(crate) type ValueLength = u16;

const NUMBER_BYTES: usize = 4;

/// The key of an entry, without group and epoch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryKey(pub(crate) Bytes);

impl EntryKey {
    pub(crate) fn new(number: u32, value: &[u8], state: &[u8]) -> Self {
        Self([&number.to_be_bytes(), value, state].concat().into())
    }

    pub(crate) fn number(&self) -> Option<u32> {
        self.0.first_chunk().copied().map(u32::from_be_bytes)
    }

    pub(crate) fn value(&self, length: ValueLength) -> Option<Bytes> {
        let end = NUMBER_BYTES + usize::from(length);
        (end <= self.0.len()).then(|| self.0.slice(NUMBER_BYTES..end))
    }

    /// The key of its device state.
    pub(crate) fn state(&self, length: ValueLength) -> Option<Bytes> {
        let start = NUMBER_BYTES + usize::from(length);
        (start <= self.0.len()).then(|| self.0.slice(start..))
    }
}

/// The begin of all entries of a value.
pub(crate) fn prefix(number: u32, value: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes(), value].concat()
}

/// A state key behind those of all generations and items of an identity and before those of the next one.
pub(crate) fn behind(kind: DeviceStateKind, device: &str, module: &str) -> Vec<u8> {
    // A generation is text, and text has no such byte.
    [&[kind.0], device.as_bytes(), &[0], module.as_bytes(), &[0, 0xff]].concat()
}
