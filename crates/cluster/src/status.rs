//! The status of the cluster, as one node can collect it within a second.
//!
//! Why: an operator sees at a glance which nodes are up, which node leads which group, what lags, and what to do; the
//! command line, REST and tests use the same status.
//! Invariants: a node that does not answer is shown as down, never left out. Informational only; no decision depends on it.
//! Not here: collecting the reports (`control`).

mod assemble;

use holdfast_model::{NodeId, Term};
use serde::Serialize;

pub(crate) use assemble::{Answered, assemble};

/// The whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The cluster's id.
    pub cluster: String,
    /// The version of members and placements on the answering node.
    pub view_version: u64,
    /// The number of replicas of each partition.
    pub replication_factor: u8,
    /// Which formats the nodes may write; 0: unknown.
    pub feature_level: u32,
    /// The id of the node that has assembled the status.
    pub asked: u64,
    /// Whether the cluster is in its desired state.
    pub healthy: bool,
    /// Problems and changes in progress, with advice; the most urgent first.
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
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// The address at which its peers reach it.
    pub address: String,
    /// Its failure zone; empty = none.
    pub zone: String,
    /// `core` or `gateway`.
    pub role: &'static str,
    /// `joining`, `active`, `draining` or `drained`.
    pub state: &'static str,
    /// Whether it has answered.
    pub up: bool,
    /// Why it has not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The program version that it runs.
    pub version: String,
    /// The highest feature level that it supports; 0: unknown, or a version without levels.
    pub feature_level: u32,
    /// Whether it accepts credentials: its registry replica is inside its lease.
    pub in_lease: bool,
    /// Whether it is stopping.
    pub leaving: bool,
    /// Whether it refuses writes because its disk is nearly full.
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
    pub leader: Option<NodeId>,
    /// The leader's term.
    pub term: Term,
    /// The last entry of the leader's log.
    pub last_log: u64,
    /// The desired voters, the preferred leader first; empty for the registry.
    pub wanted: Vec<NodeId>,
    /// The members of the group.
    pub replicas: Vec<ReplicaStatus>,
    /// The change in progress, or what its leader waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_way: Option<String>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// The node's id.
    pub node: NodeId,
    /// The node's name; empty if it is not a member of the cluster any more.
    pub name: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether the node has reported that it runs the replica.
    pub running: bool,
    /// Entries that the replica lacks, if the leader knows.
    pub lag: Option<u64>,
}
