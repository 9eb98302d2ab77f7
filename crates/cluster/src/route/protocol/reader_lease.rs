//! Requests and decisions about reader leases, and their messages.

use holdfast_model::{NodeId, Term};
use holdfast_partition::epoch::{Receiver, Since};
use holdfast_proto::cluster::v1::{RouteReaderLease, RouteReaderLeaseAnswer, RouteReceiver, route_reader_lease_answer};

/// Limit of leases that are registered with one call.
pub(in crate::route) const MAX_PER_CALL: usize = 256;
/// Limit of the name of a group or a reader, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// A request to register a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::route) struct LeaseRequest {
    /// Assigned by the reader's node.
    pub(in crate::route) key: u64,
    pub(in crate::route) group: String,
    pub(in crate::route) receiver: Receiver,
    /// When an earlier owner has granted the lease.
    pub(in crate::route) since: Option<Since>,
}

/// The owner's decision about a request.
pub(in crate::route) enum LeaseDecision {
    Granted(Since),
    /// A reader with a higher epoch holds the place.
    TakenBy(Receiver),
    TooManyReaders,
}

pub(in crate::route) fn encode_request(request: &LeaseRequest) -> RouteReaderLease {
    RouteReaderLease {
        key: request.key,
        group: request.group.clone(),
        name: request.receiver.name.clone(),
        epoch: request.receiver.epoch,
        since_term: request.since.map(|since| since.term.get()),
        since_node: request.since.map_or(0, |since| since.node.get()),
        since_count: request.since.map_or(0, |since| since.count),
    }
}

pub(in crate::route) fn decode_request(seat: &RouteReaderLease) -> LeaseRequest {
    LeaseRequest {
        key: seat.key,
        group: truncated(&seat.group),
        receiver: Receiver {
            name: truncated(&seat.name),
            epoch: seat.epoch,
        },
        since: seat.since_term.map(|term| Since {
            term: Term(term),
            node: NodeId(seat.since_node),
            count: seat.since_count,
        }),
    }
}

/// Names are only shown in messages, so long ones are cut.
fn truncated(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_NAME_BYTES)].to_owned()
}

pub(in crate::route) fn encode_receiver(receiver: &Receiver) -> RouteReceiver {
    RouteReceiver {
        name: receiver.name.clone(),
        epoch: receiver.epoch,
    }
}

pub(in crate::route) fn decode_receiver(receiver: RouteReceiver) -> Receiver {
    Receiver {
        name: truncated(&receiver.name),
        epoch: receiver.epoch,
    }
}

pub(in crate::route) fn encode_decision(decision: &LeaseDecision) -> RouteReaderLeaseAnswer {
    use route_reader_lease_answer::Outcome;
    let (outcome, since_term, since_node) = match decision {
        LeaseDecision::Granted(since) => (Outcome::SinceCount(since.count), since.term, since.node),
        LeaseDecision::TakenBy(by) => (Outcome::TakenBy(encode_receiver(by)), Term(0), NodeId(0)),
        LeaseDecision::TooManyReaders => (Outcome::TooMany(true), Term(0), NodeId(0)),
    };
    RouteReaderLeaseAnswer {
        outcome: Some(outcome),
        since_term: since_term.get(),
        since_node: since_node.get(),
    }
}

pub(in crate::route) fn decode_decision(answer: RouteReaderLeaseAnswer) -> Option<LeaseDecision> {
    use route_reader_lease_answer::Outcome;
    Some(match answer.outcome? {
        Outcome::SinceCount(count) => LeaseDecision::Granted(Since {
            term: Term(answer.since_term),
            node: NodeId(answer.since_node),
            count,
        }),
        Outcome::TakenBy(by) => LeaseDecision::TakenBy(decode_receiver(by)),
        Outcome::TooMany(_) => LeaseDecision::TooManyReaders,
    })
}
