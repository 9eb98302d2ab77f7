//! The handle of one partition on this node: append, read, status, lifecycle.

mod ack_gate;
pub(crate) mod answer;
mod device_state;
mod effects;
mod open_links;
mod retention;
mod value_index;

use std::sync::Arc;

use bytes::Bytes;
use holdfast_config::Section;
use holdfast_consensus::{ConsensusConfig, Group, GroupHost, GroupId, Leader, LogPosition, LogReader};
use holdfast_model::Clock;
use holdfast_model::{Incarnation, NodeId, PartitionId, SequenceNumber, Term, UnixMillis};
use holdfast_storage::{OnFatal, StorageError};
use holdfast_tasks::sync::Mutex;
use tokio::task::JoinHandle;

use ack_gate::AckGate;
pub use open_links::{OpenLinks, SenderLink};

use crate::config::PartitionConfig;
use crate::error::{AppendError, PartitionStartError};
use crate::log::record::{EntryHeader, EntryView, Leadership, StreamId};
use crate::machine::Machine;
use crate::readers::reader::{Reader, StartError, StartPosition};
use crate::shared::{self, LogSource, Shared};
use crate::state::ValueIndexing;
use crate::state::store::Store;

/// Called once with the outcome of a batch, on the partition's thread. Short and without blocking.
pub type OnAppended = Box<dyn FnOnce(Result<(), AppendError>) + Send>;

/// The status of a partition for `$management` and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The oldest event that can be read.
    pub begin: SequenceNumber,
    /// The number that the next event will get.
    pub next: SequenceNumber,
    /// When the newest event was appended; 0 before the first.
    pub last_enqueued: UnixMillis,
    /// Bytes of log from [`Self::begin`] on.
    pub retained_bytes: u64,
}

impl PartitionStatus {
    /// The newest event; `None` when there has been none.
    #[must_use]
    pub fn last(&self) -> Option<SequenceNumber> {
        self.next.0.checked_sub(1).map(SequenceNumber)
    }

    /// No event can be read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.begin == self.next
    }
}

/// One partition on this node. Clones share it; any thread may call.
#[derive(Clone)]
pub struct Partition(Arc<Inner>);

struct Inner {
    id: PartitionId,
    node: NodeId,
    group: Group,
    shared: Arc<Shared>,
    store: Arc<Store>,
    log: Arc<dyn LogSource>,
    ack_gate: Arc<Mutex<AckGate>>,
    /// Serializes opening the gate.
    opening: tokio::sync::Mutex<()>,
    clock: Clock,
    on_fatal: OnFatal,
    /// Retention, and the upkeep of indexes.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl LogSource for LogReader {
    fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, StorageError> {
        LogReader::read(self, from, max_bytes)
    }

    fn end(&self) -> u64 {
        self.end_index()
    }
}

impl Partition {
    /// Starts this node's replica on the current runtime, where its tasks stay. When this node is the only voter, the call
    /// returns once everything in the log is applied; otherwise it returns at once.
    ///
    /// `founding`: creates the partition with this node as its only replica, unless this disk has held it before. Without
    /// it an empty replica waits for the owner to add it.
    ///
    /// # Errors
    /// [`PartitionStartError`]; nothing runs then.
    pub async fn start(
        id: PartitionId,
        host: &GroupHost,
        consensus: &ConsensusConfig,
        config: &PartitionConfig,
        clock: Clock,
        founding: bool,
    ) -> Result<Self, PartitionStartError> {
        Self::start_indexed(id, host, consensus, config, clock, founding, None).await
    }

    /// As [`Self::start`], with indexes of device state, the same for all partitions of a node.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_indexed(
        id: PartitionId,
        host: &GroupHost,
        consensus: &ConsensusConfig,
        config: &PartitionConfig,
        clock: Clock,
        founding: bool,
        indexing: Option<Arc<ValueIndexing>>,
    ) -> Result<Self, PartitionStartError> {
        Section::validate(config)?;
        let (disk, spacing, interval) = (host.disk.clone(), config.spacing(), config.state_interval.bytes());
        let pool = host.blocking_pool;
        let has_indexes = indexing.is_some();
        let recover = move || Store::recover(disk, id, spacing, interval, has_indexes);
        let (store, recovered) = pool.run(recover).await?;
        let store = Arc::new(store);
        let begin = recovered.state.begin().log_index;
        let recovered_position = recovered.position;
        let shared = Shared::new(id, config.clone(), pool, indexing, recovered);
        let machine = Box::new(Machine::new(shared.clone(), store.clone(), host));
        // A replica that existed before is never bootstrapped again, even if it lost its data: other replicas may rely on
        // what it acknowledged.
        let (disk, group_id) = (host.disk.clone(), GroupId::partition(id.0));
        let existed =
            pool.run(move || holdfast_consensus::has_data(&*disk, group_id)).await? || recovered_position.is_some();
        let group = Group::start(group_id, host, machine, consensus).await?;
        let log = group.log_reader();
        let first_index = log.first_index();
        if first_index > begin {
            group.shutdown().await;
            return Err(PartitionStartError::LogLost { first_index, begin });
        }
        if founding && !existed {
            group.bootstrap().await?;
        }
        let partition = Self(Arc::new(Inner {
            id,
            node: host.node,
            group,
            shared,
            store,
            log: Arc::new(log),
            ack_gate: Arc::default(),
            opening: tokio::sync::Mutex::new(()),
            clock,
            on_fatal: host.on_fatal.clone(),
            tasks: Mutex::default(),
        }));
        partition.spawn_retention();
        partition.spawn_value_indexes();
        Ok(partition)
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.0.id
    }

    /// The Raft group behind it.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.0.group
    }

    /// Whether this node believes that it owns the partition.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.0.group.is_leader()
    }

    /// The owner of the partition, if known. This node names itself only while it leads.
    #[must_use]
    pub fn owner(&self) -> Option<Leader> {
        self.0.group.leader()
    }

    /// Appends a batch that [`crate::record::BatchWriter`] has closed; successive calls append in call order. Waits while
    /// too much is in flight, and returns long before the outcome.
    ///
    /// `appended` is called exactly once: with `Ok` when a quorum has synced the batch and apply will count it or has
    /// counted it before. After an error the batches that followed it in its stream fail with [`AppendError::Gap`]; resend
    /// from the number named there.
    pub async fn append_detached(&self, entry: Bytes, appended: OnAppended) {
        self.append_admitted(entry, |_| Ok(None), appended).await;
    }

    /// As [`Self::append_detached`], for a gateway that may lose its link while the batch waits for capacity: `links` are
    /// compared after all waiting, right before the proposal. [`AppendError::Refused`] if the batch is not the sender's, or
    /// its link is not open.
    pub async fn append_over(&self, entry: Bytes, links: &OpenLinks, sender: SenderLink, appended: OnAppended) {
        let admit = |header: &EntryHeader| match header.stream.gateway_node == sender.gateway {
            true => links.admit(&header.stream, sender.link),
            false => Err(AppendError::Refused),
        };
        self.append_admitted(entry, admit, appended).await;
    }

    /// `admit` returns the term in which the batch may be proposed.
    async fn append_admitted(
        &self,
        entry: Bytes,
        admit: impl FnOnce(&EntryHeader) -> Result<Option<Term>, AppendError> + Send,
        appended: OnAppended,
    ) {
        let header = match EntryView::parse(&entry) {
            Ok(view) => view.header(),
            Err(error) => return appended(Err(error.into())),
        };
        if let Err(error) = self.open_ack_gate().await {
            return appended(Err(error));
        }
        let permit = match self.0.group.acquire_permit(&entry).await {
            Ok(permit) => permit,
            Err(error) => return appended(self.0.ack_gate.lock().admit_committed(&header, Err(error))),
        };
        let admitted = match admit(&header) {
            Ok(admitted) => admitted,
            Err(error) => return appended(Err(error)),
        };
        // Effects in a batch come from a core of the owner, which has computed them; never from another gateway.
        let here = |owner: Leadership| {
            owner.node == self.0.node
                && header.stream.gateway_node == self.0.node
                && admitted.is_none_or(|term| term == owner.term)
        };
        if !header.owner.is_none_or(here) {
            return appended(Err(AppendError::Refused));
        }
        let permit = match header.owner.map(|owner| owner.term).or(admitted) {
            Some(term) => permit.in_term(term),
            None => permit,
        };
        let gate = self.0.ack_gate.clone();
        let committed = Box::new(move |outcome| {
            let outcome = gate.lock().admit_committed(&header, outcome);
            appended(outcome);
        });
        self.0.group.propose_with_permit(permit, entry, committed).await;
    }

    /// The same for a caller that waits. Dropping the future leaves the batch in flight.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn append(&self, entry: Bytes) -> Result<(), AppendError> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        // The receiver is gone when the caller has dropped this future; nothing to do then.
        self.append_detached(
            entry,
            Box::new(move |outcome| {
                let _ = answer.send(outcome);
            }),
        )
        .await;
        answered.await.unwrap_or(Err(AppendError::Unknown))
    }

    /// The last counted batch of a stream, 0 when there is none, as of everything committed before the call. A gateway
    /// continues behind it after [`AppendError::Unknown`] or a change of owner.
    ///
    /// # Errors
    /// [`AppendError`]: this node does not own the partition.
    pub async fn last_batch(&self, stream: &StreamId) -> Result<u64, AppendError> {
        self.0.group.read_index().await?;
        Ok(self.0.shared.lock().state.streams().last_batch(stream))
    }

    /// The newest incarnation of a gateway node that has written here. A gateway that starts must choose a greater one
    /// than that of any partition, or its batches are refused as [`AppendError::Stale`] or taken for repeats.
    #[must_use]
    pub fn newest_incarnation(&self, gateway_node: NodeId) -> Option<Incarnation> {
        self.0.shared.lock().state.streams().newest_incarnation(gateway_node)
    }

    /// The readable range at this moment.
    #[must_use]
    pub fn status(&self) -> PartitionStatus {
        let inner = self.0.shared.lock();
        PartitionStatus {
            begin: inner.state.begin().sequence,
            next: inner.state.next(),
            last_enqueued: inner.state.last_enqueued(),
            retained_bytes: inner.state.retained_bytes(),
        }
    }

    /// A reader of committed events, usable on any runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn reader(&self, from: StartPosition) -> Result<Reader, StartError> {
        Reader::start(self.0.shared.clone(), self.0.log.clone(), from)
    }

    /// Stops retention, readers and the group, and persists the state, so that the next start replays little.
    pub async fn shutdown(&self) {
        self.stop().await;
        let inner = self.0.clone();
        let stored = self.0.shared.pool.run(move || inner.store.store(&inner.shared)).await;
        if let Err(error) = stored {
            tracing::warn!(partition = self.0.id.0, %error, "the partition state was not persisted; the next start replays more of the log");
        }
    }

    /// Stops the replica and deletes everything that this node's disk holds of the partition, in one step: for a replica
    /// that the group has removed.
    ///
    /// # Errors
    /// [`StorageError`]: the node must stop.
    pub async fn destroy(self) -> Result<(), StorageError> {
        self.stop().await;
        let inner = self.0.clone();
        self.0.shared.pool.run(move || inner.store.erase()).await?;
        // Also waits until that is durable.
        self.0.group.clone().destroy().await?;
        let inner = self.0.clone();
        self.0.shared.pool.run(move || inner.store.give_back()).await
    }

    /// A second state machine over this replica's state, to take snapshots in tests without a group.
    #[cfg(test)]
    pub(crate) fn machine(&self, host: &GroupHost) -> Machine {
        Machine::new(self.0.shared.clone(), self.0.store.clone(), host)
    }

    async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.lock());
        for task in tasks {
            task.abort();
            // Cancelled or finished: either way the task has ended.
            let _ = task.await;
        }
        if let Some(indexing) = &self.0.shared.indexing {
            indexing.note_progress(self.0.id.0, true);
        }
        self.0.shared.stop();
        self.0.group.shutdown().await;
    }

    /// Opens the acknowledgement gate once everything committed before this node's leadership is applied.
    async fn open_ack_gate(&self) -> Result<(), AppendError> {
        let term = self.leading()?;
        if self.0.ack_gate.lock().is_open_in(term) {
            return Ok(());
        }
        let _alone = self.0.opening.lock().await;
        let term = self.leading()?;
        if self.0.ack_gate.lock().is_open_in(term) {
            return Ok(());
        }
        let (term, streams) = self.as_owner(|inner| inner.state.streams().clone()).await?;
        self.0.ack_gate.lock().open(term, streams);
        Ok(())
    }

    /// Reads the state once everything that was committed before this node's leadership is applied. Also gives the term of
    /// that leadership.
    async fn as_owner<R>(&self, read: impl FnOnce(&shared::Inner) -> R) -> Result<(Term, R), AppendError> {
        let term = self.leading()?;
        // Also waits until the leader's first entry is applied, and with it everything of earlier terms.
        self.0.group.read_index().await?;
        let inner = self.0.shared.lock();
        let own = |position: &LogPosition| position.term == term && position.node == self.0.node;
        if inner.position.as_ref().is_some_and(own) {
            return Ok((term, read(&inner)));
        }
        // Another node leads, or led in between.
        drop(inner);
        self.leading()?;
        Err(AppendError::NotLeader { leader: None })
    }

    /// The term in which this node leads.
    fn leading(&self) -> Result<Term, AppendError> {
        match self.0.group.leader() {
            Some(leader) if leader.node == self.0.node => Ok(leader.term),
            _ if self.0.shared.lock().stopped => Err(AppendError::Stopped),
            leader => Err(AppendError::NotLeader {
                leader: leader.map(|leader| leader.node),
            }),
        }
    }
}
