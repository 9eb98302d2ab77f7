use holdfast_model::{Term, UnixMillis};

use super::*;
use crate::status::{GroupStatus, NodeStatus, ReplicaStatus};

fn node(id: NodeId, state: NodeState) -> NodeInfo {
    NodeInfo {
        id,
        name: format!("n{id}"),
        address: format!("n{id}:9700"),
        zone: String::new(),
        role: NodeRole::Core,
        state,
        version: String::new(),
        joined: UnixMillis(0),
    }
}

fn view(factor: u8, nodes: Vec<NodeInfo>) -> ClusterView {
    ClusterView {
        version: 1,
        cluster: "c".to_owned(),
        replication_factor: factor,
        nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
        placements: Vec::new(),
    }
}

fn active(count: u64) -> Vec<NodeInfo> {
    (1..=count).map(|id| node(NodeId(id), NodeState::Active)).collect()
}

/// All members vote in one group, which is led by the first one that is up.
fn status(view: &ClusterView, down: &[NodeId]) -> ClusterStatus {
    let is_up = |id: &NodeId| !down.contains(id);
    let nodes = view.nodes.values().map(|info| NodeStatus {
        id: info.id,
        name: info.name.clone(),
        address: info.address.clone(),
        zone: String::new(),
        role: "core",
        state: "active",
        up: is_up(&info.id),
        reason: None,
        version: String::new(),
        feature_level: 12,
        in_lease: true,
        leaving: false,
        read_only: false,
        leads: 0,
        replicas: 1,
        sessions: 0,
        disk_free: 0,
        disk_total: 0,
        disk_free_percent: 0,
    });
    let voters = view.nodes.values().filter(|info| info.state != NodeState::Drained);
    let replicas: Vec<ReplicaStatus> = voters
        .map(|info| ReplicaStatus {
            node: info.id,
            name: info.name.clone(),
            voter: true,
            running: is_up(&info.id),
            lag: None,
        })
        .collect();
    let up = replicas.iter().filter(|replica| replica.running).count();
    let leader = replicas
        .iter()
        .find(|replica| replica.running)
        .map(|replica| replica.node);
    ClusterStatus {
        cluster: "c".to_owned(),
        view_version: 1,
        replication_factor: view.replication_factor,
        feature_level: 12,
        asked: 1,
        healthy: true,
        notes: Vec::new(),
        nodes: nodes.collect(),
        groups: vec![GroupStatus {
            name: "partition 0".to_owned(),
            partition: Some(0),
            leader: leader.filter(|_| 2 * up > replicas.len()),
            term: Term(1),
            last_log: 1,
            wanted: Vec::new(),
            replicas,
            under_way: None,
        }],
    }
}

/// The refusal, or an empty text.
fn removal(view: &ClusterView, id: NodeId, dead: bool, down: &[NodeId]) -> String {
    let outcome = check_remove(view, &view.nodes[&id], dead, NodeId(1), &status(view, down));
    outcome.err().unwrap_or_default()
}

fn drain(view: &ClusterView, id: NodeId) -> String {
    check_drain(view, &view.nodes[&id]).err().unwrap_or_default()
}

#[test]
fn a_replication_factor_needs_as_many_nodes_and_has_a_warning_if_it_is_unfavourable() {
    let refused = |view: &ClusterView, factor| check_factor(view, factor).err().unwrap_or_default();
    assert_eq!(refused(&view(3, active(3)), 1), "");
    assert_eq!(refused(&view(1, active(3)), 3), "");
    assert!(refused(&view(3, active(4)), 5).contains("holdfast node join"));
    let mut nodes = active(3);
    nodes[1].state = NodeState::Draining;
    assert!(refused(&view(1, nodes), 3).contains("there are 2"));
    assert_eq!(refused(&view(3, active(1)), 3), "", "as it was created");
    assert_eq!([3, 5].map(warning_of), [None, None]);
    assert!([1, 2, 4].iter().all(|factor| warning_of(*factor).is_some()));
}

#[test]
fn draining_below_the_replication_factor_is_refused_with_advice() {
    assert_eq!(drain(&view(3, active(4)), NodeId(2)), "");
    let refused = drain(&view(3, active(3)), NodeId(2));
    // Two nodes would remain: the advice keeps two replicas, and says what that costs.
    assert!(
        refused.contains("holdfast node join")
            && refused.contains("set-replication 2")
            && refused.contains("two replicas survive the loss of no node"),
        "{refused}"
    );
    assert!(drain(&view(5, active(5)), NodeId(2)).contains("set-replication 4"));
    assert!(drain(&view(2, active(2)), NodeId(2)).contains("set-replication 1"));
    for count in 2..=5_u64 {
        let factor = u8::try_from(count).unwrap();
        let refused = drain(&view(factor, active(count)), NodeId(1));
        let advised = format!("set-replication {}", factor - 1);
        assert!(refused.contains(&advised), "{refused}");
        assert_eq!(
            drain(&view(factor - 1, active(count)), NodeId(1)),
            "",
            "the advice works"
        );
    }
    assert_eq!(drain(&view(1, active(2)), NodeId(2)), "");
    assert!(drain(&view(1, active(1)), NodeId(1)).contains("last core node"));
    // A draining node does not count.
    let mut nodes = active(4);
    nodes[3].state = NodeState::Draining;
    assert!(drain(&view(3, nodes), NodeId(2)).contains("replication factor of 3"));
    let mut nodes = active(3);
    nodes[2].role = NodeRole::Gateway;
    assert_eq!(drain(&view(3, nodes), NodeId(3)), "", "a gateway holds nothing");
}

#[test]
fn a_node_that_is_up_must_be_drained_before_it_is_removed() {
    let three = view(3, active(4));
    assert!(removal(&three, NodeId(3), false, &[]).contains("holdfast node drain n3"));
    assert!(removal(&three, NodeId(3), true, &[]).contains("stop it"));
    let mut nodes = active(4);
    nodes[2].state = NodeState::Drained;
    assert_eq!(removal(&view(3, nodes), NodeId(3), false, &[]), "");
}

#[test]
fn a_dead_node_is_removed_only_if_declared_dead_and_the_rest_has_a_quorum() {
    let three = view(3, active(3));
    assert!(removal(&three, NodeId(3), false, &[NodeId(3)]).contains("--dead"));
    assert_eq!(removal(&three, NodeId(3), true, &[NodeId(3)]), "");
    assert!(removal(&three, NodeId(3), true, &[NodeId(2), NodeId(3)]).contains("has no leader"));
    let five = view(3, active(5));
    assert_eq!(removal(&five, NodeId(5), true, &[NodeId(4), NodeId(5)]), "");
}

#[test]
fn the_last_voter_is_never_removed() {
    let one = view(1, vec![node(NodeId(2), NodeState::Active)]);
    let status = ClusterStatus {
        nodes: Vec::new(),
        ..status(&one, &[])
    };
    let refusal = check_remove(&one, &one.nodes[&NodeId(2)], true, NodeId(1), &status).unwrap_err();
    assert!(refusal.contains("alone holds"), "{refusal}");
    let refusal = check_remove(&one, &one.nodes[&NodeId(2)], true, NodeId(2), &status).unwrap_err();
    assert!(refusal.contains("drain it first"), "{refusal}");
}
