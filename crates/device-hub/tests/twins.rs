//! Twins on three nodes: no acknowledged write is lost or doubled, every read sees the writes that were answered before it,
//! and nothing of deleted identities is left.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_device_hub::{DeviceHub, Settlement, Twin, TwinError, TwinWrite, WriteMode};
use holdfast_model::{MessageSource, NodeId};
use holdfast_partition::StartPosition;
use holdfast_partition::record::DeviceStateKind;
use holdfast_simulation::{Cluster, NODES, SECOND, Setup, identity, partition_of, simulate};
use holdfast_testkit::eventually;

const WAIT: Duration = Duration::from_secs(20);

fn tags(tags: &str, if_etag: Option<String>) -> TwinWrite {
    TwinWrite {
        mode: WriteMode::Merge,
        tags: Some(tags.to_owned()),
        desired: None,
        if_etag,
    }
}

async fn read(hub: &Arc<DeviceHub>, device: &str) -> Result<Twin, TwinError> {
    let id = identity(device);
    let generation = hub.registry().identity(&id)?.unwrap().generation.clone();
    Ok(hub.twin(&id, &generation, WAIT).await?.twin)
}

async fn write(hub: &Arc<DeviceHub>, device: &str, write: TwinWrite) -> Result<Twin, TwinError> {
    let id = identity(device);
    let generation = hub.registry().identity(&id)?.unwrap().generation.clone();
    Ok(hub.write_twin(&id, &generation, write, WAIT).await?.twin)
}

fn count(twin: &Twin) -> u64 {
    twin.tags().get("n").and_then(serde_json::Value::as_u64).unwrap_or(0)
}

/// Adds one, again and again; counts the additions that were acknowledged, and those of unknown outcome.
async fn add(hub: Arc<DeviceHub>, times: u32, acked: Rc<Cell<u64>>, unknown: Rc<Cell<u64>>) {
    let mut done = 0;
    while done < times {
        let Ok(twin) = read(&hub, "d").await else { continue };
        // It contains every write that was acknowledged before the read began.
        let next = format!(r#"{{"n":{}}}"#, count(&twin) + 1);
        match write(&hub, "d", tags(&next, Some(twin.etag()))).await {
            Ok(written) => {
                assert_eq!(count(&written), count(&twin) + 1);
                acked.set(acked.get() + 1);
                done += 1;
            }
            Err(TwinError::Refused { code, .. }) => assert_eq!(code.number(), 412_001),
            Err(TwinError::Unknown) => unknown.set(unknown.get() + 1),
            Err(_) => {}
        }
    }
}

#[test]
fn additions_through_all_nodes_are_counted_once_while_owners_change_and_nodes_die() {
    for seed in 1..=3 {
        simulate(async {
            let mut cluster = Cluster::start(seed).await;
            cluster.create("d").await;
            let (acked, unknown) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            // The callers' nodes stay; the third one is killed and comes back.
            let adding: Vec<_> = [1, 1, 2, 2]
                .map(|node| {
                    let hub = Arc::clone(cluster.hub(NodeId(node)));
                    tokio::task::spawn_local(add(hub, 40, Rc::clone(&acked), Rc::clone(&unknown)))
                })
                .into_iter()
                .collect();
            for node in [3, 1, 2] {
                cluster.owned_by("d", NodeId(node)).await;
                tokio::time::sleep(SECOND / 4).await;
            }
            cluster.owned_by("d", NodeId(3)).await;
            tokio::time::sleep(SECOND / 20).await;
            cluster.kill(NodeId(3));
            tokio::time::sleep(2 * SECOND).await;
            cluster.start_node(NodeId(3)).await;
            for task in adding {
                task.await.unwrap();
            }
            for node in NODES {
                let found = count(&read(cluster.hub(node), "d").await.unwrap());
                let least = acked.get();
                assert!(
                    (least..=least + unknown.get()).contains(&found),
                    "{found} {least} {}",
                    unknown.get()
                );
            }
        });
    }
}

#[test]
fn a_write_during_a_transfer_of_leadership_has_a_certain_outcome() {
    for seed in 11..=13 {
        simulate(async {
            let cluster = Cluster::start(seed).await;
            cluster.create("d").await;
            let writers: Vec<_> = NODES
                .into_iter()
                .map(|node| {
                    let hub = Arc::clone(cluster.hub(node));
                    tokio::task::spawn_local(async move {
                        for number in 0..150 {
                            let content = tags(&format!(r#"{{"n{}":{number}}}"#, node.get()), None);
                            write(&hub, "d", content).await.unwrap();
                        }
                    })
                })
                .collect();
            for node in [3, 1, 2, 3, 2, 1] {
                cluster.owned_by("d", NodeId(node)).await;
                tokio::time::sleep(SECOND / 20).await;
            }
            for writer in writers {
                writer.await.unwrap();
            }
            // Each write raised the version once: the twin begins with 1.
            assert_eq!(read(cluster.hub(NodeId(1)), "d").await.unwrap().version, 1 + 3 * 150);
        });
    }
}

#[test]
fn a_read_through_any_node_sees_what_was_answered_before_it() {
    simulate(async {
        let cluster = Cluster::start(4).await;
        cluster.create("d").await;
        for round in 0..30 {
            let writer = cluster.hub(NODES[round % 3]);
            let written = write(writer, "d", tags(&format!(r#"{{"n":{round}}}"#), None))
                .await
                .unwrap();
            for node in NODES {
                assert_eq!(read(cluster.hub(node), "d").await.unwrap(), written);
            }
            if round % 7 == 6 {
                cluster.owned_by("d", NODES[round % 3]).await;
            }
        }
        // All nodes restart: it is on the disks.
        let before = read(cluster.hub(NodeId(1)), "d").await.unwrap();
        let mut cluster = cluster;
        cluster.restart_all().await;
        assert_eq!(read(cluster.hub(NodeId(2)), "d").await.unwrap(), before);
    });
}

#[test]
fn the_twin_of_a_deleted_device_is_gone_with_its_history() {
    simulate(async {
        let cluster = Cluster::start(5).await;
        cluster.create("d").await;
        for number in 0..5 {
            write(cluster.hub(NodeId(1)), "d", tags(&format!(r#"{{"n":{number}}}"#), None))
                .await
                .unwrap();
        }
        let stored = async |kind| {
            let id = partition_of("d");
            let owner = cluster.owner(id).await.node;
            let replica = cluster.nodes[&owner].partitions.local(id).unwrap();
            replica.device_states(kind, None).await.unwrap().entries.len()
        };
        assert_eq!(stored(DeviceStateKind::TWIN).await, 1);
        assert_eq!(stored(DeviceStateKind::TWIN_HISTORY).await, 5);
        assert_eq!(count(&read(cluster.hub(NodeId(2)), "d").await.unwrap()), 4);
        cluster.delete("d").await;
        cluster.create("d").await;
        let twin = read(cluster.hub(NodeId(2)), "d").await.unwrap();
        assert_eq!(
            (twin.version, count(&twin)),
            (1, 0),
            "the next generation has a new one"
        );
        tokio::time::sleep(80 * SECOND).await;
        assert_eq!(stored(DeviceStateKind::TWIN).await, 0);
        assert_eq!(stored(DeviceStateKind::TWIN_HISTORY).await, 0);
    });
}

#[test]
fn each_change_is_one_event_in_the_order_of_the_versions() {
    simulate(async {
        let setup = Setup {
            events: true,
            ..Setup::default()
        };
        let cluster = Cluster::start_as(6, setup).await;
        cluster.create("d").await;
        let hub = cluster.hub(NodeId(2));
        for number in 0..3 {
            write(hub, "d", tags(&format!(r#"{{"n":{number}}}"#), None))
                .await
                .unwrap();
        }
        let replace = TwinWrite {
            mode: WriteMode::Replace,
            ..tags(r#"{"all":1}"#, None)
        };
        write(hub, "d", replace).await.unwrap();
        let refused = write(hub, "d", tags(r#"{"a.b":1}"#, None)).await.unwrap_err();
        assert_eq!(refused.code().number(), 400_004);
        let replica = cluster.nodes[&NodeId(3)].partitions.local(partition_of("d")).unwrap();
        replica.group().read_index().await.unwrap();
        let mut reader = replica.reader(StartPosition::Oldest).unwrap();
        let mut found = Vec::new();
        while reader.position() < replica.status().next {
            for event in reader.next().await.unwrap().events() {
                let record = event.unwrap().record;
                if record.source == Some(MessageSource::TwinChange) {
                    let operation = record.properties().find(|property| property.name == "opType");
                    let body: serde_json::Value = serde_json::from_slice(record.payload).unwrap();
                    found.push((format!("{:?}", operation.unwrap().value), body));
                }
            }
        }
        let versions: Vec<_> = found
            .iter()
            .map(|(_, body)| body["version"].as_u64().unwrap())
            .collect();
        assert_eq!(versions, [2, 3, 4, 5]);
        assert!(found[0].0.contains("updateTwin") && found[3].0.contains("replaceTwin"));
        assert_eq!(found[1].1, serde_json::json!({"version": 3, "tags": {"n": 1}}));
        assert_eq!(found[3].1["deviceId"], "d");
    });
}

/// A write to each of many devices: the notifications go out side by side, and one that does not read holds back nothing.
#[test]
fn a_change_of_many_devices_reaches_each_and_a_slow_one_delays_only_itself() {
    const DEVICES: usize = 200;
    simulate(async {
        let cluster = Cluster::start(7).await;
        let names: Vec<String> = (0..DEVICES).map(|number| format!("d{number}")).collect();
        let mut clients = Vec::new();
        for (number, name) in names.iter().enumerate() {
            cluster.create(name).await;
            let client = cluster.connect(NODES[number % 3], number % 2, name).await.unwrap();
            client.take_changes();
            // The first one takes a single delivery and never settles it.
            client.grant_deliveries(if number == 0 { 1 } else { 50 }, 1 << 18);
            clients.push(client);
        }
        tokio::time::sleep(SECOND).await;
        let desired = |n: usize| TwinWrite {
            mode: WriteMode::Merge,
            tags: None,
            desired: Some(format!(r#"{{"n":{n}}}"#)),
            if_etag: None,
        };
        // The slow one gets more than its queue takes.
        for n in 0..100 {
            write(cluster.hub(NodeId(1)), &names[0], desired(n)).await.unwrap();
        }
        for round in 0..3 {
            let start = tokio::time::Instant::now();
            let writes = names[1..].iter().enumerate().map(|(number, name)| {
                let hub = cluster.hub(NODES[number % 3]);
                write(hub, name, desired(round))
            });
            for written in futures_util::future::join_all(writes).await {
                assert_eq!(written.unwrap().desired_version(), round as u64 + 2);
            }
            eventually("the changes", || {
                clients[1..].iter().all(|client| client.delivered().len() == round + 1)
            })
            .await;
            assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
        }
        for client in &clients[1..] {
            assert_eq!(client.delivered(), [2, 3, 4]);
        }
        let slow = &clients[0];
        assert_eq!(slow.delivered(), [2]);
        // It reads on: its queue in order, and then the call to read the twin in place of the others.
        slow.grant_deliveries(200, 1 << 20);
        eventually("the queue", || slow.delivered().len() == 64).await;
        let versions = slow.delivered();
        assert!(versions.windows(2).all(|pair| pair[1] == pair[0] + 1), "{versions:?}");
        for version in versions {
            slow.settle_delivery(version, Settlement::Accepted);
        }
        eventually("the call to read", || slow.delivered().last() == Some(&0)).await;
    });
}
