//! The owner of each partition, as far as this node knows.
//!
//! Sources are the local replica, answers of other nodes, and the owner watch. Owners are ordered by the term of their
//! leadership: an older one is ignored, so that the order in which the sources report does not matter.
//! Invariants: a known owner is replaced by one of a later term, or withdrawn by its own node; only the local replica
//! determines whether this node is the owner.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{NodeId, PartitionCount, PartitionId, Term};
use holdfast_partition::Partition;
use holdfast_tasks::sync::RwLock;
use holdfast_tasks::watch;
use tokio::task::JoinHandle;

/// Backoff of requests to an owner while no other owner is known.
pub(super) const OWNER_RETRY_BACKOFF: Duration = Duration::from_millis(250);

/// The owner of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The term of its leadership; a later owner has a higher term.
    pub term: Term,
    /// The node.
    pub node: NodeId,
}

/// See the module.
pub(super) struct OwnerTable {
    node: NodeId,
    slots: Vec<Arc<Slot>>,
    /// Counts changes of owners, to wake tasks that wait for any.
    changed: Arc<watch::Sender<u64>>,
    /// Counts changes of what the local replicas know. Starts at a random number, so that other nodes notice a restart.
    local_changed: Arc<watch::Sender<u64>>,
    /// Counts changes of the placements.
    placed: watch::Sender<u64>,
}

struct Slot {
    id: PartitionId,
    node: NodeId,
    local: RwLock<Option<Local>>,
    replicas: RwLock<Arc<[NodeId]>>,
    known: watch::Sender<Option<Owner>>,
    /// The latest known term.
    latest: RwLock<Term>,
    changed: Arc<watch::Sender<u64>>,
    local_changed: Arc<watch::Sender<u64>>,
}

struct Local {
    partition: Partition,
    /// The owner that the replica knows.
    owner: Option<Owner>,
    /// The task that follows the replica's leader; `None` without a runtime.
    follower: Option<JoinHandle<()>>,
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(task) = &self.follower {
            task.abort();
        }
    }
}

impl OwnerTable {
    pub(super) fn new(node: NodeId, count: PartitionCount) -> Self {
        let changed = Arc::new(watch::Sender::new(0));
        let local_changed = Arc::new(watch::Sender::new(rand::random::<u64>() >> 1 | 1));
        let slot = |id| {
            Arc::new(Slot {
                id,
                node,
                local: RwLock::new(None),
                replicas: RwLock::new(Arc::from([])),
                known: watch::Sender::new(None),
                latest: RwLock::new(Term(0)),
                changed: changed.clone(),
                local_changed: local_changed.clone(),
            })
        };
        Self {
            node,
            slots: count.iter().map(slot).collect(),
            changed,
            local_changed,
            placed: watch::Sender::new(0),
        }
    }

    fn slot(&self, id: PartitionId) -> &Arc<Slot> {
        &self.slots[usize::from(id.0)]
    }

    pub(super) fn host(&self, partition: Partition) {
        let slot = self.slot(partition.id());
        let mut watch = partition.group().watch();
        *slot.local.write() = Some(Local {
            partition: partition.clone(),
            owner: None,
            follower: None,
        });
        slot.update_from_replica(&partition);
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let following = slot.clone();
        let follow = async move {
            while watch.changed().await.is_ok() {
                following.update_from_replica(&partition);
            }
        };
        let task = holdfast_tasks::spawn_critical("partition-owner", Box::pin(follow));
        match &mut *slot.local.write() {
            Some(local) => local.follower = Some(task),
            None => task.abort(),
        }
    }

    pub(super) fn unhost(&self, id: PartitionId) -> Option<Partition> {
        let slot = self.slot(id);
        let gone = slot.local.write().take()?;
        slot.disown(self.node);
        slot.local_changed.send_modify(|changes| *changes += 1);
        Some(gone.partition.clone())
    }

    pub(super) fn local(&self, id: PartitionId) -> Option<Partition> {
        let local = self.slot(id).local.read();
        local.as_ref().map(|local| local.partition.clone())
    }

    /// The local replica, if it leads.
    pub(super) fn owned(&self, id: PartitionId) -> Option<Partition> {
        let local = self.slot(id).local.read();
        let local = local.as_ref()?;
        (local.owner?.node == self.node).then(|| local.partition.clone())
    }

    /// The owners that the local replicas know, and the change count that they belong to.
    pub(super) fn local_knowledge(&self) -> (u64, Vec<(PartitionId, Owner)>) {
        // The count is read first, so that a change in between is reported again.
        let count = *self.local_changed.borrow();
        let known = |slot: &Arc<Slot>| Some((slot.id, slot.local.read().as_ref()?.owner?));
        (count, self.slots.iter().filter_map(known).collect())
    }

    pub(super) fn local_changes(&self) -> watch::Receiver<u64> {
        self.local_changed.subscribe()
    }

    pub(super) fn replicas(&self, id: PartitionId) -> Arc<[NodeId]> {
        self.slot(id).replicas.read().clone()
    }

    /// All other nodes that have replicas.
    pub(super) fn peers(&self) -> BTreeSet<NodeId> {
        let all = self.slots.iter().map(|slot| slot.replicas.read().clone());
        let mut peers: BTreeSet<NodeId> = all.flat_map(|nodes| nodes.to_vec()).collect();
        peers.remove(&self.node);
        peers
    }

    pub(super) fn placements(&self) -> watch::Receiver<u64> {
        self.placed.subscribe()
    }

    pub(super) fn set_replicas(&self, id: PartitionId, nodes: Vec<NodeId>) {
        let mut replicas = self.slot(id).replicas.write();
        if **replicas != *nodes {
            *replicas = nodes.into();
            drop(replicas);
            self.placed.send_modify(|changes| *changes += 1);
        }
    }

    pub(super) fn owner(&self, id: PartitionId) -> Option<Owner> {
        *self.slot(id).known.borrow()
    }

    pub(super) fn watch(&self, id: PartitionId) -> watch::Receiver<Option<Owner>> {
        self.slot(id).known.subscribe()
    }

    pub(super) fn changes(&self) -> OwnerChanges {
        let owners = self.slots.iter().map(|slot| (slot.id, slot.known.subscribe()));
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

    pub(super) async fn after(&self, id: PartitionId, failed: Option<Owner>, timeout: Duration) -> Option<Owner> {
        let mut owner = self.watch(id);
        let other = owner.wait_for(|owner| owner.is_some() && *owner != failed);
        // After the timeout, the known owner is returned.
        let _ = tokio::time::timeout(timeout, other).await;
        self.owner(id)
    }

    pub(super) fn learn(&self, id: PartitionId, owner: Owner) {
        self.slot(id).learn(owner);
    }

    pub(super) fn disown(&self, id: PartitionId, node: NodeId) {
        self.slot(id).disown(node);
    }
}

impl Slot {
    /// Updates the owner from the local replica.
    fn update_from_replica(&self, partition: &Partition) {
        let leader = partition.group().leader();
        let owner = leader.map(|leader| Owner {
            term: leader.term,
            node: leader.node,
        });
        {
            let mut local = self.local.write();
            let Some(local) = &mut *local else { return };
            if local.owner == owner {
                return;
            }
            local.owner = owner;
        }
        match owner {
            Some(owner) if owner.node == self.node => self.set(owner.term, |_| Some(Some(owner))),
            Some(owner) => {
                self.disown(self.node);
                self.learn(owner);
            }
            None => self.disown(self.node),
        }
        self.local_changed.send_modify(|changes| *changes += 1);
    }

    fn learn(&self, owner: Owner) {
        if owner.node == self.node && self.local.read().as_ref().and_then(|local| local.owner) != Some(owner) {
            // Information of other nodes about this one is outdated.
            return;
        }
        self.set(owner.term, |known| {
            known.is_none_or(|known| known < owner).then_some(Some(owner))
        });
    }

    fn disown(&self, node: NodeId) {
        self.set(Term(0), |known| {
            known.is_some_and(|known| known.node == node).then_some(None)
        });
    }

    /// Changes the owner, unless the change belongs to an earlier term; `term` 0 means any term.
    fn set(&self, term: Term, decide: impl FnOnce(Option<Owner>) -> Option<Option<Owner>>) {
        let mut latest = self.latest.write();
        if term > Term(0) && term < *latest {
            return;
        }
        *latest = term.max(*latest);
        let has_changed = self.known.send_if_modified(|owner| match decide(*owner) {
            Some(new) if new != *owner => {
                *owner = new;
                true
            }
            _ => false,
        });
        drop(latest);
        if has_changed {
            self.changed.send_modify(|changes| *changes += 1);
        }
    }
}

/// The changes of owners. Of several changes of one partition, only the last is returned.
pub struct OwnerChanges {
    owners: Vec<(PartitionId, watch::Receiver<Option<Owner>>)>,
    /// The partition to check first, so that one that changes constantly does not hide the others.
    next: usize,
    changed: watch::Receiver<u64>,
}

impl OwnerChanges {
    /// The next change; the owner is `None` when no owner of the partition is known. Cancel-safe. Returns `None` when the
    /// partitions are gone.
    pub async fn next(&mut self) -> Option<(PartitionId, Option<Owner>)> {
        loop {
            drop(self.changed.borrow_and_update());
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
