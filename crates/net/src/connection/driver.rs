//! The task of one connection: flush, wait for its turn, read, handle, end.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::read_buffer::offer;
use super::{Protocol, TransportEnd};

/// Reads of one connection before the other connections of its core get a turn.
const READS_PER_TURN: usize = 4;
/// Rounds of flushing and handling before the other connections of its core get a turn.
const ROUNDS_PER_TURN: usize = 16;

/// The task; small, since every idle connection has one.
pub(super) struct Driver<P: Protocol> {
    protocol: Rc<P>,
    /// The task is inside `poll`, or a panic has left it.
    is_polled: bool,
}

impl<P: Protocol> Driver<P> {
    pub(super) fn new(protocol: Rc<P>) -> Self {
        Self {
            protocol,
            is_polled: false,
        }
    }

    fn finish(&self, end: P::End) {
        let transport = self.protocol.transport();
        *transport.waker.borrow_mut() = None;
        transport.end.set(Some(end));
        transport.close();
        self.protocol.ended(end);
        transport.table.remove(transport.row);
    }
}

impl<P: Protocol> Future for Driver<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.is_polled = true;
        let turn = run(&self.protocol, cx);
        self.is_polled = false;
        match turn {
            Poll::Ready(end) => {
                self.finish(end);
                Poll::Ready(())
            }
            Poll::Pending => {
                let mut waker = self.protocol.transport().waker.borrow_mut();
                match &*waker {
                    Some(known) if known.will_wake(cx.waker()) => {}
                    _ => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

/// A panic of the handler ends its connection and no other (docs/decisions/0006).
impl<P: Protocol> Drop for Driver<P> {
    fn drop(&mut self) {
        if self.is_polled {
            self.finish(TransportEnd::Panicked.into());
        }
    }
}

fn run<P: Protocol>(protocol: &Rc<P>, cx: &mut Context<'_>) -> Poll<P::End> {
    let transport = protocol.transport();
    let mut reads = 0;
    for _ in 0..ROUNDS_PER_TURN {
        if let Some(end) = transport.end.get() {
            return Poll::Ready(end);
        }
        // A peer that does not read is not read either.
        if let Err(end) = ready!(transport.poll_flush(cx)) {
            return Poll::Ready(end.into());
        }
        ready!(protocol.poll_ready(cx));
        if transport.has_ended() || transport.needs_flush() {
            continue;
        }
        {
            let mut buffer = transport.read_buffer.borrow_mut();
            if buffer.is_blocked() {
                return Poll::Pending;
            }
            if buffer.take_resumed() {
                drop(buffer);
                offer(protocol, &[]);
                continue;
            }
        }
        if reads == READS_PER_TURN {
            break;
        }
        let mut scratch = transport.table.scratch.borrow_mut();
        let read = transport.io.borrow_mut().socket.poll_read(cx, &mut scratch);
        match ready!(read) {
            Ok(0) => return Poll::Ready(TransportEnd::Lost.into()),
            Ok(read) => {
                reads += 1;
                transport.has_received.set(true);
                offer(protocol, scratch.get(..read).unwrap_or_default());
            }
            Err(error) => return Poll::Ready(TransportEnd::from(&error).into()),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}
