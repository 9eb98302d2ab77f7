//! Request and response links of nodes such as `$cbs`, and responses that wait for credit (Spec amqp §5, §8.2).

use std::collections::VecDeque;

use holdfast_amqp::{Connection, Delivery, LinkId, SessionId};

/// Responses of one connection that can wait for the client's credit; past it the oldest is dropped.
const MAX_WAITING: usize = 64;

/// The links of one request/response node (AMQP management): `$cbs` or `$management`.
#[derive(Debug, Default)]
pub struct RequestNode {
    /// Links on which the client sends requests.
    requests: Vec<LinkId>,
    /// Links on which the client receives responses; newest last.
    responses: Vec<LinkId>,
}

impl RequestNode {
    pub(crate) fn add_requests(&mut self, link: LinkId) {
        self.requests.push(link);
    }

    pub(crate) fn add_responses(&mut self, link: LinkId) {
        self.responses.push(link);
    }

    /// Whether `link` carries requests.
    #[must_use]
    pub fn takes(&self, link: LinkId) -> bool {
        self.requests.contains(&link)
    }

    /// Whether a request link exists in `session`.
    #[must_use]
    pub fn has_requests_in(&self, session: SessionId) -> bool {
        self.requests.iter().any(|link| link.session() == session)
    }

    /// The link for the response to a request on `link`: the newest of the same session, else the newest. Clients put
    /// nothing usable into `reply-to`.
    #[must_use]
    pub fn answer_to(&self, link: LinkId) -> Option<LinkId> {
        let same = self
            .responses
            .iter()
            .rev()
            .find(|response| response.session() == link.session());
        same.or(self.responses.last()).copied()
    }

    /// The links on which the client sends requests.
    pub(crate) fn requests(&self) -> Vec<LinkId> {
        self.requests.clone()
    }

    /// The links on which it receives responses.
    pub(crate) fn responses(&self) -> Vec<LinkId> {
        self.responses.clone()
    }

    /// Removes links.
    pub fn retain(&mut self, keep: impl Fn(LinkId) -> bool) {
        self.requests.retain(|link| keep(*link));
        self.responses.retain(|link| keep(*link));
    }
}

/// Responses that wait for credit.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<(LinkId, Vec<u8>)>,
    sent: u32,
}

impl Outbox {
    /// Sends the response, at once or when the client grants credit.
    pub(crate) fn put(&mut self, engine: &mut Connection, link: LinkId, response: Vec<u8>) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((link, response));
        self.send(engine);
    }

    /// Sends the responses for which there is credit.
    pub(crate) fn send(&mut self, engine: &mut Connection) {
        let sent = &mut self.sent;
        self.waiting.retain(|(link, response)| {
            if engine.sendable(*link) == 0 {
                return true;
            }
            *sent = sent.wrapping_add(1);
            let delivery = Delivery {
                tag: &sent.to_be_bytes(),
                settled: true,
                message_format: 0,
            };
            engine
                .send_with(*link, &delivery, |buf| buf.extend_from_slice(response))
                .is_err()
        });
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
    }

    /// Removes responses on detached links.
    pub(crate) fn retain(&mut self, keep: impl Fn(LinkId) -> bool) {
        self.waiting.retain(|(link, _)| keep(*link));
    }
}
