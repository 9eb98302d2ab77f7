//! The interface between a node and its disk.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;

use crate::{Durability, Family, Stage, StorageError, View, WriteBatch};

/// Space of the file system that holds the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that an unprivileged process may still write.
    pub free: u64,
    /// Size of the file system in bytes.
    pub total: u64,
}

/// Called with each key and value of a scan, in order; `Break` ends it.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// An ordered key-value store with a write-ahead log: RocksDB in every real process ([`crate::RocksDisk`]), and in
/// simulation a model that loses unsynced writes in a crash ([`crate::SimDisk`]).
///
/// In [`Family::Log`] the keys of one call belong to one group: each group's log may lie in files of its own.
/// Reads see all writes that returned before, synced or not. Calls may block on the disk: reads that may be cold
/// belong on the blocking pool.
pub trait Disk: Send + Sync + 'static {
    /// Applies `batch` at once and unsynced.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`], [`StorageError::Io`]: the node must stop.
    fn write(&self, batch: &WriteBatch, durability: Durability) -> Result<(), StorageError>;

    /// Makes every [`Durability::Logged`] write that returned before this call durable. For the flusher alone.
    ///
    /// # Errors
    /// Any error means that writes since the last sync may be lost: it must not be retried.
    fn sync(&self) -> Result<(), StorageError>;

    /// The value of `key`.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when the file that should hold it does not match its checksum.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// The value of `key` in the flushed files: the value after a crash, if it was written with
    /// [`Durability::Replayed`].
    ///
    /// # Errors
    /// As [`Disk::get`].
    fn get_flushed(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// Visits the keys in `[from, to)` in ascending order.
    ///
    /// # Errors
    /// As [`Disk::get`]; keys visited before the error are valid.
    fn scan(&self, family: Family, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError>;

    /// Visits the keys in `[from, to)` in descending order.
    ///
    /// # Errors
    /// As [`Disk::scan`].
    fn scan_back(&self, family: Family, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError>;

    /// The last key in `[from, to)` and its value.
    ///
    /// # Errors
    /// As [`Disk::get`].
    fn last(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        let mut found = None;
        self.scan_back(family, from, to, &mut |key, value| {
            found = Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Deletes files that lie wholly inside `[from, to)`. Keys of the range in other files stay: the caller has a watermark
    /// below which it does not read.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn delete_files(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), StorageError>;

    /// Writes everything in memory to files, all families at one point, and waits for it.
    ///
    /// # Errors
    /// As [`Disk::write`].
    fn flush(&self) -> Result<(), StorageError>;

    /// Copies the database to `dir`, which must not exist, by linking its files.
    ///
    /// # Errors
    /// [`StorageError::Io`], [`StorageError::Unsupported`] in simulation.
    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError>;

    /// A view of the keys in `[from, to)` as they are now, ascending, to be read while writes continue: for snapshots. Its
    /// keys stay readable until it is dropped, even if they are deleted.
    ///
    /// # Errors
    /// As [`Disk::get`].
    fn view(&self, family: Family, from: &[u8], to: &[u8]) -> Result<View, StorageError> {
        let _ = (family, from, to);
        Err(StorageError::Unsupported("view"))
    }

    /// The staging area for files to be ingested; see [`crate::Staging`].
    ///
    /// # Errors
    /// [`StorageError::Unsupported`] when there is none.
    fn stage(&self) -> Result<&dyn Stage, StorageError> {
        Err(StorageError::Unsupported("files beside the database"))
    }

    /// Bytes of the family's files; what is in memory only is not counted. 0 when it keeps none.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn file_bytes(&self, family: Family) -> Result<u64, StorageError> {
        let _ = family;
        Ok(0)
    }

    /// Space of the file system.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn space(&self) -> Result<DiskSpace, StorageError>;
}
