//! The groups that run on this node, as the calls of other members find them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::group::{Group, Inner};
use crate::position::GroupId;
use crate::transport::{Answer, Handler, refused};

/// The groups of this node; clones share the table. Enter it under [`Service::Raft`](crate::transport::Service::Raft).
///
/// It does not keep a group running: one whose last handle is dropped is gone.
#[derive(Clone, Default)]
pub struct Groups(Arc<RwLock<HashMap<GroupId, Weak<Inner>>>>);

impl Groups {
    /// The group, if it runs here.
    #[must_use]
    pub fn get(&self, id: GroupId) -> Option<Group> {
        self.0.read().get(&id)?.upgrade().map(Group)
    }

    pub(crate) fn enter(&self, group: &Group) {
        self.0.write().insert(group.id(), Arc::downgrade(&group.0));
    }

    /// Takes the group out, unless another of its number has come meanwhile.
    pub(crate) fn leave(&self, group: &Group) {
        let mut groups = self.0.write();
        if groups
            .get(&group.id())
            .is_some_and(|entered| std::ptr::eq(entered.as_ptr(), Arc::as_ptr(&group.0)))
        {
            groups.remove(&group.id());
        }
    }
}

impl Handler for Groups {
    fn call(&self, _from: u64, _target: u32, _body: Bytes) -> Answer {
        refused("not yet")
    }
}
