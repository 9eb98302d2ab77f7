use holdfast_model::{PartitionId, UnixMillis};
use holdfast_registry::Placement;

use super::*;

/// Nodes 101, 102 and 103, named a, b and c; one partition on all of them.
fn view() -> ClusterView {
    let node = |(id, name): (u64, &str)| NodeInfo {
        id: NodeId(id),
        name: name.to_owned(),
        address: format!("{name}:9700"),
        zone: String::new(),
        role: NodeRole::Core,
        state: NodeState::Active,
        version: "1".to_owned(),
        joined: UnixMillis(0),
    };
    let nodes = [(101, "a"), (102, "b"), (103, "c")].map(node);
    ClusterView {
        version: 5,
        cluster: "c1".to_owned(),
        replication_factor: 3,
        nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
        placements: vec![Placement {
            partition: PartitionId(0),
            replicas: vec![NodeId(101), NodeId(102), NodeId(103)],
            founder: NodeId(101),
        }],
    }
}

fn replica(group: u32, role: proto::GroupRole, term: Term) -> proto::GroupReport {
    let leads = role == proto::GroupRole::Leader;
    let progress = [(101, 50), (102, 50), (103, 50)].map(|(node, matched)| proto::Progress { node, matched });
    proto::GroupReport {
        group,
        role: role.into(),
        term: term.get(),
        last_log: 50,
        voters: vec![101, 102, 103],
        progress: if leads { progress.to_vec() } else { Vec::new() },
        ..proto::GroupReport::default()
    }
}

fn report(node: NodeId, groups: Vec<proto::GroupReport>) -> Answered {
    Answered {
        node,
        report: Ok(proto::ReportAnswer {
            version: "1".to_owned(),
            disk_free: 40,
            disk_total: 160,
            sessions: 7,
            in_lease: true,
            groups,
            ..proto::ReportAnswer::default()
        }),
    }
}

fn down(node: NodeId) -> Answered {
    Answered {
        node,
        report: Err("no answer in time".to_owned()),
    }
}

fn healthy() -> Vec<Answered> {
    use proto::GroupRole::{Follower, Leader};
    vec![
        report(
            NodeId(101),
            vec![replica(0, Leader, Term(3)), replica(1, Follower, Term(4))],
        ),
        report(
            NodeId(102),
            vec![replica(0, Follower, Term(3)), replica(1, Leader, Term(4))],
        ),
        report(
            NodeId(103),
            vec![replica(0, Follower, Term(3)), replica(1, Follower, Term(4))],
        ),
    ]
}

#[test]
fn a_healthy_cluster_has_no_notes() {
    let status = assemble(&view(), NodeId(101), 12, &healthy());
    assert_eq!(status.notes, Vec::<String>::new());
    assert!(status.healthy);
    let leads: Vec<_> = status
        .nodes
        .iter()
        .map(|node| (node.name.as_str(), node.leads, node.replicas))
        .collect();
    assert_eq!(leads, [("a", 1, 1), ("b", 1, 1), ("c", 0, 1)]);
    assert_eq!(status.nodes[0].disk_free_percent, 25);
    assert_eq!(
        (status.groups[0].name.as_str(), status.groups[0].leader),
        ("registry", Some(NodeId(101)))
    );
    assert_eq!(
        (status.groups[1].name.as_str(), status.groups[1].leader),
        ("partition 0", Some(NodeId(102)))
    );
    assert!(
        status.groups[1]
            .replicas
            .iter()
            .all(|replica| replica.lag == Some(0) && replica.running)
    );
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["nodes"][0]["diskFreePercent"], 25);
    assert_eq!(json["groups"][1]["partition"], 0);
}

#[test]
fn a_node_without_an_answer_is_shown_as_down_with_advice() {
    let mut answers = healthy();
    answers[2] = down(NodeId(103));
    let status = assemble(&view(), NodeId(101), 12, &answers);
    let node = &status.nodes[2];
    assert!(!node.up && node.reason.is_some() && !status.healthy);
    assert!(
        status.notes[0].contains("holdfast node remove c --dead"),
        "{:?}",
        status.notes
    );
    assert!(!status.groups[1].replicas[2].running);
}

#[test]
fn a_group_without_a_quorum_names_the_nodes_that_must_return() {
    use proto::GroupRole::Candidate;
    let answers = [
        report(
            NodeId(101),
            vec![replica(0, Candidate, Term(3)), replica(1, Candidate, Term(4))],
        ),
        down(NodeId(102)),
        down(NodeId(103)),
    ];
    let status = assemble(&view(), NodeId(101), 12, &answers);
    assert_eq!(status.groups[1].leader, None);
    let note = status
        .notes
        .iter()
        .find(|note| note.starts_with("partition 0"))
        .unwrap();
    assert!(note.contains("b, c are down, and 1 more must come back"), "{note}");
}

#[test]
fn of_two_reported_leaders_the_one_with_the_higher_term_counts() {
    use proto::GroupRole::Leader;
    let mut answers = healthy();
    answers[2] = report(
        NodeId(103),
        vec![replica(0, Leader, Term(2)), replica(1, Leader, Term(9))],
    );
    let status = assemble(&view(), NodeId(101), 12, &answers);
    assert_eq!(
        (status.groups[0].leader, status.groups[1].leader),
        (Some(NodeId(101)), Some(NodeId(103)))
    );
}

#[test]
fn changes_in_progress_are_shown_with_node_names() {
    let mut answers = healthy();
    if let Ok(report) = &mut answers[1].report {
        report.groups[1].under_way = "waiting for 103, 999 to catch up".to_owned();
        report.groups[1].progress[2].matched = 0;
    }
    let status = assemble(&view(), NodeId(101), 12, &answers);
    assert_eq!(status.notes, ["partition 0: waiting for c, 999 to catch up"]);
    assert_eq!(status.groups[1].replicas[2].lag, Some(50));
}

#[test]
fn an_inconsistent_report_is_shown_and_does_no_harm() {
    let nonsense = proto::ReportAnswer {
        disk_free: u64::MAX,
        disk_total: 1,
        groups: vec![
            proto::GroupReport {
                group: u32::MAX,
                role: 99,
                ..proto::GroupReport::default()
            },
            proto::GroupReport {
                group: 1,
                role: proto::GroupRole::Leader.into(),
                term: 1,
                voters: vec![0, u64::MAX],
                progress: vec![proto::Progress {
                    node: u64::MAX,
                    matched: u64::MAX,
                }],
                ..proto::GroupReport::default()
            },
        ],
        ..proto::ReportAnswer::default()
    };
    let answers = [Answered {
        node: NodeId(101),
        report: Ok(nonsense),
    }];
    let status = assemble(&view(), NodeId(101), 12, &answers);
    assert_eq!(status.nodes[0].disk_free_percent, 100);
    assert_eq!(status.groups[1].replicas.len(), 2);
}
