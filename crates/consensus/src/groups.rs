//! The groups that run on this node: the table through which the calls of other members find them.
//!
//! Invariants: a call for a group that does not run here is refused; the table does not keep a group running.
//! Not here: what a group answers ([`Serve`] is implemented by the group).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::stream;
use holdfast_model::NodeId;
use holdfast_tasks::sync::RwLock;
use tokio::sync::Semaphore;

use crate::position::GroupId;
use crate::transport::{Answer, CallError, Chunks, Handler, refused};

/// Snapshots that a node sends at once; others wait. Each may fill the disk's and the network's bandwidth.
pub(crate) const MAX_SNAPSHOTS_SENT: usize = 2;

/// Exports that a node gives at once, beside snapshots: a backup reads group by group, and must not keep replicas waiting.
const MAX_EXPORTS: usize = 1;

/// A registered group as its other members call it. `from` is the caller that the transport has authenticated.
pub(crate) trait Serve: Send + Sync {
    /// Answers a call.
    fn call(self: Arc<Self>, from: NodeId, body: Bytes) -> Answer;

    /// Receives a snapshot.
    fn upload(self: Arc<Self>, from: NodeId, body: Bytes, chunks: Chunks) -> Answer;

    /// Sends its state.
    fn download(self: Arc<Self>, body: Bytes) -> Chunks;
}

/// The groups of this node; clones share the table. Enter it under [`Service::Raft`](crate::transport::Service::Raft).
///
/// It does not keep a group running: a group ends when its last handle is dropped.
#[derive(Clone)]
pub struct Groups(Arc<Table>);

struct Table {
    groups: RwLock<HashMap<GroupId, Weak<dyn Serve>>>,
    sending: Arc<Semaphore>,
    exporting: Arc<Semaphore>,
}

impl Default for Groups {
    fn default() -> Self {
        Self(Arc::new(Table {
            groups: RwLock::default(),
            sending: Arc::new(Semaphore::new(MAX_SNAPSHOTS_SENT)),
            exporting: Arc::new(Semaphore::new(MAX_EXPORTS)),
        }))
    }
}

impl Groups {
    /// Whether the group runs here.
    #[must_use]
    pub fn contains(&self, id: GroupId) -> bool {
        self.get(id).is_some()
    }

    fn get(&self, id: GroupId) -> Option<Arc<dyn Serve>> {
        self.0.groups.read().get(&id)?.upgrade()
    }

    pub(crate) fn enter(&self, id: GroupId, group: Weak<dyn Serve>) {
        self.0.groups.write().insert(id, group);
    }

    /// Removes the group, unless another with its number has been registered since.
    pub(crate) fn leave(&self, id: GroupId, group: *const impl Serve) {
        let mut groups = self.0.groups.write();
        if groups
            .get(&id)
            .is_some_and(|entered| std::ptr::addr_eq(entered.as_ptr(), group))
        {
            groups.remove(&id);
        }
    }

    pub(crate) fn sending(&self) -> Arc<Semaphore> {
        self.0.sending.clone()
    }

    pub(crate) fn exporting(&self) -> Arc<Semaphore> {
        self.0.exporting.clone()
    }
}

impl Handler for Groups {
    fn call(&self, from: NodeId, target: u32, body: Bytes) -> Answer {
        match self.get(GroupId(target)) {
            Some(group) => group.call(from, body),
            None => not_here(target),
        }
    }

    fn upload(&self, from: NodeId, target: u32, body: Bytes, chunks: Chunks) -> Answer {
        match self.get(GroupId(target)) {
            Some(group) => group.upload(from, body, chunks),
            None => not_here(target),
        }
    }

    fn download(&self, _from: NodeId, target: u32, body: Bytes) -> Chunks {
        match self.get(GroupId(target)) {
            Some(group) => group.download(body),
            None => Box::pin(stream::iter([Err(CallError::Refused(
                format!("{} does not run on this node", GroupId(target)).into(),
            ))])),
        }
    }
}

fn not_here(target: u32) -> Answer {
    refused(&format!("{} does not run on this node", GroupId(target)))
}
