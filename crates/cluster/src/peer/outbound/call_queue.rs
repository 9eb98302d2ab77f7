//! The calls to one node over one connection: those queued to be sent and those waiting for a reply.
//!
//! Why one lock for both: a call is added to the queue and to the table of pending calls in one step, in the order of the
//! callers, whatever threads they run on. The writer of the connection is woken once for all calls that have been queued
//! until it runs.
//! Invariants: every call ends: with its reply, when its timeout expires, or when the queue is closed. A call of which
//! nothing was sent ends as [`CallError::NotSent`], any other as [`CallError::Unknown`]. Queued bytes and pending calls are
//! bounded.
//! Not here: the connection (`connector`).

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_consensus::transport::{Call, CallError, MAX_CALL_BYTES};
use holdfast_model::NodeId;
use holdfast_tasks::sync::Mutex;
use slab::Slab;
use tokio::sync::Notify;

use super::pending_reply::{PendingReply, Reply, ReplyFuture, WakeList};
use crate::peer::protocol::frame::{Batch, CallHead, Part};
use crate::peer::protocol::scheduler::{FirstItem, FrameScheduler};

/// Shortest time between two scans for expired calls.
const MIN_SCAN_INTERVAL: Duration = Duration::from_millis(10);

struct PendingCall {
    sequence: u32,
    reply: Arc<PendingReply>,
    deadline: Instant,
    /// Some of it was sent: it may be executed.
    sent: bool,
}

struct State {
    scheduler: FrameScheduler,
    calls: Slab<PendingCall>,
    sequence: u32,
    writer: Option<Waker>,
    closed: Option<Arc<str>>,
    /// Time of the next scan for expired calls.
    next_scan: Instant,
}

/// See the module.
pub(crate) struct CallQueue {
    node: NodeId,
    queue_bytes: usize,
    max_calls: usize,
    state: Mutex<State>,
    /// Notified when a call expires before the next scan.
    pub(crate) earlier_deadline: Notify,
}

/// The id of a call on the wire: its key in the slab, and a sequence number that distinguishes calls with the same key.
fn id(sequence: u32, key: usize) -> u64 {
    u64::from(sequence) << 32 | (key as u64 & u64::from(u32::MAX))
}

fn find(calls: &Slab<PendingCall>, id: u64) -> Option<usize> {
    let key = (id & u64::from(u32::MAX)) as usize;
    calls
        .get(key)
        .is_some_and(|call| u64::from(call.sequence) == id >> 32)
        .then_some(key)
}

impl CallQueue {
    pub(crate) fn new(node: NodeId, queue_bytes: usize, max_calls: usize) -> Self {
        Self {
            node,
            queue_bytes,
            max_calls,
            state: Mutex::new(State {
                scheduler: FrameScheduler::default(),
                calls: Slab::new(),
                sequence: 0,
                writer: None,
                closed: None,
                next_scan: Instant::now(),
            }),
            earlier_deadline: Notify::new(),
        }
    }

    fn not_sent(&self, reason: &str) -> CallError {
        CallError::NotSent(format!("node {}: {reason}", self.node).into())
    }

    /// Queues a call; refuses it at once if the queue is full.
    pub(crate) fn submit(&self, call: Call) -> Result<ReplyFuture, CallError> {
        let total: usize = call.body.iter().map(Bytes::len).sum();
        if total > MAX_CALL_BYTES {
            return Err(self.not_sent("the call is longer than the limit"));
        }
        let now = Instant::now();
        let deadline = now.checked_add(call.timeout).unwrap_or(now + Duration::from_secs(3600));
        let (reply, future) = PendingReply::new();
        let (writer, is_earlier) = {
            let mut state = self.state.lock();
            if let Some(reason) = &state.closed {
                return Err(self.not_sent(reason));
            }
            if state.scheduler.bytes() > 0 && state.scheduler.bytes() + total > self.queue_bytes {
                return Err(self.not_sent("its queue is full: it does not keep up"));
            }
            if state.calls.len() >= self.max_calls {
                return Err(self.not_sent("too many calls wait for its answers"));
            }
            state.sequence = state.sequence.wrapping_add(1);
            let sequence = state.sequence;
            let key = state.calls.insert(PendingCall {
                sequence,
                reply,
                deadline,
                sent: false,
            });
            let head = CallHead {
                id: id(sequence, key),
                service: call.service as u8,
                target: call.target,
                timeout_ms: u32::try_from(call.timeout.as_millis()).unwrap_or(u32::MAX),
                // At most MAX_CALL_BYTES.
                total: total as u32,
            };
            let order = u64::from(head.service) << 32 | u64::from(head.target);
            state.scheduler.push(order, FirstItem::Call(head), call.body);
            let is_earlier = deadline < state.next_scan;
            if is_earlier {
                state.next_scan = deadline;
            }
            (state.writer.take(), is_earlier)
        };
        if let Some(writer) = writer {
            writer.wake();
        }
        if is_earlier {
            self.earlier_deadline.notify_one();
        }
        Ok(future)
    }

    /// Queues an item that is sent before everything else.
    pub(crate) fn push_control(&self, part: Part) {
        let writer = {
            let mut state = self.state.lock();
            state.scheduler.push_control(part);
            state.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// The next frame; `None` once the queue is closed.
    pub(crate) fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Batch>> {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return Poll::Ready(None);
        }
        let State { scheduler, calls, .. } = &mut *state;
        let batch = scheduler.next_frame(|id| {
            let Some(key) = find(calls, id) else {
                return false;
            };
            if calls[key].reply.is_abandoned() {
                calls.remove(key);
                return false;
            }
            calls[key].sent = true;
            true
        });
        if batch.is_some() {
            return Poll::Ready(batch);
        }
        match &state.writer {
            Some(writer) if writer.will_wake(cx.waker()) => {}
            _ => state.writer = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Whether a caller still waits for this reply.
    pub(crate) fn is_awaited(&self, id: u64) -> bool {
        let state = self.state.lock();
        find(&state.calls, id).is_some_and(|key| !state.calls[key].reply.is_abandoned())
    }

    /// Completes calls with their replies. Replies to calls that have ended are dropped.
    pub(crate) fn complete(&self, replies: &mut Vec<(u64, Reply)>) {
        let mut wakes = WakeList::default();
        {
            let mut state = self.state.lock();
            for (id, reply) in replies.drain(..) {
                if let Some(key) = find(&state.calls, id) {
                    state.calls.remove(key).reply.complete(reply, &mut wakes);
                }
            }
        }
        wakes.wake();
    }

    /// Ends the calls whose timeout has expired. Returns when to scan again, at the latest after `interval`.
    pub(crate) fn expire(&self, now: Instant, interval: Duration) -> Instant {
        let mut wakes = WakeList::default();
        let next_scan = {
            let mut state = self.state.lock();
            let mut next_scan = now + interval;
            let mut unsent = false;
            let State { scheduler, calls, .. } = &mut *state;
            calls.retain(|_, call| {
                if call.deadline > now {
                    next_scan = next_scan.min(call.deadline);
                    return true;
                }
                call.reply.complete(Err(self.timed_out(call.sent)), &mut wakes);
                unsent |= !call.sent;
                false
            });
            if unsent {
                scheduler.retain(|id| find(calls, id).is_some());
            }
            state.next_scan = next_scan.max(now + MIN_SCAN_INTERVAL);
            state.next_scan
        };
        wakes.wake();
        next_scan
    }

    fn timed_out(&self, sent: bool) -> CallError {
        if sent {
            CallError::Unknown(format!("node {} has not answered in time", self.node).into())
        } else {
            self.not_sent("it did not take the call in time")
        }
    }

    /// Ends all calls and refuses further ones. The first reason counts.
    pub(crate) fn close(&self, reason: &Arc<str>) {
        let mut wakes = WakeList::default();
        let writer = {
            let mut state = self.state.lock();
            if state.closed.is_some() {
                return;
            }
            state.closed = Some(Arc::clone(reason));
            state.scheduler = FrameScheduler::default();
            for (_, call) in std::mem::take(&mut state.calls) {
                let error = if call.sent {
                    CallError::Unknown(format!("node {}: {reason}", self.node).into())
                } else {
                    self.not_sent(reason)
                };
                call.reply.complete(Err(error), &mut wakes);
            }
            state.writer.take()
        };
        wakes.wake();
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Whether the queue is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed.is_some()
    }

    /// Queued bytes, and calls without a reply.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.scheduler.bytes(), state.calls.len())
    }
}
