//! The called side of a connection for calls: takes frames, has the calls carried out, sends the answers.
//!
//! Invariants: what one caller has under way is bounded per service, in number and bytes, so that no service can hold
//! up another (a caller that exceeds it is told at once that its call was not carried out); while the caller does not
//! take its answers, nothing further of it is read or carried on. A call is given up when its patience is over: its
//! future is dropped wherever it stands.
//! A broken rule ends the connection, with the rule in the status.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use holdfast_consensus::transport::{Answer, CallError, MAX_CALL_BYTES};
use holdfast_tasks::sync::Mutex;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};
use tonic::{Status, Streaming};

use super::accept::{Caller, Conn};
use super::bodies::{Bodies, own};
use super::codec::Batch;
use super::frame::{AnswerHead, CallHead, Item, Items, Outcome, Part, Violation};
use super::lanes::{Begin, Lanes};
use super::manage::TAKEN;
use super::metrics;
use super::service::{Frameful, allowed};
use super::state::Peer;

/// Bytes of answers that wait to be sent; beyond, nothing further is carried on.
const ANSWER_BYTES: usize = 16 << 20;

/// How often overdue calls and silence are looked for.
const RHYTHM: Duration = Duration::from_secs(1);

/// What a call has beyond its caller's patience: the way there and back.
const GRACE: Duration = Duration::from_secs(1);

/// How long somebody who joins may be connected without a word: it sends no pings.
const JOIN_TIME: Duration = Duration::from_secs(60);

/// Numbers of services are below this.
const SERVICES: usize = 8;

/// Frames that are handled in a row before others have a turn.
const TURN: usize = 16;

/// The longest text of an error that goes over the wire.
const MAX_TEXT: usize = 4096;

/// Answers on their way out; shared by who carries out and who sends.
struct Answers(Mutex<Out>);

struct Out {
    lanes: Lanes,
    sender: Option<Waker>,
    /// Who waits until there is room.
    room: Option<Waker>,
    ended: Option<Status>,
    done: bool,
}

/// Gives the answers to gRPC. Dropped when the connection is gone: the session ends with it.
struct Sending {
    answers: Arc<Answers>,
    conn: Arc<Conn>,
    _alive: watch::Sender<()>,
}

impl Stream for Sending {
    type Item = Result<Batch, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut out = self.answers.0.lock();
        if let Some(batch) = out.lanes.fill(|_| true) {
            let room = if out.lanes.bytes() <= ANSWER_BYTES {
                out.room.take()
            } else {
                None
            };
            drop(out);
            if let Some(room) = room {
                room.wake();
            }
            let bytes: usize = batch.iter().map(Part::len).sum();
            let shared = &self.conn.shared;
            shared.metrics.frames_sent.increment(1);
            shared.metrics.bytes_sent.increment(bytes as u64);
            if bytes >= TAKEN {
                self.conn.heard.store(shared.clock(), Ordering::Relaxed);
            }
            return Poll::Ready(Some(Ok(batch)));
        }
        if out.done {
            return Poll::Ready(out.ended.take().map(Err));
        }
        match &out.sender {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => out.sender = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Answers {
    fn push(&self, with: impl FnOnce(&mut Lanes)) {
        let sender = {
            let mut out = self.0.lock();
            with(&mut out.lanes);
            out.sender.take()
        };
        if let Some(sender) = sender {
            sender.wake();
        }
    }

    /// Whether there is room; registers for the wake otherwise.
    fn has_room(&self, cx: &Context<'_>) -> bool {
        let mut out = self.0.lock();
        if out.lanes.bytes() <= ANSWER_BYTES {
            return true;
        }
        out.room = Some(cx.waker().clone());
        false
    }

    fn end(&self, status: Option<Status>) {
        let sender = {
            let mut out = self.0.lock();
            out.done = true;
            out.ended = status;
            out.sender.take()
        };
        if let Some(sender) = sender {
            sender.wake();
        }
    }
}

/// A call that is being carried out.
struct Handling {
    id: u64,
    service: usize,
    bytes: usize,
    deadline: Instant,
    answer: Answer,
}

/// What came of one.
struct Handled {
    id: u64,
    service: usize,
    bytes: usize,
    outcome: Result<Bytes, CallError>,
}

impl Future for Handling {
    type Output = Handled;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Handled> {
        self.answer.as_mut().poll(cx).map(|outcome| Handled {
            id: self.id,
            service: self.service,
            bytes: self.bytes,
            outcome,
        })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct UnderWay {
    calls: usize,
    bytes: usize,
}

struct Session {
    conn: Arc<Conn>,
    caller: Caller,
    peer: Option<Arc<Peer>>,
    frames: Streaming<Bytes>,
    answers: Arc<Answers>,
    handling: FuturesUnordered<Handling>,
    under_way: [UnderWay; SERVICES],
    bodies: Bodies<CallHead>,
    look: Pin<Box<Sleep>>,
    looked: Instant,
}

/// Serves a stream of frames; what is returned are the answers.
pub(crate) fn start(conn: Arc<Conn>, caller: Caller, frames: Streaming<Bytes>) -> Frameful {
    let answers = Arc::new(Answers(Mutex::new(Out {
        lanes: Lanes::default(),
        sender: None,
        room: None,
        ended: None,
        done: false,
    })));
    let (alive, mut gone) = watch::channel(());
    let session = Session {
        peer: conn.shared.peer(caller.node).filter(|_| !caller.joins),
        caller,
        frames,
        answers: Arc::clone(&answers),
        handling: FuturesUnordered::new(),
        under_way: [UnderWay::default(); SERVICES],
        bodies: Bodies::default(),
        look: Box::pin(sleep(RHYTHM)),
        looked: Instant::now(),
        conn: Arc::clone(&conn),
    };
    let mut ended = conn.end.subscribe();
    let sending = Sending {
        answers,
        conn: Arc::clone(&conn),
        _alive: alive,
    };
    drop(holdfast_tasks::spawn_critical("peer session", async move {
        let answers = Arc::clone(&session.answers);
        let reason = tokio::select! {
            biased;
            _ = gone.changed() => None,
            reason = ended.wait_for(Option::is_some) => {
                reason.ok().and_then(|reason| reason.clone()).map(|reason| Status::aborted(&*reason))
            }
            status = session => status,
        };
        answers.end(reason);
        // Whatever ended the session ends the connection.
        if conn.end.borrow().is_none() {
            conn.end.send_replace(Some("its calls have ended".into()));
        }
    }));
    Box::pin(sending)
}

impl Future for Session {
    /// What the caller is told at the end.
    type Output = Option<Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(Some(status)) = this.poll_look(cx) {
            return Poll::Ready(Some(status));
        }
        for _ in 0..TURN {
            if !this.answers.has_room(cx) {
                return Poll::Pending;
            }
            this.collect(cx);
            match this.frames.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Err(violation) = this.frame(frame) {
                        return Poll::Ready(Some(this.broke(violation)));
                    }
                }
                Poll::Ready(Some(Err(status))) => return Poll::Ready(this.failed(&status)),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    // Calls that came with the last frame have not been looked at yet.
                    this.collect(cx);
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Session {
    fn broke(&self, violation: Violation) -> Status {
        self.conn.shared.metrics.violation(violation.rule());
        let text = format!(
            "node {} ({}) broke the protocol: {violation}",
            self.caller.node, self.caller.name
        );
        self.conn.troubles.log(self.conn.from, violation.rule(), &text);
        Status::invalid_argument(text)
    }

    /// The stream of frames failed: a frame too long, garbage instead of gRPC, or the connection is gone.
    fn failed(&self, status: &Status) -> Option<Status> {
        let own = match status.code() {
            tonic::Code::OutOfRange => metrics::TOO_LONG,
            tonic::Code::Internal if std::error::Error::source(status).is_none() => metrics::GARBAGE,
            _ => return None,
        };
        let text = format!("node {} ({}): {}", self.caller.node, self.caller.name, status.message());
        self.conn.shared.metrics.violation(own);
        self.conn.troubles.log(self.conn.from, own, &text);
        Some(Status::invalid_argument(text))
    }

    /// Overdue calls and silence, now and then.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<Option<Status>> {
        while self.look.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            self.look.as_mut().reset((now + RHYTHM).into());
            let shared = &self.conn.shared;
            if now.duration_since(self.looked) > RHYTHM + GRACE {
                // This process stood still itself; what came meanwhile is still to be read.
                self.conn.heard.store(shared.clock(), Ordering::Relaxed);
            }
            self.looked = now;
            let silent = shared.clock().saturating_sub(self.conn.heard.load(Ordering::Relaxed));
            let allowed = if self.caller.joins {
                JOIN_TIME
            } else {
                shared.config.silence
            };
            if u128::from(silent) > allowed.as_millis() {
                return Poll::Ready(Some(Status::deadline_exceeded("nothing was heard for too long")));
            }
            if self.handling.iter().any(|call| call.deadline < now) {
                let all = std::mem::take(&mut self.handling);
                for call in all {
                    if call.deadline < now {
                        self.settle(Handled {
                            id: call.id,
                            service: call.service,
                            bytes: call.bytes,
                            outcome: Err(CallError::Unknown("it took longer than its patience".into())),
                        });
                    } else {
                        self.handling.push(call);
                    }
                }
            }
        }
        Poll::Pending
    }

    /// Sends the answers that are there.
    fn collect(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(handled)) = self.handling.poll_next_unpin(cx) {
            self.settle(handled);
            if !self.answers.has_room(cx) {
                return;
            }
        }
    }

    fn settle(&mut self, handled: Handled) {
        let under_way = &mut self.under_way[handled.service];
        under_way.calls -= 1;
        under_way.bytes -= handled.bytes;
        let (outcome, body) = match handled.outcome {
            Ok(body) if body.len() > MAX_CALL_BYTES => (
                Outcome::Unknown,
                Bytes::from_static(b"the answer is longer than any may be"),
            ),
            Ok(body) => (Outcome::Done, body),
            Err(CallError::Refused(text)) => (Outcome::Refused, short(&text)),
            Err(CallError::Unknown(text)) => (Outcome::Unknown, short(&text)),
            Err(CallError::NotSent(text)) => (Outcome::NotCarriedOut, short(&text)),
        };
        self.reply(handled.id, outcome, body);
    }

    fn reply(&self, id: u64, outcome: Outcome, body: Bytes) {
        let head = AnswerHead {
            id,
            outcome,
            // At most MAX_CALL_BYTES.
            total: body.len() as u32,
        };
        let piece = if body.is_empty() { Vec::new() } else { vec![body] };
        self.answers.push(|lanes| lanes.push(id, Begin::Answer(head), piece));
    }

    fn frame(&mut self, frame: Bytes) -> Result<(), Violation> {
        let len = frame.len();
        let clock = self.conn.shared.clock();
        self.conn.heard.store(clock, Ordering::Relaxed);
        if let Some(peer) = &self.peer {
            peer.heard.store(clock, Ordering::Relaxed);
        }
        self.conn.shared.metrics.frames_received.increment(1);
        self.conn.shared.metrics.bytes_received.increment(len as u64);
        for item in Items::new(frame) {
            match item? {
                Item::Call(head, piece) if piece.len() == head.total as usize => {
                    if self.admit(&head) {
                        self.carry_out(&head, own(piece, len));
                    }
                }
                Item::Call(head, piece) => {
                    let wanted = self.admit(&head).then_some(head);
                    self.bodies.begin(head.id, wanted, head.total as usize, &piece)?;
                }
                Item::More(id, piece) => {
                    if let Some((head, body)) = self.bodies.more(id, &piece)? {
                        self.carry_out(&head, body);
                    }
                }
                Item::Drop(id) => {
                    if let Some(head) = self.bodies.give_up(id) {
                        self.release(&head);
                    }
                }
                Item::Ping(nonce) => self.answers.push(|lanes| lanes.push_control(Part::pong(nonce))),
                Item::Answer(..) | Item::Pong(_) | Item::End => return Err(Violation::Misplaced),
            }
        }
        Ok(())
    }

    fn slot(head: &CallHead) -> usize {
        usize::from(head.service) % SERVICES
    }

    /// Takes a call in, or answers that it was not carried out.
    fn admit(&mut self, head: &CallHead) -> bool {
        if let Err(why) = allowed(&self.caller, head.service) {
            self.reply(head.id, Outcome::Refused, Bytes::from_static(why.as_bytes()));
            return false;
        }
        let config = &self.conn.shared.config;
        let under_way = &mut self.under_way[Self::slot(head)];
        let bytes = head.total as usize;
        if under_way.calls >= config.under_way_calls
            || (under_way.bytes > 0 && under_way.bytes + bytes > config.under_way_bytes)
        {
            self.conn.shared.metrics.calls_turned_away.increment(1);
            let why = b"it has too many calls of this node under way";
            self.reply(head.id, Outcome::NotCarriedOut, Bytes::from_static(why));
            return false;
        }
        under_way.calls += 1;
        under_way.bytes += bytes;
        true
    }

    fn release(&mut self, head: &CallHead) {
        let under_way = &mut self.under_way[Self::slot(head)];
        under_way.calls -= 1;
        under_way.bytes -= head.total as usize;
    }

    fn carry_out(&mut self, head: &CallHead, body: Bytes) {
        let Ok(service) = allowed(&self.caller, head.service) else {
            // Was admitted, so this cannot be.
            return self.release(head);
        };
        let shared = &self.conn.shared;
        shared.metrics.calls_served.increment(1);
        let answer = shared.dispatch.call(self.caller.node, service, head.target, body);
        self.handling.push(Handling {
            id: head.id,
            service: Self::slot(head),
            bytes: head.total as usize,
            deadline: Instant::now() + Duration::from_millis(head.patience_ms.into()) + GRACE,
            answer,
        });
    }
}

/// The text of an error, as far as it goes over the wire.
pub(crate) fn short(text: &str) -> Bytes {
    Bytes::copy_from_slice(&text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)])
}
