//! Section `[storage]` of the configuration.

use std::path::PathBuf;

use holdfast_model::ByteSize;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Storage of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// The data directory. Belongs to one node; created when missing.
    pub dir: PathBuf,
    /// Below this much free space telemetry and registry writes are refused (error 503005) until there is more.
    pub min_free: ByteSize,
    /// The same as a share of the file system, in percent; the larger of the two counts.
    pub min_free_percent: u8,
    /// Memory for writes that are not yet in files, for the whole database. More means fewer, larger files.
    pub write_buffer: ByteSize,
    /// Limit of the write-ahead log that is replayed after a crash.
    pub max_replay: ByteSize,
    /// Memory for blocks that were read from files.
    pub block_cache: ByteSize,
    /// Limit of files that the database keeps open. Connections need file handles too.
    pub max_open_files: u32,
    /// Threads that write and merge files in the background.
    pub background_jobs: u32,
    /// Number of column families for the partition logs. Takes effect when the database is created, and is fixed then: with
    /// fewer than the node has partitions, logs share files and are rewritten by compaction.
    pub log_lanes: u16,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("data"),
            min_free: ByteSize::gib(1),
            min_free_percent: 5,
            write_buffer: ByteSize::mib(128),
            max_replay: ByteSize::mib(256),
            block_cache: ByteSize::mib(32),
            max_open_files: 1_024,
            background_jobs: 2,
            log_lanes: 16,
        }
    }
}

/// A value of `[storage]` that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("storage.{key}: {reason}")]
pub struct InvalidConfig {
    /// The key inside the section.
    pub key: &'static str,
    /// Why, with the allowed range.
    pub reason: String,
}

impl StorageConfig {
    /// Checks ranges and relations.
    ///
    /// # Errors
    /// The first value that cannot work.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let check = |ok: bool, key, reason: &str| {
            if ok {
                Ok(())
            } else {
                Err(InvalidConfig {
                    key,
                    reason: reason.to_owned(),
                })
            }
        };
        check(!self.dir.as_os_str().is_empty(), "dir", "must name a directory")?;
        check(self.min_free_percent <= 50, "min_free_percent", "must be 0 to 50")?;
        let buffer = self.write_buffer;
        check(
            (ByteSize::mib(1)..=ByteSize::gib(4)).contains(&buffer),
            "write_buffer",
            "must be 1MiB to 4GiB",
        )?;
        check(
            self.max_replay >= buffer,
            "max_replay",
            "must not be smaller than storage.write_buffer",
        )?;
        check(
            self.max_replay <= ByteSize::gib(16),
            "max_replay",
            "must be at most 16GiB",
        )?;
        check(
            self.block_cache <= ByteSize::gib(256),
            "block_cache",
            "must be at most 256GiB",
        )?;
        check(
            (64..=1_000_000).contains(&self.max_open_files),
            "max_open_files",
            "must be 64 to 1000000",
        )?;
        check(
            (2..=64).contains(&self.background_jobs),
            "background_jobs",
            "must be 2 to 64",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_read_back() {
        let config = StorageConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<StorageConfig>(&text).unwrap(), config);
        assert!(toml::from_str::<StorageConfig>("min_fre = \"1GiB\"").is_err());
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
