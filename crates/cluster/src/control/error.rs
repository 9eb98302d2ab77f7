//! Errors of control.

use holdfast_config::Invalid;
use holdfast_consensus::GroupId;
use holdfast_model::ErrorCode;
use holdfast_registry::RegistryError;
use thiserror::Error;

use super::HostError;

/// Why control did not start.
#[derive(Debug, Error)]
pub enum ControlStartError {
    /// A value of the configuration is invalid.
    #[error(transparent)]
    Config(#[from] Invalid),
    /// The replicas on the disk cannot be listed.
    #[error("cannot list the replicas on the disk")]
    OnDisk(#[source] HostError),
    /// A replica of this node cannot start.
    #[error("the replica of partition {partition} cannot start")]
    Replica {
        /// The partition.
        partition: u16,
        /// The cause.
        #[source]
        source: HostError,
    },
    /// The bootstrap of the cluster failed.
    #[error("cannot bootstrap the cluster")]
    Bootstrap(#[source] RegistryError),
}

/// Why a request about the cluster failed. Each text says what to do instead.
#[derive(Debug, Error)]
pub enum ControlError {
    /// No member has this name.
    #[error("no node is called '{0}': see `holdfast node list`")]
    NoSuchNode(String),
    /// The cluster would lose something that it needs.
    #[error("{0}")]
    Refused(String),
    /// The registry has refused the write.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The hub has fewer partitions.
    #[error("the hub has no group {0}: the registry is 0, and partitions begin with 1")]
    NoSuchGroup(u32),
    /// No replica of a group could be read.
    #[error("{group} cannot be read now: {failure}")]
    Unreadable {
        /// The group.
        group: GroupId,
        /// The reason of the replica that was tried last.
        failure: String,
    },
}

impl ControlError {
    /// The code of the error catalogue.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoSuchNode(_) | Self::NoSuchGroup(_) => ErrorCode::GenericNotFound,
            Self::Refused(_) => ErrorCode::InvalidOperation,
            Self::Registry(error) => error.code(),
            Self::Unreadable { .. } => ErrorCode::ServiceUnavailable,
        }
    }
}
