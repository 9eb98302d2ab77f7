//! Refusals and failures of commands.

use holdfast_model::{ErrorCode, FEATURE_LEVEL};
use holdfast_storage::StorageError;
use thiserror::Error;

/// An entry that is refused: every replica refuses it alike, and the proposer gets the reason.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{code}: {text}")]
pub struct Rejection {
    /// The number of the error catalogue.
    pub code: ErrorCode,
    /// The exact reason, for the caller; names no secret.
    pub text: String,
}

impl Rejection {
    pub(crate) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

/// A command that cannot be applied here; skipping it would make this replica differ from the others.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The state cannot be read.
    #[error("the registry's state cannot be read")]
    Storage(#[from] StorageError),
    /// A stored record cannot be decoded.
    #[error("the registry's record {key} is damaged")]
    Damaged {
        /// The key, escaped.
        key: String,
        /// Why it cannot be decoded.
        #[source]
        source: prost::DecodeError,
    },
    /// An entry of the log cannot be decoded.
    #[error("an entry of the registry's log is damaged")]
    DamagedEntry(#[source] prost::DecodeError),
    /// The hub may hold what this version cannot read.
    #[error(
        "the hub has feature level {level}, and this version of Holdfast supports {FEATURE_LEVEL}: start the version that ran here \
         before, or a later one; nothing has been changed"
    )]
    NewerFeatureLevel {
        /// The hub's.
        level: u32,
    },
    /// The command was written by a newer version.
    #[error("the registry's log holds a command of version {version} that this version does not know")]
    NewerCommand {
        /// Its version.
        version: u32,
    },
}
