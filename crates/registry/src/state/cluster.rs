//! Changes of the cluster: members, join tokens, placements (docs/storage.md, "The registry's records").
//!
//! Invariants: the view's version grows with every change of members, placements or the cluster's record; names are
//! unique; the id of a removed node is never reused; a placement's founder never changes; a placement names members only,
//! and at least one.
//! Not here: choosing placements, and whether a group's real membership has followed (`cluster`).

mod tokens;

use std::collections::BTreeSet;

use holdfast_model::{ErrorCode, PartitionId};
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{
    AdmitNode, ClusterRecord, FoundCluster, HubSettings, JoinTokenRecord, NodeRecord, NodeRole, NodeState,
    PlacementRecord, PutNode, RemoveNode, RemovedNodeRecord, SetNodeState, SetPlacements,
};

use super::rejection::{ApplyError, Rejection};
use super::{Stop, Work, feature_level, layout};
use crate::cluster::{MAX_NODES, MAX_REMOVED_NODES, MAX_REPLICAS, check_node, check_replication};

const RECORD_VERSION: u32 = 1;

/// Applies a command that is about the cluster; `None` for any other.
pub(super) fn change(work: &mut Work<'_>, command: &Command) -> Option<Result<(), Stop>> {
    Some(match command {
        Command::FoundCluster(command) => found(work, command),
        Command::PutNode(command) => put_node(work, command),
        Command::SetNodeState(command) => set_state(work, command),
        Command::RemoveNode(command) => remove(work, command),
        Command::SetPlacements(command) => place(work, command),
        Command::CreateJoinToken(command) => tokens::create(work, command),
        Command::RevokeJoinToken(command) => tokens::revoke(work, command),
        Command::AdmitNode(command) => admit(work, command),
        Command::SetReplicationFactor(command) => set_replication_factor(work, command.replication_factor),
        Command::RaiseFeatureLevel(command) => feature_level::raise(work, command),
        _ => return None,
    })
}

fn found(work: &mut Work<'_>, command: &FoundCluster) -> Result<(), Stop> {
    let first = node_of(command.node.as_ref())?;
    if let Some(cluster) = stored(work)? {
        let known = work.view.contains(&layout::node(first.id))?;
        if cluster.cluster == command.cluster && known {
            return Ok(());
        }
        let text = format!(
            "the cluster {} has been founded already; this node belongs to '{}'. Let it join: remove \
             cluster.bootstrap from its configuration and give it a join token",
            cluster.cluster, command.cluster
        );
        return Err(Rejection::new(ErrorCode::GenericConflict, text).into());
    }
    let Some(settings) = work.view.message::<HubSettings>(layout::SETTINGS)? else {
        return Err(Rejection::new(ErrorCode::IotHubNotFound, "the hub has not been created").into());
    };
    if command.cluster.is_empty() {
        return Err(invalid("the cluster's id is empty").into());
    }
    let replication_factor = replication(command.replication_factor)?;
    let node = NodeRecord {
        record_version: RECORD_VERSION,
        role: NodeRole::Core.into(),
        state: NodeState::Active.into(),
        joined_ms: work.time_ms,
        ..first.clone()
    };
    work.view.put_message(layout::node(node.id), &node);
    for partition in 0..settings.partition_count {
        let placement = PlacementRecord {
            record_version: RECORD_VERSION,
            partition,
            replicas: vec![node.id],
            founder: node.id,
        };
        put_placement(work, &placement);
    }
    let cluster = ClusterRecord {
        record_version: RECORD_VERSION,
        cluster: command.cluster.clone(),
        replication_factor,
        view_version: 0,
    };
    put_cluster(work, cluster);
    Ok(())
}

fn put_node(work: &mut Work<'_>, command: &PutNode) -> Result<(), Stop> {
    let cluster = existing(work)?;
    let given = node_of(command.node.as_ref())?;
    let before = member(work, given.id)?;
    let node = NodeRecord {
        name: given.name.clone(),
        address: given.address.clone(),
        zone: given.zone.clone(),
        version: given.version.clone(),
        ..before.clone()
    };
    if node == before {
        return Ok(());
    }
    // The address need not be unique: two members may be about to swap theirs, and a node identifies itself when called.
    check_name(&nodes(work)?, &node)?;
    work.view.put_message(layout::node(node.id), &node);
    put_cluster(work, cluster);
    Ok(())
}

fn set_state(work: &mut Work<'_>, command: &SetNodeState) -> Result<(), Stop> {
    let cluster = existing(work)?;
    let mut node = member(work, command.id)?;
    if command.state == node.state {
        return Ok(());
    }
    let expected = command.expected_state();
    if expected != NodeState::Unspecified && expected != node.state() {
        let text = format!(
            "node '{}' is {}, not {}: its state has been changed meanwhile",
            node.name,
            node.state().as_str_name(),
            expected.as_str_name()
        );
        return Err(Rejection::new(ErrorCode::PreconditionFailed, text).into());
    }
    match command.state() {
        NodeState::Active | NodeState::Draining => {}
        NodeState::Drained => {
            if let Some(placement) = placements(work)?.iter().find(|p| p.replicas.contains(&node.id)) {
                let text = format!(
                    "node '{}' still holds partition {}: it is drained when its last replica has moved",
                    node.name, placement.partition
                );
                return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
            }
        }
        NodeState::Joining | NodeState::Unspecified => {
            return Err(invalid("a member does not go back to joining").into());
        }
    }
    node.state = command.state;
    work.view.put_message(layout::node(node.id), &node);
    put_cluster(work, cluster);
    Ok(())
}

fn remove(work: &mut Work<'_>, command: &RemoveNode) -> Result<(), Stop> {
    let cluster = existing(work)?;
    if work.view.contains(&layout::removed_node(command.id))? {
        return Ok(());
    }
    let node = member(work, command.id)?;
    if node.role() == NodeRole::Core
        && !nodes(work)?
            .iter()
            .any(|other| other.id != node.id && other.role() == NodeRole::Core)
    {
        let text = format!(
            "node '{}' is the last one that holds data: add another first",
            node.name
        );
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    let mut held: Vec<_> = placements(work)?
        .into_iter()
        .filter(|placement| placement.replicas.contains(&node.id))
        .collect();
    if let (false, Some(placement)) = (command.force, held.first()) {
        let text = format!(
            "node '{}' still holds {} partitions, the first being {}: drain it first, or force the removal if it \
             will never come back",
            node.name,
            held.len(),
            placement.partition
        );
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    for placement in &mut held {
        placement.replicas.retain(|id| *id != node.id);
        if placement.replicas.is_empty() {
            let text = format!(
                "node '{}' alone holds partition {}: its messages would be lost. Bring the node back, and drain it",
                node.name, placement.partition
            );
            return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
        }
    }
    for placement in &held {
        put_placement(work, placement);
    }
    work.view.delete(layout::node(node.id));
    remember_removed(work, &node)?;
    put_cluster(work, cluster);
    Ok(())
}

/// Keeps the id of a removed node, and drops the oldest one when there are too many.
fn remember_removed(work: &mut Work<'_>, node: &NodeRecord) -> Result<(), Stop> {
    let removed = records::<RemovedNodeRecord>(work, &layout::removed_nodes())?;
    if removed.len() >= MAX_REMOVED_NODES
        && let Some((oldest, _)) = removed.iter().min_by_key(|(_, record)| record.removed_ms)
    {
        work.view.delete(oldest.clone());
    }
    let record = RemovedNodeRecord {
        record_version: RECORD_VERSION,
        name: node.name.clone(),
        removed_ms: work.time_ms,
    };
    work.view.put_message(layout::removed_node(node.id), &record);
    Ok(())
}

fn place(work: &mut Work<'_>, command: &SetPlacements) -> Result<(), Stop> {
    let cluster = expect_view(work, command.expected_view_version)?;
    let nodes = nodes(work)?;
    let mut seen = BTreeSet::new();
    // Written only when none is refused.
    let mut changed = Vec::new();
    for placement in &command.placements {
        let partition = placement.partition;
        let refused = |text: String| Stop::from(invalid(format!("placement of partition {partition}: {text}")));
        let Some(key) = placement_key(partition) else {
            return Err(refused("there is no such partition".to_owned()));
        };
        let Some(before) = work.view.message::<PlacementRecord>(&key)? else {
            return Err(refused("there is no such partition".to_owned()));
        };
        if !seen.insert(partition) {
            return Err(refused("named twice".to_owned()));
        }
        if placement.founder != before.founder {
            return Err(refused("its founder cannot change".to_owned()));
        }
        let distinct: BTreeSet<_> = placement.replicas.iter().collect();
        if !(1..=MAX_REPLICAS).contains(&placement.replicas.len()) || distinct.len() != placement.replicas.len() {
            return Err(refused(format!("it needs 1 to {MAX_REPLICAS} different nodes")));
        }
        for id in &placement.replicas {
            match nodes.iter().find(|node| node.id == *id) {
                Some(node) if node.role() == NodeRole::Core => {}
                Some(node) => return Err(refused(format!("'{}' takes connections only", node.name))),
                None => return Err(refused(format!("node {id} is no member"))),
            }
        }
        if placement.replicas != before.replicas {
            changed.push(PlacementRecord {
                replicas: placement.replicas.clone(),
                ..before
            });
        }
    }
    if !changed.is_empty() {
        for placement in &changed {
            put_placement(work, placement);
        }
        put_cluster(work, cluster);
    }
    Ok(())
}

fn admit(work: &mut Work<'_>, command: &AdmitNode) -> Result<(), Stop> {
    let cluster = existing(work)?;
    let given = node_of(command.node.as_ref())?;
    let level = work
        .view
        .message::<HubSettings>(layout::SETTINGS)?
        .map_or(0, |settings| settings.feature_level);
    if command.feature_level < level {
        let text = format!(
            "the hub has feature level {level}, and this node's version of Holdfast does not support it: install the version that the \
             members run"
        );
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    let key = layout::join_token(&command.secret_hash);
    let Some(mut token) = work.view.message::<JoinTokenRecord>(&key)? else {
        let reason = "the join token is unknown: it was never made here, or expired long ago";
        return Err(tokens::not_admitted(reason).into());
    };
    if work.view.contains(&layout::removed_node(given.id))? {
        let text = "this data directory belongs to a node that was removed from the cluster: move it away, so that the \
                    node joins empty";
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    let before = work.view.message::<NodeRecord>(&layout::node(given.id))?;
    match (&before, token.used_by) {
        // The answer to the first attempt was lost.
        (Some(_), used_by) if used_by == given.id => {
            let command = PutNode {
                node: Some(given.clone()),
            };
            return put_node(work, &command);
        }
        (_, 0) => {}
        (_, _) => return Err(tokens::not_admitted("the join token has been used already").into()),
    }
    if token.revoked_ms != 0 {
        return Err(tokens::not_admitted("the join token has been revoked").into());
    }
    if token.expires_ms <= work.time_ms {
        return Err(tokens::not_admitted("the join token has expired").into());
    }
    if let Some(before) = before {
        // It is a member already; the token stays good for another.
        let text = format!(
            "this node is a member already, as '{}': start it without a join token",
            before.name
        );
        return Err(Rejection::new(ErrorCode::GenericConflict, text).into());
    }
    let nodes = nodes(work)?;
    if nodes.len() >= MAX_NODES {
        let text = format!("the cluster has its maximum of {MAX_NODES} nodes: remove one first");
        return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
    }
    check_name(&nodes, given)?;
    check_address(&nodes, given)?;
    let node = NodeRecord {
        record_version: RECORD_VERSION,
        role: token.role,
        state: NodeState::Joining.into(),
        joined_ms: work.time_ms,
        ..given.clone()
    };
    work.view.put_message(layout::node(node.id), &node);
    token.used_by = node.id;
    token.used_ms = work.time_ms;
    work.view.put_message(key, &token);
    put_cluster(work, cluster);
    Ok(())
}

fn set_replication_factor(work: &mut Work<'_>, factor: u32) -> Result<(), Stop> {
    let mut cluster = existing(work)?;
    let factor = replication(factor)?;
    if cluster.replication_factor != factor {
        cluster.replication_factor = factor;
        put_cluster(work, cluster);
    }
    Ok(())
}

fn stored(work: &Work<'_>) -> Result<Option<ClusterRecord>, ApplyError> {
    work.view.message::<ClusterRecord>(layout::CLUSTER)
}

fn existing(work: &Work<'_>) -> Result<ClusterRecord, Stop> {
    stored(work)?.ok_or_else(|| {
        let text = "the cluster has not been founded yet: the first node does so when it starts";
        Rejection::new(ErrorCode::InvalidOperation, text).into()
    })
}

/// The cluster, if members and placements are still those of version `expected`.
pub(super) fn expect_view(work: &Work<'_>, expected: u64) -> Result<ClusterRecord, Stop> {
    let cluster = existing(work)?;
    if cluster.view_version == expected {
        return Ok(cluster);
    }
    let text = format!(
        "the cluster's view has version {}, not {expected}: it has been changed meanwhile",
        cluster.view_version
    );
    Err(Rejection::new(ErrorCode::PreconditionFailed, text).into())
}

/// Writes the cluster's record with the next version, and marks the view as changed.
fn put_cluster(work: &mut Work<'_>, mut cluster: ClusterRecord) {
    cluster.view_version += 1;
    work.view.put_message(layout::CLUSTER.to_vec(), &cluster);
    work.cluster_changed = true;
}

fn put_placement(work: &mut Work<'_>, placement: &PlacementRecord) {
    if let Some(key) = placement_key(placement.partition) {
        work.view.put_message(key, placement);
    }
}

fn placement_key(partition: u32) -> Option<Vec<u8>> {
    u16::try_from(partition)
        .ok()
        .map(|partition| layout::placement(PartitionId(partition)))
}

fn member(work: &Work<'_>, id: u64) -> Result<NodeRecord, Stop> {
    if let Some(node) = work.view.message::<NodeRecord>(&layout::node(id))? {
        return Ok(node);
    }
    let text = match work.view.message::<RemovedNodeRecord>(&layout::removed_node(id))? {
        Some(removed) => format!("node '{}' has been removed from the cluster", removed.name),
        None => format!("node {id} is no member of the cluster"),
    };
    Err(Rejection::new(ErrorCode::GenericNotFound, text).into())
}

fn nodes(work: &Work<'_>) -> Result<Vec<NodeRecord>, Stop> {
    values(work, &layout::nodes())
}

fn placements(work: &Work<'_>) -> Result<Vec<PlacementRecord>, Stop> {
    values(work, &layout::placements())
}

fn values<M: prost::Message + Default>(work: &Work<'_>, range: &std::ops::Range<Vec<u8>>) -> Result<Vec<M>, Stop> {
    Ok(records(work, range)?.into_iter().map(|(_, record)| record).collect())
}

fn records<M: prost::Message + Default>(
    work: &Work<'_>,
    range: &std::ops::Range<Vec<u8>>,
) -> Result<Vec<(Vec<u8>, M)>, Stop> {
    let mut found = Vec::new();
    for key in work.view.keys(range)? {
        if let Some(record) = work.view.message(&key)? {
            found.push((key, record));
        }
    }
    Ok(found)
}

fn node_of(node: Option<&NodeRecord>) -> Result<&NodeRecord, Rejection> {
    let node = node.ok_or_else(|| Rejection::new(ErrorCode::ArgumentNull, "the node is missing"))?;
    check_node(node)?;
    Ok(node)
}

fn check_name(others: &[NodeRecord], node: &NodeRecord) -> Result<(), Rejection> {
    let taken = |other: &&NodeRecord| other.id != node.id && other.name.eq_ignore_ascii_case(&node.name);
    if others.iter().any(|other| taken(&other)) {
        let text = format!(
            "another member is called '{}': choose another cluster.node_name, or remove that member if this node \
             replaces it",
            node.name
        );
        return Err(Rejection::new(ErrorCode::GenericConflict, text));
    }
    Ok(())
}

fn check_address(others: &[NodeRecord], node: &NodeRecord) -> Result<(), Rejection> {
    if let Some(other) = others.iter().find(|other| other.address == node.address) {
        let text = format!(
            "member '{}' has the address {}: choose another cluster.advertise, or remove that member if this node \
             replaces it",
            other.name, node.address
        );
        return Err(Rejection::new(ErrorCode::GenericConflict, text));
    }
    Ok(())
}

fn replication(factor: u32) -> Result<u32, Rejection> {
    check_replication(factor)?;
    Ok(factor)
}

fn invalid(text: impl Into<String>) -> Rejection {
    Rejection::new(ErrorCode::ArgumentInvalid, text)
}
