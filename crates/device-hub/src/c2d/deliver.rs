//! Delivers a device's queue to its session, at the owner.
//!
//! One task per device, which lives while there is something to deliver or a message in flight. Why not a delivery at
//! the time of sending: the queue is in the log, the session in memory, and both change by themselves; the task looks at both after each
//! change.
//! Invariants: messages are handed to the session in the order of the queue, each once, at most [`MAX_MESSAGES`] and about
//! [`MAX_BYTES`] at a time; a message is locked from before it is handed over until its end is stored; what ended is stored
//! before more is delivered, so that a message that comes back is not overtaken.
//! Not here: credit and calls to gateways ([`crate::downlink`]).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use holdfast_model::{GenerationId, IdentityId, PartitionId, Term};
use holdfast_partition::Partition;
use holdfast_spans::{Attribute, Span, SpanName};

use super::change::{QueueError, QueueKeys};
use super::index::Delivering;
use super::message::CloudMessage;
use super::queue::{Ended, Queue, Queued};
use crate::DeviceHub;
use crate::downlink::delivery::{
    Delivery, DeliveryError, DeliveryKind, DeliveryOutcome, OnSessionChange, PendingDelivery, Settlement, note_outcome,
};
use crate::owner::state_writer::ChangeError;

/// Messages of one device that are with its session.
const MAX_MESSAGES: usize = 50;

/// About the bytes of them; the last one may exceed it.
const MAX_BYTES: usize = 256 * 1024;

/// Delay before a change is made again that could not be stored, or a session is offered more whose queue was full.
const RETRY_BACKOFF: Duration = Duration::from_millis(250);

/// A message that is with the session.
#[derive(Debug, Clone)]
struct InFlight {
    sequence: u64,
    generation: GenerationId,
    bytes: usize,
    /// The ownership in which it was handed over.
    term: Term,
}

type Outcomes = FuturesUnordered<Pin<Box<dyn Future<Output = (InFlight, DeliveryOutcome)> + Send>>>;

/// Whether a session can be handed more later without any change that would wake the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handed {
    All,
    SessionIsFull,
}

impl DeviceHub {
    /// The queue of a device, or its session, may have changed: delivers what there is.
    pub(crate) fn deliver_queue(self: &Arc<Self>, partition: PartitionId, identity: &IdentityId) {
        let takes = self
            .ownership
            .taker(partition, identity, DeliveryKind::CloudToDevice)
            .is_some();
        let Some(delivering) = self.cloud_queues.partition(partition).lock().wake(identity, takes) else {
            return;
        };
        let (hub, identity) = (Arc::clone(self), identity.clone());
        holdfast_tasks::spawn_critical("cloud-queue", async move {
            hub.deliver_until_done(partition, &identity, &delivering).await;
        });
    }

    async fn deliver_until_done(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        delivering: &Arc<Delivering>,
    ) {
        let mut outcomes = Outcomes::new();
        let mut ended = Vec::new();
        loop {
            let seen = delivering.changes();
            while let Some(Some(one)) = outcomes.next().now_or_never() {
                ended.push(one);
            }
            if !ended.is_empty() {
                self.store_ends(partition, identity, delivering, std::mem::take(&mut ended))
                    .await;
                continue;
            }
            let taker = self.ownership.taker(partition, identity, DeliveryKind::CloudToDevice);
            let handed = match taker {
                Some(generation) => {
                    self.hand_over(partition, identity, generation, delivering, &mut outcomes)
                        .await
                }
                None => Handed::All,
            };
            if outcomes.is_empty() && handed == Handed::All {
                if self.cloud_queues.partition(partition).lock().finish(identity, seen) {
                    return;
                }
                continue;
            }
            tokio::select! {
                biased;
                Some(one) = outcomes.next(), if !outcomes.is_empty() => ended.push(one),
                () = delivering.changed.notified() => {}
                () = tokio::time::sleep(RETRY_BACKOFF), if handed == Handed::SessionIsFull => {}
            }
        }
    }

    /// Hands over what the session does not have, as far as it goes.
    async fn hand_over(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: GenerationId,
        delivering: &Delivering,
        outcomes: &mut Outcomes,
    ) -> Handed {
        let (Some(replica), Some(term)) = (self.parts.partitions.local(partition), self.ownership.term(partition))
        else {
            return Handed::All;
        };
        let keys = QueueKeys::new(identity, &generation);
        let Some(queue) = read_queue(&replica, &keys, identity).await else {
            return Handed::All;
        };
        let mut locked = delivering.locked();
        let now = self.parts.clock.now();
        for message in &queue.queued {
            if locked.contains_key(&message.sequence) || message.expires <= now {
                continue;
            }
            if locked.len() >= MAX_MESSAGES || locked.values().sum::<usize>() >= MAX_BYTES {
                break;
            }
            let Ok(Some(body)) = replica.device_state(&keys.message(message.sequence).as_key()).await else {
                tracing::error!(%identity, sequence = message.sequence, "a message of a queue is missing; its queue is not delivered");
                break;
            };
            let mut span = self.span_of_delivery(&body);
            span.set(Attribute::Identity, || identity.to_string());
            span.set(Attribute::Sequence, || message.sequence);
            let delivery = Delivery {
                kind: DeliveryKind::CloudToDevice,
                on_session_change: OnSessionChange::Return,
                head: head(message),
                body,
                trace: span.context(),
            };
            let bytes = delivery.bytes();
            {
                let index = self.cloud_queues.partition(partition).lock();
                if index.is_with_request(identity, message.sequence) {
                    continue;
                }
                delivering.lock(message.sequence, bytes);
            }
            match self.deliver_here(identity, delivery) {
                Ok(pending) => {
                    locked.insert(message.sequence, bytes);
                    let in_flight = InFlight {
                        sequence: message.sequence,
                        generation: generation.clone(),
                        bytes,
                        term,
                    };
                    outcomes.push(Box::pin(outcome(in_flight, pending, span)));
                }
                Err(error) => {
                    span.fail(error.as_str(), || error.to_string());
                    delivering.unlock([message.sequence]);
                    match error {
                        DeliveryError::QueueFull { .. } => return Handed::SessionIsFull,
                        _ => break,
                    }
                }
            }
        }
        Handed::All
    }

    /// Stores how deliveries have ended. What cannot be stored because another node owns the partition is that one's to deliver
    /// again.
    async fn store_ends(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        delivering: &Delivering,
        ended: Vec<(InFlight, DeliveryOutcome)>,
    ) {
        let mut by_generation: BTreeMap<Arc<str>, Vec<(u64, Ended)>> = BTreeMap::new();
        let current = self.ownership.term(partition);
        for (in_flight, outcome) in &ended {
            let end = match outcome {
                DeliveryOutcome::Settled(Settlement::Accepted) => Ended::Completed,
                DeliveryOutcome::Settled(Settlement::Rejected) => Ended::Rejected,
                DeliveryOutcome::Settled(Settlement::Released) => Ended::Abandoned,
                DeliveryOutcome::NotDelivered => Ended::NotDelivered,
                // The session has not ended with the ownership: it still has the message.
                DeliveryOutcome::Unknown if current != Some(in_flight.term) => Ended::NotDelivered,
                DeliveryOutcome::Unknown => Ended::Abandoned,
            };
            self.count_end(end);
            if end == Ended::Completed {
                self.charge(|| in_flight.bytes);
            }
            let generation = Arc::clone(&in_flight.generation.0);
            by_generation
                .entry(generation)
                .or_default()
                .push((in_flight.sequence, end));
        }
        for (generation, ends) in by_generation {
            let generation = GenerationId(generation);
            loop {
                let now = ends.clone();
                let stored = self.change_queue(partition, identity, &generation, move |queue, change| {
                    for (sequence, end) in now {
                        change.delivery_ended(queue, sequence, end);
                    }
                });
                match stored.await {
                    Ok(()) => break,
                    Err(
                        QueueError::Change(ChangeError::NotOwner | ChangeError::TooLarge) | QueueError::Unreadable(_),
                    ) => {
                        break;
                    }
                    // A message that is completed twice ends once; a return that is counted twice does no harm.
                    Err(QueueError::Change(ChangeError::Busy | ChangeError::DiskFull | ChangeError::Unknown)) => {
                        tokio::time::sleep(RETRY_BACKOFF).await;
                    }
                }
            }
        }
        delivering.unlock(ended.iter().map(|(in_flight, _)| in_flight.sequence));
    }

    /// A span below that of the message's sending.
    fn span_of_delivery(&self, message: &Bytes) -> Span {
        match self.tracer().is_on() {
            true => self
                .tracer()
                .child(SpanName::DeliverMessage, CloudMessage::trace_of(message)),
            false => Span::none(),
        }
    }

    pub(crate) fn count_end(&self, end: Ended) {
        match end {
            Ended::Completed => self.metrics.c2d_completed.increment(1),
            Ended::Rejected => self.metrics.c2d_rejected.increment(1),
            Ended::Abandoned => self.metrics.c2d_abandoned.increment(1),
            Ended::NotDelivered => {}
        }
    }
}

/// See [`Delivery::head`].
fn head(message: &Queued) -> Arc<str> {
    format!("{}/{}/{}", message.sequence, message.deliveries, message.enqueued.0).into()
}

async fn outcome(in_flight: InFlight, pending: PendingDelivery, mut span: Span) -> (InFlight, DeliveryOutcome) {
    let outcome = pending.outcome().await;
    note_outcome(&mut span, Ok(outcome));
    (in_flight, outcome)
}

/// The queue as applied here; `None` when it cannot be read.
pub(crate) async fn read_queue(replica: &Partition, keys: &QueueKeys, identity: &IdentityId) -> Option<Queue> {
    let value = replica.device_state(&keys.queue().as_key()).await.ok()?;
    let queue = Queue::decode(value.as_deref());
    if queue.is_err() {
        tracing::error!(%identity, "the queue of a device cannot be read by this version; it is not delivered");
    }
    queue.ok()
}
