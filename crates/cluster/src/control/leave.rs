//! Making a partition, and deleting a replica: the two things that must never happen by mistake.
//!
//! A replica that is deleted while its group still counts on it has forgotten what it acknowledged; a partition that is
//! made twice has two logs. So both ask first, and the one that deletes stops before it asks: a stopped replica cannot
//! be counted as caught up again, so that "no member" stays true until it has been deleted.

use std::time::Duration;

use holdfast_consensus::GroupId;
use holdfast_model::PartitionId;
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::control_answer::Answer;
use holdfast_proto::cluster::v1::control_request::Request;
use holdfast_proto::cluster::v1::membership_answer::Standing;
use thiserror::Error;

use super::{Control, HostError};

/// How long one node may take to say whether this one is a member of a group.
const ASK_PATIENCE: Duration = Duration::from_secs(3);
/// How long the registry may take to confirm that its view is up to date.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(5);

/// Why a partition was not made.
#[derive(Debug, Error)]
pub(super) enum FoundError {
    /// It is not known yet whether it exists.
    #[error("{0}")]
    NotNow(String),
    /// It could not be started.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Control {
    /// Makes the partition, or an empty replica of it where another node has one.
    pub(super) async fn found_replica(&self, partition: PartitionId) -> Result<(), FoundError> {
        let inner = &self.0;
        // The view of a node that has just started may be old.
        match tokio::time::timeout(CONFIRM_PATIENCE, inner.registry.confirm()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(FoundError::NotNow(error.to_string())),
            Err(_) => return Err(FoundError::NotNow("the registry does not answer".to_owned())),
        }
        let view = inner.registry.cluster();
        let Some(placement) = view.placement(partition) else {
            return Ok(());
        };
        if placement.founder != inner.id || !placement.replicas.contains(&inner.id) {
            return Ok(());
        }
        let mut exists = false;
        for node in view.nodes.keys().copied().filter(|node| *node != inner.id) {
            match self.ask_standing(node, partition).await {
                Ok((Standing::NoReplica, _)) => {}
                Ok(_) => exists = true,
                Err(reason) => {
                    let text = format!("node {node} does not say whether it has a replica: {reason}");
                    return Err(FoundError::NotNow(text));
                }
            }
        }
        Ok(self.start_replica(partition, !exists).await?)
    }

    /// Deletes this node's replica, once its group has let it go.
    pub(super) async fn leave_replica(&self, partition: PartitionId) -> Result<(), String> {
        let inner = &self.0;
        self.check_stranger(partition).await?;
        let Some(replica) = inner.partitions.unhost(partition) else {
            return Ok(());
        };
        replica.shutdown().await;
        // Asked again, now that it can acknowledge nothing any more.
        if let Err(reason) = self.check_stranger(partition).await {
            drop(replica);
            self.start_replica(partition, false).await.map_err(|error| error.0)?;
            return Err(reason);
        }
        replica.destroy().await.map_err(|error| error.to_string())?;
        inner.on_disk.lock().remove(&partition);
        tracing::info!(
            partition = partition.0,
            "the replica has been deleted: the partition is elsewhere now"
        );
        Ok(())
    }

    /// Whether the group's leader says that this node is no member.
    async fn check_stranger(&self, partition: PartitionId) -> Result<(), String> {
        let inner = &self.0;
        let view = inner.registry.cluster();
        let placed = view.placement(partition).map(|placement| placement.replicas.clone());
        let mut to_ask = placed.unwrap_or_default();
        if to_ask.contains(&inner.id) {
            return Err("it is wanted here again".to_owned());
        }
        let known = inner.partitions.owner(partition).map(|owner| owner.node);
        to_ask.extend(known.filter(|node| *node != inner.id && !to_ask.contains(node)));
        let mut asked = 0;
        let mut last = "nobody is known to have a replica".to_owned();
        while let Some(node) = to_ask.get(asked).copied() {
            asked += 1;
            match self.ask_standing(node, partition).await {
                Ok((Standing::Stranger, _)) => return Ok(()),
                Ok((Standing::Member, _)) => return Err("the group has not let it go yet".to_owned()),
                Ok((_, Some(leader))) if leader != inner.id && !to_ask.contains(&leader) => to_ask.push(leader),
                Ok(_) => last = format!("node {node} does not lead the group"),
                Err(reason) => last = format!("node {node}: {reason}"),
            }
        }
        Err(format!("no leader says that it may go: {last}"))
    }

    /// What `node` says about this node's membership in the partition's group, and who leads it.
    async fn ask_standing(&self, node: u64, partition: PartitionId) -> Result<(Standing, Option<u64>), String> {
        let group = GroupId::partition(partition.0).0;
        let request = Request::Membership(proto::MembershipRequest { group });
        match self.ask(node, request, ASK_PATIENCE).await? {
            Answer::Membership(answer) => Ok((answer.standing(), Some(answer.leader).filter(|leader| *leader != 0))),
            Answer::Refusal(refusal) => Err(refusal.text),
            _ => Err("it answers something else".to_owned()),
        }
    }
}
