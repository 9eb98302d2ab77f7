//! Queries with an index give what the same queries give without one.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::time::Duration;

use holdfast_device_hub::{IndexPlan, QueryPosition, TwinWrite, TwinsConfig, WriteMode};
use holdfast_model::{DeviceId, IdentityId, ModuleId, NodeId};
use holdfast_query::Query;
use holdfast_registry::{IdentityContent, IdentityWrite, IfMatch, TwinSeed, WriteOperation};
use holdfast_simulation::{Cluster, NODES, Setup, identity, simulate};
use rand::Rng;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(30);

fn setup() -> Setup {
    let indexes = [
        "tags.site",
        "tags.n",
        "properties.desired.[[fw-version]]",
        "properties.desired.rate.max",
    ];
    Setup {
        twins: TwinsConfig {
            indexes: indexes.map(str::to_owned).into(),
            ..TwinsConfig::default()
        },
        ..Setup::default()
    }
}

async fn explained(cluster: &Cluster, node: NodeId, text: &str) -> IndexPlan {
    let query = Query::parse(text).unwrap();
    cluster.hub(node).clone().explain_query(text, &query).await.index
}

/// Waits until all owners use the index `tags.site`.
async fn indexed(cluster: &Cluster) {
    let text = "SELECT * FROM devices WHERE tags.site = 'A'";
    let is_used = async {
        while !matches!(explained(cluster, NODES[0], text).await, IndexPlan::Used { .. }) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), is_used).await.unwrap();
}

async fn all(cluster: &Cluster, node: NodeId, text: &str, limit: usize) -> Vec<Value> {
    let query = Query::parse(text).unwrap();
    let hub = cluster.hub(node).clone();
    let mut results = Vec::new();
    let mut position = QueryPosition::Start;
    loop {
        let page = hub.query_page(text, &query, &position, limit, TIMEOUT).await.unwrap();
        assert!(page.results.len() <= limit);
        results.extend(
            page.results
                .iter()
                .map(|text| serde_json::from_str::<Value>(text).unwrap()),
        );
        match page.next {
            Some(next) => position = next,
            None => return results,
        }
    }
}

/// Both ways, in pages of several sizes and from several nodes.
async fn compare(cluster: &Cluster, collection: &str, condition: &str) -> usize {
    let columns = "deviceId, moduleId, tags.site AS s, tags.n AS n";
    let indexed = format!("SELECT {columns} FROM {collection} WHERE {condition}");
    // No part of this condition must be true for all results, as far as the planner can see.
    let scanned = format!("SELECT {columns} FROM {collection} WHERE NOT NOT ({condition})");
    assert_eq!(explained(cluster, NODES[0], &scanned).await, IndexPlan::None);
    let plan = explained(cluster, NODES[1], &indexed).await;
    assert!(matches!(plan, IndexPlan::Used { .. }), "{indexed}: {plan:?}");
    let expected = all(cluster, NODES[0], &scanned, 1000).await;
    for (node, limit) in [(NODES[0], 1000), (NODES[1], 3), (NODES[2], 1)] {
        assert_eq!(
            all(cluster, node, &indexed, limit).await,
            expected,
            "{indexed}, pages of {limit}"
        );
    }
    let count = format!("SELECT COUNT() AS n FROM {collection} WHERE {condition}");
    assert_eq!(
        all(cluster, NODES[2], &count, 10).await,
        [json!({"n": expected.len()})],
        "{count}"
    );
    expected.len()
}

async fn compare_all(cluster: &Cluster) -> usize {
    let mut found = 0;
    for condition in [
        "tags.site = 'A'",
        "tags.site = 'C' AND tags.n > 5",
        "tags.site IN ['A', 'B', null, 3] AND deviceId != 'dev-001'",
        "tags.site = 'A' OR tags.site = 'B'",
        "tags.n >= 3 AND tags.n < 7",
        "tags.n > 100",
        "tags.n <= 2",
        "tags.n = true",
        "STARTSWITH(tags.site, 'A')",
        "tags.site >= 'B'",
        "tags.site = undefined",
        "properties.desired.[[fw-version]] = '2.0'",
        "properties.desired.rate.max > 1 AND tags.site = 'A'",
        "properties.desired.rate.max < 4",
    ] {
        found += compare(cluster, "devices", condition).await;
        found += compare(cluster, "devices.modules", condition).await;
    }
    found
}

async fn write(cluster: &Cluster, node: NodeId, id: &IdentityId, tags: Value, desired: Value) {
    let hub = cluster.hub(node).clone();
    let registered = hub.registry().get(id).await.unwrap().unwrap();
    let write = TwinWrite {
        mode: WriteMode::Replace,
        tags: Some(tags.to_string()),
        desired: Some(desired.to_string()),
        if_etag: None,
    };
    hub.write_twin(id, &registered.generation, write, TIMEOUT)
        .await
        .unwrap();
}

fn content(rng: &mut impl Rng) -> (Value, Value) {
    let site = match rng.random_range(0..9) {
        0..3 => json!("A"),
        3 => json!("AB"),
        4 => json!("B"),
        5 => json!(3),
        6 => json!(["A"]),
        7 => json!({"A": "A"}),
        _ => json!("x".repeat(400)),
    };
    let n = match rng.random_range(0..8) {
        0 => json!(true),
        1 => json!(-2.5),
        2 => json!("7"),
        _ => json!(rng.random_range(0..9)),
    };
    let tags = match rng.random_range(0..5) {
        0 => json!({}),
        1 => json!({"n": n}),
        _ => json!({"site": site, "n": n}),
    };
    let desired = match rng.random_range(0..3) {
        0 => json!({}),
        _ => json!({"fw-version": format!("{}.0", rng.random_range(1..4)), "rate": {"max": rng.random_range(0..6)}}),
    };
    (tags, desired)
}

async fn register(cluster: &Cluster, id: &IdentityId, twin: TwinSeed) {
    let write = IdentityWrite {
        id: id.clone(),
        operation: WriteOperation::Create(IdentityContent {
            twin,
            ..IdentityContent::default()
        }),
    };
    let outcomes = cluster.hub(NODES[0]).registry().write_bulk(vec![write]).await.unwrap();
    outcomes.into_iter().next().unwrap().unwrap();
}

fn module(device: &str, name: &str) -> IdentityId {
    IdentityId::module(DeviceId::parse(device).unwrap(), ModuleId::parse(name).unwrap())
}

#[test]
fn an_index_finds_what_a_scan_finds_whatever_becomes_of_twins_and_owners() {
    simulate(async {
        let mut cluster = Cluster::start_as(7, setup()).await;
        let mut rng = rand::rngs::SmallRng::clone(&cluster.rng);
        let names: Vec<String> = (0..40).map(|number| format!("dev-{number:03}")).collect();
        let mut ids = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let (tags, desired) = content(&mut rng);
            let seed = match number % 3 {
                0 => TwinSeed {
                    tags: Some(tags.to_string()),
                    desired: Some(desired.to_string()),
                    reported: None,
                },
                _ => TwinSeed::default(),
            };
            register(&cluster, &identity(name), seed).await;
            ids.push(identity(name));
            if number % 4 == 0 {
                for name_of_module in ["m1", "m2"] {
                    let id = module(name, name_of_module);
                    register(&cluster, &id, TwinSeed::default()).await;
                    ids.push(id);
                }
            }
        }
        for id in &ids {
            if rng.random_range(0..4) > 0 {
                let (tags, desired) = content(&mut rng);
                write(&cluster, NODES[rng.random_range(0..3)], id, tags, desired).await;
            }
        }
        indexed(&cluster).await;
        assert!(compare_all(&cluster).await > 50);

        // Twins change, identities are deleted and created again.
        for _ in 0..60 {
            let id = &ids[rng.random_range(0..ids.len())];
            if id.module.is_none() && rng.random_range(0..8) == 0 {
                let registry = cluster.hub(NODES[0]).registry().clone();
                let write = IdentityWrite {
                    id: id.clone(),
                    operation: WriteOperation::Delete(IfMatch::Any),
                };
                registry.write_bulk(vec![write]).await.unwrap();
                register(&cluster, id, TwinSeed::default()).await;
                for name in ["m1", "m2"] {
                    let module = IdentityId::module(id.device.clone(), ModuleId::parse(name).unwrap());
                    if ids.contains(&module) {
                        register(&cluster, &module, TwinSeed::default()).await;
                    }
                }
            }
            let (tags, desired) = content(&mut rng);
            write(&cluster, NODES[rng.random_range(0..3)], id, tags, desired).await;
        }
        assert!(compare_all(&cluster).await > 50);

        // Other owners, and a node that was away and starts again.
        for name in names.iter().step_by(3) {
            cluster.owned_by(name, NODES[rng.random_range(0..3)]).await;
        }
        indexed(&cluster).await;
        assert!(compare_all(&cluster).await > 50);
        cluster.kill(NODES[2]);
        for name in names.iter().step_by(5) {
            let (tags, desired) = content(&mut rng);
            write(&cluster, NODES[0], &identity(name), tags, desired).await;
        }
        cluster.start_node(NODES[2]).await;
        cluster.settled().await;
        for name in names.iter().step_by(2) {
            cluster.owned_by(name, NODES[2]).await;
        }
        indexed(&cluster).await;
        assert!(compare_all(&cluster).await > 50);
    });
}
