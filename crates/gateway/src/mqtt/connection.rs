//! One connection: its socket, its protocol state, and what others may do to it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use holdfast_device_hub::{CloseReason, Outcome, Protocol, ReceiptTarget, Refusal, Session, SessionTarget};
use holdfast_mqtt::codec;
use holdfast_mqtt::connection::Timeout;
use holdfast_mqtt::will::Will;
use holdfast_net::Socket;
use smallvec::SmallVec;

use super::MqttFront;
use super::end::End;

/// Longest time for which a connection with withheld acknowledgements is not read: its PINGREQ may be behind
/// (Spec device-mqtt §3.3).
const MAX_READ_PAUSE_MS: u64 = 20_000;

pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Session, Refusal>>>>;

/// A connection; shared by its task, the table, and the receipts of its messages.
pub(super) struct Connection {
    pub(super) front: Rc<MqttFront>,
    pub(super) key: usize,
    pub(super) number: u64,
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    authenticated: Cell<bool>,
    /// The second in which its deadlines are looked at next.
    pub(super) next_look: Cell<u64>,
    pub(super) inner: RefCell<Inner>,
}

/// The part that changes.
pub(super) struct Inner {
    pub(super) socket: Socket,
    pub(super) state: holdfast_mqtt::Connection,
    /// What an unfinished packet has left, or what waits until the CONNECT is decided.
    pub(super) held: Vec<u8>,
    /// Whether `held` may contain a whole packet.
    pub(super) held_is_ready: bool,
    /// What the kernel has not taken yet.
    pub(super) output: Vec<u8>,
    pub(super) session: Option<Session>,
    pub(super) connecting: Option<Connecting>,
    pub(super) will: Option<Box<Will>>,
    /// Packet ids whose PUBACK is due, oldest first.
    pub(super) unacked: SmallVec<[u16; 8]>,
    pub(super) unacked_bytes: u32,
    /// Since when nothing is read because of withheld acknowledgements.
    pub(super) paused_since: Option<u64>,
    /// Nothing is read any more; the connection ends once everything that it has sent is acknowledged.
    pub(super) retiring: bool,
    /// The connection's task.
    pub(super) waker: Option<Waker>,
    pub(super) end: Option<End>,
}

impl Connection {
    pub(super) fn new(
        front: Rc<MqttFront>,
        key: usize,
        number: u64,
        socket: Socket,
        address: SocketAddr,
        protocol: Protocol,
        now_ms: u64,
    ) -> Self {
        let connect_timeout_ms = u32::try_from(super::duration_ms(front.config.connect_timeout)).unwrap_or(u32::MAX);
        Self {
            front,
            key,
            number,
            address,
            protocol,
            authenticated: Cell::new(false),
            next_look: Cell::new(0),
            inner: RefCell::new(Inner {
                socket,
                state: holdfast_mqtt::Connection::new(now_ms).with_connect_timeout(connect_timeout_ms),
                held: Vec::new(),
                held_is_ready: false,
                output: Vec::new(),
                session: None,
                connecting: None,
                will: None,
                unacked: SmallVec::new(),
                unacked_bytes: 0,
                paused_since: None,
                retiring: false,
                waker: None,
                end: None,
            }),
        }
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.authenticated.get()
    }

    /// Counts the connection among the authenticated ones from now on.
    pub(super) fn set_authenticated(&self) {
        if !self.authenticated.replace(true) {
            self.front.unauthenticated.set(self.front.unauthenticated.get() - 1);
        }
    }

    /// Ends the connection; the first cause counts.
    pub(super) fn end(&self, end: End) {
        let mut inner = self.inner.borrow_mut();
        inner.end.get_or_insert(end);
        inner.wake();
    }

    /// Ends the connection now, or once everything that it has sent is acknowledged.
    pub(super) fn end_when_acknowledged(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.retiring = true;
        if inner.unacked.is_empty() {
            inner.end.get_or_insert(End::Hub(CloseReason::Stopping));
            inner.wake();
        }
    }

    pub(super) fn is_due(&self, now_seconds: u64) -> bool {
        self.next_look.get() <= now_seconds
    }

    /// Looks at deadlines; says when to look again, unless the connection is over.
    pub(super) fn look(&self, now_ms: u64) -> Option<u64> {
        let mut inner = self.inner.borrow_mut();
        if inner.end.is_some() {
            return None;
        }
        let expired = inner.state.expire(now_ms);
        let token_ends_ms = inner.session.as_ref().and_then(Session::expires).map(|expires| {
            let left = expires.0.saturating_sub(self.front.core.clock().now().0);
            (left, self.jitter_ms())
        });
        let end = match (expired, token_ends_ms) {
            (Some(Timeout::Connect), _) => Some(End::ConnectTimeout),
            (Some(Timeout::KeepAlive), _) => Some(End::KeepAlive),
            (None, Some((0, jitter))) => {
                let overdue = inner
                    .session
                    .as_ref()
                    .and_then(Session::expires)
                    .map_or(0, |expires| self.front.core.clock().now().0.saturating_sub(expires.0));
                (overdue >= jitter).then_some(End::Hub(CloseReason::TokenExpired))
            }
            _ => None,
        };
        if let Some(end) = end {
            inner.end = Some(end);
            inner.wake();
            return None;
        }
        if inner
            .paused_since
            .is_some_and(|since| now_ms.saturating_sub(since) > MAX_READ_PAUSE_MS)
        {
            inner.paused_since = None;
            inner.wake();
        }
        Some(self.next_deadline(&inner, now_ms))
    }

    /// When to look at the deadlines next: silence, the token's end, a pause of reading.
    pub(super) fn next_deadline(&self, inner: &Inner, now_ms: u64) -> u64 {
        let mut next = inner.state.deadline_ms().unwrap_or(now_ms + MAX_READ_PAUSE_MS);
        if let Some(expires) = inner.session.as_ref().and_then(Session::expires) {
            let left = expires.0.saturating_sub(self.front.core.clock().now().0);
            let wait = if left > 0 { left } else { self.jitter_ms().min(1000) };
            next = next.min(now_ms.saturating_add(wait));
        }
        if inner.paused_since.is_some() {
            next = next.min(now_ms + MAX_READ_PAUSE_MS);
        }
        next
    }

    /// A spread of the hub's closings after tokens that were made together; the same for one connection each time.
    fn jitter_ms(&self) -> u64 {
        let range = super::duration_ms(self.front.config.expiry_jitter.max(Duration::from_millis(1)));
        self.number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % range
    }

    /// Whether the connection may be read: its window has room.
    pub(super) fn may_read(inner: &mut Inner, now_ms: u64) -> bool {
        let has_window = inner.state.may_read() && (inner.unacked_bytes as usize) < MAX_UNACKED_BYTES;
        if has_window {
            inner.paused_since = None;
            return true;
        }
        match inner.paused_since {
            None => {
                inner.paused_since = Some(now_ms);
                false
            }
            Some(_) => false,
        }
    }
}

/// Bytes of one connection that may wait for their acknowledgement (Spec device-mqtt §10.2, ours).
const MAX_UNACKED_BYTES: usize = 2 * 1024 * 1024;

impl Inner {
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Writes as much as the kernel takes and keeps the rest; `false` when the connection is lost or the peer does not
    /// read.
    pub(super) fn write(&mut self, bytes: &[u8], max_output: usize) -> Result<(), End> {
        let mut rest = bytes;
        if self.output.is_empty() {
            match self.socket.try_write(bytes) {
                Ok(taken) => rest = &bytes[taken..],
                Err(error) => return Err(lost(&error)),
            }
        }
        if self.output.len() + rest.len() > max_output {
            return Err(End::OutputOverflow);
        }
        self.output.extend_from_slice(rest);
        Ok(())
    }

    pub(super) fn needs_flush(&self) -> bool {
        !self.output.is_empty() || self.socket.wants_flush()
    }
}

/// What an I/O error means for the connection.
pub(super) fn lost(error: &io::Error) -> End {
    if error.kind() == io::ErrorKind::InvalidData {
        End::Tls
    } else {
        End::Lost
    }
}

impl ReceiptTarget for Connection {
    fn settled(&self, cookies: &[u64], outcome: Outcome) {
        let mut inner = self.inner.borrow_mut();
        if inner.end.is_some() {
            return;
        }
        if outcome == Outcome::Failed {
            // Closing withholds the acknowledgement; the client sends again after it has reconnected.
            inner.end = Some(End::Hub(CloseReason::Unavailable));
            inner.wake();
            return;
        }
        let mut acks: SmallVec<[u8; 256]> = SmallVec::new();
        for cookie in cookies {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the cookie of a publish is its packet id"
            )]
            let packet_id = *cookie as u16;
            acks.extend_from_slice(&codec::puback(packet_id));
        }
        let settled = cookies.len().min(inner.unacked.len());
        if settled == inner.unacked.len() {
            inner.unacked.clear();
            inner.unacked_bytes = 0;
        } else {
            let share = u64::from(inner.unacked_bytes) * settled as u64 / inner.unacked.len() as u64;
            inner.unacked_bytes -= u32::try_from(share).unwrap_or(inner.unacked_bytes);
            inner.unacked.drain(..settled);
        }
        let was_full = !inner.state.may_read() || inner.paused_since.is_some();
        inner.state.acked(u16::try_from(settled).unwrap_or(u16::MAX));
        inner.state.wrote(self.front.now_ms());
        match inner.write(&acks, self.front.config.max_output_bytes) {
            Ok(()) => {
                if inner.retiring && inner.unacked.is_empty() {
                    inner.end = Some(End::Hub(CloseReason::Stopping));
                    inner.wake();
                    return;
                }
                if was_full || inner.held_is_ready || inner.needs_flush() {
                    inner.paused_since = None;
                    inner.wake();
                }
            }
            Err(end) => {
                inner.end = Some(end);
                inner.wake();
            }
        }
    }
}

impl SessionTarget for Connection {
    fn close(&self, reason: CloseReason) {
        match reason {
            CloseReason::Stopping => self.end_when_acknowledged(),
            reason => self.end(End::Hub(reason)),
        }
    }
}
