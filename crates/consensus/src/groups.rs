//! The groups that run on this node, and the calls of their other members.
//!
//! Invariants: a node acts only in its own name: the node id in a call is compared with the caller that the transport has
//! authenticated. A call that cannot be decoded is refused and changes nothing.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use holdfast_model::NodeId;
use holdfast_tasks::sync::RwLock;
use tokio::sync::Semaphore;

use crate::group::{Group, Inner};
use crate::ids::Vote;
use crate::position::GroupId;
use crate::snapshot;
use crate::transport::{Answer, CallError, Chunks, Handler, refused};
use crate::wire::{self, Cursor, Kind};

/// Snapshots that a node sends at once; others wait. Each may fill the disk's and the network's bandwidth.
pub(crate) const MAX_SNAPSHOTS_SENT: usize = 2;

/// The groups of this node; clones share the table. Enter it under [`Service::Raft`](crate::transport::Service::Raft).
///
/// It does not keep a group running: a group ends when its last handle is dropped.
#[derive(Clone)]
pub struct Groups(Arc<Table>);

struct Table {
    groups: RwLock<HashMap<GroupId, Weak<Inner>>>,
    sending: Arc<Semaphore>,
}

impl Default for Groups {
    fn default() -> Self {
        Self(Arc::new(Table {
            groups: RwLock::default(),
            sending: Arc::new(Semaphore::new(MAX_SNAPSHOTS_SENT)),
        }))
    }
}

impl Groups {
    /// The group, if it runs here.
    #[must_use]
    pub fn get(&self, id: GroupId) -> Option<Group> {
        self.0.groups.read().get(&id)?.upgrade().map(Group)
    }

    pub(crate) fn enter(&self, group: &Group) {
        self.0.groups.write().insert(group.id(), Arc::downgrade(&group.0));
    }

    /// Removes the group, unless another with its number has been registered since.
    pub(crate) fn leave(&self, group: &Group) {
        let mut groups = self.0.groups.write();
        if groups
            .get(&group.id())
            .is_some_and(|entered| std::ptr::eq(entered.as_ptr(), Arc::as_ptr(&group.0)))
        {
            groups.remove(&group.id());
        }
    }

    pub(crate) fn sending(&self) -> Arc<Semaphore> {
        self.0.sending.clone()
    }

    fn find(&self, target: u32) -> Result<Group, CallError> {
        self.get(GroupId(target))
            .ok_or_else(|| CallError::Refused(format!("{} does not run on this node", GroupId(target)).into()))
    }
}

impl Handler for Groups {
    fn call(&self, from: NodeId, target: u32, body: Bytes) -> Answer {
        let group = match self.find(target) {
            Ok(group) => group,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        Box::pin(async move {
            let answer = match wire::decode(body) {
                Ok((kind, cursor)) => answer(&group, from, kind, cursor).await,
                Err(error) => Err(refusal(error)),
            };
            if answer.is_err() {
                group.0.metrics.refused.increment(1);
            }
            answer
        })
    }

    fn upload(&self, from: NodeId, target: u32, body: Bytes, chunks: Chunks) -> Answer {
        let group = match self.find(target) {
            Ok(group) => group,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        match wire::decode(body) {
            Ok((Kind::Snapshot, cursor)) => Box::pin(async move {
                let head = snapshot::Head::decode(cursor).map_err(refusal)?;
                let answer = snapshot::receive::receive(&group, from, head, chunks).await;
                group.has_grown();
                answer
            }),
            Ok(_) => refused("this request is not an upload"),
            Err(error) => refused(&error.to_string()),
        }
    }
}

fn refusal(error: impl std::fmt::Display) -> CallError {
    CallError::Refused(error.to_string().into())
}

/// Refuses a vote in the name of another node.
fn from_itself(from: NodeId, vote: &Vote) -> Result<(), CallError> {
    if vote.leader_id.node_id == from {
        return Ok(());
    }
    Err(CallError::Refused(
        format!("node {from} acts in the name of node {}", vote.leader_id.node_id).into(),
    ))
}

async fn answer(group: &Group, from: NodeId, kind: Kind, body: Cursor) -> Result<Bytes, CallError> {
    let raft = &group.0.raft;
    Ok(match kind {
        Kind::Append => {
            let request = wire::append::decode(group.id(), body).map_err(refusal)?;
            from_itself(from, &request.vote)?;
            let answer = raft.append_entries(request).await.map_err(refusal)?;
            group.has_grown();
            wire::append::encode_answer(&answer)
        }
        Kind::Vote | Kind::PreVote => {
            let request = wire::vote::decode(body).map_err(refusal)?;
            from_itself(from, &request.vote)?;
            if !group.0.log.may_vote_for(request.last_log_id) {
                let reason = "an earlier replica on this node had acknowledged entries that the candidate lacks";
                return Err(CallError::Refused(reason.into()));
            }
            let answer = match kind {
                Kind::PreVote => raft.pre_vote(request).await,
                _ => raft.vote(request).await,
            };
            wire::vote::encode_answer(&answer.map_err(refusal)?)
        }
        Kind::TransferLeader => {
            let request = wire::vote::decode_transfer(body).map_err(refusal)?;
            from_itself(from, request.from_leader())?;
            wire::vote::encode_transfer_answer(&raft.handle_transfer_leader(request).await.map_err(refusal)?)
        }
        Kind::Propose => wire::group::encode_applied(&group.propose_here(None, body.0).await),
        Kind::ReadIndex => wire::group::encode_read_point(&group.read_point_here().await),
        Kind::Lease => wire::group::encode_read_point(&group.lease_here()),
        Kind::Snapshot => return Err(CallError::Refused("a snapshot must be uploaded in parts".into())),
    })
}
