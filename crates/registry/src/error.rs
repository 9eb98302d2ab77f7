//! Errors of the registry for its callers.

use std::sync::Arc;

use holdfast_model::ErrorCode;
use holdfast_storage::StorageError;
use thiserror::Error;

use crate::secrets::SecretError;
use crate::state::{ApplyError, Rejection};

/// Why a registry operation failed.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// Refused by its rules; nothing was written.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It cannot be served now: no leader, no quorum, or the node is stopping. Nothing was written.
    #[error("the registry has no leader here at the moment: {reason}")]
    Unavailable {
        /// The reason, for the log.
        reason: String,
    },
    /// Too many operations are waiting. Nothing was written.
    #[error("too many registry operations are waiting")]
    Overloaded,
    /// The disk is nearly full. Nothing was written.
    #[error("the disk is nearly full: writes are refused")]
    DiskFull,
    /// The write may or may not have been done.
    #[error("the outcome of the registry write is unknown")]
    OutcomeUnknown,
    /// The local state cannot be read.
    #[error("the registry's state cannot be read")]
    State(#[source] Arc<ApplyError>),
    /// A sealed key cannot be opened or made.
    #[error("a stored secret cannot be opened")]
    Sealed(#[from] SecretError),
}

impl RegistryError {
    /// The error's number in the catalogue, for the caller.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Rejected(rejection) => rejection.code,
            Self::Unavailable { .. } => ErrorCode::ServiceUnavailable,
            Self::Overloaded | Self::DiskFull => ErrorCode::ServerBusy,
            Self::OutcomeUnknown => ErrorCode::GenericTimeout,
            Self::State(_) | Self::Sealed(_) => ErrorCode::ServerError,
        }
    }
}

impl From<ApplyError> for RegistryError {
    fn from(error: ApplyError) -> Self {
        Self::State(Arc::new(error))
    }
}

impl From<StorageError> for RegistryError {
    fn from(error: StorageError) -> Self {
        Self::State(Arc::new(ApplyError::Storage(error)))
    }
}
