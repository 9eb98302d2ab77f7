//! Section `[storage]` of the configuration.

use holdfast_model::ByteSize;

holdfast_config::section! {
    /// The database: free space, memory and files.
    pub struct StorageConfig = "storage" {
        /// Below this much free space telemetry and registry writes are refused (error 503005) until there is more.
        pub min_free: ByteSize = ByteSize::gib(1);
        /// The same as a share of the file system, in percent; the larger of the two counts.
        pub min_free_percent: u8 = 5, in 0..=50 => "must be 0 to 50";
        /// Memory for writes that are not yet in files, for the whole database. More means fewer, larger files.
        pub write_buffer: ByteSize = ByteSize::mib(128),
            in ByteSize::mib(1)..=ByteSize::gib(4) => "must be 1MiB to 4GiB";
        /// The most that is read back from the write-ahead log after a crash.
        pub max_replay: ByteSize = ByteSize::mib(256), in ..=ByteSize::gib(16) => "must be at most 16GiB";
        /// Memory for blocks that were read from files.
        pub block_cache: ByteSize = ByteSize::mib(32), in ..=ByteSize::gib(256) => "must be at most 256GiB";
        /// The most files that the database holds open. Connections need file handles too.
        pub max_open_files: u32 = 1_024, in 64..=1_000_000 => "must be 64 to 1000000";
        /// Threads that write and merge files in the background.
        pub background_jobs: u32 = 2, in 2..=64 => "must be 2 to 64";
    }
    fixed {
        /// Number of column families for the partition logs. Takes effect when the database is created, and is fixed then:
        /// with fewer than the node has partitions, logs share files and are rewritten by compaction.
        pub log_lanes: u16 = 16;
        /// Whether the database gets a column family for the embedded blob endpoint. An earlier version does not open a database that
        /// has one, so that a node without the endpoint can go back to it. One that exists is opened in any case.
        pub blobs: bool = true;
    }
    check |storage| {
        storage.max_replay >= storage.write_buffer => max_replay, "must not be smaller than storage.write_buffer";
    }
}

#[cfg(test)]
mod tests {
    use holdfast_config::Section as _;

    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(StorageConfig::default().validate(), Ok(()));
    }

    #[test]
    fn a_replay_smaller_than_the_write_buffer_is_refused() {
        let config = StorageConfig {
            max_replay: ByteSize::mib(1),
            ..StorageConfig::default()
        };
        assert_eq!(config.validate().unwrap_err().key, "max_replay");
    }
}
