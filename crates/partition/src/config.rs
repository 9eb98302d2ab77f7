//! Section `[partition]` of the configuration.

use std::time::Duration;

use holdfast_model::{ByteSize, HumanDuration};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::log::record::MAX_ENTRY_BYTES;
use crate::state::Spacing;

/// Retention, memory and persistence of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PartitionConfig {
    /// How long events stay readable. Older events are removed in steps of about `index_spacing`.
    pub retention: HumanDuration,
    /// The most bytes of events that a partition keeps; the oldest go first. 0 = no limit but the disk.
    pub retention_size: ByteSize,
    /// How often retention runs.
    pub retention_interval: HumanDuration,
    /// Disk space is reclaimed when at least this much can be deleted at once; only whole files are deleted.
    pub reclaim_step: ByteSize,
    /// Memory for the newest events of a partition; readers near its end are served from it.
    pub tail_cache: ByteSize,
    /// Memory for the most recently used device state of a partition.
    pub device_state_cache: ByteSize,
    /// Bytes that a reader behind the cache reads from disk at once; it holds up to twice that in memory.
    pub read_ahead: ByteSize,
    /// Bytes of log between two points of the index. A smaller value finds a start position faster and takes more memory.
    pub index_spacing: ByteSize,
    /// The most log entries between two points of the index.
    pub index_spacing_entries: u32,
    /// The partition's state is persisted after this many bytes of applied log; as much is replayed after a crash.
    pub state_interval: ByteSize,
}

impl Default for PartitionConfig {
    fn default() -> Self {
        Self {
            retention: HumanDuration::secs(24 * 3600),
            retention_size: ByteSize(0),
            retention_interval: HumanDuration::secs(10),
            reclaim_step: ByteSize::mib(64),
            tail_cache: ByteSize::mib(8),
            device_state_cache: ByteSize::mib(4),
            read_ahead: ByteSize::mib(1),
            index_spacing: ByteSize::kib(64),
            index_spacing_entries: 1024,
            state_interval: ByteSize::mib(1),
        }
    }
}

/// A value of `[partition]` that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("partition.{key}: {reason}")]
pub struct InvalidConfig {
    /// The key inside the section.
    pub key: &'static str,
    /// Why, with the allowed range.
    pub reason: &'static str,
}

impl PartitionConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// The first value that cannot work.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let check = |ok: bool, key, reason| if ok { Ok(()) } else { Err(InvalidConfig { key, reason }) };
        let seconds = |duration: HumanDuration| duration.get().as_secs();
        let largest_entry = ByteSize(MAX_ENTRY_BYTES as u64);
        check(
            (1..=366 * 24 * 3600).contains(&seconds(self.retention)),
            "retention",
            "must be 1s to 366d",
        )?;
        check(
            self.retention_size == ByteSize(0) || self.retention_size >= ByteSize::mib(1),
            "retention_size",
            "must be 0 (no limit) or at least 1MiB",
        )?;
        let interval = self.retention_interval.get();
        check(
            (Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&interval),
            "retention_interval",
            "must be 10ms to 1h",
        )?;
        check(
            self.reclaim_step <= ByteSize::gib(64),
            "reclaim_step",
            "must be at most 64GiB",
        )?;
        check(
            self.tail_cache <= ByteSize::gib(4),
            "tail_cache",
            "must be at most 4GiB",
        )?;
        check(
            self.device_state_cache <= ByteSize::gib(4),
            "device_state_cache",
            "must be at most 4GiB",
        )?;
        check(
            (ByteSize::kib(4)..=largest_entry).contains(&self.read_ahead),
            "read_ahead",
            "must be 4KiB to 4MiB, the size of the largest entry",
        )?;
        let spacing = self.index_spacing;
        check(
            (ByteSize::kib(1)..=ByteSize::mib(64)).contains(&spacing),
            "index_spacing",
            "must be 1KiB to 64MiB",
        )?;
        check(
            (1..=1_000_000).contains(&self.index_spacing_entries),
            "index_spacing_entries",
            "must be 1 to 1000000",
        )?;
        check(
            self.state_interval <= ByteSize::mib(256),
            "state_interval",
            "must be at most 256MiB",
        )
    }

    pub(crate) fn spacing(&self) -> Spacing {
        Spacing {
            bytes: self.index_spacing.bytes(),
            entries: u64::from(self.index_spacing_entries),
        }
    }

    /// [`Self::retention_size`], with "no limit" as the largest number.
    pub(crate) fn max_retained_bytes(&self) -> u64 {
        if self.retention_size == ByteSize(0) {
            u64::MAX
        } else {
            self.retention_size.bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(PartitionConfig::default().validate(), Ok(()));
    }

    #[test]
    fn values_out_of_range_name_their_key() {
        let key = |change: fn(&mut PartitionConfig)| {
            let mut config = PartitionConfig::default();
            change(&mut config);
            config.validate().unwrap_err().key
        };
        assert_eq!(key(|config| config.retention = HumanDuration::millis(1)), "retention");
        assert_eq!(key(|config| config.retention_size = ByteSize(1)), "retention_size");
        assert_eq!(key(|config| config.read_ahead = ByteSize::gib(1)), "read_ahead");
        assert_eq!(key(|config| config.index_spacing = ByteSize(0)), "index_spacing");
        assert_eq!(key(|config| config.index_spacing_entries = 0), "index_spacing_entries");
    }
}
