//! A reply that a caller waits for.
//!
//! Why not a oneshot channel: a frame carries many answers, and their callers are woken after the last one, outside of all
//! locks; and the sender can check cheaply whether the caller is gone.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use holdfast_consensus::transport::CallError;
use holdfast_tasks::sync::Mutex;

/// The result of a call.
pub(crate) type Reply = Result<Bytes, CallError>;

enum State {
    Pending,
    Polled(Waker),
    Completed(Reply),
    /// The reply was taken, or its caller is gone.
    Closed,
}

/// The sender's end of a reply.
pub(crate) struct PendingReply(Mutex<State>);

/// The caller's end: resolves with the reply. Dropping it abandons the call.
pub(crate) struct ReplyFuture(Arc<PendingReply>);

/// Wakers to be woken once all locks are released.
#[derive(Default)]
pub(crate) struct WakeList(Vec<Waker>);

impl PendingReply {
    pub(crate) fn new() -> (Arc<Self>, ReplyFuture) {
        let pending = Arc::new(Self(Mutex::new(State::Pending)));
        (Arc::clone(&pending), ReplyFuture(pending))
    }

    /// Whether the caller is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(*self.0.lock(), State::Closed)
    }

    /// Completes the call; only the first reply counts.
    pub(crate) fn complete(&self, reply: Reply, wakes: &mut WakeList) {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Closed) {
            State::Pending => *state = State::Completed(reply),
            State::Polled(waker) => {
                *state = State::Completed(reply);
                wakes.0.push(waker);
            }
            before => *state = before,
        }
    }
}

impl Future for ReplyFuture {
    type Output = Reply;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let mut state = self.0.0.lock();
        match &mut *state {
            State::Polled(waker) if waker.will_wake(cx.waker()) => Poll::Pending,
            State::Pending | State::Polled(_) => {
                *state = State::Polled(cx.waker().clone());
                Poll::Pending
            }
            State::Completed(_) | State::Closed => match std::mem::replace(&mut *state, State::Closed) {
                State::Completed(reply) => Poll::Ready(reply),
                _ => Poll::Ready(Err(CallError::Unknown("the reply was already taken".into()))),
            },
        }
    }
}

impl Drop for ReplyFuture {
    fn drop(&mut self) {
        *self.0.0.lock() = State::Closed;
    }
}

impl WakeList {
    /// Wakes all of them.
    pub(crate) fn wake(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}
