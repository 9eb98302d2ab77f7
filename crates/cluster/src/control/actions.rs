//! Carries out the steps of groups, and starts replicas.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_consensus::transport::{Call, CallError, Service};
use holdfast_consensus::{ChangeError, Group, GroupId, GroupStatus, TransferError};
use holdfast_model::{NodeId, PartitionId};
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::control_answer::Answer;
use holdfast_proto::cluster::v1::control_request::Request;
use thiserror::Error;
use tokio::time::Instant;

use super::membership::Step;
use super::messages::{self, DecodeError};
use super::{Control, HostError};

/// A node that has declined a leadership is not asked again for this time.
const DECLINED_BACKOFF: Duration = Duration::from_secs(10);
/// Timeout of the query whether a node accepts the leadership.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of a change of members, which a quorum has to sync. It may complete later, which the next check shows.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a step failed.
#[derive(Debug, Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("node {node} does not take the leadership")]
    Declined {
        node: NodeId,
        #[source]
        source: ControlCallError,
    },
    #[error("it takes longer than {} s", CHANGE_TIMEOUT.as_secs())]
    Slow,
}

/// Why a call to the control of another node has failed.
#[derive(Debug, Error)]
pub(super) enum ControlCallError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("no answer in time")]
    TimedOut,
    #[error("cannot decode the answer")]
    Decode(#[from] DecodeError),
    /// The text is that of the node.
    #[error("{0}")]
    Refused(String),
    #[error("the answer belongs to another request")]
    OtherAnswer,
}

impl Control {
    /// Carries out `step`.
    pub(super) async fn carry_out(&self, group: &Group, step: Step) -> Result<(), StepError> {
        let change = async {
            match step {
                Step::Nothing | Step::Wait(_) => Ok(()),
                Step::AddLearner(node) => Ok(group.add_learner(node).await?),
                Step::SetVoters(voters) => Ok(group.set_voters(voters).await?),
                Step::RemoveLearners(learners) => Ok(group.remove_learners(learners).await?),
                Step::Transfer(to) => self.transfer_leadership(group, to).await,
            }
        };
        tokio::time::timeout(CHANGE_TIMEOUT, change)
            .await
            .unwrap_or(Err(StepError::Slow))
    }

    /// Transfers the leadership of `group` to `to`, if it accepts it.
    pub(super) async fn transfer_leadership(&self, group: &Group, to: NodeId) -> Result<(), StepError> {
        let taken = match self.query_ready(group.id(), to).await {
            Ok(()) => group.transfer_leader(to).await.map_err(StepError::from),
            Err(source) => Err(StepError::Declined { node: to, source }),
        };
        if taken.is_err() {
            self.0
                .declined_leadership
                .lock()
                .insert((group.id(), to), Instant::now() + DECLINED_BACKOFF);
        }
        taken
    }

    /// Asks whether the node accepts the leadership: it may be stopping, or its disk may be full.
    async fn query_ready(&self, group: GroupId, node: NodeId) -> Result<(), ControlCallError> {
        let request = Request::Ready(proto::ReadyRequest { group: group.0 });
        match self.call_control(node, request, READY_TIMEOUT).await? {
            Answer::Ready(answer) if answer.ready => Ok(()),
            Answer::Ready(answer) => Err(ControlCallError::Refused(answer.reason)),
            Answer::Refusal(refusal) => Err(ControlCallError::Refused(refusal.text)),
            _ => Err(ControlCallError::OtherAnswer),
        }
    }

    /// Calls the control of another node.
    pub(super) async fn call_control(
        &self,
        node: NodeId,
        request: Request,
        timeout: Duration,
    ) -> Result<Answer, ControlCallError> {
        let call = Call {
            service: Service::Control,
            target: 0,
            body: vec![messages::encode_request(request)],
            timeout,
        };
        let answer = tokio::time::timeout(timeout, self.0.transport.call(node, call)).await;
        match answer {
            Ok(body) => Ok(messages::decode_answer(body?)?),
            Err(_) => Err(ControlCallError::TimedOut),
        }
    }

    /// The nodes that have declined the leadership of `group` a moment ago.
    pub(super) fn declined_leadership(&self, group: GroupId) -> BTreeSet<NodeId> {
        let now = Instant::now();
        let mut declined = self.0.declined_leadership.lock();
        declined.retain(|_, until| *until > now);
        let of_group = declined.range((group, NodeId(0))..=(group, NodeId(u64::MAX)));
        of_group.map(|((_, node), _)| *node).collect()
    }

    /// The members of a group led by this node that are in `up` and have nearly all entries.
    pub(super) fn ready(&self, status: &GroupStatus, up: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let max_lag = self.0.config.max_lag;
        let caught_up = status
            .matched
            .iter()
            // A member that has never answered has no entries, however short the log is.
            .filter(|(_, matched)| **matched > 0 && status.last_log.saturating_sub(**matched) <= max_lag)
            .map(|(node, _)| *node);
        let others = caught_up.filter(|node| up.contains(node));
        others.chain([self.0.id]).collect()
    }

    /// Starts this node's replica and adds it to the partitions.
    pub(super) async fn start_replica(&self, partition: PartitionId, bootstrap: bool) -> Result<(), HostError> {
        let inner = &self.0;
        // Recorded first: there may be data from now on, even if the start fails.
        inner.on_disk.lock().insert(partition);
        let started = match inner.replicas.start(partition, bootstrap).await {
            Ok(started) => started,
            Err(error) => {
                // If the failed start has left no data, the partition is created the next time, not started.
                if let Ok(found) = inner.replicas.on_disk().await
                    && !found.contains(&partition)
                {
                    inner.on_disk.lock().remove(&partition);
                }
                return Err(error);
            }
        };
        inner.partitions.host(started);
        Ok(())
    }
}
