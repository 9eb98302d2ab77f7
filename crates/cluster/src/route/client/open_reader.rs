//! Opens a reader at the local replica, or at one on another node.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use holdfast_model::{NodeId, PartitionId};
use holdfast_partition::{StartError, StartPosition};
use tokio::time::Instant;

use super::remote_reader;
use super::source::{OpenError, Source};
use crate::route::Partitions;
use crate::route::replica::{self, StartFailure};

/// Timeout of opening a new reader, over all replicas.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of reopening a reader that has lost its replica.
const REOPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one replica may delay the next one: a local replica that is up to date answers within a round trip.
const NEXT_REPLICA_DELAY: Duration = Duration::from_millis(500);
/// Backoff between two rounds over all replicas, unless the owner changes.
const ROUND_BACKOFF: Duration = Duration::from_millis(250);

/// Opens a reader at any replica. `lost` is the node of the replica that the reader has lost; it is tried last. In this case
/// a refusal of the position is retried, since events up to it have been read.
pub(super) async fn open(
    partitions: Partitions,
    id: PartitionId,
    from: StartPosition,
    lost: Option<NodeId>,
) -> Result<Source, OpenError> {
    let timeout = if lost.is_some() { REOPEN_TIMEOUT } else { OPEN_TIMEOUT };
    let deadline = Instant::now() + timeout;
    loop {
        let owner = partitions.owner(id);
        let refused = match try_replicas(&partitions, id, from, lost).await {
            Ok(source) => return Ok(source),
            Err(Some(error)) if lost.is_none() => return Err(error.into()),
            Err(refused) => refused,
        };
        if Instant::now() >= deadline {
            return Err(refused.map_or(OpenError::Unavailable(id), OpenError::Start));
        }
        partitions.owner_after(id, owner, ROUND_BACKOFF).await;
    }
}

/// Tries all replicas once, in order: the next one as soon as the last one has failed, or after [`NEXT_REPLICA_DELAY`], so
/// that a replica that lags or does not answer delays the reader no longer than that. Returns the first opened reader, or
/// the last refusal.
async fn try_replicas(
    partitions: &Partitions,
    id: PartitionId,
    from: StartPosition,
    lost: Option<NodeId>,
) -> Result<Source, Option<StartError>> {
    let mut remaining = candidates(partitions, id, lost);
    let mut attempts = FuturesUnordered::new();
    let mut refused = None;
    loop {
        if let Some(node) = remaining.pop_front() {
            attempts.push(open_at(partitions, id, node, from));
        } else if attempts.is_empty() {
            return Err(refused);
        }
        let next_replica = tokio::time::sleep(NEXT_REPLICA_DELAY);
        tokio::pin!(next_replica);
        let finished = tokio::select! {
            biased;
            finished = attempts.next() => finished,
            () = &mut next_replica, if !remaining.is_empty() => continue,
        };
        match finished {
            Some((_, Ok(source))) => return Ok(source),
            Some((_, Err(StartFailure::NotNow | StartFailure::Refused(StartError::Stopped)))) | None => {}
            Some((node, Err(StartFailure::Refused(error)))) => {
                if lost.is_none() {
                    return Err(Some(error));
                }
                tracing::warn!(partition = id.0, %node, %error, "a replica refuses the position of a reader that has moved; trying other replicas");
                refused = Some(error);
            }
        }
    }
}

/// Opens a reader at the replica on `node`.
async fn open_at(
    partitions: &Partitions,
    id: PartitionId,
    node: NodeId,
    from: StartPosition,
) -> (NodeId, Result<Source, StartFailure>) {
    let opened = if node == partitions.node() {
        open_local(partitions, id, from).await
    } else {
        let reader = remote_reader::open(partitions, id, node, from).await;
        reader.map(|reader| Source::Remote(Box::new(reader)))
    };
    (node, opened)
}

async fn open_local(partitions: &Partitions, id: PartitionId, from: StartPosition) -> Result<Source, StartFailure> {
    let partition = partitions.local(id).ok_or(StartFailure::NotNow)?;
    let reader = replica::start_reader(&partition, from).await?;
    Ok(Source::Local(partition, Box::new(reader)))
}

/// The nodes to try: this one, then the owner, then the others.
fn candidates(partitions: &Partitions, id: PartitionId, lost: Option<NodeId>) -> VecDeque<NodeId> {
    let here = partitions.local(id).map(|_| partitions.node());
    let owner = partitions.owner(id).map(|owner| owner.node);
    let others = partitions.0.owners.replicas(id);
    let mut nodes = VecDeque::new();
    for node in here.into_iter().chain(owner).chain(others.iter().copied()) {
        // A replica that is placed here and not running yet cannot be read.
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
