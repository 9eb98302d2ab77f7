//! One connection: moves bytes between socket, engine and handlers, and keeps its deadlines. It runs in one task.
//!
//! Order of one turn: write the output; ask the registry's leader if an answer needs it; let handlers fill the output;
//! read. A peer that does not read is not read from either, and costs at most one output buffer.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use holdfast_amqp::{Expired, limits};
use holdfast_net::ByteStream;
use holdfast_tasks::Phase;

use crate::delayed::earliest;
use crate::dispatch::{Dispatch, Unconfirmed};
use crate::server::Unauthenticated;
use crate::socket::{ConnectionLost, Socket};
use crate::{AmqpServer, Certainty, Links, Transport};

/// Rounds of writing and reading in one turn; then other connections of the core get a turn.
const ROUNDS_PER_TURN: u32 = 16;
/// The longest sleep: deadlines can lie years ahead.
const MAX_SLEEP: Duration = Duration::from_secs(24 * 3600);

/// Why the connection's task stops polling its socket.
enum Step {
    /// The connection has ended.
    End,
    /// A refusal waits for confirmation.
    Confirm,
    /// Deadlines may have moved.
    Rearm,
    /// A deadline has passed.
    Due,
    /// Settings have changed.
    Settings,
    /// The node drains.
    Drain,
    /// Too many connections have not authenticated.
    Evict,
}

/// One connection.
pub(crate) struct ServedConnection {
    socket: Socket,
    dispatch: Dispatch,
    /// Until when the peer of a closed connection can read the rest of the output.
    linger: Option<Instant>,
}

impl ServedConnection {
    pub(crate) fn new(
        server: &Rc<AmqpServer>,
        stream: Box<dyn ByteStream>,
        address: SocketAddr,
        transport: Transport,
        number: u64,
        unauthenticated: Rc<Unauthenticated>,
    ) -> Self {
        server.connection_opened();
        Self {
            socket: Socket::new(stream, address, server.metrics().written.clone()),
            dispatch: Dispatch::new(
                Links::new(Rc::clone(server), address, transport),
                number,
                unauthenticated,
            ),
            linger: None,
        }
    }

    /// Runs the connection until it ends.
    pub(crate) async fn run(mut self) {
        let unauthenticated = Rc::clone(&self.dispatch.unauthenticated);
        let stop = self.dispatch.links.server.stop().clone();
        let mut settings = self.dispatch.links.server.settings_changes();
        let mut drained = false;
        let sleep = tokio::time::sleep(MAX_SLEEP);
        let mut sleep = std::pin::pin!(sleep);
        loop {
            sleep.as_mut().reset(self.deadline().into());
            let step = tokio::select! {
                biased;
                () = stop.reached(Phase::Draining), if !drained => Step::Drain,
                () = unauthenticated.evict.notified() => Step::Evict,
                changed = settings.changed() => if changed.is_ok() { Step::Settings } else { Step::End },
                () = sleep.as_mut() => Step::Due,
                step = poll_fn(|cx| self.poll_io(cx)) => step,
            };
            self.dispatch.links.now = Instant::now();
            match step {
                Step::End => return,
                Step::Rearm => {}
                Step::Confirm => self.confirm().await,
                Step::Due => {
                    if self.due() {
                        // The rest of the output, if the socket takes it at once.
                        let _ = poll_fn(|cx| Poll::Ready(self.poll_write(cx))).await;
                        return;
                    }
                }
                Step::Settings => self.dispatch.recheck(),
                Step::Drain => {
                    drained = true;
                    self.dispatch
                        .close("amqp:connection:forced", "The node is stopping; connect again.");
                }
                Step::Evict => self
                    .dispatch
                    .close("amqp:connection:forced", "Too many connections have not authenticated."),
            }
        }
    }

    /// The earliest deadline.
    fn deadline(&self) -> Instant {
        let links = &self.dispatch.links;
        let tokens = links.tokens.next_end().map(|end| {
            let left = end.0.saturating_sub(links.authority().now().0);
            // A token is good up to and including its last millisecond.
            links.now + Duration::from_millis(left.saturating_add(1)).min(MAX_SLEEP)
        });
        let furthest = links.now + MAX_SLEEP;
        [
            links.engine.deadline(),
            self.linger,
            self.dispatch.authenticate_by,
            tokens,
            earliest(&links.delayed),
        ]
        .into_iter()
        .flatten()
        .fold(furthest, Instant::min)
    }

    /// Handles passed deadlines; `true` when the connection has ended.
    fn due(&mut self) -> bool {
        let now = self.dispatch.links.now;
        match self.dispatch.links.engine.expire(now) {
            Expired::Nothing => {}
            expired => {
                tracing::debug!(address = %self.dispatch.links.address, ?expired, "AMQP connection timed out and is closed");
                return true;
            }
        }
        if self.linger.is_some_and(|until| until <= now) {
            return true;
        }
        self.dispatch.links.send_delayed();
        if self.dispatch.authenticate_by.is_some_and(|by| by <= now) {
            self.dispatch.authenticate_by = None;
            // The text of Event Hubs; clients show it unchanged.
            let millis = self.dispatch.links.server.config().unauthenticated_timeout.as_millis();
            let text = format!(
                "The connection was inactive for more than the allowed {millis} milliseconds and is closed by container 'LinkTracker'."
            );
            self.dispatch.close("amqp:connection:forced", &text);
        }
        let end = self.dispatch.links.tokens.next_end();
        if end.is_some_and(|end| end < self.dispatch.links.authority().now()) {
            self.dispatch.recheck();
        }
        false
    }

    /// Asks the registry's leader whether the local replica is up to date, then decides. The connection is neither read
    /// nor served meanwhile.
    async fn confirm(&mut self) {
        let Some(unconfirmed) = self.dispatch.unconfirmed.take() else {
            return;
        };
        let confirmation = self.dispatch.links.authority().confirm();
        let confirmed = tokio::time::timeout(self.dispatch.links.server.config().confirm_timeout, confirmation).await;
        let certainty = match confirmed {
            Ok(Ok(())) => Certainty::Confirmed,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the registry's leader did not confirm a refusal; the client is asked to retry");
                Certainty::Unconfirmed
            }
            Err(_) => Certainty::Unconfirmed,
        };
        self.dispatch.links.now = Instant::now();
        match unconfirmed {
            Unconfirmed::Plain { user, password } => self.dispatch.plain(&user, &password, certainty),
            Unconfirmed::Request(incoming) => self.dispatch.transfer(&incoming, certainty),
        }
        self.socket.retry_held();
    }

    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        self.dispatch.links.now = Instant::now();
        for _ in 0..ROUNDS_PER_TURN {
            let is_written = match self.poll_write(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(ConnectionLost)) => return Poll::Ready(Step::End),
                Poll::Pending => false,
            };
            if self.dispatch.links.engine.is_closed() {
                if is_written {
                    return Poll::Ready(Step::End);
                }
                if self.linger.is_some() {
                    return Poll::Pending;
                }
                self.linger = Some(self.dispatch.links.now + limits::CLOSE_TIMEOUT);
                return Poll::Ready(Step::Rearm);
            }
            if self.dispatch.unconfirmed.is_some() {
                return Poll::Ready(Step::Confirm);
            }
            let sent = self.dispatch.poll_handlers(cx);
            if sent && is_written {
                continue;
            }
            if !self.dispatch.links.has_capacity() {
                return Poll::Pending;
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) => return Poll::Ready(Step::Rearm),
                Poll::Ready(Err(ConnectionLost)) => return Poll::Ready(Step::End),
                Poll::Pending => {
                    if self.dispatch.links.engine.output().is_empty() {
                        self.dispatch.links.engine.release();
                        return Poll::Pending;
                    }
                    if !is_written {
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionLost>> {
        self.socket
            .poll_write(&mut self.dispatch.links.engine, self.dispatch.links.now, cx)
    }

    /// Reads once and handles the input. `true`: deadlines may have moved.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ConnectionLost>> {
        let Self { socket, dispatch, .. } = self;
        let server = Rc::clone(&dispatch.links.server);
        socket.poll_read(server.scratch(), cx, |input| dispatch.receive(input))
    }
}

impl Drop for ServedConnection {
    fn drop(&mut self) {
        self.dispatch.unauthenticated.over.set(true);
        self.dispatch.links.server.connection_closed();
    }
}
