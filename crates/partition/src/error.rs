//! Errors of appends and of the start of a partition.

use holdfast_consensus::{ProposeError, ReadError};
use holdfast_model::{ErrorCode, NodeId};
use thiserror::Error;

use crate::log::record::EntryError;
use holdfast_config::Invalid;

/// Why a batch was not acknowledged. Each variant says whether it is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AppendError {
    /// Another node owns the partition. The batch is not in the log.
    #[error("this node does not own the partition")]
    NotLeader {
        /// The node that does, where known.
        leader: Option<NodeId>,
    },
    /// The partition has stopped. The batch is not in the log.
    #[error("the partition has stopped")]
    Stopped,
    /// The batch is too large. It is not in the log.
    #[error("a batch of {bytes} bytes exceeds {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too little space is left on the disk. The batch is not in the log.
    #[error("too little space is left on the disk")]
    DiskFull,
    /// Batches of the stream before this one are missing; it is not counted. Resend all from `expected` on.
    #[error("the batch was not counted: batch {expected} of its stream is missing")]
    Gap {
        /// The number that the stream must continue with.
        expected: u64,
    },
    /// A later incarnation of the same gateway has written; the batch is not counted.
    #[error("the batch was not counted: incarnation {current} of its gateway has written since")]
    Stale {
        /// That incarnation.
        current: u64,
    },
    /// The bytes are no entry; nothing was proposed.
    #[error("the batch cannot be read")]
    Malformed(#[from] EntryError),
    /// The sender has no right to append now. The batch is not in the log.
    #[error("the sender has to synchronize its sessions with the owner first")]
    Refused,
    /// The batch may or may not be counted; [`crate::Partition::last_batch`] tells.
    #[error("the outcome is unknown")]
    Unknown,
}

impl AppendError {
    /// Whether the batch is certainly not part of the stream of events.
    #[must_use]
    pub fn is_certain(self) -> bool {
        self != Self::Unknown
    }

    /// Whether the same batch may be accepted later, by this owner or the next one. When not, every further attempt fails
    /// the same way.
    #[must_use]
    pub fn is_retriable(self) -> bool {
        match self {
            Self::TooLarge { .. } | Self::Stale { .. } | Self::Malformed(_) => false,
            Self::NotLeader { .. }
            | Self::Stopped
            | Self::DiskFull
            | Self::Gap { .. }
            | Self::Refused
            | Self::Unknown => true,
        }
    }

    /// The catalogue's row for senders that wait for an answer; MQTT simply withholds its PUBACK.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::NotLeader { .. } => ErrorCode::PartitionNotFound,
            Self::DiskFull => ErrorCode::ServerBusy,
            Self::Unknown => ErrorCode::GenericTimeout,
            Self::Stopped | Self::Gap { .. } | Self::Stale { .. } | Self::Refused => ErrorCode::ServiceUnavailable,
            Self::TooLarge { .. } | Self::Malformed(_) => ErrorCode::ServerError,
        }
    }
}

impl From<ProposeError> for AppendError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } | ProposeError::TermChanged { leader, .. } => Self::NotLeader { leader },
            ProposeError::Stopped => Self::Stopped,
            ProposeError::TooLarge { bytes, limit } => Self::TooLarge { bytes, limit },
            ProposeError::DiskFull => Self::DiskFull,
            ProposeError::Unknown => Self::Unknown,
        }
    }
}

/// For a barrier before anything was proposed.
impl From<ReadError> for AppendError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotLeader { leader } => Self::NotLeader { leader },
            ReadError::NoQuorum | ReadError::TimedOut => Self::NotLeader { leader: None },
            ReadError::Stopped => Self::Stopped,
        }
    }
}

/// Why a partition did not start.
#[derive(Debug, Error)]
pub enum PartitionStartError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] Invalid),
    /// The stored state cannot be used.
    #[error("the state of the partition cannot be read")]
    State(#[from] holdfast_storage::StorageError),
    /// The log or its group cannot be used.
    #[error("the log of the partition cannot be used")]
    Group(#[from] holdfast_consensus::StartError),
    /// The log begins after the events that the state promises.
    #[error("the log begins at {first_index}, but its oldest events are at {begin}: files of the log are missing")]
    LogLost {
        /// The first entry of the log.
        first_index: u64,
        /// The begin according to the state.
        begin: u64,
    },
}
