//! Ids and entries of the log: openraft's types with our parameters, under plain names.

use std::fmt;

use bytes::Bytes;
use holdfast_model::{NodeId, Term};
use openraft::impls::leader_id_adv;

use crate::position::LogPosition;

/// A proposed entry: bytes that only the state machine understands.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Entries hold customers' data: never in a log line.
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A leader: term and node together, so that two leaders of one term differ.
pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, NodeId>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
pub(crate) type Payload = openraft::EntryPayload<Command, NodeId, Node>;
pub(crate) type Entry = openraft::impls::Entry<LeaderId, Payload>;
pub(crate) type Node = openraft::BasicNode;
pub(crate) type Membership = openraft::Membership<NodeId, Node>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, NodeId, Node>;

pub(crate) fn position(id: &LogId) -> LogPosition {
    LogPosition {
        term: Term(id.leader_id.term),
        node: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn log_id(position: LogPosition) -> LogId {
    LogId::new(
        LeaderId {
            term: position.term.get(),
            node_id: position.node,
        },
        position.index,
    )
}
