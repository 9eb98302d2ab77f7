//! Members of the cluster and placements of partitions, as the registry keeps them.
//!
//! Why in the registry: every node has a replica of it, and a decision recorded here survives the node that made it, so
//! that the next leader completes a plan that was half executed.
//! Not here: making and executing decisions (`cluster`).

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::HEXLOWER;
use holdfast_model::{ErrorCode, NodeId, PartitionId, UnixMillis};
use holdfast_proto::registry::v1 as proto;
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::state::Rejection;

/// Most members of a cluster.
pub const MAX_NODES: usize = 128;

/// Most join tokens that are kept, used, expired or waiting.
pub const MAX_JOIN_TOKENS: usize = 64;

/// The longest lifetime of a join token.
pub const MAX_JOIN_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Most nodes that a placement names.
pub const MAX_REPLICAS: usize = 7;

/// The highest replication factor: five replicas survive the loss of two nodes, and each further one is a copy that every
/// write pays for.
pub const MAX_REPLICATION_FACTOR: u8 = 5;

const _: () = assert!((MAX_REPLICATION_FACTOR as usize) <= MAX_REPLICAS);

/// Most removed nodes whose ids are remembered.
pub(crate) const MAX_REMOVED_NODES: usize = 1024;

const MAX_NAME_BYTES: usize = 64;
const MAX_ADDRESS_BYTES: usize = 262;
const MAX_ZONE_BYTES: usize = 64;
const MAX_VERSION_BYTES: usize = 64;

/// Bytes of randomness in a join token's secret.
const SECRET_BYTES: usize = 32;

/// The longest text that is checked as a join token's secret.
const MAX_SECRET_BYTES: usize = 256;

/// The role of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeRole {
    /// Holds partitions, may vote in the registry, and takes connections.
    Core,
    /// Takes connections only: a learner of the registry, without partitions.
    Gateway,
}

/// The state of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Admitted; its registry replica is catching up.
    Joining,
    /// In service.
    Active,
    /// Its leaderships and replicas are being moved away; it gets no new ones.
    Draining,
    /// Holds no replica any more: may be stopped and removed.
    Drained,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its Raft id: the incarnation of its data directory.
    pub id: NodeId,
    /// For people; unique among the members.
    pub name: String,
    /// Its address for peers, `host:port`.
    pub address: String,
    /// Its failure zone; empty = none.
    pub zone: String,
    /// Its role.
    pub role: NodeRole,
    /// Its state.
    pub state: NodeState,
    /// The program version that it runs.
    pub version: String,
    /// When it was admitted.
    pub joined: UnixMillis,
}

/// The wanted replicas of a partition. The group's real membership follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The partition.
    pub partition: PartitionId,
    /// The wanted voters, by id; the first is the preferred leader. Never empty.
    pub replicas: Vec<NodeId>,
    /// The only node that may create the group, on its first start. Never changes, so that a node that comes back empty never
    /// creates a second log.
    pub founder: NodeId,
}

/// Members and placements at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// Grows with every change.
    pub version: u64,
    /// The cluster's id, as in every member's data directory; empty before the first node has been registered.
    pub cluster: String,
    /// The wanted number of replicas of each partition, limited by the number of nodes: 1 to [`MAX_REPLICATION_FACTOR`].
    pub replication_factor: u8,
    /// All members, by id.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// One per partition, in order; empty before the first node has been registered.
    pub placements: Vec<Placement>,
}

impl ClusterView {
    /// The node, if it is a member.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        self.nodes.get(&id)
    }

    /// The placement of `partition`.
    #[must_use]
    pub fn placement(&self, partition: PartitionId) -> Option<&Placement> {
        self.placements.get(usize::from(partition.0))
    }
}

/// A join token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Its id: the beginning of its secret's hash, in hexadecimal.
    pub id: String,
    /// The role of the node that uses it.
    pub role: NodeRole,
    /// When it was created.
    pub created: UnixMillis,
    /// When it expires.
    pub expires: UnixMillis,
    /// The node that used it.
    pub used_by: Option<u64>,
    /// When it was revoked.
    pub revoked: Option<UnixMillis>,
}

/// Bytes of a secret's hash in the token's id: enough to distinguish 64 tokens, and too few to find the secret.
const TOKEN_ID_BYTES: usize = 4;

/// The id of the token whose secret has this hash, in hexadecimal.
pub(crate) fn token_id(secret_hash: &[u8]) -> String {
    HEXLOWER.encode(&secret_hash[..secret_hash.len().min(TOKEN_ID_BYTES)])
}

/// The id of the token with this secret: for lists and the audit log, which must not contain secrets. `None` for a text
/// that does not have the form of a secret.
#[must_use]
pub fn join_token_id(secret: &str) -> Option<String> {
    secret_hash(secret).ok().map(|hash| token_id(&hash))
}

/// A fresh secret: 64 hexadecimal digits.
pub(crate) fn fresh_secret() -> Zeroizing<String> {
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    rand::rng().fill_bytes(&mut *secret);
    Zeroizing::new(HEXLOWER.encode(&*secret))
}

/// The hash that represents a secret in the log.
pub(crate) fn secret_hash(secret: &str) -> Result<bytes::Bytes, Rejection> {
    let secret = secret.trim();
    if secret.is_empty() || secret.len() > MAX_SECRET_BYTES {
        let text = "this is no join token: it has 64 hexadecimal digits, as `holdfast node token` prints them";
        return Err(Rejection::new(ErrorCode::IotHubUnauthorizedAccess, text));
    }
    let digest = Sha256::new_with_prefix(b"holdfast join token\0").chain_update(secret);
    Ok(bytes::Bytes::copy_from_slice(&digest.finalize()))
}

/// Checks the values that need no state.
pub(crate) fn check_node(node: &proto::NodeRecord) -> Result<(), Rejection> {
    let invalid = |text: String| Err(Rejection::new(ErrorCode::ArgumentInvalid, text));
    let word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    if node.id == 0 {
        return invalid("a node's id is not 0".to_owned());
    }
    if node.name.is_empty() || node.name.len() > MAX_NAME_BYTES || !word(&node.name) {
        return invalid(format!(
            "a node's name has 1 to {MAX_NAME_BYTES} ASCII letters, digits and . - _"
        ));
    }
    if node.zone.len() > MAX_ZONE_BYTES || !word(&node.zone) {
        return invalid(format!(
            "a zone's name has at most {MAX_ZONE_BYTES} ASCII letters, digits and . - _"
        ));
    }
    let port = node
        .address
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(_, port)| port.parse::<u16>().ok());
    let printable = node.address.chars().all(|c| c.is_ascii_graphic());
    // A hub by itself has no address for others.
    let alone = node.address.is_empty();
    if !alone && (node.address.len() > MAX_ADDRESS_BYTES || !printable || port.is_none_or(|port| port == 0)) {
        return invalid(format!(
            "a node's address is host:port of at most {MAX_ADDRESS_BYTES} characters"
        ));
    }
    if node.version.len() > MAX_VERSION_BYTES {
        return invalid(format!("a version has at most {MAX_VERSION_BYTES} characters"));
    }
    Ok(())
}

/// Checks a replication factor.
pub(crate) fn check_replication(factor: u32) -> Result<(), Rejection> {
    if (1..=u32::from(MAX_REPLICATION_FACTOR)).contains(&factor) {
        return Ok(());
    }
    Err(Rejection::new(
        ErrorCode::ArgumentInvalid,
        format!("the replication factor is 1 to {MAX_REPLICATION_FACTOR}"),
    ))
}

pub(crate) fn role_to_proto(role: NodeRole) -> proto::NodeRole {
    match role {
        NodeRole::Core => proto::NodeRole::Core,
        NodeRole::Gateway => proto::NodeRole::Gateway,
    }
}

/// An unknown value, written by a later version, counts as the less capable role.
pub(crate) fn role_from_proto(role: proto::NodeRole) -> NodeRole {
    match role {
        proto::NodeRole::Core => NodeRole::Core,
        proto::NodeRole::Gateway | proto::NodeRole::Unspecified => NodeRole::Gateway,
    }
}

pub(crate) fn state_to_proto(state: NodeState) -> proto::NodeState {
    match state {
        NodeState::Joining => proto::NodeState::Joining,
        NodeState::Active => proto::NodeState::Active,
        NodeState::Draining => proto::NodeState::Draining,
        NodeState::Drained => proto::NodeState::Drained,
    }
}

fn state_from_proto(state: proto::NodeState) -> NodeState {
    match state {
        proto::NodeState::Joining | proto::NodeState::Unspecified => NodeState::Joining,
        proto::NodeState::Active => NodeState::Active,
        proto::NodeState::Draining => NodeState::Draining,
        proto::NodeState::Drained => NodeState::Drained,
    }
}

pub(crate) fn node_to_proto(node: &NodeInfo) -> proto::NodeRecord {
    proto::NodeRecord {
        record_version: 1,
        id: node.id.get(),
        name: node.name.clone(),
        address: node.address.clone(),
        zone: node.zone.clone(),
        role: role_to_proto(node.role).into(),
        state: state_to_proto(node.state).into(),
        version: node.version.clone(),
        joined_ms: node.joined.0,
    }
}

pub(crate) fn node_from_proto(record: proto::NodeRecord) -> NodeInfo {
    let (role, state) = (role_from_proto(record.role()), state_from_proto(record.state()));
    NodeInfo {
        id: NodeId(record.id),
        name: record.name,
        address: record.address,
        zone: record.zone,
        role,
        state,
        version: record.version,
        joined: UnixMillis(record.joined_ms),
    }
}

pub(crate) fn placement_to_proto(placement: &Placement) -> proto::PlacementRecord {
    proto::PlacementRecord {
        record_version: 1,
        partition: placement.partition.0.into(),
        replicas: placement.replicas.iter().copied().map(NodeId::get).collect(),
        founder: placement.founder.get(),
    }
}
