//! Handles the events of one connection's engine: SASL, `$cbs`, and links by address to their handlers.

use std::borrow::Cow;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use holdfast_amqp::address::{self, Endpoint};
use holdfast_amqp::message::Request;
use holdfast_amqp::{
    Attach, Event, Fault, Incoming, LinkId, OpenSpec, Outcome, Role, SaslCode, SaslInit, SessionId, limits,
};
use holdfast_auth::{SasToken, SaslUser};
use holdfast_model::{ErrorCode, RefusalReason, UnixMillis};

use crate::breakage::Closing;
use crate::credentials::{no_devices, plain, put_token};
use crate::delayed::Refusal;
use crate::links::LEAVING;
use crate::refusal::Tracking;
use crate::{
    AmqpServer, Answered, AuthorizationChange, Certainty, IdentityToken, Leaving, LinkHandler, Links, Purpose, Refused,
    TokenReply, Verdict, response, token_path,
};

/// How long a connection stays open after its links were detached, if the client does nothing.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Credentials that can be refused only after the registry's leader has confirmed the local replica.
enum Credentials {
    /// SASL PLAIN.
    Plain { user: String, password: String },
    /// A request to `$cbs` or to the node of a handler.
    Request(Incoming<'static>),
}

/// Credentials that wait, and the question to the leader.
struct Unconfirmed {
    credentials: Credentials,
    confirmation: Pin<Box<dyn Future<Output = Certainty>>>,
}

/// The part of a connection behind its socket.
pub(crate) struct Dispatch {
    pub(crate) links: Links,
    handlers: Vec<Box<dyn LinkHandler>>,
    /// Credentials whose refusal waits for confirmation.
    unconfirmed: Option<Unconfirmed>,
    /// Until when an identity must have authenticated.
    pub(crate) authenticate_by: Option<Instant>,
    /// The links have been detached, since the node is going to stop: when the connection is closed.
    pub(crate) leave_by: Option<Instant>,
    is_authenticated: bool,
    /// The node is going to stop or drains: the connection is closed once no handler is busy.
    is_leaving: bool,
    /// How it is closed then.
    pub(crate) closing: Closing,
    /// Counts the connections of the core, for the container id.
    number: u64,
}

impl Dispatch {
    pub(crate) fn new(mut links: Links, number: u64) -> Self {
        let handlers = links.server.handlers();
        links.serves_identities = handlers.iter().any(|handler| handler.takes_identities());
        Self {
            handlers,
            links,
            unconfirmed: None,
            authenticate_by: None,
            leave_by: None,
            is_authenticated: false,
            is_leaving: false,
            closing: Closing::default(),
            number,
        }
    }

    /// Whether an identity has ever authenticated.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    /// Whether credentials wait for confirmation: nothing more may be handled.
    pub(crate) fn waits_for_confirmation(&self) -> bool {
        self.unconfirmed.is_some()
    }

    /// Whether nothing more may be handled: credentials wait for confirmation, or SASL for a handler.
    pub(crate) fn is_blocked(&self) -> bool {
        self.waits_for_confirmation() || self.links.engine.is_blocked()
    }

    /// Whether more may be read from the client; `cx` is woken when that changes.
    pub(crate) fn may_read(&mut self, cx: &mut Context<'_>) -> bool {
        self.handlers.iter_mut().all(|handler| handler.may_read(cx))
    }

    /// When the first credential of the connection ends.
    pub(crate) fn next_end(&self) -> Option<UnixMillis> {
        let of_handlers = self.handlers.iter().filter_map(|handler| handler.next_end());
        of_handlers.chain(self.links.tokens.next_end()).min()
    }

    /// Whether the client holds a valid credential.
    fn holds_credentials(&self) -> bool {
        !self.links.tokens.is_empty() || self.handlers.iter().any(|handler| handler.holds_credentials())
    }

    /// Decides about credentials that wait, once the registry's leader has answered.
    pub(crate) fn poll_confirmation(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(unconfirmed) = &mut self.unconfirmed {
            let certainty = ready!(unconfirmed.confirmation.as_mut().poll(cx));
            match self.unconfirmed.take().map(|unconfirmed| unconfirmed.credentials) {
                Some(Credentials::Plain { user, password }) => self.plain(&user, &password, certainty),
                Some(Credentials::Request(incoming)) => self.transfer(&incoming, certainty),
                None => {}
            }
        }
        Poll::Ready(())
    }

    fn wait_for_confirmation(&mut self, credentials: Credentials) {
        self.unconfirmed = Some(Unconfirmed {
            credentials,
            confirmation: Box::pin(confirm(Rc::clone(&self.links.server))),
        });
    }

    /// Handles `input`. Returns how many bytes were consumed.
    pub(crate) fn receive(&mut self, input: &[u8]) -> usize {
        let mut rest = input;
        while self.unconfirmed.is_none() {
            match self.links.engine.receive(&mut rest, self.links.now) {
                Ok(Some(event)) => self.handle(event),
                Ok(None) => break,
                Err(violation) => {
                    tracing::debug!(
                        address = %self.links.address,
                        %violation,
                        "AMQP peer violated the protocol; the connection is closed"
                    );
                    self.links.server.metrics().violation(violation.condition());
                    self.forget(&|_| true);
                    return input.len();
                }
            }
        }
        self.notice_authentication();
        input.len() - rest.len()
    }

    /// Takes over what handlers have found out about the client's credentials.
    fn notice_authentication(&mut self) {
        if std::mem::take(&mut self.links.has_authenticated) {
            self.authenticated();
        }
        let is_open = self.links.engine.is_open();
        if is_open && self.is_authenticated && self.authenticate_by.is_none() && !self.holds_credentials() {
            self.watch_authentication();
        }
    }

    fn handle(&mut self, event: Event<'_>) {
        match event {
            Event::SaslInit(init) => self.sasl(&init),
            Event::SaslResponse(response) => {
                let mut handlers = self.handlers.iter_mut();
                if !handlers.any(|handler| handler.sasl_response(&mut self.links, response)) {
                    self.links.engine.sasl_outcome(SaslCode::Auth);
                }
            }
            Event::Open(open) => {
                tracing::debug!(address = %self.links.address, container = open.container_id, "AMQP connection opened");
                let container_id = format!("{}-{}", self.links.authority().hub_name(), self.number);
                self.links.engine.open(&OpenSpec {
                    container_id,
                    hostname: None,
                });
                self.watch_authentication();
            }
            Event::AttachRequested { link, attach } => self.attach(link, &attach),
            Event::Transfer(incoming) => self.transfer(&incoming, Certainty::Local),
            Event::Credit { link, drain, .. } => {
                if !self.handlers.iter_mut().any(|handler| handler.drain(link, drain)) {
                    self.links.send_responses();
                    if drain {
                        self.links.engine.finish_drain(link);
                    }
                }
            }
            Event::WindowOpened(_) => self.links.send_responses(),
            Event::Detached { link, .. } => self.forget(&|gone| gone == link),
            Event::Ended { session, .. } => self.forget(&|gone| gone.session() == session),
            Event::Closed(_) => self.forget(&|_| true),
            Event::Disposition {
                session,
                first,
                last,
                settled,
                outcome,
            } => {
                // Without an outcome: accepted when settled, nothing otherwise.
                let outcome = outcome.or(settled.then_some(Outcome::Accepted));
                if let Some(outcome) = outcome {
                    self.settled(session, (first, last), settled, &outcome);
                }
            }
            // No outcome is ever proposed; the engine answers begins.
            Event::SenderSettled { .. } | Event::Begun(_) => {}
            Event::Attached { .. } | Event::Drained(_) | Event::SaslFailed(_) => {}
        }
    }

    /// The client has told the outcome of deliveries.
    fn settled(&mut self, session: SessionId, range: (u32, u32), is_settled: bool, outcome: &Outcome<'_>) {
        let (first, last) = range;
        for delivery in self.links.engine.take_outgoing(session, first, last) {
            for handler in &mut self.handlers {
                handler.settled(&mut self.links, &delivery, outcome);
            }
            let (id, refused) = (delivery.delivery_id, self.links.refused_outcome.take());
            if is_settled {
                continue;
            }
            let Some(refused) = refused else {
                // .NET throws on any other answer (Spec amqp §4.3).
                self.links.engine.answer_outcome(session, id, id, &Outcome::Accepted);
                continue;
            };
            let authority = self.links.server.authority();
            let (hub, now) = (authority.hub_name(), authority.now());
            refused.with_fault(&hub, now, |fault| {
                let rejected = Outcome::Rejected(Some(*fault));
                self.links.engine.answer_outcome(session, id, id, &rejected);
            });
        }
    }

    /// Closes the connection without an error.
    pub(crate) fn shut_down(&mut self) {
        let now = self.links.now;
        self.links.engine.close(None, now);
        self.unconfirmed = None;
        self.forget(&|_| true);
    }

    /// Removes links from all handlers.
    pub(crate) fn forget(&mut self, is_gone: &dyn Fn(LinkId) -> bool) {
        for handler in &mut self.handlers {
            handler.forget(is_gone);
        }
        self.links.forget(is_gone);
    }

    /// Removes the links that handlers have detached.
    pub(crate) fn forget_detached(&mut self) {
        if self.links.detached.is_empty() {
            return;
        }
        let detached = std::mem::take(&mut self.links.detached);
        self.forget(&|link| detached.contains(&link));
    }

    fn sasl(&mut self, init: &SaslInit<'_>) {
        let mut handlers = self.handlers.iter_mut();
        if handlers.any(|handler| handler.sasl_begun(&mut self.links, init)) {
            return;
        }
        match init.mechanism {
            // Offered for handlers alone.
            "TPM" => self.refuse_sasl("", &Refused::credentials(RefusalReason::Malformed)),
            "PLAIN" => match init.plain() {
                Some((user, password)) => self.plain(user, password, Certainty::Local),
                None => self.refuse_sasl("", &Refused::credentials(RefusalReason::Malformed)),
            },
            // The certificate is checked with each link (Spec amqp §1.2).
            "EXTERNAL" if self.links.certificates().is_none() => {
                self.refuse_sasl("", &Refused::credentials(RefusalReason::NoCertificate));
            }
            _ => self.links.engine.sasl_outcome(SaslCode::Ok),
        }
    }

    /// Decides about SASL PLAIN, at once or after the leader's confirmation.
    fn plain(&mut self, user: &str, password: &str, certainty: Certainty) {
        if let Some(SaslUser::Identity { device, module, .. }) = SaslUser::parse(user)
            && let Some(handler) = self.handlers.iter_mut().find(|handler| handler.takes_identities())
        {
            let token = IdentityToken {
                token: password,
                user: Some((device, module)),
            };
            return handler.identity_token(&mut self.links, &token, TokenReply::Sasl);
        }
        let server = Rc::clone(&self.links.server);
        match plain(server.authority(), &mut self.links.tokens, user, password, certainty) {
            Verdict::Accepted => {
                self.authenticated();
                self.links.engine.sasl_outcome(SaslCode::Ok);
            }
            Verdict::NeedsConfirmation => {
                self.wait_for_confirmation(Credentials::Plain {
                    user: user.to_owned(),
                    password: password.to_owned(),
                });
            }
            Verdict::Refused(refused) => self.refuse_sasl(user, &refused),
        }
    }

    fn refuse_sasl(&mut self, user: &str, refused: &Refused) {
        self.links.refuse_sasl(user, Purpose::Events, refused);
    }

    /// Answers an attach: `$cbs` here, other addresses by the handler that serves them.
    fn attach(&mut self, link: LinkId, attach: &Attach<'_>) {
        if self.leave_by.is_some() {
            // The client attaches again: over another connection, to another node.
            return self.close_leaving();
        }
        if let Err(refused) = self.try_attach(link, attach) {
            let address = attach.address().ok().flatten().unwrap_or_default();
            self.links.refuse_attach(link, address, refused);
        }
        self.forget_detached();
    }

    fn try_attach(&mut self, link: LinkId, attach: &Attach<'_>) -> Result<(), Refused> {
        let malformed = |_| Refused::new(ErrorCode::ArgumentInvalid, "The attach cannot be decoded.");
        let target = attach.target().map_err(malformed)?;
        if target.is_some_and(|target| target.coordinator) {
            return Err(Refused::new(
                ErrorCode::FeatureNotSupported,
                "Transactions are not supported.",
            ));
        }
        let text = attach.address().map_err(malformed)?.unwrap_or_default();
        let endpoint = address::parse(text);
        if endpoint == Endpoint::Cbs {
            let mut cbs = std::mem::take(&mut self.links.cbs);
            self.links.accept_node(&mut cbs, link, attach.role == Role::Sender);
            self.links.cbs = cbs;
            return Ok(());
        }
        if let Some(handler) = self.handlers.iter_mut().find(|handler| handler.serves(&endpoint)) {
            return handler.attach(&mut self.links, link, attach, endpoint);
        }
        if self.links.tokens.is_empty() {
            return Err(Refused::credentials(RefusalReason::Missing));
        }
        if endpoint == Endpoint::Unknown {
            return Err(Refused::no_address(self.links.authority(), text));
        }
        let text = "This version of the hub does not serve this address.";
        Err(Refused::new(ErrorCode::FeatureNotSupported, text))
    }

    /// A delivery: a request to `$cbs` or to the node of a handler, or a message for a handler.
    fn transfer(&mut self, incoming: &Incoming<'_>, certainty: Certainty) {
        let link = incoming.link;
        if let Some(handler) = self.handlers.iter_mut().find(|handler| handler.takes_messages(link)) {
            return handler.message(&mut self.links, incoming);
        }
        let handler = self.handlers.iter().position(|handler| handler.node_of(link).is_some());
        if handler.is_none() && !self.links.cbs.takes(link) {
            // The link is being detached.
            return;
        }
        let request = match Request::parse(&incoming.payload) {
            Ok(request) => request,
            Err(error) => {
                let fault = Fault::new("amqp:decode-error", "The message cannot be decoded.");
                tracing::debug!(address = %self.links.address, %error, "a request cannot be decoded and is rejected");
                self.settle(incoming, &Outcome::Rejected(Some(fault)));
                return;
            }
        };
        let answered = match handler {
            Some(handler) => self.handlers[handler].request(&mut self.links, link, &request, certainty),
            None => self.answer_cbs(link, &request, certainty),
        };
        if matches!(answered, Answered::NeedsConfirmation) {
            self.wait_for_confirmation(Credentials::Request(Incoming {
                tag: Cow::Owned(incoming.tag.to_vec()),
                payload: Cow::Owned(incoming.payload.to_vec()),
                ..incoming.clone()
            }));
            return;
        }
        // uamqp reports a failed put when the response overtakes the disposition (Spec amqp §5).
        self.settle(incoming, &Outcome::Accepted);
        self.links.engine.top_up(link, limits::RECEIVER_CREDIT);
        let node = match handler {
            Some(handler) => self.handlers[handler].node_of(link),
            None => Some(&self.links.cbs),
        };
        let response_link = node.and_then(|node| node.answer_to(link));
        match answered {
            Answered::Now(response) => self.links.respond(response_link, response),
            Answered::Refused(response) => {
                // A retry with another token, or about another entity, is another request.
                let repeated = request.text.or(request.name).unwrap_or_default();
                let identity = self.links.identity();
                let refusal = Refusal::Response(response_link, response);
                self.links.refuse(&identity, repeated, refusal);
            }
            Answered::Later | Answered::NeedsConfirmation => {}
        }
    }

    fn settle(&mut self, incoming: &Incoming<'_>, outcome: &Outcome<'_>) {
        if !incoming.settled {
            let (link, id) = (incoming.link, incoming.delivery_id);
            self.links.engine.settle(link, id, id, outcome);
        }
    }

    /// The response to a put-token.
    fn answer_cbs(&mut self, link: LinkId, request: &Request<'_>, certainty: Certainty) -> Answered {
        let server = Rc::clone(&self.links.server);
        let token = request.text.filter(|_| request.operation == Some("put-token"));
        let kind = token.map_or(TokenKind::BackEnd, TokenKind::of);
        if kind == TokenKind::Identity {
            // It counts with the session that it opens.
            return self.pass_identity_token(link, request);
        }
        if let Err(refused) = server.authority().admit_token(self.links.carrier()) {
            self.links.audit(&refused);
            return Answered::Now(self.links.refusal(request.message_id, &refused));
        }
        let verdict = put_token(server.authority(), &mut self.links.tokens, request, certainty);
        if verdict != Verdict::Accepted {
            // A client without a credential uses up nothing of what others need.
            server.authority().give_back_token();
        }
        match verdict {
            Verdict::NeedsConfirmation => Answered::NeedsConfirmation,
            // The policy may let devices connect.
            Verdict::Refused(refused)
                if kind == TokenKind::Policy
                    && refused.reason == Some(RefusalReason::Right)
                    && self.handlers.iter().any(|handler| handler.takes_identities()) =>
            {
                self.pass_identity_token(link, request)
            }
            Verdict::Accepted => {
                self.authenticated();
                if let Some(token) = token.filter(|_| kind == TokenKind::Policy) {
                    self.handlers.iter_mut().for_each(|handler| handler.policy_token(token));
                }
                Answered::Now(response(request.message_id, 200, "OK", None, |buf| {
                    holdfast_amqp::types::put_null(buf);
                }))
            }
            Verdict::Refused(refused) => {
                self.links.audit(&refused);
                Answered::Refused(self.links.refusal(request.message_id, &refused))
            }
        }
    }

    /// Hands a token to the handler of devices, which answers it.
    fn pass_identity_token(&mut self, link: LinkId, request: &Request<'_>) -> Answered {
        let Some(handler) = self.handlers.iter_mut().find(|handler| handler.takes_identities()) else {
            let refused = no_devices();
            self.links.audit(&refused);
            return Answered::Refused(self.links.refusal(request.message_id, &refused));
        };
        let token = IdentityToken {
            token: request.text.unwrap_or_default(),
            user: None,
        };
        let message_id = request.message_id.map(|id| id.bytes().into());
        handler.identity_token(&mut self.links, &token, TokenReply::Cbs(link, message_id));
        Answered::Later
    }

    /// Closes the connection; the output is still written.
    pub(crate) fn close(&mut self, condition: &'static str, text: &str) {
        let authority = self.links.authority();
        let text = Tracking::new(&authority.hub_name(), authority.now()).text(text);
        let now = self.links.now;
        self.links.engine.close(Some(&Fault::new(condition, &text)), now);
        self.unconfirmed = None;
        self.forget(&|_| true);
    }

    /// The node is going to stop or drains: detaches the links while the connection is open, so that clients see an
    /// error of a link, after which they attach again at once. Then closes the connection, at once when it has none.
    ///
    /// Links that end by themselves are waited for; the node bounds how long.
    pub(crate) fn leave(&mut self, leaving: Leaving) {
        if self.leave_by.is_some() || self.links.engine.is_closed() {
            return;
        }
        for handler in &mut self.handlers {
            handler.leave(&mut self.links, leaving);
        }
        self.is_leaving = true;
        if self.links.detached.is_empty() {
            return self.leave_if_idle();
        }
        self.forget_detached();
        if !self.is_busy() {
            self.leave_by = Some(self.links.now + LEAVE_TIMEOUT);
        }
    }

    fn is_busy(&self) -> bool {
        self.handlers.iter().any(|handler| handler.is_busy())
    }

    /// Closes a connection that is to go and whose links have ended by themselves.
    fn leave_if_idle(&mut self) {
        if self.is_leaving && self.leave_by.is_none() && !self.links.engine.is_closed() && !self.is_busy() {
            self.close_leaving();
        }
    }

    /// The last step of [`Self::leave`].
    pub(crate) fn close_leaving(&mut self) {
        self.leave_by = None;
        match self.closing {
            Closing::Forced => self.close("amqp:connection:forced", LEAVING),
            Closing::Without => self.shut_down(),
            Closing::With(condition, text) => self.close(condition, text),
        }
    }

    /// Lets handlers fill the output.
    pub(crate) fn poll_handlers(&mut self, cx: &mut Context<'_>) {
        for handler in &mut self.handlers {
            handler.poll(&mut self.links, cx);
        }
        self.forget_detached();
        self.notice_authentication();
        self.break_requested();
        self.leave_if_idle();
    }

    /// An identity has authenticated.
    fn authenticated(&mut self) {
        self.links.engine.authenticated();
        self.authenticate_by = None;
        self.is_authenticated = true;
    }

    /// Starts the deadline for authentication if no identity is authenticated.
    fn watch_authentication(&mut self) {
        if !self.holds_credentials() {
            self.authenticate_by = Some(self.links.now + self.links.server.config().unauthenticated_timeout);
        }
    }

    /// After tokens have expired or settings have changed: lets handlers detach links that no token covers any more.
    pub(crate) fn recheck(&mut self) {
        let now = self.links.authority().now();
        let has_expired = self.links.tokens.expire(now);
        let server = Rc::clone(&self.links.server);
        let is_revoked = self.links.tokens.revoke(|name| server.authority().policy(name));
        let change = if is_revoked {
            AuthorizationChange::Revoked
        } else {
            AuthorizationChange::Other
        };
        for handler in &mut self.handlers {
            handler.recheck(&mut self.links, change);
        }
        self.forget_detached();
        if has_expired || is_revoked {
            self.watch_authentication();
        }
        self.notice_authentication();
    }
}

/// The possible signer of a token, by its form alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    /// A device or module, or a policy for one.
    Identity,
    /// A policy, for more than one device.
    Policy,
    /// A back end, with something else than a shared access signature.
    BackEnd,
}

impl TokenKind {
    fn of(token: &str) -> Self {
        let Ok(token) = SasToken::parse(token) else {
            return Self::BackEnd;
        };
        let path = token_path(token.resource());
        let names_device = path.len() > 1 && path[0].eq_ignore_ascii_case("devices");
        match token.policy() {
            Some(_) if !names_device => Self::Policy,
            _ => Self::Identity,
        }
    }
}

/// Asks the registry's leader whether the local replica is up to date.
async fn confirm(server: Rc<AmqpServer>) -> Certainty {
    let confirmation = server.authority().confirm();
    match tokio::time::timeout(server.config().confirm_timeout, confirmation).await {
        Ok(Ok(())) => Certainty::Confirmed,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the registry's leader did not confirm a refusal; the client is asked to retry");
            Certainty::Unconfirmed
        }
        Err(_) => Certainty::Unconfirmed,
    }
}
