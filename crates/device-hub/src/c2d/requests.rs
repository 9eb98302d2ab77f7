//! Messages of a queue for a device without a session: it takes one, and settles it by the token of its lock (Spec rest §5).
//!
//! Invariants: a message is with one receiver at a time, a session or a request; a message whose lock runs out is in its place of
//! the queue again, and its deliveries do not count for that (Spec auth-and-limits §9.2); locks are the owner's memory, so that a
//! change of the owner loses them, and no message.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{GenerationId, IdentityId, PartitionId, UnixMillis};
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::cloud_queue_answer::Outcome;
use holdfast_proto::cluster::v1::cloud_queue_request::Operation;
use tokio::time::Instant;

use super::api::CloudQueueError;
use super::change::{QueueError, QueueKeys};
use super::codec;
use super::index::LockToken;
use super::message::CloudMessage;
use super::queue::Ended;
use crate::downlink::delivery::Settlement;
use crate::owner::state_writer::ChangeError;
use crate::rpc::owner_call::Repeat;
use crate::{DeviceHub, Requester};

/// The longest time of a lock.
const MAX_LOCK: Duration = Duration::from_secs(300);

/// A message that a device has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenMessage {
    /// Its number in the device's queue.
    pub sequence: u64,
    /// When it came.
    pub enqueued: UnixMillis,
    /// When it expires.
    pub expires: UnixMillis,
    /// Deliveries that ended without completion.
    pub deliveries: u32,
    /// Its lock, in hexadecimal digits.
    pub token: String,
    /// The message.
    pub message: CloudMessage,
}

impl DeviceHub {
    /// Takes the next message of a device or module, which has it for `lock`, at most five minutes. `None`: there is none.
    ///
    /// # Errors
    /// [`CloudQueueError`]; no message is lost by one.
    pub async fn take_cloud_message(
        self: &Arc<Self>,
        requester: &Requester,
        lock: Duration,
    ) -> Result<Option<TakenMessage>, CloudQueueError> {
        let identity = requester.identity();
        let lock_ms = u64::try_from(lock.min(MAX_LOCK).as_millis()).unwrap_or(u64::MAX);
        let operation = Operation::Receive(proto::CloudQueueReceive { lock_ms });
        let answer = self.ask_queue(identity, requester.generation(), operation, Repeat::Always);
        let mut answer = answer.await?;
        let Some(taken) = answer.messages.pop() else {
            return Ok(None);
        };
        let message = CloudMessage::decode(&taken.message).ok_or(CloudQueueError::Unreadable)?;
        Ok(Some(TakenMessage {
            sequence: taken.sequence,
            enqueued: UnixMillis(taken.enqueued_ms),
            expires: UnixMillis(taken.expires_ms),
            deliveries: taken.deliveries,
            token: data_encoding::HEXLOWER.encode(&answer.token),
            message,
        }))
    }

    /// Settles a message that the device has taken.
    ///
    /// # Errors
    /// [`CloudQueueError`], each of which says whether the message may be settled.
    pub async fn settle_cloud_message(
        self: &Arc<Self>,
        requester: &Requester,
        token: &str,
        settlement: Settlement,
    ) -> Result<(), CloudQueueError> {
        let identity = requester.identity();
        let token = data_encoding::HEXLOWER_PERMISSIVE.decode(token.as_bytes());
        let Ok(token) = token else {
            return Err(CloudQueueError::LockLost);
        };
        let operation = Operation::Settle(proto::CloudQueueSettle {
            token: token.into(),
            settlement: settlement.number(),
        });
        let settled = self.ask_queue(identity, requester.generation(), operation, Repeat::WhileCertain);
        settled.await.map(|_| ())
    }

    /// Gives the first message without a receiver to a request, as the owner.
    pub(super) async fn give_to_request(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
        wanted: &proto::CloudQueueReceive,
    ) -> Result<proto::CloudQueueAnswer, QueueError> {
        let lock = Duration::from_millis(wanted.lock_ms).min(MAX_LOCK);
        let (token, until): (LockToken, Instant) = (rand::random(), Instant::now() + lock);
        let queues = Arc::clone(&self.cloud_queues);
        let device = identity.clone();
        // The lock is taken while the queue is decided, so that no other request and no session gets the message too.
        let taken = self.change_queue(partition, identity, generation, move |queue, change| {
            let free = queue
                .queued
                .iter()
                .find(|message| !change.locked.contains(&message.sequence));
            let message = free.cloned()?;
            let mut index = queues.partition(partition).lock();
            if index.locked(&device).contains(&message.sequence) {
                // The session has got it meanwhile.
                return None;
            }
            index.lock(&device, message.sequence, token, until);
            change.locked.insert(message.sequence);
            Some(message)
        });
        let given_back = || self.cloud_queues.partition(partition).lock().unlock(identity, &token);
        let message = match taken.await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(codec::done()),
            Err(error) => {
                given_back();
                return Err(error);
            }
        };
        let replica = self.parts.partitions.local(partition).ok_or(ChangeError::NotOwner);
        let key = QueueKeys::new(identity, generation).message(message.sequence);
        let stored = match replica {
            Ok(replica) => replica.device_state(&key.as_key()).await.ok().flatten(),
            Err(error) => {
                given_back();
                return Err(error.into());
            }
        };
        let Some(stored) = stored else {
            tracing::error!(%identity, sequence = message.sequence, "a message of a queue is missing; it cannot be received");
            given_back();
            return Ok(codec::outcome(Outcome::Unreadable));
        };
        self.watch_lock(partition, identity, generation, token, until);
        Ok(proto::CloudQueueAnswer {
            messages: vec![codec::listed(&message, true, None, stored.to_vec())],
            token: token.to_vec().into(),
            ..codec::done()
        })
    }

    /// Once the lock has run out, the message can expire, and the device's session gets it.
    fn watch_lock(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
        token: LockToken,
        until: Instant,
    ) {
        let (hub, identity, generation) = (Arc::downgrade(self), identity.clone(), generation.clone());
        holdfast_tasks::spawn_critical("cloud-lock", async move {
            tokio::time::sleep_until(until).await;
            let Some(hub) = hub.upgrade() else { return };
            let has_run_out = {
                let mut index = hub.cloud_queues.partition(partition).lock();
                let has_run_out = index.holds(&identity, &token);
                index.unlock(&identity, &token);
                has_run_out
            };
            if has_run_out {
                // An expiry that cannot be stored now is stored with the next change of the queue.
                let _ = hub.change_queue(partition, &identity, &generation, |_, _| ()).await;
                hub.deliver_queue(partition, &identity);
            }
        });
    }

    /// Stores how a request has settled its message, as the owner.
    pub(super) async fn settle_of_request(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
        settle: proto::CloudQueueSettle,
    ) -> Result<proto::CloudQueueAnswer, QueueError> {
        let end = match Settlement::from_number(settle.settlement) {
            Some(Settlement::Accepted) => Ended::Completed,
            Some(Settlement::Rejected) => Ended::Rejected,
            Some(Settlement::Released) => Ended::Abandoned,
            None => return Ok(codec::outcome(Outcome::Unspecified)),
        };
        let queues = Arc::clone(&self.cloud_queues);
        let (device, token) = (identity.clone(), settle.token.clone());
        let settled = self.change_queue(partition, identity, generation, move |queue, change| {
            let sequence = queues.partition(partition).lock().by_token(&device, &token);
            let message = sequence.and_then(|sequence| queue.queued.iter().find(|one| one.sequence == sequence));
            let (sequence, bytes) = message.map(|message| (message.sequence, message.bytes))?;
            change.delivery_ended(queue, sequence, end);
            Some(bytes)
        });
        let settled = settled.await?;
        self.cloud_queues
            .partition(partition)
            .lock()
            .unlock(identity, &settle.token);
        let Some(bytes) = settled else {
            return Ok(codec::outcome(Outcome::LockLost));
        };
        self.count_end(end);
        if end == Ended::Completed {
            self.charge(|| usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        Ok(codec::done())
    }
}
