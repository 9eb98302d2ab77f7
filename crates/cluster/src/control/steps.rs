//! Carrying a group's step out, and starting replicas.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_consensus::transport::{Call, Service};
use holdfast_consensus::{ChangeError, Group, GroupId, GroupStatus, TransferError};
use holdfast_model::PartitionId;
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::control_answer::Answer;
use holdfast_proto::cluster::v1::control_request::Request;
use thiserror::Error;
use tokio::time::Instant;

use super::membership::Step;
use super::{Control, HostError, wire};

/// How long a node that refused a leadership is not asked again.
const UNWILLING_FOR: Duration = Duration::from_secs(10);
/// How long the next leader may take to say that it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(1);
/// How long a change of members may take: a quorum has to sync it. It may go on afterwards, and is looked at anew.
const CHANGE_PATIENCE: Duration = Duration::from_secs(30);

/// Why a step was not carried out.
#[derive(Debug, Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("node {node} does not take the leadership: {reason}")]
    Unwilling { node: u64, reason: String },
    #[error("it takes longer than {} s", CHANGE_PATIENCE.as_secs())]
    Slow,
}

impl Control {
    /// Carries `step` out.
    pub(super) async fn take(&self, group: &Group, step: Step) -> Result<(), StepError> {
        let change = async {
            match step {
                Step::Nothing | Step::Wait(_) => Ok(()),
                Step::AddLearner(node) => Ok(group.add_learner(node).await?),
                Step::SetVoters(voters) => Ok(group.set_voters(voters).await?),
                Step::RemoveLearners(learners) => Ok(group.remove_learners(learners).await?),
                Step::Transfer(to) => self.transfer(group, to).await,
            }
        };
        tokio::time::timeout(CHANGE_PATIENCE, change)
            .await
            .unwrap_or(Err(StepError::Slow))
    }

    /// Hands the leadership of `group` to `to`, if it takes it.
    pub(super) async fn transfer(&self, group: &Group, to: u64) -> Result<(), StepError> {
        let taken = match self.ask_ready(group.id(), to).await {
            Ok(()) => group.transfer_leader(to).await.map_err(StepError::from),
            Err(reason) => Err(StepError::Unwilling { node: to, reason }),
        };
        if taken.is_err() {
            self.0
                .unwilling
                .lock()
                .insert((group.id(), to), Instant::now() + UNWILLING_FOR);
        }
        taken
    }

    /// Asks whether the node would lead: it may be stopping, or its disk be full.
    async fn ask_ready(&self, group: GroupId, node: u64) -> Result<(), String> {
        let request = Request::Ready(proto::ReadyRequest { group: group.0 });
        match self.ask(node, request, READY_PATIENCE).await? {
            Answer::Ready(answer) if answer.ready => Ok(()),
            Answer::Ready(answer) => Err(answer.reason),
            Answer::Refusal(refusal) => Err(refusal.text),
            _ => Err("it answers something else".to_owned()),
        }
    }

    /// A question to another node's control.
    pub(super) async fn ask(&self, node: u64, request: Request, patience: Duration) -> Result<Answer, String> {
        let call = Call {
            service: Service::Control,
            target: 0,
            body: vec![wire::request(request)],
            timeout: patience,
        };
        let answer = tokio::time::timeout(patience, self.0.transport.call(node, call)).await;
        match answer {
            Ok(Ok(body)) => wire::answer(body),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// Who has refused to lead `group` a moment ago.
    pub(super) fn unwilling(&self, group: GroupId) -> BTreeSet<u64> {
        let now = Instant::now();
        let mut unwilling = self.0.unwilling.lock();
        unwilling.retain(|_, until| *until > now);
        let of_group = unwilling.range((group, 0)..=(group, u64::MAX));
        of_group.map(|((_, node), _)| *node).collect()
    }

    /// Who of the members of a group that this node leads is in `up` and has nearly all entries.
    pub(super) fn ready(&self, status: &GroupStatus, up: &BTreeSet<u64>) -> BTreeSet<u64> {
        let max_lag = self.0.config.max_lag;
        let caught_up = status
            .matched
            .iter()
            // Who has never answered has nothing, however short the log is.
            .filter(|(_, matched)| **matched > 0 && status.last_log.saturating_sub(**matched) <= max_lag)
            .map(|(node, _)| *node);
        let others = caught_up.filter(|node| up.contains(node));
        others.chain([self.0.id]).collect()
    }

    /// Starts this node's replica and lets it be found.
    pub(super) async fn start_replica(&self, partition: PartitionId, founding: bool) -> Result<(), HostError> {
        let inner = &self.0;
        // Noted first: whatever becomes of the start, there may be data from now on.
        inner.on_disk.lock().insert(partition);
        let started = match inner.replicas.start(partition, founding).await {
            Ok(started) => started,
            Err(error) => {
                // What left nothing behind is to be made, not started, the next time.
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
