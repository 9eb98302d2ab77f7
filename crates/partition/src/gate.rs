//! Whether a committed batch will be counted, known before it is applied.
//!
//! Why: an acknowledgement is given when a batch is committed, which is before apply decides whether it counts. A batch
//! behind one that was refused is committed and yet void, and must not be acknowledged. So the same rule runs here, over
//! the commits in their order. Apply sees the same entries in the same order and so decides the same.
//! Invariants: this can lag behind apply, never run ahead of it: it starts from the applied state once everything of
//! earlier terms has been applied, and counts every commit of the term after that. A lag at worst calls a counted batch
//! a gap, which the gateway answers by sending it again.
//! A node leads at most once in a term, so that the term names the leadership; what another node has led since is not
//! counted here, hence a gate of an earlier leadership must not be used again.
//! Pure.

use holdfast_consensus::{LogPosition, ProposeError};

use crate::error::AppendError;
use crate::record::EntryHeader;
use crate::state::{Admission, Streams};

/// The streams' positions by commits; closed until it has been set to a known state.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// The term whose commits are counted; `None`: closed.
    term: Option<u64>,
    streams: Streams,
}

impl Gate {
    /// Whether it counts the commits of this node's leadership in `term`.
    pub(crate) fn is_open_in(&self, term: u64) -> bool {
        self.term == Some(term)
    }

    /// Starts from the applied state: everything before `term`'s first proposal of ours is in it.
    pub(crate) fn open(&mut self, term: u64, streams: Streams) {
        self.term = Some(term);
        self.streams = streams;
    }

    /// What the sender of a batch is told, called for each batch in the order of the log.
    pub(crate) fn settle(
        &mut self,
        header: &EntryHeader,
        outcome: Result<LogPosition, ProposeError>,
    ) -> Result<(), AppendError> {
        let position = match outcome {
            Ok(position) => position,
            Err(error) => {
                if matches!(error, ProposeError::NotLeader { .. } | ProposeError::Unknown) {
                    self.term = None;
                }
                return Err(error.into());
            }
        };
        if self.term != Some(position.term) {
            self.term = None;
            return Err(AppendError::Unknown);
        }
        match self.streams.check(&header.stream, header.batch_number) {
            Admission::Next => {
                self.streams
                    .advance(&header.stream, header.batch_number, position.index);
                Ok(())
            }
            // It is in the log, once.
            Admission::Repeat { .. } => Ok(()),
            Admission::Gap { expected } => Err(AppendError::Gap { expected }),
            Admission::Stale { current } => Err(AppendError::Stale { current }),
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::UnixMillis;

    use super::*;
    use crate::record::StreamId;

    fn header(batch_number: u64) -> EntryHeader {
        let stream = StreamId {
            gateway_node: 1,
            incarnation: 1,
            core: 0,
        };
        EntryHeader {
            stream,
            batch_number,
            proposed: UnixMillis(0),
            records: 1,
        }
    }

    fn at(term: u64, index: u64) -> Result<LogPosition, ProposeError> {
        Ok(LogPosition { term, node: 1, index })
    }

    #[test]
    fn a_batch_behind_a_refused_one_is_not_acknowledged_though_it_is_committed() {
        let mut gate = Gate::default();
        gate.open(1, Streams::default());
        assert_eq!(gate.settle(&header(1), at(1, 5)), Ok(()));
        assert_eq!(
            gate.settle(&header(2), Err(ProposeError::DiskFull)),
            Err(AppendError::DiskFull)
        );
        assert_eq!(gate.settle(&header(3), at(1, 6)), Err(AppendError::Gap { expected: 2 }));
        assert_eq!(gate.settle(&header(2), at(1, 7)), Ok(()));
        assert_eq!(
            gate.settle(&header(2), at(1, 8)),
            Ok(()),
            "a repeat is in the log already"
        );
        assert_eq!(gate.settle(&header(3), at(1, 9)), Ok(()));
        assert!(gate.is_open_in(1) && !gate.is_open_in(2));
    }

    #[test]
    fn a_change_of_leader_closes_the_gate_until_the_state_is_known_again() {
        let mut gate = Gate::default();
        gate.open(1, Streams::default());
        let lost = ProposeError::NotLeader { leader: None };
        assert_eq!(
            gate.settle(&header(1), Err(lost)),
            Err(AppendError::NotLeader { leader: None })
        );
        assert!(!gate.is_open_in(1));
        assert_eq!(gate.settle(&header(2), at(1, 6)), Err(AppendError::Unknown));
        gate.open(2, Streams::default());
        assert_eq!(
            gate.settle(&header(1), at(3, 9)),
            Err(AppendError::Unknown),
            "a term that it was not opened for"
        );
        assert!(!gate.is_open_in(2));
    }
}
