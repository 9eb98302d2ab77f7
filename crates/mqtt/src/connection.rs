//! The server's side of one connection as data: the action that each packet requires, and the keep-alive deadline.
//!
//! Why: the rules of MQTT and of the hub about *when* a packet is allowed, in one place that needs no socket to be
//! tested. The driver owns socket, clock and buffers: it decodes with [`Connection::limits`], asks
//! [`Connection::handle`] and does what the [`Action`] says. Wire facts: Spec device-mqtt §2.4, §3, §10.
//! Invariants: at most 96 bytes and no heap of its own (tested), because a hub holds very many idle ones; times are
//! milliseconds of any clock that does not go back.
//! Not here: authentication, stored sessions, the queue of PUBACKs and their order (`gateway`), wills ([`crate::will`]).

mod action;

pub use action::Action;

use holdfast_model::IdentityId;
use smallvec::SmallVec;

use crate::codec::{Connect, ConnectCode, Limits, Packet, Publish, QoS, Subscribe, Unsubscribe, connack};
use crate::limits::{CONNECT_TIMEOUT_MS, MAX_SILENCE_MS, MAX_SUBSCRIPTIONS, MAX_UNACKED_PUBLISHES};
use crate::login::Claim;
use crate::subscriptions::{ChannelSet, SubscriptionSet};
use crate::topic::{self, DeviceTopic};
use crate::violation::Violation;

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Only a CONNECT is allowed.
    AwaitConnect,
    /// The CONNECT is with the authenticator; the client may send on, the driver keeps it unread.
    Authenticating,
    /// Accepted.
    Connected,
    /// The client said DISCONNECT: no will.
    Disconnected,
    /// The CONNECT was refused: no will.
    Refused,
    /// The client broke a rule after it was accepted, or was silent too long: its will is due.
    Broken,
}

/// The deadline that has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// No complete CONNECT in time; nothing is said.
    Connect,
    /// No packet for 1.5 keep-alives: 404104, the will is due.
    KeepAlive,
}

/// One connection of a device or module.
#[derive(Debug)]
pub struct Connection {
    identity: Option<IdentityId>,
    /// When the last packet went either way; before CONNECT, when the connection was opened.
    last_packet_ms: u64,
    /// Longest time without a packet; before CONNECT, the time allowed for it.
    silence_ms: u32,
    /// Subscriptions that the client has requested; ahead of `active` while a change is being stored.
    requested: SubscriptionSet,
    /// Subscriptions that deliveries may use.
    active: SubscriptionSet,
    /// Publishes at QoS 1 without their PUBACK.
    unacked: u16,
    phase: Phase,
    clean: bool,
}

impl Connection {
    /// A connection that was opened at `now_ms`.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self {
            identity: None,
            last_packet_ms: now_ms,
            silence_ms: CONNECT_TIMEOUT_MS,
            requested: SubscriptionSet::EMPTY,
            active: SubscriptionSet::EMPTY,
            unacked: 0,
            phase: Phase::AwaitConnect,
            clean: false,
        }
    }

    /// The same with another time for a complete CONNECT, in milliseconds.
    #[must_use]
    pub const fn with_connect_timeout(mut self, timeout_ms: u32) -> Self {
        self.silence_ms = timeout_ms;
        self
    }

    /// The limits for decoding the next packet.
    #[inline]
    #[must_use]
    pub const fn limits(&self) -> Limits {
        match self.phase {
            Phase::AwaitConnect => Limits::NEW_CLIENT,
            _ => Limits::CLIENT,
        }
    }

    /// The state of the connection.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The identity named by the CONNECT; authenticated once the phase is [`Phase::Connected`].
    #[must_use]
    pub const fn identity(&self) -> Option<&IdentityId> {
        self.identity.as_ref()
    }

    /// Longest time without a packet, in milliseconds; before CONNECT, the time allowed for it.
    #[must_use]
    pub const fn silence_ms(&self) -> u32 {
        self.silence_ms
    }

    /// The client requested a session that ends with the connection.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.clean
    }

    /// The subscriptions that deliveries may use.
    #[must_use]
    pub const fn subscriptions(&self) -> SubscriptionSet {
        self.active
    }

    /// The action that a packet requires.
    ///
    /// [`Action::Wait`] is the one answer after which the packet is not consumed: offer it again after
    /// [`Self::accept`].
    ///
    /// # Errors
    /// The rule that the packet breaks. The connection is over: send [`crate::codec::refusal`] and close.
    #[inline]
    pub fn handle<'a>(&mut self, packet: Packet<'a>, now_ms: u64) -> Result<Action<'a>, Violation> {
        // The hot path, apart so that the large values are moved once.
        if let (Phase::Connected, Packet::Publish(packet)) = (self.phase, &packet) {
            return match self.publish(packet) {
                Ok(topic) => {
                    self.last_packet_ms = now_ms;
                    Ok(Action::Publish { topic, packet: *packet })
                }
                Err(violation) => {
                    self.break_off();
                    Err(violation)
                }
            };
        }
        self.handle_other(packet, now_ms)
    }

    fn handle_other<'a>(&mut self, packet: Packet<'a>, now_ms: u64) -> Result<Action<'a>, Violation> {
        let result = match (self.phase, packet) {
            (Phase::Connected, packet) => self.connected(packet),
            (Phase::AwaitConnect, Packet::Connect(connect)) => self.connect(&connect),
            (Phase::AwaitConnect, _) => Err(Violation::FirstPacketNotConnect),
            (Phase::Authenticating, Packet::Connect(_)) => Err(Violation::SecondConnect),
            (Phase::Authenticating, _) => return Ok(Action::Wait),
            (Phase::Disconnected | Phase::Refused | Phase::Broken, _) => return Ok(Action::Ignore),
        };
        match result {
            Ok(_) => self.last_packet_ms = now_ms,
            Err(_) => self.break_off(),
        }
        result
    }

    fn connect<'a>(&mut self, connect: &Connect<'a>) -> Result<Action<'a>, Violation> {
        let claim = Claim::of(connect).map_err(Violation::Login)?;
        // Also for a refused will: the cause is recorded under the identity.
        self.identity = Some(claim.identity.clone());
        if let Some(will) = &connect.will {
            crate::will::Will::check(&claim.identity, will)?;
        }
        self.clean = connect.clean;
        self.silence_ms = silence_ms(connect.keep_alive);
        self.phase = Phase::Authenticating;
        Ok(Action::Authenticate(Box::new(claim)))
    }

    /// Accepts the client and returns the CONNACK; its further packets are handled from now on.
    ///
    /// `stored`: the subscriptions of an earlier connection, `None` if there is no session. They are active at once,
    /// before the CONNACK is written (Spec §3.1). A clean session ignores them.
    pub fn accept(&mut self, stored: Option<SubscriptionSet>, now_ms: u64) -> [u8; 4] {
        let stored = if self.clean { None } else { stored };
        self.requested = stored.unwrap_or_default();
        self.active = self.requested;
        self.phase = Phase::Connected;
        self.last_packet_ms = now_ms;
        connack(stored.is_some(), 0)
    }

    /// Refuses the client and returns the CONNACK; close the connection after it.
    pub fn refuse(&mut self, code: ConnectCode) -> [u8; 4] {
        self.phase = Phase::Refused;
        connack(false, code as u8)
    }

    #[inline]
    fn publish<'a>(&mut self, packet: &Publish<'a>) -> Result<DeviceTopic<'a>, Violation> {
        match packet.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.unacked = self.unacked.saturating_add(1),
            QoS::ExactlyOnce => return Err(Violation::QosTwo),
        }
        let Some(identity) = &self.identity else {
            return Err(Violation::FirstPacketNotConnect);
        };
        DeviceTopic::parse(identity, packet.topic)
    }

    fn connected<'a>(&mut self, packet: Packet<'a>) -> Result<Action<'a>, Violation> {
        match packet {
            Packet::PubAck(packet_id) => Ok(Action::Acked { packet_id }),
            Packet::Subscribe(packet) => self.subscribe(&packet),
            Packet::Unsubscribe(packet) => self.unsubscribe(&packet),
            Packet::PingReq => Ok(Action::Ping),
            Packet::Disconnect => {
                self.phase = Phase::Disconnected;
                Ok(Action::Disconnect)
            }
            Packet::Publish(packet) => Ok(Action::Publish {
                topic: self.publish(&packet)?,
                packet,
            }),
            Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => Err(Violation::QosTwo),
            Packet::Connect(_) => Err(Violation::SecondConnect),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(Violation::WrongDirection(packet.packet_type()))
            }
        }
    }

    fn subscribe<'a>(&mut self, packet: &Subscribe<'a>) -> Result<Action<'a>, Violation> {
        let mut set = self.requested;
        let mut codes = SmallVec::new();
        for filter in packet.filters.iter() {
            if codes.len() == MAX_SUBSCRIPTIONS {
                return Err(Violation::TooManyFilters);
            }
            let channels = self.channels(filter.filter)?;
            set = set.opened(channels, filter.qos);
            codes.push(filter.qos.granted() as u8);
        }
        let changed = std::mem::replace(&mut self.requested, set) != set;
        Ok(Action::Subscribe {
            packet_id: packet.packet_id,
            codes,
            set,
            changed,
        })
    }

    fn unsubscribe<'a>(&mut self, packet: &Unsubscribe<'a>) -> Result<Action<'a>, Violation> {
        let mut set = self.requested;
        // Unknown filters are confirmed like known ones (Spec §4.1).
        for channels in packet.filters.iter().filter_map(|filter| self.channels(filter).ok()) {
            set = set.closed(channels);
        }
        let changed = std::mem::replace(&mut self.requested, set) != set;
        Ok(Action::Unsubscribe {
            packet_id: packet.packet_id,
            set,
            changed,
        })
    }

    fn channels(&self, filter: &str) -> Result<ChannelSet, Violation> {
        let Some(identity) = &self.identity else {
            return Err(Violation::FirstPacketNotConnect);
        };
        topic::channels(identity, filter)
    }

    /// Makes `set` effective for deliveries; call it once the change is stored and its SUBACK or UNSUBACK written.
    pub const fn activate(&mut self, set: SubscriptionSet) {
        self.active = set;
    }

    /// Counts PUBACKs that were written.
    pub const fn acked(&mut self, count: u16) {
        self.unacked = self.unacked.saturating_sub(count);
    }

    /// Publishes at QoS 1 without their PUBACK.
    #[must_use]
    pub const fn unacked(&self) -> u16 {
        self.unacked
    }

    /// Whether the window of unacknowledged publishes is open; else stop reading, never close (Spec §10.2).
    #[must_use]
    pub const fn may_read(&self) -> bool {
        self.unacked < MAX_UNACKED_PUBLISHES && !matches!(self.phase, Phase::Authenticating)
    }

    /// Records that a packet was written: it resets the keep-alive timer, as C# clients and the service's documents
    /// expect.
    #[inline]
    pub const fn wrote(&mut self, now_ms: u64) {
        if matches!(self.phase, Phase::Connected) {
            self.last_packet_ms = now_ms;
        }
    }

    /// When to call [`Self::expire`]; `None` when the connection is over.
    #[must_use]
    pub const fn deadline_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Authenticating => Some(self.last_packet_ms + CONNECT_TIMEOUT_MS as u64),
            Phase::AwaitConnect | Phase::Connected => Some(self.last_packet_ms + self.silence_ms as u64),
            Phase::Disconnected | Phase::Refused | Phase::Broken => None,
        }
    }

    /// Checks the deadline; `Some` ends the connection.
    ///
    /// A client with withheld PUBACKs waits for the hub and is never too late (Spec §3.3); check again later.
    pub fn expire(&mut self, now_ms: u64) -> Option<Timeout> {
        if now_ms < self.deadline_ms()? {
            return None;
        }
        if self.phase == Phase::Connected {
            if self.unacked > 0 {
                self.last_packet_ms = now_ms;
                return None;
            }
            self.phase = Phase::Broken;
            return Some(Timeout::KeepAlive);
        }
        self.phase = Phase::Refused;
        Some(Timeout::Connect)
    }

    /// Whether the will is to be published now that the connection ends: it was accepted and said no DISCONNECT.
    #[must_use]
    pub const fn will_is_due(&self) -> bool {
        matches!(self.phase, Phase::Connected | Phase::Broken)
    }

    fn break_off(&mut self) {
        self.phase = if self.phase == Phase::Connected {
            Phase::Broken
        } else {
            Phase::Refused
        };
    }
}

/// 1.5 times the client's keep-alive; the server's maximum when it is 0 or larger (Spec §3.3).
fn silence_ms(keep_alive_seconds: u16) -> u32 {
    match u32::from(keep_alive_seconds) * 1500 {
        0 => MAX_SILENCE_MS,
        asked => asked.min(MAX_SILENCE_MS),
    }
}

#[cfg(test)]
mod tests;
