//! The hub's partitions as this node reaches them: its own replica, or the owner on another node.
//!
//! Why: a device may connect to any node and a back end read from any node, while each partition has one owner, which
//! moves. Whoever sends, reads or asks says which partition, and this says where.
//! Invariants: what goes to one owner is proposed there in the order in which it was handed in; an error says whether a
//! batch may be counted; a reader gives every event once and in order, whatever replica it reads from; who may read is
//! decided at the owner. A partition that is owned here costs nothing but one short read lock.
//! Not here: where replicas should be (`placement`), sessions (`device-hub`), how bytes get to other nodes (`transport`).
//! Start at [`Partitions`].

mod owners;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_consensus::transport::Transport;
use holdfast_model::{PartitionCount, PartitionId};
use holdfast_partition::record::StreamId;
use holdfast_partition::{AppendError, OnAppended, Partition, PartitionStatus};
use holdfast_tasks::Stop;
use thiserror::Error;
use tokio::sync::watch;

use owners::Owners;
pub use owners::{Owner, OwnerChanges};

/// All partitions of the hub. Clones share them.
#[derive(Clone)]
pub struct Partitions(Arc<Inner>);

struct Inner {
    node: u64,
    count: PartitionCount,
    transport: Arc<dyn Transport>,
    owners: Owners,
}

/// Why a question about a partition has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouteError {
    /// Nobody is known to own it, or the owner cannot be reached. It may be asked again.
    #[error("partition {} has no owner at the moment", .0.0)]
    NoOwner(PartitionId),
}

impl Partitions {
    /// Knows no replica and no owner yet. `node` is this node. [`Self::run`] is to be spawned when there are others.
    #[must_use]
    pub fn new(node: u64, count: PartitionCount, transport: Arc<dyn Transport>) -> Self {
        Self(Arc::new(Inner {
            node,
            count,
            transport,
            owners: Owners::new(node, count),
        }))
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.0.node
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> PartitionCount {
        self.0.count
    }

    /// Learns owners from the other nodes, keeps this node's readers registered and forgets those of dead nodes, until
    /// the node closes.
    pub async fn run(self, stop: Stop) {
        stop.reached(holdfast_tasks::Phase::Closing).await;
    }

    /// A replica has started here. To be called on a runtime, on which its owner is followed.
    pub fn host(&self, partition: Partition) {
        self.0.owners.host(partition);
    }

    /// The replica here is going away; gives it back. Readers of it go on elsewhere.
    pub fn unhost(&self, id: PartitionId) -> Option<Partition> {
        self.0.owners.unhost(id)
    }

    /// This node's replica.
    #[must_use]
    pub fn local(&self, id: PartitionId) -> Option<Partition> {
        self.0.owners.local(id)
    }

    /// The nodes on which the registry has placed replicas, this one included if it is among them.
    pub fn set_replicas(&self, id: PartitionId, nodes: Vec<u64>) {
        self.0.owners.set_replicas(id, nodes);
    }

    /// The owner as far as is known here: this node only while its replica leads. A node that has died stays the owner
    /// until another is known.
    #[must_use]
    pub fn owner(&self, id: PartitionId) -> Option<Owner> {
        self.0.owners.owner(id)
    }

    /// The owner and its changes.
    #[must_use]
    pub fn watch_owner(&self, id: PartitionId) -> watch::Receiver<Option<Owner>> {
        self.0.owners.watch(id)
    }

    /// The owners of all partitions: each one that is known now, then what changes.
    #[must_use]
    pub fn owner_changes(&self) -> OwnerChanges {
        self.0.owners.changes()
    }

    /// An owner other than `failed`, as soon as one is known; what is known after `patience` at the latest. For who
    /// tries again: a dead owner is not asked in a hurry, and a new one at once.
    pub async fn owner_after(&self, id: PartitionId, failed: Option<Owner>, patience: Duration) -> Option<Owner> {
        self.0.owners.after(id, failed, patience).await
    }

    /// Another node has said who owns a partition. Older terms are passed over.
    pub fn learn(&self, id: PartitionId, owner: Owner) {
        self.0.owners.learn(id, owner);
    }

    /// The node has said that it does not, or no longer, own the partition.
    pub fn disown(&self, id: PartitionId, node: u64) {
        self.0.owners.disown(id, node);
    }

    /// Appends a batch at the owner, wherever it is; see [`Partition::append_detached`], whose rules hold here too: a
    /// lost connection is [`AppendError::Unknown`], and an owner that is not known or cannot be reached is
    /// [`AppendError::NotLeader`]. Both come at once or within [`APPEND_PATIENCE`]; the caller waits with
    /// [`Self::owner_after`] before it sends the same batch again.
    pub async fn append(&self, id: PartitionId, entry: Bytes, appended: OnAppended) {
        let _ = &self.0.transport;
        match self.local(id) {
            Some(partition) => partition.append_detached(entry, appended).await,
            None => appended(Err(AppendError::NotLeader { leader: None })),
        }
    }

    /// What can be read, as of everything that was committed before the call.
    ///
    /// # Errors
    /// [`RouteError`].
    pub async fn status(&self, id: PartitionId) -> Result<PartitionStatus, RouteError> {
        match self.local(id) {
            Some(partition) => Ok(partition.status()),
            None => Err(RouteError::NoOwner(id)),
        }
    }

    /// The last batch of a stream that is counted, 0 when none is: as of everything committed before the call.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn last_batch(&self, id: PartitionId, stream: StreamId) -> Result<u64, AppendError> {
        match self.local(id) {
            Some(partition) => partition.last_batch(&stream).await,
            None => Err(AppendError::NotLeader { leader: None }),
        }
    }
}

/// How long an owner may take to decide about a batch before its outcome counts as unknown.
pub const APPEND_PATIENCE: Duration = Duration::from_secs(10);
