//! The replica from which a reader reads.

use std::future::Future;
use std::pin::Pin;

use holdfast_model::{NodeId, PartitionId, SequenceNumber};
use holdfast_partition::{Partition, Reader, StartError};
use thiserror::Error;

use super::remote_reader::RemoteReader;

/// Why a reader was not opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// An up-to-date replica has refused the position, or has too many readers.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No replica can be reached, or none can reach its leader. May be retried.
    #[error("no replica of partition {} can be read at the moment", .0.0)]
    Unavailable(PartitionId),
}

/// See the module.
pub(super) enum Source {
    /// The local replica.
    Local(Partition, Box<Reader>),
    /// A replica on another node.
    Remote(Box<RemoteReader>),
    /// A replica is being searched.
    Opening(Pin<Box<dyn Future<Output = Result<Source, OpenError>> + Send>>),
}

impl Source {
    /// The node of the replica, and the position at which reading starts there.
    pub(super) fn position(&self, here: NodeId) -> Option<(NodeId, SequenceNumber)> {
        match self {
            Self::Local(_, reader) => Some((here, reader.position())),
            Self::Remote(reader) => Some((reader.node(), reader.position())),
            Self::Opening(_) => None,
        }
    }
}
