//! Who owns which partition, as this node knows it.
//!
//! Knowledge comes from the replica here, from answers of other nodes and from asking them (`ask`). It is ordered by the
//! term of the leadership: what is older is passed over, so that it does not matter who tells it and when.
//! Invariant: an owner that is known is replaced by one of a later term, or taken back by the node itself.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{PartitionCount, PartitionId};
use holdfast_partition::Partition;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often the replica here is asked who leads.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Who owns a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The term of its leadership: a later owner has a higher one.
    pub term: u64,
    /// The node.
    pub node: u64,
}

/// See the module.
pub(super) struct Owners {
    node: u64,
    slots: Vec<Arc<Slot>>,
    /// Counts changes of owners, to wake who waits for any.
    changed: Arc<watch::Sender<u64>>,
}

struct Slot {
    id: PartitionId,
    local: RwLock<Option<Local>>,
    replicas: RwLock<Arc<[u64]>>,
    owner: watch::Sender<Option<Owner>>,
    changed: Arc<watch::Sender<u64>>,
}

struct Local {
    partition: Partition,
    /// Follows its leader; `None` without a runtime.
    follower: Option<JoinHandle<()>>,
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(task) = &self.follower {
            task.abort();
        }
    }
}

impl Owners {
    pub(super) fn new(node: u64, count: PartitionCount) -> Self {
        let changed = Arc::new(watch::Sender::new(0));
        let slot = |id| {
            Arc::new(Slot {
                id,
                local: RwLock::new(None),
                replicas: RwLock::new(Arc::from([])),
                owner: watch::Sender::new(None),
                changed: changed.clone(),
            })
        };
        Self {
            node,
            slots: count.iter().map(slot).collect(),
            changed,
        }
    }

    fn slot(&self, id: PartitionId) -> &Arc<Slot> {
        &self.slots[usize::from(id.0)]
    }

    pub(super) fn host(&self, partition: Partition) {
        let slot = self.slot(partition.id());
        slot.look(self.node, &partition);
        let follower = tokio::runtime::Handle::try_current().is_ok().then(|| {
            let (slot, node, partition) = (slot.clone(), self.node, partition.clone());
            let follow = async move {
                loop {
                    tokio::time::sleep(LOOK_EVERY).await;
                    slot.look(node, &partition);
                }
            };
            holdfast_tasks::spawn("partition-owner", Box::pin(follow))
        });
        *slot.local.write() = Some(Local { partition, follower });
    }

    pub(super) fn unhost(&self, id: PartitionId) -> Option<Partition> {
        let slot = self.slot(id);
        let gone = slot.local.write().take()?;
        slot.disown(self.node);
        Some(gone.partition.clone())
    }

    pub(super) fn local(&self, id: PartitionId) -> Option<Partition> {
        let local = self.slot(id).local.read();
        local.as_ref().map(|local| local.partition.clone())
    }

    pub(super) fn set_replicas(&self, id: PartitionId, nodes: Vec<u64>) {
        *self.slot(id).replicas.write() = nodes.into();
    }

    pub(super) fn owner(&self, id: PartitionId) -> Option<Owner> {
        *self.slot(id).owner.borrow()
    }

    pub(super) fn watch(&self, id: PartitionId) -> watch::Receiver<Option<Owner>> {
        self.slot(id).owner.subscribe()
    }

    pub(super) fn changes(&self) -> OwnerChanges {
        let owners = self.slots.iter().map(|slot| (slot.id, slot.owner.subscribe()));
        OwnerChanges {
            owners: owners
                .map(|(id, mut owner)| {
                    owner.mark_changed();
                    (id, owner)
                })
                .collect(),
            next: 0,
            changed: self.changed.subscribe(),
        }
    }

    pub(super) async fn after(&self, id: PartitionId, failed: Option<Owner>, patience: Duration) -> Option<Owner> {
        let mut owner = self.watch(id);
        let other = owner.wait_for(|owner| owner.is_some() && *owner != failed);
        let found = tokio::time::timeout(patience, other).await;
        let found = found.ok().and_then(Result::ok).and_then(|owner| *owner);
        found.or_else(|| self.owner(id))
    }

    pub(super) fn learn(&self, id: PartitionId, owner: Owner) {
        self.slot(id).learn(owner);
    }

    pub(super) fn disown(&self, id: PartitionId, node: u64) {
        self.slot(id).disown(node);
    }
}

impl Slot {
    /// What the replica here knows.
    fn look(&self, node: u64, partition: &Partition) {
        if partition.is_owner() {
            self.learn(Owner { term: 0, node });
        } else {
            self.disown(node);
        }
    }

    fn learn(&self, told: Owner) {
        self.set(|known| known.is_none_or(|known| known.term < told.term).then_some(Some(told)));
    }

    fn disown(&self, node: u64) {
        self.set(|known| known.is_some_and(|known| known.node == node).then_some(None));
    }

    fn set(&self, decide: impl FnOnce(Option<Owner>) -> Option<Option<Owner>>) {
        let has_changed = self.owner.send_if_modified(|owner| match decide(*owner) {
            Some(new) if new != *owner => {
                *owner = new;
                true
            }
            _ => false,
        });
        if has_changed {
            self.changed.send_modify(|changes| *changes += 1);
        }
    }
}

/// Changes of owners; of a partition that has changed several times only the last one is told.
pub struct OwnerChanges {
    owners: Vec<(PartitionId, watch::Receiver<Option<Owner>>)>,
    /// Where to look first, so that a partition that changes all the time does not hide the others.
    next: usize,
    changed: watch::Receiver<u64>,
}

impl OwnerChanges {
    /// The next one; `None` as owner when nobody is known to own the partition. Cancel-safe. `None` as a whole when the
    /// partitions are gone.
    pub async fn next(&mut self) -> Option<(PartitionId, Option<Owner>)> {
        loop {
            self.changed.borrow_and_update();
            for _ in 0..self.owners.len() {
                let at = self.next;
                self.next = (at + 1) % self.owners.len();
                let (id, owner) = &mut self.owners[at];
                if owner.has_changed().ok()? {
                    return Some((*id, *owner.borrow_and_update()));
                }
            }
            self.changed.changed().await.ok()?;
        }
    }
}
