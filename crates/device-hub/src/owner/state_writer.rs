//! Changes of device state: the owner decides them, and one entry of the log carries the decisions of one round.
//!
//! Why rounds: the requests of a partition that arrive while an entry is in flight are decided together in the next one, so
//! that the rate grows with the load and no timer is needed. Why one at a time: a decision needs the state after all earlier
//! ones; with one entry in flight that is the applied state and what the round itself has decided.
//! Invariants: a request is answered after its entry is committed and applied here; a request that changes nothing is
//! answered after a quorum has confirmed that this node still leads, so that reads are linearizable; what a request has
//! decided takes effect as a whole or not at all; the number of waiting requests is bounded.
//! Not here: the meaning of values and requests (each feature's folder), the way of a request to the owner
//! ([`crate::rpc::owner_call`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt as _, stream};
use holdfast_model::{PartitionId, UnixMillis};
use holdfast_partition::record::{HubEvent as EventRecord, Leadership};
use holdfast_partition::{AppendError, Partition};
use holdfast_tasks::sync::Mutex;
use thiserror::Error;
use tokio::sync::oneshot;

use super::state_changes::{Round, StateChanges, StateKey, WantedEvents};
use crate::DeviceHub;

/// Requests of a partition that may wait.
const MAX_WAITING: usize = 20_000;

/// Requests that one round decides at most.
const MAX_REQUESTS: usize = 512;

/// About the bytes at which a round ends; the last request may exceed it.
const MAX_ROUND_BYTES: usize = 1 << 20;

/// Values that are read from the disk at once.
const MAX_READS: usize = 32;

/// Why a request was not carried out. Each variant says whether it may have changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum ChangeError {
    /// This node does not own the partition, or no owner was reached. Nothing has changed.
    #[error("no owner of the device's partition was reached")]
    NotOwner,
    /// Too many requests wait. Nothing has changed.
    #[error("too many requests about devices of the partition wait")]
    Busy,
    /// Too little space is left on the owner's disk. Nothing has changed.
    #[error("too little space is left on the disk of the partition's owner")]
    DiskFull,
    /// No entry of the log can carry the change. Nothing has changed.
    #[error("the change exceeds an entry of the log")]
    TooLarge,
    /// The owner did not answer, or lost its leadership meanwhile. The change may have taken effect.
    #[error("it is unknown whether the change has taken effect")]
    Unknown,
}

impl From<AppendError> for ChangeError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Unknown => Self::Unknown,
            AppendError::DiskFull => Self::DiskFull,
            AppendError::TooLarge { .. } | AppendError::Malformed(_) => Self::TooLarge,
            AppendError::NotLeader { .. }
            | AppendError::Stopped
            | AppendError::Gap { .. }
            | AppendError::Stale { .. }
            | AppendError::Refused => Self::NotOwner,
        }
    }
}

/// A request that waits to be decided.
trait Decide: Send {
    fn keys(&self) -> &[StateKey];
    fn decide(self: Box<Self>, round: &mut Round, now: UnixMillis) -> Box<dyn Answer>;
    fn refuse(self: Box<Self>, error: ChangeError);
}

/// A request that has been decided, until its entry is applied.
trait Answer: Send {
    fn send(self: Box<Self>, result: Result<(), ChangeError>);
}

struct Request<F, T> {
    keys: Vec<StateKey>,
    decide: F,
    reply: oneshot::Sender<Result<T, ChangeError>>,
}

struct Decided<T> {
    answer: T,
    reply: oneshot::Sender<Result<T, ChangeError>>,
}

impl<F, T> Decide for Request<F, T>
where
    F: FnOnce(&mut StateChanges<'_>) -> T + Send,
    T: Send + 'static,
{
    fn keys(&self) -> &[StateKey] {
        &self.keys
    }

    fn decide(self: Box<Self>, round: &mut Round, now: UnixMillis) -> Box<dyn Answer> {
        let Self { keys, decide, reply } = *self;
        let answer = decide(&mut round.changes(&keys, now));
        Box::new(Decided { answer, reply })
    }

    fn refuse(self: Box<Self>, error: ChangeError) {
        // The caller may have given up.
        let _ = self.reply.send(Err(error));
    }
}

impl<T: Send> Answer for Decided<T> {
    fn send(self: Box<Self>, result: Result<(), ChangeError>) {
        let Self { answer, reply } = *self;
        // The caller may have given up.
        let _ = reply.send(result.map(|()| answer));
    }
}

/// The requests of one partition.
#[derive(Default)]
pub(crate) struct StateQueue {
    waiting: VecDeque<Box<dyn Decide>>,
    is_running: bool,
    /// The last leadership of this node whose predecessors' entries are all applied here.
    leadership: Option<Leadership>,
}

/// Resolves with the answer to a request; a closed channel means [`ChangeError::Unknown`].
pub(crate) type PendingChange<T> = oneshot::Receiver<Result<T, ChangeError>>;

/// The queues of all partitions.
pub(crate) type StateQueues = Vec<Mutex<StateQueue>>;

impl DeviceHub {
    /// Has the owner decide a request: `decide` gets the values of `keys`, and its answer is returned once everything that it
    /// has changed is committed and applied. Dropping the future takes no decision back.
    ///
    /// # Errors
    /// [`ChangeError`], each of which says whether anything may have changed.
    pub(crate) async fn change_state<T: Send + 'static>(
        self: &Arc<Self>,
        partition: PartitionId,
        keys: Vec<StateKey>,
        decide: impl FnOnce(&mut StateChanges<'_>) -> T + Send + 'static,
    ) -> Result<T, ChangeError> {
        let reply = self.submit_change(partition, keys, decide)?;
        reply.await.map_err(|_| ChangeError::Unknown)?
    }

    /// As [`Self::change_state`], without waiting: requests of one partition are decided in the order of these calls.
    ///
    /// # Errors
    /// [`ChangeError::NotOwner`], [`ChangeError::Busy`].
    pub(crate) fn submit_change<T: Send + 'static>(
        self: &Arc<Self>,
        partition: PartitionId,
        keys: Vec<StateKey>,
        decide: impl FnOnce(&mut StateChanges<'_>) -> T + Send + 'static,
    ) -> Result<PendingChange<T>, ChangeError> {
        let replica = self.parts.partitions.local(partition).ok_or(ChangeError::NotOwner)?;
        let (reply, replied) = oneshot::channel();
        let request = Box::new(Request { keys, decide, reply });
        let is_first = {
            let mut queue = self.state_queue(partition).lock();
            if queue.waiting.len() >= MAX_WAITING {
                return Err(ChangeError::Busy);
            }
            queue.waiting.push_back(request);
            !std::mem::replace(&mut queue.is_running, true)
        };
        if is_first {
            let hub = Arc::clone(self);
            holdfast_tasks::spawn_critical("device-state", async move {
                while let Some(requests) = hub.take_requests(partition) {
                    hub.decide_round(&replica, requests).await;
                }
            });
        }
        Ok(replied)
    }

    fn state_queue(&self, partition: PartitionId) -> &Mutex<StateQueue> {
        &self.state_queues[usize::from(partition.0)]
    }

    /// The requests of the next round; `None` ends the task.
    fn take_requests(&self, partition: PartitionId) -> Option<Vec<Box<dyn Decide>>> {
        let mut queue = self.state_queue(partition).lock();
        let count = queue.waiting.len().min(MAX_REQUESTS);
        queue.is_running = count > 0;
        (count > 0).then(|| queue.waiting.drain(..count).collect())
    }

    /// Requests that found no place in a round, in front of the others.
    fn put_back(&self, partition: PartitionId, requests: impl DoubleEndedIterator<Item = Box<dyn Decide>>) {
        let mut queue = self.state_queue(partition).lock();
        for request in requests.rev() {
            queue.waiting.push_front(request);
        }
    }

    /// This node's leadership, once everything of earlier ones is applied here.
    async fn current_leadership(&self, replica: &Partition) -> Option<Leadership> {
        let owner = self.parts.partitions.owner(replica.id());
        let term = owner.filter(|owner| owner.node == self.parts.node)?.term;
        let known = self.state_queue(replica.id()).lock().leadership;
        if let Some(known) = known.filter(|known| known.term == term) {
            return Some(known);
        }
        let leadership = replica.leadership().await.ok()?;
        self.state_queue(replica.id()).lock().leadership = Some(leadership);
        Some(leadership)
    }

    async fn decide_round(&self, replica: &Partition, requests: Vec<Box<dyn Decide>>) {
        let refuse = |requests: Vec<Box<dyn Decide>>| {
            for request in requests {
                request.refuse(ChangeError::NotOwner);
            }
        };
        let Some(owner) = self.current_leadership(replica).await else {
            return refuse(requests);
        };
        let keys = requests.iter().flat_map(|request| request.keys()).cloned().collect();
        let mut round = Round::new(self.wanted_events());
        if !read_values(&mut round, replica, keys).await {
            return refuse(requests);
        };
        let now = self.parts.clock.now();
        let mut answers = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter();
        while round.bytes() < MAX_ROUND_BYTES
            && let Some(request) = requests.next()
        {
            answers.push(request.decide(&mut round, now));
        }
        self.put_back(replica.id(), requests);
        let result = match round.is_empty() {
            true => self.confirm(replica, owner).await,
            false if !self.is_writable() => Err(ChangeError::DiskFull),
            false => self.propose_round(replica, owner, &round).await,
        };
        if result.is_err() {
            self.state_queue(replica.id()).lock().leadership = None;
        }
        for answer in answers {
            answer.send(result);
        }
    }

    /// A quorum confirms that this node leads as `owner`.
    async fn confirm(&self, replica: &Partition, owner: Leadership) -> Result<(), ChangeError> {
        match replica.leadership().await {
            Ok(confirmed) if confirmed == owner => Ok(()),
            Ok(_) | Err(_) => Err(ChangeError::NotOwner),
        }
    }

    async fn propose_round(&self, replica: &Partition, owner: Leadership, round: &Round) -> Result<(), ChangeError> {
        let effects = round.effects();
        let hub_name = self.hub_name();
        let correlations: Vec<String> = round.events().iter().map(|_| self.next_event_id()).collect();
        let messages: Vec<_> = round
            .events()
            .iter()
            .zip(&correlations)
            .map(|(event, correlation)| event.message(&hub_name, correlation))
            .collect();
        let events: Vec<EventRecord<'_, '_>> = round
            .events()
            .iter()
            .zip(&messages)
            .map(|(event, message)| EventRecord {
                source: event.source,
                identity: &event.identity,
                message,
                time: event.time,
            })
            .collect();
        loop {
            let error = match replica.propose_with_events(owner, &effects, &events).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tracing::debug!(partition = replica.id().0, %error, "changes of device state were not confirmed");
            match ChangeError::from(error) {
                ChangeError::Unknown => {}
                certain => {
                    if certain == ChangeError::TooLarge {
                        tracing::error!(partition = replica.id().0, %error, "changes of device state cannot be stored");
                    }
                    return Err(certain);
                }
            }
            // In the same leadership the barrier decides: an entry that was appended before it is applied now.
            if self.confirm(replica, owner).await.is_err() {
                return Err(ChangeError::Unknown);
            }
            match is_applied(replica, round).await {
                Some(true) => return Ok(()),
                Some(false) => {}
                None => return Err(ChangeError::Unknown),
            }
        }
    }

    fn wanted_events(&self) -> WantedEvents {
        let config = &self.parts.config;
        WantedEvents {
            twin_changes: config.twin_change_events,
            lifecycle: config.lifecycle_events,
            connections: config.connection_state_events,
        }
    }

    /// The hub's name in events.
    fn hub_name(&self) -> String {
        let settings = self.parts.registry.settings();
        settings.map_or_else(|_| String::new(), |settings| settings.hub_name.clone())
    }

    /// A name for an event, unique in the hub: readers recognise an event that they get twice.
    fn next_event_id(&self) -> String {
        let counter = self.next_event.fetch_add(1, Ordering::Relaxed);
        let (node, incarnation) = (self.parts.node.get(), self.parts.incarnation.get());
        format!("{node:016x}{:08x}{counter:08x}", incarnation & 0xffff_ffff)
    }
}

/// Reads the values of `keys`. `false`: the disk has failed, and the node stops.
async fn read_values(round: &mut Round, replica: &Partition, mut keys: Vec<StateKey>) -> bool {
    keys.sort_unstable();
    keys.dedup();
    let reads = keys.into_iter().map(|key| async move {
        let value = replica.device_state(&key.as_key()).await;
        (key, value)
    });
    let mut reads = std::pin::pin!(stream::iter(reads).buffered(MAX_READS));
    while let Some((key, value)) = reads.next().await {
        let Ok(value) = value else {
            return false;
        };
        round.read(key, value);
    }
    true
}

/// Whether the round's changes are applied; `None`: that cannot be told.
async fn is_applied(replica: &Partition, round: &Round) -> Option<bool> {
    let mut has_changes = false;
    for (key, wanted) in round.changed() {
        has_changes = true;
        let value = replica.device_state(&key.as_key()).await.ok()?;
        if value.as_ref() != wanted {
            return Some(false);
        }
    }
    // Events alone leave no trace that could be read: they are appended again, under the same ids.
    Some(has_changes)
}
