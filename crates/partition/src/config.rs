//! Section `[partition]` of the configuration.

use holdfast_model::{ByteSize, HumanDuration};

use crate::log::record::MAX_ENTRY_BYTES;
use crate::state::Spacing;

holdfast_config::section! {
    /// The telemetry log: how long events are kept, and what reading them may cost.
    pub struct PartitionConfig = "partition" {
        /// How long events stay readable. Removed are whole stretches of the log that are older.
        pub retention: HumanDuration = HumanDuration::secs(24 * 3600),
            in HumanDuration::secs(1)..=HumanDuration::secs(366 * 24 * 3600) => "must be 1s to 366d";
        /// The most bytes of events that a partition keeps; the oldest go first. 0B: no limit but the disk.
        pub retention_size: ByteSize = ByteSize(0);
        /// How often retention is applied.
        pub retention_interval: HumanDuration = HumanDuration::secs(10),
            in HumanDuration::millis(10)..=HumanDuration::secs(3600) => "must be 10ms to 1h";
        /// Disk space is given back when at least this much can go at once: it is done by deleting whole files.
        pub reclaim_step: ByteSize = ByteSize::mib(64), in ..=ByteSize::gib(64) => "must be at most 64GiB";
        /// Memory for the newest events of a partition, from which readers at its end are served.
        pub tail_cache: ByteSize = ByteSize::mib(8), in ..=ByteSize::gib(4) => "must be at most 4GiB";
        /// Memory for the most recently used device state of a partition.
        pub device_state_cache: ByteSize = ByteSize::mib(4), in ..=ByteSize::gib(4) => "must be at most 4GiB";
        /// How much a reader that is behind reads from disk at once; it holds up to twice that in memory.
        pub read_ahead: ByteSize = ByteSize::mib(1), in ByteSize::kib(4)..=ByteSize(MAX_ENTRY_BYTES as u64)
            => "must be 4KiB to 4MiB, the size of the largest entry";
        /// Bytes of log between two points of the index. Smaller finds a start position faster and takes more memory.
        pub index_spacing: ByteSize = ByteSize::kib(64),
            in ByteSize::kib(1)..=ByteSize::mib(64) => "must be 1KiB to 64MiB";
        /// The most log entries between two points of the index.
        pub index_spacing_entries: u32 = 1024, in 1..=1_000_000 => "must be 1 to 1000000";
        /// After how many bytes of applied log the partition's state is stored anew; as much is replayed after a crash.
        pub state_interval: ByteSize = ByteSize::mib(1), in ..=ByteSize::mib(256) => "must be at most 256MiB";
    }
    check |partition| {
        partition.retention_size == ByteSize(0) || partition.retention_size >= ByteSize::mib(1)
            => retention_size, "must be 0 (no limit) or at least 1MiB";
    }
}

impl PartitionConfig {
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
    use holdfast_config::Section as _;

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
