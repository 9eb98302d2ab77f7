//! Refusals that are answered later, since the client repeats the refused request at once.

use std::time::Instant;

use holdfast_amqp::{LinkId, SaslCode};
use holdfast_auth::{BackoffRule, source};

use crate::{Links, Refused};

/// Delayed refusals of one connection; further ones are answered at once.
const MAX_DELAYED: usize = 64;

/// The answer of a refusal.
pub(crate) enum Refusal {
    /// To an attach.
    Attach(LinkId, Refused),
    /// To SASL credentials.
    Sasl(SaslCode),
    /// To a request: the link for the response, and the response.
    Response(Option<LinkId>, Vec<u8>),
}

/// A refusal that waits.
pub(crate) struct Delayed {
    due: Instant,
    refusal: Refusal,
}

impl Delayed {
    /// The link that it answers.
    pub(crate) fn link(&self) -> Option<LinkId> {
        match &self.refusal {
            Refusal::Attach(link, _) => Some(*link),
            Refusal::Response(link, _) => *link,
            Refusal::Sasl(_) => None,
        }
    }
}

/// When the first delayed refusal is due.
pub(crate) fn earliest(delayed: &[Delayed]) -> Option<Instant> {
    delayed.iter().map(|delayed| delayed.due).min()
}

impl Links {
    /// Answers with a refusal of `request`, at once or, if the client repeats the request at once, later.
    pub(crate) fn refuse(&mut self, identity: &str, request: &str, refusal: Refusal) {
        let source = source(self.address.ip());
        let counted =
            self.server
                .backoff()
                .borrow_mut()
                .refuse((source, identity, request), &BackoffRule::REPEATED, self.now);
        match counted.due {
            Some(due) if self.delayed.len() < MAX_DELAYED => self.delayed.push(Delayed { due, refusal }),
            _ => self.send_refusal(refusal),
        }
    }

    /// Sends the refusals that are due.
    pub(crate) fn send_delayed(&mut self) {
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
                let (hub, now, monotonic) = (self.authority().hub_name(), self.authority().now(), self.now);
                refused.with_fault(&hub, now, |fault| self.engine.refuse(link, fault, monotonic));
            }
            Refusal::Sasl(code) => self.engine.sasl_outcome(code),
            Refusal::Response(link, response) => self.respond(link, response),
        }
    }
}
