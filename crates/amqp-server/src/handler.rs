//! Handlers that serve the links of some addresses: readers of events and senders of messages now, devices later.

use std::task::Context;

use holdfast_amqp::address::Endpoint;
use holdfast_amqp::message::Request;
use holdfast_amqp::{Attach, Incoming, LinkId, Outcome, Outgoing};

use crate::{Certainty, Links, Refused, RequestNode};

/// Serves some addresses; one per core.
pub trait LinkService {
    /// The handler of a new connection.
    fn connect(&self) -> Box<dyn LinkHandler>;
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
    /// is more.
    fn poll(&mut self, links: &mut Links, cx: &mut Context<'_>);

    /// Detaches links that no token covers any more.
    fn recheck(&mut self, links: &mut Links, change: AuthorizationChange);

    /// The node is going to stop or drains: detaches its open links with [`Links::send_away`].
    fn leave(&mut self, links: &mut Links);

    /// Forgets links that have ended.
    fn forget(&mut self, is_gone: &dyn Fn(LinkId) -> bool);
}
