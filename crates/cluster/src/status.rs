//! How the cluster is doing, as one node could find out within a second.
//!
//! Why: an operator reads at a glance who is up, who leads what, what is behind and what is to be done about it; and
//! the same answer serves the command line, REST and tests.
//! Invariants: whoever does not answer is shown as not reachable, never left out; nothing here is decided by, it is
//! only shown.
//! Not here: how it is asked for (`control`).

mod assemble;

use serde::Serialize;

pub(crate) use assemble::{Answered, assemble};

/// The whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The cluster's id.
    pub cluster: String,
    /// The version of members and placements as the answering node has them.
    pub view_version: u64,
    /// How many replicas each partition is to have.
    pub replication_factor: u8,
    /// The id of the node that has put this together.
    pub asked: u64,
    /// Whether everything is as it should be.
    pub healthy: bool,
    /// What is wrong or under way, and what to do, for people; the most urgent first.
    pub notes: Vec<String>,
    /// The members, by name.
    pub nodes: Vec<NodeStatus>,
    /// The registry first, then the partitions in order.
    pub groups: Vec<GroupStatus>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its Raft id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub address: String,
    /// Its failure zone; empty = none.
    pub zone: String,
    /// `core` or `gateway`.
    pub role: &'static str,
    /// `joining`, `active`, `draining` or `drained`.
    pub state: &'static str,
    /// Whether it has answered just now.
    pub up: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The program version that it runs.
    pub version: String,
    /// Whether it accepts credentials: its replica of the registry is inside its lease.
    pub in_lease: bool,
    /// Whether it is stopping.
    pub leaving: bool,
    /// Whether it refuses writes since its disk is nearly full.
    pub read_only: bool,
    /// Groups that it leads.
    pub leads: usize,
    /// Replicas of partitions that it runs.
    pub replicas: usize,
    /// Device sessions.
    pub sessions: u64,
    /// Free bytes of its disk.
    pub disk_free: u64,
    /// Bytes of its disk.
    pub disk_total: u64,
    /// Free space in percent.
    pub disk_free_percent: u8,
}

/// The registry's group or that of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// `registry` or `partition 7`.
    pub name: String,
    /// The partition's number; none: the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u16>,
    /// The leader's id, if one has answered.
    pub leader: Option<u64>,
    /// The leader's term.
    pub term: u64,
    /// The last entry of the leader's log.
    pub last_log: u64,
    /// The wanted voters, the preferred leader first; empty for the registry.
    pub wanted: Vec<u64>,
    /// Who belongs to it.
    pub replicas: Vec<ReplicaStatus>,
    /// What its leader changes, or waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_way: Option<String>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// The node's id.
    pub node: u64,
    /// The node's name; empty when it is no member of the cluster any more.
    pub name: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether the node has answered that it runs it.
    pub running: bool,
    /// Entries that the leader has and it has not, where the leader knows.
    pub lag: Option<u64>,
}
