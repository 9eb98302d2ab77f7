//! Makes spans, decides which of them are recorded, and queues those that have ended.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use holdfast_model::Ratio;
use tokio::sync::{Notify, mpsc};

use crate::context::TraceContext;
use crate::metrics;
use crate::table::{Attribute, SpanName};

/// The most links of a span; further ones are counted.
pub(crate) const MAX_LINKS: usize = 32;

/// The longest text of an attribute, in bytes.
const MAX_TEXT: usize = 256;

/// Makes the spans of a node; clones share it. Off by default.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    /// Of all traces that begin here, those with a number below it are recorded.
    threshold: u64,
    queue: mpsc::Sender<Box<FinishedSpan>>,
    filling: Arc<Notify>,
}

/// The receiving end of a tracer's queue.
#[derive(Debug)]
pub struct Recorded {
    pub(crate) spans: mpsc::Receiver<Box<FinishedSpan>>,
    /// Notified when the queue is half full.
    pub(crate) filling: Arc<Notify>,
}

impl Recorded {
    /// The next span; waits for it.
    pub async fn next(&mut self) -> Option<FinishedSpan> {
        self.spans.recv().await.map(|span| *span)
    }
}

/// A span that has ended.
#[derive(Debug)]
pub struct FinishedSpan {
    /// Its name.
    pub name: SpanName,
    /// Its trace and its own id.
    pub context: TraceContext,
    /// The id of its parent.
    pub parent: Option<[u8; 8]>,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Attributes beside the fixed ones of its name.
    pub attributes: Vec<(Attribute, Value)>,
    /// Contexts that belong to it beside its parent's.
    pub links: Vec<TraceContext>,
    /// Links beyond the bound.
    pub dropped_links: u32,
    /// Moments in it.
    pub events: Vec<(&'static str, SystemTime)>,
    /// Why it failed.
    pub error: Option<Cow<'static, str>>,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text, cut to 256 bytes.
    Text(Cow<'static, str>),
    /// A whole number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(mut text: String) -> Self {
        if text.len() > MAX_TEXT {
            text.truncate(text.floor_char_boundary(MAX_TEXT));
        }
        Self::Text(Cow::Owned(text))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl Tracer {
    /// A tracer that records nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// A tracer that records `ratio` of the traces that begin here, into a queue of `capacity` spans.
    #[must_use]
    pub fn recording(ratio: Ratio, capacity: usize) -> (Self, Recorded) {
        let (queue, spans) = mpsc::channel(capacity.max(1));
        let filling = Arc::new(Notify::new());
        let shared = Shared {
            threshold: ratio.of(u64::MAX),
            queue,
            filling: Arc::clone(&filling),
        };
        (Self(Some(Arc::new(shared))), Recorded { spans, filling })
    }

    /// Whether anything is recorded at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Spans that wait for the exporter.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        let queue = self.0.as_ref().map(|shared| &shared.queue);
        queue.map_or(0, |queue| queue.max_capacity() - queue.capacity())
    }

    /// A span where a trace enters the hub: below the client's context if there is one, whose mark decides whether it is recorded; else
    /// the first of a new trace, of which the configured ratio is recorded.
    pub fn enter(&self, name: SpanName, client: Option<TraceContext>) -> Span {
        let Some(shared) = &self.0 else {
            return Span::none();
        };
        match client {
            Some(client) if client.is_sampled => shared.begin(name, client.trace, Some(client.span)),
            Some(_) => Span::none(),
            None => {
                let trace: [u8; 16] = rand::random();
                let [.., a, b, c, d, e, f, g, h] = trace;
                if u64::from_be_bytes([a, b, c, d, e, f, g, h]) >= shared.threshold {
                    return Span::none();
                }
                shared.begin(name, trace, None)
            }
        }
    }

    /// A span below a recorded one, of this node or another; nothing without it.
    pub fn child(&self, name: SpanName, parent: Option<TraceContext>) -> Span {
        match (&self.0, parent) {
            (Some(shared), Some(parent)) if parent.is_sampled => shared.begin(name, parent.trace, Some(parent.span)),
            _ => Span::none(),
        }
    }
}

impl Shared {
    fn begin(self: &Arc<Self>, name: SpanName, trace: [u8; 16], parent: Option<[u8; 8]>) -> Span {
        Span(Some(Box::new(Open {
            shared: Arc::clone(self),
            since: Instant::now(),
            span: FinishedSpan {
                name,
                context: TraceContext {
                    trace,
                    // Zero is no id.
                    span: rand::random::<u64>().max(1).to_be_bytes(),
                    is_sampled: true,
                },
                parent,
                began: SystemTime::now(),
                took: Duration::ZERO,
                attributes: Vec::new(),
                links: Vec::new(),
                dropped_links: 0,
                events: Vec::new(),
                error: None,
            },
        })))
    }

    fn queue(&self, span: FinishedSpan) {
        match self.queue.try_send(Box::new(span)) {
            Ok(()) => {
                if self.queue.capacity() * 2 < self.queue.max_capacity() {
                    self.filling.notify_one();
                }
            }
            Err(_) => metrics::dropped("queue-full").increment(1),
        }
    }
}

/// A span in progress, or nothing; it ends when it is dropped.
#[derive(Debug, Default)]
#[must_use = "a span ends when it is dropped"]
pub struct Span(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    since: Instant,
    span: FinishedSpan,
}

impl Span {
    /// Nothing.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Whether it is recorded.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// The context for its children; `None` when it is not recorded.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|open| open.span.context)
    }

    /// A span below this one.
    pub fn child(&self, name: SpanName) -> Span {
        match &self.0 {
            Some(open) => {
                let context = open.span.context;
                open.shared.begin(name, context.trace, Some(context.span))
            }
            None => Self::none(),
        }
    }

    /// Sets an attribute; `value` is made only for a recorded span.
    pub fn set<V: Into<Value>>(&mut self, attribute: Attribute, value: impl FnOnce() -> V) {
        if let Some(open) = &mut self.0 {
            open.span.attributes.push((attribute, value().into()));
        }
    }

    /// Notes a moment.
    pub fn event(&mut self, name: &'static str) {
        if let Some(open) = &mut self.0 {
            open.span.events.push((name, SystemTime::now()));
        }
    }

    /// Links a context that belongs to it beside its parent's. Beyond a bound it is counted.
    pub fn link(&mut self, context: TraceContext) {
        if let Some(open) = &mut self.0 {
            let span = &mut open.span;
            if span.links.contains(&context) {
                return;
            }
            match span.links.len() < MAX_LINKS {
                true => span.links.push(context),
                false => span.dropped_links = span.dropped_links.saturating_add(1),
            }
        }
    }

    /// It has failed, for a reason with a word in `error.type`.
    pub fn fail(&mut self, word: &'static str, reason: impl FnOnce() -> String) {
        if let Some(open) = &mut self.0 {
            open.span.attributes.push((Attribute::ErrorType, word.into()));
            let Value::Text(reason) = Value::from(reason()) else {
                return;
            };
            open.span.error = Some(reason);
        }
    }

    /// It began before it was made: `at`.
    pub fn began_at(&mut self, at: Instant) {
        if let Some(open) = &mut self.0 {
            let earlier = open.since.saturating_duration_since(at);
            open.since = at.min(open.since);
            open.span.began = open.span.began.checked_sub(earlier).unwrap_or(open.span.began);
        }
    }

    /// Ends it as of `at`, which has passed already.
    pub fn ended_at(mut self, at: Instant) {
        if let Some(open) = self.0.take() {
            open.end(at);
        }
    }
}

impl Open {
    fn end(self, at: Instant) {
        let Self {
            shared,
            since,
            mut span,
        } = self;
        span.took = at.saturating_duration_since(since);
        shared.queue(span);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.end(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn always() -> (Tracer, Recorded) {
        Tracer::recording(Ratio::ONE, 8)
    }

    #[tokio::test]
    async fn children_are_recorded_below_their_parents_and_nothing_else_is() {
        let (tracer, mut recorded) = always();
        let mut root = tracer.enter(SpanName::Connect, None);
        root.set(Attribute::Identity, || "d");
        let context = root.context().unwrap();
        // Another node's.
        drop(tracer.child(SpanName::BeginSession, Some(context)));
        root.child(SpanName::Authenticate).fail("expired", || "x".repeat(1000));
        drop(tracer.child(SpanName::BeginSession, None));
        drop(tracer.enter(
            SpanName::Connect,
            Some(TraceContext {
                is_sampled: false,
                ..context
            }),
        ));
        drop(root);
        let spans = [
            recorded.next().await.unwrap(),
            recorded.next().await.unwrap(),
            recorded.next().await.unwrap(),
        ];
        drop(tracer);
        assert!(recorded.next().await.is_none());
        let names = spans.each_ref().map(|span| span.name);
        assert_eq!(
            names,
            [SpanName::BeginSession, SpanName::Authenticate, SpanName::Connect]
        );
        assert!(spans.iter().all(|span| span.context.trace == context.trace));
        assert_eq!(
            spans.each_ref().map(|span| span.parent),
            [Some(context.span), Some(context.span), None]
        );
        assert_eq!(spans[1].error.as_ref().map(|text| text.len()), Some(MAX_TEXT));
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_never_waits() {
        let (tracer, mut recorded) = always();
        for _ in 0..20 {
            drop(tracer.enter(SpanName::Telemetry, None));
        }
        drop(tracer);
        let mut count = 0;
        while recorded.next().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 8);
    }

    #[test]
    fn a_ratio_of_the_traces_is_recorded() {
        let (tracer, recorded) = Tracer::recording("0.25".parse().unwrap(), 10_000);
        for _ in 0..8000 {
            drop(tracer.enter(SpanName::Telemetry, None));
        }
        assert!((1600..2400).contains(&recorded.spans.len()), "{}", recorded.spans.len());
        let (tracer, recorded) = Tracer::recording(Ratio::ZERO, 10);
        drop(tracer.enter(SpanName::Telemetry, None));
        assert_eq!(recorded.spans.len(), 0);
        let client = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        drop(tracer.enter(SpanName::InvokeMethod, client));
        assert_eq!(recorded.spans.len(), 1, "the client has decided");
    }

    #[test]
    fn links_are_bounded_and_a_span_may_have_begun_earlier() {
        let (tracer, mut recorded) = always();
        let mut span = tracer.enter(SpanName::Telemetry, None);
        let now = Instant::now();
        span.began_at(now.checked_sub(Duration::from_secs(2)).unwrap());
        for number in 1..=u8::try_from(MAX_LINKS + 3).unwrap() {
            let link = TraceContext {
                trace: [number; 16],
                span: [1; 8],
                is_sampled: true,
            };
            span.link(link);
            span.link(link);
        }
        span.ended_at(now);
        let span = recorded.spans.try_recv().unwrap();
        assert_eq!((span.links.len(), span.dropped_links), (MAX_LINKS, 6));
        assert_eq!(span.took, Duration::from_secs(2));
    }
}
