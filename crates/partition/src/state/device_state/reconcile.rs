//! The rule for state of generations that are over.

use super::DeviceStateEntry;
use crate::log::record::{DeviceStateChange, DeviceStateKey};

/// Whether a generation of a device or module is in use, as the registry knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It is, or the registry's replica is too old to tell: its state stays.
    Live,
    /// It was deleted or replaced: nothing will use its state any more.
    Dead,
}

/// The removals of all values of dead generations among `entries`.
pub fn dead_states<'a>(
    entries: &'a [DeviceStateEntry],
    liveness: impl Fn(&DeviceStateKey<'_>) -> Liveness,
) -> impl Iterator<Item = DeviceStateChange<'a>> {
    entries
        .iter()
        .filter_map(DeviceStateEntry::key)
        .filter(move |key| liveness(key) == Liveness::Dead)
        .map(|key| DeviceStateChange { key, value: None })
}
