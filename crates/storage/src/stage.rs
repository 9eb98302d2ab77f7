//! Files that are built beside the database and become part of it at one moment.
//!
//! Why: what a snapshot brings may be gigabytes; written as ordinary writes it would go through the write-ahead log and
//! memory, and would be half there while it arrives. A file beside the database costs one sequential write, and taking
//! it in costs nothing.
//! Invariants: a file that is not finished, or that nobody takes in, is removed at the latest when the database is opened
//! next; what [`Stage::ingest`] takes in is visible and durable at once or not at all.
//! Not here: the order in which a snapshot replaces what was there ([`crate::Staging`]).

use crate::{Family, StorageError};

/// What a finished file holds, to be compared before it is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSum {
    /// Its length.
    pub bytes: u64,
    /// CRC-32C of all of it.
    pub crc32c: u32,
}

/// The place beside the database. All of its calls block.
pub trait Stage: Send + Sync {
    /// Begins the file `name` for keys of `family`; in [`Family::Log`] they belong to the group of `key`.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`], [`StorageError::Io`].
    fn create(&self, name: &str, family: Family, key: &[u8]) -> Result<Box<dyn Bulk>, StorageError>;

    /// What the finished file `name` holds now, read anew; `None` when there is no such file.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn sum(&self, name: &str) -> Result<Option<FileSum>, StorageError>;

    /// Takes finished files into `family`, all at once and durably; where their keys overlap, later files win. The files
    /// are gone from here afterwards.
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

    /// Writes the note `name`, all of it or nothing, durably.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`], [`StorageError::Io`].
    fn put_note(&self, name: &str, content: &[u8]) -> Result<(), StorageError>;

    /// All notes.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn notes(&self) -> Result<Vec<(String, Vec<u8>)>, StorageError>;

    /// Removes a note durably.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    fn remove_note(&self, name: &str) -> Result<(), StorageError>;
}

/// A file under construction; dropping it removes it.
pub trait Bulk: Send {
    /// Adds a key, which is above all keys before it.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`], [`StorageError::Io`].
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError>;

    /// Lets the file, when it is taken in, remove what the database has in `[from, to)`; keys of the same file stay.
    ///
    /// # Errors
    /// As [`Bulk::put`].
    fn delete_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StorageError>;

    /// Ends the file and makes it durable.
    ///
    /// # Errors
    /// As [`Bulk::put`].
    fn finish(self: Box<Self>) -> Result<FileSum, StorageError>;
}
