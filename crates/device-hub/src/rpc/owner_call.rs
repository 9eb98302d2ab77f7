//! Requests about an identity's stored state: from any node to the owner of its partition.
//!
//! Invariants: a request that may change something is repeated only while it has certainly changed nothing; the caller
//! learns which of both is the case.
//! Not here: what the owner does with a request (each feature's folder), how it decides ([`crate::owner::state_writer`]).

use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::transport::CallError;
use holdfast_model::{IdentityId, PartitionId};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use tokio::time::Instant;

use super::client::FORMER_OWNER_TIMEOUT;
use super::codec;
use crate::DeviceHub;
use crate::owner::state_writer::ChangeError;

/// Delay before the same owner is asked again that did not take a request.
const RETRY_BACKOFF: Duration = Duration::from_millis(250);

/// Whether a request may be carried out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing, or the same each time: it is repeated whatever became of it.
    Always,
    /// It is repeated only while it has certainly changed nothing.
    WhileCertain,
}

impl DeviceHub {
    /// Has the owner of the identity's partition carry out `request`, wherever it is; waits for an owner and repeats the
    /// request for up to `timeout`.
    ///
    /// # Errors
    /// [`ChangeError`], each of which says whether anything may have changed.
    pub(crate) async fn ask_owner(
        self: &Arc<Self>,
        identity: &IdentityId,
        request: Request,
        repeat: Repeat,
        timeout: Duration,
    ) -> Result<Answer, ChangeError> {
        let partition = self.partition_of(identity);
        let give_up = Instant::now() + timeout;
        let left = || give_up.saturating_duration_since(Instant::now());
        let after_later_owner = match repeat {
            Repeat::Always => Duration::ZERO,
            Repeat::WhileCertain => FORMER_OWNER_TIMEOUT,
        };
        let mut failed = None;
        loop {
            let backoff = left().min(RETRY_BACKOFF);
            let owner = self.parts.partitions.owner_after(partition, failed, backoff).await;
            let result = match owner {
                Some(owner) if owner.node == self.parts.node => {
                    let answer = self.answer_as_owner(partition, request.clone());
                    let answer = tokio::time::timeout_at(give_up, answer).await;
                    answer.unwrap_or(Err(ChangeError::Unknown))
                }
                Some(owner) => match self
                    .call_owner_for(partition, owner, request.clone(), left(), after_later_owner)
                    .await
                {
                    Ok(Answer::Error(error)) => Err(codec::decode_change_error(&error)),
                    Ok(answer) => Ok(answer),
                    Err(CallError::NotSent(_) | CallError::Refused(_)) => Err(ChangeError::NotOwner),
                    Err(CallError::Unknown(_)) => Err(ChangeError::Unknown),
                },
                None => Err(ChangeError::NotOwner),
            };
            let may_repeat = match result {
                Err(ChangeError::NotOwner) => true,
                Err(ChangeError::Unknown) => repeat == Repeat::Always,
                _ => false,
            };
            if !may_repeat || left().is_zero() {
                return result;
            }
            failed = owner;
        }
    }

    /// Carries out a request as the owner of the partition.
    pub(crate) async fn answer_as_owner(
        self: &Arc<Self>,
        partition: PartitionId,
        request: Request,
    ) -> Result<Answer, ChangeError> {
        Ok(match request {
            Request::CloudQueue(request) => Answer::CloudQueue(self.answer_queue(partition, request).await?),
            Request::Upload(request) => Answer::Upload(self.answer_upload(partition, request).await?),
            Request::Twin(request) => Answer::Twin(self.serve_twin(partition, request).await?),
            _ => return Err(ChangeError::NotOwner),
        })
    }
}
