//! The called side of a connection for calls: receives frames, executes the calls, sends the replies.
//!
//! Invariants: the running calls of one caller are limited per service, in number and bytes, so that no service can starve
//! another; a call over the limit is answered at once as not executed. While the caller does not take its replies, none of
//! its frames are read and none of its calls make progress. A call is cancelled when its timeout expires: its future is
//! dropped.
//! A broken rule closes the connection, with the rule in the status.

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

use super::connection::{Connection, permitted_service};
use crate::peer::metrics;
use crate::peer::peer_table::{Caller, Peer};
use crate::peer::protocol::frame::{AnswerHead, Batch, CallHead, Item, Items, Outcome, Part, Violation};
use crate::peer::protocol::outcome;
use crate::peer::protocol::reassembly::{Reassembler, detach};
use crate::peer::protocol::scheduler::{ACCEPTED, FirstItem, FrameScheduler};
use crate::peer::transport::grpc::FrameStream;

/// Limit of queued bytes of replies; above it, reading and executing pause.
const REPLY_QUEUE_BYTES: usize = 16 << 20;

/// Interval of the scan for expired calls and silence.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Added to the timeout of a call for the transfer in both directions.
const GRACE: Duration = Duration::from_secs(1);

/// A joining node sends no pings: its connection is closed after this time of silence.
const JOIN_SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// The numbers of services are below this.
const SERVICES: usize = 8;

/// Frames that are handled in one poll before other tasks run.
const FRAMES_PER_POLL: usize = 16;

/// The replies to be sent; shared by the task that executes calls and the one that sends.
struct ReplyQueue(Mutex<ReplyQueueState>);

struct ReplyQueueState {
    scheduler: FrameScheduler,
    sender: Option<Waker>,
    /// The task that waits until the queue has capacity.
    capacity: Option<Waker>,
    ended: Option<Status>,
    done: bool,
}

/// Passes the replies to gRPC. Dropped when the connection is gone, which ends the call server.
struct ReplyStream {
    replies: Arc<ReplyQueue>,
    connection: Arc<Connection>,
    _alive: watch::Sender<()>,
}

impl Stream for ReplyStream {
    type Item = Result<Batch, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut out = self.replies.0.lock();
        if let Some(batch) = out.scheduler.next_frame(|_| true) {
            let waker = if out.scheduler.bytes() <= REPLY_QUEUE_BYTES {
                out.capacity.take()
            } else {
                None
            };
            drop(out);
            if let Some(waker) = waker {
                waker.wake();
            }
            let bytes: usize = batch.iter().map(Part::len).sum();
            let table = &self.connection.table;
            table.metrics.frames_sent.increment(1);
            table.metrics.bytes_sent.increment(bytes as u64);
            if bytes >= ACCEPTED {
                self.connection.heard.store(table.now_ms(), Ordering::Relaxed);
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

impl ReplyQueue {
    fn push(&self, with: impl FnOnce(&mut FrameScheduler)) {
        let sender = {
            let mut out = self.0.lock();
            with(&mut out.scheduler);
            out.sender.take()
        };
        if let Some(sender) = sender {
            sender.wake();
        }
    }

    /// Whether the queue has capacity; otherwise registers the task to be woken.
    fn has_capacity(&self, cx: &Context<'_>) -> bool {
        let mut out = self.0.lock();
        if out.scheduler.bytes() <= REPLY_QUEUE_BYTES {
            return true;
        }
        out.capacity = Some(cx.waker().clone());
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

/// A call that is being executed.
struct RunningCall {
    id: u64,
    service: usize,
    bytes: usize,
    deadline: Instant,
    answer: Answer,
}

/// A call that has ended.
struct FinishedCall {
    id: u64,
    service: usize,
    bytes: usize,
    result: Result<Bytes, CallError>,
}

impl Future for RunningCall {
    type Output = FinishedCall;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<FinishedCall> {
        self.answer.as_mut().poll(cx).map(|result| FinishedCall {
            id: self.id,
            service: self.service,
            bytes: self.bytes,
            result,
        })
    }
}

/// The running calls of one service.
#[derive(Debug, Clone, Copy, Default)]
struct InFlight {
    calls: usize,
    bytes: usize,
}

struct CallServer {
    connection: Arc<Connection>,
    caller: Caller,
    peer: Option<Arc<Peer>>,
    frames: Streaming<Bytes>,
    replies: Arc<ReplyQueue>,
    running: FuturesUnordered<RunningCall>,
    in_flight: [InFlight; SERVICES],
    reassembler: Reassembler<CallHead>,
    scan: Pin<Box<Sleep>>,
    scanned: Instant,
}

/// Serves a stream of frames; returns the replies.
pub(super) fn start(connection: Arc<Connection>, caller: Caller, frames: Streaming<Bytes>) -> FrameStream {
    let replies = Arc::new(ReplyQueue(Mutex::new(ReplyQueueState {
        scheduler: FrameScheduler::default(),
        sender: None,
        capacity: None,
        ended: None,
        done: false,
    })));
    let (alive, mut gone) = watch::channel(());
    let server = CallServer {
        peer: connection.table.peer(caller.node).filter(|_| !caller.joins),
        caller,
        frames,
        replies: Arc::clone(&replies),
        running: FuturesUnordered::new(),
        in_flight: [InFlight::default(); SERVICES],
        reassembler: Reassembler::default(),
        scan: Box::pin(sleep(SCAN_INTERVAL)),
        scanned: Instant::now(),
        connection: Arc::clone(&connection),
    };
    let mut closed = connection.close.subscribe();
    let stream = ReplyStream {
        replies,
        connection: Arc::clone(&connection),
        _alive: alive,
    };
    drop(holdfast_tasks::spawn_critical("peer call server", async move {
        let replies = Arc::clone(&server.replies);
        let reason = tokio::select! {
            biased;
            _ = gone.changed() => None,
            reason = closed.wait_for(Option::is_some) => {
                reason.ok().and_then(|reason| reason.clone()).map(|reason| Status::aborted(&*reason))
            }
            status = server => status,
        };
        replies.end(reason);
        // The connection does not outlive its calls.
        if connection.close.borrow().is_none() {
            connection.close.send_replace(Some("its calls have ended".into()));
        }
    }));
    Box::pin(stream)
}

impl Future for CallServer {
    /// The status with which the stream of replies ends.
    type Output = Option<Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(Some(status)) = this.poll_scan(cx) {
            return Poll::Ready(Some(status));
        }
        for _ in 0..FRAMES_PER_POLL {
            if !this.replies.has_capacity(cx) {
                return Poll::Pending;
            }
            this.poll_running(cx);
            match this.frames.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Err(violation) = this.read_frame(frame) {
                        return Poll::Ready(Some(this.violation_status(violation)));
                    }
                }
                Poll::Ready(Some(Err(status))) => return Poll::Ready(this.stream_error_status(&status)),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    // The calls of the last frame have not been polled yet.
                    this.poll_running(cx);
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl CallServer {
    fn violation_status(&self, violation: Violation) -> Status {
        self.connection.table.metrics.violation(violation.rule());
        let text = format!(
            "node {} ({}) broke the protocol: {violation}",
            self.caller.node, self.caller.name
        );
        self.connection.log.warn(self.connection.from, violation.rule(), &text);
        Status::invalid_argument(text)
    }

    /// The status after an error of the stream of frames: a frame over the limit, bytes that are not gRPC, or a lost
    /// connection.
    fn stream_error_status(&self, status: &Status) -> Option<Status> {
        let rule = match status.code() {
            tonic::Code::OutOfRange => metrics::TOO_LONG,
            tonic::Code::Internal if std::error::Error::source(status).is_none() => metrics::GARBAGE,
            _ => return None,
        };
        let text = format!("node {} ({}): {}", self.caller.node, self.caller.name, status.message());
        self.connection.table.metrics.violation(rule);
        self.connection.log.warn(self.connection.from, rule, &text);
        Some(Status::invalid_argument(text))
    }

    /// Scans for expired calls and silence.
    fn poll_scan(&mut self, cx: &mut Context<'_>) -> Poll<Option<Status>> {
        while self.scan.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            self.scan.as_mut().reset((now + SCAN_INTERVAL).into());
            let table = &self.connection.table;
            if now.duration_since(self.scanned) > SCAN_INTERVAL + GRACE {
                // This process did not run; data that the caller has sent in that time is still unread.
                self.connection.heard.store(table.now_ms(), Ordering::Relaxed);
            }
            self.scanned = now;
            let silent = table
                .now_ms()
                .saturating_sub(self.connection.heard.load(Ordering::Relaxed));
            let allowed = if self.caller.joins {
                JOIN_SILENCE_TIMEOUT
            } else {
                table.config.silence
            };
            if u128::from(silent) > allowed.as_millis() {
                return Poll::Ready(Some(Status::deadline_exceeded("nothing was received for too long")));
            }
            if self.running.iter().any(|call| call.deadline < now) {
                let all = std::mem::take(&mut self.running);
                for call in all {
                    if call.deadline < now {
                        self.finish(FinishedCall {
                            id: call.id,
                            service: call.service,
                            bytes: call.bytes,
                            result: Err(CallError::Unknown("it took longer than its timeout".into())),
                        });
                    } else {
                        self.running.push(call);
                    }
                }
            }
        }
        Poll::Pending
    }

    /// Polls the running calls and queues the replies of those that have ended.
    fn poll_running(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(finished)) = self.running.poll_next_unpin(cx) {
            self.finish(finished);
            if !self.replies.has_capacity(cx) {
                return;
            }
        }
    }

    fn finish(&mut self, finished: FinishedCall) {
        let in_flight = &mut self.in_flight[finished.service];
        in_flight.calls -= 1;
        in_flight.bytes -= finished.bytes;
        let (outcome, body) = outcome::encode(finished.result, MAX_CALL_BYTES);
        self.reply(finished.id, outcome, body);
    }

    fn reply(&self, id: u64, outcome: Outcome, body: Bytes) {
        let head = AnswerHead {
            id,
            outcome,
            // At most MAX_CALL_BYTES.
            total: body.len() as u32,
        };
        let piece = if body.is_empty() { Vec::new() } else { vec![body] };
        self.replies
            .push(|scheduler| scheduler.push(id, FirstItem::Answer(head), piece));
    }

    fn read_frame(&mut self, frame: Bytes) -> Result<(), Violation> {
        let len = frame.len();
        let now = self.connection.table.now_ms();
        self.connection.heard.store(now, Ordering::Relaxed);
        if let Some(peer) = &self.peer {
            peer.heard.store(now, Ordering::Relaxed);
        }
        self.connection.table.metrics.frames_received.increment(1);
        self.connection.table.metrics.bytes_received.increment(len as u64);
        for item in Items::new(frame) {
            match item? {
                Item::Call(head, piece) if piece.len() == head.total as usize => {
                    if self.admit(&head) {
                        self.execute(&head, detach(piece, len));
                    }
                }
                Item::Call(head, piece) => {
                    let wanted = self.admit(&head).then_some(head);
                    self.reassembler.begin(head.id, wanted, head.total as usize, &piece)?;
                }
                Item::More(id, piece) => {
                    if let Some((head, body)) = self.reassembler.append(id, &piece)? {
                        self.execute(&head, body);
                    }
                }
                Item::Drop(id) => {
                    if let Some(head) = self.reassembler.discard(id) {
                        self.release(&head);
                    }
                }
                Item::Ping(nonce) => self.replies.push(|scheduler| scheduler.push_control(Part::pong(nonce))),
                Item::Answer(..) | Item::Pong(_) | Item::End => return Err(Violation::Misplaced),
            }
        }
        Ok(())
    }

    fn service_index(head: &CallHead) -> usize {
        usize::from(head.service) % SERVICES
    }

    /// Admits a call, or replies that it is not executed.
    fn admit(&mut self, head: &CallHead) -> bool {
        if let Err(reason) = permitted_service(&self.caller, head.service) {
            self.reply(head.id, Outcome::Refused, Bytes::from_static(reason.as_bytes()));
            return false;
        }
        let config = &self.connection.table.config;
        let in_flight = &mut self.in_flight[Self::service_index(head)];
        let bytes = head.total as usize;
        if in_flight.calls >= config.max_in_flight_calls
            || (in_flight.bytes > 0 && in_flight.bytes + bytes > config.max_in_flight.as_usize())
        {
            self.connection.table.metrics.calls_over_limit.increment(1);
            let reason = b"it has too many calls of this node in flight";
            self.reply(head.id, Outcome::NotExecuted, Bytes::from_static(reason));
            return false;
        }
        in_flight.calls += 1;
        in_flight.bytes += bytes;
        true
    }

    fn release(&mut self, head: &CallHead) {
        let in_flight = &mut self.in_flight[Self::service_index(head)];
        in_flight.calls -= 1;
        in_flight.bytes -= head.total as usize;
    }

    fn execute(&mut self, head: &CallHead, body: Bytes) {
        let Ok(service) = permitted_service(&self.caller, head.service) else {
            // Not reached: `admit` has checked it.
            return self.release(head);
        };
        let table = &self.connection.table;
        table.metrics.calls_served.increment(1);
        let answer = table.dispatch.call(self.caller.node, service, head.target, body);
        self.running.push(RunningCall {
            id: head.id,
            service: Self::service_index(head),
            bytes: head.total as usize,
            deadline: Instant::now() + Duration::from_millis(head.timeout_ms.into()) + GRACE,
            answer,
        });
    }
}
