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
use holdfast_model::{PropertyValue, SessionKey, TelemetryMessage, UnixMillis};
use holdfast_partition::AppendError;
use holdfast_partition::record::{BatchHeader, BatchWriter, Origin, PushError, StreamId, retain_records};
use holdfast_spans::{Attribute, CONTEXT_PROPERTIES, Span, SpanName, TraceContext, Tracer};
use tokio::sync::oneshot;

use crate::api::core::{Outcome, Receipt, ReceiptTarget};
use crate::session_types::SessionInfo;

/// A record of a batch: its session, and the receipt that is due.
pub(crate) struct PendingReceipt {
    session: SessionKey,
    receipt: Option<Receipt>,
}

/// A batch that takes no more records.
struct SealedBatch {
    number: u64,
    entry: Bytes,
    /// One per record.
    receipts: Vec<PendingReceipt>,
    span: Span,
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

/// An entry that can never be committed.
pub(crate) struct RejectedBatch {
    pub(crate) batch_number: u64,
    /// The sessions that have a record in it, each once.
    pub(crate) sessions: Vec<SessionKey>,
    /// Receipts of its records, and of all other records of these sessions.
    pub(crate) receipts: Vec<PendingReceipt>,
    pub(crate) next: AfterReject,
}

/// How the stream continues after a rejected entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterReject {
    /// An entry without records takes its place under the same number, so that the stream has no gap; it is proposed by
    /// [`BatchPipeline::retry`].
    ProposeEmpty,
    /// The number is given up: a later incarnation of this gateway writes the stream.
    Continue,
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
    /// Of the open batch.
    span: Span,
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
        tracer: &Tracer,
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
        if tracer.is_on() {
            self.trace_message(message, tracer);
        }
        self.receipts.push(PendingReceipt { session, receipt });
        if self.writer.bytes() >= max_batch_bytes {
            let batch = self.seal(stream, received);
            self.full.push_back(batch);
        }
    }

    /// The first message of a batch begins its span; contexts that senders have set are linked, if it is recorded.
    fn trace_message(&mut self, message: &TelemetryMessage<'_>, tracer: &Tracer) {
        if self.receipts.is_empty() {
            self.span = tracer.enter(SpanName::Telemetry, None);
        }
        if self.span.is_recorded()
            && let Some(context) = context_of(message)
        {
            self.span.link(context);
        }
    }

    /// The recorded span of the entry in flight.
    pub(crate) fn trace(&self) -> Option<TraceContext> {
        self.in_flight.as_ref()?.batch.span.context()
    }

    /// Takes the span of the entry in flight, which is decided.
    pub(crate) fn take_span(&mut self) -> Span {
        let in_flight = self.in_flight.as_mut();
        in_flight.map_or_else(Span::none, |in_flight| std::mem::take(&mut in_flight.batch.span))
    }

    /// Notes a moment in the span of the entry in flight.
    pub(crate) fn note(&mut self, event: &'static str) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.batch.span.event(event);
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
        let mut span = std::mem::take(&mut self.span);
        span.set(Attribute::BatchMessages, || receipts.len());
        span.set(Attribute::BatchBytes, || entry.len());
        SealedBatch {
            span,
            number: self.last_number,
            entry,
            receipts,
        }
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

    /// The entry in flight can never be committed. Removes its records, and all other records of the same sessions; `due`
    /// gets the drain actions that need not wait any more.
    pub(crate) fn reject(
        &mut self,
        error: AppendError,
        stream: StreamId,
        now: UnixMillis,
        due: &mut Vec<OnDrained>,
    ) -> Option<RejectedBatch> {
        let batch_number = self.in_flight.as_ref()?.batch.number;
        let mut receipts = self.complete(due);
        let mut sessions: Vec<SessionKey> = receipts.iter().map(|pending| pending.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        for session in &sessions {
            receipts.extend(self.remove_session(*session, stream, now));
        }
        let next = match error {
            AppendError::Stale { .. } => AfterReject::Continue,
            _ => AfterReject::ProposeEmpty,
        };
        if next == AfterReject::ProposeEmpty {
            let entry = BatchWriter::new().close(BatchHeader {
                stream,
                batch_number,
                enqueued: now,
            });
            self.sealed_bytes += entry.len();
            self.in_flight = Some(InFlightBatch {
                batch: SealedBatch {
                    number: batch_number,
                    entry,
                    receipts: Vec::new(),
                    span: Span::none(),
                },
                state: InFlight::Failed,
                departed: Vec::new(),
            });
            // It is one more batch before each drain action that still waits.
            for (undecided, _) in &mut self.on_drained {
                *undecided += 1;
            }
        }
        Some(RejectedBatch {
            batch_number,
            sessions,
            receipts,
            next,
        })
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

/// The context that the sender of a message has set.
fn context_of(message: &TelemetryMessage<'_>) -> Option<TraceContext> {
    let value = |name: &str| {
        let property = message.properties.iter().find(|property| property.name == name)?;
        match &property.value {
            PropertyValue::Text(text) => TraceContext::parse(text),
            PropertyValue::Null | PropertyValue::Amqp(_) => None,
        }
    };
    CONTEXT_PROPERTIES.iter().find_map(|name| value(name))
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use holdfast_model::{AuthMethod, AuthScope, AuthType, DeviceId, GenerationId, IdentityId};
    use holdfast_partition::record::{EntryError, EntryView};

    use holdfast_model::{Incarnation, NodeId};

    use super::*;

    const STREAM: StreamId = StreamId {
        gateway_node: NodeId(1),
        incarnation: Incarnation(1),
        core: 0,
    };

    #[derive(Default)]
    struct Outcomes(RefCell<Vec<(u64, Outcome)>>);

    impl ReceiptTarget for Outcomes {
        fn settled(&self, cookies: &[u64], outcome: Outcome) {
            self.0
                .borrow_mut()
                .extend(cookies.iter().map(|cookie| (*cookie, outcome)));
        }
    }

    fn push(pipeline: &mut BatchPipeline, session: u64, cookie: u64, outcomes: &Rc<Outcomes>) {
        let identity = IdentityId::device(DeviceId::parse("d").unwrap());
        let generation = GenerationId(Arc::from("1"));
        let origin = Origin {
            identity: &identity,
            generation: &generation,
            auth: AuthMethod {
                scope: AuthScope::Device,
                kind: AuthType::Sas,
            },
            model_id: None,
        };
        let receipt = Receipt {
            target: outcomes.clone() as Rc<dyn ReceiptTarget>,
            cookie,
        };
        let message = TelemetryMessage {
            payload: b"p",
            ..TelemetryMessage::default()
        };
        let key = SessionKey(session);
        pipeline.push(
            key,
            &origin,
            &message,
            UnixMillis(1),
            Some(receipt),
            STREAM,
            1 << 20,
            &Tracer::off(),
        );
    }

    fn header(entry: &Bytes) -> (u64, u32) {
        let header = EntryView::parse(entry).unwrap().header();
        (header.batch_number, header.records)
    }

    /// Every error of an append, and whether the entry is proposed again.
    fn errors() -> Vec<(AppendError, bool)> {
        vec![
            (AppendError::NotLeader { leader: None }, true),
            (AppendError::Stopped, true),
            (AppendError::TooLarge { bytes: 2, limit: 1 }, false),
            (AppendError::DiskFull, true),
            (AppendError::Gap { expected: 1 }, true),
            (AppendError::Stale { current: 2 }, false),
            (AppendError::Malformed(EntryError::Version(9)), false),
            (AppendError::Refused, true),
            (AppendError::Unknown, true),
        ]
    }

    #[test]
    fn an_entry_is_proposed_again_unless_it_can_never_be_committed() {
        for (error, is_retriable) in errors() {
            assert_eq!(error.is_retriable(), is_retriable, "{error:?}");
            let (mut pipeline, outcomes) = (BatchPipeline::default(), Rc::new(Outcomes::default()));
            push(&mut pipeline, 1, 10, &outcomes);
            let first = pipeline.propose(STREAM, UnixMillis(1)).unwrap();
            // One more message of the same session, and one of another.
            push(&mut pipeline, 1, 11, &outcomes);
            push(&mut pipeline, 2, 20, &outcomes);
            if is_retriable {
                assert!(pipeline.fail().is_empty());
                assert_eq!(
                    pipeline.retry(),
                    Some(first),
                    "{error:?}: unchanged, under its own number"
                );
                assert!(outcomes.0.borrow().is_empty(), "{error:?}: nothing is decided");
                continue;
            }
            let rejected = pipeline.reject(error, STREAM, UnixMillis(1), &mut Vec::new()).unwrap();
            assert_eq!(
                (rejected.batch_number, &rejected.sessions[..]),
                (1, &[SessionKey(1)][..])
            );
            report(rejected.receipts, Outcome::Failed);
            assert_eq!(*outcomes.0.borrow(), [(10, Outcome::Failed), (11, Outcome::Failed)]);
            let mut numbers = Vec::new();
            if let Some(empty) = pipeline.retry() {
                numbers.push(header(&empty));
                pipeline.complete(&mut Vec::new());
            }
            let next = pipeline.propose(STREAM, UnixMillis(1)).unwrap();
            numbers.push(header(&next));
            let expected: &[(u64, u32)] = match error {
                AppendError::Stale { .. } => &[(2, 1)],
                _ => &[(1, 0), (2, 1)],
            };
            assert_eq!(numbers, expected, "{error:?}: (number, records), without a gap");
            report(pipeline.complete(&mut Vec::new()), Outcome::Committed);
            assert_eq!(outcomes.0.borrow().last(), Some(&(20, Outcome::Committed)));
            assert_eq!(pipeline.bytes(), 0);
        }
    }

    #[test]
    fn a_rejected_entry_lets_waiting_actions_run_once_its_place_is_taken() {
        let (mut pipeline, outcomes) = (BatchPipeline::default(), Rc::new(Outcomes::default()));
        push(&mut pipeline, 1, 10, &outcomes);
        pipeline.propose(STREAM, UnixMillis(1)).unwrap();
        push(&mut pipeline, 2, 20, &outcomes);
        let (notify, mut drained) = oneshot::channel::<()>();
        assert!(pipeline.when_drained(OnDrained::Notify(notify)).is_none());
        let mut due = Vec::new();
        let error = AppendError::TooLarge { bytes: 2, limit: 1 };
        pipeline.reject(error, STREAM, UnixMillis(1), &mut due).unwrap();
        pipeline.retry().unwrap();
        pipeline.complete(&mut due);
        assert!(due.is_empty() && drained.try_recv().is_err());
        pipeline.propose(STREAM, UnixMillis(1)).unwrap();
        pipeline.complete(&mut due);
        assert_eq!(due.len(), 1);
    }
}
