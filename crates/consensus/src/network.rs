//! Calls to the other members over the node's [`Transport`], behind openraft's network interface.
//!
//! One append is in flight to a member at a time; entries proposed meanwhile go with the next. Nothing is queued here.
//! Errors decide when openraft retries: at once, or after a while when the member cannot be reached.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_model::NodeId;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use tokio::sync::Semaphore;

use crate::ids::{Node, Vote};
use crate::log::store::Shared;
use crate::metrics::GroupMetrics;
use crate::snapshot;
use crate::state_machine::applier::SnapshotData;
use crate::state_machine::shared::SharedStateMachine;
use crate::transport::{Call, CallError, Service, Transport};
use crate::type_config::{Snapshot, Types};
use crate::wire::{self, Kind, WireError};

/// How long entries may take to be synced by a member before they are sent again. Longer than a heartbeat's time-out: a
/// slow disk is no reason to send megabytes twice.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Shared by a group's connections to its members.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) log: Arc<Shared>,
    pub(crate) machine: SharedStateMachine,
    /// Snapshots that this node may be sending.
    pub(crate) sending: Arc<Semaphore>,
    pub(crate) metrics: GroupMetrics,
}

/// The connection to one member.
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) peers: Peers,
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, _node: &Node) -> Peer {
        Peer {
            node: target,
            peers: self.clone(),
        }
    }
}

impl Peers {
    /// A call to the group on another node.
    pub(crate) fn to_call(&self, body: Vec<Bytes>, timeout: Duration) -> Call {
        Call {
            service: Service::Raft,
            target: self.log.group.0,
            body,
            timeout,
        }
    }
}

impl Peer {
    async fn call(&self, body: Vec<Bytes>, timeout: Duration) -> Result<Bytes, RPCError<Types>> {
        let call = self.peers.to_call(body, timeout);
        self.peers
            .transport
            .call(self.node, call)
            .await
            .map_err(|error| failed(&error))
    }
}

fn failed(error: &CallError) -> RPCError<Types> {
    match error {
        // Not reached, or not yet ready: later.
        CallError::NotSent(_) | CallError::Refused(_) => RPCError::Unreachable(Unreachable::new(error)),
        CallError::Unknown(_) => RPCError::Network(NetworkError::new(error)),
    }
}

fn garbled(error: WireError) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let timeout = if request.entries.is_empty() {
            option.hard_ttl()
        } else {
            APPEND_TIMEOUT
        };
        let body = wire::append::encode(&request);
        // The entries' memory goes with the body.
        drop(request);
        let answer = self.call(body, timeout).await?;
        wire::append::decode_answer(answer).map_err(garbled)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = wire::vote::encode(Kind::Vote, &request);
        let answer = self.call(vec![body], option.hard_ttl()).await?;
        wire::vote::decode_answer(answer).map_err(garbled)
    }

    // The library's default grants every pre-vote; it is meant for networks without them.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = wire::vote::encode(Kind::PreVote, &request);
        let answer = self.call(vec![body], option.hard_ttl()).await?;
        wire::vote::decode_answer(answer).map_err(garbled)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let body = wire::vote::encode_transfer(&request);
        let answer = self.call(vec![body], option.hard_ttl()).await?;
        wire::vote::decode_transfer_answer(answer).map_err(garbled)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        _snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sent = snapshot::send::send(self, &vote, option.hard_ttl());
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = sent => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(failed(&error).into()),
            },
        }
    }
}
