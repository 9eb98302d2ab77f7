//! Calls towards one node over one connection: what waits to be sent, and what waits for an answer.
//!
//! Why one lock for both: a call enters the queue and the table together, in the order of the callers, whichever
//! threads they are on. The writer of the connection is woken once for whatever has gathered until it looks.
//! Invariants: every call ends: with its answer, when its patience is over, or when the link closes; one that had not
//! begun to be sent ends as [`CallError::NotSent`], any other as [`CallError::Unknown`]. What waits is bounded in bytes
//! and in number.
//! Not here: the connection.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_consensus::transport::{Call, CallError, MAX_CALL_BYTES};
use holdfast_tasks::sync::Mutex;
use slab::Slab;
use tokio::sync::Notify;

use super::codec::Batch;
use super::frame::{self, CallHead, Part};
use super::lanes::{Begin, Lanes};
use super::slot::{self, Slot, Waiting, Wakes};

/// How close together expiries are looked for.
const GRAIN: Duration = Duration::from_millis(10);

struct Pending {
    sequence: u32,
    slot: Arc<Slot>,
    deadline: Instant,
    /// Some of it is in a frame: it may be carried out.
    begun: bool,
}

struct State {
    lanes: Lanes,
    calls: Slab<Pending>,
    sequence: u32,
    writer: Option<Waker>,
    closed: Option<Arc<str>>,
    /// When expiries are looked for next.
    look_at: Instant,
}

/// See the module.
pub(crate) struct Link {
    node: u64,
    queue_bytes: usize,
    max_calls: usize,
    state: Mutex<State>,
    /// A call expires before the next look.
    pub(crate) sooner: Notify,
}

/// A call's number on the wire: its place, and a sequence that tells a place's users apart.
fn id(sequence: u32, key: usize) -> u64 {
    u64::from(sequence) << 32 | (key as u64 & u64::from(u32::MAX))
}

fn find(calls: &Slab<Pending>, id: u64) -> Option<usize> {
    let key = (id & u64::from(u32::MAX)) as usize;
    calls
        .get(key)
        .is_some_and(|call| u64::from(call.sequence) == id >> 32)
        .then_some(key)
}

impl Link {
    pub(crate) fn new(node: u64, queue_bytes: usize, max_calls: usize) -> Self {
        Self {
            node,
            queue_bytes,
            max_calls,
            state: Mutex::new(State {
                lanes: Lanes::default(),
                calls: Slab::new(),
                sequence: 0,
                writer: None,
                closed: None,
                look_at: Instant::now(),
            }),
            sooner: Notify::new(),
        }
    }

    fn not_sent(&self, why: &str) -> CallError {
        CallError::NotSent(format!("node {}: {why}", self.node).into())
    }

    /// Puts a call into the queue; the caller is refused at once when it is full.
    pub(crate) fn submit(&self, call: Call) -> Result<Waiting, CallError> {
        let total: usize = call.body.iter().map(Bytes::len).sum();
        if total > MAX_CALL_BYTES {
            return Err(self.not_sent("the call is longer than any may be"));
        }
        let now = Instant::now();
        let deadline = now.checked_add(call.timeout).unwrap_or(now + Duration::from_secs(3600));
        let (slot, waiting) = Slot::new();
        let (writer, sooner) = {
            let mut state = self.state.lock();
            if let Some(reason) = &state.closed {
                return Err(self.not_sent(reason));
            }
            if state.lanes.bytes() > 0 && state.lanes.bytes() + total > self.queue_bytes {
                return Err(self.not_sent("its queue is full: it does not keep up"));
            }
            if state.calls.len() >= self.max_calls {
                return Err(self.not_sent("too many calls wait for its answers"));
            }
            state.sequence = state.sequence.wrapping_add(1);
            let sequence = state.sequence;
            let key = state.calls.insert(Pending {
                sequence,
                slot,
                deadline,
                begun: false,
            });
            let head = CallHead {
                id: id(sequence, key),
                service: call.service as u8,
                target: call.target,
                patience_ms: u32::try_from(call.timeout.as_millis()).unwrap_or(u32::MAX),
                // At most MAX_CALL_BYTES.
                total: total as u32,
            };
            let order = u64::from(head.service) << 32 | u64::from(head.target);
            state.lanes.push(order, Begin::Call(head), call.body);
            let sooner = deadline < state.look_at;
            if sooner {
                state.look_at = deadline;
            }
            (state.writer.take(), sooner)
        };
        if let Some(writer) = writer {
            writer.wake();
        }
        if sooner {
            self.sooner.notify_one();
        }
        Ok(waiting)
    }

    /// Sends `part` before everything that waits.
    pub(crate) fn control(&self, part: Part) {
        let writer = {
            let mut state = self.state.lock();
            state.lanes.push_control(part);
            state.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// The next frame; the end once the link is closed.
    pub(crate) fn poll_batch(&self, cx: &Context<'_>) -> Poll<Option<Batch>> {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return Poll::Ready(None);
        }
        let State { lanes, calls, .. } = &mut *state;
        let batch = lanes.fill(|id| {
            let Some(key) = find(calls, id) else {
                return false;
            };
            if calls[key].slot.is_gone() {
                calls.remove(key);
                return false;
            }
            calls[key].begun = true;
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

    /// Whether somebody still waits for this answer.
    pub(crate) fn waits(&self, id: u64) -> bool {
        let state = self.state.lock();
        find(&state.calls, id).is_some_and(|key| !state.calls[key].slot.is_gone())
    }

    /// Gives answers to who waits for them; what nobody waits for any more is dropped.
    pub(crate) fn answer(&self, answers: &mut Vec<(u64, slot::Outcome)>) {
        let mut wakes = Wakes::default();
        {
            let mut state = self.state.lock();
            for (id, outcome) in answers.drain(..) {
                if let Some(key) = find(&state.calls, id) {
                    state.calls.remove(key).slot.fill(outcome, &mut wakes);
                }
            }
        }
        wakes.wake();
    }

    /// Ends the calls whose patience is over; says when to look again, at the latest after `rhythm`.
    pub(crate) fn expire(&self, now: Instant, rhythm: Duration) -> Instant {
        let mut wakes = Wakes::default();
        let look_at = {
            let mut state = self.state.lock();
            let mut look_at = now + rhythm;
            let mut unsent = false;
            let State { lanes, calls, .. } = &mut *state;
            calls.retain(|_, call| {
                if call.deadline > now {
                    look_at = look_at.min(call.deadline);
                    return true;
                }
                call.slot.fill(Err(self.late(call.begun)), &mut wakes);
                unsent |= !call.begun;
                false
            });
            if unsent {
                lanes.retain(|id| find(calls, id).is_some());
            }
            state.look_at = look_at.max(now + GRAIN);
            state.look_at
        };
        wakes.wake();
        look_at
    }

    fn late(&self, begun: bool) -> CallError {
        if begun {
            CallError::Unknown(format!("node {} has not answered in time", self.node).into())
        } else {
            self.not_sent("it did not take the call in time")
        }
    }

    /// Ends all calls and refuses further ones. The first reason stays.
    pub(crate) fn close(&self, reason: &Arc<str>) {
        let mut wakes = Wakes::default();
        let writer = {
            let mut state = self.state.lock();
            if state.closed.is_some() {
                return;
            }
            state.closed = Some(Arc::clone(reason));
            state.lanes = Lanes::default();
            for (_, call) in std::mem::take(&mut state.calls) {
                let error = if call.begun {
                    CallError::Unknown(format!("node {}: {reason}", self.node).into())
                } else {
                    self.not_sent(reason)
                };
                call.slot.fill(Err(error), &mut wakes);
            }
            state.writer.take()
        };
        wakes.wake();
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Whether it has been closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed.is_some()
    }

    /// Bytes that wait, and calls without an answer.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.lanes.bytes(), state.calls.len())
    }
}

/// What an answer from the wire means here.
pub(crate) fn outcome(node: u64, outcome: frame::Outcome, body: Bytes) -> slot::Outcome {
    let text = || -> Arc<str> { String::from_utf8_lossy(&body).into() };
    match outcome {
        frame::Outcome::Done => Ok(body),
        frame::Outcome::Refused => Err(CallError::Refused(text())),
        frame::Outcome::Unknown => Err(CallError::Unknown(text())),
        frame::Outcome::NotCarriedOut => Err(CallError::NotSent(format!("node {node}: {}", text()).into())),
    }
}
