//! Readers of this node that hold a place in a consumer group, wherever the partition's owner is.
//!
//! Invariants: a reader's place is known to the current owner, or is being entered there; whoever has lost it is told
//! once. The owner forgets places that are not renewed for [`SEAT_LEASE`]; a reader that cannot reach an owner keeps
//! reading what its replica has, and learns when it can whether its place is still its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use holdfast_model::{PartitionCount, PartitionId};
use holdfast_partition::epoch::{Receiver, Refusal, Since, Stolen};
use holdfast_tasks::sync::Mutex;
use thiserror::Error;
use tokio::sync::{Notify, oneshot};

use super::Partitions;
use super::desk::Wanted;
use super::owners::Owner;

/// How often a node renews the places of its readers.
pub const SEAT_RENEWAL: Duration = Duration::from_secs(1);
/// How long a place lasts that is not renewed.
pub const SEAT_LEASE: Duration = Duration::from_secs(5);
/// Places that are entered or renewed with one call.
pub(super) const MAX_PER_CALL: usize = 256;
/// Places to be given back that wait for a call; beyond it they end by themselves.
const MAX_LEAVING: usize = 4096;

/// Why a receiver is not let in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SeatError {
    /// The rule of the consumer group.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No owner can be reached. It may be tried again.
    #[error("partition {} has no owner at the moment", .0.0)]
    Unavailable(PartitionId),
}

/// Why a receiver must go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ousted {
    /// Another one has taken over.
    Stolen(Stolen),
    /// After a change of owner there was no place left.
    Crowded,
}

/// A receiver's place; dropping it leaves.
pub struct Seat {
    partitions: Partitions,
    id: PartitionId,
    key: u64,
    told: oneshot::Receiver<Ousted>,
}

impl Seat {
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// Returns when the place is lost. Not to be called again after that.
    pub async fn ousted(&mut self) -> Ousted {
        std::future::poll_fn(|cx| self.poll_ousted(cx)).await
    }

    /// The same for a caller with its own poll loop.
    pub fn poll_ousted(&mut self, cx: &mut Context<'_>) -> Poll<Ousted> {
        match ready!(std::pin::Pin::new(&mut self.told).poll(cx)) {
            Ok(ousted) => Poll::Ready(ousted),
            // The sender goes only by being used, or with this seat.
            Err(_) => Poll::Pending,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.partitions.leave(self.id, self.key);
    }
}

/// See the module.
pub(super) struct Seats {
    next_key: AtomicU64,
    slots: Vec<Mutex<Slot>>,
    /// Something is to be told to an owner.
    pub(super) dirty: Notify,
}

#[derive(Default)]
struct Slot {
    /// In order, so that owners are told in the same order whenever everything else was the same.
    held: BTreeMap<u64, Held>,
    leaving: Vec<u64>,
}

struct Held {
    group: String,
    receiver: Receiver,
    since: Option<Since>,
    /// The owner that knows it.
    with: Option<Owner>,
    /// Its reader waits for the first answer.
    is_new: bool,
    tell: oneshot::Sender<Ousted>,
}

/// What an owner is to be told.
#[derive(Default)]
pub(super) struct Due {
    pub(super) enter: Vec<Wanted>,
    pub(super) renew: Vec<u64>,
    pub(super) leave: Vec<u64>,
}

impl Due {
    pub(super) fn is_empty(&self) -> bool {
        self.enter.is_empty() && self.renew.is_empty() && self.leave.is_empty()
    }
}

impl Seats {
    pub(super) fn new(count: PartitionCount) -> Self {
        Self {
            // An owner may still remember seats of this node's last life.
            next_key: AtomicU64::new(rand::random::<u64>() >> 1),
            slots: count.iter().map(|_| Mutex::default()).collect(),
            dirty: Notify::new(),
        }
    }

    fn slot(&self, id: PartitionId) -> &Mutex<Slot> {
        &self.slots[usize::from(id.0)]
    }

    /// A place that is to be entered; and how it introduces itself.
    pub(super) fn take(
        &self,
        partitions: &Partitions,
        id: PartitionId,
        group: &str,
        receiver: Receiver,
    ) -> (Seat, Wanted) {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        let wanted = Wanted {
            key,
            group: group.to_owned(),
            receiver,
            since: None,
        };
        let held = Held {
            group: wanted.group.clone(),
            receiver: wanted.receiver.clone(),
            since: None,
            with: None,
            is_new: true,
            tell,
        };
        self.slot(id).lock().held.insert(key, held);
        let seat = Seat {
            partitions: partitions.clone(),
            id,
            key,
            told,
        };
        (seat, wanted)
    }

    /// The owner has let it in.
    pub(super) fn entered(&self, id: PartitionId, key: u64, owner: Owner, since: Since) {
        if let Some(held) = self.slot(id).lock().held.get_mut(&key) {
            held.with = Some(owner);
            held.since = Some(since);
            held.is_new = false;
        }
    }

    /// The owner does not know it.
    pub(super) fn unknown(&self, id: PartitionId, key: u64) {
        if let Some(held) = self.slot(id).lock().held.get_mut(&key) {
            held.with = None;
        }
    }

    /// It is lost; `by` has it now.
    pub(super) fn oust(&self, id: PartitionId, key: u64, by: Option<Receiver>) {
        let Some(held) = self.slot(id).lock().held.remove(&key) else {
            return;
        };
        let ousted = by.map_or(Ousted::Crowded, |by| {
            Ousted::Stolen(Stolen {
                by,
                from: held.receiver,
            })
        });
        // A seat that is being dropped no longer listens.
        let _ = held.tell.send(ousted);
    }

    /// What `owner` is to be told now; not more than one call takes.
    pub(super) fn due(&self, id: PartitionId, owner: Owner) -> Due {
        let mut slot = self.slot(id).lock();
        let mut due = Due::default();
        let leaving = slot.leaving.len().min(MAX_PER_CALL);
        due.leave.extend(slot.leaving.drain(..leaving));
        for (key, held) in slot.held.iter().filter(|(_, held)| !held.is_new) {
            if held.with == Some(owner) {
                due.renew.push(*key);
            } else if due.enter.len() < MAX_PER_CALL {
                due.enter.push(Wanted {
                    key: *key,
                    group: held.group.clone(),
                    receiver: held.receiver.clone(),
                    since: held.since,
                });
            }
        }
        due
    }

    /// Whether an owner is to be told more than renewals.
    pub(super) fn has_news(&self, id: PartitionId, owner: Owner) -> bool {
        let slot = self.slot(id).lock();
        let differs = |held: &Held| !held.is_new && held.with != Some(owner);
        !slot.leaving.is_empty() || slot.held.values().any(differs)
    }

    fn remove(&self, id: PartitionId, key: u64) -> bool {
        self.slot(id).lock().held.remove(&key).is_some()
    }

    /// An owner elsewhere is to be told that it is gone.
    fn leaving(&self, id: PartitionId, key: u64) {
        let mut slot = self.slot(id).lock();
        if slot.leaving.len() < MAX_LEAVING {
            slot.leaving.push(key);
        }
        drop(slot);
        self.dirty.notify_one();
    }
}

impl Partitions {
    fn leave(&self, id: PartitionId, key: u64) {
        if !self.0.seats.remove(id, key) {
            // Lost before.
            return;
        }
        match self.owner(id) {
            Some(owner) if owner.node == self.node() => self.0.desks[usize::from(id.0)].leave(self.node(), key),
            _ => self.0.seats.leaving(id, key),
        }
    }
}
