//! Who is a member of the cluster and which node holds which partition, as the registry keeps it.
//!
//! Why in the registry: every node has a replica of it, and what is decided here survives whoever decided it, so that a
//! plan which was half carried out is carried on by the next leader.
//! Not here: who decides and carries out (`cluster`).

use std::collections::BTreeMap;

use holdfast_model::{PartitionId, UnixMillis};

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeRole {
    /// Holds partitions, may vote in the registry, and takes connections.
    Core,
    /// Takes connections only: a learner of the registry, without partitions.
    Gateway,
}

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Admitted; its registry replica is catching up.
    Joining,
    /// In service.
    Active,
    /// Its leaders and replicas are being moved away; takes no new ones.
    Draining,
    /// Holds nothing any more: may be stopped and removed.
    Drained,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its Raft id: the incarnation of its data directory.
    pub id: u64,
    /// For people; unique among the members.
    pub name: String,
    /// Where its peers reach it, `host:port`.
    pub address: String,
    /// Its failure zone; empty = none.
    pub zone: String,
    /// What it is for.
    pub role: NodeRole,
    /// Where it stands.
    pub state: NodeState,
    /// The program version that it runs.
    pub version: String,
    /// When it was admitted.
    pub joined: UnixMillis,
}

/// Which nodes are to hold a partition. The group's real membership follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Which partition.
    pub partition: PartitionId,
    /// The wanted voters, by id; the first is the preferred leader. Never empty.
    pub replicas: Vec<u64>,
    /// The one node that may create the group, on its first start. Fixed for ever, so that a node which comes back empty
    /// never founds a second log.
    pub founder: u64,
}

/// Members and placements at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// Grows with every change.
    pub version: u64,
    /// The cluster's id, as in every member's data directory; empty before the first node has entered itself.
    pub cluster: String,
    /// How many replicas each partition is to have, as far as there are nodes: 1 or 3.
    pub replication_factor: u8,
    /// All members, by id.
    pub nodes: BTreeMap<u64, NodeInfo>,
    /// One per partition, in order; empty before the first node has entered itself.
    pub placements: Vec<Placement>,
}

impl ClusterView {
    /// The node, if it is a member.
    #[must_use]
    pub fn node(&self, id: u64) -> Option<&NodeInfo> {
        self.nodes.get(&id)
    }

    /// Where `partition` is to be.
    #[must_use]
    pub fn placement(&self, partition: PartitionId) -> Option<&Placement> {
        self.placements.get(usize::from(partition.0))
    }
}
