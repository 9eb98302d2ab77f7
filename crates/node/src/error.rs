//! Why a node cannot start.

use holdfast_cluster::control::ControlStartError;
use holdfast_partition::PartitionStartError;
use holdfast_registry::RegistryError;

use crate::executor::CoreGone;

/// The part that could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The registry's replica.
    #[error("the registry cannot start")]
    Registry(#[from] holdfast_registry::StartError),
    /// The registry runs and its settings cannot be read or changed.
    #[error("the hub's settings cannot be used")]
    Settings(#[from] RegistryError),
    /// A replica of a partition.
    #[error("a partition cannot start")]
    Partition(#[from] PartitionStartError),
    /// The control of this node.
    #[error("cannot take this node's place in the cluster")]
    Control(#[from] ControlStartError),
    /// The thread that the part was to run on.
    #[error(transparent)]
    Core(#[from] CoreGone),
}
