//! Links: attach, refuse, credit, detach.

use std::time::Instant;

use super::event::{Event, LinkId, SessionId};
use super::{Connection, limits};
use crate::performative::{
    Attach, Detach, Fault, Filter, Flow, InfoValue, ReceiverSettleMode, Role, SenderSettleMode, Source, Target,
    put_full_terminus, put_properties,
};
use crate::types::{Raw, array_of_symbols};

/// One end of a link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) serial: u32,
    pub(super) name: Box<str>,
    /// Our role.
    pub(super) role: Role,
    pub(super) remote_handle: Option<u32>,
    pub(super) state: State,
    pub(super) snd_settle_mode: SenderSettleMode,
    pub(super) rcv_settle_mode: ReceiverSettleMode,
    pub(super) delivery_count: u32,
    pub(super) credit: u32,
    pub(super) drain: bool,
    /// Deliveries without an outcome: of ours when we send, of the peer's when we receive.
    pub(super) unsettled: u32,
    /// The largest message that the peer takes, bytes; 0 for no limit.
    pub(super) peer_max_message_size: u64,
    /// The peer's termini until we have answered its attach.
    pub(super) offer: Option<Box<Offer>>,
    pub(super) partial: Option<Box<Partial>>,
}

/// The state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// We have attached, the peer has not answered.
    Attaching,
    /// The peer has attached, the driver has not answered.
    Offered,
    /// Both have attached.
    Attached,
    /// We have detached; the peer's answer is waited for until then.
    Detaching(Instant),
}

/// The peer's termini, encoded as they came.
#[derive(Debug)]
pub(super) struct Offer {
    source: Option<Box<[u8]>>,
    target: Option<Box<[u8]>>,
}

/// A delivery with outstanding frames.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) delivery_id: u32,
    pub(super) settled: bool,
    pub(super) message_format: u32,
    pub(super) tag: smallvec::SmallVec<[u8; limits::MAX_DELIVERY_TAG]>,
    pub(super) payload: Vec<u8>,
}

impl Link {
    pub(super) fn detaching_until(&self) -> Option<Instant> {
        match self.state {
            State::Detaching(until) => Some(until),
            _ => None,
        }
    }

    pub(super) fn partial_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.payload.len())
    }
}

/// The server's answer to an attach; the default copies everything from the peer but the filters of a source that we
/// send from: a peer must not believe in a filter that is not applied (AMQP 1.0 §3.5.3).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Accept<'a> {
    /// Our link properties: a map with symbol keys, encoded. Null by default.
    pub properties: Option<Raw<'a>>,
    /// Credit granted at once when we receive.
    pub credit: u32,
    /// The filters that apply when we send: an encoded map. Null by default.
    pub filter: Option<Raw<'a>>,
}

/// The parameters of a client's attach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttachSpec<'a> {
    /// Unique within session and role.
    pub name: &'a str,
    /// Our role.
    pub role: Role,
    /// How the sender settles.
    pub snd_settle_mode: SenderSettleMode,
    /// How the receiver settles.
    pub rcv_settle_mode: ReceiverSettleMode,
    /// Where messages come from.
    pub source: Source<'a>,
    /// Where messages go to.
    pub target: Target<'a>,
    /// Capabilities that we wish for.
    pub desired_capabilities: &'a [&'a str],
    /// Link properties.
    pub properties: &'a [(&'a str, InfoValue<'a>)],
}

impl<'a> AttachSpec<'a> {
    /// A link on which we receive from `address`.
    #[must_use]
    pub fn receiver(name: &'a str, address: &'a str) -> Self {
        Self {
            name,
            role: Role::Receiver,
            snd_settle_mode: SenderSettleMode::MIXED,
            rcv_settle_mode: ReceiverSettleMode::FIRST,
            source: Source {
                address: Some(address),
                filter: None,
            },
            target: Target::default(),
            desired_capabilities: &[],
            properties: &[],
        }
    }

    /// A link on which we send to `address`.
    #[must_use]
    pub fn sender(name: &'a str, address: &'a str) -> Self {
        Self {
            role: Role::Sender,
            source: Source::default(),
            target: Target { address: Some(address) },
            ..Self::receiver(name, address)
        }
    }
}

/// The remaining credit of a receiving link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// Deliveries that the peer may still send.
    pub credit: u32,
    /// Deliveries without our outcome.
    pub unsettled: u32,
}

/// How we leave a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// For good.
    Closed,
    /// It could be resumed in theory; some clients tell the two apart in their texts.
    Suspended,
}

impl Connection {
    /// Attaches a link; [`Event::Attached`] follows, or [`Event::Detached`]. `None` when the session is gone or full.
    pub fn attach(&mut self, session: SessionId, spec: &AttachSpec<'_>) -> Option<LinkId> {
        let link = self.new_link(session, spec.name, spec.role, State::Attaching)?;
        let (mut source, mut target) = (Vec::new(), Vec::new());
        spec.source.encode(&mut source);
        spec.target.encode(&mut target);
        let mut capabilities = Vec::new();
        array_of_symbols(&mut capabilities, spec.desired_capabilities.iter().copied());
        let mut properties = Vec::new();
        put_properties(&mut properties, spec.properties);
        if let Some(slot) = self.link_mut(link) {
            slot.snd_settle_mode = spec.snd_settle_mode;
            slot.rcv_settle_mode = spec.rcv_settle_mode;
        }
        let attach = Attach {
            name: spec.name,
            handle: link.handle,
            role: spec.role,
            snd_settle_mode: spec.snd_settle_mode,
            rcv_settle_mode: spec.rcv_settle_mode,
            source_raw: Raw::new(&source).ok(),
            target_raw: Raw::new(&target).ok(),
            initial_delivery_count: (spec.role == Role::Sender).then_some(0),
            max_message_size: Some(self.config.max_message_size),
            desired_capabilities: Raw::new(&capabilities).ok(),
            properties: Raw::new(&properties).ok(),
        };
        self.output.frame(session.channel, |buf| attach.encode(buf));
        Some(link)
    }

    /// Accepts a link that the peer requested ([`Event::AttachRequested`]).
    pub fn accept(&mut self, link: LinkId, accept: &Accept<'_>) {
        if !self.put_attach(link, Some(accept)) {
            return;
        }
        if let Some(slot) = self.link_mut(link) {
            slot.state = State::Attached;
        }
        if accept.credit > 0 {
            self.grant(link, accept.credit);
        }
    }

    /// Refuses a link that the peer requested: an attach without our terminus, then a detach with the error.
    pub fn refuse(&mut self, link: LinkId, error: &Fault<'_>, now: Instant) {
        if self.put_attach(link, None) {
            self.put_detach(link, Detached::Closed, Some(error), now);
        }
    }

    /// Leaves a link. An offered one is refused.
    pub fn detach(&mut self, link: LinkId, how: Detached, error: Option<&Fault<'_>>, now: Instant) {
        let Some(state) = self.link(link).map(|link| link.state) else {
            return;
        };
        match state {
            State::Detaching(_) => {}
            State::Offered => {
                if self.put_attach(link, None) {
                    self.put_detach(link, how, error, now);
                }
            }
            State::Attaching | State::Attached => self.put_detach(link, how, error, now),
        }
    }

    /// Sends the answer to the peer's attach, a refusal without `accept`; false when there is nothing to answer.
    fn put_attach(&mut self, id: LinkId, accept: Option<&Accept<'_>>) -> bool {
        let accepted = accept.is_some();
        let max_message_size = self.config.max_message_size;
        let Some(offer) = self.link_mut(id).and_then(|link| link.offer.take()) else {
            return false;
        };
        let Some(link) = self.session(id.session).and_then(|session| session.link(id)) else {
            return false;
        };
        let (mut source, mut target) = (Vec::new(), Vec::new());
        let filter = match link.role {
            Role::Sender => Filter::InPlace(accept.and_then(|accept| accept.filter)),
            Role::Receiver => Filter::AsReceived,
        };
        put_full_terminus(&mut source, 0x28, 11, offer.source.as_deref(), filter);
        put_full_terminus(&mut target, 0x29, 7, offer.target.as_deref(), Filter::AsReceived);
        let attach = Attach {
            name: &link.name,
            handle: id.handle,
            role: link.role,
            snd_settle_mode: link.snd_settle_mode,
            rcv_settle_mode: link.rcv_settle_mode,
            source_raw: Raw::new(&source)
                .ok()
                .filter(|_| accepted || link.role == Role::Receiver),
            target_raw: Raw::new(&target).ok().filter(|_| accepted || link.role == Role::Sender),
            initial_delivery_count: (link.role == Role::Sender).then_some(link.delivery_count),
            max_message_size: Some(max_message_size),
            desired_capabilities: None,
            properties: accept.and_then(|accept| accept.properties),
        };
        let mut frame = Vec::new();
        attach.encode(&mut frame);
        self.output
            .frame(id.session.channel, |buf| buf.extend_from_slice(&frame));
        true
    }

    fn put_detach(&mut self, id: LinkId, how: Detached, error: Option<&Fault<'_>>, now: Instant) {
        let until = self.detach_due(now);
        let detach = Detach {
            handle: id.handle,
            closed: how == Detached::Closed,
            error: error.copied(),
        };
        self.output.frame(id.session.channel, |buf| detach.encode(buf));
        if let Some(session) = self.session_mut(id.session) {
            session.forget_deliveries(id.handle);
        }
        if let Some(link) = self.link_mut(id) {
            link.state = State::Detaching(until);
            let dropped = link.partial_bytes();
            link.partial = None;
            link.offer = None;
            link.credit = 0;
            self.partial_bytes -= dropped;
        }
    }

    /// Grants exactly `credit` deliveries from now on, on a link that we receive on.
    pub fn grant(&mut self, link: LinkId, credit: u32) {
        self.put_credit(link, credit, false);
    }

    /// Asks the sender of a link that we receive on to use up its credit or give it back.
    pub fn drain(&mut self, link: LinkId) {
        if let Some(credit) = self.credit(link) {
            self.put_credit(link, credit.credit, true);
        }
    }

    /// Grants `target` again when at most half of it is left.
    pub fn top_up(&mut self, link: LinkId, target: u32) {
        if self.credit(link).is_some_and(|credit| credit.credit <= target / 2) {
            self.grant(link, target);
        }
    }

    fn put_credit(&mut self, id: LinkId, credit: u32, drain: bool) {
        let Some(link) = self.link_mut(id) else { return };
        if link.role != Role::Receiver || matches!(link.state, State::Detaching(_) | State::Offered) {
            return;
        }
        link.credit = credit;
        link.drain = drain;
        self.put_link_flow(id);
    }

    /// The remaining credit that we granted; `None` for other links.
    #[must_use]
    pub fn credit(&self, link: LinkId) -> Option<Credit> {
        let link = self.link(link).filter(|link| link.role == Role::Receiver)?;
        Some(Credit {
            credit: link.credit,
            unsettled: link.unsettled,
        })
    }

    /// Everything that could be sent at once has been: gives the rest of the credit back, if the receiver requested it.
    pub fn finish_drain(&mut self, link: LinkId) {
        let Some(slot) = self.link_mut(link) else { return };
        if slot.role == Role::Sender && slot.drain {
            slot.delivery_count = slot.delivery_count.wrapping_add(slot.credit);
            slot.credit = 0;
            self.put_link_flow(link);
            if let Some(slot) = self.link_mut(link) {
                slot.drain = false;
            }
        }
    }

    /// Sends windows and the link's credit.
    pub(super) fn put_link_flow(&mut self, id: LinkId) {
        let Some(session) = self.session(id.session) else {
            return;
        };
        let Some(link) = session.link(id) else { return };
        let flow = Flow {
            handle: Some(id.handle),
            delivery_count: Some(link.delivery_count),
            link_credit: Some(link.credit),
            available: Some(0),
            drain: link.drain,
            ..session.flow()
        };
        self.output.frame(id.session.channel, |buf| flow.encode(buf));
    }

    /// The settle modes that the peer requested, on an existing link.
    #[must_use]
    pub fn settle_modes(&self, link: LinkId) -> Option<(SenderSettleMode, ReceiverSettleMode)> {
        self.link(link).map(|link| (link.snd_settle_mode, link.rcv_settle_mode))
    }

    pub(super) fn link(&self, id: LinkId) -> Option<&Link> {
        self.session(id.session)?.link(id)
    }

    pub(super) fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        let session = self.session_mut(id.session)?;
        session
            .links
            .get_mut(id.handle as usize)?
            .as_deref_mut()
            .filter(|link| link.serial == id.serial)
    }

    /// A new link in a free slot; `None` when there is none or the session cannot take it.
    fn new_link(&mut self, session: SessionId, name: &str, role: Role, state: State) -> Option<LinkId> {
        if self.link_count >= self.max_links || name.len() > limits::MAX_LINK_NAME {
            return None;
        }
        let serial = self.serial();
        let found = self.session_mut(session).filter(|session| !session.ending)?;
        let free = found.free_handle();
        let handle = u32::try_from(free)
            .ok()
            .filter(|handle| *handle <= limits::HANDLE_MAX)?;
        if free == found.links.len() {
            found.links.push(None);
        }
        found.links[free] = Some(Box::new(Link {
            serial,
            name: name.into(),
            role,
            remote_handle: None,
            state,
            snd_settle_mode: SenderSettleMode::MIXED,
            rcv_settle_mode: ReceiverSettleMode::FIRST,
            delivery_count: 0,
            credit: 0,
            drain: false,
            unsettled: 0,
            peer_max_message_size: 0,
            offer: None,
            partial: None,
        }));
        self.link_count += 1;
        Some(LinkId {
            session,
            handle,
            serial,
        })
    }

    pub(super) fn on_attach<'a>(&mut self, channel: u16, attach: Attach<'a>) -> Option<Event<'a>> {
        let session = self.sessions[usize::from(channel)].as_deref_mut()?;
        let id = SessionId {
            channel,
            serial: session.serial,
        };
        if attach.handle > limits::HANDLE_MAX {
            return Some(self.end_with(channel, "amqp:not-allowed", "the handle exceeds handle-max"));
        }
        if session.remote_handles.contains_key(&attach.handle) {
            return Some(self.end_with(channel, "amqp:session:handle-in-use", "the handle is in use"));
        }
        let role = attach.role.other();
        let is_answer = |link: &Link| link.remote_handle.is_none() && link.role == role && *link.name == *attach.name;
        let waiting = session
            .links
            .iter()
            .position(|slot| self.is_client && slot.as_deref().is_some_and(is_answer));
        let link = match waiting {
            Some(found) => self.answered(id, found, &attach)?,
            None => {
                let Some(link) = self.new_link(id, attach.name, role, State::Offered) else {
                    return Some(self.end_with(channel, "amqp:resource-limit-exceeded", "too many links"));
                };
                self.offered(link, &attach);
                link
            }
        };
        let session = self.session_mut(id)?;
        session.remote_handles.insert(attach.handle, link.handle);
        session.highest_remote_handle = session.highest_remote_handle.max(Some(attach.handle));
        Some(match waiting {
            Some(_) => Event::Attached { link, attach },
            None => Event::AttachRequested { link, attach },
        })
    }

    /// The peer answers our attach. A link that we have detached meanwhile stays detaching.
    fn answered(&mut self, session: SessionId, handle: usize, attach: &Attach<'_>) -> Option<LinkId> {
        let link = self.session_mut(session)?.links.get_mut(handle)?.as_deref_mut()?;
        link.remote_handle = Some(attach.handle);
        if link.state == State::Attaching {
            link.state = State::Attached;
        }
        link.peer_max_message_size = attach.max_message_size.unwrap_or(0);
        if link.role == Role::Receiver {
            link.delivery_count = attach.initial_delivery_count.unwrap_or(0);
        }
        Some(LinkId {
            session,
            handle: u32::try_from(handle).ok()?,
            serial: link.serial,
        })
    }

    fn offered(&mut self, id: LinkId, attach: &Attach<'_>) {
        let Some(link) = self.link_mut(id) else { return };
        link.remote_handle = Some(attach.handle);
        link.snd_settle_mode = attach.snd_settle_mode;
        link.rcv_settle_mode = attach.rcv_settle_mode;
        link.peer_max_message_size = attach.max_message_size.unwrap_or(0);
        if link.role == Role::Receiver {
            link.delivery_count = attach.initial_delivery_count.unwrap_or(0);
        }
        link.offer = Some(Box::new(Offer {
            source: attach.source_raw.map(|raw| raw.bytes().into()),
            target: attach.target_raw.map(|raw| raw.bytes().into()),
        }));
    }

    pub(super) fn on_detach<'a>(&mut self, id: LinkId, detach: &Detach<'a>) -> Option<Event<'a>> {
        let state = self.link(id)?.state;
        if state == State::Offered {
            // The peer gives up before we answered: it still needs our attach to know which link the detach is for.
            self.put_attach(id, None);
        }
        if !matches!(state, State::Detaching(_)) {
            let answer = Detach {
                handle: id.handle,
                closed: detach.closed,
                error: None,
            };
            self.output.frame(id.session.channel, |buf| answer.encode(buf));
        }
        let session = self.session_mut(id.session)?;
        session.forget_deliveries(id.handle);
        session.remote_handles.remove(&detach.handle);
        let link = session.links.get_mut(id.handle as usize)?.take()?;
        self.link_count -= 1;
        self.partial_bytes -= link.partial_bytes();
        Some(Event::Detached {
            link: id,
            closed: detach.closed,
            error: detach.error,
        })
    }
}

impl super::session::Session {
    fn free_handle(&self) -> usize {
        self.links.iter().position(Option::is_none).unwrap_or(self.links.len())
    }

    /// A link is leaving: its deliveries will get no outcome any more.
    fn forget_deliveries(&mut self, handle: u32) {
        if let Some(link) = self.links.get_mut(handle as usize).and_then(Option::as_deref_mut) {
            if link.role == Role::Receiver {
                self.unsettled = self.unsettled.saturating_sub(link.unsettled);
            } else if link.unsettled > 0 {
                self.outgoing.retain(|_, sent| sent.handle != handle);
            }
            link.unsettled = 0;
        }
        if self.stalled.as_ref().is_some_and(|stalled| stalled.handle == handle) {
            self.stalled = None;
        }
    }
}
