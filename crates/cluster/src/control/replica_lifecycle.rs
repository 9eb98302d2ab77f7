//! Creates partitions, starts empty replicas and deletes replicas: the steps that must never be taken by mistake.
//!
//! A replica that is deleted while it is a member of its group loses what it has acknowledged; a partition that is created
//! twice has two logs; an empty replica on a node that has been drained would be left behind when the node is removed. Each
//! step therefore asks other nodes first. A replica is stopped before it asks whether it may be
//! deleted: a stopped replica cannot catch up and become a member again, so that the answer stays true.

use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::GroupId;
use holdfast_model::{NodeId, PartitionId};
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::control_answer::Answer;
use holdfast_proto::cluster::v1::control_request::Request;
use holdfast_proto::cluster::v1::membership_answer::Standing;
use holdfast_registry::{ClusterView, Placement, RegistryError};
use thiserror::Error;

use super::actions::ControlCallError;
use super::{Control, HostError};
use crate::error_chain;

/// Timeout of a query about the membership in a group.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of the confirmation that the registry's view is up to date.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// The registry has not confirmed that this node's view of the placements is up to date.
#[derive(Debug, Error)]
pub(super) enum UnconfirmedView {
    #[error("the registry cannot confirm its view")]
    Refused(#[source] RegistryError),
    #[error("the registry has not confirmed its view in time")]
    TimedOut,
}

/// Why an empty replica was not started.
#[derive(Debug, Error)]
pub(super) enum StartEmptyError {
    #[error(transparent)]
    Unconfirmed(#[from] UnconfirmedView),
    /// The replica could not be started.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Why a partition was not created.
#[derive(Debug, Error)]
pub(super) enum CreateError {
    #[error(transparent)]
    Unconfirmed(#[from] UnconfirmedView),
    #[error("node {node} has not answered whether it has a replica")]
    Unanswered {
        node: NodeId,
        #[source]
        source: ControlCallError,
    },
    /// The replica could not be started.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Why a replica was not deleted.
#[derive(Debug, Error)]
pub(super) enum RemoveError {
    #[error("it is placed on this node again")]
    PlacedHere,
    #[error("the group has not removed it yet")]
    StillMember,
    /// With the last answer.
    #[error("no leader has confirmed that it is not a member: {0}")]
    Unconfirmed(String),
    /// Deleting it, or starting it again, has failed.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Control {
    /// Creates the partition, or an empty replica of it if another node has one.
    pub(super) async fn create_partition(&self, partition: PartitionId) -> Result<(), CreateError> {
        let inner = &self.0;
        let view = self.confirmed_view().await?;
        let Some(placement) = view.placement(partition) else {
            return Ok(());
        };
        if placement.founder != inner.id || !placement.replicas.contains(&inner.id) {
            return Ok(());
        }
        let mut exists = false;
        for node in view.nodes.keys().copied().filter(|node| *node != inner.id) {
            match self.query_membership(node, partition).await {
                Ok((Standing::NoReplica, _)) => {}
                Ok(_) => exists = true,
                Err(source) => return Err(CreateError::Unanswered { node, source }),
            }
        }
        Ok(self.start_replica(partition, !exists).await?)
    }

    /// Starts a replica without data, to be added by the group's leader, if it is still placed here.
    pub(super) async fn start_empty_replica(&self, partition: PartitionId) -> Result<(), StartEmptyError> {
        let view = self.confirmed_view().await?;
        let is_wanted = |placement: &Placement| placement.replicas.contains(&self.0.id);
        if !view.placement(partition).is_some_and(is_wanted) {
            return Ok(());
        }
        Ok(self.start_replica(partition, false).await?)
    }

    /// The view of the cluster, confirmed: a node that has just started may have an outdated one, in which it still has
    /// replicas that it gave up before.
    async fn confirmed_view(&self) -> Result<Arc<ClusterView>, UnconfirmedView> {
        let registry = &self.0.registry;
        match tokio::time::timeout(CONFIRM_TIMEOUT, registry.read_barrier()).await {
            Ok(Ok(())) => Ok(registry.cluster()),
            Ok(Err(error)) => Err(UnconfirmedView::Refused(error)),
            Err(_) => Err(UnconfirmedView::TimedOut),
        }
    }

    /// Deletes this node's replica once its group has removed it.
    pub(super) async fn remove_replica(&self, partition: PartitionId) -> Result<(), RemoveError> {
        let inner = &self.0;
        self.check_not_member(partition).await?;
        let Some(replica) = inner.partitions.unhost(partition) else {
            return Ok(());
        };
        replica.shutdown().await;
        // Checked again now that it cannot acknowledge anything any more.
        if let Err(error) = self.check_not_member(partition).await {
            drop(replica);
            self.start_replica(partition, false).await?;
            return Err(error);
        }
        replica.destroy().await.map_err(HostError::new)?;
        inner.on_disk.lock().remove(&partition);
        tracing::info!(
            partition = partition.0,
            "deleted the replica: the partition is placed on other nodes"
        );
        Ok(())
    }

    /// Checks with the group's leader that this node is not a member.
    async fn check_not_member(&self, partition: PartitionId) -> Result<(), RemoveError> {
        let inner = &self.0;
        let view = inner.registry.cluster();
        let placed = view.placement(partition).map(|placement| placement.replicas.clone());
        let mut to_ask = placed.unwrap_or_default();
        if to_ask.contains(&inner.id) {
            return Err(RemoveError::PlacedHere);
        }
        let known = inner.partitions.owner(partition).map(|owner| owner.node);
        to_ask.extend(known.filter(|node| *node != inner.id && !to_ask.contains(node)));
        let mut asked = 0;
        let mut last = "no node with a replica is known".to_owned();
        while let Some(node) = to_ask.get(asked).copied() {
            asked += 1;
            match self.query_membership(node, partition).await {
                Ok((Standing::NonMember, _)) => return Ok(()),
                Ok((Standing::Member, _)) => return Err(RemoveError::StillMember),
                Ok((_, Some(leader))) if leader != inner.id && !to_ask.contains(&leader) => to_ask.push(leader),
                Ok(_) => last = format!("node {node} does not lead the group"),
                Err(error) => last = format!("node {node}: {}", error_chain::text(&error)),
            }
        }
        Err(RemoveError::Unconfirmed(last))
    }

    /// Asks `node` about this node's membership in the partition's group, and for the group's leader.
    async fn query_membership(
        &self,
        node: NodeId,
        partition: PartitionId,
    ) -> Result<(Standing, Option<NodeId>), ControlCallError> {
        let group = GroupId::partition(partition.0).0;
        let request = Request::Membership(proto::MembershipRequest { group });
        match self.call_control(node, request, MEMBERSHIP_TIMEOUT).await? {
            Answer::Membership(answer) => Ok((
                answer.standing(),
                Some(answer.leader).filter(|leader| *leader != 0).map(NodeId),
            )),
            Answer::Refusal(refusal) => Err(ControlCallError::Refused(refusal.text)),
            _ => Err(ControlCallError::OtherAnswer),
        }
    }
}
