//! One AMQP connection as data, for both roles: bytes in, events out; calls in, bytes out.
//!
//! Why: the driver owns the socket, the clock and the buffers; the rules of the protocol are decided here, where they can
//! be tested with slices.
//! Invariants:
//! - [`Connection::receive`] handles one frame per event and borrows from the caller's input, so nothing is buffered here
//!   but unfinished multi-frame deliveries ([`crate::limits::MAX_PARTIAL_BYTES`]).
//! - What the engine can answer without a decision (begin, echoes, windows, heartbeats, detach, end, close) it answers.
//! - A stale [`LinkId`] or [`SessionId`] does nothing: ids are never reused within a connection.
//! - After a [`Violation`] the output ends with a `close` that names it.
//!
//! Not here: authorization, tokens, credit policy: the driver decides and calls.

mod event;
mod handshake;
mod link;
mod output;
mod receive;
mod send;
mod session;
mod timers;

pub use event::{Delivery, Event, Expired, Incoming, LinkId, Outgoing, SessionId};
pub use handshake::{ClientSasl, OpenSpec, SaslCode};
pub use link::{Accept, AttachSpec, Credit, Detached};

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::error::Violation;
use crate::limits;
use crate::performative::{Fault, encode_close};
use handshake::Phase;
use output::Output;
use session::Session;

/// The values that one side grants and advertises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The largest frame that we take, bytes.
    pub max_frame_size: u32,
    /// The largest delivery that we take, bytes.
    pub max_message_size: u64,
    /// After twice this silence the peer is dropped; advertised. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// From the start until the peer's open has been read.
    pub open_timeout: Duration,
    /// Server: whether it offers the mechanism `TPM` (Spec provisioning §5.2).
    pub offers_tpm: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_frame_size: limits::MAX_FRAME_SIZE,
            max_message_size: limits::MAX_MESSAGE_SIZE,
            idle_timeout: Some(limits::IDLE_TIMEOUT),
            open_timeout: limits::OPEN_TIMEOUT,
            offers_tpm: false,
        }
    }
}

/// One AMQP connection; see the module's header.
#[derive(Debug)]
pub struct Connection {
    config: Config,
    phase: Phase,
    is_client: bool,
    output: Output,
    /// The largest frame that the peer takes.
    peer_max_frame: u32,
    /// The highest channel that the peer takes.
    peer_channel_max: u16,
    /// A heartbeat is due after half of it without an outgoing frame.
    peer_idle: Option<Duration>,
    /// By our channel.
    sessions: Vec<Option<Box<Session>>>,
    /// The peer's channel to ours.
    remote_channels: BTreeMap<u16, u16>,
    /// The highest channel on which the peer ever began a session.
    highest_remote_channel: Option<u16>,
    next_serial: u32,
    link_count: u32,
    max_links: u32,
    partial_bytes: usize,
    /// A window that opened in the frame handled last, besides its event.
    window_opened: Option<SessionId>,
    started: Instant,
    last_received: Instant,
    last_sent: Instant,
    /// The earliest end of a wait for a peer's detach; may be too early.
    detach_deadline: Option<Instant>,
    close_deadline: Option<Instant>,
    client: Option<Box<handshake::ClientStart>>,
}

impl Connection {
    /// A server: waits for the client's first eight bytes.
    #[must_use]
    pub fn server(config: Config, now: Instant) -> Self {
        Self::new(config, Phase::ServerHeader, now)
    }

    /// A client: its first bytes are in the output already.
    #[must_use]
    pub fn client(config: Config, sasl: ClientSasl, open: OpenSpec, now: Instant) -> Self {
        let mut connection = Self::new(config, Phase::ClientHeader, now);
        connection.is_client = true;
        connection.max_links = limits::MAX_LINKS;
        connection.start_client(sasl, open);
        connection
    }

    fn new(config: Config, phase: Phase, now: Instant) -> Self {
        Self {
            config,
            phase,
            is_client: false,
            output: Output::default(),
            peer_max_frame: limits::MIN_MAX_FRAME_SIZE,
            peer_channel_max: limits::CHANNEL_MAX,
            peer_idle: None,
            sessions: Vec::new(),
            remote_channels: BTreeMap::new(),
            highest_remote_channel: None,
            next_serial: 0,
            link_count: 0,
            max_links: limits::MAX_LINKS_UNAUTHENTICATED,
            partial_bytes: 0,
            window_opened: None,
            started: now,
            last_received: now,
            last_sent: now,
            detach_deadline: None,
            close_deadline: None,
            client: None,
        }
    }

    /// Someone has authenticated: lifts the limit on links from [`limits::MAX_LINKS_UNAUTHENTICATED`] to
    /// [`limits::MAX_LINKS`].
    pub fn authenticated(&mut self) {
        self.max_links = limits::MAX_LINKS;
    }

    /// Whether both sides have opened and neither has closed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether the connection has ended: write the remaining output, then shut down.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether [`Connection::receive`] waits for a call of the driver ([`Connection::sasl_outcome`] or
    /// [`Connection::open`]): stop reading until then.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        matches!(self.phase, Phase::ServerVerdict | Phase::ServerOpen)
    }

    /// The bytes to be written next.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// Removes the first `written` bytes of the output, which were written.
    pub fn advance_output(&mut self, written: usize, now: Instant) {
        if written > 0 {
            self.last_sent = now;
        }
        self.output.advance(written);
    }

    /// Gives the empty output buffer back to the allocator; call before sleeping.
    pub fn release(&mut self) {
        self.output.release();
    }

    /// Closes the connection: `close` is sent once, then only the peer's close is waited for.
    ///
    /// Before the open there is nothing to close properly: the connection just ends.
    pub fn close(&mut self, error: Option<&Fault<'_>>, now: Instant) {
        match self.phase {
            Phase::Open => {
                self.output.frame(0, |buf| encode_close(buf, error));
                self.phase = Phase::Closing;
                self.close_deadline = Some(now + limits::CLOSE_TIMEOUT);
                self.drop_sessions();
            }
            Phase::Closing | Phase::Closed => {}
            _ => self.phase = Phase::Closed,
        }
    }

    /// Ends a connection whose peer violated the protocol.
    fn fail(&mut self, violation: &Violation) {
        let text = violation.to_string();
        let fault = Fault::new(violation.condition(), &text);
        if self.phase == Phase::Open {
            self.output.frame(0, |buf| encode_close(buf, Some(&fault)));
        } else if self.phase == Phase::ServerHeader && *violation == Violation::ProtocolHeader {
            self.output.raw(&crate::frame::SASL_HEADER);
        }
        self.phase = Phase::Closed;
        self.drop_sessions();
    }

    fn drop_sessions(&mut self) {
        self.sessions = Vec::new();
        self.remote_channels = BTreeMap::new();
        self.link_count = 0;
        self.partial_bytes = 0;
        self.detach_deadline = None;
    }

    fn serial(&mut self) -> u32 {
        self.next_serial = self.next_serial.wrapping_add(1);
        self.next_serial
    }
}
