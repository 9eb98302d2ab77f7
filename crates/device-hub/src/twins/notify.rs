//! Tells connected devices about changes of their desired properties, in the order of their versions.
//!
//! Why a queue of writes per partition: the callers of two writes to one twin wake up in any order, and a device merges what
//! it gets. One task takes the decided writes in the order in which they were submitted.
//! Invariants: a notification is queued only after its write is committed; one that the session's queue cannot take is not
//! lost: its gateway reads the twin as soon as there is room ([`DeliveryKind::TwinChange`] with version 0); a device
//! that takes no deliveries costs nothing, as nothing is kept for devices that are away (Spec device-mqtt §7.3).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_model::{IdentityId, PartitionId, UnixMillis};
use holdfast_partition::record::DeviceStateKind;
use holdfast_tasks::sync::Mutex;
use tokio::sync::oneshot;

use super::serve::Undecided;
use super::stored;
use crate::DeviceHub;
use crate::device_state;
use crate::downlink::delivery::{Delivery, DeliveryError, DeliveryKind, OnSessionChange};
use crate::owner::state_changes::{StateChanges, StateKey};
use crate::owner::state_writer::{ChangeError, PendingChange};
use crate::session_types::{Reach, SessionInfo};

/// How often devices are tried again that could not take a notification, and have not reported since that they can. The report
/// of a device that has just subscribed may be on its way from its gateway for as long.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// How long before the report of a session a write may have been made that its device was not told of, in milliseconds: an
/// owner that is cut off ends sooner.
const RECENT_MS: u64 = 60_000;

/// A change of desired properties.
#[derive(Debug)]
pub(super) struct Notification {
    pub(super) version: u64,
    /// The patch, or the whole section, with `$version`.
    pub(super) body: Bytes,
}

/// What a write leads to: its value and a notification, or why there is none.
pub(super) type DecidedWrite = Result<(Bytes, Option<Notification>), Undecided>;

/// A write that has been submitted.
struct SubmittedWrite {
    identity: IdentityId,
    pending: PendingChange<DecidedWrite>,
    reply: oneshot::Sender<Result<Result<Bytes, Undecided>, ChangeError>>,
}

/// The writes of one partition that are in flight, and the devices that have missed a notification.
#[derive(Default)]
pub(crate) struct Notifications {
    /// In the order of their submission, in which they are decided; bounded by the state writer.
    writes: VecDeque<SubmittedWrite>,
    is_notifying: bool,
    /// Bounded by the sessions of the partition, and for a new owner by the writes that it has decided.
    missed: BTreeSet<IdentityId>,
    is_retrying: bool,
}

impl DeviceHub {
    /// Has the owner decide a write, and notifies the device when it is committed. Dropping the future changes nothing of that.
    pub(super) async fn write_and_notify(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        keys: Vec<StateKey>,
        decide: impl FnOnce(&mut StateChanges<'_>) -> DecidedWrite + Send + 'static,
    ) -> Result<Result<Bytes, Undecided>, ChangeError> {
        let (reply, replied) = oneshot::channel();
        let starts = {
            // Under one lock: the queue has the order of submission.
            let mut notifications = self.notifications(partition).lock();
            let pending = self.submit_change(partition, keys, decide)?;
            notifications.writes.push_back(SubmittedWrite {
                identity: identity.clone(),
                pending,
                reply,
            });
            !std::mem::replace(&mut notifications.is_notifying, true)
        };
        if starts {
            let hub = Arc::clone(self);
            holdfast_tasks::spawn_critical("twin-notify", async move {
                while let Some(write) = hub.next_write(partition) {
                    hub.finish_write(partition, write).await;
                }
            });
        }
        replied.await.map_err(|_| ChangeError::Unknown)?
    }

    fn notifications(&self, partition: PartitionId) -> &Mutex<Notifications> {
        &self.twin_notifications[usize::from(partition.0)]
    }

    /// `None` ends the task.
    fn next_write(&self, partition: PartitionId) -> Option<SubmittedWrite> {
        let mut notifications = self.notifications(partition).lock();
        let next = notifications.writes.pop_front();
        notifications.is_notifying = next.is_some();
        next
    }

    async fn finish_write(self: &Arc<Self>, partition: PartitionId, write: SubmittedWrite) {
        let decided = write.pending.await.unwrap_or(Err(ChangeError::Unknown));
        let answer = decided.map(|decided| {
            decided.map(|(value, notification)| {
                if let Some(notification) = notification {
                    self.notify_device(partition, &write.identity, notification);
                }
                value
            })
        });
        // The caller may have given up.
        let _ = write.reply.send(answer);
    }

    fn notify_device(self: &Arc<Self>, partition: PartitionId, identity: &IdentityId, notification: Notification) {
        // A device that has missed one reads its twin, of which this change is a part.
        if self.notifications(partition).lock().missed.contains(identity) {
            return;
        }
        let is_notified = match self.ownership.reach(partition, identity, DeliveryKind::TwinChange) {
            Reach::Absent => true,
            Reach::Unknown | Reach::Closed => false,
            Reach::Open => self.queue_change(identity, notification.version, notification.body),
        };
        if !is_notified {
            self.retry_later(partition, identity);
            // The report of its session may have come before the entry was made.
            self.notify_missed(partition, identity);
        }
    }

    /// Queues a notification for the identity's session; `false`: too much waits for it.
    fn queue_change(self: &Arc<Self>, identity: &IdentityId, version: u64, body: Bytes) -> bool {
        let delivery = Delivery {
            kind: DeliveryKind::TwinChange,
            // The next session reads the twin by itself.
            on_session_change: OnSessionChange::Return,
            head: version.to_string().into(),
            body,
            trace: None,
        };
        let bytes = delivery.body.len();
        match self.deliver_here(identity, delivery) {
            Ok(_) => {
                self.charge(|| bytes);
                self.metrics.twins_notified.increment(1);
                true
            }
            // Without a session, or without the partition, no device can be notified.
            Err(error) => !matches!(error, DeliveryError::QueueFull { .. }),
        }
    }

    fn retry_later(self: &Arc<Self>, partition: PartitionId, identity: &IdentityId) {
        let starts = {
            let mut notifications = self.notifications(partition).lock();
            notifications.missed.insert(identity.clone());
            !std::mem::replace(&mut notifications.is_retrying, true)
        };
        if starts {
            let hub = Arc::clone(self);
            holdfast_tasks::spawn_critical("twin-retry", async move {
                loop {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                    if !hub.retry_missed(partition) {
                        return;
                    }
                }
            });
        }
    }

    /// A gateway has reported sessions to this owner, which may be a new one. Devices whose desired properties were written
    /// shortly before read their twins: the earlier owner may have ended between the commit and the notification.
    pub(crate) fn resume_notifications(self: &Arc<Self>, partition: PartitionId, sessions: &[Arc<SessionInfo>]) {
        let Some(replica) = self.parts.partitions.local(partition) else {
            return;
        };
        let since = UnixMillis(self.parts.clock.now().0.saturating_sub(RECENT_MS));
        for session in sessions {
            let key = device_state::key(DeviceStateKind::TWIN, &session.identity, &session.generation);
            // Recent writes are in memory.
            let value = replica.device_state_in_memory(&key).flatten();
            if value
                .and_then(|value| stored::updated(&value))
                .is_some_and(|updated| updated >= since)
            {
                self.retry_later(partition, &session.identity);
                self.notify_missed(partition, &session.identity);
            }
        }
    }

    /// The identity's session may take notifications from now on: has the device read its twin if it has missed one.
    pub(crate) fn notify_missed(self: &Arc<Self>, partition: PartitionId, identity: &IdentityId) {
        if self.notifications(partition).lock().missed.contains(identity)
            && self.ownership.reach(partition, identity, DeliveryKind::TwinChange) == Reach::Open
            && self.queue_change(identity, 0, Bytes::new())
        {
            self.notifications(partition).lock().missed.remove(identity);
        }
    }

    /// Has the devices that have missed a notification read their twins. `false`: none is left.
    fn retry_missed(self: &Arc<Self>, partition: PartitionId) -> bool {
        let missed: Vec<IdentityId> = {
            let notifications = self.notifications(partition).lock();
            notifications.missed.iter().cloned().collect()
        };
        for identity in missed {
            match self.ownership.reach(partition, &identity, DeliveryKind::TwinChange) {
                // One that still takes none has not subscribed.
                Reach::Absent | Reach::Closed => {
                    self.notifications(partition).lock().missed.remove(&identity);
                }
                Reach::Unknown => {}
                Reach::Open => self.notify_missed(partition, &identity),
            }
        }
        let mut notifications = self.notifications(partition).lock();
        notifications.is_retrying = !notifications.missed.is_empty();
        notifications.is_retrying
    }
}
