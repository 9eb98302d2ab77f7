//! Errors of the registry for its callers.

use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::{ProposeError, ReadError};
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
        /// Why.
        reason: UnavailableReason,
    },
    /// Too many operations are waiting. Nothing was written.
    #[error("too many registry operations are waiting")]
    Overloaded,
    /// The disk is nearly full. Nothing was written.
    #[error("the disk is nearly full: writes are refused")]
    DiskFull,
    /// Members may run an earlier version, which could not read it. Nothing was written.
    #[error(
        "this needs feature level {needed}, and the hub has {level}: it is possible when all nodes run this version and the level has \
         been raised, see `holdfast cluster feature-level`"
    )]
    FeatureLevel {
        /// The level that it needs.
        needed: u32,
        /// The hub's.
        level: u32,
    },
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

/// Why the registry cannot be served at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnavailableReason {
    /// The hub does not exist yet.
    #[error("the hub has not been created yet")]
    NotCreated,
    /// The node is stopping.
    #[error("the registry has stopped")]
    Stopped,
    /// No node has led the registry's group since this one started.
    #[error("the registry's group has had no leader since the start")]
    NoLeader,
    /// The other members have sent nothing for this long.
    #[error(
        "nothing has come from the other members within {} minutes: see whether they reach this node at its \
         cluster.advertise address, and whether it is still listed by `holdfast node list`", .0.as_secs() / 60
    )]
    NothingReceived(Duration),
    /// The caller has waited as long as the setting of this name says.
    #[error("no answer within {0}")]
    TimedOut(&'static str),
    /// The local replica cannot be confirmed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The command was not appended.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl From<UnavailableReason> for RegistryError {
    fn from(reason: UnavailableReason) -> Self {
        Self::Unavailable { reason }
    }
}

impl RegistryError {
    /// The error's number in the catalogue, for the caller.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Rejected(rejection) => rejection.code,
            Self::Unavailable { .. } | Self::FeatureLevel { .. } => ErrorCode::ServiceUnavailable,
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
