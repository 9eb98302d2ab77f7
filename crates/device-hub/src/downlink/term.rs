//! The delivery queues of one ownership term, and which of them have something to send.
//!
//! Invariants: a queue belongs to the session that its identity has at the moment; nothing is taken for a session that has
//! been superseded; one call with deliveries is in flight to a gateway at a time, so that deliveries of a session arrive in
//! order.
//! Pure: the caller holds the lock of the term.

use std::collections::{BTreeMap, VecDeque};

use holdfast_model::{IdentityId, NodeId};
use tokio::sync::oneshot;

use super::credit::Credit;
use super::delivery::{Delivery, DeliveryError, DeliveryId, DeliveryKind, DeliveryOutcome, Settlement};
use super::queue::{DeliveryQueue, Outgoing};
use crate::session_types::SessionAddress;

/// Deliveries of one session in one call, so that one busy device does not fill it.
const MAX_PER_SESSION: usize = 16;

/// The deliveries of one session, as they go into a call.
#[derive(Debug)]
pub(crate) struct SessionDeliveries {
    pub(crate) identity: IdentityId,
    pub(crate) address: SessionAddress,
    pub(crate) items: Vec<Outgoing>,
}

/// A gateway's answer to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryAnswer {
    /// Its front end has it.
    Accepted,
    /// No capacity at the moment: sent again.
    NoCapacity,
    /// The session is not there, or the link is not the current one: the next step follows from the session's end, or
    /// from the next report of the gateway.
    Gone,
}

#[derive(Debug)]
struct SessionQueue {
    address: SessionAddress,
    queue: DeliveryQueue,
    /// It is in the gateway's list of sendable queues.
    is_listed: bool,
}

#[derive(Debug, Default)]
struct GatewayQueues {
    /// Sessions with something to send.
    sendable: VecDeque<IdentityId>,
    /// A task sends.
    is_sending: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct TermDownlink {
    /// In an order of their own, in which they end with the term: a simulated run must replay.
    queues: BTreeMap<IdentityId, SessionQueue>,
    gateways: BTreeMap<NodeId, GatewayQueues>,
}

impl TermDownlink {
    /// Queues a delivery for the identity's session at `address`.
    pub(crate) fn push(
        &mut self,
        identity: &IdentityId,
        address: SessionAddress,
        id: DeliveryId,
        delivery: Delivery,
        reply: oneshot::Sender<DeliveryOutcome>,
    ) -> Result<(), DeliveryError> {
        let queue = self.queue(identity, address);
        queue.queue.push(id, delivery, reply)?;
        self.list(identity);
        Ok(())
    }

    /// Whether the identity's session has granted credit.
    pub(crate) fn takes_deliveries(&self, identity: &IdentityId) -> bool {
        self.queues.get(identity).is_some_and(|queue| queue.queue.has_grant())
    }

    fn queue(&mut self, identity: &IdentityId, address: SessionAddress) -> &mut SessionQueue {
        self.queues.entry(identity.clone()).or_insert_with(|| SessionQueue {
            address,
            queue: DeliveryQueue::default(),
            is_listed: false,
        })
    }

    /// Whether the identity's session takes deliveries of this kind.
    pub(crate) fn takes(&self, identity: &IdentityId, kind: DeliveryKind) -> bool {
        self.queues.get(identity).is_some_and(|queue| queue.queue.takes(kind))
    }

    /// The gateway reports the credit of the session at `address`. Returns whether the session takes other kinds of deliveries
    /// from now on.
    pub(crate) fn grant(&mut self, identity: &IdentityId, address: SessionAddress, credit: Credit) -> bool {
        let queue = self.queue(identity, address);
        if queue.address != address {
            return false;
        }
        let has_other_kinds = queue.queue.grant(credit);
        self.list(identity);
        has_other_kinds
    }

    /// The gateway reports the session over a new link.
    pub(crate) fn resume(&mut self, identity: &IdentityId, address: SessionAddress, credit: Credit) {
        if credit == Credit::default() && !self.queues.contains_key(identity) {
            return;
        }
        let queue = self.queue(identity, address);
        if queue.address == address {
            queue.queue.resume(credit);
            self.list(identity);
        }
    }

    /// The session at `address` supersedes the identity's older one.
    pub(crate) fn supersede(&mut self, identity: &IdentityId, address: SessionAddress) {
        if let Some(older) = self.queues.remove(identity) {
            let queue = older.queue.into_next_session();
            if !queue.is_empty() {
                let next = SessionQueue {
                    address,
                    queue,
                    is_listed: false,
                };
                self.queues.insert(identity.clone(), next);
            }
        }
    }

    /// The identity's session has ended.
    pub(crate) fn end(&mut self, identity: &IdentityId) {
        if let Some(ended) = self.queues.remove(identity) {
            ended.queue.end();
        }
    }

    /// A delivery of the session at `address` has been settled.
    pub(crate) fn settle(
        &mut self,
        identity: &IdentityId,
        address: SessionAddress,
        id: DeliveryId,
        settlement: Settlement,
    ) -> bool {
        let queue = self.queues.get_mut(identity).filter(|queue| queue.address == address);
        queue.is_some_and(|queue| queue.queue.settle(id, settlement))
    }

    /// Enters the queue in its gateway's list, if it has something to send.
    fn list(&mut self, identity: &IdentityId) {
        if let Some(queue) = self.queues.get_mut(identity)
            && !queue.is_listed
            && queue.queue.is_sendable()
        {
            queue.is_listed = true;
            let gateway = self.gateways.entry(queue.address.gateway).or_default();
            gateway.sendable.push_back(identity.clone());
        }
    }

    /// Whether a task must be started that sends to the gateway; the caller starts it.
    pub(crate) fn start_sending(&mut self, gateway: NodeId) -> bool {
        let Some(queues) = self.gateways.get_mut(&gateway) else {
            return false;
        };
        let starts = !queues.is_sending && !queues.sendable.is_empty();
        queues.is_sending |= starts;
        starts
    }

    /// The deliveries for the next call to the gateway, at most `most` and about `max_bytes`. When there are none, the
    /// sending task ends.
    pub(crate) fn take(&mut self, gateway: NodeId, most: usize, max_bytes: usize) -> Vec<SessionDeliveries> {
        let mut taken = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        let Some(queues) = self.gateways.get_mut(&gateway) else {
            return taken;
        };
        while count < most && bytes < max_bytes {
            let Some(identity) = queues.sendable.pop_front() else {
                break;
            };
            // Sessions end and move while they are listed.
            let Some(queue) = self
                .queues
                .get_mut(&identity)
                .filter(|queue| queue.is_listed && queue.address.gateway == gateway)
            else {
                continue;
            };
            queue.is_listed = false;
            let items = queue.queue.take(MAX_PER_SESSION.min(most - count), max_bytes - bytes);
            count += items.len();
            bytes += items.iter().map(|item| item.delivery.bytes()).sum::<usize>();
            if !items.is_empty() {
                taken.push(SessionDeliveries {
                    identity,
                    address: queue.address,
                    items,
                });
            }
        }
        if taken.is_empty() {
            self.gateways.remove(&gateway);
        }
        taken
    }

    /// The sending task ends without a further call: the gateway's link is not open.
    pub(crate) fn stop_sending(&mut self, gateway: NodeId) {
        if let Some(queues) = self.gateways.get_mut(&gateway) {
            queues.is_sending = false;
        }
    }

    /// The gateway has answered a call; `None` = the outcome of the call is not known. Returns whether it had no capacity
    /// for some.
    pub(crate) fn answered(&mut self, call: &[SessionDeliveries], answers: Option<&[Vec<DeliveryAnswer>]>) -> bool {
        let mut is_short = answers.is_none();
        for (index, session) in call.iter().enumerate() {
            let Some(queue) = self
                .queues
                .get_mut(&session.identity)
                .filter(|queue| queue.address == session.address)
            else {
                continue;
            };
            let answers = answers.and_then(|answers| answers.get(index));
            let mut is_gone = false;
            for (item, answer) in session.items.iter().zip(answers.into_iter().flatten()) {
                match answer {
                    DeliveryAnswer::Accepted => queue.queue.accepted(item.id),
                    DeliveryAnswer::NoCapacity => is_short = true,
                    DeliveryAnswer::Gone => is_gone = true,
                }
            }
            if !is_gone {
                self.list(&session.identity);
            }
        }
        is_short
    }
}

impl Drop for TermDownlink {
    /// The term is over, and its queues with it: every delivery goes back to its caller.
    fn drop(&mut self) {
        for (_, ended) in std::mem::take(&mut self.queues) {
            ended.queue.end();
        }
    }
}
