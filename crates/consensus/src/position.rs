//! Groups and positions in their logs.

use std::fmt;

use holdfast_model::{NodeId, Term};
use holdfast_storage::Family;

/// A Raft group of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl GroupId {
    /// The registry.
    pub const REGISTRY: Self = Self(0);

    /// The group of a partition.
    #[must_use]
    pub const fn partition(partition: u16) -> Self {
        Self(1 + partition as u32)
    }

    /// The family that holds the group's log.
    pub(crate) fn log_family(self) -> Family {
        if self == Self::REGISTRY {
            Family::Raft
        } else {
            Family::Log
        }
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("registry"),
            group => write!(f, "partition {}", group - 1),
        }
    }
}

/// The position of an entry in a group's log, with the leader that appended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The leader's term.
    pub term: Term,
    /// The leader's node id.
    pub node: NodeId,
    /// Counted from 0 without gaps; the group's first membership is 0.
    pub index: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-{}", self.term, self.node, self.index)
    }
}
