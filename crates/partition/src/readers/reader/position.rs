//! Where a reader starts: the forms of Spec amqp §8.3.

use holdfast_model::{SequenceNumber, UnixMillis};
use thiserror::Error;

/// Where a reader starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPosition {
    /// The oldest retained event.
    Oldest,
    /// Only events that are applied after this moment.
    Latest,
    /// This event; the oldest retained one when it has been removed. The number after the last event is allowed.
    AtSequence(SequenceNumber),
    /// The event after this one.
    AfterSequence(SequenceNumber),
    /// The first event with a later enqueued time.
    EnqueuedAfter(UnixMillis),
}

/// Whether a filter includes its value: `>=` or `>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `>=`.
    Inclusive,
    /// `>`.
    Exclusive,
}

/// The text is not a position; refuse it with `com.microsoft:argument-error`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{0}' is not a position in a partition")]
pub struct UnknownPosition(pub String);

impl StartPosition {
    /// An offset as clients write it: `-1` for the oldest event, `@latest`, or the decimal text of a sequence number.
    ///
    /// # Errors
    /// [`UnknownPosition`] for any other text.
    pub fn offset(text: &str, bound: Bound) -> Result<Self, UnknownPosition> {
        match text {
            "@latest" => Ok(Self::Latest),
            _ => Self::sequence(text, bound),
        }
    }

    /// A sequence number as clients write it: decimal, or `-1` for the oldest event.
    ///
    /// # Errors
    /// [`UnknownPosition`] for any other text.
    pub fn sequence(text: &str, bound: Bound) -> Result<Self, UnknownPosition> {
        if text == "-1" {
            return Ok(Self::Oldest);
        }
        // Clients read numbers as signed; a sign or a blank is no digit.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text
            .parse::<i64>()
            .ok()
            .filter(|_| digits)
            .map(|number| SequenceNumber(number.cast_unsigned()));
        match (number, bound) {
            (Some(number), Bound::Inclusive) => Ok(Self::AtSequence(number)),
            (Some(number), Bound::Exclusive) => Ok(Self::AfterSequence(number)),
            (None, _) => Err(UnknownPosition(text.to_owned())),
        }
    }

    /// The first event whose enqueued time is later than `time`, or not earlier.
    #[must_use]
    pub fn enqueued(time: UnixMillis, bound: Bound) -> Self {
        match (bound, time.0.checked_sub(1)) {
            (Bound::Exclusive, _) => Self::EnqueuedAfter(time),
            (Bound::Inclusive, Some(before)) => Self::EnqueuedAfter(UnixMillis(before)),
            (Bound::Inclusive, None) => Self::Oldest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_clients_become_positions() {
        use Bound::{Exclusive, Inclusive};
        let at = |number| Ok(StartPosition::AtSequence(SequenceNumber(number)));
        assert_eq!(StartPosition::offset("-1", Exclusive), Ok(StartPosition::Oldest));
        assert_eq!(StartPosition::offset("-1", Inclusive), Ok(StartPosition::Oldest));
        assert_eq!(StartPosition::offset("@latest", Exclusive), Ok(StartPosition::Latest));
        assert_eq!(StartPosition::offset("7", Inclusive), at(7));
        assert_eq!(
            StartPosition::offset("7", Exclusive),
            Ok(StartPosition::AfterSequence(SequenceNumber(7)))
        );
        assert_eq!(
            StartPosition::sequence("9223372036854775807", Inclusive),
            at(i64::MAX.cast_unsigned())
        );
        for text in ["", "+7", "-2", " 7", "7.0", "9223372036854775808", "@earliest"] {
            assert_eq!(
                StartPosition::offset(text, Inclusive),
                Err(UnknownPosition(text.to_owned()))
            );
        }
        assert!(StartPosition::sequence("@latest", Inclusive).is_err());
        assert_eq!(
            StartPosition::enqueued(UnixMillis(5), Inclusive),
            StartPosition::EnqueuedAfter(UnixMillis(4))
        );
        assert_eq!(
            StartPosition::enqueued(UnixMillis(5), Exclusive),
            StartPosition::EnqueuedAfter(UnixMillis(5))
        );
        assert_eq!(StartPosition::enqueued(UnixMillis(0), Inclusive), StartPosition::Oldest);
    }
}
