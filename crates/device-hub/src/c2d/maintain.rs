//! Keeps the owner's index of queues: reads it when this node begins to own a partition, and expires messages in time.
//!
//! One task per node, which sleeps until the earliest message or upload expires. What cannot be expired now is due again a little
//! later.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use holdfast_model::{GenerationId, IdentityId, PartitionId, Term, UnixMillis};
use holdfast_partition::Partition;
use holdfast_partition::record::{DeviceStateKey, DeviceStateKind};
use holdfast_tasks::{Phase, Stop};

use super::change::QueueError;
use super::index::Summary;
use super::queue::Queue;
use crate::DeviceHub;
use crate::outbox::Outbox;
use crate::owner::state_writer::ChangeError;
use crate::rpc::codec;
use crate::uploads::state::DeviceUploads;

/// Queues, and devices with uploads, that are expired at once.
pub(crate) const MAX_EXPIRING: usize = 256;

/// Delay before a partition is read again that could not be.
const RETRY_BACKOFF: Duration = Duration::from_millis(500);

/// Milliseconds after which something is due again that could not be expired.
pub(crate) const RETRY_MS: u64 = 500;

/// How often depth and age are measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// Maintains the queues of the partitions that this node owns, until it closes.
pub(crate) async fn maintain_cloud_queues(hub: Arc<DeviceHub>, stop: Stop) {
    let mut owners = hub.parts.partitions.owner_changes();
    let mut measure = tokio::time::interval(MEASURE_INTERVAL);
    for partition in hub.parts.partitions.count().iter() {
        hub.follow_owner(partition);
    }
    loop {
        let now = hub.parts.clock.now();
        let due = hub
            .next_due()
            .map(|due| Duration::from_millis(due.0.saturating_sub(now.0)));
        tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => return,
            change = owners.next() => match change {
                Some((partition, _)) => hub.follow_owner(partition),
                None => return,
            },
            () = hub.cloud_queues.due_changed.notified() => {}
            () = tokio::time::sleep(due.unwrap_or(Duration::MAX)), if due.is_some() => hub.expire_due().await,
            _ = measure.tick() => hub.measure_queues(),
        }
    }
}

impl DeviceHub {
    fn next_due(&self) -> Option<UnixMillis> {
        let partitions = self.parts.partitions.count().iter();
        let due = partitions.flat_map(|partition| {
            let index = self.cloud_queues.partition(partition).lock();
            [index.next_due(), index.uploads_due.next()]
        });
        due.flatten().min()
    }

    /// Reads the queues of a partition that this node owns now, and forgets those of one that it does not.
    fn follow_owner(self: &Arc<Self>, partition: PartitionId) {
        let term = self.ownership.term(partition);
        {
            let mut index = self.cloud_queues.partition(partition).lock();
            if index.begin(term) {
                return;
            }
        }
        let Some(term) = term else { return };
        let hub = Arc::clone(self);
        holdfast_tasks::spawn_critical("cloud-queues", async move {
            while hub.ownership.term(partition) == Some(term) {
                if hub.load_queues(partition, term).await.is_some() {
                    return hub.deliver_all(partition);
                }
                tokio::time::sleep(RETRY_BACKOFF).await;
            }
        });
    }

    /// `None`: the replica cannot be read, or this node does not own the partition any more.
    async fn load_queues(&self, partition: PartitionId, term: Term) -> Option<()> {
        let replica = self.parts.partitions.local(partition)?;
        // Everything of earlier owners is applied here.
        let leadership = replica.leadership().await.ok()?;
        if leadership.term != term {
            return None;
        }
        let note_queue =
            |identity: &IdentityId, generation: &GenerationId, value: &[u8]| match Queue::decode(Some(value)) {
                Ok(queue) => {
                    let summary = Summary {
                        decision: 0,
                        depth: queue.queued.len(),
                        oldest: queue.oldest(),
                        next_expiry: queue.next_expiry(|_| false),
                        has_feedback: false,
                    };
                    let mut index = self.cloud_queues.partition(partition).lock();
                    index.note(identity, generation, summary);
                }
                Err(error) => tracing::error!(%identity, %error, "the queue of a device is not delivered"),
            };
        for_each_value(&replica, DeviceStateKind::CLOUD_QUEUE, note_queue).await?;
        let note_feedback = |identity: &IdentityId, generation: &GenerationId, _: &[u8]| {
            let mut index = self.cloud_queues.partition(partition).lock();
            index.leases(Outbox::Feedback).note_stored(identity, generation);
        };
        for_each_value(&replica, DeviceStateKind::FEEDBACK, note_feedback).await?;
        let note_uploads = |identity: &IdentityId, generation: &GenerationId, value: &[u8]| {
            let uploads = DeviceUploads::decode(Some(value)).unwrap_or_default();
            let mut index = self.cloud_queues.partition(partition).lock();
            for reader in uploads.readers() {
                index.leases(Outbox::Uploads(reader)).note_stored(identity, generation);
            }
            index.uploads_due.note(identity, generation, 0, uploads.next_expiry());
        };
        for_each_value(&replica, DeviceStateKind::UPLOADS, note_uploads).await?;
        self.cloud_queues.due_changed.notify_one();
        self.cloud_queues.record_changes.send_modify(|count| *count += 1);
        Some(())
    }

    fn deliver_all(self: &Arc<Self>, partition: PartitionId) {
        let identities = self.cloud_queues.partition(partition).lock().identities();
        for identity in identities {
            self.deliver_queue(partition, &identity);
        }
    }

    /// Expires what is due.
    async fn expire_due(self: &Arc<Self>) {
        let now = self.parts.clock.now();
        let mut due: Vec<(PartitionId, IdentityId, GenerationId)> = Vec::new();
        for partition in self.parts.partitions.count().iter() {
            let most = MAX_EXPIRING - due.len();
            let taken = self.cloud_queues.partition(partition).lock().take_due(now, most);
            due.extend(
                taken
                    .into_iter()
                    .map(|(identity, generation)| (partition, identity, generation)),
            );
        }
        // All of them at once: requests of a partition that wait together are one entry.
        let expired = due.into_iter().map(|(partition, identity, generation)| async move {
            let outcome = self.change_queue(partition, &identity, &generation, |_, _| ()).await;
            match outcome {
                Ok(()) | Err(QueueError::Unreadable(_) | QueueError::Change(ChangeError::NotOwner)) => {}
                Err(QueueError::Change(error)) => {
                    tracing::debug!(%identity, %error, "messages could not be expired; trying again");
                    let again = UnixMillis(now.0.saturating_add(RETRY_MS));
                    self.cloud_queues.partition(partition).lock().put_due(&identity, again);
                }
            }
        });
        stream::iter(expired)
            .buffer_unordered(MAX_EXPIRING)
            .collect::<Vec<()>>()
            .await;
        self.expire_uploads_due(now).await;
    }

    fn measure_queues(&self) {
        let (mut depth, mut oldest) = (0, None::<UnixMillis>);
        for partition in self.parts.partitions.count().iter() {
            let (messages, came) = self.cloud_queues.partition(partition).lock().total();
            depth += messages;
            oldest = oldest.into_iter().chain(came).min();
        }
        let now = self.parts.clock.now();
        let age = oldest.map_or(0, |came| now.0.saturating_sub(came.0));
        self.metrics.count_queues(depth, age);
    }
}

/// Calls `note` for each value of a kind; `None`: they cannot be read.
async fn for_each_value(
    replica: &Partition,
    kind: DeviceStateKind,
    note: impl Fn(&IdentityId, &GenerationId, &[u8]) + Send,
) -> Option<()> {
    let mut page = None;
    loop {
        let next = replica.device_states(kind, page.as_ref()).await.ok()?;
        for entry in &next.entries {
            if let Some((identity, generation)) = entry.key().as_ref().and_then(names) {
                note(&identity, &generation, &entry.value);
            }
        }
        if next.is_last() {
            return Some(());
        }
        page = Some(next);
    }
}

fn names(key: &DeviceStateKey<'_>) -> Option<(IdentityId, GenerationId)> {
    let identity = codec::decode_identity(key.device, key.module.unwrap_or_default()).ok()?;
    Some((identity, GenerationId(Arc::from(key.generation))))
}
