//! The reconciler of device state: nothing of deleted devices is left, and everything of the others is.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use holdfast_device_hub::Subscriptions;
use holdfast_model::NodeId;
use holdfast_partition::record::DeviceStateKind;
use holdfast_simulation::{Client, Cluster, SECOND, identity, partition_of, simulate};

/// Longer than an owner waits before it reconciles a term that is complete.
const RECONCILED: std::time::Duration = SECOND.saturating_mul(20);

/// Devices and generations with state in the partition of "d".
async fn stored(cluster: &Cluster, kind: DeviceStateKind) -> Vec<(String, String)> {
    let id = partition_of("d");
    let owner = cluster.owner(id).await.node;
    let replica = cluster.nodes[&owner].partitions.local(id).unwrap();
    let page = replica.device_states(kind, None).await.unwrap();
    assert!(page.is_last());
    let keys = page.entries.iter().map(|entry| entry.key().unwrap());
    keys.map(|key| (key.device.to_owned(), key.generation.to_owned()))
        .collect()
}

fn generation(cluster: &Cluster, device: &str) -> String {
    let registered = cluster.hub(NodeId(1)).registry().identity(&identity(device)).unwrap();
    registered.unwrap().generation.to_string()
}

async fn subscribed(cluster: &Cluster, device: &str) -> Client {
    let client = cluster.connect(NodeId(2), 0, device).await.unwrap();
    let session = client.session.as_ref().unwrap();
    client
        .core
        .store_subscriptions(session, Subscriptions(1))
        .await
        .unwrap();
    client
}

#[test]
fn the_state_of_a_deleted_device_is_gone_and_that_of_its_successor_and_of_others_stays() {
    simulate(async {
        let cluster = Cluster::start(1).await;
        // Another device of the same partition.
        let other = (0..)
            .map(|n| format!("e{n}"))
            .find(|name| partition_of(name) == partition_of("d"));
        let other = other.unwrap();
        for device in ["d", &other] {
            cluster.create(device).await;
            let _connected = subscribed(&cluster, device).await;
        }
        cluster.owned_by("d", NodeId(1)).await;
        let first = generation(&cluster, "d");
        let mut expected = vec![
            ("d".to_owned(), first.clone()),
            (other.clone(), generation(&cluster, &other)),
        ];
        tokio::time::sleep(SECOND).await;
        for kind in [DeviceStateKind::SUBSCRIPTIONS, DeviceStateKind::CONNECTION] {
            assert_eq!(stored(&cluster, kind).await, expected);
        }
        cluster.delete("d").await;
        cluster.create("d").await;
        let again = cluster.connect(NodeId(3), 0, "d").await.unwrap();
        assert_eq!(again.session.as_ref().unwrap().stored_subscriptions(), None);
        subscribed(&cluster, "d").await;
        // A new owner reconciles at once.
        cluster.owned_by("d", NodeId(2)).await;
        tokio::time::sleep(RECONCILED).await;
        expected[0].1 = generation(&cluster, "d");
        assert_ne!(expected[0].1, first);
        for kind in [DeviceStateKind::SUBSCRIPTIONS, DeviceStateKind::CONNECTION] {
            assert_eq!(stored(&cluster, kind).await, expected);
        }
        // The owner repeats it, each interval.
        cluster.delete(&other).await;
        tokio::time::sleep(80 * SECOND).await;
        for kind in [DeviceStateKind::SUBSCRIPTIONS, DeviceStateKind::CONNECTION] {
            assert_eq!(stored(&cluster, kind).await, expected[..1]);
        }
    });
}

#[test]
fn a_connection_whose_end_was_lost_with_all_nodes_ends_when_they_are_back() {
    simulate(async {
        let mut cluster = Cluster::start(2).await;
        cluster.create("d").await;
        let _client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        let began = cluster.hub(NodeId(1)).connection_state(&identity("d")).await;
        tokio::time::sleep(SECOND).await;
        cluster.restart_all().await;
        let back = cluster.hub(NodeId(1)).clock().now();
        tokio::time::sleep(RECONCILED).await;
        let ended = cluster.hub(NodeId(3)).connection_state(&identity("d")).await;
        assert!(!ended.is_connected && ended.updated >= Some(back), "{ended:?}");
        assert_eq!(ended.last_activity, began.last_activity);
    });
}
