//! RocksDB behind [`Disk`].
//!
//! Families and column families: `raft`, `registry`, `device` are one each. The partition logs are spread over *lanes*,
//! group g in lane (g − 1) mod the number of lanes, which is fixed when the database is made: while a lane has one group,
//! each file that a flush writes covers a range of indexes above all earlier ones, so that compaction only moves it. With
//! several groups in one family every file spans all groups and is rewritten with its neighbours, four times over
//! (docs/decisions/0010).
//!
//! Not here: when to sync ([`crate::Flusher`]).

mod errors;
mod ingest;
mod options;
mod recover;
mod view;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::properties::LIVE_SST_FILES_SIZE;
use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRawIterator, FlushOptions, ReadOptions, ReadTier, WriteOptions,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::layout;
use crate::metrics::DiskMetrics;
use crate::{
    DataDir, Disk, DiskSpace, Durability, Family, IoFailure, Op, OpenError, Stage, StorageConfig, StorageError, View,
    Visit, WriteBatch,
};

/// Prefix of the names of the column families of partition logs; the lane's number follows.
const LANE_PREFIX: &str = "log-";
const RAFT: &str = "raft";
const REGISTRY: &str = "registry";
const DEVICE: &str = "device";
const DEVICE_STATE: &str = "device-state";
const VALUE_INDEX: &str = "value-index";
const BLOB: &str = "blob";
const STATES: [&str; 6] = [RAFT, REGISTRY, DEVICE, DEVICE_STATE, VALUE_INDEX, BLOB];
/// The last one that the first version made: once it exists, all lanes do. Later ones are added to an older database.
const LAST_OF_FIRST_VERSION: &str = DEVICE;

/// File handles kept for everything but the database's tables: logs, manifests, listeners.
const RESERVED_FILES: u64 = 256;
/// Read ahead of scans.
const READAHEAD_BYTES: usize = 256 << 10;

/// The database of a node.
pub struct RocksDisk {
    db: Arc<DB>,
    /// Names of the lanes, in order.
    lanes: Vec<String>,
    /// Keeps the lock as long as the database is open.
    dir: DataDir,
    logged: WriteOptions,
    replayed: WriteOptions,
    metrics: DiskMetrics,
}

/// Opens the database in `dir`, creating it in a fresh directory. Blocks: replays the write-ahead log of the previous
/// process, at most `storage.max_replay`.
///
/// # Errors
/// [`OpenError::Damaged`] names file and offset; only a last record that a crash has cut off is repaired.
pub fn open(dir: &DataDir, config: &StorageConfig) -> Result<Arc<RocksDisk>, OpenError> {
    RocksDisk::open(dir, config, options::database(config)).map(Arc::new)
}

impl RocksDisk {
    fn open(dir: &DataDir, config: &StorageConfig, database: rocksdb::Options) -> Result<Self, OpenError> {
        check_open_files(config)?;
        let path = dir.database();
        recover::check_files(&path)?;
        let cache = Cache::new_lru_cache(config.block_cache.as_usize());
        let found = columns_on_disk(&database, &path)?;
        let lanes: Vec<String> = (0..count_lanes(&found, config))
            .map(|lane| format!("{LANE_PREFIX}{lane:03}"))
            .collect();
        let logs = lanes
            .iter()
            .map(|name| ColumnFamilyDescriptor::new(name, options::log_lane(config, &cache)));
        let states = STATES
            .into_iter()
            .filter(|name| *name != BLOB || config.blobs || found.iter().any(|found| found == BLOB))
            .map(|name| ColumnFamilyDescriptor::new(name, options::state(config, &cache)));
        let db = DB::open_cf_descriptors(&database, &path, logs.chain(states))
            .map_err(|error| errors::of_open(&error, &path))?;
        dir.database_made()?;
        let mut replayed = WriteOptions::default();
        replayed.disable_wal(true);
        let disk = Self {
            db: Arc::new(db),
            lanes,
            dir: dir.clone(),
            logged: WriteOptions::default(),
            replayed,
            metrics: DiskMetrics::new(),
        };
        crate::install::recover(&disk).map_err(|error| errors::of_install(error, &dir.staged()))?;
        Ok(disk)
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &DataDir {
        &self.dir
    }

    fn column_name(&self, family: Family, key: &[u8]) -> &str {
        match family {
            Family::Log => &self.lanes[layout::group_of(key).wrapping_sub(1) as usize % self.lanes.len()],
            Family::Raft => RAFT,
            Family::Registry => REGISTRY,
            Family::Device => DEVICE,
            Family::DeviceState => DEVICE_STATE,
            Family::ValueIndex => VALUE_INDEX,
            Family::Blob => BLOB,
        }
    }

    fn column(&self, family: Family, key: &[u8]) -> Result<&ColumnFamily, StorageError> {
        let name = self.column_name(family, key);
        self.db
            .cf_handle(name)
            .ok_or_else(|| StorageError::Io(format!("column family {name} is missing").into()))
    }

    fn columns(&self) -> impl Iterator<Item = &ColumnFamily> {
        self.lanes
            .iter()
            .map(String::as_str)
            .chain(STATES)
            .filter_map(|name| self.db.cf_handle(name))
    }

    fn iterator(&self, family: Family, from: &[u8], to: &[u8]) -> Result<DBRawIterator<'_>, StorageError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        if family == Family::Log {
            // History is read once: it must not evict blocks that are read often.
            options.fill_cache(false);
            options.set_readahead_size(READAHEAD_BYTES);
        }
        Ok(self.db.raw_iterator_cf_opt(self.column(family, from)?, options))
    }
}

impl Disk for RocksDisk {
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError> {
        // Twelve bytes of header, and a few per change.
        let mut native = rocksdb::WriteBatch::with_capacity_bytes(batch.len_bytes() + 16 + 16 * batch.len());
        for (family, op) in batch.iter() {
            match op {
                Op::Put { key, value } => native.put_cf(self.column(family, key)?, key, value),
                Op::Delete { key } => native.delete_cf(self.column(family, key)?, key),
                Op::DeleteRange { from, to } => native.delete_range_cf(self.column(family, from)?, from, to),
            }
        }
        let bytes = batch.len_bytes() as u64;
        let options = match durability {
            Durability::Logged => {
                self.metrics.logged_bytes.increment(bytes);
                &self.logged
            }
            Durability::Replayed => {
                self.metrics.replayed_bytes.increment(bytes);
                &self.replayed
            }
        };
        self.db
            .write_opt(native, options)
            .map_err(|error| errors::of_use(&error))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.db.flush_wal(true).map_err(|error| errors::of_use(&error))
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let found = self
            .db
            .get_pinned_cf(self.column(family, key)?, key)
            .map_err(|error| errors::of_use(&error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn get_flushed(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let found = self
            .db
            .get_pinned_cf_opt(self.column(family, key)?, key, &options)
            .map_err(|error| errors::of_use(&error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, family: Family, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let mut iterator = self.iterator(family, from, to)?;
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            if visit(key, value) == ControlFlow::Break(()) {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(|error| errors::of_use(&error))
    }

    fn scan_back(&self, family: Family, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        let mut iterator = self.iterator(family, from, to)?;
        iterator.seek_to_last();
        while let Some((key, value)) = iterator.item() {
            if visit(key, value) == ControlFlow::Break(()) {
                return Ok(());
            }
            iterator.prev();
        }
        iterator.status().map_err(|error| errors::of_use(&error))
    }

    fn delete_files(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), StorageError> {
        if from >= to {
            return Ok(());
        }
        let column = self.column(family, from)?;
        self.db
            .delete_file_in_range_cf(column, from, &just_below(to))
            .map_err(|error| errors::of_use(&error))
    }

    fn flush(&self) -> Result<(), StorageError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let columns: Vec<_> = self.columns().collect();
        self.db
            .flush_cfs_opt(&columns, &options)
            .map_err(|error| errors::of_use(&error))
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(dir))
            .map_err(|error| errors::of_use(&error))
    }

    fn view(&self, family: Family, from: &[u8], to: &[u8]) -> Result<View, StorageError> {
        let column = self.column_name(family, from).to_owned();
        view::open(self.db.clone(), column, from, to)
    }

    fn stage(&self) -> Result<&dyn Stage, StorageError> {
        Ok(self)
    }

    fn file_bytes(&self, family: Family) -> Result<u64, StorageError> {
        let names: Vec<&str> = match family {
            Family::Log => self.lanes.iter().map(String::as_str).collect(),
            family => vec![self.column_name(family, &[])],
        };
        let columns = names.into_iter().filter_map(|name| self.db.cf_handle(name));
        let sizes = columns.map(|column| self.db.property_int_value_cf(column, LIVE_SST_FILES_SIZE));
        let sizes: Result<Vec<Option<u64>>, _> = sizes.collect();
        let sizes = sizes.map_err(|error| errors::of_use(&error))?;
        Ok(sizes.into_iter().flatten().sum())
    }

    fn space(&self) -> Result<DiskSpace, StorageError> {
        let found = rustix::fs::statvfs(self.dir.path()).map_err(|error| {
            StorageError::Io(IoFailure::new(
                "cannot read the free space",
                std::io::Error::from(error),
            ))
        })?;
        Ok(DiskSpace {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

/// The column families of the database; none before it is created.
fn columns_on_disk(options: &rocksdb::Options, path: &Path) -> Result<Vec<String>, OpenError> {
    if !path.join("CURRENT").exists() {
        return Ok(Vec::new());
    }
    DB::list_cf(options, path).map_err(|error| errors::of_open(&error, path))
}

/// The number of lanes of the database with the column families `names`, fixed when it is created.
fn count_lanes(names: &[String], config: &StorageConfig) -> usize {
    let lanes = names.iter().filter(|name| name.starts_with(LANE_PREFIX)).count();
    // A crash while the database was being created may have left fewer, or none: then nothing has been written.
    if names.iter().any(|name| name == LAST_OF_FIRST_VERSION) {
        lanes.max(1)
    } else {
        usize::from(config.log_lanes)
    }
}

/// A key below `to` and above every key that is below `to` and not longer than it by 16 bytes: RocksDB includes the end of
/// the range whose files it deletes.
fn just_below(to: &[u8]) -> Vec<u8> {
    let mut below = to.to_vec();
    while let Some(last) = below.pop() {
        if last > 0 {
            below.push(last - 1);
            below.extend_from_slice(&[0xff; 16]);
            break;
        }
    }
    below
}

/// Raises the process's limit of open files as far as allowed, and returns it.
#[must_use]
pub fn raise_open_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Without the right to raise it the current limit stays: the caller compares it with its needs.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        );
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Compares the process's limit of open files with the needs of the database.
fn check_open_files(config: &StorageConfig) -> Result<(), OpenError> {
    let limit = raise_open_file_limit();
    if u64::from(config.max_open_files) + RESERVED_FILES > limit {
        return Err(OpenError::OpenFiles {
            wanted: config.max_open_files,
            limit,
            reserve: RESERVED_FILES,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
