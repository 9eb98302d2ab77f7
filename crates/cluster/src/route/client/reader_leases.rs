//! The leases of this node's readers in consumer groups, wherever the partition's owner is.
//!
//! Invariants: the current owner knows each lease, or it is being registered there; a reader is notified once that it was
//! preempted. The owner drops leases that are not renewed for [`READER_LEASE`]. A reader that cannot reach an owner
//! continues to read from its replica, and learns whether its lease still holds when the owner can be reached.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use holdfast_model::{PartitionCount, PartitionId};
use holdfast_partition::epoch::{Receiver, Refusal, Since, Stolen};
use holdfast_tasks::sync::Mutex;
use thiserror::Error;
use tokio::sync::{Notify, oneshot};

use crate::route::Partitions;
use crate::route::owner_table::Owner;
use crate::route::protocol::reader_lease::{LeaseRequest, MAX_PER_CALL};

/// Interval at which a node renews the leases of its readers.
pub const READER_LEASE_RENEWAL_INTERVAL: Duration = Duration::from_secs(1);
/// Duration of a lease that is not renewed.
pub const READER_LEASE: Duration = Duration::from_secs(5);
/// Limit of queued releases; further leases expire instead.
const MAX_RELEASED: usize = 4096;

/// Why a reader lease was not granted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReaderLeaseError {
    /// The epoch rule of the consumer group.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No owner can be reached. May be retried.
    #[error("partition {} has no owner at the moment", .0.0)]
    Unavailable(PartitionId),
}

/// Why a reader has lost its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preempted {
    /// Another reader has taken its place.
    Stolen(Stolen),
    /// After a change of owner, the limit of readers was reached.
    TooManyReaders,
}

/// The lease of a reader; dropping it releases it.
pub struct ReaderLease {
    partitions: Partitions,
    id: PartitionId,
    key: u64,
    preempted: oneshot::Receiver<Preempted>,
}

impl ReaderLease {
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// Waits until the lease is lost. Must not be called again after that.
    pub async fn preempted(&mut self) -> Preempted {
        std::future::poll_fn(|cx| self.poll_preempted(cx)).await
    }

    /// As [`Self::preempted`], for poll loops.
    pub fn poll_preempted(&mut self, cx: &mut Context<'_>) -> Poll<Preempted> {
        match ready!(std::pin::Pin::new(&mut self.preempted).poll(cx)) {
            Ok(preempted) => Poll::Ready(preempted),
            // The sender is dropped only by being used, or together with this lease.
            Err(_) => Poll::Pending,
        }
    }
}

impl Drop for ReaderLease {
    fn drop(&mut self) {
        self.partitions.release_reader_lease(self.id, self.key);
    }
}

/// See the module.
pub(in crate::route) struct ReaderLeases {
    next_key: AtomicU64,
    partitions: Vec<Mutex<PartitionLeases>>,
    /// Notified when an owner must be updated.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct PartitionLeases {
    /// Sorted, so that leases are sent in a deterministic order.
    held: BTreeMap<u64, Held>,
    released: Vec<u64>,
}

struct Held {
    group: String,
    receiver: Receiver,
    since: Option<Since>,
    /// The owner that has registered it.
    owner: Option<Owner>,
    /// Its reader waits for the first answer.
    is_new: bool,
    notify: oneshot::Sender<Preempted>,
}

/// The changes of leases to be sent to an owner.
#[derive(Default)]
pub(super) struct Due {
    pub(super) register: Vec<LeaseRequest>,
    pub(super) renew: Vec<u64>,
    pub(super) release: Vec<u64>,
}

impl Due {
    pub(super) fn is_empty(&self) -> bool {
        self.register.is_empty() && self.renew.is_empty() && self.release.is_empty()
    }
}

impl ReaderLeases {
    pub(in crate::route) fn new(count: PartitionCount) -> Self {
        Self {
            // Random, since an owner may still have leases of this node's previous incarnation.
            next_key: AtomicU64::new(rand::random::<u64>() >> 1),
            partitions: count.iter().map(|_| Mutex::default()).collect(),
            changed: Notify::new(),
        }
    }

    fn partition(&self, id: PartitionId) -> &Mutex<PartitionLeases> {
        &self.partitions[usize::from(id.0)]
    }

    /// Creates a lease that is to be registered, and the request for it.
    pub(super) fn create(
        &self,
        partitions: &Partitions,
        id: PartitionId,
        group: &str,
        receiver: Receiver,
    ) -> (ReaderLease, LeaseRequest) {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let (notify, preempted) = oneshot::channel();
        let request = LeaseRequest {
            key,
            group: group.to_owned(),
            receiver,
            since: None,
        };
        let held = Held {
            group: request.group.clone(),
            receiver: request.receiver.clone(),
            since: None,
            owner: None,
            is_new: true,
            notify,
        };
        self.partition(id).lock().held.insert(key, held);
        let lease = ReaderLease {
            partitions: partitions.clone(),
            id,
            key,
            preempted,
        };
        (lease, request)
    }

    /// The owner has registered the lease.
    pub(super) fn registered(&self, id: PartitionId, key: u64, owner: Owner, since: Since) {
        if let Some(held) = self.partition(id).lock().held.get_mut(&key) {
            held.owner = Some(owner);
            held.since = Some(since);
            held.is_new = false;
        }
    }

    /// The owner does not know the lease.
    pub(super) fn unknown(&self, id: PartitionId, key: u64) {
        if let Some(held) = self.partition(id).lock().held.get_mut(&key) {
            held.owner = None;
        }
    }

    /// The lease is lost; `by` is the reader that has taken its place.
    pub(in crate::route) fn preempt(&self, id: PartitionId, key: u64, by: Option<Receiver>) {
        let Some(held) = self.partition(id).lock().held.remove(&key) else {
            return;
        };
        let preempted = by.map_or(Preempted::TooManyReaders, |by| {
            Preempted::Stolen(Stolen {
                by,
                from: held.receiver,
            })
        });
        // The reader may just be dropping its lease.
        let _ = held.notify.send(preempted);
    }

    /// The changes to be sent to `owner` now, up to the limit of one call.
    pub(super) fn due(&self, id: PartitionId, owner: Owner) -> Due {
        let mut leases = self.partition(id).lock();
        let mut due = Due::default();
        let released = leases.released.len().min(MAX_PER_CALL);
        due.release.extend(leases.released.drain(..released));
        for (key, held) in leases.held.iter().filter(|(_, held)| !held.is_new) {
            if held.owner == Some(owner) {
                due.renew.push(*key);
            } else if due.register.len() < MAX_PER_CALL {
                due.register.push(LeaseRequest {
                    key: *key,
                    group: held.group.clone(),
                    receiver: held.receiver.clone(),
                    since: held.since,
                });
            }
        }
        due
    }

    /// Whether more than renewals must be sent to the owner.
    pub(super) fn has_changes(&self, id: PartitionId, owner: Owner) -> bool {
        let leases = self.partition(id).lock();
        let differs = |held: &Held| !held.is_new && held.owner != Some(owner);
        !leases.released.is_empty() || leases.held.values().any(differs)
    }

    fn remove(&self, id: PartitionId, key: u64) -> bool {
        self.partition(id).lock().held.remove(&key).is_some()
    }

    /// Queues the release for an owner on another node.
    fn queue_release(&self, id: PartitionId, key: u64) {
        let mut leases = self.partition(id).lock();
        if leases.released.len() < MAX_RELEASED {
            leases.released.push(key);
        }
        drop(leases);
        self.changed.notify_one();
    }
}

impl Partitions {
    fn release_reader_lease(&self, id: PartitionId, key: u64) {
        if !self.0.reader_leases.remove(id, key) {
            // It was preempted.
            return;
        }
        match self.owner(id) {
            Some(owner) if owner.node == self.node() => self.0.registry(id).release(self.node(), key),
            _ => self.0.reader_leases.queue_release(id, key),
        }
    }
}
