//! A core's batches for one partition: the open batch, full ones that wait, and the one that is in flight.
//!
//! Why: batches grow with the disk's latency by themselves, since messages that arrive while an entry is in flight become
//! the next one (docs/decisions/0004).
//! Invariants: one entry of a (core, partition) pair is in flight at a time, so no entry is decided before an earlier one;
//! an entry whose outcome is unknown is proposed again under the same number, and apply drops it if it was committed the
//! first time, across owners too. The records of a session that was superseded elsewhere are removed before an entry is
//! proposed again, so that none of them is stored behind the newer session's.
//! Not here: when to propose ([`super::batcher`]).

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::{TelemetryMessage, UnixMillis};
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, PushError, StreamId, retain_records};
use tokio::sync::oneshot;

use crate::api::core::{Outcome, Receipt, ReceiptTarget};
use crate::session_types::{SessionInfo, SessionKey};

/// A record of a batch: its session, and the receipt that is due.
pub(crate) struct PendingReceipt {
    session: SessionKey,
    receipt: Option<Receipt>,
}

/// A batch that takes no more records.
struct SealedBatch {
    entry: Bytes,
    /// One per record.
    receipts: Vec<PendingReceipt>,
}

/// The state of the entry in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InFlight {
    /// Proposed and not decided.
    Proposed,
    /// Not committed, as far as is known; it is proposed again.
    Failed,
    /// Committed while the link's lease had expired: acknowledged once sessions may act again.
    AwaitingLease,
}

struct InFlightBatch {
    batch: SealedBatch,
    state: InFlight,
    /// Sessions that were superseded while the entry was proposed.
    departed: Vec<SessionKey>,
}

/// An action for the moment at which everything that is in the pipeline now has been decided.
pub(crate) enum OnDrained {
    /// The sender is dropped, which wakes the receiver.
    Notify(#[expect(dead_code, reason = "its drop is the message")] oneshot::Sender<()>),
    /// The session is detached from its owner.
    Detach(Arc<SessionInfo>, SessionKey),
}

#[derive(Default)]
pub(crate) struct BatchPipeline {
    writer: BatchWriter,
    receipts: Vec<PendingReceipt>,
    /// Batches that were full before they could be proposed.
    full: VecDeque<SealedBatch>,
    in_flight: Option<InFlightBatch>,
    last_number: u64,
    /// Bytes of the sealed batches.
    sealed_bytes: usize,
    /// Drain actions, each with the number of batches that are still undecided before it runs.
    on_drained: Vec<(usize, OnDrained)>,
}

impl BatchPipeline {
    /// Bytes of everything that has not been decided.
    pub(crate) fn bytes(&self) -> usize {
        self.writer.bytes() + self.sealed_bytes
    }

    /// Whether messages wait that are not in the entry in flight.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.full.is_empty() || !self.writer.is_empty()
    }

    /// The state of the entry in flight, if there is one.
    pub(crate) fn in_flight(&self) -> Option<InFlight> {
        self.in_flight.as_ref().map(|in_flight| in_flight.state)
    }

    /// Adds a message of the session `session`.
    #[expect(clippy::too_many_arguments, reason = "a message and the circumstances of its batch")]
    pub(crate) fn push(
        &mut self,
        session: SessionKey,
        origin: &Origin<'_>,
        message: &TelemetryMessage<'_>,
        received: UnixMillis,
        receipt: Option<Receipt>,
        stream: StreamId,
        max_batch_bytes: usize,
    ) {
        let mut pushed = self.writer.push(origin, message, received);
        if pushed == Err(PushError::BatchFull) {
            let batch = self.seal(stream, received);
            self.full.push_back(batch);
            pushed = self.writer.push(origin, message, received);
        }
        if let Err(error) = pushed {
            // An empty batch takes any record that the front end's size check lets through.
            tracing::error!(%error, "a message that no batch can hold is not acknowledged");
            return;
        }
        self.receipts.push(PendingReceipt { session, receipt });
        if self.writer.bytes() >= max_batch_bytes {
            let batch = self.seal(stream, received);
            self.full.push_back(batch);
        }
    }

    fn seal(&mut self, stream: StreamId, now: UnixMillis) -> SealedBatch {
        self.last_number += 1;
        let entry = self.writer.close(BatchHeader {
            stream,
            batch_number: self.last_number,
            enqueued: now,
        });
        self.sealed_bytes += entry.len();
        let capacity = self.receipts.len();
        let receipts = std::mem::replace(&mut self.receipts, Vec::with_capacity(capacity.min(1024)));
        SealedBatch { entry, receipts }
    }

    /// The entry to propose next, if none is in flight.
    pub(crate) fn propose(&mut self, stream: StreamId, now: UnixMillis) -> Option<Bytes> {
        if self.in_flight.is_some() || !self.has_waiting() {
            return None;
        }
        let batch = match self.full.pop_front() {
            Some(batch) => batch,
            None => self.seal(stream, now),
        };
        let entry = batch.entry.clone();
        self.in_flight = Some(InFlightBatch {
            batch,
            state: InFlight::Proposed,
            departed: Vec::new(),
        });
        Some(entry)
    }

    /// The entry in flight has failed. Returns the receipts of sessions that were superseded meanwhile.
    pub(crate) fn fail(&mut self) -> Vec<PendingReceipt> {
        let Some(in_flight) = &mut self.in_flight else {
            return Vec::new();
        };
        in_flight.state = InFlight::Failed;
        let departed = std::mem::take(&mut in_flight.departed);
        if departed.is_empty() {
            return Vec::new();
        }
        in_flight.batch.remove_records(&departed, &mut self.sealed_bytes)
    }

    /// The entry that has failed, to be proposed again.
    pub(crate) fn retry(&mut self) -> Option<Bytes> {
        let in_flight = self.in_flight.as_mut().filter(|it| it.state == InFlight::Failed)?;
        in_flight.state = InFlight::Proposed;
        Some(in_flight.batch.entry.clone())
    }

    /// The entry in flight has been committed, but nothing may be acknowledged before the lease is renewed.
    pub(crate) fn await_lease(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.state = InFlight::AwaitingLease;
        }
    }

    /// Takes the receipts of the entry in flight, which has been committed, and the drain actions that are due.
    pub(crate) fn complete(&mut self, due: &mut Vec<OnDrained>) -> Vec<PendingReceipt> {
        let Some(InFlightBatch { batch, .. }) = self.in_flight.take() else {
            return Vec::new();
        };
        self.sealed_bytes -= batch.entry.len();
        if !self.on_drained.is_empty() {
            for (undecided, _) in &mut self.on_drained {
                *undecided -= 1;
            }
            due.extend(
                self.on_drained
                    .extract_if(.., |(undecided, _)| *undecided == 0)
                    .map(|(_, action)| action),
            );
        }
        batch.receipts
    }

    /// Keeps `action` until all that is here now has been decided; returns it when there is nothing to wait for.
    pub(crate) fn when_drained(&mut self, action: OnDrained) -> Option<OnDrained> {
        let batches = usize::from(self.in_flight.is_some()) + self.full.len() + usize::from(!self.writer.is_empty());
        if batches == 0 {
            return Some(action);
        }
        self.on_drained.push((batches, action));
        None
    }

    /// A session was superseded elsewhere: its records here are not proposed any more. Returns their receipts, except
    /// those of a proposed entry, whose outcome decides.
    pub(crate) fn remove_session(
        &mut self,
        session: SessionKey,
        stream: StreamId,
        now: UnixMillis,
    ) -> Vec<PendingReceipt> {
        let departed = [session];
        let mut removed = Vec::new();
        if let Some(in_flight) = &mut self.in_flight
            && in_flight.batch.holds(session)
        {
            match in_flight.state {
                InFlight::Proposed => in_flight.departed.push(session),
                InFlight::Failed => removed.extend(in_flight.batch.remove_records(&departed, &mut self.sealed_bytes)),
                InFlight::AwaitingLease => {}
            }
        }
        if self.receipts.iter().any(|pending| pending.session == session) {
            // The batch gets its number now; it is proposed even when no record is left in it.
            let batch = self.seal(stream, now);
            self.full.push_back(batch);
        }
        for batch in self.full.iter_mut().filter(|batch| batch.holds(session)) {
            removed.extend(batch.remove_records(&departed, &mut self.sealed_bytes));
        }
        removed
    }
}

impl SealedBatch {
    fn holds(&self, session: SessionKey) -> bool {
        self.receipts.iter().any(|pending| pending.session == session)
    }

    /// Removes the records of `sessions` and returns their receipts.
    fn remove_records(&mut self, sessions: &[SessionKey], sealed_bytes: &mut usize) -> Vec<PendingReceipt> {
        let keep = |index: usize| {
            self.receipts
                .get(index)
                .is_none_or(|pending| !sessions.contains(&pending.session))
        };
        let Ok(entry) = retain_records(&self.entry, keep) else {
            // This core encoded the entry. Unchanged it is still correct, only longer than necessary.
            tracing::error!("an entry of this core cannot be decoded; it is proposed unchanged");
            return Vec::new();
        };
        *sealed_bytes -= self.entry.len() - entry.len();
        self.entry = entry;
        self.receipts
            .extract_if(.., |pending| sessions.contains(&pending.session))
            .collect()
    }
}

/// Reports the outcome to the targets, with one call for neighbouring messages of one target. Returns how many messages
/// had a receipt.
pub(crate) fn report(receipts: Vec<PendingReceipt>, outcome: Outcome) -> u64 {
    let mut cookies: smallvec::SmallVec<[u64; 64]> = smallvec::SmallVec::new();
    let mut current: Option<Rc<dyn ReceiptTarget>> = None;
    let mut reported = 0;
    for receipt in receipts.into_iter().filter_map(|pending| pending.receipt) {
        reported += 1;
        match &current {
            Some(target) if Rc::ptr_eq(target, &receipt.target) => {}
            _ => {
                if let Some(target) = current.take() {
                    target.settled(&cookies, outcome);
                    cookies.clear();
                }
                current = Some(receipt.target);
            }
        }
        cookies.push(receipt.cookie);
    }
    if let Some(target) = current {
        target.settled(&cookies, outcome);
    }
    reported
}
