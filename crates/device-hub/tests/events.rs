//! Events of the hub about identities: each creation, deletion and change of a connection once, whatever happens to nodes.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::collections::BTreeSet;

use holdfast_model::{MessageSource, NodeId};
use holdfast_partition::StartPosition;
use holdfast_simulation::{Cluster, SECOND, Setup, partition_of, simulate};

/// Longer than an owner waits before it reconciles a term that is complete.
const RECONCILED: std::time::Duration = SECOND.saturating_mul(20);

/// The hub's events in the partition of `device` as a node's replica has them: source, device, `opType`, body; and their
/// correlation ids.
async fn events(cluster: &Cluster, node: NodeId, device: &str) -> (Vec<(MessageSource, String, String)>, Vec<String>) {
    let replica = cluster.nodes[&node].partitions.local(partition_of(device)).unwrap();
    replica.group().read_index().await.unwrap();
    let mut reader = replica.reader(StartPosition::Oldest).unwrap();
    let (mut events, mut ids) = (Vec::new(), Vec::new());
    while reader.position() < replica.status().next {
        let chunk = reader.next().await.unwrap();
        for event in chunk.events() {
            let record = event.unwrap().record;
            let operation = record.properties().find(|property| property.name == "opType");
            let operation = operation.map(|property| format!("{:?}", property.value));
            events.push((
                record.source.unwrap(),
                record.device_id.to_owned(),
                operation.unwrap_or_default(),
            ));
            if record.source == Some(MessageSource::DeviceLifecycle) {
                let twin: serde_json::Value = serde_json::from_slice(record.payload).unwrap();
                assert_eq!(twin["deviceId"], record.device_id);
                assert_eq!(twin["properties"]["desired"]["$version"], 1);
            }
            ids.push(record.correlation_id.unwrap_or_default().to_owned());
        }
    }
    (events, ids)
}

fn operations(events: &[(MessageSource, String, String)], of: MessageSource) -> Vec<&str> {
    let of_source = events.iter().filter(|(source, ..)| *source == of);
    of_source
        .map(|(_, _, operation)| operation.trim_start_matches("Text(\"").trim_end_matches("\")"))
        .collect()
}

fn with_events() -> Setup {
    Setup {
        events: true,
        ..Setup::default()
    }
}

#[test]
fn a_life_is_two_events_and_a_connection_two_more() {
    simulate(async {
        let cluster = Cluster::start_as(1, with_events()).await;
        cluster.owned_by("d", NodeId(2)).await;
        cluster.create("d").await;
        let mut client = cluster.connect(NodeId(1), 0, "d").await.unwrap();
        tokio::time::sleep(2 * SECOND).await;
        client.disconnect();
        tokio::time::sleep(2 * SECOND).await;
        cluster.delete("d").await;
        tokio::time::sleep(2 * SECOND).await;
        let (events, ids) = events(&cluster, NodeId(3), "d").await;
        assert_eq!(
            operations(&events, MessageSource::DeviceLifecycle),
            ["createDeviceIdentity", "deleteDeviceIdentity"]
        );
        assert_eq!(
            operations(&events, MessageSource::ConnectionState),
            ["deviceConnected", "deviceDisconnected"]
        );
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 4, "{ids:?}");
    });
}

#[test]
fn an_event_that_an_owner_has_missed_is_written_by_the_next_one() {
    simulate(async {
        let mut cluster = Cluster::start_as(2, with_events()).await;
        cluster.owned_by("d", NodeId(2)).await;
        cluster.create("d").await;
        // The first pass, which sets the baseline, is over.
        tokio::time::sleep(RECONCILED).await;
        // Other devices of the partition are created and deleted while no owner can write.
        let mut others = (0..)
            .map(|n| format!("e{n}"))
            .filter(|name| partition_of(name) == partition_of("d"));
        let (created, both) = (others.next().unwrap(), others.next().unwrap());
        cluster.delete("d").await;
        cluster.create(&created).await;
        cluster.kill(NodeId(2));
        cluster.create(&both).await;
        cluster.delete(&both).await;
        cluster.start_node(NodeId(2)).await;
        cluster.settled().await;
        tokio::time::sleep(2 * RECONCILED).await;
        let (events, _) = events(&cluster, NodeId(1), "d").await;
        let of = |device: &str| {
            let own: Vec<_> = events.iter().filter(|(_, id, _)| id == device).cloned().collect();
            operations(&own, MessageSource::DeviceLifecycle).join(" ")
        };
        assert_eq!(of("d"), "createDeviceIdentity deleteDeviceIdentity");
        assert_eq!(of(&created), "createDeviceIdentity");
        // It was created and deleted before anything could be written: nothing, or both.
        let seen = of(&both);
        assert!(
            ["", "createDeviceIdentity deleteDeviceIdentity"].contains(&&*seen),
            "{seen}"
        );
    });
}

#[test]
fn without_the_settings_there_are_no_events() {
    simulate(async {
        let cluster = Cluster::start(3).await;
        cluster.create("d").await;
        let _client = cluster.connect(NodeId(1), 0, "d").await.unwrap();
        tokio::time::sleep(RECONCILED).await;
        let (events, _) = events(&cluster, NodeId(1), "d").await;
        assert_eq!(events, []);
    });
}
