//! A client's requests about its twin, and the changes of its desired properties, whatever the protocol (Spec device-mqtt §7,
//! amqp §6.4).
//!
//! Invariants: every request has exactly one answer, in the order of the requests, and one is carried out after the other,
//! so that a GET contains every patch before it; past [`MAX_WAITING`] requests, and beyond a rate of the hub or the device,
//! they are answered with 429, past [`MAX_ENTRIES`] the front end reads no more of them; a change of desired properties is
//! sent only if its version is above all that the client has got in this session, and the next one: where changes are
//! missing, the client gets all desired properties in place of them.
//! Not here: the form of requests and answers (front ends), what a twin may contain, and who decides it (`device-hub`).

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use holdfast_device_hub::{Core, Protocol, ReceivedDelivery, Session, ThrottleClass, Twin, TwinError, TwinRates};
use holdfast_model::{ErrorCode, round_trip, us_date};
use serde_json::{Value, json};

/// The version of a section of a twin.
pub(crate) type Version = u64;

/// Requests of one client that wait for the one in flight.
const MAX_WAITING: usize = 32;

/// Bytes of their patches; the last one may exceed it.
const MAX_WAITING_BYTES: usize = 256 * 1024;

/// Requests that wait, those to be refused included.
const MAX_ENTRIES: usize = 256;

/// The version of a delivery that stands for changes that the owner could not send one by one.
const SEVERAL: Version = 0;

/// One request; `A` is where its answer goes.
pub(crate) struct Waiting<A> {
    pub(crate) request: TwinRequest,
    pub(crate) answer: A,
}

/// The kind of a request.
pub(crate) enum TwinRequest {
    /// The client reads its twin.
    Get,
    /// The client patches its reported properties.
    Patch { patch: Bytes, if_version: Option<Version> },
    /// Too many wait.
    Refused,
    /// The hub's own: the client gets the desired properties if they are newer than what it has got.
    Resend,
}

impl TwinRequest {
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Get | Self::Resend)
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Patch { patch, .. } => patch.len(),
            Self::Get | Self::Refused | Self::Resend => 0,
        }
    }
}

/// The result of a request.
pub(crate) enum TwinAnswer {
    /// The twin.
    Read(Box<Twin>),
    /// The version of the reported properties.
    Reported(Version),
}

/// What the front end does with a change of desired properties.
pub(crate) enum Change {
    /// Sends it.
    Send(ReceivedDelivery),
    /// Settles it without sending it: the client has got its version, or gets all properties.
    Accept(ReceivedDelivery),
    /// Nothing: it waits for a read, and comes again with [`TwinRequests::next_held`].
    Held,
}

type Asked = Pin<Box<dyn Future<Output = Result<TwinAnswer, TwinError>>>>;

/// The twin of one session.
pub(crate) struct TwinRequests<A> {
    in_flight: Option<(Waiting<A>, Asked)>,
    waiting: VecDeque<Waiting<A>>,
    waiting_bytes: usize,
    /// The greatest version of the desired properties that the client has got in this session; 0: none.
    seen: Version,
    /// Changes that came while a read is in flight or waits; bounded by the window of deliveries.
    held: VecDeque<(ReceivedDelivery, Version)>,
    /// Counts the errors that have been answered.
    errors: u64,
    /// Since the first request.
    rates: Option<TwinRates>,
}

impl<A> Default for TwinRequests<A> {
    fn default() -> Self {
        Self {
            in_flight: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            seen: 0,
            held: VecDeque::new(),
            errors: 0,
            rates: None,
        }
    }
}

impl<A> TwinRequests<A> {
    /// Whether no answer is due.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.waiting.is_empty()
    }

    /// Whether further requests are kept unread.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_ENTRIES
    }

    fn is_reading(&self) -> bool {
        let in_flight = self.in_flight.iter().map(|(waiting, _)| waiting);
        in_flight.chain(&self.waiting).any(|one| one.request.is_read())
    }

    /// Adds a request; [`Self::poll`] carries it out.
    pub(crate) fn push(&mut self, request: TwinRequest, answer: A) {
        let is_over = self.waiting.len() >= MAX_WAITING || self.waiting_bytes >= MAX_WAITING_BYTES;
        let request = match request {
            TwinRequest::Get | TwinRequest::Patch { .. } if is_over => TwinRequest::Refused,
            request => request,
        };
        self.waiting_bytes += request.bytes();
        self.waiting.push_back(Waiting { request, answer });
    }

    /// Carries out the requests, one after the other; `cx` is woken when the one in flight is decided. Ready with a result, or
    /// with none when nothing is left to do.
    #[expect(clippy::type_complexity, reason = "a request and its result")]
    pub(crate) fn poll(
        &mut self,
        core: &Rc<Core>,
        session: &Session,
        protocol: Protocol,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(Waiting<A>, Result<TwinAnswer, TwinError>)>> {
        loop {
            if let Some((_, asked)) = &mut self.in_flight {
                let Poll::Ready(result) = asked.as_mut().poll(cx) else {
                    return Poll::Pending;
                };
                return Poll::Ready(self.in_flight.take().map(|(waiting, _)| (waiting, result)));
            }
            let Some(waiting) = self.waiting.pop_front() else {
                return Poll::Ready(None);
            };
            self.waiting_bytes -= waiting.request.bytes();
            let asked = self.begin(&waiting.request, core, session, protocol);
            self.in_flight = Some((waiting, asked));
        }
    }

    fn begin(&mut self, request: &TwinRequest, core: &Rc<Core>, session: &Session, protocol: Protocol) -> Asked {
        let hub = core.hub();
        let class = match request {
            TwinRequest::Get => Some(ThrottleClass::TwinReads),
            TwinRequest::Patch { .. } => Some(ThrottleClass::TwinUpdates),
            TwinRequest::Refused | TwinRequest::Resend => None,
        };
        let turn = match class {
            Some(class) => {
                let new_rates = || core.twin_rates(protocol);
                self.rates.get_or_insert_with(new_rates).admit(hub, class)
            }
            None => Ok(None),
        };
        match (request, turn) {
            (_, Err(throttled)) => {
                let refused = TwinError::Refused {
                    code: throttled.code,
                    text: throttled.to_string(),
                };
                Box::pin(std::future::ready(Err(refused)))
            }
            (TwinRequest::Get | TwinRequest::Resend, Ok(turn)) => {
                let twin = hub.session_twin(session);
                Box::pin(async move {
                    come(turn).await;
                    twin.await.map(|twin| TwinAnswer::Read(Box::new(twin)))
                })
            }
            (TwinRequest::Patch { patch, if_version }, Ok(turn)) => {
                let reported = hub.report_twin(session, patch.clone(), *if_version);
                Box::pin(async move {
                    come(turn).await;
                    reported.await.map(TwinAnswer::Reported)
                })
            }
            (TwinRequest::Refused, Ok(_)) => {
                let refused = TwinError::Refused {
                    code: ErrorCode::ThrottlingException,
                    text: format!("more than {MAX_WAITING} requests about the twin wait; this one was not carried out"),
                };
                Box::pin(std::future::ready(Err(refused)))
            }
        }
    }

    /// The client gets this twin as the answer to a GET.
    pub(crate) fn read(&mut self, twin: &Twin) {
        self.seen = self.seen.max(twin.desired_version());
    }

    /// A change of the desired properties has come. `resend` is for a request of the hub's own, which may have to follow.
    pub(crate) fn change(
        &mut self,
        delivery: ReceivedDelivery,
        version: Version,
        resend: impl FnOnce() -> A,
    ) -> Change {
        let is_missing = self.seen > 0 && version > self.seen + 1;
        if version == SEVERAL || is_missing {
            if !self.is_reading() {
                self.push(TwinRequest::Resend, resend());
            }
            if version == SEVERAL {
                return Change::Accept(delivery);
            }
        }
        if self.is_reading() {
            self.held.push_back((delivery, version));
            return Change::Held;
        }
        self.newer(delivery, version)
    }

    /// A change that waited for a read, once none is left to wait for. What is still missing now stays so: the read has
    /// failed.
    pub(crate) fn next_held(&mut self) -> Option<Change> {
        if self.is_reading() {
            return None;
        }
        let (delivery, version) = self.held.pop_front()?;
        Some(self.newer(delivery, version))
    }

    fn newer(&mut self, delivery: ReceivedDelivery, version: Version) -> Change {
        if version <= self.seen {
            return Change::Accept(delivery);
        }
        self.seen = version;
        Change::Send(delivery)
    }

    /// The version of the desired properties, if the client is to get all of them; it has then got them.
    pub(crate) fn resend(&mut self, twin: &Twin) -> Option<Version> {
        let version = twin.desired_version();
        // Version 1 is that of properties that were never written.
        if version <= self.seen.max(1) {
            return None;
        }
        self.seen = version;
        Some(version)
    }

    /// The body of a refusal (Spec device-mqtt §7.2).
    pub(crate) fn error_body(&mut self, core: &Core, session: &Session, error: &TwinError) -> Value {
        if !is_refusal(error) {
            tracing::debug!(identity = %session.identity(), %error, "a request about a twin failed; its client is told to retry");
        }
        self.errors += 1;
        let (number, session) = (self.errors, session.number().counter);
        let now = core.clock().now();
        json!({
            "errorCode": error.code().number(),
            "trackingId": format!("{session:016x}{number:016x}-TimeStamp:{}", us_date(now)),
            "message": error.to_string(),
            "timestampUtc": round_trip(now.0.cast_signed()).unwrap_or_default(),
        })
    }
}

async fn come(turn: Option<impl Future<Output = ()>>) {
    if let Some(turn) = turn {
        turn.await;
    }
}

/// Whether the request certainly had no effect, and will never have one.
pub(crate) fn is_refusal(error: &TwinError) -> bool {
    matches!(error, TwinError::Refused { .. })
}
