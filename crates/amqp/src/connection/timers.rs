//! Timers: idle time-outs both ways, waits for open, detach and close.

use std::time::{Duration, Instant};

use super::event::Expired;
use super::handshake::Phase;
use super::{Connection, limits};
use crate::performative::Fault;

/// Tenths of the peer's idle time-out after which a heartbeat is sent.
const HEARTBEAT_TENTHS: u32 = 4;
/// The shortest pause between heartbeats, against peers that ask for absurdly many.
const MIN_HEARTBEAT: Duration = Duration::from_millis(200);
/// An empty frame.
const HEARTBEAT: [u8; 8] = [0, 0, 0, 8, 2, 0, 0, 0];

impl Connection {
    /// When [`Connection::expire`] wants to be called next; may move later, never earlier without a call of the driver.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open => [self.silence_deadline(), self.heartbeat_deadline(), self.detach_deadline]
                .into_iter()
                .flatten()
                .min(),
            Phase::Closing => self.close_deadline,
            Phase::Closed => None,
            _ => Some(self.started + self.config.open_timeout),
        }
    }

    fn silence_deadline(&self) -> Option<Instant> {
        self.config.idle_timeout.map(|idle| self.last_received + 2 * idle)
    }

    fn heartbeat_deadline(&self) -> Option<Instant> {
        self.peer_idle
            .map(|idle| self.last_sent + (idle * HEARTBEAT_TENTHS / 10).max(MIN_HEARTBEAT))
    }

    /// Handles the deadlines that have passed at `now`.
    pub fn expire(&mut self, now: Instant) -> Expired {
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        match self.phase {
            Phase::Open => {
                if due(self.silence_deadline()) {
                    let text = "the peer has been silent for longer than its idle time-out";
                    self.close(Some(&Fault::new("amqp:resource-limit-exceeded", text)), now);
                    self.phase = Phase::Closed;
                    return Expired::PeerSilent;
                }
                if due(self.heartbeat_deadline()) {
                    if self.output.pending().is_empty() {
                        self.output.raw(&HEARTBEAT);
                    }
                    self.last_sent = now;
                }
                if due(self.detach_deadline) {
                    self.expire_detaches(now);
                }
                Expired::Nothing
            }
            Phase::Closing if due(self.close_deadline) => {
                self.phase = Phase::Closed;
                Expired::CloseTimeout
            }
            Phase::Closing | Phase::Closed => Expired::Nothing,
            _ if due(Some(self.started + self.config.open_timeout)) => {
                self.phase = Phase::Closed;
                Expired::OpenTimeout
            }
            _ => Expired::Nothing,
        }
    }

    /// Removes links whose peers did not answer our detach.
    fn expire_detaches(&mut self, now: Instant) {
        let mut next: Option<Instant> = None;
        let mut freed = 0;
        for session in self.sessions.iter_mut().flatten() {
            freed += session.expire_detaches(now, &mut next);
        }
        self.link_count -= freed;
        self.detach_deadline = next;
    }

    pub(super) fn detach_due(&mut self, now: Instant) -> Instant {
        let until = now + limits::DETACH_TIMEOUT;
        self.detach_deadline = Some(self.detach_deadline.map_or(until, |earlier| earlier.min(until)));
        until
    }
}
