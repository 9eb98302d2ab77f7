//! Handlers that serve the links of some addresses: readers of events, senders of messages, and devices.

use std::task::Context;

#[cfg(doc)]
use holdfast_amqp::Connection;
use holdfast_amqp::address::Endpoint;
use holdfast_amqp::message::Request;
use holdfast_amqp::{Attach, Incoming, LinkId, Outcome, Outgoing, SaslInit};
use holdfast_model::UnixMillis;

use crate::{Certainty, Links, Refused, RequestNode, TokenReply};

/// Serves some addresses; one per core.
pub trait LinkService {
    /// The handler of a new connection.
    fn connect(&self) -> Box<dyn LinkHandler>;

    /// Whether its handlers take the SASL mechanism `TPM`.
    fn takes_tpm(&self) -> bool {
        false
    }
}

/// How a request is answered.
pub enum Answered {
    /// With this response.
    Now(Vec<u8>),
    /// With this response, which is a refusal.
    Refused(Vec<u8>),
    /// The response follows: the handler sends it with [`Links::respond`].
    Later,
    /// After the registry's leader has confirmed a refusal: the handler is asked again.
    NeedsConfirmation,
}

/// A token that may be one of a device or module.
#[derive(Debug)]
pub struct IdentityToken<'a> {
    /// The token as the client sent it, not checked.
    pub token: &'a str,
    /// Device and module that the SASL user names; in `$cbs` the token's own audience names them.
    pub user: Option<(&'a str, Option<&'a str>)>,
}

/// Whether the node stops or an operator drains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It stops: every link goes.
    Stopping,
    /// It is drained: sessions of devices are ended by their owner, at its rate; the other links go.
    Draining,
}

/// Why links may have lost their authorization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationChange {
    /// A policy's key or right was taken away, and with it a token of this connection.
    Revoked,
    /// A token has expired, or settings have changed.
    Other,
}

/// Serves the links of some addresses of one connection. Dropped with the connection.
pub trait LinkHandler {
    /// Whether links to `endpoint` are this handler's. `$cbs` is the server's own.
    fn serves(&self, endpoint: &Endpoint<'_>) -> bool;

    /// Decides about an attach: accepts it now or later, by [`Links`].
    ///
    /// # Errors
    /// The refusal; the server sends it.
    fn attach(
        &mut self,
        links: &mut Links,
        link: LinkId,
        attach: &Attach<'_>,
        endpoint: Endpoint<'_>,
    ) -> Result<(), Refused>;

    /// The node whose requests `link` carries, if it is one of this handler's.
    fn node_of(&self, link: LinkId) -> Option<&RequestNode>;

    /// Answers a request on a link of [`Self::node_of`].
    fn request(&mut self, links: &mut Links, link: LinkId, request: &Request<'_>, certainty: Certainty) -> Answered;

    /// Whether the client sends messages on `link` that are no requests to a node.
    fn takes_messages(&self, _link: LinkId) -> bool {
        false
    }

    /// A message on a link of [`Self::takes_messages`]: the handler settles it, now or later, and grants credit again.
    fn message(&mut self, _links: &mut Links, _incoming: &Incoming<'_>) {}

    /// The client has settled a delivery; the handlers of other links ignore it.
    fn settled(&mut self, _links: &mut Links, _delivery: &Outgoing, _outcome: &Outcome<'_>) {}

    /// The client's flow: whether the unused credit of `link` is to be given back. `false` when the handler does not send
    /// on the link by itself; the server answers then.
    fn drain(&mut self, link: LinkId, drain: bool) -> bool;

    /// Continues what waits, and sends as far as credit, window and [`Links::output_bytes`] allow; wakes `cx` when there
    /// is more. It is called again after a read, and after an output of [`Links::output_bytes`] has been written: only what else
    /// ends a wait needs the waker.
    fn poll(&mut self, links: &mut Links, cx: &mut Context<'_>);

    /// Detaches links that no token covers any more.
    fn recheck(&mut self, links: &mut Links, change: AuthorizationChange);

    /// The node is going to stop or drains: detaches its open links with [`Links::send_away`], or lets them end first
    /// ([`Self::is_busy`]).
    fn leave(&mut self, links: &mut Links, leaving: Leaving);

    /// Whether links of this handler end by themselves after [`Self::leave`]: the connection is closed after them.
    fn is_busy(&self) -> bool {
        false
    }

    /// The client's choice of a SASL mechanism: whether this handler answers it, now or later, by [`Connection::sasl_outcome`] or
    /// [`Connection::sasl_challenge`] of the engine. Then the client's answers to challenges are its own too.
    fn sasl_begun(&mut self, _links: &mut Links, _init: &SaslInit<'_>) -> bool {
        false
    }

    /// The client's answer to a challenge: whether it was this handler's.
    fn sasl_response(&mut self, _links: &mut Links, _response: &[u8]) -> bool {
        false
    }

    /// Whether this handler decides about the tokens of devices and modules.
    fn takes_identities(&self) -> bool {
        false
    }

    /// Decides about a token of a device or module; the answer is [`Links::decide`] with `reply`, now or later.
    fn identity_token(&mut self, _links: &mut Links, _token: &IdentityToken<'_>, _reply: TokenReply) {}

    /// The client has put a policy's token for more than one device, which was accepted.
    fn policy_token(&mut self, _token: &str) {}

    /// Whether it holds a valid credential of a client; without any the connection is closed after a while.
    fn holds_credentials(&self) -> bool {
        false
    }

    /// When the first credential of [`Self::holds_credentials`] ends; then [`Self::recheck`] is called.
    fn next_end(&self) -> Option<UnixMillis> {
        None
    }

    /// Whether more may be read from the client; wakes `cx` when that changes.
    fn may_read(&mut self, _cx: &mut Context<'_>) -> bool {
        true
    }

    /// Forgets links that have ended.
    fn forget(&mut self, is_gone: &dyn Fn(LinkId) -> bool);
}
