//! Where a call's answer is put, and the waking of who waits for it.
//!
//! Why not a oneshot channel: answers come many in a frame, and their waiters are woken after the last one, outside
//! every lock; and a waiter that is gone is seen without asking it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use holdfast_consensus::transport::CallError;
use holdfast_tasks::sync::Mutex;

/// What came of a call.
pub(crate) type Outcome = Result<Bytes, CallError>;

enum State {
    Empty,
    Waited(Waker),
    Done(Outcome),
    Gone,
}

/// The place of one answer.
pub(crate) struct Slot(Mutex<State>);

/// The caller's end: resolves with the answer. Dropping it tells the sender that nobody waits.
pub(crate) struct Waiting(Arc<Slot>);

/// Who is to be woken, after the work is done.
#[derive(Default)]
pub(crate) struct Wakes(Vec<Waker>);

impl Slot {
    pub(crate) fn new() -> (Arc<Self>, Waiting) {
        let slot = Arc::new(Self(Mutex::new(State::Empty)));
        (Arc::clone(&slot), Waiting(slot))
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(*self.0.lock(), State::Gone)
    }

    /// Puts the answer; the first one counts.
    pub(crate) fn fill(&self, outcome: Outcome, wakes: &mut Wakes) {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Gone) {
            State::Empty => *state = State::Done(outcome),
            State::Waited(waker) => {
                *state = State::Done(outcome);
                wakes.0.push(waker);
            }
            before => *state = before,
        }
    }
}

impl Future for Waiting {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.0.0.lock();
        match &mut *state {
            State::Waited(waker) if waker.will_wake(cx.waker()) => Poll::Pending,
            State::Empty | State::Waited(_) => {
                *state = State::Waited(cx.waker().clone());
                Poll::Pending
            }
            State::Done(_) | State::Gone => match std::mem::replace(&mut *state, State::Gone) {
                State::Done(outcome) => Poll::Ready(outcome),
                _ => Poll::Ready(Err(CallError::Unknown("the answer was taken before".into()))),
            },
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        *self.0.0.lock() = State::Gone;
    }
}

impl Wakes {
    /// Wakes them all.
    pub(crate) fn wake(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}
