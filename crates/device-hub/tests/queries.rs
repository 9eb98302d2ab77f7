//! Queries over partitions of several owners, while owners change.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::time::Duration;

use holdfast_consensus::GroupId;
use holdfast_device_hub::{QueryPage, QueryPosition, TwinWrite, WriteMode};
use holdfast_model::NodeId;
use holdfast_query::Query;
use holdfast_registry::{IfMatch, SavedQueryCondition, SavedQueryWrite};
use holdfast_simulation::{Cluster, NODES, identity, simulate};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(30);

async fn page(cluster: &Cluster, node: NodeId, text: &str, position: &QueryPosition, limit: usize) -> QueryPage {
    let query = Query::parse(text).unwrap();
    let hub = cluster.hub(node).clone();
    hub.query_page(text, &query, position, limit, TIMEOUT).await.unwrap()
}

fn values(page: &QueryPage) -> Vec<Value> {
    page.results
        .iter()
        .map(|text| serde_json::from_str(text).unwrap())
        .collect()
}

/// Devices whose partitions are spread over the three nodes.
async fn fleet(cluster: &Cluster, count: usize) -> Vec<String> {
    let devices: Vec<String> = (0..count).map(|number| format!("dev-{number:03}")).collect();
    for (index, device) in devices.iter().enumerate() {
        cluster.create(device).await;
        cluster.owned_by(device, NODES[index % NODES.len()]).await;
    }
    devices
}

/// All results from any node, with a change of owners behind each page.
async fn all(cluster: &Cluster, devices: &[String], text: &str, limit: usize) -> Vec<Value> {
    let mut results = Vec::new();
    let mut position = QueryPosition::Start;
    for turn in 0.. {
        let node = NODES[turn % NODES.len()];
        let found = page(cluster, node, text, &position, limit).await;
        assert!(found.results.len() <= limit);
        results.extend(values(&found));
        match found.next {
            Some(next) => position = next,
            None => break,
        }
        let moved = &devices[turn * 7 % devices.len()];
        cluster.owned_by(moved, NODES[(turn + 1) % NODES.len()]).await;
    }
    results
}

#[test]
fn pages_are_complete_and_in_order_while_owners_change_between_them() {
    simulate(async {
        let cluster = Cluster::start(1).await;
        let devices = fleet(&cluster, 24).await;
        let expected: Vec<Value> = devices.iter().map(|device| json!({"deviceId": device})).collect();
        for limit in [1, 5, 24, 100] {
            let found = all(&cluster, &devices, "SELECT deviceId FROM devices", limit).await;
            assert_eq!(found, expected, "{limit}");
        }
        let filtered = all(
            &cluster,
            &devices,
            "SELECT deviceId FROM devices WHERE deviceId > 'dev-019'",
            3,
        )
        .await;
        assert_eq!(filtered, expected[20..]);
    });
}

#[test]
fn aggregates_count_each_device_once_wherever_its_owner_is() {
    simulate(async {
        let cluster = Cluster::start(2).await;
        let devices = fleet(&cluster, 12).await;
        let mut client = cluster.connect(NodeId(2), 0, "dev-003").await.unwrap();
        let text = "SELECT connectionState AS c, COUNT() AS n FROM devices GROUP BY connectionState";
        for limit in [1, 2, 10] {
            let found = all(&cluster, &devices, text, limit).await;
            assert_eq!(
                found,
                [json!({"c": "Connected", "n": 1}), json!({"c": "Disconnected", "n": 11})]
            );
        }
        client.disconnect();
    });
}

#[test]
fn twins_are_seen_from_every_node_and_under_every_owner() {
    simulate(async {
        let cluster = Cluster::start(5).await;
        let devices = fleet(&cluster, 9).await;
        for (number, device) in devices.iter().enumerate() {
            let write = TwinWrite {
                mode: WriteMode::Merge,
                tags: Some(json!({"site": if number < 6 { "A" } else { "B" }, "n": number}).to_string()),
                desired: Some(json!({"rate": {"max": number}}).to_string()),
                if_etag: None,
            };
            let hub = cluster.hub(NODES[number % NODES.len()]).clone();
            let id = identity(device);
            let registered = hub.registry().get(&id).await.unwrap().unwrap();
            hub.write_twin(&id, &registered.generation, write, TIMEOUT)
                .await
                .unwrap();
        }
        let text = "SELECT deviceId, tags.n FROM devices WHERE tags.site = 'A' AND properties.desired.rate.max >= 2";
        let expected: Vec<Value> = (2..6)
            .map(|number| json!({"deviceId": devices[number], "n": number}))
            .collect();
        for limit in [1, 3, 100] {
            assert_eq!(all(&cluster, &devices, text, limit).await, expected, "{limit}");
        }
        let text = "SELECT tags.site AS site, SUM(tags.n) AS s, COUNT() AS n FROM devices GROUP BY tags.site";
        let expected = [
            json!({"site": "A", "s": 15, "n": 6}),
            json!({"site": "B", "s": 21, "n": 3}),
        ];
        assert_eq!(all(&cluster, &devices, text, 1).await, expected);
    });
}

#[test]
fn connections_are_seen_from_every_node() {
    simulate(async {
        let cluster = Cluster::start(3).await;
        fleet(&cluster, 6).await;
        let _first = cluster.connect(NodeId(1), 0, "dev-001").await.unwrap();
        let _second = cluster.connect(NodeId(3), 0, "dev-004").await.unwrap();
        for node in NODES {
            let text = "SELECT deviceId FROM devices WHERE connectionState = 'Connected'";
            let found = values(&page(&cluster, node, text, &QueryPosition::Start, 10).await);
            assert_eq!(found, [json!({"deviceId": "dev-001"}), json!({"deviceId": "dev-004"})]);
            let text = "SELECT COUNT() AS n FROM devices WHERE lastActivityTime > '2000'";
            let found = values(&page(&cluster, node, text, &QueryPosition::Start, 10).await);
            assert_eq!(found, [json!({"n": 2})]);
        }
    });
}

#[test]
fn a_query_waits_for_the_owner_after_one_that_has_died() {
    simulate(async {
        let mut cluster = Cluster::start(4).await;
        let devices = fleet(&cluster, 9).await;
        let text = "SELECT deviceId FROM devices";
        let first = page(&cluster, NodeId(1), text, &QueryPosition::Start, 4).await;
        assert_eq!(first.results.len(), 4);
        cluster.kill(NodeId(2));
        let next = first.next.clone().unwrap();
        let second = page(&cluster, NodeId(3), text, &next, 100).await;
        let found: Vec<Value> = [values(&first), values(&second)].concat();
        let expected: Vec<Value> = devices.iter().map(|device| json!({"deviceId": device})).collect();
        assert_eq!(found, expected);
        assert_eq!(second.next, None);
    });
}

async fn save(cluster: &Cluster, node: NodeId, name: &str, text: &str) {
    let write = SavedQueryWrite {
        name: name.to_owned(),
        query: text.to_owned(),
        description: None,
        condition: SavedQueryCondition::Any,
    };
    let registry = cluster.hub(node).registry().clone();
    registry.put_saved_query(&write).await.unwrap();
}

/// The counts of all nodes that are up, by name.
fn counts(cluster: &Cluster, nodes: &[NodeId]) -> Vec<(NodeId, String, u64)> {
    let of = |node: &NodeId| {
        let counts = cluster.hub(*node).saved_query_counts().into_iter();
        let node = *node;
        counts.map(move |count| (node, count.name, count.matches))
    };
    nodes.iter().flat_map(of).collect()
}

/// Waits until the counts are these.
async fn counted(cluster: &Cluster, nodes: &[NodeId], expected: &[(NodeId, &str, u64)]) {
    let reached = tokio::time::timeout(Duration::from_secs(200), async {
        loop {
            let found = counts(cluster, nodes);
            if found
                .iter()
                .map(|(node, name, matches)| (*node, name.as_str(), *matches))
                .eq(expected.iter().copied())
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert!(
        reached.await.is_ok(),
        "{:?} instead of {expected:?}",
        counts(cluster, nodes)
    );
}

#[test]
fn one_node_counts_the_matches_of_saved_queries_until_they_are_deleted() {
    simulate(async {
        let mut cluster = Cluster::start(6).await;
        fleet(&cluster, 9).await;
        let leader = cluster.leader(GroupId::REGISTRY).unwrap();
        let others: Vec<NodeId> = NODES.into_iter().filter(|node| *node != leader).collect();
        save(
            &cluster,
            others[0],
            "few",
            "SELECT TOP 1 * FROM devices WHERE deviceId < 'dev-003'",
        )
        .await;
        save(
            &cluster,
            others[1],
            "All",
            "SELECT status, COUNT() FROM devices GROUP BY status",
        )
        .await;
        counted(&cluster, &NODES, &[(leader, "All", 9), (leader, "few", 3)]).await;
        // The fleet grows: seen with the next count. Another text: the count of the earlier one is not shown.
        cluster.create("dev-000-b").await;
        counted(&cluster, &NODES, &[(leader, "All", 10), (leader, "few", 4)]).await;
        save(
            &cluster,
            leader,
            "few",
            "SELECT * FROM devices WHERE deviceId < 'dev-001'",
        )
        .await;
        assert_eq!(counts(&cluster, &NODES), [(leader, "All".to_owned(), 10)]);
        counted(&cluster, &NODES, &[(leader, "All", 10), (leader, "few", 2)]).await;
        let registry = cluster.hub(others[0]).registry().clone();
        registry.remove_saved_query("all", &IfMatch::Any).await.unwrap();
        counted(&cluster, &NODES, &[(leader, "few", 2)]).await;
        // The next leader continues, with counts of its own.
        cluster.kill(leader);
        let next = loop {
            match others.iter().find(|node| cluster.hub(**node).registry().is_leader()) {
                Some(next) => break *next,
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        counted(&cluster, &others, &[(next, "few", 2)]).await;
    });
}

#[test]
fn a_count_that_cannot_be_repeated_is_dropped() {
    simulate(async {
        let mut cluster = Cluster::start(7).await;
        fleet(&cluster, 3).await;
        let leader = cluster.leader(GroupId::REGISTRY).unwrap();
        save(&cluster, leader, "all", "SELECT * FROM devices").await;
        counted(&cluster, &NODES, &[(leader, "all", 3)]).await;
        // A text of another version, which is no query here.
        save(&cluster, leader, "later", "SELECT EVERYTHING").await;
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(counts(&cluster, &NODES), [(leader, "all".to_owned(), 3)]);
        // Without the others there is no leader that could count.
        for other in NODES.into_iter().filter(|node| *node != leader) {
            cluster.kill(other);
        }
        counted(&cluster, &[leader], &[]).await;
    });
}
