//! Records for a back end: taken from all owners, each by one back end at a time.
//!
//! A back end calls every owner with a call that waits until there are some. What an owner has given is leased for a while: a call
//! whose answer is lost, or a node that is killed, delays a record and loses none. A back end that ends delays none.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_model::limits::{FEEDBACK_LOCK, MAX_FEEDBACK_BATCH};
use holdfast_model::{NodeId, PartitionId};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Outbox, Record};
use crate::DeviceHub;
use crate::c2d::api::FeedbackVerdict;
use crate::c2d::codec as feedback;
use crate::uploads::{UploadReader, codec as uploads};

/// How long a call waits for records.
const WAIT: Duration = Duration::from_secs(5);

/// How much longer than its wait a call may take.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// Delay before a node is asked again that did not answer.
const RETRY_BACKOFF: Duration = Duration::from_secs(1);

/// How long a webhook's sender may have a notification.
const WEBHOOK_LOCK: Duration = Duration::from_secs(120);

/// A call to an owner, which runs on a task of its own.
#[derive(Debug)]
struct Asked {
    node: NodeId,
    answer: oneshot::Receiver<Vec<Record>>,
}

/// The records for one back end. It calls owners only while it is polled.
pub(crate) struct RecordSource {
    hub: Arc<DeviceHub>,
    outbox: Outbox,
    /// At most one to each node.
    calls: Vec<Asked>,
}

impl RecordSource {
    /// Calls no owner yet.
    pub(crate) fn new(hub: Arc<DeviceHub>, outbox: Outbox) -> Self {
        Self {
            hub,
            outbox,
            calls: Vec::new(),
        }
    }

    /// The next records, at most [`MAX_FEEDBACK_BATCH`], from whatever owner has some. The caller settles them.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Record>> {
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

    /// For a back end that can take none now: what calls still bring goes back at once, and no owner is called. Otherwise a call that waits
    /// would lock the next records for a back end without credit, while another one has some.
    pub(crate) fn poll_unwanted(&mut self, cx: &mut Context<'_>) {
        let mut left = Vec::new();
        self.calls.retain_mut(|call| match Pin::new(&mut call.answer).poll(cx) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                left.extend(answer.unwrap_or_default());
                false
            }
        });
        self.give_back(left);
    }

    fn give_back(&self, left: Vec<Record>) {
        if !left.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            let (hub, outbox) = (Arc::clone(&self.hub), self.outbox);
            holdfast_tasks::spawn("record-return", async move {
                hub.settle_records(outbox, left, FeedbackVerdict::Untouched).await;
            });
        }
    }

    fn ask_owners(&mut self) {
        let mut nodes = self.hub.other_owners();
        nodes.insert(self.hub.parts.node);
        for node in nodes {
            if !self.calls.iter().any(|call| call.node == node) {
                let answer = ask(&self.hub, self.outbox, node);
                self.calls.push(Asked { node, answer });
            }
        }
    }
}

impl Drop for RecordSource {
    /// Answers that were not taken go back. Those that are still to come go back by themselves.
    fn drop(&mut self) {
        let mut left = Vec::new();
        for call in &mut self.calls {
            call.answer.close();
            left.extend(call.answer.try_recv().unwrap_or_default());
        }
        self.give_back(left);
    }
}

/// Asks on a task of its own: a back end that ends meanwhile must not keep the records of the answer locked.
fn ask(hub: &Arc<DeviceHub>, outbox: Outbox, node: NodeId) -> oneshot::Receiver<Vec<Record>> {
    let (reply, answer) = oneshot::channel();
    let hub = Arc::clone(hub);
    holdfast_tasks::spawn("record-take", async move {
        let records = match node == hub.parts.node {
            true => hub.take_records_here(outbox, MAX_FEEDBACK_BATCH, WAIT).await,
            false => hub.take_records_at(outbox, node).await,
        };
        if let Err(records) = reply.send(records)
            && !records.is_empty()
        {
            hub.settle_records(outbox, records, FeedbackVerdict::Untouched).await;
        }
    });
    answer
}

impl DeviceHub {
    async fn take_records_at(&self, outbox: Outbox, node: NodeId) -> Vec<Record> {
        let take = proto::FeedbackTake {
            most: u32::try_from(MAX_FEEDBACK_BATCH).unwrap_or(u32::MAX),
            wait_ms: u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX),
            reader: match outbox {
                Outbox::Feedback => 0,
                Outbox::Uploads(reader) => reader.number(),
            },
        };
        let request = match outbox {
            Outbox::Feedback => Request::TakeFeedback(take),
            Outbox::Uploads(_) => Request::TakeUploads(take),
        };
        let error = match self.call_node(node, 0, request, WAIT + ANSWER_MARGIN).await {
            Ok(Answer::TakeFeedback(taken)) if outbox == Outbox::Feedback => {
                let records = taken.records.into_iter().map(feedback::decode_feedback);
                match records.map(|record| record.map(Record::Feedback)).collect() {
                    Ok(records) => return records,
                    Err(error) => error,
                }
            }
            Ok(Answer::TakeUploads(taken)) if outbox != Outbox::Feedback => {
                let records = taken.records.into_iter().map(uploads::decode_notification);
                match records.map(|record| record.map(Record::Upload)).collect() {
                    Ok(records) => return records,
                    Err(error) => error,
                }
            }
            Ok(_) => crate::rpc::codec::refused("an answer of another kind"),
            Err(error) => error,
        };
        tracing::debug!(%node, %error, "a node did not give records for back ends; it is called again");
        tokio::time::sleep(RETRY_BACKOFF).await;
        Vec::new()
    }

    /// Records of devices whose partitions this node owns, leased to the caller; waits until there are some.
    pub(crate) async fn take_records_here(
        self: &Arc<Self>,
        outbox: Outbox,
        most: usize,
        wait: Duration,
    ) -> Vec<Record> {
        let give_up = Instant::now() + wait;
        let mut changes = self.cloud_queues.record_changes.subscribe();
        loop {
            let (taken, next_lease_end) = self.lease_records(outbox, most).await;
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
    async fn lease_records(&self, outbox: Outbox, most: usize) -> (Vec<Record>, Option<Instant>) {
        let (mut taken, mut next_lease_end) = (Vec::new(), None::<Instant>);
        for partition in self.parts.partitions.count().iter() {
            if self.ownership.term(partition).is_none() {
                continue;
            }
            self.lease_records_of(outbox, partition, most, &mut taken).await;
            let end = self.cloud_queues.partition(partition).lock().leases(outbox).next_end();
            next_lease_end = next_lease_end.into_iter().chain(end).min();
        }
        (taken, next_lease_end)
    }

    async fn lease_records_of(&self, outbox: Outbox, partition: PartitionId, most: usize, taken: &mut Vec<Record>) {
        let Some(replica) = self.parts.partitions.local(partition) else {
            return;
        };
        let devices = {
            let mut index = self.cloud_queues.partition(partition).lock();
            index.leases(outbox).drop_ended();
            index.leases(outbox).devices()
        };
        let (now, lock) = (self.parts.clock.now(), self.record_lock(outbox));
        for (identity, generation) in devices {
            if taken.len() >= most {
                return;
            }
            let key = outbox.key(&identity, &generation);
            let read = || async {
                let value = replica.device_state(&key.as_key()).await.ok()?;
                Some(outbox.waiting(value.as_deref(), &identity, &generation, now))
            };
            let Some(mut records) = read().await else { return };
            {
                let mut index = self.cloud_queues.partition(partition).lock();
                let mut room = most - taken.len();
                records.retain(|record| {
                    let is_given = room > 0 && index.leases(outbox).lease(&identity, record.name().2, lock);
                    room -= usize::from(is_given);
                    is_given
                });
            }
            if records.is_empty() {
                continue;
            }
            // A back end may have accepted one of them between the reading and the lease: it would be given twice.
            let waiting = read().await;
            let waits = |number: u64| waiting.iter().flatten().any(|record| record.name().2 == number);
            let numbers = records.iter().map(|record| record.name().2);
            let gone: Vec<u64> = numbers.filter(|number| !waits(*number)).collect();
            if !gone.is_empty() {
                let mut index = self.cloud_queues.partition(partition).lock();
                index.leases(outbox).release(&identity, &gone);
            }
            taken.extend(records.into_iter().filter(|record| waits(record.name().2)));
        }
    }

    fn record_lock(&self, outbox: Outbox) -> Duration {
        match outbox {
            Outbox::Feedback => FEEDBACK_LOCK,
            Outbox::Uploads(UploadReader::BackEnd) => self.parts.config.uploads.notification_lock.get(),
            // Longer than all attempts of one delivery.
            Outbox::Uploads(UploadReader::Webhook) => WEBHOOK_LOCK,
        }
    }
}
