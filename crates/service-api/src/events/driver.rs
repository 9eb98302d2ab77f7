//! One connection: moves bytes between socket, engine and readers, and keeps its deadlines. It runs in one task.
//!
//! Order of one turn: write the output; ask the registry's leader if an answer needs it; let receivers fill the output;
//! read. A peer that does not read is not read from either, and costs at most one output buffer. An idle
//! connection owns no buffer: it reads into its core's scratch and keeps only what an unfinished frame leaves.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use holdfast_amqp::{Config, Connection, Expired, Fault, Incoming, limits};
use holdfast_device_hub::Protocol;
use holdfast_model::UnixMillis;
use holdfast_net::ByteStream;
use holdfast_tasks::Phase;
use tokio::io::ReadBuf;

use super::cbs::Certainty;
use super::delayed::Delayed;
use super::endpoint::{EventsEndpoint, Unauthenticated};
use super::opening::Opening;
use super::pending_management::PendingManagement;
use super::receiver::Receiver;
use super::refusal::{Refused, RefusedPrincipal, audit};
use super::request_node::{Outbox, RequestNode};
use super::tokens::Tokens;

/// Rounds of writing and reading in one turn; then other connections of the core get a turn.
const ROUNDS_PER_TURN: u32 = 16;
/// The longest sleep: deadlines can lie years ahead.
const MAX_SLEEP: Duration = Duration::from_secs(24 * 3600);

/// Credentials that can be refused only after the registry's leader has confirmed the local replica.
pub(super) enum Unconfirmed {
    /// SASL PLAIN.
    Plain { user: String, password: String },
    /// A request to `$cbs` or `$management`.
    Request(Incoming<'static>),
}

/// The socket is closed or broken.
struct ConnectionLost;

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
pub(super) struct Driver {
    pub(super) endpoint: Rc<EventsEndpoint>,
    pub(super) address: SocketAddr,
    pub(super) number: u64,
    pub(super) engine: Connection,
    pub(super) tokens: Tokens,
    pub(super) cbs: RequestNode,
    pub(super) management: RequestNode,
    pub(super) outbox: Outbox,
    pub(super) receivers: Vec<Receiver>,
    /// Receivers whose partition has not answered yet.
    pub(super) openings: Vec<Opening>,
    /// Requests about partitions that have not answered yet.
    pub(super) pending_management: Vec<PendingManagement>,
    pub(super) unconfirmed: Option<Unconfirmed>,
    /// Refusals that are answered later.
    pub(super) delayed: Vec<Delayed>,
    /// The time at the start of this turn.
    pub(super) now: Instant,
    stream: Box<dyn ByteStream>,
    protocol: Protocol,
    /// Bytes that were read and are not a whole frame, or follow a request that waits for confirmation.
    held: Vec<u8>,
    /// `held` can be parsed again: the confirmation has arrived.
    held_is_ready: bool,
    needs_flush: bool,
    /// Until when the peer of a closed connection can read the rest of the output.
    linger: Option<Instant>,
    /// Until when an identity must have authenticated.
    authenticate_by: Option<Instant>,
    waiting: Rc<Unauthenticated>,
    /// The receiver that is served first; rotates, so that none starves.
    first: usize,
}

impl Driver {
    pub(super) fn new(
        endpoint: Rc<EventsEndpoint>,
        stream: Box<dyn ByteStream>,
        address: SocketAddr,
        protocol: Protocol,
        number: u64,
        waiting: Rc<Unauthenticated>,
    ) -> Self {
        let now = Instant::now();
        endpoint.connection_opened();
        let mut engine = Config::default();
        // A connection that has not opened is not authenticated either.
        engine.open_timeout = engine.open_timeout.min(endpoint.config().unauthenticated_timeout);
        Self {
            endpoint,
            address,
            number,
            engine: Connection::server(engine, now),
            tokens: Tokens::default(),
            cbs: RequestNode::default(),
            management: RequestNode::default(),
            outbox: Outbox::default(),
            receivers: Vec::new(),
            openings: Vec::new(),
            pending_management: Vec::new(),
            unconfirmed: None,
            delayed: Vec::new(),
            now,
            stream,
            protocol,
            held: Vec::new(),
            held_is_ready: false,
            needs_flush: false,
            linger: None,
            authenticate_by: None,
            waiting,
            first: 0,
        }
    }

    /// Runs the connection until it ends.
    pub(super) async fn run(mut self) {
        let waiting = Rc::clone(&self.waiting);
        let stop = self.endpoint.stop().clone();
        let mut settings = self.endpoint.settings_changes();
        let mut drained = false;
        let sleep = tokio::time::sleep(MAX_SLEEP);
        let mut sleep = std::pin::pin!(sleep);
        loop {
            sleep.as_mut().reset(self.deadline().into());
            let step = tokio::select! {
                biased;
                () = stop.reached(Phase::Draining), if !drained => Step::Drain,
                () = waiting.evict.notified() => Step::Evict,
                changed = settings.changed() => if changed.is_ok() { Step::Settings } else { Step::End },
                () = sleep.as_mut() => Step::Due,
                step = poll_fn(|cx| self.poll_io(cx)) => step,
            };
            self.now = Instant::now();
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
                Step::Settings => self.recheck_authorization(),
                Step::Drain => {
                    drained = true;
                    self.close("amqp:connection:forced", "The node is stopping; connect again.");
                }
                Step::Evict => self.close("amqp:connection:forced", "Too many connections have not authenticated."),
            }
        }
    }

    /// The earliest deadline.
    fn deadline(&self) -> Instant {
        let tokens = self.tokens.next_end().map(|end| {
            let left = end.0.saturating_sub(self.endpoint.hub().clock().now().0);
            // A token is good up to and including its last millisecond.
            self.now + Duration::from_millis(left.saturating_add(1)).min(MAX_SLEEP)
        });
        let furthest = self.now + MAX_SLEEP;
        [
            self.engine.deadline(),
            self.linger,
            self.authenticate_by,
            tokens,
            self.delayed_until(),
        ]
        .into_iter()
        .flatten()
        .fold(furthest, Instant::min)
    }

    /// Handles passed deadlines; `true` when the connection has ended.
    fn due(&mut self) -> bool {
        match self.engine.expire(self.now) {
            Expired::Nothing => {}
            expired => {
                tracing::debug!(address = %self.address, ?expired, "AMQP connection timed out and is closed");
                return true;
            }
        }
        if self.linger.is_some_and(|until| until <= self.now) {
            return true;
        }
        self.send_delayed();
        if self.authenticate_by.is_some_and(|by| by <= self.now) {
            self.authenticate_by = None;
            // The text of Event Hubs; clients show it unchanged.
            let millis = self.endpoint.config().unauthenticated_timeout.as_millis();
            let text = format!(
                "The connection was inactive for more than the allowed {millis} milliseconds and is closed by container 'LinkTracker'."
            );
            self.close("amqp:connection:forced", &text);
        }
        if self
            .tokens
            .next_end()
            .is_some_and(|end| end < self.endpoint.hub().clock().now())
        {
            self.recheck_authorization();
        }
        false
    }

    /// Closes the connection; the output is still written.
    fn close(&mut self, condition: &'static str, text: &str) {
        let text =
            super::refusal::Tracking::new(&self.endpoint.hub_name(), self.endpoint.hub().clock().now()).text(text);
        self.engine.close(Some(&Fault::new(condition, &text)), self.now);
        self.drop_receivers();
    }

    fn drop_receivers(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "a few links")]
        self.endpoint.metrics().receivers.decrement(self.receivers.len() as f64);
        self.receivers = Vec::new();
        self.openings = Vec::new();
        self.pending_management = Vec::new();
        self.delayed = Vec::new();
    }

    /// Asks the registry's leader whether the local replica is up to date, then decides. The connection is neither read
    /// nor served meanwhile.
    async fn confirm(&mut self) {
        let Some(unconfirmed) = self.unconfirmed.take() else {
            return;
        };
        let hub = self.endpoint.hub_arc();
        let confirmed =
            tokio::time::timeout(self.endpoint.config().confirm_timeout, hub.registry().read_barrier()).await;
        let certainty = match confirmed {
            Ok(Ok(())) => Certainty::Confirmed,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the registry's leader did not confirm a refusal; the client is asked to retry");
                Certainty::Unconfirmed
            }
            Err(_) => Certainty::Unconfirmed,
        };
        self.now = Instant::now();
        match unconfirmed {
            Unconfirmed::Plain { user, password } => self.plain(&user, &password, certainty),
            Unconfirmed::Request(incoming) => self.transfer(&incoming, certainty),
        }
        self.held_is_ready = true;
    }

    /// An identity has authenticated.
    pub(super) fn authenticated(&mut self) {
        self.engine.authenticated();
        self.authenticate_by = None;
        self.waiting.over.set(true);
    }

    /// Starts the deadline for authentication if no identity is authenticated.
    pub(super) fn watch_authentication(&mut self) {
        if self.tokens.is_empty() {
            self.authenticate_by = Some(self.now + self.endpoint.config().unauthenticated_timeout);
        }
    }

    /// Counts a refusal and writes it to the audit log, with the name of an authenticated policy if there is one.
    pub(super) fn audit(&self, refused: &Refused, now: UnixMillis) {
        self.audit_as(&self.identity(), refused, now);
    }

    /// The name of an authenticated policy, for records.
    pub(super) fn identity(&self) -> String {
        self.tokens
            .first_policy()
            .map_or_else(|| "-".to_owned(), |policy| policy.to_string())
    }

    pub(super) fn audit_as(&self, identity: &str, refused: &Refused, now: UnixMillis) {
        let principal = RefusedPrincipal {
            identity,
            protocol: self.protocol,
            address: self.address,
        };
        audit(self.endpoint.hub(), self.endpoint.metrics(), principal, refused, now);
    }

    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        self.now = Instant::now();
        for _ in 0..ROUNDS_PER_TURN {
            let is_written = match self.poll_write(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(ConnectionLost)) => return Poll::Ready(Step::End),
                Poll::Pending => false,
            };
            if self.engine.is_closed() {
                if is_written {
                    return Poll::Ready(Step::End);
                }
                if self.linger.is_some() {
                    return Poll::Pending;
                }
                self.linger = Some(self.now + limits::CLOSE_TIMEOUT);
                return Poll::Ready(Step::Rearm);
            }
            if self.unconfirmed.is_some() {
                return Poll::Ready(Step::Confirm);
            }
            let sent = self.pump(cx);
            if sent && is_written {
                continue;
            }
            if self.engine.output().len() >= self.endpoint.config().output_bytes {
                return Poll::Pending;
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) => return Poll::Ready(Step::Rearm),
                Poll::Ready(Err(ConnectionLost)) => return Poll::Ready(Step::End),
                Poll::Pending => {
                    if self.engine.output().is_empty() {
                        self.engine.release();
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

    /// Writes the output and flushes.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionLost>> {
        while !self.engine.output().is_empty() {
            match Pin::new(&mut *self.stream).poll_write(cx, self.engine.output()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ConnectionLost)),
                Poll::Ready(Ok(written)) => {
                    self.engine.advance_output(written, self.now);
                    self.endpoint.metrics().written.increment(written as u64);
                    self.needs_flush = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(&error))),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.needs_flush {
            match Pin::new(&mut *self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.needs_flush = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(&error))),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn lost(&self, error: &std::io::Error) -> ConnectionLost {
        tracing::debug!(address = %self.address, %error, "AMQP connection lost; its links are released");
        ConnectionLost
    }

    /// Lets receivers fill the output; `true` when anything was added.
    fn pump(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.engine.output().len();
        self.poll_openings(cx);
        self.poll_pending_management(cx);
        if self.receivers.is_empty() {
            return self.engine.output().len() > before;
        }
        let now = self.endpoint.hub().clock().now();
        let output_bytes = self.endpoint.config().output_bytes;
        let mut sent = 0;
        let mut gone = Vec::new();
        self.first = (self.first + 1) % self.receivers.len();
        let (front, back) = self.receivers.split_at_mut(self.first);
        for receiver in back.iter_mut().chain(front) {
            match receiver.pump(&mut self.engine, output_bytes, now, cx) {
                Ok(events) => sent += events,
                Err(why) => gone.push((receiver.link, why)),
            }
        }
        self.endpoint.metrics().events.increment(sent);
        for (link, why) in gone {
            self.receiver_failed(link, why);
        }
        self.engine.output().len() > before
    }

    /// Reads once and handles the input. `true`: deadlines may have moved.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ConnectionLost>> {
        if std::mem::take(&mut self.held_is_ready) && !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let (taken, moved) = self.receive(&held);
            self.held = held[taken..].to_vec();
            return Poll::Ready(Ok(moved));
        }
        let endpoint = Rc::clone(&self.endpoint);
        let mut scratch = endpoint.scratch().borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        match Pin::new(&mut *self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(&error))),
            Poll::Ready(Ok(())) => {}
        }
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Err(ConnectionLost));
        }
        let moved = if self.held.is_empty() {
            let (taken, moved) = self.receive(read);
            self.held = read[taken..].to_vec();
            moved
        } else {
            // An unfinished frame is below 64 KiB, and so is what one read adds.
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(read);
            let (taken, moved) = self.receive(&held);
            held.drain(..taken);
            self.held = if held.is_empty() { Vec::new() } else { held };
            moved
        };
        Poll::Ready(Ok(moved))
    }

    /// Handles `input`. Returns how many bytes were consumed, and whether deadlines may have moved.
    fn receive(&mut self, input: &[u8]) -> (usize, bool) {
        let (mut rest, mut moved) = (input, false);
        while self.unconfirmed.is_none() {
            match self.engine.receive(&mut rest, self.now) {
                Ok(Some(event)) => moved |= self.handle(event),
                Ok(None) => break,
                Err(violation) => {
                    tracing::debug!(address = %self.address, %violation, "AMQP peer violated the protocol; the connection is closed");
                    self.endpoint.metrics().violation(violation.condition());
                    self.drop_receivers();
                    return (input.len(), true);
                }
            }
        }
        (input.len() - rest.len(), moved)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.waiting.over.set(true);
        self.drop_receivers();
        self.endpoint.connection_closed();
    }
}
