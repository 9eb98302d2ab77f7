//! The outcome of a proposal: one callback, called exactly once.

use std::mem;
use std::time::Duration;

use bytes::Bytes;
use holdfast_model::Term;
use holdfast_tasks::Permit;
use metrics::Histogram;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::ProposeError;
use crate::ids::{LogId, position};
use crate::position::LogPosition;
use crate::type_config::Types;

/// Called on the group's thread when the entry is committed and synced, before it is applied; or when it failed.
/// Must be quick and must not block: the group waits for it.
pub type OnCommit = Box<dyn FnOnce(Result<LogPosition, ProposeError>) + Send>;

pub(crate) type Applied = Result<(LogPosition, Bytes), ProposeError>;

pub(crate) enum Waiting {
    /// For the commit.
    Commit(OnCommit),
    /// For the answer of the state machine.
    Apply(oneshot::Sender<Applied>),
    /// The outcome has been reported.
    Reported,
}

/// A proposal in openraft's queue. openraft is generic over the type of its answers.
pub(crate) struct Proposal<T> {
    waiting: Waiting,
    outcome: fn(T) -> Applied,
    /// The only term in which the entry may be appended, if there is one.
    term: Option<Term>,
    proposed: Instant,
    commit_seconds: Histogram,
    /// The entry's share of the group's bytes in flight.
    _permit: Permit,
}

impl Proposal<ClientWriteResult<Types>> {
    pub(crate) fn new(waiting: Waiting, permit: Permit, commit_seconds: Histogram, term: Option<Term>) -> Self {
        Self {
            waiting,
            outcome,
            term,
            proposed: Instant::now(),
            commit_seconds,
            _permit: permit,
        }
    }
}

impl<T> Proposal<T> {
    fn finish(&mut self, applied: Applied) {
        match mem::replace(&mut self.waiting, Waiting::Reported) {
            Waiting::Commit(committed) => committed(applied.map(|(position, _)| position)),
            Waiting::Apply(answer) => drop(answer.send(applied)),
            Waiting::Reported => {}
        }
    }
}

impl<T: Send + 'static> Responder<Types, T> for Proposal<T> {
    fn on_commit(&mut self, id: LogId) {
        let taken: Duration = self.proposed.elapsed();
        self.commit_seconds.record(taken);
        if matches!(self.waiting, Waiting::Commit(_)) {
            self.finish(Ok((position(&id), Bytes::new())));
        }
    }

    fn on_complete(mut self, result: T) {
        let applied = match ((self.outcome)(result), self.term) {
            // The engine's one word for both: it does not lead, or it leads in another term.
            (Err(ProposeError::NotLeader { leader }), Some(term)) => Err(ProposeError::TermChanged { term, leader }),
            (applied, _) => applied,
        };
        self.finish(applied);
    }
}

impl<T> Drop for Proposal<T> {
    fn drop(&mut self) {
        // The group ended between the proposal and its outcome.
        self.finish(Err(ProposeError::Unknown));
    }
}

fn outcome(result: ClientWriteResult<Types>) -> Applied {
    match result {
        Ok(response) => Ok((position(&response.log_id), response.data)),
        Err(ClientWriteError::ForwardToLeader(forward)) => Err(ProposeError::NotLeader {
            leader: forward.leader_id,
        }),
        Err(_) => Err(ProposeError::Unknown),
    }
}
