//! The calls of a group's other members.
//!
//! Invariants: a node acts only in its own name: the node id in a call is compared with the caller that the transport has
//! authenticated. A call that cannot be decoded is refused and changes nothing.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::NodeId;
use openraft::raft::AppendEntriesResponse;
use tokio::time::Instant;

use super::{Group, Inner};
use crate::groups::Serve;
use crate::ids::Vote;
use crate::snapshot::Head;
use crate::snapshot::export;
use crate::status::Leader;
use crate::transport::{Answer, CallError, Chunks, refused};
use crate::wire::{self, Cursor, Kind};

impl Serve for Inner {
    fn call(self: Arc<Self>, from: NodeId, body: Bytes) -> Answer {
        let group = Group(self);
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

    fn upload(self: Arc<Self>, from: NodeId, body: Bytes, chunks: Chunks) -> Answer {
        let group = Group(self);
        match wire::decode(body) {
            Ok((Kind::Snapshot, cursor)) => Box::pin(async move {
                let head = Head::decode(cursor).map_err(refusal)?;
                let answer = group.0.receiver.receive(from, head, chunks).await;
                group.has_grown();
                answer
            }),
            Ok(_) => refused("this request is not an upload"),
            Err(error) => refused(&error.to_string()),
        }
    }

    fn download(self: Arc<Self>, body: Bytes) -> Chunks {
        let scope = match wire::decode(body) {
            Ok((Kind::Export, cursor)) => export::decode_request(cursor),
            Ok(_) => Err(wire::WireError::Invalid("this request is not a download")),
            Err(error) => Err(error),
        };
        match scope {
            Ok(scope) => Group(self).export(scope),
            Err(error) => Box::pin(futures_util::stream::iter([Err(refusal(error))])),
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
            let (leader, arrived) = (Leader::of(&request.vote), Instant::now());
            let answer = raft.append_entries(request).await.map_err(refusal)?;
            if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                group.0.leaderless.heard(leader, arrived);
            }
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
            group.0.leaderless.hands_over(Leader::of(request.from_leader()));
            wire::vote::encode_transfer_answer(&raft.handle_transfer_leader(request).await.map_err(refusal)?)
        }
        Kind::Propose => wire::group::encode_applied(&group.propose_here(None, body.0).await),
        Kind::ReadIndex => wire::group::encode_read_point(&group.read_point_here().await),
        Kind::Lease => wire::group::encode_read_point(&group.lease_here()),
        Kind::Snapshot | Kind::Export => {
            return Err(CallError::Refused("a state is sent in parts".into()));
        }
    })
}
