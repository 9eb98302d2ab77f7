//! Requests to `$management` that wait for what a partition's owner says.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use holdfast_amqp::LinkId;
use holdfast_amqp::types::Raw;
use holdfast_cluster::route::RouteError;
use holdfast_partition::PartitionStatus;

use super::driver::Driver;
use super::handle::response;
use super::management::{AboutPartition, Answer};
use super::refusal::Refused;

/// Requests of one connection that may wait; more are refused.
const MAX_ASKING: usize = 64;

/// A request that waits.
pub(super) struct Asking {
    /// Where the request came.
    pub(super) link: LinkId,
    /// Its message id, encoded.
    message_id: Option<Vec<u8>>,
    about: AboutPartition,
    status: Pin<Box<dyn Future<Output = Result<PartitionStatus, RouteError>>>>,
}

impl Driver {
    /// The response to a request about a partition, if the partition is here; otherwise it is sent later.
    pub(super) fn ask_partition(
        &mut self,
        link: LinkId,
        message_id: Option<Raw<'_>>,
        about: AboutPartition,
    ) -> Option<Vec<u8>> {
        if self.asking.len() >= MAX_ASKING {
            let refused = Refused::busy("Too many requests of this connection wait for an answer.");
            return Some(self.refusal(message_id, &refused));
        }
        let (partitions, id) = (self.endpoint.hub().partitions().clone(), about.partition);
        let mut asking = Asking {
            link,
            message_id: message_id.map(|id| id.bytes().to_vec()),
            about,
            status: Box::pin(async move { partitions.status(id).await }),
        };
        match asking.status.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(status) => Some(self.about(asking, status)),
            // Polled again, with a waker, in the turn that this is part of.
            Poll::Pending => {
                self.asking.push(asking);
                None
            }
        }
    }

    /// Sends the responses that have come.
    pub(super) fn poll_asking(&mut self, cx: &mut Context<'_>) {
        let mut at = 0;
        while at < self.asking.len() {
            match self.asking[at].status.as_mut().poll(cx) {
                Poll::Ready(status) => {
                    let asking = self.asking.remove(at);
                    let link = asking.link;
                    let response = self.about(asking, status);
                    self.respond(link, response);
                }
                Poll::Pending => at += 1,
            }
        }
    }

    fn about(&self, asking: Asking, status: Result<PartitionStatus, RouteError>) -> Vec<u8> {
        let message_id = asking.message_id.as_deref().and_then(|id| Raw::new(id).ok());
        let now = self.endpoint.hub().clock().now();
        match status {
            Ok(status) => {
                let AboutPartition { name, id, .. } = asking.about;
                let answer = Answer::Partition { name, id, status, now };
                response(message_id, 200, "OK", None, |buf| answer.encode(buf))
            }
            Err(error) => {
                let refused = Refused::busy(error.to_string());
                self.audit(&refused, now);
                self.refusal(message_id, &refused)
            }
        }
    }
}
