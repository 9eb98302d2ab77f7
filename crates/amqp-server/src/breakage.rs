//! Breaking a connection on purpose: what fault-injection messages of devices request (docs/spec/fault-injection.md).
//!
//! A handler requests it ([`Links::break_with`]) and the connection does it when the handlers are done, since they must forget their links.
//! Not here: which message requests what (`gateway`).

use holdfast_amqp::{Detached, Fault, LinkId, SessionId};

use crate::dispatch::Dispatch;
use crate::{Leaving, Links};

/// The text of errors that were requested.
const TEXT: &str = "A fault-injection message requested this.";

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakage {
    /// The TCP connection is reset.
    Reset,
    /// The links are detached, then the connection is closed without an error.
    ShutDown,
    /// The links are detached, then the connection is closed with an error.
    Close,
    /// A session is ended with an error.
    Session(SessionId),
    /// One link is detached with an error.
    Link(LinkId),
    /// The links on which the client puts tokens are detached with an error.
    TokenRequests,
    /// The links on which it receives the answers.
    TokenResponses,
}

impl Links {
    /// Has the connection break something once its handlers are done; a second request in the same turn is dropped.
    pub fn break_with(&mut self, breakage: Breakage) {
        self.breakage.get_or_insert(breakage);
    }
}

/// How a connection is closed that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Closing {
    /// The node is going to stop or drains.
    #[default]
    Forced,
    /// Without an error.
    Without,
    /// With this condition and text.
    With(&'static str, &'static str),
}

impl Dispatch {
    /// Detaches the links, and closes the connection once the client had time to notice.
    fn leave_with(&mut self, closing: Closing) {
        self.closing = closing;
        self.leave(Leaving::Stopping);
    }

    /// Breaks what a handler has requested.
    pub(crate) fn break_requested(&mut self) {
        let Some(breakage) = self.links.breakage.take() else {
            return;
        };
        tracing::info!(address = %self.links.address, ?breakage, "a fault was injected");
        let forced = Fault::new("amqp:link:detach-forced", TEXT);
        match breakage {
            Breakage::Reset => self.links.is_reset = true,
            // Both as a node that stops does it: after a `close` with links attached, Node's SDK waits 45 s for their detaches.
            Breakage::ShutDown => self.leave_with(Closing::Without),
            // Node's SDK connects again after this error and not after `amqp:connection:forced`.
            Breakage::Close => self.leave_with(Closing::With("amqp:internal-error", TEXT)),
            Breakage::Session(session) => {
                let fault = Fault::new("amqp:internal-error", TEXT);
                self.links.engine.end(session, Some(&fault));
                self.forget(&|link| link.session() == session);
            }
            Breakage::Link(link) => self.links.close_link(link, &forced),
            Breakage::TokenRequests | Breakage::TokenResponses => {
                let links = match breakage {
                    Breakage::TokenRequests => self.links.cbs.requests(),
                    _ => self.links.cbs.responses(),
                };
                for link in links {
                    self.links
                        .engine
                        .detach(link, Detached::Closed, Some(&forced), self.links.now);
                    self.links.detached.push(link);
                }
            }
        }
        self.forget_detached();
    }
}
