//! Where a reader starts: on a replica here, or at one elsewhere.
//!
//! Any replica may serve readers, but one that lags must not say that a position is beyond the end, nor begin "now" before
//! what has been acknowledged: in these cases it catches up with its leader first.

use std::collections::VecDeque;
use std::time::Duration;

use holdfast_model::PartitionId;
use holdfast_partition::{Partition, Reader, StartError, StartPosition};
use thiserror::Error;
use tokio::time::Instant;

use super::reader::{Way, remote};
use super::{Partitions, serve};

/// How long a new reader is tried at one replica after the other.
pub(super) const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// How long a reader that has lost its replica looks for another one.
pub(super) const MOVE_PATIENCE: Duration = Duration::from_secs(60);
/// Between two rounds over all replicas, while nobody else becomes owner.
const ROUND_PAUSE: Duration = Duration::from_millis(250);

/// Why there is no reader.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// A replica that knows everything has refused the position, or has no place.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No replica can be reached, or none can reach its leader. It may be tried again.
    #[error("no replica of partition {} can be read at the moment", .0.0)]
    Unavailable(PartitionId),
}

/// Why one replica has not given a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failed {
    Start(StartError),
    /// Another one may.
    NotNow,
}

/// A reader at the replica here.
pub(super) async fn local(partition: &Partition, from: StartPosition) -> Result<Reader, Failed> {
    if from == StartPosition::Latest && !serve::caught_up(partition).await {
        return Err(Failed::NotNow);
    }
    match partition.reader(from) {
        Ok(reader) => Ok(reader),
        Err(StartError::BeyondEnd { .. }) => {
            if !serve::caught_up(partition).await {
                return Err(Failed::NotNow);
            }
            partition.reader(from).map_err(Failed::Start)
        }
        Err(error) => Err(Failed::Start(error)),
    }
}

/// A reader anywhere. `lost`: the node where it was and failed, which is tried last; a position that a replica does not
/// have is then not believed, since it has been read.
pub(super) async fn anywhere(
    partitions: Partitions,
    id: PartitionId,
    from: StartPosition,
    lost: Option<u64>,
) -> Result<Way, OpenError> {
    let patience = if lost.is_some() { MOVE_PATIENCE } else { OPEN_PATIENCE };
    let give_up = Instant::now() + patience;
    loop {
        let mut refused = None;
        let owner = partitions.owner(id);
        for node in candidates(&partitions, id, lost) {
            let opened = if node == partitions.node() {
                open_here(&partitions, id, from).await
            } else {
                remote(&partitions, id, node, from).await
            };
            match opened {
                Ok(way) => return Ok(way),
                Err(Failed::NotNow | Failed::Start(StartError::Stopped)) => {}
                Err(Failed::Start(error)) if lost.is_none() => return Err(error.into()),
                Err(Failed::Start(error)) => {
                    tracing::warn!(partition = id.0, node, %error, "a replica refuses a reader that has read there before");
                    refused = Some(error);
                }
            }
        }
        if Instant::now() >= give_up {
            return Err(refused.map_or(OpenError::Unavailable(id), OpenError::Start));
        }
        partitions.owner_after(id, owner, ROUND_PAUSE).await;
    }
}

async fn open_here(partitions: &Partitions, id: PartitionId, from: StartPosition) -> Result<Way, Failed> {
    let partition = partitions.local(id).ok_or(Failed::NotNow)?;
    let reader = local(&partition, from).await?;
    Ok(Way::local(partition, reader))
}

/// The replica here, then the owner, then the others.
fn candidates(partitions: &Partitions, id: PartitionId, lost: Option<u64>) -> VecDeque<u64> {
    let here = partitions.local(id).map(|_| partitions.node());
    let owner = partitions.owner(id).map(|owner| owner.node);
    let others = partitions.0.owners.replicas(id);
    let mut nodes = VecDeque::new();
    for node in here.into_iter().chain(owner).chain(others.iter().copied()) {
        // A replica that is placed here and does not run yet cannot be read.
        let is_here = node == partitions.node() && here.is_none();
        if !nodes.contains(&node) && !is_here {
            nodes.push_back(node);
        }
    }
    if let Some(lost) = lost
        && let Some(at) = nodes.iter().position(|node| *node == lost)
        && let Some(last) = nodes.remove(at)
    {
        nodes.push_back(last);
    }
    nodes
}
