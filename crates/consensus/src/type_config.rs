//! openraft's type configuration.

use bytes::Bytes;
use holdfast_model::NodeId;
use openraft::RaftTypeConfig;
use openraft::impls::{BoxedErrorSource, InlineBatch};
use openraft::vote::RaftLeaderId;

use crate::ids::{Command, LeaderId, Node};
use crate::proposal::Proposal;

/// The type configuration. Written out, since the library's macro takes no generic responder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Command;
    type R = Bytes;
    type NodeId = NodeId;
    type Node = Node;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = openraft::impls::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = crate::runtime::Runtime;
    type Responder<T>
        = Proposal<T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<Types, crate::state_machine::applier::SnapshotData>;
