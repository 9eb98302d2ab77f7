//! What can go wrong for who asks control.

use holdfast_model::ErrorCode;
use holdfast_registry::RegistryError;
use thiserror::Error;

use super::HostError;
use super::config::InvalidControlConfig;

/// Why control did not start.
#[derive(Debug, Error)]
pub enum ControlStartError {
    /// A value of its configuration cannot work.
    #[error(transparent)]
    Config(#[from] InvalidControlConfig),
    /// The replicas of this node cannot be found on its disk.
    #[error("cannot tell which replicas are on the disk")]
    OnDisk(#[source] HostError),
    /// A replica of this node cannot start.
    #[error("the replica of partition {partition} cannot start")]
    Replica {
        /// The partition.
        partition: u16,
        /// Why.
        #[source]
        source: HostError,
    },
    /// The cluster could not be founded.
    #[error("the cluster cannot be founded")]
    Found(#[source] RegistryError),
}

/// Why a request about the cluster was not carried out. Each text says what to do instead.
#[derive(Debug, Error)]
pub enum ControlError {
    /// There is no such member.
    #[error("no node is called '{0}': see `holdfast node list`")]
    NoSuchNode(String),
    /// It would take away what the cluster needs.
    #[error("{0}")]
    Refused(String),
    /// The registry did not take it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl ControlError {
    /// The number of the error catalogue that a caller is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoSuchNode(_) => ErrorCode::GenericNotFound,
            Self::Refused(_) => ErrorCode::InvalidOperation,
            Self::Registry(error) => error.code(),
        }
    }
}
