//! The queue of one device: messages in order, dead letters, and what follows from each outcome.
//!
//! Invariants: messages keep the order in which they came, also after a delivery that was not completed; at most
//! [`MAX_CLOUD_QUEUE`] wait; a message ends once, as completed, purged or a dead letter, and its sender hears of that once, if it
//! has asked to; sequence numbers are never used again; the last [`MAX_DEAD_LETTERS`] dead letters stay.
//! Which messages the device has at the moment (*locked*) is the owner's knowledge, not the queue's: a locked message does not
//! expire.
//! Pure: the clock is an argument. Not here: bodies ([`super::message`]); storing ([`super::change`]).

use holdfast_model::UnixMillis;
use holdfast_model::limits::{MAX_CLOUD_MESSAGE_TTL, MAX_CLOUD_QUEUE, MAX_DEAD_LETTERS};
use holdfast_proto::device::v1 as proto;
use prost::Message as _;
use thiserror::Error;

use super::feedback::{FeedbackRequest, FeedbackStatus, StoredRecord};

const VERSION: u32 = 1;

/// A stored value that this version cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a stored value cannot be read by this version")]
pub(crate) struct Unreadable;

/// The queue holds as many messages as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) depth: usize,
    /// When the oldest message came.
    pub(crate) oldest: UnixMillis,
}

/// Why a message is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadLetterReason {
    /// Its time was over.
    Expired,
    /// The device has rejected it.
    Rejected,
    /// It was delivered as often as it may be.
    DeliveryCountExceeded,
}

impl DeadLetterReason {
    /// The same word as in feedback.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.status().as_str()
    }

    const fn status(self) -> FeedbackStatus {
        match self {
            Self::Expired => FeedbackStatus::Expired,
            Self::Rejected => FeedbackStatus::Rejected,
            Self::DeliveryCountExceeded => FeedbackStatus::DeliveryCountExceeded,
        }
    }

    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Expired => 1,
            Self::Rejected => 2,
            Self::DeliveryCountExceeded => 3,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Expired,
            2 => Self::Rejected,
            3 => Self::DeliveryCountExceeded,
            _ => return None,
        })
    }
}

/// A message in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) sequence: u64,
    pub(crate) bytes: u32,
    pub(crate) enqueued: UnixMillis,
    pub(crate) expires: UnixMillis,
    /// Deliveries that ended without completion.
    pub(crate) deliveries: u32,
    pub(crate) feedback: Option<FeedbackRequest>,
    /// Empty without feedback.
    pub(crate) message_id: Box<str>,
}

/// A message that has ended without completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    pub(crate) message: Queued,
    pub(crate) reason: DeadLetterReason,
    pub(crate) at: UnixMillis,
}

/// A message that is to be queued.
#[derive(Debug, Clone)]
pub(crate) struct NewMessage {
    pub(crate) bytes: u32,
    /// As the sender has set it.
    pub(crate) expiry: Option<UnixMillis>,
    pub(crate) feedback: Option<FeedbackRequest>,
    pub(crate) message_id: Box<str>,
}

/// The rules of the hub's configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// The time of a message without an expiry, milliseconds.
    pub(crate) ttl_ms: u64,
    /// Deliveries after which a message that was not completed is a dead letter.
    pub(crate) max_deliveries: u32,
}

/// How a delivery has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The device has the message.
    Completed,
    /// The device refuses it for good.
    Rejected,
    /// The device has given it back, or its connection ended: it may have it.
    Abandoned,
    /// It never reached the device.
    NotDelivered,
}

/// The values that must be stored beside the queue after changes of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Consequences {
    /// Messages that are gone: their values are removed.
    pub(crate) removed: Vec<u64>,
    /// New feedback.
    pub(crate) feedback: Vec<StoredRecord>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    next_sequence: u64,
    next_feedback: u64,
    pub(crate) queued: Vec<Queued>,
    /// Oldest first.
    pub(crate) dead_letters: Vec<DeadLetter>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            next_sequence: 1,
            next_feedback: 1,
            queued: Vec::new(),
            dead_letters: Vec::new(),
        }
    }
}

impl Queue {
    /// Adds a message at the end; gives its sequence number and its expiry.
    pub(crate) fn enqueue(
        &mut self,
        message: NewMessage,
        rules: Rules,
        now: UnixMillis,
    ) -> Result<(u64, UnixMillis), Full> {
        if self.queued.len() >= MAX_CLOUD_QUEUE {
            return Err(self.full());
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let expires = expiry(message.expiry, rules, now);
        self.queued.push(Queued {
            sequence,
            bytes: message.bytes,
            enqueued: now,
            expires,
            deliveries: 0,
            message_id: match message.feedback {
                None | Some(FeedbackRequest::None) => Box::default(),
                Some(_) => message.message_id,
            },
            feedback: message.feedback,
        });
        Ok((sequence, expires))
    }

    fn full(&self) -> Full {
        Full {
            depth: self.queued.len(),
            oldest: self.oldest().unwrap_or_default(),
        }
    }

    /// When the oldest message came.
    pub(crate) fn oldest(&self) -> Option<UnixMillis> {
        self.queued.iter().map(|message| message.enqueued).min()
    }

    /// A delivery has ended. A message that has ended meanwhile is not known any more, and nothing happens.
    pub(crate) fn delivery_ended(
        &mut self,
        sequence: u64,
        ended: Ended,
        rules: Rules,
        now: UnixMillis,
        consequences: &mut Consequences,
    ) {
        let Some(index) = self.queued.iter().position(|message| message.sequence == sequence) else {
            return;
        };
        match ended {
            Ended::NotDelivered => {}
            Ended::Completed => {
                let message = self.queued.remove(index);
                self.feedback(&message, FeedbackStatus::Success, now, consequences);
                consequences.removed.push(sequence);
            }
            Ended::Rejected => self.bury(index, DeadLetterReason::Rejected, now, consequences),
            Ended::Abandoned => {
                let message = &mut self.queued[index];
                message.deliveries = message.deliveries.saturating_add(1);
                if message.deliveries >= rules.max_deliveries {
                    self.bury(index, DeadLetterReason::DeliveryCountExceeded, now, consequences);
                }
            }
        }
    }

    /// Messages whose time is over become dead letters, but those that the device has.
    pub(crate) fn expire(&mut self, now: UnixMillis, is_locked: impl Fn(u64) -> bool, consequences: &mut Consequences) {
        let is_over = |message: &Queued| message.expires <= now && !is_locked(message.sequence);
        while let Some(index) = self.queued.iter().position(is_over) {
            self.bury(index, DeadLetterReason::Expired, now, consequences);
        }
    }

    /// When the next message expires.
    pub(crate) fn next_expiry(&self, is_locked: impl Fn(u64) -> bool) -> Option<UnixMillis> {
        let waiting = self.queued.iter().filter(|message| !is_locked(message.sequence));
        waiting.map(|message| message.expires).min()
    }

    /// Removes all messages; gives their number. Dead letters stay.
    pub(crate) fn purge(&mut self, now: UnixMillis, consequences: &mut Consequences) -> usize {
        let purged = std::mem::take(&mut self.queued);
        for message in &purged {
            self.feedback(message, FeedbackStatus::Purged, now, consequences);
            consequences.removed.push(message.sequence);
        }
        purged.len()
    }

    /// Puts dead letters back at the end of the queue, `None`: all of them, oldest first, as new messages: not yet delivered, and
    /// with the default time if theirs is over. Gives their number.
    ///
    /// # Errors
    /// The queue cannot take all of them: nothing has changed.
    pub(crate) fn requeue(&mut self, which: Option<&[u64]>, rules: Rules, now: UnixMillis) -> Result<usize, Full> {
        let is_wanted = |dead: &DeadLetter| which.is_none_or(|which| which.contains(&dead.message.sequence));
        let count = self.dead_letters.iter().filter(|dead| is_wanted(dead)).count();
        if self.queued.len() + count > MAX_CLOUD_QUEUE {
            return Err(self.full());
        }
        for dead in self.dead_letters.extract_if(.., |dead| is_wanted(dead)) {
            let mut message = dead.message;
            message.deliveries = 0;
            if message.expires <= now {
                message.expires = expiry(None, rules, now);
            }
            self.queued.push(message);
        }
        Ok(count)
    }

    fn bury(&mut self, index: usize, reason: DeadLetterReason, now: UnixMillis, consequences: &mut Consequences) {
        let message = self.queued.remove(index);
        self.feedback(&message, reason.status(), now, consequences);
        self.dead_letters.push(DeadLetter {
            message,
            reason,
            at: now,
        });
        let above = self.dead_letters.len().saturating_sub(MAX_DEAD_LETTERS);
        let forgotten = self.dead_letters.drain(..above);
        consequences.removed.extend(forgotten.map(|dead| dead.message.sequence));
    }

    fn feedback(&mut self, message: &Queued, status: FeedbackStatus, now: UnixMillis, consequences: &mut Consequences) {
        if message.feedback.is_some_and(|request| request.wants(status)) {
            consequences.feedback.push(StoredRecord {
                number: self.next_feedback,
                message_id: message.message_id.clone(),
                status,
                at: now,
            });
            self.next_feedback += 1;
        }
    }

    /// Reads the stored form; without a value the queue is empty.
    pub(crate) fn decode(value: Option<&[u8]>) -> Result<Self, Unreadable> {
        let Some(value) = value else {
            return Ok(Self::default());
        };
        let stored = proto::StoredCloudQueue::decode(value).map_err(|_| Unreadable)?;
        if stored.version != VERSION {
            return Err(Unreadable);
        }
        let dead_letters = stored.dead_letters.into_iter().map(|dead| {
            Ok(DeadLetter {
                message: decode_queued(dead.message.ok_or(Unreadable)?),
                reason: DeadLetterReason::from_number(dead.reason).ok_or(Unreadable)?,
                at: UnixMillis(dead.at_ms),
            })
        });
        Ok(Self {
            next_sequence: stored.next_sequence,
            next_feedback: stored.next_feedback,
            dead_letters: dead_letters.collect::<Result<_, _>>()?,
            queued: stored.queued.into_iter().map(decode_queued).collect(),
        })
    }

    /// The stored form. An empty queue is stored too: it keeps the numbers.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let dead_letters = self.dead_letters.iter().map(|dead| proto::StoredDeadLetter {
            message: Some(encode_queued(&dead.message)),
            reason: dead.reason.number(),
            at_ms: dead.at.0,
        });
        let stored = proto::StoredCloudQueue {
            version: VERSION,
            next_sequence: self.next_sequence,
            next_feedback: self.next_feedback,
            queued: self.queued.iter().map(encode_queued).collect(),
            dead_letters: dead_letters.collect(),
        };
        stored.encode_to_vec()
    }
}

fn expiry(wanted: Option<UnixMillis>, rules: Rules, now: UnixMillis) -> UnixMillis {
    let latest = u64::try_from(MAX_CLOUD_MESSAGE_TTL.as_millis()).unwrap_or(u64::MAX);
    let latest = UnixMillis(now.0.saturating_add(latest));
    wanted.map_or(UnixMillis(now.0.saturating_add(rules.ttl_ms)), |expiry| {
        expiry.min(latest)
    })
}

pub(crate) fn encode_queued(message: &Queued) -> proto::StoredQueuedMessage {
    proto::StoredQueuedMessage {
        sequence: message.sequence,
        bytes: message.bytes,
        enqueued_ms: message.enqueued.0,
        expires_ms: message.expires.0,
        deliveries: message.deliveries,
        feedback: FeedbackRequest::number(message.feedback),
        message_id: message.message_id.to_string(),
    }
}

pub(crate) fn decode_queued(stored: proto::StoredQueuedMessage) -> Queued {
    Queued {
        sequence: stored.sequence,
        bytes: stored.bytes,
        enqueued: UnixMillis(stored.enqueued_ms),
        expires: UnixMillis(stored.expires_ms),
        deliveries: stored.deliveries,
        feedback: FeedbackRequest::from_number(stored.feedback),
        message_id: stored.message_id.into(),
    }
}

#[cfg(test)]
mod tests;
