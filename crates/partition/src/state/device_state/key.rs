//! Keys of device state: kind · device · 0 · module · 0 · generation · 0 · item. Group and epoch come in front on disk.
//!
//! Texts hold no byte 0, so that all values of a kind, of a device, or of a generation are one range.

use bytes::Bytes;

use crate::log::record::{DeviceStateKey, DeviceStateKind};

/// The bytes of a key, without group and epoch.
pub(crate) fn encode_key(key: &DeviceStateKey<'_>) -> Vec<u8> {
    let module = key.module.unwrap_or_default();
    let mut bytes = Vec::with_capacity(4 + key.device.len() + module.len() + key.generation.len() + key.item.len());
    bytes.push(key.kind.0);
    for text in [key.device, module, key.generation] {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    bytes.extend_from_slice(key.item);
    bytes
}

/// The inverse of [`encode_key`]; `None` for any other bytes.
pub(crate) fn decode_key(bytes: &[u8]) -> Option<DeviceStateKey<'_>> {
    let (kind, rest) = bytes.split_first()?;
    let mut parts = rest.splitn(4, |byte| *byte == 0);
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let (device, module, generation) = (text()?, text()?, text()?);
    let item = parts.next()?;
    (*kind != 0 && !device.is_empty()).then_some(DeviceStateKey {
        kind: DeviceStateKind(*kind),
        device,
        module: Some(module).filter(|module| !module.is_empty()),
        generation,
        item,
    })
}

/// The begin of all keys of a kind.
pub(crate) fn kind_prefix(kind: DeviceStateKind) -> [u8; 1] {
    [kind.0]
}

/// A value found by iteration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStateEntry {
    pub(crate) key: Bytes,
    /// The value.
    pub value: Bytes,
}

impl DeviceStateEntry {
    /// Its name. `None` only for damaged keys, which iteration does not give.
    #[must_use]
    pub fn key(&self) -> Option<DeviceStateKey<'_>> {
        decode_key(&self.key)
    }
}

/// Some values of a kind, in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceStatePage {
    /// The values.
    pub entries: Vec<DeviceStateEntry>,
    /// Where the next page begins; `None`: there is no more.
    pub(crate) next: Option<Bytes>,
}

impl DeviceStatePage {
    /// Whether this is the last page.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.next.is_none()
    }
}
