//! The groups that run on this node, as the calls of other members find them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::group::Group;
use crate::position::GroupId;
use crate::transport::{Answer, Handler, refused};

/// The groups of this node; clones share the table. Enter it under [`Service::Raft`](crate::transport::Service::Raft).
#[derive(Clone, Default)]
pub struct Groups(Arc<RwLock<HashMap<GroupId, Group>>>);

impl Groups {
    /// The group, if it runs here.
    #[must_use]
    pub fn get(&self, id: GroupId) -> Option<Group> {
        self.0.read().get(&id).cloned()
    }
}

impl Handler for Groups {
    fn call(&self, _from: u64, _target: u32, _body: Bytes) -> Answer {
        refused("not yet")
    }
}
