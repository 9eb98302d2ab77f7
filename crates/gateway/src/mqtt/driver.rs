//! The task of one connection: read, handle, write, end.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::connection::{Connection, Inner, lost};
use super::end::End;

/// Reads of one connection before others get their turn.
const READS_PER_TURN: usize = 4;

/// The task; small, since every idle connection has one.
pub(super) struct Drive {
    connection: Rc<Connection>,
    /// Set while the connection is being served: still set when the task is dropped, if that panicked.
    is_polled: bool,
}

impl Drive {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        Self {
            connection,
            is_polled: false,
        }
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        if self.is_polled {
            self.connection.finish(End::Panicked);
        }
    }
}

impl Future for Drive {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.is_polled = true;
        let turn = self.serve(cx);
        self.is_polled = false;
        turn
    }
}

impl Drive {
    fn serve(&self, cx: &mut Context<'_>) -> Poll<()> {
        let connection = &self.connection;
        let mut inner = connection.inner.borrow_mut();
        let turn = run(connection, &mut inner, cx);
        match turn {
            Poll::Ready(end) => {
                inner.waker = None;
                drop(inner);
                connection.finish(end);
                Poll::Ready(())
            }
            Poll::Pending => {
                match &inner.waker {
                    Some(waker) if waker.will_wake(cx.waker()) => {}
                    _ => inner.waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

fn run(connection: &Rc<Connection>, inner: &mut Inner, cx: &mut Context<'_>) -> Poll<End> {
    let mut reads = 0;
    loop {
        if let Some(end) = inner.end {
            return Poll::Ready(end);
        }
        match flush(inner, cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(end)) => {
                inner.end = Some(end);
                continue;
            }
            // A peer that does not read is not read either.
            Poll::Pending => return Poll::Pending,
        }
        if let Some(connecting) = &mut inner.connecting {
            match connecting.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => {
                    inner.connecting = None;
                    connection.decided(inner, result);
                    continue;
                }
            }
        }
        if connection.front.draining.get() || inner.retiring {
            return Poll::Pending;
        }
        let now_ms = connection.front.now_ms();
        if !Connection::may_read(inner, now_ms) {
            return Poll::Pending;
        }
        // Who has no session yet has nothing to send.
        if let Some(session) = &inner.session
            && !connection.front.core.has_capacity(session, cx)
        {
            return Poll::Pending;
        }
        if inner.held_is_ready {
            inner.held_is_ready = false;
            connection.received(inner, &[], now_ms);
            continue;
        }
        if reads == READS_PER_TURN {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut scratch = connection.front.scratch.borrow_mut();
        match inner.socket.poll_read(cx, &mut scratch) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => inner.end = Some(End::Lost),
            Poll::Ready(Ok(read)) => {
                reads += 1;
                connection.received(inner, &scratch[..read], now_ms);
            }
            Poll::Ready(Err(error)) => inner.end = Some(lost(&error)),
        }
    }
}

/// Hands everything that waits to the kernel.
fn flush(inner: &mut Inner, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
    while inner.needs_flush() {
        match inner.socket.poll_flush(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(lost(&error))),
            Poll::Ready(Ok(())) => {}
        }
        if inner.output.is_empty() {
            continue;
        }
        let output = std::mem::take(&mut inner.output);
        match inner.socket.try_write(&output) {
            Ok(taken) if taken == output.len() => {}
            Ok(taken) => inner.output = output[taken..].to_vec(),
            Err(error) => return Poll::Ready(Err(lost(&error))),
        }
    }
    Poll::Ready(Ok(()))
}
