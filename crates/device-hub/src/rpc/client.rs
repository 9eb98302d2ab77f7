//! Calls to the session service of other nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_cluster::route::Owner;
use holdfast_cluster::transport::{Call, CallError, Service};
use holdfast_model::{NodeId, PartitionId};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use holdfast_registry::NodeState;

use super::codec;
use crate::DeviceHub;

/// How long an earlier owner's answer about an outcome is awaited after the partition has a later one. One that is alive answers
/// within the time of a call.
pub(crate) const FORMER_OWNER_TIMEOUT: Duration = Duration::from_secs(1);

impl DeviceHub {
    /// Calls the session service of `node`.
    pub(crate) async fn call_node(
        &self,
        node: NodeId,
        target: u16,
        request: Request,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        let request = proto::SessionRequest {
            incarnation: self.parts.incarnation.get(),
            request: Some(request),
        };
        let call = Call {
            service: Service::Session,
            target: u32::from(target),
            body: vec![codec::encode(&request)],
            timeout,
        };
        let answer = self.parts.transport.call(node, call).await?;
        let answer: proto::SessionAnswer = codec::decode(&answer)?;
        answer
            .answer
            .ok_or_else(|| codec::refused("an answer that this version does not know"))
    }

    /// Calls the owner of a partition. Ends early when the partition has a later owner: the answer of the earlier one may
    /// never come, for example when its node was stopped.
    pub(crate) async fn call_owner(
        &self,
        partition: PartitionId,
        owner: Owner,
        request: Request,
        timeout: Duration,
    ) -> Result<Answer, CallError> {
        self.call_owner_for(partition, owner, request, timeout, Duration::ZERO)
            .await
    }

    /// As [`Self::call_owner`]; an earlier owner has `after_later_owner` to answer all the same. With [`FORMER_OWNER_TIMEOUT`] for requests
    /// of which the outcome matters: an earlier owner that is alive knows it.
    pub(crate) async fn call_owner_for(
        &self,
        partition: PartitionId,
        owner: Owner,
        request: Request,
        timeout: Duration,
        after_later_owner: Duration,
    ) -> Result<Answer, CallError> {
        let mut owners = self.parts.partitions.watch_owner(partition);
        let has_later_owner = async {
            let later = owners.wait_for(|known| known.is_some_and(|known| known > owner));
            if later.await.is_err() {
                std::future::pending::<()>().await;
            }
            if !after_later_owner.is_zero() {
                tokio::time::sleep(after_later_owner).await;
            }
        };
        tokio::select! {
            biased;
            answer = self.call_node(owner.node, partition.0, request, timeout) => answer,
            () = has_later_owner => Err(CallError::Unknown("another node owns the partition".into())),
        }
    }

    /// Calls several nodes at once; nodes that do not answer are left out.
    pub(crate) async fn call_nodes(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
        request: Request,
        timeout: Duration,
    ) -> Vec<Answer> {
        let calls = nodes
            .into_iter()
            .map(|node| self.call_node(node, 0, request.clone(), timeout));
        join_all(calls).await.into_iter().filter_map(Result::ok).collect()
    }

    /// The nodes that may have sessions; this one is always among them.
    pub(crate) fn members(&self) -> Vec<NodeId> {
        let view = self.parts.registry.cluster();
        let members = view.nodes.values().filter(|node| node.state != NodeState::Drained);
        let mut members: BTreeSet<NodeId> = members.map(|node| node.id).collect();
        members.insert(self.parts.node);
        members.into_iter().collect()
    }

    /// The other nodes that own partitions, as far as is known.
    pub(crate) fn other_owners(&self) -> BTreeSet<NodeId> {
        let partitions = &self.parts.partitions;
        let owners = partitions.count().iter().filter_map(|id| partitions.owner(id));
        owners
            .map(|owner| owner.node)
            .filter(|node| *node != self.parts.node)
            .collect()
    }
}
