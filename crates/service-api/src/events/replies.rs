//! Request and response links of `$cbs` and `$management`, and responses that wait for credit (Spec amqp §5, §8.2).

use std::collections::VecDeque;

use holdfast_amqp::{Connection, Delivery, LinkId, SessionId};

/// Responses of one connection that may wait for the client's credit; beyond it the oldest is dropped.
const MAX_WAITING: usize = 64;

/// The links to one node.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The client sends requests.
    requests: Vec<LinkId>,
    /// The client receives responses; newest last.
    responses: Vec<LinkId>,
}

impl Node {
    pub(super) fn add_requests(&mut self, link: LinkId) {
        self.requests.push(link);
    }

    pub(super) fn add_responses(&mut self, link: LinkId) {
        self.responses.push(link);
    }

    /// Whether requests come on `link`.
    pub(super) fn takes(&self, link: LinkId) -> bool {
        self.requests.contains(&link)
    }

    /// Whether a request link exists in `session`.
    pub(super) fn has_requests_in(&self, session: SessionId) -> bool {
        self.requests.iter().any(|link| link.session() == session)
    }

    /// Where the response to a request on `link` goes: in the same session, else to the newest. `reply-to` says nothing
    /// usable.
    pub(super) fn answer_to(&self, link: LinkId) -> Option<LinkId> {
        let same = self
            .responses
            .iter()
            .rev()
            .find(|response| response.session() == link.session());
        same.or(self.responses.last()).copied()
    }

    /// Forgets links.
    pub(super) fn retain(&mut self, keep: impl Fn(LinkId) -> bool) {
        self.requests.retain(|link| keep(*link));
        self.responses.retain(|link| keep(*link));
    }
}

/// Responses that wait for credit.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<(LinkId, Vec<u8>)>,
    sent: u32,
}

impl Outbox {
    /// Sends the response, now or when there is credit.
    pub(super) fn put(&mut self, engine: &mut Connection, link: LinkId, response: Vec<u8>) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((link, response));
        self.send(engine);
    }

    /// Sends what can be sent.
    pub(super) fn send(&mut self, engine: &mut Connection) {
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

    /// Forgets responses on links that are gone.
    pub(super) fn retain(&mut self, keep: impl Fn(LinkId) -> bool) {
        self.waiting.retain(|(link, _)| keep(*link));
    }
}
