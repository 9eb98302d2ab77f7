//! Changes of a device's queue: read, decided by the rules of [`super::queue`], and stored in one entry of the log.
//!
//! Invariants: a queue, its messages and its feedback change together or not at all; every change first expires what is due, and
//! tells the index what the queue looks like afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_model::{GenerationId, IdentityId, PartitionId, UnixMillis};
use holdfast_partition::record::DeviceStateKind;
use thiserror::Error;

use super::feedback::DeviceFeedback;
use super::index::Summary;
use super::queue::{Consequences, DeadLetterReason, Ended, Queue, Rules, Unreadable};
use crate::DeviceHub;
use crate::owner::state_changes::{StateChanges, StateKey};
use crate::owner::state_writer::ChangeError;

/// Why a queue was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum QueueError {
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// The keys of one device's values.
#[derive(Debug, Clone)]
pub(crate) struct QueueKeys {
    identity: IdentityId,
    generation: GenerationId,
}

impl QueueKeys {
    pub(crate) fn new(identity: &IdentityId, generation: &GenerationId) -> Self {
        Self {
            identity: identity.clone(),
            generation: generation.clone(),
        }
    }

    pub(crate) fn queue(&self) -> StateKey {
        StateKey::new(DeviceStateKind::CLOUD_QUEUE, &self.identity, &self.generation)
    }

    pub(crate) fn message(&self, sequence: u64) -> StateKey {
        let item = sequence.to_be_bytes().to_vec();
        StateKey::with_item(DeviceStateKind::CLOUD_MESSAGE, &self.identity, &self.generation, item)
    }

    pub(crate) fn feedback(&self) -> StateKey {
        StateKey::new(DeviceStateKind::FEEDBACK, &self.identity, &self.generation)
    }
}

/// One change of a queue, while it is decided.
#[derive(Debug)]
pub(crate) struct QueueChange {
    pub(crate) now: UnixMillis,
    pub(crate) rules: Rules,
    /// A new message: its number and stored form.
    pub(crate) stored: Option<(u64, Vec<u8>)>,
    /// The messages that the device has.
    pub(crate) locked: BTreeSet<u64>,
    consequences: Consequences,
}

impl QueueChange {
    /// A delivery has ended: the device does not have the message any more.
    pub(crate) fn delivery_ended(&mut self, queue: &mut Queue, sequence: u64, ended: Ended) {
        self.locked.remove(&sequence);
        queue.delivery_ended(sequence, ended, self.rules, self.now, &mut self.consequences);
    }

    pub(crate) fn purge(&mut self, queue: &mut Queue) -> usize {
        queue.purge(self.now, &mut self.consequences)
    }

    fn expire(&mut self, queue: &mut Queue) {
        let locked = &self.locked;
        queue.expire(self.now, |sequence| locked.contains(&sequence), &mut self.consequences);
    }
}

/// The answer to a change, and what it was.
struct Decided<T> {
    answer: T,
    summary: Summary,
    expired: usize,
    lost_feedback: usize,
}

impl DeviceHub {
    /// The rules of this hub.
    fn queue_rules(&self) -> Rules {
        Rules {
            ttl_ms: u64::try_from(self.parts.config.c2d_ttl.get().as_millis()).unwrap_or(u64::MAX),
            max_deliveries: self.parts.config.c2d_max_deliveries,
        }
    }

    /// Has the owner, which this node must be, change a queue. Once the answer is there, it is committed and applied here.
    pub(crate) async fn change_queue<T: Send + 'static>(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
        decide: impl FnOnce(&mut Queue, &mut QueueChange) -> T + Send + 'static,
    ) -> Result<T, QueueError> {
        let keys = QueueKeys::new(identity, generation);
        let (queues, rules, device) = (Arc::clone(&self.cloud_queues), self.queue_rules(), identity.clone());
        let decided = self.change_state(partition, vec![keys.queue(), keys.feedback()], move |changes| {
            let change = QueueChange {
                now: changes.now(),
                rules,
                stored: None,
                locked: queues.partition(partition).lock().locked(&device),
                consequences: Consequences::default(),
            };
            let decision = queues.decisions.fetch_add(1, Ordering::Relaxed) + 1;
            decide_queue(changes, &keys, change, decision, decide)
        });
        let decided = decided.await??;
        self.metrics.c2d_expired.increment(decided.expired as u64);
        self.metrics
            .c2d_feedback_dropped
            .increment(decided.lost_feedback as u64);
        let has_feedback = decided.summary.has_feedback;
        let has_changed = {
            let mut index = self.cloud_queues.partition(partition).lock();
            index.note(identity, generation, decided.summary)
        };
        if has_changed {
            self.cloud_queues.due_changed.notify_one();
        }
        if has_feedback {
            self.cloud_queues.record_changes.send_modify(|count| *count += 1);
        }
        Ok(decided.answer)
    }
}

fn decide_queue<T>(
    changes: &mut StateChanges<'_>,
    keys: &QueueKeys,
    mut change: QueueChange,
    decision: u64,
    decide: impl FnOnce(&mut Queue, &mut QueueChange) -> T,
) -> Result<Decided<T>, Unreadable> {
    let (queue_key, feedback_key) = (keys.queue(), keys.feedback());
    let before = Queue::decode(changes.get(&queue_key).map(|value| &value[..]))?;
    let mut feedback = DeviceFeedback::decode(changes.get(&feedback_key).map(|value| &value[..]))?;
    let mut queue = before.clone();
    change.expire(&mut queue);
    let answer = decide(&mut queue, &mut change);
    // A message that the device has given back may be too old by now.
    change.expire(&mut queue);
    if queue != before {
        changes.set(&queue_key, Some(queue.encode()));
    }
    if let Some((sequence, message)) = change.stored {
        changes.set(&keys.message(sequence), Some(message));
    }
    for sequence in change.consequences.removed {
        changes.set(&keys.message(sequence), None);
    }
    let mut lost_feedback = 0;
    if !change.consequences.feedback.is_empty() {
        lost_feedback = feedback.add(change.consequences.feedback, change.now);
        changes.set(&feedback_key, feedback.encode());
    }
    let count = |queue: &Queue| {
        let expired = queue
            .dead_letters
            .iter()
            .filter(|dead| dead.reason == DeadLetterReason::Expired);
        expired.filter(|dead| dead.at == change.now).count()
    };
    Ok(Decided {
        answer,
        summary: Summary {
            decision,
            depth: queue.queued.len(),
            oldest: queue.oldest(),
            next_expiry: queue.next_expiry(|sequence| change.locked.contains(&sequence)),
            has_feedback: !feedback.0.is_empty(),
        },
        expired: count(&queue).saturating_sub(count(&before)),
        lost_feedback,
    })
}
