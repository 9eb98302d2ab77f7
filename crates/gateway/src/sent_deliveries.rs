//! Deliveries that a client has received and not settled, and the messages that it has completed last.
//!
//! Invariant: a message that another owner delivers again, which did not hear of this session, is not sent twice: one in
//! flight stays so, one that was completed is settled.

use std::collections::VecDeque;

use holdfast_device_hub::{DeliveryKind, DeliveryTag, ReceivedDelivery};
use holdfast_model::limits::MAX_CLOUD_QUEUE;

/// The head of a delivery with a cloud-to-device message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageHead {
    /// Its number in the device's queue.
    pub(crate) sequence: u64,
    /// Deliveries that ended without completion.
    pub(crate) deliveries: u32,
    /// When it was enqueued, milliseconds since 1970; 0 from an owner of an earlier version.
    pub(crate) enqueued_ms: u64,
}

impl MessageHead {
    /// `None` for other deliveries.
    pub(crate) fn of(delivery: &ReceivedDelivery) -> Option<Self> {
        if delivery.kind != DeliveryKind::CloudToDevice {
            return None;
        }
        let mut parts = delivery.head.split('/');
        Some(Self {
            sequence: parts.next()?.parse().ok()?,
            deliveries: parts.next()?.parse().ok()?,
            enqueued_ms: parts.next().and_then(|ms| ms.parse().ok()).unwrap_or(0),
        })
    }
}

/// See the module. `N` is the client's name for a delivery.
pub(crate) struct SentDeliveries<N> {
    /// Not settled, oldest first.
    in_flight: Vec<Sent<N>>,
    /// Numbers of the messages that the client has completed last: no more can be left in its queue.
    completed: VecDeque<u64>,
}

/// A delivery that is not settled.
pub(crate) struct Sent<N> {
    /// The client's name for it.
    pub(crate) name: N,
    /// The session's name for it.
    pub(crate) tag: DeliveryTag,
    /// Bytes that it counts for in credit.
    pub(crate) bytes: usize,
    /// The number of a cloud-to-device message.
    pub(crate) message: Option<u64>,
}

/// The state of a message that another owner delivers again.
pub(crate) enum Again {
    /// The client has completed it.
    Completed,
    /// The client has it: this was the tag, and these the bytes, of its earlier delivery.
    InFlight(DeliveryTag, usize),
}

impl<N> Default for SentDeliveries<N> {
    fn default() -> Self {
        Self {
            in_flight: Vec::new(),
            completed: VecDeque::new(),
        }
    }
}

impl<N: PartialEq> SentDeliveries<N> {
    /// Whether the client has, or had, this message in this session; from now on the delivery with `tag` stands for it.
    pub(crate) fn again(&mut self, message: u64, tag: DeliveryTag, bytes: usize) -> Option<Again> {
        if self.completed.contains(&message) {
            return Some(Again::Completed);
        }
        let in_flight = self.in_flight.iter_mut().find(|one| one.message == Some(message))?;
        let earlier = Again::InFlight(in_flight.tag, in_flight.bytes);
        in_flight.tag = tag;
        in_flight.bytes = bytes;
        Some(earlier)
    }

    /// Whether a name is in use.
    pub(crate) fn is_used(&self, name: &N) -> bool {
        self.in_flight.iter().any(|one| one.name == *name)
    }

    pub(crate) fn push(&mut self, sent: Sent<N>) {
        self.in_flight.push(sent);
    }

    /// Removes a delivery that the client settles; `None`: it has none of this name.
    pub(crate) fn take(&mut self, name: &N) -> Option<Sent<N>> {
        let index = self.in_flight.iter().position(|one| one.name == *name)?;
        Some(self.in_flight.remove(index))
    }

    /// Removes all that are not settled.
    pub(crate) fn take_all(&mut self) -> Vec<Sent<N>> {
        std::mem::take(&mut self.in_flight)
    }

    /// The client has completed a message.
    pub(crate) fn complete(&mut self, message: Option<u64>) {
        let Some(message) = message else { return };
        if self.completed.len() >= MAX_CLOUD_QUEUE {
            self.completed.pop_front();
        }
        self.completed.push_back(message);
    }
}
