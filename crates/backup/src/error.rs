//! Why a backup cannot be made, used or restored.

use holdfast_consensus::ExportError;
use holdfast_registry::backup::RestoreError;
use holdfast_storage::StorageError;
use thiserror::Error;

use crate::target::TargetError;

/// See the module.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The folder or store fails.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The hub cannot be read.
    #[error("the hub cannot be read: {0}")]
    Hub(String),
    /// What the hub sends is no export.
    #[error("the hub's answer cannot be used")]
    Export(#[from] ExportError),
    /// The hub's data, or that of the backup, is damaged; or the disk fails.
    #[error("{what}: {source}")]
    Storage {
        /// Which part.
        what: String,
        /// Why.
        source: StorageError,
    },
    /// The registry cannot be restored.
    #[error("the registry cannot be restored")]
    Registry(#[from] RestoreError),
    /// The folder holds backups of another hub, or something else.
    #[error("{0}")]
    NotOurs(String),
    /// There is no such backup.
    #[error("{0}")]
    NotFound(String),
    /// A later version of Holdfast has written it.
    #[error(
        "{name} has format {found}; this version of Holdfast knows {known}: use the version that made it, or a later one"
    )]
    Format {
        /// The file.
        name: String,
        /// Its format.
        found: u64,
        /// The newest format that this version knows.
        known: u32,
    },
    /// A file of the backup is not as it was written.
    #[error("{name} is damaged: {reason}")]
    Damaged {
        /// The file.
        name: String,
        /// The mismatch.
        reason: String,
    },
    /// The hub is not the one that the backup before was made of, or has lost data since.
    #[error("{0}")]
    Behind(String),
}

impl BackupError {
    pub(crate) fn damaged(name: impl Into<String>, reason: impl ToString) -> Self {
        Self::Damaged {
            name: name.into(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn storage(what: impl ToString) -> impl FnOnce(StorageError) -> Self {
        let what = what.to_string();
        move |source| Self::Storage { what, source }
    }
}
