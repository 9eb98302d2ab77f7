//! Requests to `$management` that wait for the answer of a partition's owner.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use holdfast_amqp::LinkId;
use holdfast_amqp::types::Raw;
use holdfast_amqp_server::{Links, Refused, response};
use holdfast_cluster::route::RouteError;
use holdfast_partition::PartitionStatus;

use super::management::{Answer, PartitionQuery};
use super::readers::Readers;

/// Waiting requests of one connection; further ones are refused.
const MAX_PENDING: usize = 64;

/// A request that waits for its partition's owner.
pub(super) struct PendingManagement {
    /// The link on which the request arrived.
    pub(super) link: LinkId,
    /// Its message id, encoded.
    message_id: Option<Vec<u8>>,
    query: PartitionQuery,
    status: Pin<Box<dyn Future<Output = Result<PartitionStatus, RouteError>>>>,
}

impl Readers {
    /// Returns the response if the partition is on this node; otherwise the response is sent once the owner has answered.
    pub(super) fn query_partition(
        &mut self,
        links: &Links,
        link: LinkId,
        message_id: Option<Raw<'_>>,
        query: PartitionQuery,
    ) -> Option<Vec<u8>> {
        if self.pending_management.len() >= MAX_PENDING {
            let refused = Refused::busy("Too many requests of this connection wait for an answer.");
            return Some(links.refusal(message_id, &refused));
        }
        let (partitions, id) = (self.hub.partitions().clone(), query.partition);
        let mut pending = PendingManagement {
            link,
            message_id: message_id.map(|id| id.bytes().to_vec()),
            query,
            status: Box::pin(async move { partitions.status(id).await }),
        };
        match pending.status.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(status) => Some(self.partition_response(links, pending, status)),
            // `pump` polls it again with a waker in this same turn.
            Poll::Pending => {
                self.pending_management.push(pending);
                None
            }
        }
    }

    /// Sends the responses that are ready.
    pub(super) fn poll_pending_management(&mut self, links: &mut Links, cx: &mut Context<'_>) {
        let mut at = 0;
        while at < self.pending_management.len() {
            match self.pending_management[at].status.as_mut().poll(cx) {
                Poll::Ready(status) => {
                    let pending = self.pending_management.remove(at);
                    let link = pending.link;
                    let response = self.partition_response(links, pending, status);
                    links.respond(self.management.answer_to(link), response);
                }
                Poll::Pending => at += 1,
            }
        }
    }

    fn partition_response(
        &self,
        links: &Links,
        pending: PendingManagement,
        status: Result<PartitionStatus, RouteError>,
    ) -> Vec<u8> {
        let message_id = pending.message_id.as_deref().and_then(|id| Raw::new(id).ok());
        let now = self.hub.clock().now();
        match status {
            Ok(status) => {
                let PartitionQuery { name, id, .. } = pending.query;
                let answer = Answer::Partition { name, id, status, now };
                response(message_id, 200, "OK", None, |buf| answer.encode(buf))
            }
            Err(error) => {
                let refused = Refused::busy(error.to_string());
                links.audit(&refused);
                links.refusal(message_id, &refused)
            }
        }
    }
}
