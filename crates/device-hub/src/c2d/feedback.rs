//! Feedback: which outcomes a sender wants to hear of, and the records that wait for a back end.
//!
//! Invariants: a record stays until a back end has accepted it, it is older than [`FEEDBACK_TTL`], or
//! [`MAX_DEVICE_FEEDBACK`] later ones of its device wait; numbers of a device's records are never used again.
//! Pure: the clock is an argument.

use holdfast_model::UnixMillis;
use holdfast_model::limits::{FEEDBACK_TTL, MAX_DEVICE_FEEDBACK};
use holdfast_proto::device::v1 as proto;
use prost::Message as _;

use super::queue::Unreadable;

const VERSION: u32 = 1;

/// The feedback that a sender asks for (`iothub-ack`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeedbackRequest {
    /// None.
    None,
    /// When the device has completed the message.
    Positive,
    /// When the message has ended without that.
    Negative,
    /// In any case.
    Full,
}

impl FeedbackRequest {
    const ALL: [Self; 4] = [Self::None, Self::Positive, Self::Negative, Self::Full];

    /// The word of the property `iothub-ack`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Positive => "positive",
            Self::Negative => "negative",
            Self::Full => "full",
        }
    }

    /// The request that a word means, in any case; `None` for other words.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|one| one.as_str().eq_ignore_ascii_case(word))
    }

    pub(crate) const fn number(this: Option<Self>) -> u32 {
        match this {
            None => 0,
            Some(Self::None) => 1,
            Some(Self::Positive) => 2,
            Some(Self::Negative) => 3,
            Some(Self::Full) => 4,
        }
    }

    /// A number of a later version counts as not said.
    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::None),
            2 => Some(Self::Positive),
            3 => Some(Self::Negative),
            4 => Some(Self::Full),
            _ => None,
        }
    }

    pub(crate) const fn wants(self, status: FeedbackStatus) -> bool {
        match self {
            Self::None => false,
            Self::Positive => matches!(status, FeedbackStatus::Success),
            Self::Negative => !matches!(status, FeedbackStatus::Success),
            Self::Full => true,
        }
    }
}

/// What became of a message (Spec amqp §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeedbackStatus {
    /// The device has completed it.
    Success,
    /// Its time was over before that.
    Expired,
    /// It was delivered as often as it may be.
    DeliveryCountExceeded,
    /// The device has rejected it.
    Rejected,
    /// The queue was purged.
    Purged,
}

impl FeedbackStatus {
    /// The word of `statusCode`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Expired => "Expired",
            Self::DeliveryCountExceeded => "DeliveryCountExceeded",
            Self::Rejected => "Rejected",
            Self::Purged => "Purged",
        }
    }

    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Success => 1,
            Self::Expired => 2,
            Self::DeliveryCountExceeded => 3,
            Self::Rejected => 4,
            Self::Purged => 5,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Success,
            2 => Self::Expired,
            3 => Self::DeliveryCountExceeded,
            4 => Self::Rejected,
            5 => Self::Purged,
            _ => return None,
        })
    }
}

/// The outcome of one message, for its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRecord {
    /// Its name among the records of its device.
    pub(crate) number: u64,
    /// The sender's id of the message; empty when it had none.
    pub(crate) message_id: Box<str>,
    pub(crate) status: FeedbackStatus,
    pub(crate) at: UnixMillis,
}

impl StoredRecord {
    /// Whether it is kept at `now`.
    pub(crate) fn is_kept(&self, now: UnixMillis) -> bool {
        u128::from(now.0.saturating_sub(self.at.0)) < FEEDBACK_TTL.as_millis()
    }
}

/// The records of one device, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DeviceFeedback(pub(crate) Vec<StoredRecord>);

impl DeviceFeedback {
    pub(crate) fn decode(value: Option<&[u8]>) -> Result<Self, Unreadable> {
        let Some(value) = value else {
            return Ok(Self::default());
        };
        let stored = proto::StoredFeedback::decode(value).map_err(|_| Unreadable)?;
        if stored.version != VERSION {
            return Err(Unreadable);
        }
        let records = stored.records.into_iter().map(|record| {
            Ok(StoredRecord {
                number: record.number,
                message_id: record.message_id.into(),
                status: FeedbackStatus::from_number(record.status).ok_or(Unreadable)?,
                at: UnixMillis(record.at_ms),
            })
        });
        records.collect::<Result<_, _>>().map(Self)
    }

    /// `None`: there is nothing to store.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let records = self.0.iter().map(|record| proto::StoredFeedbackRecord {
            number: record.number,
            message_id: record.message_id.to_string(),
            status: record.status.number(),
            at_ms: record.at.0,
        });
        let stored = proto::StoredFeedback {
            version: VERSION,
            records: records.collect(),
        };
        (!self.0.is_empty()).then(|| stored.encode_to_vec())
    }

    /// Adds records; gives how many older ones had to go for them, unread.
    pub(crate) fn add(&mut self, records: impl IntoIterator<Item = StoredRecord>, now: UnixMillis) -> usize {
        self.0.retain(|record| record.is_kept(now));
        self.0.extend(records);
        let above = self.0.len().saturating_sub(MAX_DEVICE_FEEDBACK);
        self.0.drain(..above);
        above
    }

    /// A back end has accepted these records.
    pub(crate) fn accept(&mut self, numbers: &[u64], now: UnixMillis) {
        self.0
            .retain(|record| record.is_kept(now) && !numbers.contains(&record.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64, at: u64) -> StoredRecord {
        StoredRecord {
            number,
            message_id: format!("m{number}").into(),
            status: FeedbackStatus::Success,
            at: UnixMillis(at),
        }
    }

    #[test]
    fn a_sender_hears_of_what_it_has_asked_for() {
        let statuses = (1..=5).filter_map(FeedbackStatus::from_number);
        for status in statuses {
            let is_success = status == FeedbackStatus::Success;
            let heard = FeedbackRequest::ALL.map(|request| request.wants(status));
            assert_eq!(heard, [false, is_success, !is_success, true], "{status:?}");
        }
        for request in FeedbackRequest::ALL {
            assert_eq!(FeedbackRequest::parse(&request.as_str().to_uppercase()), Some(request));
            let number = FeedbackRequest::number(Some(request));
            assert_eq!(FeedbackRequest::from_number(number), Some(request));
        }
        assert_eq!(FeedbackRequest::parse("all"), None);
        assert_eq!(FeedbackStatus::from_number(6), None);
    }

    #[test]
    fn records_wait_until_accepted_within_their_number_and_age() {
        let mut feedback = DeviceFeedback::default();
        assert_eq!(feedback.encode(), None);
        let many = MAX_DEVICE_FEEDBACK as u64 + 3;
        assert_eq!(
            feedback.add((1..=many).map(|number| record(number, 0)), UnixMillis(0)),
            3
        );
        assert_eq!(feedback.0[0].number, 4);
        feedback.accept(&[4, 6, 999], UnixMillis(1));
        let numbers: Vec<u64> = feedback.0.iter().take(2).map(|record| record.number).collect();
        assert_eq!(numbers, [5, 7]);
        let value = feedback.encode().unwrap();
        assert_eq!(DeviceFeedback::decode(Some(&value)), Ok(feedback.clone()));
        let later = UnixMillis(u64::try_from(FEEDBACK_TTL.as_millis()).unwrap());
        assert_eq!(feedback.add([record(200, later.0)], later), 0);
        assert_eq!(feedback.0, [record(200, later.0)], "the others are too old");
    }

    #[test]
    fn stored_bytes_never_change() {
        let feedback = DeviceFeedback(vec![record(7, 0x0102)]);
        let expected = [
            0x08, 1, 0x12, 24, 0x09, 7, 0, 0, 0, 0, 0, 0, 0, 0x12, 2, b'm', b'7', 0x18, 1, 0x21, 2, 1, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(feedback.encode().unwrap(), expected);
        for bytes in [&[0x08, 2][..], &[0xff], &[0x08, 1, 0x12, 2, 0x18, 9]] {
            assert_eq!(DeviceFeedback::decode(Some(bytes)), Err(Unreadable), "{bytes:?}");
        }
    }
}
