//! The hub's partitions as this node reaches them: its own replica, or the owner on another node.
//!
//! Why: a device may connect to any node and a back end read from any node, while each partition has one owner, which
//! moves. Whoever sends, reads or asks says which partition, and this says where.
//! Invariants: what goes to one owner is proposed there in the order in which it was handed in; an error says whether a
//! batch may be counted; a reader gives every event once and in order, whatever replica it reads from; who may read is
//! decided at the owner. A partition that is owned here costs nothing but one short read lock.
//! Not here: where replicas should be (`placement`), sessions (`device-hub`), how bytes get to other nodes (`transport`).
//! Start at [`Partitions`].

mod append;
mod ask;
mod desk;
mod frames;
mod keeper;
mod line;
mod metrics;
mod opening;
mod owners;
mod question;
mod reader;
mod seats;
mod sending;
mod serve;
mod wire;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use holdfast_consensus::transport::{Handler, Transport};
use holdfast_model::{PartitionCount, PartitionId};
use holdfast_partition::record::{EntryHeader, StreamId};
use holdfast_partition::{AppendError, OnAppended, Partition};
use holdfast_tasks::watch;
use holdfast_tasks::{Phase, Stop};
use thiserror::Error;

pub use append::{APPEND_PATIENCE, MAX_BYTES_UNDER_WAY};
use append::{Budgets, Senders};
use desk::Desk;
use metrics::Metrics;
pub use opening::OpenError;
use owners::Owners;
pub use owners::{Owner, OwnerChanges};
pub use reader::PartitionReader;
use seats::Seats;
pub use seats::{Ousted, SEAT_LEASE, SEAT_RENEWAL, Seat, SeatError};

/// All partitions of the hub. Clones share them.
#[derive(Clone)]
pub struct Partitions(Arc<Inner>);

struct Inner {
    node: u64,
    count: PartitionCount,
    transport: Arc<dyn Transport>,
    owners: Owners,
    budgets: Budgets,
    senders: Senders,
    desks: Vec<Desk>,
    seats: Seats,
    metrics: Metrics,
    admission: OnceLock<Admission>,
}

/// Says whether the owner here takes batches of a gateway's stream that were sent over this link of it.
pub type Admission = Box<dyn Fn(PartitionId, &StreamId, u64) -> bool + Send + Sync>;

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
            budgets: Budgets::default(),
            senders: Senders::default(),
            desks: count.iter().map(|_| Desk::of(node)).collect(),
            seats: Seats::new(count),
            metrics: Metrics::new(),
            admission: OnceLock::new(),
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
        tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => {}
            () = ask::ask_all(&self) => {}
            () = keeper::keep(&self) => {}
        }
    }

    /// What this node does for others, for `Service::Partition` of the node's dispatch.
    #[must_use]
    pub fn handler(&self) -> Arc<dyn Handler> {
        serve::handler(self.clone())
    }

    /// Lets `admission` decide, in the moment of appending, which batches are taken; to be called once,
    /// before there are any. What is refused is certainly not counted, and may be sent again.
    pub fn admit_by(&self, admission: Admission) {
        if self.0.admission.set(admission).is_err() {
            tracing::error!("who may append has been decided before");
        }
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
    /// [`Self::owner_after`] before it sends the same batch again. `link` is the gateway's link with the owner over which
    /// the batch goes, for [`Self::admit_by`]: a batch that arrives late must not pass for one of a later link.
    pub async fn append(&self, id: PartitionId, link: u64, entry: Bytes, appended: OnAppended) {
        if let Some(partition) = self.0.owners.owned(id) {
            let may = |header: &EntryHeader| self.admits(id, header, link);
            return partition.append_if(entry, may, appended).await;
        }
        match self.owner(id) {
            Some(owner) if owner.node != self.0.node => self.append_remote(owner, id, link, entry, appended).await,
            _ => appended(Err(AppendError::NotLeader { leader: None })),
        }
    }

    /// Whether the owner here takes a batch that was sent over this link of its gateway.
    fn admits(&self, id: PartitionId, header: &EntryHeader, link: u64) -> bool {
        let admission = self.0.admission.get();
        admission.is_none_or(|admits| admits(id, &header.stream, link))
    }
}
