//! Why a group refuses, and what its caller may conclude.

use holdfast_storage::StorageError;
use thiserror::Error;

use crate::position::{GroupId, LogPosition};

/// Why an entry was not, or perhaps not, committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// This node does not lead the group. The entry was not appended.
    #[error("this node does not lead the group{}", whose(.leader))]
    NotLeader {
        /// The node that leads, where known.
        leader: Option<u64>,
    },
    /// The group has stopped. The entry was not appended.
    #[error("the group has stopped")]
    Stopped,
    /// The entry is larger than a group takes. It was not appended.
    #[error("an entry of {bytes} bytes exceeds {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too little space is left on the disk (503005). The entry was not appended.
    #[error("too little space is left on the disk")]
    DiskFull,
    /// The entry may or may not be committed: a leader change or the group's end came between.
    #[error("the outcome is unknown")]
    Unknown,
}

fn whose(leader: &Option<u64>) -> String {
    leader.map_or_else(String::new, |node| format!("; node {node} does"))
}

impl ProposeError {
    /// Whether the entry is certainly not in the log.
    #[must_use]
    pub fn is_certain(self) -> bool {
        self != Self::Unknown
    }
}

/// Why a linearizable read was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadError {
    /// This node does not lead the group.
    #[error("this node does not lead the group{}", whose(.leader))]
    NotLeader {
        /// The node that leads, where known.
        leader: Option<u64>,
    },
    /// The leader cannot reach a quorum.
    #[error("the leader cannot reach a quorum")]
    NoQuorum,
    /// The group has stopped.
    #[error("the group has stopped")]
    Stopped,
}

/// Why a group did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its data cannot be read.
    #[error("{group}: cannot read the log")]
    Storage {
        /// The group.
        group: GroupId,
        /// Why.
        #[source]
        source: StorageError,
    },
    /// The state machine has applied entries that the log does not hold: the log has been lost.
    #[error("{group}: state was applied up to {applied}, but the log ends at {}", end_of(.last))]
    LogLost {
        /// The group.
        group: GroupId,
        /// The last applied entry.
        applied: LogPosition,
        /// The last entry of the log.
        last: Option<LogPosition>,
    },
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
    /// The group stopped while it started.
    #[error("{group}: stopped while starting: {reason}")]
    Stopped {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
}

fn end_of(last: &Option<LogPosition>) -> String {
    last.map_or_else(|| "nothing".to_owned(), |last| last.to_string())
}
