//! The staging area: files that are written beside the database and then ingested atomically.
//!
//! Why: a snapshot may be gigabytes; as ordinary writes it would go through the write-ahead log and memory, and would be
//! partly visible while it arrives. A file beside the database costs one sequential write, and ingesting it is almost
//! free.
//! Invariants: a file that is not finished, or not ingested, is removed at the latest when the database is next opened;
//! the files of one [`Stage::ingest`] become visible and durable together or not at all.
//! Not here: the order in which a snapshot replaces the old state ([`crate::Staging`]).

use crate::{Family, StorageError};

/// Length and checksum of a finished file, compared before it is ingested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSum {
    /// Its length.
    pub bytes: u64,
    /// CRC-32C of all of it.
    pub crc32c: u32,
}

/// A staging area. All of its calls block.
pub trait Stage: Send + Sync {
    /// Creates the file `name` for keys of `family`; in [`Family::Log`] they belong to the group of `key`.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`], [`StorageError::Io`].
    fn create(&self, name: &str, family: Family, key: &[u8]) -> Result<Box<dyn Bulk>, StorageError>;

    /// Length and checksum of the finished file `name`, read again; `None` when there is no such file.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn sum(&self, name: &str) -> Result<Option<FileSum>, StorageError>;

    /// Ingests finished files into `family`, atomically and durably; where their keys overlap, later files win. The files
    /// leave the staging area.
    ///
    /// # Errors
    /// Any error means that the node must stop.
    fn ingest(&self, family: Family, key: &[u8], names: &[&str]) -> Result<(), StorageError>;

    /// Removes the file `name` if it is there.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn remove(&self, name: &str) -> Result<(), StorageError>;

    /// The names of all files.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn names(&self) -> Result<Vec<String>, StorageError>;

    /// Writes the journal record `name`, atomically and durably.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`], [`StorageError::Io`].
    fn write_journal(&self, name: &str, content: &[u8]) -> Result<(), StorageError>;

    /// All journal records.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn journal(&self) -> Result<Vec<(String, Vec<u8>)>, StorageError>;

    /// Removes a journal record durably.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn remove_journal(&self, name: &str) -> Result<(), StorageError>;
}

/// A file under construction; dropping it removes it.
pub trait Bulk: Send {
    /// Adds a key, which is above all keys before it.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`], [`StorageError::Io`].
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError>;

    /// Makes the ingestion of the file remove the database's keys in `[from, to)`; keys of the same file stay.
    ///
    /// # Errors
    /// As [`Bulk::put`].
    fn delete_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StorageError>;

    /// Finishes the file and makes it durable.
    ///
    /// # Errors
    /// As [`Bulk::put`].
    fn finish(self: Box<Self>) -> Result<FileSum, StorageError>;
}
