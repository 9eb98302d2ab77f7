//! A message for a device, and what becomes of it.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_spans::{Attribute, Span, TraceContext};
use thiserror::Error;
use tokio::sync::oneshot;

/// The feature that a delivery belongs to; front ends choose topic or link address by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryKind {
    /// A cloud-to-device message.
    CloudToDevice,
    /// A direct method request.
    Method,
    /// A change of desired properties.
    TwinChange,
}

impl DeliveryKind {
    /// All kinds.
    pub(crate) const ALL: [Self; 3] = [Self::CloudToDevice, Self::Method, Self::TwinChange];

    /// Its number in calls between nodes.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::CloudToDevice => 1,
            Self::Method => 2,
            Self::TwinChange => 3,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::CloudToDevice,
            2 => Self::Method,
            3 => Self::TwinChange,
            _ => return None,
        })
    }

    /// Whether it is a call: sent only while its caller waits, and only to a session that takes deliveries. The others wait
    /// for the session to take them.
    pub(crate) const fn is_call(self) -> bool {
        matches!(self, Self::Method)
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeliveryKinds(u8);

impl DeliveryKinds {
    /// With one more.
    #[must_use]
    pub const fn with(self, kind: DeliveryKind) -> Self {
        Self(self.0 | 1 << kind.number())
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn contains(self, kind: DeliveryKind) -> bool {
        self.0 & Self(0).with(kind).0 != 0
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0 as u64
    }
}

/// The treatment of an unsettled delivery when a newer session of the identity begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSessionChange {
    /// It goes to the newer session, even if the device may have received it.
    Redeliver,
    /// It goes back to its caller.
    Return,
}

/// A message for a device or module. The hub reads neither its head nor its body.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The feature that it belongs to.
    pub kind: DeliveryKind,
    /// Its treatment when the session changes.
    pub on_session_change: OnSessionChange,
    /// The front end's data beside the body: of a cloud-to-device message its sequence number, how many deliveries of it have
    /// ended without completion, and when it was enqueued in milliseconds since 1970, as `number/count/ms`; the name,
    /// request id and time-out in milliseconds of a method as `name/id/ms`; the version of a twin change, or 0 for
    /// changes that the queue could not take: the front end reads the twin.
    pub head: Arc<str>,
    /// The encoded message; a [`CloudMessage`](crate::CloudMessage) in its stored form.
    pub body: Bytes,
    /// The recorded span that it belongs to.
    pub trace: Option<TraceContext>,
}

impl Delivery {
    /// Bytes that it counts for in queues and credit.
    pub(crate) fn bytes(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// The owner's name for a delivery, unique within an incarnation of the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub(crate) u64);

/// A session's name for a delivery that it has received: its sequence number in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryTag(pub(crate) u64);

/// The device's verdict on a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It has the message.
    Accepted,
    /// It refuses the message for good.
    Rejected,
    /// It gives the message back, to be delivered later.
    Released,
}

impl Settlement {
    /// The word in spans.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Released => "released",
        }
    }

    /// Its number in calls between nodes.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Accepted => 1,
            Self::Rejected => 2,
            Self::Released => 3,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Accepted,
            2 => Self::Rejected,
            3 => Self::Released,
            _ => return None,
        })
    }
}

/// The outcome of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The device has settled it.
    Settled(Settlement),
    /// It was not sent to the device.
    NotDelivered,
    /// It may have been sent to the device; the session or the ownership of the partition ended before it was settled.
    Unknown,
}

impl DeliveryOutcome {
    /// The word in spans.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Settled(settlement) => settlement.as_str(),
            Self::NotDelivered => "not-delivered",
            Self::Unknown => "unknown",
        }
    }
}

impl DeliveryError {
    /// The word in spans.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoOwner => "no-owner",
            Self::NotConnected => "not-connected",
            Self::NotListening => "not-listening",
            Self::Busy => "busy",
            Self::QueueFull { .. } => "queue-full",
            Self::Unsettled => "unsettled",
            Self::Unknown => "unknown",
        }
    }
}

/// Notes how a delivery ended.
pub(crate) fn note_outcome(span: &mut Span, outcome: Result<DeliveryOutcome, DeliveryError>) {
    match outcome {
        Ok(outcome) => span.set(Attribute::Settlement, || outcome.as_str()),
        Err(error) => span.fail(error.as_str(), || error.to_string()),
    }
}

/// Why a delivery has no outcome. Each variant says whether the owner of the partition has queued it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DeliveryError {
    /// No owner of the partition was reached that knows all sessions. It is not queued.
    #[error("no owner of the device's partition was reached that knows all sessions")]
    NoOwner,
    /// The identity has no session. It is not queued.
    #[error("the device is not connected")]
    NotConnected,
    /// The session takes no deliveries: its device has subscribed to nothing. It is not sent.
    #[error("the device is connected and takes no deliveries")]
    NotListening,
    /// Too many deliveries of this node wait for other owners. It is not queued.
    #[error("too many deliveries wait for other nodes")]
    Busy,
    /// Too many deliveries of the session are not settled. It is not queued.
    #[error("{messages} deliveries with {bytes} bytes wait for the device")]
    QueueFull {
        /// How many there are.
        messages: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The device has not settled it in time. It is queued, and may still be delivered.
    #[error("the device has not settled the delivery in time")]
    Unsettled,
    /// The owner did not answer. It may be queued, and may be delivered.
    #[error("it is unknown whether the delivery is queued")]
    Unknown,
}

/// A delivery in flight.
#[derive(Debug)]
pub struct PendingDelivery {
    pub(crate) id: DeliveryId,
    pub(crate) outcome: oneshot::Receiver<DeliveryOutcome>,
}

impl PendingDelivery {
    /// The owner's name for it.
    #[must_use]
    pub fn id(&self) -> DeliveryId {
        self.id
    }

    /// Waits for the outcome. Dropping the future takes back a method that has not been sent, and no other delivery.
    pub async fn outcome(self) -> DeliveryOutcome {
        // The queue ends with the ownership term, without an answer.
        self.outcome.await.unwrap_or(DeliveryOutcome::Unknown)
    }
}
