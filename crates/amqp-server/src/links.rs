//! The links of one connection: the engine, the tokens, and how links are accepted, refused and detached.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use holdfast_amqp::address::{self, Endpoint};
use holdfast_amqp::message::Response;
use holdfast_amqp::types::Raw;
use holdfast_amqp::{Accept, Config, Connection, Detached, Fault, LinkId, Outcome, SaslCode, limits};
use holdfast_model::{CertificateChain, TlsParameters};

use crate::delayed::{Delayed, Refusal};
use crate::refusal::Tracking;
use crate::request_node::Outbox;
use crate::server::now;
use crate::{AmqpServer, Authority, Breakage, Carrier, Purpose, Refused, RefusedPrincipal, RequestNode, Tokens};

/// The error text for clients of a node that is going to stop or drains.
pub(crate) const LEAVING: &str = "The node is stopping; connect again.";

/// Where the decision about a token of a device goes.
#[derive(Debug)]
pub enum TokenReply {
    /// To SASL PLAIN.
    Sasl,
    /// To a request to `$cbs`: its link, and its message id, encoded.
    Cbs(LinkId, Option<Box<[u8]>>),
}

/// What the TLS handshake of the connection has shown.
#[derive(Debug, Default)]
pub(crate) struct Handshake {
    pub(crate) certificates: Option<CertificateChain>,
    pub(crate) tls: Option<TlsParameters>,
}

/// The links of one connection, as its handlers use them.
pub struct Links {
    pub(crate) server: Rc<AmqpServer>,
    pub(crate) address: SocketAddr,
    carrier: Carrier,
    /// `None` until the first byte has been received.
    pub(crate) handshake: Option<Box<Handshake>>,
    /// A handler has authenticated an identity; the connection has not noticed yet.
    pub(crate) has_authenticated: bool,
    /// A handler serves devices: a refused link of one is recorded under the identity that it claims.
    pub(crate) serves_identities: bool,
    /// The outcome that the client proposes counts for nothing.
    pub(crate) refused_outcome: Option<Refused>,
    pub(crate) engine: Connection,
    pub(crate) tokens: Tokens,
    pub(crate) cbs: RequestNode,
    pub(crate) outbox: Outbox,
    /// Refusals that are answered later.
    pub(crate) delayed: Vec<Delayed>,
    /// The time at the start of this turn.
    pub(crate) now: Instant,
    /// What a handler wants broken once the handlers are done.
    pub(crate) breakage: Option<Breakage>,
    /// The TCP connection is to be reset.
    pub(crate) is_reset: bool,
    /// Links that handlers have detached in this call; the connection lets all handlers forget them.
    pub(crate) detached: Vec<LinkId>,
}

impl Links {
    pub(crate) fn new(server: Rc<AmqpServer>, address: SocketAddr, carrier: Carrier) -> Self {
        let started = now();
        let mut engine = Config::default();
        // A connection that has not opened is not authenticated either.
        engine.offers_tpm = server.takes_tpm();
        engine.open_timeout = engine.open_timeout.min(server.config().unauthenticated_timeout);
        Self {
            server,
            address,
            carrier,
            handshake: None,
            has_authenticated: false,
            serves_identities: false,
            refused_outcome: None,
            engine: Connection::server(engine, started),
            tokens: Tokens::default(),
            cbs: RequestNode::default(),
            outbox: Outbox::default(),
            delayed: Vec::new(),
            now: started,
            breakage: None,
            is_reset: false,
            detached: Vec::new(),
        }
    }

    /// The hub.
    #[must_use]
    pub fn authority(&self) -> &dyn Authority {
        self.server.authority()
    }

    /// The engine, to send deliveries.
    pub fn engine(&mut self) -> &mut Connection {
        &mut self.engine
    }

    /// The client's network address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The transport of the connection.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        self.carrier
    }

    /// The certificates that the client has shown in its TLS handshake, and whose key it owns.
    #[must_use]
    pub fn certificates(&self) -> Option<&CertificateChain> {
        self.handshake.as_ref()?.certificates.as_ref()
    }

    /// The parameters of the TLS connection; `None` without TLS.
    #[must_use]
    pub fn tls_parameters(&self) -> Option<&TlsParameters> {
        self.handshake.as_ref()?.tls.as_ref()
    }

    /// A handler has authenticated an identity by itself: the connection is bound by the limits of known clients.
    pub fn authenticated(&mut self) {
        self.has_authenticated = true;
    }

    /// The outcome that a handler is asked about cannot be carried out: its client learns it, if it waits for an answer.
    pub fn refuse_outcome(&mut self, refused: Refused) {
        self.refused_outcome = Some(refused);
    }

    /// Answers a token of a device. Audit and penalties are the handler's.
    pub fn decide(&mut self, reply: TokenReply, decision: Result<(), &Refused>) {
        if decision.is_ok() {
            self.authenticated();
        }
        match reply {
            TokenReply::Sasl => self.engine.sasl_outcome(match decision {
                Ok(()) => SaslCode::Ok,
                Err(refused) if refused.is_certain() => SaslCode::Auth,
                Err(_) => SaslCode::Temporary,
            }),
            TokenReply::Cbs(requests, message_id) => {
                let message_id = message_id.as_deref().and_then(|bytes| Raw::new(bytes).ok());
                let response = match decision {
                    Ok(()) => response(message_id, 200, "OK", None, holdfast_amqp::types::put_null),
                    Err(refused) => self.refusal(message_id, refused),
                };
                self.respond(self.cbs.answer_to(requests), response);
            }
        }
    }

    /// The tokens that the client has put.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Bytes up to which handlers fill the output.
    #[must_use]
    pub fn output_bytes(&self) -> usize {
        self.server.config().output_bytes
    }

    /// Accepts an attach.
    pub fn accept(&mut self, link: LinkId, accept: &Accept<'_>) {
        self.engine.accept(link, accept);
    }

    /// Accepts a link of `node`: one on which requests arrive when `client_sends`, else one for responses.
    pub fn accept_node(&mut self, node: &mut RequestNode, link: LinkId, client_sends: bool) {
        if client_sends {
            let receiving = Accept {
                credit: limits::RECEIVER_CREDIT,
                ..Accept::default()
            };
            self.engine.accept(link, &receiving);
            node.add_requests(link);
        } else {
            self.engine.accept(link, &Accept::default());
            node.add_responses(link);
        }
    }

    /// Refuses an attach to `address`, and records it.
    pub fn refuse_attach(&mut self, link: LinkId, address: &str, refused: Refused) {
        let (identity, purpose) = match address::parse(address) {
            Endpoint::ServiceDevicebound | Endpoint::ServiceFeedback | Endpoint::ServiceFileNotifications => {
                (self.identity(), Purpose::Messages)
            }
            Endpoint::Device { device, module, .. } if self.serves_identities => {
                let module = module.map(|module| format!("/{module}"));
                (format!("{device}{}", module.unwrap_or_default()), Purpose::Device)
            }
            Endpoint::Registration { registration_id, .. } => (registration_id.into_owned(), Purpose::Registration),
            _ => (self.identity(), Purpose::Events),
        };
        self.audit_as(&identity, purpose, &refused);
        self.refuse(&self.identity(), address, Refusal::Attach(link, refused));
    }

    /// Refuses SASL credentials of a client that calls itself `identity`, and records it.
    pub fn refuse_sasl(&mut self, identity: &str, purpose: Purpose, refused: &Refused) {
        self.audit_as(identity, purpose, refused);
        let code = match refused.is_certain() {
            true => SaslCode::Auth,
            false => SaslCode::Temporary,
        };
        self.refuse(identity, "SASL", Refusal::Sasl(code));
    }

    /// Refuses an attach at once. The handler has recorded it.
    pub fn refuse_recorded(&mut self, link: LinkId, refused: &Refused) {
        let (hub, now, monotonic) = (self.authority().hub_name(), self.authority().now(), self.now);
        refused.with_fault(&hub, now, |fault| self.engine.refuse(link, fault, monotonic));
    }

    /// Detaches an accepted link with an error, and records it. Handlers forget the link afterwards.
    pub fn detach(&mut self, link: LinkId, refused: &Refused) {
        self.audit(refused);
        self.detach_recorded(link, refused);
    }

    /// Detaches an accepted link, or refuses an offered one, with an error that the handler has recorded. Handlers forget
    /// the link afterwards.
    pub fn detach_recorded(&mut self, link: LinkId, refused: &Refused) {
        let (hub, now, monotonic) = (self.authority().hub_name(), self.authority().now(), self.now);
        refused.with_fault(&hub, now, |fault| {
            self.engine.detach(link, Detached::Closed, Some(fault), monotonic);
        });
        self.detached.push(link);
    }

    /// Records the refusal of a message to a device.
    pub fn audit_message(&self, refused: &Refused) {
        self.audit_as(&self.identity(), Purpose::Messages, refused);
    }

    /// Rejects a message to a device that came in on `link`, and records it.
    pub fn reject(&mut self, link: LinkId, delivery_id: u32, refused: &Refused) {
        self.audit_message(refused);
        self.reject_recorded(link, delivery_id, refused);
    }

    /// Rejects a message that came in on `link`. The handler has recorded it, or need not.
    pub fn reject_recorded(&mut self, link: LinkId, delivery_id: u32, refused: &Refused) {
        let (hub, now) = (self.authority().hub_name(), self.authority().now());
        refused.with_fault(&hub, now, |fault| {
            let rejected = Outcome::Rejected(Some(*fault));
            self.engine.settle(link, delivery_id, delivery_id, &rejected);
        });
    }

    /// Detaches a link because the node is going to stop or drains, with an error after which clients attach again and
    /// continue where they were.
    pub fn send_away(&mut self, link: LinkId) {
        let authority = self.authority();
        let text = Tracking::new(&authority.hub_name(), authority.now()).text(LEAVING);
        self.close_link(link, &Fault::new("amqp:link:detach-forced", &text));
    }

    /// Whether a handler has detached the link in this call; it forgets the link right after.
    #[must_use]
    pub fn is_detached(&self, link: LinkId) -> bool {
        self.detached.contains(&link)
    }

    /// Closes a link with an error that is not a refusal.
    pub fn close_link(&mut self, link: LinkId, fault: &Fault<'_>) {
        self.engine.detach(link, Detached::Closed, Some(fault), self.now);
        self.detached.push(link);
    }

    /// Sends a response on `link`, at once or when the client grants credit.
    pub fn respond(&mut self, link: Option<LinkId>, response: Vec<u8>) {
        match link {
            Some(link) => self.outbox.put(&mut self.engine, link, response),
            None => {
                tracing::debug!(address = %self.address, "a request has no link for its response; the response is dropped");
            }
        }
    }

    /// Sends the responses for which there is credit now.
    pub(crate) fn send_responses(&mut self) {
        self.outbox.send(&mut self.engine);
    }

    /// The response that refuses a request.
    #[must_use]
    pub fn refusal(&self, message_id: Option<Raw<'_>>, refused: &Refused) -> Vec<u8> {
        let description = Tracking::new(&self.authority().hub_name(), self.authority().now()).text(&refused.text);
        let condition = Some(refused.condition);
        response(message_id, refused.status(), &description, condition, |buf| {
            holdfast_amqp::types::put_null(buf);
        })
    }

    /// Counts a refusal and records it, with the name of an authenticated policy or principal if there is one.
    pub fn audit(&self, refused: &Refused) {
        self.audit_as(&self.identity(), Purpose::Events, refused);
    }

    pub(crate) fn audit_as(&self, identity: &str, purpose: Purpose, refused: &Refused) {
        self.server.metrics().refused(refused.code);
        let principal = RefusedPrincipal {
            identity,
            carrier: self.carrier,
            address: self.address,
            purpose,
        };
        self.authority().refused(principal, refused);
    }

    /// The name of an authenticated policy or principal, for records.
    pub(crate) fn identity(&self) -> String {
        self.tokens
            .first_name()
            .map_or_else(|| "-".to_owned(), |name| name.to_string())
    }

    /// Forgets links that have ended.
    pub(crate) fn forget(&mut self, is_gone: &dyn Fn(LinkId) -> bool) {
        self.delayed.retain(|delayed| !delayed.link().is_some_and(is_gone));
        self.cbs.retain(|link| !is_gone(link));
        self.outbox.retain(|link| !is_gone(link));
    }
}

/// The response to the request with this message id.
#[must_use]
pub fn response(
    message_id: Option<Raw<'_>>,
    status: i32,
    description: &str,
    condition: Option<&str>,
    body: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    Response {
        correlation_id: message_id,
        status,
        description,
        condition,
    }
    .encode(&mut bytes, body);
    bytes
}
