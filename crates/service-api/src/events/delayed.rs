//! Refusals that are answered later, since the client repeats the refused request at once.

use std::time::Instant;

use holdfast_amqp::{LinkId, SaslCode};
use holdfast_model::UnixMillis;

use super::driver::Driver;
use super::refusal::Refused;

/// Delayed refusals of one connection; further ones are answered at once.
const MAX_DELAYED: usize = 64;

/// The answer of a refusal.
pub(super) enum Refusal {
    /// To an attach.
    Attach(LinkId, Refused),
    /// To SASL credentials.
    Sasl(SaslCode),
    /// To a request: the link on which it arrived, and the response.
    Response(LinkId, Vec<u8>),
}

/// A refusal that waits.
pub(super) struct Delayed {
    due: Instant,
    refusal: Refusal,
}

impl Delayed {
    /// The link that it answers.
    pub(super) fn link(&self) -> Option<LinkId> {
        match &self.refusal {
            Refusal::Attach(link, _) | Refusal::Response(link, _) => Some(*link),
            Refusal::Sasl(_) => None,
        }
    }
}

impl Driver {
    /// Answers with a refusal of `request`, at once or, if the client repeats the request at once, later.
    pub(super) fn refuse(&mut self, identity: &str, request: &str, refusal: Refusal) {
        let source = self.address.ip();
        let due = self
            .endpoint
            .backoff()
            .borrow_mut()
            .refuse(source, (identity, request), self.now);
        match due {
            Some(due) if self.delayed.len() < MAX_DELAYED => self.delayed.push(Delayed { due, refusal }),
            _ => self.send_refusal(refusal),
        }
    }

    /// When the first delayed refusal is due.
    pub(super) fn delayed_until(&self) -> Option<Instant> {
        self.delayed.iter().map(|delayed| delayed.due).min()
    }

    /// Sends the refusals that are due.
    pub(super) fn send_delayed(&mut self) {
        let mut at = 0;
        while at < self.delayed.len() {
            if self.delayed[at].due <= self.now {
                let delayed = self.delayed.remove(at);
                self.send_refusal(delayed.refusal);
            } else {
                at += 1;
            }
        }
    }

    fn send_refusal(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Attach(link, refused) => {
                let (hub, now): (_, UnixMillis) = (self.endpoint.hub_name(), self.endpoint.hub().clock().now());
                let monotonic = self.now;
                refused.with_fault(&hub, now, |fault| self.engine.refuse(link, fault, monotonic));
            }
            Refusal::Sasl(code) => self.engine.sasl_outcome(code),
            Refusal::Response(link, response) => self.respond(link, response),
        }
    }
}
