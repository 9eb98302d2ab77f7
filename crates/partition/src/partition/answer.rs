//! The answer of apply to the proposer of an entry, in bytes; it does not leave the process.
//!
//! A counted entry has an empty answer: that of every batch of telemetry.

use bytes::Bytes;

use crate::error::AppendError;
use crate::state::{Applied, SkipReason};

const REPEAT: u8 = 1;
const GAP: u8 = 2;
const STALE: u8 = 3;
const DAMAGED: u8 = 4;
const OTHER_LEADERSHIP: u8 = 5;

pub(crate) fn encode(applied: Applied) -> Bytes {
    let with_number = |code, number: u64| {
        let mut bytes = vec![code];
        bytes.extend_from_slice(&number.to_be_bytes());
        Bytes::from(bytes)
    };
    match applied {
        Applied::Counted { .. } => Bytes::new(),
        Applied::Skipped(SkipReason::Repeat) => Bytes::from_static(&[REPEAT]),
        Applied::Skipped(SkipReason::Gap { expected }) => with_number(GAP, expected),
        Applied::Skipped(SkipReason::Stale { current }) => with_number(STALE, current),
        Applied::Skipped(SkipReason::Damaged) => Bytes::from_static(&[DAMAGED]),
        Applied::Skipped(SkipReason::OtherLeadership { .. }) => Bytes::from_static(&[OTHER_LEADERSHIP]),
    }
}

/// The outcome for the proposer.
pub(super) fn decode(answer: &[u8]) -> Result<(), AppendError> {
    let number = || {
        let number = answer.get(1..).and_then(|rest| rest.first_chunk::<8>());
        number.map(|number| u64::from_be_bytes(*number))
    };
    match answer.first() {
        // Counted now, or before.
        None | Some(&REPEAT) => Ok(()),
        Some(&GAP) => Err(number().map_or(AppendError::Unknown, |expected| AppendError::Gap { expected })),
        Some(&STALE) => Err(number().map_or(AppendError::Unknown, |current| AppendError::Stale { current })),
        Some(&OTHER_LEADERSHIP) => Err(AppendError::NotLeader { leader: None }),
        // An entry that was parsed before it was proposed is not damaged.
        Some(_) => Err(AppendError::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::{NodeId, SequenceNumber, Term, UnixMillis};

    use super::*;
    use crate::log::record::Leadership;

    #[test]
    fn each_outcome_reaches_the_proposer() {
        let counted = Applied::Counted {
            first: SequenceNumber(1),
            records: 2,
            enqueued: UnixMillis(3),
            device_states: 4,
        };
        let computed = Leadership {
            term: Term(1),
            node: NodeId(2),
        };
        let skipped = |reason| decode(&encode(Applied::Skipped(reason)));
        assert_eq!(decode(&encode(counted)), Ok(()));
        assert_eq!(skipped(SkipReason::Repeat), Ok(()));
        let gap = AppendError::Gap { expected: 7 };
        assert_eq!(skipped(SkipReason::Gap { expected: 7 }), Err(gap));
        let stale = AppendError::Stale { current: 9 };
        assert_eq!(skipped(SkipReason::Stale { current: 9 }), Err(stale));
        assert_eq!(
            skipped(SkipReason::OtherLeadership { computed }),
            Err(AppendError::NotLeader { leader: None })
        );
        assert_eq!(skipped(SkipReason::Damaged), Err(AppendError::Unknown));
    }
}
