//! Queues from any node: send, list, purge, requeue, and settle feedback at the owner of the device's partition.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use holdfast_model::{GenerationId, IdentityId, PartitionId, UnixMillis};
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::cloud_queue_answer::Outcome;
use holdfast_proto::cluster::v1::cloud_queue_request::Operation;
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_spans::{Attribute, Span, SpanName, TraceContext};
use thiserror::Error;

use super::change::{QueueError, QueueKeys};
use super::codec;
use super::feedback::{DeviceFeedback, FeedbackStatus};
use super::message::CloudMessage;
use super::queue::{DeadLetterReason, NewMessage, Queue, Queued};
use crate::DeviceHub;
use crate::outbox::{Outbox, Record, SeenRecord};
use crate::owner::state_writer::ChangeError;
use crate::rpc::owner_call::Repeat;

/// How long a request waits for the owner of the partition.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Values that are read from the disk at once.
const MAX_READS: usize = 16;

/// A message that is in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enqueued {
    /// Its number in the device's queue.
    pub sequence: u64,
    /// When it expires.
    pub expires: UnixMillis,
}

/// Why a request about a queue was not carried out. Each variant says whether it may have changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CloudQueueError {
    /// The queue holds as many messages as it may. Nothing has changed.
    #[error("the queue of the device holds {depth} messages, as many as it may; the oldest has been waiting for {} s", oldest_age_ms / 1000)]
    Full {
        /// Messages in the queue.
        depth: u32,
        /// How long the oldest has been waiting, in milliseconds.
        oldest_age_ms: u64,
    },
    /// The device was deleted or created again. Nothing has changed.
    #[error("the device was deleted, or created again")]
    Gone,
    /// No owner of the partition was reached. Nothing has changed.
    #[error("no owner of the device's partition was reached")]
    NoOwner,
    /// Too many requests wait. Nothing has changed.
    #[error("too many requests about devices of the partition wait")]
    Busy,
    /// Too little space is left on the owner's disk. Nothing has changed.
    #[error("too little space is left on the disk of the partition's owner")]
    DiskFull,
    /// The lock of the message has run out, or is not known. Nothing has changed.
    #[error("the lock on the message has run out, or the message has been settled")]
    LockLost,
    /// The owner's version cannot read the queue. Nothing has changed.
    #[error("the version of the partition's owner cannot read the device's queue")]
    Unreadable,
    /// The owner did not answer. The request may have been carried out.
    #[error("it is unknown whether the request was carried out")]
    Unknown,
}

impl CloudQueueError {
    /// The word in spans.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Full { .. } => "queue-full",
            Self::Gone => "gone",
            Self::NoOwner => "no-owner",
            Self::Busy => "busy",
            Self::DiskFull => "disk-full",
            Self::LockLost => "lock-lost",
            Self::Unreadable => "unreadable",
            Self::Unknown => "unknown",
        }
    }
}

impl From<ChangeError> for CloudQueueError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NotOwner => Self::NoOwner,
            ChangeError::Busy => Self::Busy,
            ChangeError::DiskFull => Self::DiskFull,
            // A message is far smaller than an entry may be.
            ChangeError::TooLarge => Self::Unreadable,
            ChangeError::Unknown => Self::Unknown,
        }
    }
}

/// A message of a queue, or a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedMessage {
    /// Its number in the device's queue.
    pub sequence: u64,
    /// Its size.
    pub bytes: u32,
    /// When it came.
    pub enqueued: UnixMillis,
    /// When it expires.
    pub expires: UnixMillis,
    /// Deliveries that ended without completion.
    pub deliveries: u32,
    /// The device has it and has not settled it.
    pub is_locked: bool,
    /// Why and since when it is a dead letter; `None`: it is in the queue.
    pub dead: Option<(DeadLetterReason, UnixMillis)>,
    /// Its properties; without the body.
    pub message: CloudMessage,
}

/// The outcome of a message, for its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feedback {
    /// The device or module.
    pub identity: IdentityId,
    /// Its generation.
    pub generation: GenerationId,
    pub(crate) number: u64,
    /// The sender's id of the message; empty when it had none.
    pub message_id: String,
    /// What became of it.
    pub status: FeedbackStatus,
    /// When.
    pub at: UnixMillis,
}

/// A back end's verdict on feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedbackVerdict {
    /// It is done with.
    Done,
    /// It was given back: another back end may get it.
    Released,
    /// No back end has had it: the one that it was taken for is gone.
    Untouched,
}

impl DeviceHub {
    /// Adds a message to the queue of a device or module of this generation, from any node. Returned: a quorum has stored it.
    ///
    /// # Errors
    /// [`CloudQueueError`], each of which says whether the message may be queued.
    pub async fn send_cloud_message(
        self: &Arc<Self>,
        identity: &IdentityId,
        generation: &GenerationId,
        message: &CloudMessage,
    ) -> Result<Enqueued, CloudQueueError> {
        let mut span = match self.tracer().is_on() {
            true => {
                let client = message.trace.or_else(|| message.context_in_properties());
                self.tracer().enter(SpanName::SendMessage, client)
            }
            false => Span::none(),
        };
        span.set(Attribute::Identity, || identity.to_string());
        span.set(Attribute::BodyBytes, || message.body.len());
        if let Some(id) = &message.message_id {
            span.set(Attribute::MessageId, || id.clone());
        }
        let enqueued = self
            .enqueue_anywhere(identity, generation, message, span.context())
            .await;
        match &enqueued {
            Ok(enqueued) => span.set(Attribute::Sequence, || enqueued.sequence),
            Err(error) => span.fail(error.as_str(), || error.to_string()),
        }
        enqueued
    }

    async fn enqueue_anywhere(
        self: &Arc<Self>,
        identity: &IdentityId,
        generation: &GenerationId,
        message: &CloudMessage,
        trace: Option<TraceContext>,
    ) -> Result<Enqueued, CloudQueueError> {
        let stored = match trace == message.trace {
            true => message.encode(),
            false => CloudMessage {
                trace,
                ..message.clone()
            }
            .encode(),
        };
        let operation = Operation::Enqueue(stored.into());
        let answer = self
            .ask_queue(identity, generation, operation, Repeat::WhileCertain)
            .await;
        if let Err(CloudQueueError::Full { .. }) = answer {
            self.metrics.c2d_queue_full.increment(1);
        }
        let answer = answer?;
        self.metrics.c2d_enqueued.increment(1);
        Ok(Enqueued {
            sequence: answer.sequence,
            expires: UnixMillis(answer.expires_ms),
        })
    }

    /// The messages of a queue in order, then the dead letters, oldest first.
    ///
    /// # Errors
    /// [`CloudQueueError`].
    pub async fn list_cloud_messages(
        self: &Arc<Self>,
        identity: &IdentityId,
        generation: &GenerationId,
    ) -> Result<Vec<ListedMessage>, CloudQueueError> {
        let operation = Operation::List(proto::CloudQueueList {});
        let answer = self.ask_queue(identity, generation, operation, Repeat::Always).await?;
        let messages = answer.messages.into_iter().map(codec::decode_listed);
        messages.collect::<Option<_>>().ok_or(CloudQueueError::Unreadable)
    }

    /// Removes all messages of a queue; gives their number. Dead letters stay.
    ///
    /// # Errors
    /// [`CloudQueueError`], each of which says whether the queue may have been purged.
    pub async fn purge_cloud_messages(
        self: &Arc<Self>,
        identity: &IdentityId,
        generation: &GenerationId,
    ) -> Result<u32, CloudQueueError> {
        let operation = Operation::Purge(proto::CloudQueuePurge {});
        let answer = self
            .ask_queue(identity, generation, operation, Repeat::WhileCertain)
            .await?;
        Ok(answer.count)
    }

    /// Puts dead letters back into the queue, `None`: all of them; gives their number.
    ///
    /// # Errors
    /// [`CloudQueueError`], each of which says whether some may be back.
    pub async fn requeue_dead_letters(
        self: &Arc<Self>,
        identity: &IdentityId,
        generation: &GenerationId,
        which: Option<&[u64]>,
    ) -> Result<u32, CloudQueueError> {
        let operation = Operation::Requeue(proto::CloudQueueRequeue {
            all: which.is_none(),
            sequences: which.unwrap_or_default().to_vec(),
        });
        let answer = self
            .ask_queue(identity, generation, operation, Repeat::WhileCertain)
            .await?;
        Ok(answer.count)
    }

    /// A back end has settled feedback. Feedback whose owner is not reached comes again.
    pub async fn settle_feedback(self: &Arc<Self>, feedback: Vec<Feedback>, verdict: FeedbackVerdict) {
        let records = feedback.into_iter().map(Record::Feedback).collect();
        self.settle_records(Outbox::Feedback, records, verdict).await;
    }

    /// The same for records of any outbox.
    pub(crate) async fn settle_records(
        self: &Arc<Self>,
        outbox: Outbox,
        records: Vec<Record>,
        verdict: FeedbackVerdict,
    ) {
        let mut devices: Vec<(IdentityId, GenerationId, Vec<SeenRecord>)> = Vec::new();
        for record in &records {
            let (identity, generation, number) = record.name();
            let seen = (number, record.deliveries());
            match devices
                .iter_mut()
                .find(|(known, of, _)| known == identity && of == generation)
            {
                Some((_, _, numbers)) => numbers.push(seen),
                None => devices.push((identity.clone(), generation.clone(), vec![seen])),
            }
        }
        let settled = devices.into_iter().map(|(identity, generation, seen)| async move {
            let settled = match outbox {
                Outbox::Feedback => {
                    let released = verdict != FeedbackVerdict::Done;
                    let numbers = seen.iter().map(|(number, _)| *number).collect();
                    let operation = Operation::SettleFeedback(proto::FeedbackSettle { numbers, released });
                    let settled = self.ask_queue(&identity, &generation, operation, Repeat::Always).await;
                    settled.map(|_| ()).map_err(|error| error.to_string())
                }
                Outbox::Uploads(reader) => {
                    let settled = self.ask_to_settle(&identity, &generation, reader, &seen, verdict).await;
                    settled.map_err(|error| error.to_string())
                }
            };
            if let Err(error) = settled {
                tracing::debug!(%identity, error, "records for back ends were not settled; they are given again");
            }
        });
        stream::iter(settled)
            .buffer_unordered(MAX_READS)
            .collect::<Vec<()>>()
            .await;
    }

    pub(super) async fn ask_queue(
        self: &Arc<Self>,
        identity: &IdentityId,
        generation: &GenerationId,
        operation: Operation,
        repeat: Repeat,
    ) -> Result<proto::CloudQueueAnswer, CloudQueueError> {
        let request = Request::CloudQueue(proto::CloudQueueRequest {
            device: codec::encode_device(identity),
            module: codec::encode_module_name(identity),
            generation: generation.0.to_string(),
            operation: Some(operation),
        });
        match self.ask_owner(identity, request, repeat, TIMEOUT).await? {
            Answer::CloudQueue(answer) => codec::check(&answer).map(|()| answer),
            _ => Err(CloudQueueError::Unknown),
        }
    }

    /// Carries out a request as the owner of the partition.
    pub(crate) async fn answer_queue(
        self: &Arc<Self>,
        partition: PartitionId,
        request: proto::CloudQueueRequest,
    ) -> Result<proto::CloudQueueAnswer, ChangeError> {
        let generation = GenerationId(request.generation.into());
        let identity = codec::decode_owner(&request.device, request.module.as_ref());
        let (Ok(identity), Some(operation)) = (identity, request.operation) else {
            // Not of this version.
            return Ok(codec::outcome(Outcome::Unspecified));
        };
        let is_gone = self
            .known_generation(&identity)
            .is_some_and(|known| super::index::is_earlier(&generation, &known));
        if is_gone {
            return Ok(codec::outcome(Outcome::Gone));
        }
        let answer = match operation {
            Operation::Enqueue(message) => self.enqueue(partition, &identity, &generation, message).await,
            Operation::List(_) => self.list_queue(partition, &identity, &generation).await,
            Operation::Purge(_) => {
                let purged = self.change_queue(partition, &identity, &generation, |queue, change| change.purge(queue));
                purged.await.map(counted)
            }
            Operation::Requeue(which) => self.requeue(partition, &identity, &generation, which).await,
            Operation::SettleFeedback(settle) => self.feedback_settled(partition, &identity, &generation, settle).await,
            Operation::Receive(wanted) => self.give_to_request(partition, &identity, &generation, &wanted).await,
            Operation::Settle(settle) => self.settle_of_request(partition, &identity, &generation, settle).await,
        };
        match answer {
            Ok(answer) => {
                self.deliver_queue(partition, &identity);
                Ok(answer)
            }
            Err(QueueError::Change(error)) => Err(error),
            Err(QueueError::Unreadable(_)) => Ok(codec::outcome(Outcome::Unreadable)),
        }
    }

    async fn enqueue(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
        message: Bytes,
    ) -> Result<proto::CloudQueueAnswer, QueueError> {
        let Some(decoded) = CloudMessage::decode(&message) else {
            return Ok(codec::outcome(Outcome::Unspecified));
        };
        let new = NewMessage {
            bytes: u32::try_from(decoded.size()).unwrap_or(u32::MAX),
            expiry: decoded.expiry,
            feedback: decoded.feedback,
            message_id: decoded.message_id.unwrap_or_default().into(),
        };
        let mut span = self.tracer().child(SpanName::EnqueueMessage, decoded.trace);
        span.set(Attribute::Partition, || partition.0.to_string());
        let enqueued = self.change_queue(partition, identity, generation, move |queue, change| {
            match queue.enqueue(new, change.rules, change.now) {
                Ok((sequence, expires)) => {
                    change.stored = Some((sequence, message.to_vec()));
                    proto::CloudQueueAnswer {
                        sequence,
                        expires_ms: expires.0,
                        ..codec::done()
                    }
                }
                Err(full) => codec::full(&full, change.now),
            }
        });
        let enqueued = enqueued.await;
        match &enqueued {
            Ok(answer) => span.set(Attribute::Sequence, || answer.sequence),
            Err(error) => span.fail("not-stored", || error.to_string()),
        }
        enqueued
    }

    async fn requeue(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
        which: proto::CloudQueueRequeue,
    ) -> Result<proto::CloudQueueAnswer, QueueError> {
        let requeued = self.change_queue(partition, identity, generation, move |queue, change| {
            let which = (!which.all).then_some(&which.sequences[..]);
            match queue.requeue(which, change.rules, change.now) {
                Ok(count) => counted(count),
                Err(full) => codec::full(&full, change.now),
            }
        });
        requeued.await
    }

    async fn list_queue(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
    ) -> Result<proto::CloudQueueAnswer, QueueError> {
        let read = self.change_queue(partition, identity, generation, |queue, change| {
            (queue.clone(), change.locked.clone())
        });
        let (queue, locked) = read.await?;
        let Queue {
            queued, dead_letters, ..
        } = queue;
        let dead = dead_letters
            .into_iter()
            .map(|dead| (dead.message, Some((dead.reason, dead.at))));
        let all: Vec<(Queued, _)> = queued.into_iter().map(|message| (message, None)).chain(dead).collect();
        let replica = self.parts.partitions.local(partition).ok_or(ChangeError::NotOwner)?;
        let keys = QueueKeys::new(identity, generation);
        let messages = all.into_iter().map(|(message, dead)| {
            let (replica, locked, keys) = (&replica, &locked, &keys);
            async move {
                let value = replica.device_state(&keys.message(message.sequence).as_key()).await;
                // Gone meanwhile.
                let mut stored = CloudMessage::decode(&value.ok()??)?;
                stored.body = Bytes::new();
                let is_locked = locked.contains(&message.sequence);
                Some(codec::listed(&message, is_locked, dead, stored.encode()))
            }
        });
        let messages: Vec<_> = stream::iter(messages).buffered(MAX_READS).collect().await;
        Ok(proto::CloudQueueAnswer {
            messages: messages.into_iter().flatten().collect(),
            ..codec::done()
        })
    }

    async fn feedback_settled(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
        settle: proto::FeedbackSettle,
    ) -> Result<proto::CloudQueueAnswer, QueueError> {
        let proto::FeedbackSettle { numbers, released } = settle;
        if !released {
            let key = QueueKeys::new(identity, generation).feedback();
            let (accepted, queues) = (numbers.clone(), Arc::clone(&self.cloud_queues));
            let left = self.change_state(partition, vec![key.clone()], move |changes| {
                let decision = queues.decisions.fetch_add(1, Ordering::Relaxed) + 1;
                let value = changes.get(&key).map(|value| &value[..]);
                let mut feedback = DeviceFeedback::decode(value)?;
                let before = feedback.0.len();
                feedback.accept(&accepted, changes.now());
                if feedback.0.len() != before {
                    changes.set(&key, feedback.encode());
                }
                Ok::<_, QueueError>((feedback.0.is_empty(), decision))
            });
            let (is_empty, decision) = left.await??;
            if is_empty {
                let mut index = self.cloud_queues.partition(partition).lock();
                index.leases(Outbox::Feedback).forget_after(identity, decision);
            }
        }
        self.cloud_queues
            .partition(partition)
            .lock()
            .leases(Outbox::Feedback)
            .release(identity, &numbers);
        if released {
            self.cloud_queues.record_changes.send_modify(|count| *count += 1);
        }
        Ok(codec::done())
    }
}

fn counted(count: usize) -> proto::CloudQueueAnswer {
    proto::CloudQueueAnswer {
        count: u32::try_from(count).unwrap_or(u32::MAX),
        ..codec::done()
    }
}
