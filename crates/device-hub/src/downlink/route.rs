//! Deliveries from any node: to the owner of the identity's partition, on this node or with one call, which is answered
//! with the outcome.
//!
//! Why one call: the caller's answer is exact. It is repeated only while the delivery is certainly not queued.
//! Invariants: a delivery is queued at most once; the caller learns whether it is queued, or that this is unknown; bytes
//! of deliveries that wait for other nodes are bounded, so that they delay no other call between nodes.
//! Not here: queues ([`super::queue`]), the calls to gateways ([`super::send`]).

use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::route::Owner;
use holdfast_cluster::transport::CallError;
use holdfast_model::{IdentityId, PartitionId};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use holdfast_spans::{Attribute, SpanName};
use tokio::time::Instant;

use super::delivery::{Delivery, DeliveryError, DeliveryOutcome, note_outcome};
use crate::DeviceHub;
use crate::rpc::client::FORMER_OWNER_TIMEOUT;
use crate::rpc::codec;

/// The longest time for which a delivery is waited for.
pub(crate) const MAX_DELIVERY_TIMEOUT: Duration = Duration::from_secs(600);

/// How much longer than the owner's own wait its answer is waited for.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// Delay before the same owner is asked again that did not take a delivery.
const RETRY_BACKOFF: Duration = Duration::from_millis(250);

/// How long the first grant of a session may take from its gateway to the owner. A call for a session without a grant
/// waits for it: the device may have subscribed a moment ago.
const GRANT_DELAY: Duration = Duration::from_millis(500);

/// Bytes of deliveries of this node that may wait for other owners.
pub(crate) const MAX_REMOTE_BYTES: usize = 16 << 20;

/// The least that a delivery counts for, so that their number is bounded too.
const MIN_REMOTE_BYTES: usize = 4096;

impl DeviceHub {
    /// Sends `delivery` to the session of `identity`, from any node, and waits up to `timeout` for its outcome. Dropping
    /// the future does not take the delivery back. A method for a session that takes no deliveries is refused.
    ///
    /// # Errors
    /// [`DeliveryError`], each of which says whether the owner has queued it.
    pub async fn deliver(
        self: &Arc<Self>,
        identity: &IdentityId,
        delivery: Delivery,
        timeout: Duration,
    ) -> Result<DeliveryOutcome, DeliveryError> {
        let partition = self.partition_of(identity);
        let give_up = Instant::now() + timeout.min(MAX_DELIVERY_TIMEOUT);
        let left = || give_up.saturating_duration_since(Instant::now());
        let mut failed = None;
        loop {
            let backoff = left().min(RETRY_BACKOFF);
            let owner = self.parts.partitions.owner_after(partition, failed, backoff).await;
            let outcome = match owner {
                Some(owner) if owner.node == self.parts.node => {
                    self.deliver_and_wait(identity, delivery.clone(), left()).await
                }
                Some(owner) => self.deliver_at(owner, partition, identity, &delivery, left()).await,
                None => Err(DeliveryError::NoOwner),
            };
            if outcome != Err(DeliveryError::NoOwner) || left().is_zero() {
                return outcome;
            }
            failed = owner;
        }
    }

    /// As [`Self::deliver`], on the node that owns the partition.
    pub(crate) async fn deliver_and_wait(
        self: &Arc<Self>,
        identity: &IdentityId,
        mut delivery: Delivery,
        timeout: Duration,
    ) -> Result<DeliveryOutcome, DeliveryError> {
        let mut span = self.tracer().child(SpanName::QueueDelivery, delivery.trace);
        span.set(Attribute::Identity, || identity.to_string());
        delivery.trace = span.context();
        let outcome = self.queue_and_wait(identity, delivery, timeout).await;
        note_outcome(&mut span, outcome);
        outcome
    }

    async fn queue_and_wait(
        self: &Arc<Self>,
        identity: &IdentityId,
        delivery: Delivery,
        timeout: Duration,
    ) -> Result<DeliveryOutcome, DeliveryError> {
        let is_call = delivery.kind.is_call();
        let pending = self.deliver_here(identity, delivery)?;
        let give_up = Instant::now() + timeout;
        let mut outcome = std::pin::pin!(pending.outcome());
        let partition = self.partition_of(identity);
        if is_call && !self.ownership.takes_deliveries(partition, identity) {
            match tokio::time::timeout(timeout.min(GRANT_DELAY), &mut outcome).await {
                Ok(outcome) => return Ok(outcome),
                Err(_) if self.ownership.takes_deliveries(partition, identity) => {}
                Err(_) => return Err(DeliveryError::NotListening),
            }
        }
        let outcome = tokio::time::timeout_at(give_up, outcome).await;
        outcome.map_err(|_| DeliveryError::Unsettled)
    }

    async fn deliver_at(
        &self,
        owner: Owner,
        partition: PartitionId,
        identity: &IdentityId,
        delivery: &Delivery,
        timeout: Duration,
    ) -> Result<DeliveryOutcome, DeliveryError> {
        let bytes = delivery.bytes().max(MIN_REMOTE_BYTES);
        let _permit = self
            .remote_deliveries
            .try_acquire(bytes)
            .map_err(|_| DeliveryError::Busy)?;
        let mut span = self.tracer().child(SpanName::SendDelivery, delivery.trace);
        span.set(Attribute::Partition, || partition.0.to_string());
        span.set(Attribute::Peer, || owner.node.to_string());
        let request = Request::Send(codec::encode_send(identity, delivery, timeout, span.context()));
        let outcome = match self
            .call_owner_for(partition, owner, request, timeout + ANSWER_MARGIN, FORMER_OWNER_TIMEOUT)
            .await
        {
            Ok(Answer::Send(answer)) => codec::decode_sent(&answer),
            // It does not own the partition, or was not reached: the delivery is not queued.
            Ok(Answer::Error(proto::SessionError { .. })) | Err(CallError::NotSent(_) | CallError::Refused(_)) => {
                Err(DeliveryError::NoOwner)
            }
            Ok(_) | Err(CallError::Unknown(_)) => Err(DeliveryError::Unknown),
        };
        note_outcome(&mut span, outcome);
        outcome
    }
}
