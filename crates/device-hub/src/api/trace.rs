//! Live traces of one identity: packets, decisions and deliveries at every node, for `holdfast trace`.
//!
//! Why: the question "does it arrive, and what happens to it?" needs one device's events now, and not the logs of a fleet.
//! Invariants: without a trace, a connection pays one relaxed load of a counter that all cores only read; a trace holds at most
//! [`MAX_EVENTS`] events, and counts those that it drops; it ends at its deadline, and [`LEASE`] after its reader has taken
//! events last; payloads are kept only where the reader wants them, cut.
//! Not here: the words of each event (the front ends), the stream to the reader (`service-api`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_model::{IdentityId, NodeId, UnixMillis};
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_tasks::sync::Mutex;
use thiserror::Error;
use tokio::time::Instant;

use super::diagnose::QueriedNode;
use crate::DeviceHub;

/// Events of one trace that wait on one node.
const MAX_EVENTS: usize = 1000;

/// Traces of one node.
const MAX_TRACES: usize = 8;

/// How long a trace outlives the last call of its reader.
const LEASE: Duration = Duration::from_secs(10);

/// The longest trace.
pub const MAX_TRACE_TIME: Duration = Duration::from_secs(3600);

/// Longest text and payload of an event, in bytes.
const MAX_EVENT_BYTES: usize = 1024;

/// How long other nodes may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// The direction or kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceKind {
    /// A packet of the client.
    Received,
    /// A packet or delivery to the client.
    Sent,
    /// A decision of the hub.
    Decided,
}

impl TraceKind {
    /// The word in the trace.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Sent => "sent",
            Self::Decided => "decided",
        }
    }

    const fn number(self) -> u32 {
        match self {
            Self::Received => 1,
            Self::Sent => 2,
            Self::Decided => 3,
        }
    }

    const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Received,
            2 => Self::Sent,
            3 => Self::Decided,
            _ => return None,
        })
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// When.
    pub time: UnixMillis,
    /// The node, once gathered.
    pub node: Option<NodeId>,
    /// Its kind.
    pub kind: TraceKind,
    /// The event, printable.
    pub text: String,
    /// The payload, cut, when the reader wants payloads.
    pub payload: Option<Bytes>,
}

/// The events since the reader's last call.
#[derive(Debug, Clone, Default)]
pub struct TraceEvents {
    /// In the order of their times.
    pub events: Vec<TraceEvent>,
    /// Events that did not fit.
    pub dropped: u64,
    /// All nodes, and whether their events are among these.
    pub nodes: Vec<QueriedNode>,
}

/// A node has as many traces as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{MAX_TRACES} traces are running on a node; wait until one has ended")]
pub struct TooManyTraces;

/// What a reader asks for. The number names its trace on all nodes.
#[derive(Debug, Clone, Copy)]
pub struct TraceRequest<'a> {
    /// The traced identity.
    pub identity: &'a IdentityId,
    /// The reader's number of the trace.
    pub number: u64,
    /// How much longer it runs.
    pub left: Duration,
    /// Whether payloads are kept.
    pub payloads: bool,
}

#[derive(Debug)]
struct Trace {
    identity: String,
    ends: Instant,
    lease: Instant,
    payloads: bool,
    events: VecDeque<TraceEvent>,
    dropped: u64,
}

/// The traces of a node.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    running: AtomicUsize,
    traces: Mutex<BTreeMap<u64, Trace>>,
}

impl Traces {
    /// Whether there is one: the only cost of everything that is not traced.
    fn is_on(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }

    fn record(&self, now: Instant, identity: &str, event: &dyn Fn(bool) -> TraceEvent) {
        let mut traces = self.traces.lock();
        self.end_old(&mut traces, now);
        for trace in traces.values_mut().filter(|trace| trace.identity == identity) {
            if trace.events.len() >= MAX_EVENTS {
                trace.dropped += 1;
            } else {
                trace.events.push_back(event(trace.payloads));
            }
        }
    }

    fn end_old(&self, traces: &mut BTreeMap<u64, Trace>, now: Instant) {
        traces.retain(|_, trace| trace.ends > now && trace.lease > now);
        self.running.store(traces.len(), Ordering::Relaxed);
    }

    /// Begins the trace, or takes its events. A trace whose time is over gives its last events.
    fn take(&self, request: &TraceRequest<'_>, now: Instant) -> Result<(Vec<TraceEvent>, u64), TooManyTraces> {
        let mut traces = self.traces.lock();
        let taken = traces.get_mut(&request.number).map(|trace| {
            (
                Vec::from(std::mem::take(&mut trace.events)),
                std::mem::take(&mut trace.dropped),
            )
        });
        if let Some(trace) = traces.get_mut(&request.number) {
            trace.lease = now + LEASE;
        }
        self.end_old(&mut traces, now);
        if let Some(taken) = taken {
            return Ok(taken);
        }
        if request.left.is_zero() {
            return Ok((Vec::new(), 0));
        }
        if traces.len() >= MAX_TRACES {
            return Err(TooManyTraces);
        }
        let trace = Trace {
            identity: request.identity.to_string(),
            ends: now + request.left.min(MAX_TRACE_TIME),
            lease: now + LEASE,
            payloads: request.payloads,
            events: VecDeque::new(),
            dropped: 0,
        };
        traces.insert(request.number, trace);
        self.running.store(traces.len(), Ordering::Relaxed);
        Ok((Vec::new(), 0))
    }
}

impl DeviceHub {
    /// Whether anything is traced on this node. Everything else about traces is behind this check.
    #[must_use]
    pub fn is_tracing(&self) -> bool {
        self.traces.is_on()
    }

    /// Records an event of `identity` (`device` or `device/module`), if it is traced. `text` and `payload` are built only then.
    pub fn trace(&self, identity: &str, kind: TraceKind, text: &dyn Fn() -> String, payload: Option<&[u8]>) {
        if !self.is_tracing() {
            return;
        }
        let event = |payloads: bool| {
            let mut text = text();
            text.truncate(text.floor_char_boundary(MAX_EVENT_BYTES));
            TraceEvent {
                time: self.parts.clock.now(),
                node: None,
                kind,
                text,
                payload: payload
                    .filter(|_| payloads)
                    .map(|payload| Bytes::copy_from_slice(&payload[..payload.len().min(MAX_EVENT_BYTES)])),
            }
        };
        self.traces.record(Instant::now(), identity, &event);
    }

    /// Begins the trace on all nodes, or takes the events since the last call.
    ///
    /// # Errors
    /// [`TooManyTraces`] when this node has no room for a new one.
    pub async fn take_trace(&self, request: &TraceRequest<'_>) -> Result<TraceEvents, TooManyTraces> {
        let here = self.parts.node;
        let (mut events, mut dropped) = self.traces.take(request, Instant::now())?;
        for event in &mut events {
            event.node = Some(here);
        }
        let message = Request::TakeTrace(proto::TraceTake {
            device: request.identity.device.as_str().to_owned(),
            module: request
                .identity
                .module
                .as_ref()
                .map(|module| module.as_str().to_owned())
                .unwrap_or_default(),
            number: request.number,
            left_ms: u64::try_from(request.left.as_millis()).unwrap_or(u64::MAX),
            payloads: request.payloads,
        });
        let calls = self.members().into_iter().filter(|node| *node != here).map(|node| {
            let message = message.clone();
            async move { (node, self.call_node(node, 0, message, CALL_TIMEOUT).await) }
        });
        let mut nodes = vec![self.queried(here, None)];
        for (node, answer) in join_all(calls).await {
            let fault = match answer {
                Ok(Answer::TakeTrace(taken)) => {
                    dropped += taken.dropped;
                    let theirs = taken.events.into_iter().take(MAX_EVENTS);
                    events.extend(theirs.filter_map(|event| decode(node, event)));
                    None
                }
                Ok(_) => Some("an answer that this version does not know".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            nodes.push(self.queried(node, fault));
        }
        nodes.sort_by_key(|queried| queried.node);
        events.sort_by_key(|event| event.time);
        Ok(TraceEvents { events, dropped, nodes })
    }

    /// The same for another node's reader.
    pub(crate) fn take_trace_here(&self, request: &TraceRequest<'_>) -> Result<proto::TraceTaken, TooManyTraces> {
        let (events, dropped) = self.traces.take(request, Instant::now())?;
        let events = events.into_iter().map(|event| proto::TraceEvent {
            time_ms: event.time.0,
            kind: event.kind.number(),
            text: event.text,
            payload: event.payload,
        });
        Ok(proto::TraceTaken {
            events: events.collect(),
            dropped,
        })
    }
}

fn decode(node: NodeId, event: proto::TraceEvent) -> Option<TraceEvent> {
    Some(TraceEvent {
        time: UnixMillis(event.time_ms),
        node: Some(node),
        kind: TraceKind::from_number(event.kind)?,
        text: event.text,
        payload: event.payload,
    })
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;

    use super::*;

    fn event(payloads: bool) -> TraceEvent {
        TraceEvent {
            time: UnixMillis(1),
            node: None,
            kind: TraceKind::Received,
            text: "PINGREQ".to_owned(),
            payload: payloads.then(|| Bytes::from_static(b"x")),
        }
    }

    fn request(identity: &IdentityId, number: u64) -> TraceRequest<'_> {
        TraceRequest {
            identity,
            number,
            left: Duration::from_secs(60),
            payloads: number == 2,
        }
    }

    #[test]
    fn a_trace_has_the_events_of_its_identity_and_counts_those_that_do_not_fit() {
        let traces = Traces::default();
        let identity = IdentityId::device(DeviceId::parse("d").unwrap());
        let now = Instant::now();
        assert!(!traces.is_on());
        for number in [1, 2] {
            assert_eq!(traces.take(&request(&identity, number), now).unwrap(), (Vec::new(), 0));
        }
        assert!(traces.is_on());
        for _ in 0..MAX_EVENTS + 3 {
            traces.record(now, "d", &event);
        }
        traces.record(now, "other", &event);
        let (events, dropped) = traces.take(&request(&identity, 1), now).unwrap();
        assert_eq!((events.len(), dropped, &events[0].payload), (MAX_EVENTS, 3, &None));
        let (events, _) = traces.take(&request(&identity, 2), now).unwrap();
        assert!(events[0].payload.is_some(), "each reader has its own trace");
        assert_eq!(traces.take(&request(&identity, 1), now).unwrap(), (Vec::new(), 0));
    }

    #[test]
    fn a_trace_ends_at_its_deadline_and_when_its_reader_is_gone() {
        let traces = Traces::default();
        let identity = IdentityId::device(DeviceId::parse("d").unwrap());
        let now = Instant::now();
        traces.take(&request(&identity, 1), now).unwrap();
        traces.record(now + LEASE, "d", &event);
        assert!(!traces.is_on(), "no reader for the length of the lease");
        for second in 0..59 {
            traces
                .take(&request(&identity, 1), now + Duration::from_secs(second))
                .unwrap();
            assert!(traces.is_on());
        }
        let over = TraceRequest {
            left: Duration::ZERO,
            ..request(&identity, 1)
        };
        traces.take(&over, now + Duration::from_secs(60)).unwrap();
        assert!(!traces.is_on());
        traces.take(&over, now + Duration::from_secs(61)).unwrap();
        assert!(!traces.is_on(), "the time is over: it does not begin anew");
    }

    #[test]
    fn the_number_of_traces_is_bounded() {
        let traces = Traces::default();
        let identity = IdentityId::device(DeviceId::parse("d").unwrap());
        let now = Instant::now();
        for number in 0..MAX_TRACES as u64 {
            traces.take(&request(&identity, number), now).unwrap();
        }
        assert_eq!(traces.take(&request(&identity, 99), now), Err(TooManyTraces));
        assert!(
            traces.take(&request(&identity, 0), now).is_ok(),
            "a running one continues"
        );
    }
}
