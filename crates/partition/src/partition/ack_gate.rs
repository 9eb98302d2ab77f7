//! The acknowledgement gate: decides at commit whether apply will count a batch.
//!
//! Why: a batch is acknowledged at commit, before apply decides whether it counts. A batch behind a refused one is
//! committed and yet skipped by apply, so it must not be acknowledged. The gate runs apply's rule over the commits in
//! their order; apply sees the same entries in the same order and decides the same (docs/decisions/0021).
//! Invariants: the gate may lag behind apply and never runs ahead of it. It opens from the applied state once everything
//! of earlier terms is applied, and counts every later commit of its term. A lag at worst reports a counted batch as a
//! gap; the gateway then resends it. A node leads at most once in a term, so the term identifies the leadership; commits
//! of other leaders are not counted here, so a gate of an earlier leadership is never used again.
//! Pure.

use holdfast_consensus::{LogPosition, ProposeError};
use holdfast_model::Term;

use crate::error::AppendError;
use crate::log::record::EntryHeader;
use crate::state::{Admission, Streams, leadership_of};

/// The streams' positions by commits; closed until it is opened from an applied state.
#[derive(Debug, Default)]
pub(crate) struct AckGate {
    /// The term whose commits it counts; `None`: closed.
    term: Option<Term>,
    streams: Streams,
}

impl AckGate {
    /// Whether it counts the commits of this node's leadership in `term`.
    pub(crate) fn is_open_in(&self, term: Term) -> bool {
        self.term == Some(term)
    }

    /// Opens from the applied state, which contains everything before this node's first proposal in `term`.
    pub(crate) fn open(&mut self, term: Term, streams: Streams) {
        self.term = Some(term);
        self.streams = streams;
    }

    /// The answer for the sender of a batch; called for each batch in log order.
    pub(crate) fn admit_committed(
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
        if header
            .owner
            .is_some_and(|computed| computed != leadership_of(&position))
        {
            return Err(AppendError::NotLeader { leader: None });
        }
        if !header.has_stream() {
            return Ok(());
        }
        match self.streams.check(&header.stream, header.batch_number) {
            Admission::Next => {
                self.streams
                    .advance(&header.stream, header.batch_number, position.index);
                Ok(())
            }
            // Counted before.
            Admission::Repeat { .. } => Ok(()),
            Admission::Gap { expected } => Err(AppendError::Gap { expected }),
            Admission::Stale { current } => Err(AppendError::Stale { current: current.get() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::UnixMillis;

    use holdfast_model::{Incarnation, NodeId};

    use super::*;
    use crate::log::record::StreamId;

    fn header(batch_number: u64) -> EntryHeader {
        let stream = StreamId {
            gateway_node: NodeId(1),
            incarnation: Incarnation(1),
            core: 0,
        };
        EntryHeader {
            stream,
            batch_number,
            owner: None,
            proposed: UnixMillis(0),
            records: 1,
        }
    }

    fn at(term: Term, index: u64) -> Result<LogPosition, ProposeError> {
        Ok(LogPosition {
            term,
            node: NodeId(1),
            index,
        })
    }

    #[test]
    fn a_batch_behind_a_refused_one_is_not_acknowledged_though_it_is_committed() {
        let mut gate = AckGate::default();
        gate.open(Term(1), Streams::default());
        assert_eq!(gate.admit_committed(&header(1), at(Term(1), 5)), Ok(()));
        assert_eq!(
            gate.admit_committed(&header(2), Err(ProposeError::DiskFull)),
            Err(AppendError::DiskFull)
        );
        assert_eq!(
            gate.admit_committed(&header(3), at(Term(1), 6)),
            Err(AppendError::Gap { expected: 2 })
        );
        assert_eq!(gate.admit_committed(&header(2), at(Term(1), 7)), Ok(()));
        assert_eq!(
            gate.admit_committed(&header(2), at(Term(1), 8)),
            Ok(()),
            "a repeat is in the log already"
        );
        assert_eq!(gate.admit_committed(&header(3), at(Term(1), 9)), Ok(()));
        assert!(gate.is_open_in(Term(1)) && !gate.is_open_in(Term(2)));
    }

    #[test]
    fn a_change_of_leader_closes_the_gate_until_the_state_is_known_again() {
        let mut gate = AckGate::default();
        gate.open(Term(1), Streams::default());
        let lost = ProposeError::NotLeader { leader: None };
        assert_eq!(
            gate.admit_committed(&header(1), Err(lost)),
            Err(AppendError::NotLeader { leader: None })
        );
        assert!(!gate.is_open_in(Term(1)));
        assert_eq!(
            gate.admit_committed(&header(2), at(Term(1), 6)),
            Err(AppendError::Unknown)
        );
        gate.open(Term(2), Streams::default());
        assert_eq!(
            gate.admit_committed(&header(1), at(Term(3), 9)),
            Err(AppendError::Unknown),
            "a term that it was not opened for"
        );
        assert!(!gate.is_open_in(Term(2)));
    }
}
