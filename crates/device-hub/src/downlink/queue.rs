//! The deliveries of one session that its owner has not seen settled: bounded, in order, sent within the gateway's credit.
//!
//! Why credit: a slow device fills its own window and nothing else; the gateway never holds more than it has granted.
//! Invariants: deliveries are sent in the order in which they were queued, with sequence numbers without gaps; one that the
//! gateway has accepted is not sent again to the same session; every delivery ends with exactly one outcome, unless its
//! caller has gone; the queue holds at most [`MAX_MESSAGES`] and [`MAX_BYTES`].
//! Pure: no calls, no clock.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::credit::Credit;
use super::delivery::{
    Delivery, DeliveryError, DeliveryId, DeliveryKind, DeliveryOutcome, OnSessionChange, Settlement,
};

/// The most deliveries of one session that are not settled.
pub(crate) const MAX_MESSAGES: usize = 64;

/// The most bytes of them.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// The progress of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Not sent to the current session.
    Queued,
    /// Sent under this sequence number; the gateway has not answered.
    Sent(u64),
    /// Accepted by the gateway under this sequence number.
    Accepted(u64),
}

#[derive(Debug)]
struct Entry {
    id: DeliveryId,
    delivery: Delivery,
    progress: Progress,
    /// It was sent to an earlier session, which may have received it.
    was_sent_before: bool,
    reply: oneshot::Sender<DeliveryOutcome>,
}

impl Entry {
    /// The outcome for a delivery whose session has ended before it was settled.
    fn outcome_without_session(&self) -> DeliveryOutcome {
        match self.progress {
            Progress::Queued if !self.was_sent_before => DeliveryOutcome::NotDelivered,
            Progress::Queued | Progress::Sent(_) | Progress::Accepted(_) => DeliveryOutcome::Unknown,
        }
    }

    /// A call that has not been sent and whose caller has gone.
    fn is_abandoned(&self) -> bool {
        self.delivery.kind.is_call() && self.progress == Progress::Queued && self.reply.is_closed()
    }

    fn finish(self, outcome: DeliveryOutcome) {
        // The caller may have stopped waiting.
        let _ = self.reply.send(outcome);
    }
}

/// A delivery as it is sent to a gateway.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) id: DeliveryId,
    pub(crate) sequence: u64,
    pub(crate) delivery: Delivery,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct DeliveryQueue {
    /// Unsettled deliveries in order: accepted and sent ones first, then queued ones.
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The gateway's grant for this session, and the used part of it.
    credit: Credit,
}

impl DeliveryQueue {
    /// Queues a delivery behind all others.
    pub(crate) fn push(
        &mut self,
        id: DeliveryId,
        delivery: Delivery,
        reply: oneshot::Sender<DeliveryOutcome>,
    ) -> Result<(), DeliveryError> {
        self.drop_abandoned();
        let bytes = self.bytes + delivery.bytes();
        if self.entries.len() >= MAX_MESSAGES || bytes > MAX_BYTES {
            return Err(DeliveryError::QueueFull {
                messages: self.entries.len(),
                bytes: self.bytes,
            });
        }
        self.bytes = bytes;
        self.entries.push_back(Entry {
            id,
            delivery,
            progress: Progress::Queued,
            was_sent_before: false,
            reply,
        });
        Ok(())
    }

    /// Takes the deliveries to send with the next call, in order: those that an unanswered call may have carried already,
    /// under their numbers, and further ones as far as the credit allows, at most `most` and about `max_bytes`.
    pub(crate) fn take(&mut self, most: usize, max_bytes: usize) -> Vec<Outgoing> {
        self.drop_abandoned();
        let mut outgoing = Vec::new();
        let mut taken_bytes = 0;
        for entry in &mut self.entries {
            if outgoing.len() >= most || taken_bytes >= max_bytes {
                break;
            }
            let sequence = match entry.progress {
                Progress::Accepted(_) => continue,
                Progress::Sent(sequence) => sequence,
                Progress::Queued => match self.credit.take(entry.delivery.bytes()) {
                    Some(sequence) => sequence,
                    None => break,
                },
            };
            entry.progress = Progress::Sent(sequence);
            taken_bytes += entry.delivery.bytes();
            outgoing.push(Outgoing {
                id: entry.id,
                sequence,
                delivery: entry.delivery.clone(),
            });
        }
        outgoing
    }

    fn drop_abandoned(&mut self) {
        let bytes = &mut self.bytes;
        self.entries.retain(|entry| {
            let stays = !entry.is_abandoned();
            if !stays {
                *bytes -= entry.delivery.bytes();
            }
            stays
        });
    }

    /// Whether the session has ever granted credit.
    pub(crate) fn has_grant(&self) -> bool {
        self.credit.granted_messages > 0
    }

    /// Whether the session takes deliveries of this kind.
    pub(crate) fn takes(&self, kind: DeliveryKind) -> bool {
        self.credit.takes(kind)
    }

    /// Whether [`Self::take`] would return something; calls that have been abandoned count.
    pub(crate) fn is_sendable(&self) -> bool {
        let next = self
            .entries
            .iter()
            .find(|entry| !matches!(entry.progress, Progress::Accepted(_)));
        next.is_some_and(|entry| match entry.progress {
            Progress::Queued => self.credit.is_available(),
            Progress::Sent(_) | Progress::Accepted(_) => true,
        })
    }

    /// The gateway has accepted a delivery.
    pub(crate) fn accepted(&mut self, id: DeliveryId) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id)
            && let Progress::Sent(sequence) = entry.progress
        {
            entry.progress = Progress::Accepted(sequence);
        }
    }

    /// The device has settled a delivery; `false` when it is not known any more.
    pub(crate) fn settle(&mut self, id: DeliveryId, settlement: Settlement) -> bool {
        let Some(index) = self.entries.iter().position(|entry| entry.id == id) else {
            return false;
        };
        if let Some(entry) = self.entries.remove(index) {
            self.bytes -= entry.delivery.bytes();
            entry.finish(DeliveryOutcome::Settled(settlement));
        }
        true
    }

    /// The gateway reports the session's credit. Reports may come late: counters only grow.
    /// Returns whether the session takes other kinds from now on.
    pub(crate) fn grant(&mut self, reported: Credit) -> bool {
        let kinds = self.credit.kinds;
        self.credit.merge_grant(reported);
        self.credit.kinds != kinds
    }

    /// The gateway reports the session over a new link: deliveries behind the last one that it has received are sent
    /// again, under the numbers that follow.
    pub(crate) fn resume(&mut self, reported: Credit) {
        for entry in &mut self.entries {
            match entry.progress {
                Progress::Sent(sequence) | Progress::Accepted(sequence) if sequence <= reported.used_messages => {
                    entry.progress = Progress::Accepted(sequence);
                }
                _ => entry.progress = Progress::Queued,
            }
        }
        self.credit = reported;
    }

    /// The queue of the session that supersedes this one. Deliveries that may be repeated go with it, in order; the others
    /// end.
    pub(crate) fn into_next_session(self) -> Self {
        let mut next = Self::default();
        for mut entry in self.entries {
            match entry.delivery.on_session_change {
                OnSessionChange::Redeliver => {
                    entry.was_sent_before |= entry.progress != Progress::Queued;
                    entry.progress = Progress::Queued;
                    next.bytes += entry.delivery.bytes();
                    next.entries.push_back(entry);
                }
                OnSessionChange::Return => {
                    let outcome = entry.outcome_without_session();
                    entry.finish(outcome);
                }
            }
        }
        next
    }

    /// The session has ended without a successor: every delivery goes back to its caller, in order.
    pub(crate) fn end(self) {
        for entry in self.entries {
            let outcome = entry.outcome_without_session();
            entry.finish(outcome);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    type Reply = oneshot::Receiver<DeliveryOutcome>;

    fn delivery(text: &str, on_session_change: OnSessionChange) -> Delivery {
        Delivery {
            kind: DeliveryKind::CloudToDevice,
            on_session_change,
            head: "".into(),
            body: Bytes::copy_from_slice(text.as_bytes()),
            trace: None,
        }
    }

    fn push(queue: &mut DeliveryQueue, id: u64, on_session_change: OnSessionChange) -> Reply {
        let (reply, outcome) = oneshot::channel();
        queue
            .push(DeliveryId(id), delivery("abcd", on_session_change), reply)
            .unwrap();
        outcome
    }

    fn granted(messages: u64, bytes: u64) -> Credit {
        Credit {
            granted_messages: messages,
            granted_bytes: bytes,
            ..Credit::default()
        }
    }

    fn sent(queue: &mut DeliveryQueue) -> Vec<(u64, u64)> {
        let outgoing = queue.take(100, 1 << 20);
        outgoing.iter().map(|one| (one.id.0, one.sequence)).collect()
    }

    #[test]
    fn deliveries_are_sent_in_order_within_the_credit_and_once() {
        let mut queue = DeliveryQueue::default();
        let mut replies: Vec<Reply> = (1..=4)
            .map(|id| push(&mut queue, id, OnSessionChange::Redeliver))
            .collect();
        assert!(!queue.is_sendable() && sent(&mut queue).is_empty(), "no credit");
        queue.grant(granted(3, 5));
        // Bytes are counted before a delivery: the second one still fits.
        assert_eq!(sent(&mut queue), [(1, 1), (2, 2)]);
        assert_eq!(sent(&mut queue), [(1, 1), (2, 2)], "unanswered ones keep their numbers");
        queue.accepted(DeliveryId(1));
        queue.accepted(DeliveryId(2));
        assert!(!queue.is_sendable());
        queue.grant(granted(3, 100));
        assert_eq!(sent(&mut queue), [(3, 3)]);
        queue.accepted(DeliveryId(3));
        // An older report that comes late takes nothing back.
        queue.grant(granted(1, 5));
        queue.grant(granted(4, 100));
        assert_eq!(sent(&mut queue), [(4, 4)]);
        assert!(
            queue.settle(DeliveryId(2), Settlement::Rejected) && !queue.settle(DeliveryId(2), Settlement::Accepted)
        );
        assert_eq!(
            replies[1].try_recv(),
            Ok(DeliveryOutcome::Settled(Settlement::Rejected))
        );
        assert!(replies[0].try_recv().is_err());
    }

    #[test]
    fn the_queue_is_bounded_in_messages_and_bytes() {
        let mut queue = DeliveryQueue::default();
        let replies: Vec<Reply> = (0..MAX_MESSAGES as u64)
            .map(|id| push(&mut queue, id, OnSessionChange::Return))
            .collect();
        let (reply, _outcome) = oneshot::channel();
        let full = queue.push(DeliveryId(99), delivery("x", OnSessionChange::Return), reply);
        assert!(matches!(
            full,
            Err(DeliveryError::QueueFull {
                messages: MAX_MESSAGES,
                ..
            })
        ));
        drop(replies);
        let mut queue = DeliveryQueue::default();
        let large = Delivery {
            body: vec![0; MAX_BYTES + 1].into(),
            ..delivery("", OnSessionChange::Return)
        };
        let (reply, _outcome) = oneshot::channel();
        assert!(matches!(
            queue.push(DeliveryId(1), large, reply),
            Err(DeliveryError::QueueFull { messages: 0, bytes: 0 })
        ));
    }

    #[test]
    fn a_successor_gets_what_may_be_repeated_and_callers_get_the_rest() {
        let mut queue = DeliveryQueue::default();
        queue.grant(granted(3, 100));
        let mut settled = push(&mut queue, 1, OnSessionChange::Redeliver);
        let mut repeated = push(&mut queue, 2, OnSessionChange::Redeliver);
        let mut unknown = push(&mut queue, 3, OnSessionChange::Return);
        assert_eq!(sent(&mut queue).len(), 3);
        let mut waiting = push(&mut queue, 4, OnSessionChange::Return);
        let mut last = push(&mut queue, 5, OnSessionChange::Redeliver);
        queue.settle(DeliveryId(1), Settlement::Accepted);
        let mut next = queue.into_next_session();
        assert_eq!(settled.try_recv(), Ok(DeliveryOutcome::Settled(Settlement::Accepted)));
        assert_eq!(unknown.try_recv(), Ok(DeliveryOutcome::Unknown));
        assert_eq!(waiting.try_recv(), Ok(DeliveryOutcome::NotDelivered));
        assert!(repeated.try_recv().is_err() && last.try_recv().is_err());
        assert!(sent(&mut next).is_empty(), "the new session has granted nothing yet");
        next.grant(granted(9, 100));
        assert_eq!(sent(&mut next), [(2, 1), (5, 2)]);
        next.end();
        assert_eq!(repeated.try_recv(), Ok(DeliveryOutcome::Unknown));
    }

    #[test]
    fn a_delivery_that_an_earlier_session_may_have_is_not_reported_as_undelivered() {
        let mut queue = DeliveryQueue::default();
        queue.grant(granted(1, 100));
        let mut maybe = push(&mut queue, 1, OnSessionChange::Redeliver);
        let mut never = push(&mut queue, 2, OnSessionChange::Redeliver);
        assert_eq!(sent(&mut queue), [(1, 1)]);
        // Two sessions later, none of which has granted anything.
        queue.into_next_session().into_next_session().end();
        assert_eq!(maybe.try_recv(), Ok(DeliveryOutcome::Unknown));
        assert_eq!(never.try_recv(), Ok(DeliveryOutcome::NotDelivered));
    }

    #[test]
    fn over_a_new_link_only_deliveries_that_the_gateway_has_not_received_are_sent_again() {
        let mut queue = DeliveryQueue::default();
        queue.grant(granted(9, 100));
        let replies: Vec<Reply> = (1..=3)
            .map(|id| push(&mut queue, id, OnSessionChange::Redeliver))
            .collect();
        assert_eq!(sent(&mut queue), [(1, 1), (2, 2), (3, 3)]);
        queue.accepted(DeliveryId(1));
        // The second one arrived and the answer was lost; the third one was lost itself.
        queue.resume(Credit {
            used_messages: 2,
            used_bytes: 8,
            ..granted(9, 100)
        });
        assert_eq!(sent(&mut queue), [(3, 3)]);
        drop(replies);
    }
}
