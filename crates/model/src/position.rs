//! Places in a partition's stream of events.

use std::fmt;

/// The number of an event within its partition: counted from 0, without gaps, given when the event is applied.
///
/// The *offset* that Event Hubs readers see is this number as decimal text (docs/decisions/0003): strictly
/// increasing, and parsable as a 64-bit integer, as old Go clients demand (Spec amqp §8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SequenceNumber(pub u64);

impl SequenceNumber {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_text_is_the_decimal_number() {
        assert_eq!(SequenceNumber(0).to_string(), "0");
        assert_eq!(SequenceNumber(41).next().to_string(), "42");
    }
}
