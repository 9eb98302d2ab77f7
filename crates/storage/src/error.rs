//! Errors of the disk, as operators see them.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_model::FEATURE_LEVEL;
use thiserror::Error;

/// A read or write that failed.
///
/// All but [`StorageError::Unsupported`] and [`StorageError::Stopped`] stop the node: see docs/storage.md, "When the
/// disk fails".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StorageError {
    /// The content of a file differs from what was written.
    #[error("{file} is damaged{}: {reason}", at(.offset))]
    Damaged {
        /// The file, or the position in the log when the file's own checksum matches.
        file: String,
        /// Byte offset in the file, if known.
        offset: Option<u64>,
        /// The mismatch.
        reason: String,
    },
    /// A log has no entry where one was written.
    #[error("log of group {group} has no entry {index}")]
    Hole {
        /// The Raft group.
        group: u32,
        /// The index of the missing entry.
        index: u64,
    },
    /// The file system is full.
    #[error("no space left on the data directory's file system: {0}")]
    NoSpace(IoFailure),
    /// An operation of the operating system failed.
    #[error("input or output failed: {0}")]
    Io(IoFailure),
    /// An earlier sync failed, or the database is closed: nothing can be made durable any more.
    #[error("storage has stopped: {0}")]
    Stopped(IoFailure),
    /// This disk cannot do that.
    #[error("not supported by this disk: {0}")]
    Unsupported(&'static str),
}

/// A failed operation of the operating system or of RocksDB: its text, and the error that caused it.
///
/// Clones share the cause. Two are equal when their texts are, so that errors can be compared.
#[derive(Clone)]
pub struct IoFailure {
    text: String,
    cause: Option<Arc<dyn StdError + Send + Sync>>,
}

impl IoFailure {
    /// `operation` failed because of `cause`.
    pub fn new(operation: impl fmt::Display, cause: impl StdError + Send + Sync + 'static) -> Self {
        Self {
            text: format!("{operation}: {cause}"),
            cause: Some(Arc::new(cause)),
        }
    }

    /// The error itself is the text.
    pub(crate) fn of(cause: impl StdError + Send + Sync + 'static) -> Self {
        Self {
            text: cause.to_string(),
            cause: Some(Arc::new(cause)),
        }
    }

    /// The error that caused it, if there is one.
    #[must_use]
    pub fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.cause.as_deref()
    }
}

impl From<String> for IoFailure {
    fn from(text: String) -> Self {
        Self { text, cause: None }
    }
}

impl From<&str> for IoFailure {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for IoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for IoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IoFailure").field(&self.text).finish()
    }
}

impl PartialEq for IoFailure {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for IoFailure {}

impl StdError for IoFailure {
    /// The text includes the cause's own text, so the chain continues with the cause of the cause.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_ref().and_then(|cause| cause.source())
    }
}

fn at(offset: &Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(" at offset {offset}"))
}

impl From<StorageError> for std::io::Error {
    fn from(error: StorageError) -> Self {
        Self::other(error)
    }
}

/// A data directory that cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The content of a file differs from what was written, and not because a crash cut a write off.
    #[error("{} is damaged{}: {reason}", .file.display(), at(.offset))]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Byte offset of the damage, if known.
        offset: Option<u64>,
        /// The mismatch.
        reason: String,
    },
    /// The marker says that a database exists, but there is none.
    #[error("{} belongs to node {incarnation} but its database is gone; a node must not return empty", .dir.display())]
    DatabaseGone {
        /// The data directory.
        dir: PathBuf,
        /// The node's id.
        incarnation: u64,
    },
    /// There is a database, but no marker that names its owner.
    #[error("{} holds a database but no marker file `{marker}`", .dir.display())]
    MarkerGone {
        /// The data directory.
        dir: PathBuf,
        /// The name of the file.
        marker: &'static str,
    },
    /// Written by another version.
    #[error("{} has format version {found}, this program reads {supported}", .dir.display())]
    Format {
        /// The data directory.
        dir: PathBuf,
        /// The version found.
        found: u32,
        /// The version of this program.
        supported: u32,
    },
    /// The hub's feature level is higher than this version supports: the directory may hold what it cannot read.
    #[error("{} is of a hub with feature level {found}, this version of Holdfast supports {FEATURE_LEVEL}", .dir.display())]
    FeatureLevel {
        /// The data directory.
        dir: PathBuf,
        /// The hub's level.
        found: u32,
    },
    /// The process may open fewer files than the database needs.
    #[error("storage.max_open_files is {wanted}, but the process may open {limit} files and needs {reserve} others")]
    OpenFiles {
        /// The configured number.
        wanted: u32,
        /// The limit of the process, after raising it as far as allowed.
        limit: u64,
        /// Files kept for other uses.
        reserve: u64,
    },
    /// An operation of the operating system or of RocksDB failed.
    #[error("{}: {reason}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        reason: IoFailure,
    },
}

impl OpenError {
    pub(crate) fn io(path: impl Into<PathBuf>, error: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            reason: IoFailure::of(error),
        }
    }
}
