//! The devices and modules of one connection: their tokens, links and sessions.
//!
//! Why one handler for all of them: a gateway with hundreds of devices has one connection, one task and one place for what
//! the hub tells them.

use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use holdfast_amqp::address::Endpoint;
use holdfast_amqp::message::Request;
use holdfast_amqp::{Accept, Attach, Fault, Incoming, LinkId, Outcome, Outgoing, limits};
use holdfast_amqp_server::{
    Answered, AuthorizationChange, Certainty, IdentityToken, LINK_STOLEN, Leaving, LinkHandler, Links, Refused,
    RequestNode, TokenReply,
};
use holdfast_auth::SasToken;
use holdfast_device_hub::{
    CheckedCredential, CloseReason, ConnectAttempt, ConnectRequest, Credential, CredentialCheck, Operation, Refusal,
    Session, SessionTarget, StoredSession,
};
use holdfast_model::{DeviceId, ErrorCode, IdentityId, ModuleId, RefusalReason, UnixMillis};

use super::credentials::{Credentials, Name};
use super::device::{Device, LinkKind, Offer, SessionState};
use super::faults::Fault as InjectedFault;
use super::inbox::{Inbox, Notice, Place, Target};
use super::refused::of_refusal;
use super::telemetry::MAX_IN_FLIGHT_BYTES;
use super::{Front, protocol};
use crate::metrics;

/// Links of one identity, those that wait included.
const MAX_LINKS: usize = 16;

/// Something that was waited for.
pub(super) enum Done {
    /// A session is open, or refused.
    Connected(Place, Result<Session, Refusal>),
    /// A token is decided.
    Checked {
        name: Name,
        token: Rc<str>,
        reply: TokenReply,
        decision: Result<CheckedCredential, Refusal>,
    },
    /// The turn of a device's oldest message has come.
    Turn(Place),
    /// The oldest lock of a message to a device is over.
    Lock(Place),
    /// A fault that a message has requested happens, or is put off so often.
    Fault(Place, InjectedFault, u32),
}

/// Whose link it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) slot: u32,
    /// `None`: it waits for the session.
    pub(super) kind: Option<LinkKind>,
}

/// See the module.
pub(super) struct Devices {
    pub(super) front: Rc<Front>,
    inbox: Rc<Inbox>,
    pub(super) devices: Vec<Option<Box<Device>>>,
    slots: HashMap<Name, u32>,
    epoch: u32,
    pub(super) links: HashMap<LinkId, At>,
    pub(super) credentials: Credentials,
    pub(super) tasks: FuturesUnordered<Pin<Box<dyn Future<Output = Done>>>>,
    /// Devices whose credit is to be looked at.
    pub(super) thirsty: Vec<u32>,
    /// Devices for which something waits that may be sent now.
    pub(super) pending: Vec<u32>,
    /// Devices with requests about their twins.
    pub(super) asking: Vec<u32>,
    /// Bytes of undecided messages.
    pub(super) in_flight_bytes: usize,
    /// When the first token or session ends; may be too early.
    next_end: Option<UnixMillis>,
}

impl Devices {
    pub(super) fn new(front: Rc<Front>) -> Self {
        Self {
            front,
            inbox: Rc::default(),
            devices: Vec::new(),
            slots: HashMap::new(),
            epoch: 0,
            links: HashMap::new(),
            credentials: Credentials::default(),
            tasks: FuturesUnordered::new(),
            thirsty: Vec::new(),
            pending: Vec::new(),
            asking: Vec::new(),
            in_flight_bytes: 0,
            next_end: None,
        }
    }

    /// The device at a place, if it is still the same one.
    pub(super) fn at(&mut self, place: Place) -> Option<&mut Device> {
        let device = self.devices.get_mut(place.slot as usize)?.as_deref_mut()?;
        (device.target.place() == place).then_some(device)
    }

    /// Removes a device from the table.
    pub(super) fn take(&mut self, slot: u32) -> Option<Device> {
        let device = self.devices.get_mut(slot as usize)?.take()?;
        if self.slots.remove(&device.name).is_some() && self.slots.is_empty() {
            metrics::amqp_device_connections().decrement(1.0);
        }
        Some(*device)
    }

    /// A place for a device whose session is to be opened.
    fn place(&mut self, name: &Name) -> Place {
        let free = self.devices.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            self.devices.push(None);
            self.devices.len() - 1
        });
        self.epoch = self.epoch.wrapping_add(1);
        let place = Place {
            // The number of identities is bounded by a setting far below.
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            epoch: self.epoch,
        };
        let target = Target::new(&self.inbox, place);
        self.devices[slot] = Some(Box::new(Device::new(name.clone(), target)));
        if self.slots.is_empty() {
            metrics::amqp_device_connections().increment(1.0);
        }
        self.slots.insert(name.clone(), place.slot);
        place
    }

    fn watch_end(&mut self, end: Option<UnixMillis>) {
        if let Some(end) = end {
            self.next_end = Some(self.next_end.map_or(end, |known| known.min(end)));
        }
    }

    /// Opens the session of an identity for its first link.
    fn begin(&mut self, links: &mut Links, name: &Name, offer: Offer, model_id: Option<&str>) -> Result<(), Refused> {
        let most = self.front.config.max_identities;
        if self.slots.len() >= most {
            let text =
                format!("The connection has {most} devices and modules, which is the most (amqp.max_identities).");
            return Err(Refused::new(ErrorCode::IotHubMaxCbsTokenExceeded, text));
        }
        let token = self.credentials.token(name);
        if token.is_none() && links.certificates().is_none() {
            // Without a look at the registry: this client has no credential at all.
            return Err(of_refusal(Refusal::new(RefusalReason::Missing)));
        }
        let place = self.place(name);
        let front = Rc::clone(&self.front);
        let Some(device) = self.at(place) else { return Ok(()) };
        let link = offer.link;
        device.links.push(offer);
        let target = Rc::clone(&device.target) as Rc<dyn SessionTarget>;
        self.links.insert(
            link,
            At {
                slot: place.slot,
                kind: None,
            },
        );
        let request = ConnectRequest {
            model_id,
            ..connect_request(links, name, token.as_deref())
        };
        match front.core.connect(&request, &target) {
            ConnectAttempt::Done(result) => self.connected(links, place, result),
            ConnectAttempt::Pending(later) => {
                self.tasks
                    .push(Box::pin(async move { Done::Connected(place, later.await) }));
            }
        }
        Ok(())
    }

    /// The session of an identity is open, or refused.
    fn connected(&mut self, links: &mut Links, place: Place, result: Result<Session, Refusal>) {
        let front = Rc::clone(&self.front);
        let Some(device) = self.at(place) else {
            // Its links have gone meanwhile.
            if let Ok(session) = &result {
                front.core.disconnect(session);
            }
            return;
        };
        match result {
            Ok(session) => {
                let offers = std::mem::take(&mut device.links);
                let ends = session.expires();
                let by_certificate = session.expiry_reason() == CloseReason::CertificateExpired;
                device.session = SessionState::Open(session);
                self.credentials.certificate_proved |= by_certificate;
                self.watch_end(ends);
                front.metrics.connected.increment(1);
                front.metrics.connections.increment(1.0);
                links.authenticated();
                for offer in offers {
                    self.accept(links, place.slot, offer);
                }
            }
            Err(refusal) => {
                let Some(device) = self.take(place.slot) else { return };
                let refused = of_refusal(refusal);
                for offer in &device.links {
                    self.links.remove(&offer.link);
                    links.refuse_recorded(offer.link, &refused);
                }
            }
        }
    }

    /// Accepts a link of an open session. One of the same kind gives way.
    fn accept(&mut self, links: &mut Links, slot: u32, offer: Offer) {
        let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let (link, kind) = (offer.link, offer.kind);
        let same_kind = device
            .links
            .iter()
            .position(|known| known.kind == kind && known.link != link);
        if let Some(index) = same_kind {
            let same_pair = offer.correlation.is_some() && offer.correlation == device.links[index].correlation;
            if same_pair {
                self.links.remove(&link);
                let text = "The pair of links with this com.microsoft:channel-correlation-id has such a link already.";
                return links.refuse_recorded(link, &Refused::new(ErrorCode::LinkCreationConflict, text));
            }
            let older = device.links.remove(index);
            self.links.remove(&older.link);
            let text = "A newer link of the same identity to this address has taken its place.";
            links.close_link(older.link, &Fault::new(LINK_STOLEN, text));
            self.delivery_link_gone(slot, kind);
        }
        let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let credit = match kind.client_sends() {
            true => limits::RECEIVER_CREDIT,
            false => 0,
        };
        let accept = Accept {
            credit,
            ..Accept::default()
        };
        links.accept(link, &accept);
        device.links.push(offer);
        let kind = Some(kind);
        self.links.insert(link, At { slot, kind });
        self.pump_soon(slot);
    }

    /// A token of an identity is decided.
    fn checked(
        &mut self,
        links: &mut Links,
        name: &Name,
        token: &Rc<str>,
        reply: TokenReply,
        decision: Result<CheckedCredential, Refusal>,
    ) {
        let checked = match decision {
            Ok(checked) => checked,
            // The session and its earlier token stay.
            Err(refusal) => return links.decide(reply, Err(&of_refusal(refusal))),
        };
        if let Err(refused) = self.credentials.put(name, Rc::clone(token), checked.ends) {
            links.audit(&refused);
            return links.decide(reply, Err(&refused));
        }
        self.watch_end(checked.ends);
        links.decide(reply, Ok(()));
        let Some(slot) = self.slots.get(name).copied() else {
            return;
        };
        let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        if let SessionState::Open(session) = &mut device.session
            && !session.renew(&checked)
        {
            let text = "The token was made with another key than the session; attach again.";
            let refused = Refused::new(ErrorCode::ServiceUnavailable, text);
            self.end_with(links, slot, &refused, "other_key", None);
        }
    }

    /// Decides about a policy's token that covers more than one device.
    fn check_policy(&mut self, links: &mut Links, text: &str, reply: TokenReply) {
        let core = &self.front.core;
        let token = SasToken::parse(text);
        let (resource, name) = token
            .as_ref()
            .map_or(("", ""), |token| (token.resource(), token.policy().unwrap_or_default()));
        let decision = core.check_device_policy(text).map_err(|reason| {
            let refusal = Refusal::new(reason);
            let (protocol, now) = (protocol(links.carrier()), core.clock().now());
            let audit = core.hub().audit();
            audit.refused_identity(Operation::Connect, name, protocol, links.address(), refusal, now);
            of_refusal(refusal)
        });
        let kept = decision.and_then(|ends| {
            self.credentials.put_policy(resource, text, ends)?;
            Ok(ends)
        });
        match kept {
            Ok(ends) => {
                self.watch_end(Some(ends));
                links.decide(reply, Ok(()));
            }
            Err(refused) => links.decide(reply, Err(&refused)),
        }
    }

    fn exists(&self, name: &Name) -> bool {
        let Some(identity) = identity(name) else { return false };
        let registry = self.front.core.hub().registry();
        matches!(registry.identity(&identity), Ok(Some(_)))
    }

    fn take_done(&mut self, links: &mut Links, done: Done) {
        match done {
            Done::Connected(place, result) => self.connected(links, place, result),
            Done::Checked {
                name,
                token,
                reply,
                decision,
            } => self.checked(links, &name, &token, reply, decision),
            Done::Turn(place) => {
                if let Some(device) = self.at(place) {
                    device.waits_for_turn = false;
                    self.accept_decided(links, place.slot);
                }
            }
            Done::Fault(place, fault, deferrals) => self.inject(links, place, fault, deferrals),
            Done::Lock(place) => {
                if self.at(place).is_some() {
                    self.locks_over(place.slot);
                    self.pump_soon(place.slot);
                }
            }
        }
    }

    fn notice(&mut self, links: &mut Links, place: Place, notice: Notice) {
        match notice {
            Notice::Closed(reason) => {
                if self.at(place).is_some() {
                    self.end_session(links, place.slot, reason);
                }
            }
            Notice::Settled(count, outcome) => self.messages_decided(links, place, count, outcome),
            Notice::Delivered(delivery) => self.delivered(links, place, delivery),
        }
    }
}

/// The request to open a session of `name` on this connection.
fn connect_request<'a>(links: &'a Links, name: &'a Name, token: Option<&'a str>) -> ConnectRequest<'a> {
    ConnectRequest {
        device: &name.device,
        module: name.module.as_deref(),
        host: links.authority().host_names().primary().unwrap_or_default(),
        credential: Credential::new(token, links.certificates()),
        model_id: None,
        stored_session: StoredSession::Unused,
        protocol: protocol(links.carrier()),
        address: links.address(),
        tls: links.tls_parameters(),
        handshake: None,
        trace: None,
    }
}

fn identity(name: &Name) -> Option<IdentityId> {
    let module = name.module.as_deref().map(ModuleId::parse).transpose().ok()?;
    Some(IdentityId {
        device: DeviceId::parse(&name.device).ok()?,
        module,
    })
}

impl LinkHandler for Devices {
    fn serves(&self, endpoint: &Endpoint<'_>) -> bool {
        matches!(endpoint, Endpoint::Device { .. })
    }

    fn attach(
        &mut self,
        links: &mut Links,
        link: LinkId,
        attach: &Attach<'_>,
        endpoint: Endpoint<'_>,
    ) -> Result<(), Refused> {
        let Endpoint::Device {
            device,
            module,
            channel,
        } = endpoint
        else {
            return Err(Refused::no_address(links.authority(), ""));
        };
        let kind = LinkKind::of(attach.role, channel, module.is_some())?;
        let text = |key| {
            let value = attach.property(key).ok().flatten();
            value.and_then(|value| value.text())
        };
        let offer = Offer {
            link,
            kind,
            correlation: text("com.microsoft:channel-correlation-id").map(Into::into),
            drains: false,
        };
        let model_id = text("com.microsoft:model-id");
        let name = Name::new(&device, module.as_deref());
        let Some(slot) = self.slots.get(&name).copied() else {
            return self.begin(links, &name, offer, model_id);
        };
        let Some(known) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return Err(Refused::busy("The identity is being detached; attach again."));
        };
        if known.links.len() >= MAX_LINKS {
            let text = format!("A device or module has at most {MAX_LINKS} links on one connection.");
            return Err(Refused::new(ErrorCode::InvalidOperation, text));
        }
        if known.is_stopping {
            return Err(of_refusal(Refusal::new(RefusalReason::Draining)));
        }
        match &mut known.session {
            SessionState::Connecting => {
                known.links.push(offer);
                self.links.insert(link, At { slot, kind: None });
            }
            SessionState::Open(session) => {
                session.announce_model(model_id.unwrap_or_default());
                self.accept(links, slot, offer);
            }
        }
        Ok(())
    }

    fn node_of(&self, _: LinkId) -> Option<&RequestNode> {
        None
    }

    fn request(&mut self, _: &mut Links, _: LinkId, _: &Request<'_>, _: Certainty) -> Answered {
        Answered::Later
    }

    fn takes_messages(&self, link: LinkId) -> bool {
        let kind = self.links.get(&link).and_then(|at| at.kind);
        kind.is_some_and(LinkKind::client_sends)
    }

    fn message(&mut self, links: &mut Links, incoming: &Incoming<'_>) {
        let Some(at) = self.links.get(&incoming.link).copied() else {
            return;
        };
        let answered = match at.kind {
            Some(LinkKind::Telemetry) => return self.telemetry(links, at.slot, incoming),
            Some(LinkKind::Answers) => self.call_answered(at.slot, incoming),
            Some(LinkKind::TwinRequests) => self.twin_asked(links, at.slot, incoming),
            Some(LinkKind::Inputs | LinkKind::Messages | LinkKind::Calls | LinkKind::TwinAnswers) | None => return,
        };
        let (link, id) = (incoming.link, incoming.delivery_id);
        match answered {
            Ok(()) if incoming.settled => {}
            Ok(()) => links.engine().settle(link, id, id, &Outcome::Accepted),
            Err(refused) => self.refuse_message(links, at.slot, incoming, &refused),
        }
        links.engine().top_up(link, limits::RECEIVER_CREDIT);
    }

    fn settled(&mut self, links: &mut Links, delivery: &Outgoing, outcome: &Outcome<'_>) {
        if let Some(at) = self.links.get(&delivery.link).copied()
            && at.kind == Some(LinkKind::Messages)
        {
            self.message_settled(links, at.slot, delivery, outcome);
            self.pump_soon(at.slot);
        }
    }

    fn drain(&mut self, link: LinkId, drain: bool) -> bool {
        let Some(at) = self.links.get(&link).copied() else {
            return false;
        };
        if let Some(device) = self.devices.get_mut(at.slot as usize).and_then(Option::as_mut)
            && let Some(offer) = device.links.iter_mut().find(|offer| offer.link == link)
        {
            offer.drains |= drain;
        }
        self.pump_soon(at.slot);
        true
    }

    fn poll(&mut self, links: &mut Links, cx: &mut Context<'_>) {
        self.inbox.watch(cx.waker());
        loop {
            if let Some((place, notice)) = self.inbox.take() {
                self.notice(links, place, notice);
            } else if let Poll::Ready(Some(done)) = self.tasks.poll_next_unpin(cx) {
                self.take_done(links, done);
            } else {
                break;
            }
        }
        self.poll_twins(links, cx);
        self.pump_pending(links);
        self.grant_credit(links, cx);
    }

    fn recheck(&mut self, links: &mut Links, _: AuthorizationChange) {
        let core = Rc::clone(&self.front.core);
        let now = core.clock().now();
        let is_valid = |token: &str| core.check_device_policy(token).is_ok();
        self.credentials.recheck(now, is_valid);
        let ended: Vec<(u32, CloseReason)> = self
            .slots
            .values()
            .filter_map(|slot| {
                let session = self.devices.get(*slot as usize)?.as_ref()?.session()?;
                let is_over = session.expires().is_some_and(|end| end < now);
                is_over.then(|| (*slot, session.expiry_reason()))
            })
            .collect();
        for (slot, reason) in ended {
            self.end_session(links, slot, reason);
        }
        let sessions = self.devices.iter().flatten().filter_map(|device| device.session());
        self.next_end = sessions
            .filter_map(Session::expires)
            .chain(self.credentials.next_end())
            .min();
    }

    fn leave(&mut self, links: &mut Links, leaving: Leaving) {
        if leaving == Leaving::Stopping {
            let slots: Vec<u32> = self.slots.values().copied().collect();
            for slot in slots {
                self.end_session(links, slot, CloseReason::Stopping);
            }
        }
    }

    fn is_busy(&self) -> bool {
        !self.slots.is_empty()
    }

    fn takes_identities(&self) -> bool {
        true
    }

    fn identity_token(&mut self, links: &mut Links, token: &IdentityToken<'_>, reply: TokenReply) {
        let named = match token.user {
            Some((device, module)) => Some(Name::new(device, module)),
            None => Name::of_token(token.token, |name| self.exists(name)),
        };
        let Some(name) = named else {
            return self.check_policy(links, token.token, reply);
        };
        let request = ConnectRequest {
            credential: Credential::new(Some(token.token), None),
            ..connect_request(links, &name, None)
        };
        let check = self.front.core.check_credential(&request);
        let token: Rc<str> = token.token.into();
        match check {
            CredentialCheck::Done(decision) => self.checked(links, &name, &token, reply, decision),
            CredentialCheck::Pending(_) if self.tasks.len() >= limits::MAX_TOKENS => {
                let refused = of_refusal(Refusal::new(RefusalReason::Unconfirmed));
                links.decide(reply, Err(&refused));
            }
            CredentialCheck::Pending(later) => self.tasks.push(Box::pin(async move {
                Done::Checked {
                    decision: later.await,
                    name,
                    token,
                    reply,
                }
            })),
        }
    }

    fn policy_token(&mut self, token: &str) {
        // A back end's policy may have no right to connect devices; then its links of devices are refused.
        if let (Ok(ends), Ok(parsed)) = (self.front.core.check_device_policy(token), SasToken::parse(token)) {
            let kept = self.credentials.put_policy(parsed.resource(), token, ends);
            if kept.is_ok() {
                self.watch_end(Some(ends));
            }
        }
    }

    fn holds_credentials(&self) -> bool {
        !self.credentials.is_empty() || !self.slots.is_empty()
    }

    fn next_end(&self) -> Option<UnixMillis> {
        self.next_end
    }

    fn may_read(&mut self, _: &mut Context<'_>) -> bool {
        // The inbox wakes the task when messages are decided.
        self.in_flight_bytes < MAX_IN_FLIGHT_BYTES
    }

    fn forget(&mut self, is_gone: &dyn Fn(LinkId) -> bool) {
        let gone: Vec<LinkId> = self.links.keys().copied().filter(|link| is_gone(*link)).collect();
        for link in gone {
            self.link_gone(link);
        }
    }
}

/// The connection has ended without detaching its links.
impl Drop for Devices {
    fn drop(&mut self) {
        if !self.slots.is_empty() {
            metrics::amqp_device_connections().decrement(1.0);
        }
        for device in std::mem::take(&mut self.devices).into_iter().flatten() {
            self.finish(*device, "lost");
        }
    }
}
