//! Sessions: channels, windows, and the deliveries that wait for an outcome.

use std::collections::BTreeMap;
use std::time::Instant;

use smallvec::SmallVec;

use super::event::{Event, LinkId, Outgoing, SessionId};
use super::link::Link;
use super::{Connection, limits};
use crate::error::Violation;
use crate::performative::{Begin, Disposition, Fault, Flow, Outcome, Role, encode_end};

/// The id of the first transfer frame that we send.
const FIRST_OUTGOING_ID: u32 = 1;

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) serial: u32,
    /// `None` until the peer has answered our begin.
    pub(super) remote_channel: Option<u16>,
    /// We have sent an end and wait for the peer's.
    pub(super) ending: bool,
    pub(super) next_outgoing_id: u32,
    /// The number of the next delivery; counts deliveries, not frames.
    pub(super) next_delivery_id: u32,
    /// Transfer frames that the peer still takes.
    pub(super) remote_window: u32,
    pub(super) next_incoming_id: u32,
    /// Transfer frames that the peer may still send.
    pub(super) incoming_window: u32,
    /// Frames sent beyond the window.
    pub(super) overrun: u32,
    /// Incoming deliveries without our outcome; they reduce the window.
    pub(super) unsettled: u32,
    /// By our handle.
    pub(super) links: Vec<Option<Box<Link>>>,
    /// The peer's handle to ours.
    pub(super) remote_handles: BTreeMap<u32, u32>,
    /// The highest handle that the peer ever attached.
    pub(super) highest_remote_handle: Option<u32>,
    /// Deliveries of ours, by id.
    pub(super) outgoing: BTreeMap<u32, Sent>,
    /// The rest of a delivery that the peer's window cut off.
    pub(super) stalled: Option<Box<Stalled>>,
}

/// An unsettled delivery of ours.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) handle: u32,
    pub(super) serial: u32,
    pub(super) tag: SmallVec<[u8; 16]>,
}

/// The rest of a delivery whose first frames have been sent.
#[derive(Debug)]
pub(super) struct Stalled {
    pub(super) handle: u32,
    pub(super) settled: bool,
    pub(super) payload: Vec<u8>,
    pub(super) sent: usize,
}

impl Session {
    fn new(serial: u32) -> Self {
        Self {
            serial,
            remote_channel: None,
            ending: false,
            next_outgoing_id: FIRST_OUTGOING_ID,
            next_delivery_id: 0,
            remote_window: 0,
            next_incoming_id: 0,
            incoming_window: limits::SESSION_WINDOW,
            overrun: 0,
            unsettled: 0,
            links: Vec::new(),
            remote_handles: BTreeMap::new(),
            highest_remote_handle: None,
            outgoing: BTreeMap::new(),
            stalled: None,
        }
    }

    fn begin(&self) -> Begin {
        Begin {
            remote_channel: self.remote_channel,
            next_outgoing_id: self.next_outgoing_id,
            incoming_window: self.incoming_window,
            outgoing_window: limits::SESSION_WINDOW,
            handle_max: Some(limits::HANDLE_MAX),
        }
    }

    fn mapped(&mut self, channel: u16, begin: &Begin) {
        self.remote_channel = Some(channel);
        self.next_incoming_id = begin.next_outgoing_id;
        self.remote_window = begin.incoming_window;
    }

    /// The session part of a flow.
    pub(super) fn flow(&self) -> Flow {
        Flow {
            next_incoming_id: self.remote_channel.map(|_| self.next_incoming_id),
            incoming_window: self.incoming_window,
            next_outgoing_id: self.next_outgoing_id,
            outgoing_window: limits::SESSION_WINDOW,
            ..Flow::default()
        }
    }

    pub(super) fn link(&self, id: LinkId) -> Option<&Link> {
        self.links
            .get(id.handle as usize)?
            .as_deref()
            .filter(|link| link.serial == id.serial)
    }

    /// Whether the window should be opened further; sets it when so.
    pub(super) fn reopen_window(&mut self) -> bool {
        let target = limits::SESSION_WINDOW.saturating_sub(self.unsettled);
        let due = self.incoming_window <= limits::SESSION_WINDOW / 2
            && target >= self.incoming_window + limits::SESSION_WINDOW / 4;
        if due {
            self.incoming_window = target;
            self.overrun = 0;
        }
        due
    }

    /// Applies the peer's window; true when it opens after being closed.
    pub(super) fn update_window(&mut self, flow: &Flow) -> bool {
        let was_closed = self.remote_window == 0;
        let seen = flow.next_incoming_id.unwrap_or(FIRST_OUTGOING_ID);
        let on_the_way = self.next_outgoing_id.wrapping_sub(seen);
        self.remote_window = flow.incoming_window.saturating_sub(on_the_way);
        was_closed && self.remote_window > 0
    }

    pub(super) fn expire_detaches(&mut self, now: Instant, next: &mut Option<Instant>) -> u32 {
        let mut freed = 0;
        for slot in &mut self.links {
            let Some(until) = slot.as_ref().and_then(|link| link.detaching_until()) else {
                continue;
            };
            if until <= now {
                if let Some(remote) = slot.take().and_then(|link| link.remote_handle) {
                    self.remote_handles.remove(&remote);
                }
                freed += 1;
            } else {
                *next = Some(next.map_or(until, |earlier| earlier.min(until)));
            }
        }
        freed
    }
}

impl Connection {
    /// Begins a session; [`Event::Begun`] follows. `None` when the connection is not open or the peer takes no more.
    pub fn begin(&mut self) -> Option<SessionId> {
        if !self.is_open() {
            return None;
        }
        let serial = self.serial();
        let channel = self.free_channel()?;
        let session = Session::new(serial);
        self.output.frame(channel, |buf| session.begin().encode(buf));
        self.sessions[usize::from(channel)] = Some(Box::new(session));
        Some(SessionId { channel, serial })
    }

    /// Ends a session; its links end at once, without events.
    pub fn end(&mut self, session: SessionId, error: Option<&Fault<'_>>) {
        if self.session(session).is_some_and(|session| !session.ending) {
            self.put_end(session.channel, error);
        }
    }

    /// Sends an end and empties the session, which stays until the peer's end.
    fn put_end(&mut self, channel: u16, error: Option<&Fault<'_>>) {
        self.output.frame(channel, |buf| encode_end(buf, error));
        if let Some(session) = self.sessions[usize::from(channel)].as_deref_mut() {
            session.ending = true;
            let links = std::mem::take(&mut session.links);
            session.remote_handles.clear();
            session.outgoing.clear();
            session.stalled = None;
            self.forget_links(links);
        }
    }

    fn forget_links(&mut self, links: Vec<Option<Box<Link>>>) {
        for link in links.into_iter().flatten() {
            self.link_count -= 1;
            self.partial_bytes -= link.partial_bytes();
        }
    }

    /// The peer broke a rule of the session: ends it.
    pub(super) fn end_with(&mut self, channel: u16, condition: &'static str, text: &'static str) -> Event<'static> {
        let serial = self.sessions[usize::from(channel)]
            .as_ref()
            .map_or(0, |session| session.serial);
        let fault = Fault::new(condition, text);
        self.put_end(channel, Some(&fault));
        Event::Ended {
            session: SessionId { channel, serial },
            error: Some(fault),
        }
    }

    pub(super) fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions
            .get(usize::from(id.channel))?
            .as_deref()
            .filter(|session| session.serial == id.serial)
    }

    pub(super) fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions
            .get_mut(usize::from(id.channel))?
            .as_deref_mut()
            .filter(|session| session.serial == id.serial)
    }

    fn free_channel(&mut self) -> Option<u16> {
        let free = self
            .sessions
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.sessions.len());
        let channel = u16::try_from(free).ok()?;
        if channel > self.peer_channel_max.min(limits::CHANNEL_MAX) {
            return None;
        }
        if free == self.sessions.len() {
            self.sessions.push(None);
        }
        Some(channel)
    }

    pub(super) fn on_begin(&mut self, remote: u16, begin: &Begin) -> Result<Option<Event<'static>>, Violation> {
        if remote > limits::CHANNEL_MAX || self.remote_channels.contains_key(&remote) {
            return Err(Violation::BadChannel(remote));
        }
        let channel = match begin.remote_channel {
            Some(ours) => {
                let session = self.sessions.get_mut(usize::from(ours)).and_then(Option::as_deref_mut);
                let Some(session) = session.filter(|session| session.remote_channel.is_none()) else {
                    return Err(Violation::BadChannel(ours));
                };
                session.mapped(remote, begin);
                ours
            }
            None => {
                let serial = self.serial();
                let channel = self.free_channel().ok_or(Violation::ResourceLimit("sessions"))?;
                let mut session = Session::new(serial);
                session.mapped(remote, begin);
                self.output.frame(channel, |buf| session.begin().encode(buf));
                self.sessions[usize::from(channel)] = Some(Box::new(session));
                channel
            }
        };
        self.remote_channels.insert(remote, channel);
        self.highest_remote_channel = self.highest_remote_channel.max(Some(remote));
        let Some(session) = self.sessions[usize::from(channel)].as_deref() else {
            return Ok(None);
        };
        let id = SessionId {
            channel,
            serial: session.serial,
        };
        Ok((!session.ending).then_some(Event::Begun(id)))
    }

    pub(super) fn on_end<'a>(&mut self, channel: u16, error: Option<Fault<'a>>) -> Option<Event<'a>> {
        let session = self.sessions[usize::from(channel)].take()?;
        if let Some(remote) = session.remote_channel {
            self.remote_channels.remove(&remote);
        }
        if session.ending {
            return None;
        }
        self.output.frame(channel, |buf| encode_end(buf, None));
        let id = SessionId {
            channel,
            serial: session.serial,
        };
        self.forget_links(session.links);
        Some(Event::Ended { session: id, error })
    }

    /// Sends the session's windows, without a link.
    pub(super) fn put_session_flow(&mut self, channel: u16) {
        if let Some(session) = self.sessions[usize::from(channel)].as_deref() {
            let flow = session.flow();
            self.output.frame(channel, |buf| flow.encode(buf));
        }
    }

    pub(super) fn on_disposition<'a>(&mut self, channel: u16, disposition: Disposition<'a>) -> Option<Event<'a>> {
        let session = self.sessions[usize::from(channel)].as_deref()?;
        let id = SessionId {
            channel,
            serial: session.serial,
        };
        let Disposition {
            role,
            first,
            last,
            settled,
            outcome,
        } = disposition;
        Some(match role {
            Role::Receiver => Event::Disposition {
                session: id,
                first,
                last,
                settled,
                outcome,
            },
            Role::Sender => Event::SenderSettled {
                session: id,
                first,
                last,
                outcome,
            },
        })
    }

    /// Removes our unsettled deliveries in `first..=last` (serial numbers), in order.
    ///
    /// The answer is as long as what we know of, whatever range the peer named.
    pub fn take_outgoing(&mut self, session: SessionId, first: u32, last: u32) -> Vec<Outgoing> {
        let Some(found) = self.session_mut(session) else {
            return Vec::new();
        };
        let mut ids: SmallVec<[u32; 16]> = SmallVec::new();
        if first <= last {
            ids.extend(found.outgoing.range(first..=last).map(|(id, _)| *id));
        } else {
            ids.extend(found.outgoing.range(first..).map(|(id, _)| *id));
            ids.extend(found.outgoing.range(..=last).map(|(id, _)| *id));
        }
        let mut taken = Vec::with_capacity(ids.len());
        for delivery_id in ids {
            let Some(sent) = found.outgoing.remove(&delivery_id) else {
                continue;
            };
            let link = LinkId {
                session,
                handle: sent.handle,
                serial: sent.serial,
            };
            if let Some(slot) = found.links.get_mut(sent.handle as usize).and_then(Option::as_deref_mut)
                && slot.serial == sent.serial
            {
                slot.unsettled = slot.unsettled.saturating_sub(1);
            }
            taken.push(Outgoing {
                link,
                delivery_id,
                tag: sent.tag,
            });
        }
        taken
    }

    /// Settles deliveries of ours whose outcome the receiver has proposed without settling (rcv-settle-mode second).
    ///
    /// .NET clients throw on any other outcome than accepted when the request was carried out (Spec amqp §4.3).
    pub fn answer_outcome(&mut self, session: SessionId, first: u32, last: u32, outcome: &Outcome<'_>) {
        self.put_disposition(session, Role::Sender, first, last, true, outcome);
    }

    /// Tells the outcome of deliveries that came in on `link`, and forgets them: `first..=last`, all of that link.
    pub fn settle(&mut self, link: LinkId, first: u32, last: u32, outcome: &Outcome<'_>) {
        if self.session(link.session).is_none_or(|session| session.ending) {
            return;
        }
        self.put_disposition(link.session, Role::Receiver, first, last, true, outcome);
        let count = last.wrapping_sub(first).wrapping_add(1);
        let Some(session) = self.session_mut(link.session) else {
            return;
        };
        if let Some(slot) = session
            .links
            .get_mut(link.handle as usize)
            .and_then(Option::as_deref_mut)
            && slot.serial == link.serial
        {
            let settled = count.min(slot.unsettled);
            slot.unsettled -= settled;
            session.unsettled = session.unsettled.saturating_sub(settled);
        }
        if session.reopen_window() {
            self.put_session_flow(link.session.channel);
        }
    }

    /// Tells an outcome without settling, as receivers in rcv-settle-mode second do; [`Event::SenderSettled`] follows.
    pub fn propose_outcome(&mut self, link: LinkId, first: u32, last: u32, outcome: &Outcome<'_>) {
        self.put_disposition(link.session, Role::Receiver, first, last, false, outcome);
    }

    fn put_disposition(
        &mut self,
        session: SessionId,
        role: Role,
        first: u32,
        last: u32,
        settled: bool,
        outcome: &Outcome<'_>,
    ) {
        if self.session(session).is_none_or(|session| session.ending) {
            return;
        }
        let disposition = Disposition {
            role,
            first,
            last,
            settled,
            outcome: Some(*outcome),
        };
        self.output.frame(session.channel, |buf| disposition.encode(buf));
    }
}
