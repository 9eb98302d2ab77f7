//! One connection: the engine and its handlers as a protocol of `net`'s driver, and the connection's deadlines.
//!
//! A turn handles what was read, then lets handlers fill the output, then writes it. Handlers are asked again only when
//! all of it has reached the kernel, so that a slow peer costs at most one output, twice.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use holdfast_amqp::{Expired, limits};
use holdfast_net::connection::{Protocol, Received, Transport, TransportEnd};
use tokio::time::{Sleep, sleep};

use crate::delayed::earliest;
use crate::dispatch::Dispatch;
use crate::links::Handshake;
use crate::server::now;
use crate::{AmqpServer, Carrier, Leaving, Links};

/// The longest sleep: deadlines can lie years ahead.
const MAX_SLEEP: Duration = Duration::from_secs(24 * 3600);

/// Why a connection is over.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// One of the sides has closed it.
    Closed,
    /// The peer was silent, or did not answer in time.
    TimedOut,
    /// The peer did not read the last bytes in time.
    Unread,
    /// A fault-injection message requested it.
    Injected,
    /// The driver ends it.
    Transport(TransportEnd),
}

impl End {
    /// The word in logs.
    fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::TimedOut => "timed_out",
            Self::Unread => "unread",
            Self::Injected => "injected_fault",
            Self::Transport(end) => end.label(),
        }
    }
}

impl From<TransportEnd> for End {
    fn from(end: TransportEnd) -> Self {
        Self::Transport(end)
    }
}

/// One connection.
pub(crate) struct ServedConnection {
    transport: Transport<Self>,
    state: RefCell<State>,
}

struct State {
    dispatch: Dispatch,
    /// Until when the peer of a closed connection can read the rest of the output.
    linger: Option<Instant>,
    /// Wakes the task at the earliest deadline: heartbeats and delayed refusals need less than the driver's second.
    timer: Pin<Box<Sleep>>,
}

impl ServedConnection {
    pub(crate) fn new(server: &Rc<AmqpServer>, transport: Transport<Self>, carrier: Carrier) -> Self {
        server.metrics().accepted.increment(1);
        server.metrics().connections.increment(1.0);
        let links = Links::new(Rc::clone(server), transport.address(), carrier);
        Self {
            state: RefCell::new(State {
                dispatch: Dispatch::new(links, transport.number()),
                linger: None,
                timer: Box::pin(sleep(MAX_SLEEP)),
            }),
            transport,
        }
    }

    /// Checks the authorization of the links again.
    pub(crate) fn recheck(&self) {
        self.change(Dispatch::recheck);
    }

    /// Detaches the links and closes the connection, since the node is going to stop or drains.
    pub(crate) fn leave(&self, leaving: Leaving) {
        self.change(|dispatch| dispatch.leave(leaving));
    }

    /// Makes a change that the connection has not requested; its output is still written.
    fn change(&self, change: impl FnOnce(&mut Dispatch)) {
        let state = &mut *self.state.borrow_mut();
        state.dispatch.links.now = now();
        change(&mut state.dispatch);
        if state.dispatch.links.engine.is_closed() {
            // The peer's close may be behind a request that waited.
            self.transport.resume();
        }
        self.transport.wake();
        self.watch_deadlines(state);
    }

    /// Makes the driver check the deadlines in time, also while the peer does not read.
    fn watch_deadlines(&self, state: &mut State) {
        if state.dispatch.links.engine.is_closed() {
            let until = state.dispatch.links.now + limits::CLOSE_TIMEOUT;
            state.linger.get_or_insert(until);
        }
        self.transport.check_earlier(self.due_ms(state));
    }

    /// The earliest deadline, in the driver's time.
    fn due_ms(&self, state: &State) -> u64 {
        let left = state.deadline().saturating_duration_since(now());
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        self.transport.now_ms().saturating_add(left)
    }

    /// Handles passed deadlines; the driver ends the connection if one of them was its last.
    fn expire(&self, state: &mut State) {
        if let Some(end) = state.expire() {
            self.transport.write_last(state.dispatch.links.engine.output(), end);
        }
    }

    /// Hands the output to the transport. Whether it may have stopped a handler that had more to send.
    fn write(&self, state: &mut State) -> bool {
        let links = &mut state.dispatch.links;
        let length = links.engine.output().len();
        if length > 0 {
            self.transport.write(links.engine.output());
            links.engine.advance_output(length, links.now);
            links.server.metrics().written.increment(length as u64);
        }
        links.engine.release();
        length >= links.output_bytes()
    }
}

impl State {
    /// The earliest deadline.
    fn deadline(&self) -> Instant {
        let links = &self.dispatch.links;
        let tokens = self.dispatch.next_end().map(|end| {
            let left = end.0.saturating_sub(links.authority().now().0);
            // A token is good up to and including its last millisecond.
            links.now + Duration::from_millis(left.saturating_add(1)).min(MAX_SLEEP)
        });
        let furthest = links.now + MAX_SLEEP;
        [
            links.engine.deadline(),
            self.linger,
            self.dispatch.authenticate_by,
            self.dispatch.leave_by,
            tokens,
            earliest(&links.delayed),
        ]
        .into_iter()
        .flatten()
        .fold(furthest, Instant::min)
    }

    /// Handles passed deadlines; why the connection has ended, if it has.
    fn expire(&mut self) -> Option<End> {
        let now = self.dispatch.links.now;
        match self.dispatch.links.engine.expire(now) {
            Expired::Nothing => {}
            Expired::PeerSilent | Expired::OpenTimeout | Expired::CloseTimeout => return Some(End::TimedOut),
        }
        if self.linger.is_some_and(|until| until <= now) {
            return Some(End::Unread);
        }
        self.dispatch.links.send_delayed();
        if self.dispatch.leave_by.is_some_and(|by| by <= now) {
            self.dispatch.close_leaving();
        }
        if self.dispatch.authenticate_by.is_some_and(|by| by <= now) {
            self.dispatch.authenticate_by = None;
            // The text of Event Hubs; clients show it unchanged.
            let millis = self.dispatch.links.server.config().unauthenticated_timeout.as_millis();
            let text = format!(
                "The connection was inactive for more than the allowed {millis} milliseconds and is closed by container 'LinkTracker'."
            );
            self.dispatch.close("amqp:connection:forced", &text);
        }
        let end = self.dispatch.next_end();
        if end.is_some_and(|end| end < self.dispatch.links.authority().now()) {
            self.dispatch.recheck();
        }
        None
    }

    /// Lets `timer` wake the task at the earliest deadline. Ready when that has passed.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.deadline().into();
        if due < self.timer.deadline() {
            self.timer.as_mut().reset(due);
        }
        let passed = self.timer.as_mut().poll(cx);
        if passed.is_ready() {
            self.timer.as_mut().reset((self.dispatch.links.now + MAX_SLEEP).into());
        }
        passed
    }
}

impl Protocol for ServedConnection {
    type End = End;

    const TASK: &'static str = "amqp-connection";

    fn transport(&self) -> &Transport<Self> {
        &self.transport
    }

    fn received(self: &Rc<Self>, input: &[u8]) -> Received {
        let dispatch = &mut self.state.borrow_mut().dispatch;
        dispatch.links.now = now();
        // TLS is complete with the first byte.
        dispatch.links.handshake.get_or_insert_with(|| {
            Box::new(Handshake {
                certificates: self.transport.peer_certificates(),
                tls: self.transport.tls_parameters(),
            })
        });
        let consumed = dispatch.receive(input);
        if dispatch.is_authenticated() {
            self.transport.set_authenticated();
        }
        Received {
            consumed,
            is_blocked: dispatch.is_blocked(),
        }
    }

    fn poll_ready(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        state.dispatch.links.now = now();
        if state.poll_timer(cx).is_ready() {
            self.expire(state);
            if self.transport.has_ended() {
                return Poll::Ready(());
            }
            // Sets the timer again.
            cx.waker().wake_by_ref();
        }
        if state.dispatch.waits_for_confirmation() {
            if state.dispatch.poll_confirmation(cx).is_pending() {
                // The connection is neither read nor served meanwhile.
                self.write(state);
                return if self.transport.needs_flush() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                };
            }
            if state.dispatch.is_authenticated() {
                self.transport.set_authenticated();
            }
            self.transport.resume();
        }
        if !state.dispatch.links.engine.is_closed() {
            let was_blocked = state.dispatch.is_blocked();
            state.dispatch.poll_handlers(cx);
            if was_blocked && !state.dispatch.is_blocked() {
                self.transport.resume();
            }
            if state.dispatch.is_authenticated() {
                self.transport.set_authenticated();
            }
        }
        if state.dispatch.links.is_reset {
            self.transport.reset(End::Injected);
            return Poll::Ready(());
        }
        let may_have_more = self.write(state);
        if state.dispatch.links.engine.is_closed() && !self.transport.needs_flush() {
            self.transport.end(End::Closed);
            return Poll::Ready(());
        }
        if may_have_more && !self.transport.needs_flush() {
            cx.waker().wake_by_ref();
        }
        self.watch_deadlines(state);
        if !self.transport.needs_flush() && !state.dispatch.may_read(cx) {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn next_deadline(&self, _: u64) -> u64 {
        self.due_ms(&self.state.borrow())
    }

    fn check_deadlines(&self, _: u64) {
        let state = &mut *self.state.borrow_mut();
        state.dispatch.links.now = now();
        self.expire(state);
        self.watch_deadlines(state);
        self.transport.wake();
    }

    fn drain(&self) {
        self.leave(Leaving::Stopping);
    }

    fn evict(&self) {
        let text = "Too many connections have not authenticated.";
        self.change(|dispatch| dispatch.close("amqp:connection:forced", text));
    }

    fn ended(&self, end: End) {
        let state = self.state.borrow();
        let links = &state.dispatch.links;
        links.server.metrics().connections.decrement(1.0);
        tracing::debug!(address = %links.address, end = end.label(), "AMQP connection ended; its links are released");
    }
}
