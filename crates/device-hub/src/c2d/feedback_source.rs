//! Feedback for a back end: taken from all owners, each record by one back end at a time.
//!
//! A back end asks every owner with a call that waits until there is some. What an owner has given is leased for
//! [`FEEDBACK_LOCK`](holdfast_model::limits::FEEDBACK_LOCK): a call whose answer is lost, or a node that is killed, delays a record and
//! loses none. A back end that ends delays none.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_model::limits::MAX_FEEDBACK_BATCH;
use holdfast_model::{NodeId, PartitionId};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::api::{Feedback, FeedbackVerdict};
use super::change::QueueKeys;
use super::codec;
use super::feedback::DeviceFeedback;
use crate::DeviceHub;

/// How long a call waits for feedback.
const WAIT: Duration = Duration::from_secs(5);

/// How much longer than its wait a call may take.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// Delay before a node is asked again that did not answer.
const RETRY_BACKOFF: Duration = Duration::from_secs(1);

/// A call to an owner, which runs on a task of its own.
#[derive(Debug)]
struct Asked {
    node: NodeId,
    answer: oneshot::Receiver<Vec<Feedback>>,
}

/// The feedback for one back end. It asks only while it is polled.
pub struct FeedbackSource {
    hub: Arc<DeviceHub>,
    /// At most one to each node.
    calls: Vec<Asked>,
}

impl FeedbackSource {
    /// Calls no owner yet.
    #[must_use]
    pub fn new(hub: Arc<DeviceHub>) -> Self {
        Self { hub, calls: Vec::new() }
    }

    /// The next records, at most [`MAX_FEEDBACK_BATCH`], from whatever owner has some. The caller settles them.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Feedback>> {
        loop {
            self.ask_owners();
            let mut has_ended = false;
            for at in (0..self.calls.len()).rev() {
                if let Poll::Ready(answer) = Pin::new(&mut self.calls[at].answer).poll(cx) {
                    self.calls.swap_remove(at);
                    has_ended = true;
                    match answer {
                        Ok(records) if !records.is_empty() => return Poll::Ready(records),
                        Ok(_) | Err(_) => {}
                    }
                }
            }
            if !has_ended {
                return Poll::Pending;
            }
        }
    }

    fn ask_owners(&mut self) {
        let mut nodes = self.hub.other_owners();
        nodes.insert(self.hub.parts.node);
        for node in nodes {
            if !self.calls.iter().any(|call| call.node == node) {
                let answer = ask(&self.hub, node);
                self.calls.push(Asked { node, answer });
            }
        }
    }
}

impl Drop for FeedbackSource {
    /// Answers that were not taken go back. Those that are still to come go back by themselves.
    fn drop(&mut self) {
        let mut left = Vec::new();
        for call in &mut self.calls {
            call.answer.close();
            left.extend(call.answer.try_recv().unwrap_or_default());
        }
        if !left.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            let hub = Arc::clone(&self.hub);
            holdfast_tasks::spawn("feedback-return", async move {
                hub.settle_feedback(left, FeedbackVerdict::Released).await;
            });
        }
    }
}

/// Asks on a task of its own: a back end that ends meanwhile must not keep the records of the answer locked.
fn ask(hub: &Arc<DeviceHub>, node: NodeId) -> oneshot::Receiver<Vec<Feedback>> {
    let (reply, answer) = oneshot::channel();
    let hub = Arc::clone(hub);
    holdfast_tasks::spawn("feedback-take", async move {
        let records = match node == hub.parts.node {
            true => hub.take_feedback_here(MAX_FEEDBACK_BATCH, WAIT).await,
            false => hub.take_feedback_at(node).await,
        };
        if let Err(records) = reply.send(records)
            && !records.is_empty()
        {
            hub.settle_feedback(records, FeedbackVerdict::Released).await;
        }
    });
    answer
}

impl DeviceHub {
    async fn take_feedback_at(&self, node: NodeId) -> Vec<Feedback> {
        let request = Request::TakeFeedback(proto::FeedbackTake {
            most: u32::try_from(MAX_FEEDBACK_BATCH).unwrap_or(u32::MAX),
            wait_ms: u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX),
        });
        let error = match self.call_node(node, 0, request, WAIT + ANSWER_MARGIN).await {
            Ok(Answer::TakeFeedback(taken)) => {
                let records = taken.records.into_iter().map(codec::decode_feedback);
                match records.collect() {
                    Ok(records) => return records,
                    Err(error) => error,
                }
            }
            Ok(_) => crate::rpc::codec::refused("an answer of another kind"),
            Err(error) => error,
        };
        tracing::debug!(%node, %error, "a node did not give feedback; it is asked again");
        tokio::time::sleep(RETRY_BACKOFF).await;
        Vec::new()
    }

    /// Feedback about devices whose partitions this node owns, leased to the caller; waits until there is some.
    pub(crate) async fn take_feedback_here(self: &Arc<Self>, most: usize, wait: Duration) -> Vec<Feedback> {
        let give_up = Instant::now() + wait;
        let mut changes = self.cloud_queues.feedback_changes.subscribe();
        loop {
            let (taken, next_lease_end) = self.lease_feedback(most).await;
            if !taken.is_empty() || Instant::now() >= give_up {
                return taken;
            }
            let until = next_lease_end.map_or(give_up, |end| end.min(give_up));
            tokio::select! {
                biased;
                changed = changes.changed() => if changed.is_err() {
                    return Vec::new();
                },
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// The records that can be given now, and the time at which the next lease ends.
    async fn lease_feedback(&self, most: usize) -> (Vec<Feedback>, Option<Instant>) {
        let (mut taken, mut next_lease_end) = (Vec::new(), None::<Instant>);
        for partition in self.parts.partitions.count().iter() {
            if self.ownership.term(partition).is_none() {
                continue;
            }
            self.lease_feedback_of(partition, most, &mut taken).await;
            let end = self.cloud_queues.partition(partition).lock().next_lease_end();
            next_lease_end = next_lease_end.into_iter().chain(end).min();
        }
        (taken, next_lease_end)
    }

    async fn lease_feedback_of(&self, partition: PartitionId, most: usize, taken: &mut Vec<Feedback>) {
        let Some(replica) = self.parts.partitions.local(partition) else {
            return;
        };
        let devices = {
            let mut index = self.cloud_queues.partition(partition).lock();
            index.drop_ended_leases();
            index.feedback()
        };
        let now = self.parts.clock.now();
        for (identity, generation) in devices {
            if taken.len() >= most {
                return;
            }
            let key = QueueKeys::new(&identity, &generation).feedback();
            let read = || async {
                let value = replica.device_state(&key.as_key()).await.ok()?;
                Some(DeviceFeedback::decode(value.as_deref()).unwrap_or_default().0)
            };
            let Some(mut records) = read().await else { return };
            {
                let mut index = self.cloud_queues.partition(partition).lock();
                let mut room = most - taken.len();
                records.retain(|record| {
                    let is_given = room > 0 && record.is_kept(now) && index.lease(&identity, record.number);
                    room -= usize::from(is_given);
                    is_given
                });
            }
            if records.is_empty() {
                continue;
            }
            // A back end may have accepted one of them between the reading and the lease: it would be given twice.
            let waiting = read().await;
            let waits = |number: u64| waiting.iter().flatten().any(|record| record.number == number);
            let gone: Vec<u64> = records
                .iter()
                .map(|record| record.number)
                .filter(|number| !waits(*number))
                .collect();
            if !gone.is_empty() {
                self.cloud_queues.partition(partition).lock().release(&identity, &gone);
            }
            for record in records.into_iter().filter(|record| waits(record.number)) {
                taken.push(Feedback {
                    identity: identity.clone(),
                    generation: generation.clone(),
                    number: record.number,
                    message_id: record.message_id.into(),
                    status: record.status,
                    at: record.at,
                });
            }
        }
    }
}
