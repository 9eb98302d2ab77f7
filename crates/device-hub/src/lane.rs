//! A core's way into one partition: the open batch, and the one that waits for its commit.
//!
//! Only one entry of a (core, partition) pair is under way at a time; what arrives meanwhile becomes the next one. So
//! batches grow with the disk's latency by themselves, no entry can be decided before an earlier one, and an entry
//! whose outcome is unknown is proposed again under the same number, which apply drops if it was committed after all
//! (foundations 1, docs/decisions/0004). That holds across owners too.
//! A session that was taken over elsewhere leaves: its records are taken out before an entry is proposed again, so that
//! nothing of it follows what the newer session sends.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::{TelemetryMessage, UnixMillis};
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, PushError, StreamId, retain_records};
use tokio::sync::oneshot;

use crate::core::{Receipt, ReceiptTarget};
use crate::sessions::Facts;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Committed by the quorum and synced.
    Committed,
    /// Not committed, or nobody knows; the sender must not be told that it was.
    Failed,
}

/// A record of a batch: whose it is, and who is told.
pub(crate) struct Sent {
    session: u64,
    receipt: Option<Receipt>,
}

/// A batch that has been closed.
struct Closed {
    entry: Bytes,
    /// One per record.
    sent: Vec<Sent>,
}

/// How the entry under way stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Proposed.
    Flying,
    /// Not committed, as far as is known; to be proposed again.
    Failed,
    /// Committed, while nothing may be acknowledged.
    Held,
}

struct UnderWay {
    closed: Closed,
    way: Way,
    /// Sessions that have left while it was flying.
    left: Vec<u64>,
}

/// What happens once everything that was in the lane has been decided.
pub(crate) enum Done {
    /// Dropped.
    Tell(#[expect(dead_code, reason = "its drop is the message")] oneshot::Sender<()>),
    /// The session has ended.
    Detach(Arc<Facts>, u64),
}

#[derive(Default)]
pub(crate) struct Lane {
    writer: BatchWriter,
    sent: Vec<Sent>,
    /// Batches that were full before they could be proposed.
    ready: VecDeque<Closed>,
    under_way: Option<UnderWay>,
    last_number: u64,
    /// Bytes of the closed batches.
    closed_bytes: usize,
    /// Told once everything that was here when they came has been decided; counts batches still to go.
    drained: Vec<(usize, Done)>,
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

    /// How the entry under way stands, if there is one.
    pub(crate) fn way(&self) -> Option<Way> {
        self.under_way.as_ref().map(|under_way| under_way.way)
    }

    /// Adds a message of the session `session`.
    #[expect(clippy::too_many_arguments, reason = "a message and the circumstances of its batch")]
    pub(crate) fn push(
        &mut self,
        session: u64,
        origin: &Origin<'_>,
        message: &TelemetryMessage<'_>,
        received: UnixMillis,
        receipt: Option<Receipt>,
        stream: StreamId,
        max_batch_bytes: usize,
    ) {
        let mut pushed = self.writer.push(origin, message, received);
        if pushed == Err(PushError::BatchFull) {
            let closed = self.close(stream, received);
            self.ready.push_back(closed);
            pushed = self.writer.push(origin, message, received);
        }
        if let Err(error) = pushed {
            // A batch that is empty takes any record that there can be; the front end has checked its size.
            tracing::error!(%error, "a message that no batch can hold is not acknowledged");
            return;
        }
        self.sent.push(Sent { session, receipt });
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
        let capacity = self.sent.len();
        let sent = std::mem::replace(&mut self.sent, Vec::with_capacity(capacity.min(1024)));
        Closed { entry, sent }
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
        self.under_way = Some(UnderWay {
            closed,
            way: Way::Flying,
            left: Vec::new(),
        });
        Some(entry)
    }

    /// The entry under way has failed. Gives the receipts of those who have left meanwhile.
    pub(crate) fn failed(&mut self) -> Vec<Sent> {
        let Some(under_way) = &mut self.under_way else {
            return Vec::new();
        };
        under_way.way = Way::Failed;
        let left = std::mem::take(&mut under_way.left);
        if left.is_empty() {
            return Vec::new();
        }
        under_way.closed.without(&left, &mut self.closed_bytes)
    }

    /// The entry that has failed, to be proposed again.
    pub(crate) fn again(&mut self) -> Option<Bytes> {
        let under_way = self.under_way.as_mut().filter(|it| it.way == Way::Failed)?;
        under_way.way = Way::Flying;
        Some(under_way.closed.entry.clone())
    }

    /// The entry under way has been committed, but nothing may be acknowledged now.
    pub(crate) fn hold(&mut self) {
        if let Some(under_way) = &mut self.under_way {
            under_way.way = Way::Held;
        }
    }

    /// Takes the receipts of the entry under way, which has been committed, and what was to happen then.
    pub(crate) fn decided(&mut self, done: &mut Vec<Done>) -> Vec<Sent> {
        let Some(UnderWay { closed, .. }) = self.under_way.take() else {
            return Vec::new();
        };
        self.closed_bytes -= closed.entry.len();
        if !self.drained.is_empty() {
            for (left, _) in &mut self.drained {
                *left -= 1;
            }
            done.extend(
                self.drained
                    .extract_if(.., |(left, _)| *left == 0)
                    .map(|(_, done)| done),
            );
        }
        closed.sent
    }

    /// Keeps `done` until all that is here now has been decided; gives it back when there is nothing.
    pub(crate) fn when_drained(&mut self, done: Done) -> Option<Done> {
        let batches = usize::from(self.under_way.is_some()) + self.ready.len() + usize::from(!self.writer.is_empty());
        if batches == 0 {
            return Some(done);
        }
        self.drained.push((batches, done));
        None
    }

    /// A session has been taken over elsewhere: what it has here is not proposed any more. Gives its receipts, except of
    /// an entry that is flying, whose outcome decides.
    pub(crate) fn leave(&mut self, session: u64, stream: StreamId, now: UnixMillis) -> Vec<Sent> {
        let left = [session];
        let mut gone = Vec::new();
        if let Some(under_way) = &mut self.under_way
            && under_way.closed.holds(session)
        {
            match under_way.way {
                Way::Flying => under_way.left.push(session),
                Way::Failed => gone.extend(under_way.closed.without(&left, &mut self.closed_bytes)),
                Way::Held => {}
            }
        }
        if self.sent.iter().any(|sent| sent.session == session) {
            // Its number is given, so that it goes its way even when nothing is left in it.
            let closed = self.close(stream, now);
            self.ready.push_back(closed);
        }
        for closed in self.ready.iter_mut().filter(|closed| closed.holds(session)) {
            gone.extend(closed.without(&left, &mut self.closed_bytes));
        }
        gone
    }
}

impl Closed {
    fn holds(&self, session: u64) -> bool {
        self.sent.iter().any(|sent| sent.session == session)
    }

    /// Takes the records of `sessions` out, and gives their receipts.
    fn without(&mut self, sessions: &[u64], bytes: &mut usize) -> Vec<Sent> {
        let keep = |index: usize| {
            self.sent
                .get(index)
                .is_none_or(|sent| !sessions.contains(&sent.session))
        };
        let Ok(entry) = retain_records(&self.entry, keep) else {
            // It is our own and was read before; as a whole it is still right, and only not as short as it could be.
            tracing::error!("an entry could not be read again; it is proposed as it is");
            return Vec::new();
        };
        *bytes -= self.entry.len() - entry.len();
        self.entry = entry;
        self.sent
            .extract_if(.., |sent| sessions.contains(&sent.session))
            .collect()
    }
}

/// Tells the senders, each once for all its neighbouring messages. Says how many messages had a receipt.
pub(crate) fn settle(sent: Vec<Sent>, outcome: Outcome) -> u64 {
    let mut cookies: smallvec::SmallVec<[u64; 64]> = smallvec::SmallVec::new();
    let mut current: Option<Rc<dyn ReceiptTarget>> = None;
    let mut told = 0;
    for receipt in sent.into_iter().filter_map(|sent| sent.receipt) {
        told += 1;
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
    told
}
