//! The owner's side of the way down: takes deliveries from the hub's features and sends them to gateways.
//!
//! One task per partition and gateway sends, with one bounded call at a time. It runs only while there is something to
//! send. A gateway without capacity is asked again after a pause; a call that fails is repeated with the same sequence
//! numbers, so that the gateway recognises what it has received.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_model::{IdentityId, LinkId, NodeId, PartitionId, Term};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use tokio::sync::oneshot;

use super::delivery::{Delivery, DeliveryError, DeliveryId, PendingDelivery};
use super::term::{DeliveryAnswer, SessionDeliveries};
use crate::DeviceHub;
use crate::rpc::codec;

/// Deliveries of one call.
const MAX_DELIVERIES: usize = 256;

/// About the bytes of one call; the last delivery may exceed it.
const MAX_CALL_BYTES: usize = 1 << 20;

/// How long a gateway may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Delay before deliveries are sent again that a gateway could not take, or did not answer for.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// The incarnation is in the upper bits of a delivery id: ids of a node are never used again.
const COUNTER_BITS: u32 = 40;

impl DeviceHub {
    /// Sends `delivery` to the session of `identity`, on the node that owns its partition; [`Self::deliver`] does it from
    /// any node.
    ///
    /// # Errors
    /// [`DeliveryError`]: it was not taken. Once taken, it ends with exactly one outcome.
    pub fn deliver_here(
        self: &Arc<Self>,
        identity: &IdentityId,
        delivery: Delivery,
    ) -> Result<PendingDelivery, DeliveryError> {
        let partition = self.partition_of(identity);
        let term = self.ownership.term(partition).ok_or(DeliveryError::NoOwner)?;
        let counter = self.next_delivery.fetch_add(1, Ordering::Relaxed);
        let id = DeliveryId(self.parts.incarnation.get() << COUNTER_BITS | counter);
        let (reply, outcome) = oneshot::channel();
        let queued = self
            .ownership
            .queue_delivery(partition, term, identity, id, delivery, reply);
        match queued {
            Ok(gateway) => {
                self.metrics.deliveries_queued.increment(1);
                self.send_deliveries(partition, term, gateway);
                Ok(PendingDelivery { id, outcome })
            }
            Err(error) => {
                self.metrics.deliveries_refused.increment(1);
                Err(error)
            }
        }
    }

    /// Starts a task that sends to the gateway, if there is something to send and no task does.
    pub(crate) fn send_deliveries(self: &Arc<Self>, partition: PartitionId, term: Term, gateway: NodeId) {
        if !self.ownership.start_sending(partition, term, gateway) {
            return;
        }
        let hub = Arc::clone(self);
        holdfast_tasks::spawn_critical("session-deliver", async move {
            while let Some((link, call)) =
                hub.ownership
                    .take_deliveries(partition, term, gateway, MAX_DELIVERIES, MAX_CALL_BYTES)
            {
                let answers = hub.send_call(partition, gateway, link, &call).await;
                let is_short = hub
                    .ownership
                    .deliveries_answered(partition, term, &call, answers.as_deref());
                if is_short {
                    tokio::time::sleep(RETRY_BACKOFF).await;
                }
            }
        });
    }

    async fn send_call(
        self: &Arc<Self>,
        partition: PartitionId,
        gateway: NodeId,
        link: LinkId,
        call: &[SessionDeliveries],
    ) -> Option<Vec<Vec<DeliveryAnswer>>> {
        if gateway == self.parts.node {
            let received = call.iter().map(codec::receive_locally).collect();
            return Some(self.receive_deliveries(partition, link, received).await);
        }
        let incarnation = call.first()?.address.incarnation;
        let request = Request::Deliver(proto::SessionDeliver {
            gateway_incarnation: incarnation.0,
            link: link.0,
            sessions: call.iter().map(codec::encode_deliveries).collect(),
        });
        match self.call_node(gateway, partition.0, request, CALL_TIMEOUT).await {
            Ok(Answer::Deliver(answer)) => Some(codec::decode_delivery_answers(&answer)),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(partition = partition.0, %gateway, %error, "deliveries were not confirmed by the gateway; sending them again");
                None
            }
        }
    }
}
