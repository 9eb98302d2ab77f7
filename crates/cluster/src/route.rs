//! Routes appends, queries and readers to a partition: to the local replica, or to the owner on another node.
//!
//! Why: a device may connect to any node and a back end may read from any node, while each partition has one owner, which
//! changes. Callers name the partition; routing finds the node.
//! Invariants: the batches of one node are proposed at an owner in the order of its calls; an error says whether a batch may
//! be counted; a reader returns every event once and in order, whatever replica it reads from; the owner grants reader
//! leases. For a partition that this node owns, routing costs one short read lock.
//! Not here: where replicas are placed (`placement`), sessions (`device-hub`), the connections between nodes (`peer`).
//! Start at [`Partitions`]; `client` is the calling side, `server` the called side, `protocol` what they say.

mod client;
mod metrics;
mod owner_table;
mod protocol;
mod replica;
mod server;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_consensus::transport::{Handler, Transport};
use holdfast_model::{LinkId, NodeId, PartitionCount, PartitionId};
use holdfast_partition::{AppendError, OnAppended, OpenLinks, Partition, SenderLink};
use holdfast_spans::{Attribute, SpanName, TraceContext, Tracer};
use holdfast_tasks::watch;
use holdfast_tasks::{Phase, Stop};
use thiserror::Error;

pub use client::append::{APPEND_TIMEOUT, MAX_BYTES_IN_FLIGHT};
use client::append::{AppendBudgets, RemoteBatch, WithoutContexts};
pub use client::reader::{OpenError, PartitionReader};
use client::reader_leases::ReaderLeases;
pub use client::reader_leases::{
    Preempted, READER_LEASE, READER_LEASE_RENEWAL_INTERVAL, ReaderLease, ReaderLeaseError,
};
use client::{owner_watch, reader_lease_renewal};
pub use metrics::METRICS;
use metrics::Metrics;
use owner_table::OwnerTable;
pub use owner_table::{Owner, OwnerChanges};
use server::append_queue::Senders;
use server::reader_registry::ReaderRegistry;
use server::{dispatch, reader_registry_service};

/// All partitions of the hub. Clones share them.
#[derive(Clone)]
pub struct Partitions(Arc<Inner>);

struct Inner {
    node: NodeId,
    count: PartitionCount,
    transport: Arc<dyn Transport>,
    tracer: Tracer,
    owners: OwnerTable,
    append_budgets: AppendBudgets,
    without_contexts: WithoutContexts,
    senders: Senders,
    reader_registries: Vec<ReaderRegistry>,
    reader_leases: ReaderLeases,
    metrics: Metrics,
    /// By partition.
    open_links: Vec<Arc<OpenLinks>>,
}

/// Why a query about a partition has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouteError {
    /// No owner is known, or it cannot be reached. May be retried.
    #[error("partition {} has no owner at the moment", .0.0)]
    NoOwner(PartitionId),
}

impl Inner {
    /// The reader leases of a partition, for the time in which this node owns it.
    fn registry(&self, id: PartitionId) -> &ReaderRegistry {
        &self.reader_registries[usize::from(id.0)]
    }
}

impl Partitions {
    /// Without replicas and known owners yet, and accepting every batch. `node` is this node. [`Self::run`] must be spawned if
    /// there are other nodes.
    #[must_use]
    pub fn new(node: NodeId, count: PartitionCount, transport: Arc<dyn Transport>) -> Self {
        Self::traced(node, count, transport, Tracer::off())
    }

    /// As [`Self::new`], with spans of batches.
    #[must_use]
    pub fn traced(node: NodeId, count: PartitionCount, transport: Arc<dyn Transport>, tracer: Tracer) -> Self {
        Self(Arc::new(Inner {
            node,
            count,
            transport,
            tracer,
            owners: OwnerTable::new(node, count),
            append_budgets: AppendBudgets::default(),
            without_contexts: WithoutContexts::default(),
            senders: Senders::default(),
            reader_registries: count.iter().map(|_| ReaderRegistry::of(node)).collect(),
            reader_leases: ReaderLeases::new(count),
            metrics: Metrics::new(),
            open_links: count.iter().map(|_| Arc::default()).collect(),
        }))
    }

    /// The links over which batches are appended to the partition while this node owns it; the owner of the sessions
    /// publishes them.
    #[must_use]
    pub fn open_links(&self, id: PartitionId) -> &Arc<OpenLinks> {
        &self.0.open_links[usize::from(id.0)]
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// The number of partitions.
    #[must_use]
    pub fn count(&self) -> PartitionCount {
        self.0.count
    }

    /// Watches owners on the other nodes, renews the leases of this node's readers and expires those of dead nodes, until the
    /// node is closing.
    pub async fn run(self, stop: Stop) {
        tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => {}
            () = owner_watch::run(&self) => {}
            () = reader_registry_service::run(&self) => {}
            () = reader_lease_renewal::run(&self) => {}
        }
    }

    /// The handler of `Service::Partition` for other nodes' calls.
    #[must_use]
    pub fn handler(&self) -> Arc<dyn Handler> {
        dispatch::handler(self.clone())
    }

    /// Adds a replica that has started here. Must be called on a runtime, on which its leader is followed.
    pub fn host(&self, partition: Partition) {
        self.0.owners.host(partition);
    }

    /// Removes and returns the local replica. Its readers continue at other replicas.
    pub fn unhost(&self, id: PartitionId) -> Option<Partition> {
        self.0.owners.unhost(id)
    }

    /// This node's replica.
    #[must_use]
    pub fn local(&self, id: PartitionId) -> Option<Partition> {
        self.0.owners.local(id)
    }

    /// Sets the nodes on which the registry has placed replicas, including this one if it is among them.
    pub fn set_replicas(&self, id: PartitionId, nodes: Vec<NodeId>) {
        self.0.owners.set_replicas(id, nodes);
    }

    /// The known owner. This node is the owner only while its replica leads. A dead node stays the owner until another one is
    /// known.
    #[must_use]
    pub fn owner(&self, id: PartitionId) -> Option<Owner> {
        self.0.owners.owner(id)
    }

    /// Watches the owner.
    #[must_use]
    pub fn watch_owner(&self, id: PartitionId) -> watch::Receiver<Option<Owner>> {
        self.0.owners.watch(id)
    }

    /// The owners of all partitions: first the known ones, then their changes.
    #[must_use]
    pub fn owner_changes(&self) -> OwnerChanges {
        self.0.owners.changes()
    }

    /// Waits until an owner other than `failed` is known, for up to `timeout`; returns the known owner. For retries: a dead
    /// owner is not asked again at once, and a new one without delay.
    pub async fn owner_after(&self, id: PartitionId, failed: Option<Owner>, timeout: Duration) -> Option<Owner> {
        self.0.owners.after(id, failed, timeout).await
    }

    /// Records the owner that another node has reported. Earlier terms are ignored.
    pub fn learn(&self, id: PartitionId, owner: Owner) {
        self.0.owners.learn(id, owner);
    }

    /// Records that the node has reported not to own the partition.
    pub fn disown(&self, id: PartitionId, node: NodeId) {
        self.0.owners.disown(id, node);
    }

    /// Appends a batch at the owner, wherever it is, by the rules of [`Partition::append_detached`]: after a lost connection
    /// the outcome is [`AppendError::Unknown`]; an owner that is unknown or cannot be reached is
    /// [`AppendError::NotLeader`]. Both are returned within [`APPEND_TIMEOUT`]; the caller waits with [`Self::owner_after`]
    /// before it sends the same batch again. `link` is the gateway's link to the owner, for [`OpenLinks`]: a batch that arrives
    /// late must not be admitted as one of a later link. `trace` is the recorded span of the batch.
    pub async fn append(
        &self,
        id: PartitionId,
        link: LinkId,
        entry: Bytes,
        trace: Option<TraceContext>,
        appended: OnAppended,
    ) {
        if let Some(partition) = self.0.owners.owned(id) {
            let appended = self.with_commit_span(id, trace, appended);
            let sender = SenderLink {
                gateway: self.0.node,
                link,
            };
            return partition
                .append_over(entry, self.open_links(id), sender, appended)
                .await;
        }
        match self.owner(id) {
            Some(owner) if owner.node != self.0.node => {
                let batch = RemoteBatch { id, link, entry, trace };
                self.append_remote(owner, batch, appended).await;
            }
            _ => appended(Err(AppendError::NotLeader { leader: None })),
        }
    }

    /// `appended` with the span of the commit, which this node decides as the owner.
    fn with_commit_span(&self, id: PartitionId, trace: Option<TraceContext>, appended: OnAppended) -> OnAppended {
        let mut span = self.0.tracer.child(SpanName::CommitBatch, trace);
        if !span.is_recorded() {
            return appended;
        }
        span.set(Attribute::Partition, || id.0.to_string());
        Box::new(move |result| {
            if let Err(error) = &result {
                span.fail("not-committed", || error.to_string());
            }
            drop(span);
            appended(result);
        })
    }
}
