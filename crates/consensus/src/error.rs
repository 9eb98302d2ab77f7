//! Errors of a group; they say what a caller may conclude.

use holdfast_model::{NodeId, Term};
use holdfast_storage::StorageError;
use thiserror::Error;

use crate::config::ConfigError;
use crate::position::{GroupId, LogPosition};

/// Why an entry was not, or perhaps not, committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// This node does not lead the group. The entry was not appended.
    #[error("this node does not lead the group{}", whose(.leader))]
    NotLeader {
        /// The node that leads, where known.
        leader: Option<NodeId>,
    },
    /// The entry was to be appended in `term` only, and this node does not lead in it any more. It was not appended.
    #[error("this node no longer leads the group in term {term}{}", whose(.leader))]
    TermChanged {
        /// The only term in which the entry is valid.
        term: Term,
        /// The node that leads now, where known: perhaps this one, in a later term.
        leader: Option<NodeId>,
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

fn whose(leader: &Option<NodeId>) -> String {
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
        leader: Option<NodeId>,
    },
    /// The leader cannot reach a quorum.
    #[error("the leader cannot reach a quorum")]
    NoQuorum,
    /// The leader did not answer, or this node did not apply the read index, in time.
    #[error("not confirmed in time")]
    TimedOut,
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
    /// The log no longer holds the entries after the state machine's state: the state has been lost.
    #[error("{group}: the log begins after {watermark}, but state was applied only up to {}", end_of(.applied))]
    StateLost {
        /// The group.
        group: GroupId,
        /// The last applied entry.
        applied: Option<LogPosition>,
        /// The last entry that has been deleted from the log.
        watermark: LogPosition,
    },
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The group stopped while it started.
    #[error("{group}: stopped while starting")]
    Stopped {
        /// The group.
        group: GroupId,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StartError {
    pub(crate) fn stopped(group: GroupId, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Stopped {
            group,
            source: source.into(),
        }
    }
}

fn end_of(last: &Option<LogPosition>) -> String {
    last.map_or_else(|| "nothing".to_owned(), |last| last.to_string())
}

/// Why a change of members was not, or perhaps not, made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// This node does not lead the group. Nothing was changed.
    #[error("this node does not lead the group{}", whose(.leader))]
    NotLeader {
        /// The node that leads, where known.
        leader: Option<NodeId>,
    },
    /// Another change is in progress. Nothing was changed.
    #[error("another change of the group's members is in progress")]
    InProgress,
    /// A voter-to-be is not a learner. Nothing was changed.
    #[error("node {node} must be added as a learner before it can vote")]
    NotMember {
        /// The node.
        node: NodeId,
    },
    /// A learner-to-go votes. Nothing was changed.
    #[error("node {node} is a voter: demote it before it is removed")]
    Votes {
        /// The node.
        node: NodeId,
    },
    /// No voters would remain. Nothing was changed.
    #[error("a group must have at least one voter")]
    NoVoters,
    /// The change may or may not be made, or only its first half: a leader change or the group's end came between.
    #[error("the outcome of the change of members is unknown")]
    Unknown,
    /// The group has stopped. Nothing was changed.
    #[error("the group has stopped")]
    Stopped,
}

/// Why leadership did not move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TransferError {
    /// This node does not lead the group.
    #[error("this node does not lead the group{}", whose(.leader))]
    NotLeader {
        /// The node that leads, where known.
        leader: Option<NodeId>,
    },
    /// The node has no vote, so that it cannot lead.
    #[error("node {node} is not a voter of this group")]
    NotVoter {
        /// The node.
        node: NodeId,
    },
    /// The node does not answer or has not caught up. No transfer was started; this node still leads.
    #[error("node {node} has not caught up")]
    Behind {
        /// The node.
        node: NodeId,
    },
    /// The other node did not take over in time; this node still leads, or no node does for the moment.
    #[error("node {node} has not taken over in time")]
    TimedOut {
        /// The node.
        node: NodeId,
    },
    /// The group has stopped.
    #[error("the group has stopped")]
    Stopped,
}
