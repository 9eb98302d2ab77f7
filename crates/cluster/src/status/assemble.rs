//! Assembles the status of the cluster from the reports of its nodes. Pure.

use std::collections::BTreeMap;

use holdfast_model::{NodeId, Term};
use holdfast_proto::cluster::v1 as proto;
use holdfast_registry::{ClusterView, NodeInfo, NodeRole, NodeState};

use super::{ClusterStatus, GroupStatus, NodeStatus, ReplicaStatus};
use crate::control::partition_of;
use holdfast_consensus::GroupId;

/// A replica that lags by at least this many entries gets a note.
const LAG_TO_NOTE: u64 = 1_000;

/// The answer of a node.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) node: NodeId,
    /// Its report, or why there is none.
    pub(crate) report: Result<proto::ReportAnswer, String>,
}

/// Assembles the answers.
pub(crate) fn assemble(view: &ClusterView, asked: NodeId, feature_level: u32, answers: &[Answered]) -> ClusterStatus {
    let reports: BTreeMap<NodeId, &proto::ReportAnswer> = answers
        .iter()
        .filter_map(|answer| Some((answer.node, answer.report.as_ref().ok()?)))
        .collect();
    let mut groups = vec![group(view, GroupId::REGISTRY, &reports)];
    groups.extend(
        view.placements
            .iter()
            .map(|p| group(view, GroupId::partition(p.partition.0), &reports)),
    );
    let mut nodes: Vec<NodeStatus> = view.nodes.values().map(|info| node(info, answers, &groups)).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let notes = notes(view, &nodes, &groups);
    ClusterStatus {
        cluster: view.cluster.clone(),
        view_version: view.version,
        replication_factor: view.replication_factor,
        feature_level,
        asked: asked.get(),
        healthy: notes.is_empty(),
        notes,
        nodes,
        groups,
    }
}

fn node(info: &NodeInfo, answers: &[Answered], groups: &[GroupStatus]) -> NodeStatus {
    let answer = answers
        .iter()
        .find(|answer| answer.node == info.id)
        .map(|answer| &answer.report);
    let (report, reason) = match answer {
        Some(Ok(report)) => (Some(report), None),
        Some(Err(reason)) => (None, Some(reason.clone())),
        None => (None, Some("it was not asked".to_owned())),
    };
    let held = report.map_or(0, |report| {
        report.groups.iter().filter(|group| group.group != 0).count()
    });
    let (free, total) = report.map_or((0, 0), |report| (report.disk_free, report.disk_total));
    let percent = u128::from(free) * 100 / u128::from(total.max(1));
    NodeStatus {
        id: info.id,
        name: info.name.clone(),
        address: info.address.clone(),
        zone: info.zone.clone(),
        role: match info.role {
            NodeRole::Core => "core",
            NodeRole::Gateway => "gateway",
        },
        state: state_name(info.state),
        up: report.is_some(),
        reason,
        version: report.map_or_else(|| info.version.clone(), |report| report.version.clone()),
        feature_level: report.map_or(0, |report| report.feature_level),
        in_lease: report.is_some_and(|report| report.in_lease),
        leaving: report.is_some_and(|report| report.leaving),
        read_only: report.is_some_and(|report| report.read_only),
        leads: groups.iter().filter(|group| group.leader == Some(info.id)).count(),
        replicas: held,
        sessions: report.map_or(0, |report| report.sessions),
        disk_free: free,
        disk_total: total,
        disk_free_percent: u8::try_from(percent.min(100)).unwrap_or(100),
    }
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Active => "active",
        NodeState::Draining => "draining",
        NodeState::Drained => "drained",
    }
}

fn group(view: &ClusterView, id: GroupId, reports: &BTreeMap<NodeId, &proto::ReportAnswer>) -> GroupStatus {
    let seen: BTreeMap<NodeId, &proto::GroupReport> = reports
        .iter()
        .filter_map(|(node, report)| Some((*node, report.groups.iter().find(|group| group.group == id.0)?)))
        .collect();
    // If two nodes report to lead, the one with the higher term does.
    let leader = seen
        .iter()
        .filter(|(_, group)| group.role() == proto::GroupRole::Leader)
        .max_by_key(|(_, group)| group.term);
    // Without a leader, the replica with the longest log knows the members best.
    let source = leader.or_else(|| seen.iter().max_by_key(|(_, group)| (group.term, group.last_log)));
    let partition = partition_of(id);
    let placement = partition.and_then(|partition| view.placement(partition));
    let matched = |node: NodeId| {
        let (leader, group) = leader?;
        if node == *leader {
            return Some(0);
        }
        let progress = group.progress.iter().find(|progress| progress.node == node.get())?;
        Some(group.last_log.saturating_sub(progress.matched))
    };
    let replicas = source.map_or_else(Vec::new, |(_, group)| {
        let voters = group.voters.iter().map(|node| (NodeId(*node), true));
        let learners = group.learners.iter().map(|node| (NodeId(*node), false));
        voters
            .chain(learners)
            .map(|(node, voter)| ReplicaStatus {
                node,
                name: name(view, node),
                voter,
                running: seen.contains_key(&node),
                lag: matched(node),
            })
            .collect()
    });
    GroupStatus {
        name: id.to_string(),
        partition: partition.map(|partition| partition.0),
        leader: leader.map(|(node, _)| *node),
        term: source.map_or(Term(0), |(_, group)| Term(group.term)),
        last_log: source.map_or(0, |(_, group)| group.last_log),
        wanted: placement
            .map(|placement| placement.replicas.clone())
            .unwrap_or_default(),
        replicas,
        under_way: leader
            .map(|(_, group)| name_nodes(view, &group.under_way))
            .filter(|text| !text.is_empty()),
    }
}

fn name(view: &ClusterView, node: NodeId) -> String {
    view.node(node).map(|node| node.name.clone()).unwrap_or_default()
}

/// Replaces node ids in `text` by names.
fn name_nodes(view: &ClusterView, text: &str) -> String {
    let mut named = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits > 0 {
            let (number, after) = rest.split_at(digits);
            let node = number.parse().ok().and_then(|id| view.node(id));
            named.push_str(node.map_or(number, |node| node.name.as_str()));
            rest = after;
        } else {
            let words = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (text, after) = rest.split_at(words);
            named.push_str(text);
            rest = after;
        }
    }
    named
}

fn notes(view: &ClusterView, nodes: &[NodeStatus], groups: &[GroupStatus]) -> Vec<String> {
    let mut notes = Vec::new();
    for group in groups.iter().filter(|group| group.leader.is_none()) {
        notes.push(without_leader(group));
    }
    for node in nodes {
        let name = &node.name;
        if !node.up {
            let reason = node.reason.as_deref().unwrap_or("no answer");
            notes.push(format!(
                "{name} is down ({reason}): start it again; if its disk is lost, replace it (`holdfast node remove \
                 {name} --dead`, then `holdfast node join`)"
            ));
            continue;
        }
        if node.read_only {
            notes.push(format!(
                "{name} refuses writes: its disk is nearly full; free space or shorten the retention"
            ));
        }
        if !node.in_lease {
            notes.push(format!(
                "{name} accepts no new connections: its registry replica has not heard from the registry's leader"
            ));
        }
        if node.leaving {
            notes.push(format!("{name} is stopping"));
        }
        if node.state == "draining" {
            let (leads, replicas, sessions) = (node.leads, node.replicas, node.sessions);
            notes.push(format!(
                "{name} is draining: it leads {leads} groups and has {replicas} replicas and {sessions} device sessions left"
            ));
        }
        if node.state == "drained" {
            notes.push(format!(
                "{name} is drained: stop it and remove it (`holdfast node remove {name}`)"
            ));
        }
        if node.state == "joining" {
            notes.push(format!("{name} is joining: its registry replica is catching up"));
        }
    }
    let in_service = nodes
        .iter()
        .filter(|node| node.role == "core" && node.state == "active")
        .count();
    let factor = usize::from(view.replication_factor);
    // A hub with one node has one on purpose.
    if (2..factor).contains(&in_service) {
        notes.push(format!(
            "{in_service} core nodes are in service for a replication factor of {factor}: let another one join \
             (`holdfast node join`)"
        ));
    }
    for group in groups {
        if let Some(under_way) = &group.under_way {
            notes.push(format!("{}: {under_way}", group.name));
        }
        for replica in group.replicas.iter().filter(|replica| replica.running) {
            if let Some(lag) = replica.lag.filter(|lag| *lag >= LAG_TO_NOTE) {
                notes.push(format!("{}: {} is {lag} entries behind", group.name, replica.name));
            }
        }
    }
    notes
}

fn without_leader(group: &GroupStatus) -> String {
    let voters = || group.replicas.iter().filter(|replica| replica.voter);
    let down: Vec<&str> = voters()
        .filter(|replica| !replica.running)
        .map(|replica| replica.name.as_str())
        .collect();
    if group.replicas.is_empty() {
        return format!("{} has no leader: no reachable node has a replica of it", group.name);
    }
    if down.is_empty() {
        return format!("{} has no leader: an election is in progress", group.name);
    }
    let needed = (voters().count() / 2 + 1).saturating_sub(voters().count() - down.len());
    format!(
        "{} has no leader: of its voters {} are down, and {needed} more must come back",
        group.name,
        down.join(", ")
    )
}

#[cfg(test)]
mod tests;
