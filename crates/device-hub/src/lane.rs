//! A core's way into one partition: the open batch, and the one that waits for its commit.
//!
//! Only one entry of a (core, partition) pair is under way at a time; what arrives meanwhile becomes the next one. So
//! batches grow with the disk's latency by themselves, no entry can be decided before an earlier one, and an entry
//! whose outcome is unknown is proposed again under the same number, which apply drops if it was committed after all
//! (foundations 1, docs/decisions/0004).

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use holdfast_model::{TelemetryMessage, UnixMillis};
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, PushError, StreamId};
use tokio::sync::oneshot;

use crate::core::{Receipt, ReceiptTarget};

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Committed by the quorum and synced.
    Committed,
    /// Not committed, or nobody knows; the sender must not be told that it was.
    Failed,
}

/// A batch that has been closed.
struct Closed {
    entry: Bytes,
    receipts: Vec<Receipt>,
}

#[derive(Default)]
pub(crate) struct Lane {
    writer: BatchWriter,
    receipts: Vec<Receipt>,
    /// Batches that were full before they could be proposed.
    ready: VecDeque<Closed>,
    under_way: Option<Closed>,
    last_number: u64,
    /// Bytes of the closed batches.
    closed_bytes: usize,
    /// Told once everything that was here when they came has been decided; counts batches still to go.
    drained: Vec<(usize, oneshot::Sender<()>)>,
}

impl Lane {
    /// Bytes of everything that has not been decided.
    pub(crate) fn bytes(&self) -> usize {
        self.writer.bytes() + self.closed_bytes
    }

    /// Whether messages wait that are not in the entry under way.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.ready.is_empty() || !self.writer.is_empty()
    }

    /// Adds a message.
    pub(crate) fn push(
        &mut self,
        origin: &Origin<'_>,
        message: &TelemetryMessage<'_>,
        received: UnixMillis,
        receipt: Option<Receipt>,
        stream: StreamId,
        max_batch_bytes: usize,
    ) {
        if self.writer.push(origin, message, received) == Err(PushError::BatchFull) {
            let closed = self.close(stream, received);
            self.ready.push_back(closed);
            // A batch that is empty takes any record that there can be; the front end has checked its size.
            let pushed = self.writer.push(origin, message, received);
            debug_assert!(pushed.is_ok(), "{pushed:?}");
        }
        if let Some(receipt) = receipt {
            self.receipts.push(receipt);
        }
        if self.writer.bytes() >= max_batch_bytes {
            let closed = self.close(stream, received);
            self.ready.push_back(closed);
        }
    }

    fn close(&mut self, stream: StreamId, now: UnixMillis) -> Closed {
        self.last_number += 1;
        let entry = self.writer.close(BatchHeader {
            stream,
            batch_number: self.last_number,
            enqueued: now,
        });
        self.closed_bytes += entry.len();
        let capacity = self.receipts.len();
        let receipts = std::mem::replace(&mut self.receipts, Vec::with_capacity(capacity.min(1024)));
        Closed { entry, receipts }
    }

    /// The entry to propose next, if none is under way.
    pub(crate) fn propose(&mut self, stream: StreamId, now: UnixMillis) -> Option<Bytes> {
        if self.under_way.is_some() || !self.has_waiting() {
            return None;
        }
        let closed = match self.ready.pop_front() {
            Some(closed) => closed,
            None => self.close(stream, now),
        };
        let entry = closed.entry.clone();
        self.under_way = Some(closed);
        Some(entry)
    }

    /// The entry under way, to be proposed again after a failure.
    pub(crate) fn again(&self) -> Option<Bytes> {
        self.under_way.as_ref().map(|closed| closed.entry.clone())
    }

    /// Takes the receipts of the entry under way, which has been committed.
    pub(crate) fn decided(&mut self) -> Vec<Receipt> {
        let Some(closed) = self.under_way.take() else {
            return Vec::new();
        };
        self.closed_bytes -= closed.entry.len();
        self.drained.retain_mut(|(left, _)| {
            *left -= 1;
            *left > 0
        });
        closed.receipts
    }

    /// Drops `done` once all that is here now has been decided: its receiver then ends.
    pub(crate) fn when_drained(&mut self, done: oneshot::Sender<()>) {
        let batches = usize::from(self.under_way.is_some()) + self.ready.len() + usize::from(!self.writer.is_empty());
        if batches > 0 {
            self.drained.push((batches, done));
        }
    }
}

/// Tells the senders, each once for all its neighbouring messages.
pub(crate) fn settle(receipts: Vec<Receipt>, outcome: Outcome) {
    let mut cookies: smallvec::SmallVec<[u64; 64]> = smallvec::SmallVec::new();
    let mut current: Option<Rc<dyn ReceiptTarget>> = None;
    for receipt in receipts {
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
}
