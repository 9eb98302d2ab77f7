//! RocksDB's options; each one that could lose data is set explicitly (docs/storage.md, "RocksDB").

use rocksdb::{BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel, Options};

use crate::StorageConfig;

const LOG_BLOCK_BYTES: usize = 32 << 10;
const STATE_BLOCK_BYTES: usize = 8 << 10;

/// Parts in which index and filter of a state's table are read.
const STATE_INDEX_BYTES: usize = 4 << 10;

/// Options of the whole database.
pub(super) fn database(config: &StorageConfig) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);

    // Durability: writes are buffered until the flusher's one `flush_wal(true)`.
    options.set_manual_wal_flush(true);
    // State and log reach files at one point, so that state is never ahead of the log it was made from.
    options.set_atomic_flush(true);
    // The default opens with a shorter log after a flipped bit.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    // A recycled file holds old records after the new ones.
    options.set_recycle_log_file_num(0);
    options.set_use_fsync(false);

    // Bounds: memory for writes, and the log replayed by a restart.
    options.set_db_write_buffer_size(config.write_buffer.as_usize());
    options.set_max_total_wal_size(config.max_replay.bytes());
    options.set_max_open_files(i32::try_from(config.max_open_files).unwrap_or(i32::MAX));
    options.set_max_background_jobs(i32::try_from(config.background_jobs).unwrap_or(2));
    // Files are handed to the disk while they are written, not all at once at their end.
    options.set_bytes_per_sync(1 << 20);

    options.set_max_log_file_size(4 << 20);
    options.set_keep_log_file_num(4);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// A lane of partition logs: keys only grow, so that files are moved down and never rewritten.
pub(super) fn log_lane(config: &StorageConfig, cache: &Cache) -> Options {
    let mut options = family(config, cache, LOG_BLOCK_BYTES);
    options.set_compression_type(DBCompressionType::None);
    // One target for all: the lowest level is the only one below level 0.
    options.set_max_bytes_for_level_base(1 << 50);
    // A file is moved as soon as it is there: whole-file deletion does nothing in level 0.
    options.set_level_zero_file_num_compaction_trigger(1);
    options.set_level_zero_slowdown_writes_trigger(64);
    options.set_level_zero_stop_writes_trigger(128);
    // Old data is not rewritten because of its age.
    options.set_periodic_compaction_seconds(0);
    options.set_ttl(0);
    options
}

/// State machines, votes and the registry's log: small, overwritten, compressed.
pub(super) fn state(config: &StorageConfig, cache: &Cache) -> Options {
    let mut options = family(config, cache, STATE_BLOCK_BYTES);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

/// Tables that are written beside the database, in the form of a lane of logs or of the other families.
pub(super) fn staged(log: bool) -> Options {
    let (block_bytes, compression) = if log {
        (LOG_BLOCK_BYTES, DBCompressionType::None)
    } else {
        (STATE_BLOCK_BYTES, DBCompressionType::Lz4)
    };
    let mut options = Options::default();
    options.set_block_based_table_factory(&table(block_bytes));
    options.set_compression_type(compression);
    options.set_bytes_per_sync(1 << 20);
    options
}

fn table(block_bytes: usize) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(block_bytes);
    table.set_format_version(5);
    table.set_bloom_filter(10.0, false);
    table.set_optimize_filters_for_memory(true);
    if block_bytes == STATE_BLOCK_BYTES {
        // State is read by key, at random. As one block, index and filter of a table of a million devices are larger than a shard
        // of a small cache, and would be read again for every key.
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_metadata_block_size(STATE_INDEX_BYTES);
        table.set_pin_top_level_index_and_filter(true);
    }
    table
}

fn family(config: &StorageConfig, cache: &Cache, block_bytes: usize) -> Options {
    let mut table = table(block_bytes);
    table.set_block_cache(cache);
    // Index and filter blocks count against the cache, so that memory does not grow with the log.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_level_compaction_dynamic_level_bytes(true);
    // The database-wide limit decides when memory is flushed, all families at once.
    options.set_write_buffer_size(config.write_buffer.as_usize());
    options.set_max_write_buffer_number(4);
    // Many families are nearly empty: their memory grows in small steps.
    options.set_arena_block_size(256 << 10);
    options
}
