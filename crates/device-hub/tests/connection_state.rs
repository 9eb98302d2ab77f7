//! The recorded state of ended connections survives restarts, owner changes and lost gateways.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::time::Duration;

use holdfast_device_hub::ConnectionState;
use holdfast_model::{NodeId, UnixMillis};
use holdfast_simulation::{Cluster, NODES, SECOND, identity, simulate};
use holdfast_testkit::eventually;

/// Longer than the hub takes to write down what has happened.
const WRITTEN: Duration = Duration::from_secs(1);

/// The state of "d", which every node must show alike.
async fn state(cluster: &Cluster) -> ConnectionState {
    let mut shown = Vec::new();
    for node in cluster.nodes.keys() {
        shown.push(cluster.hub(*node).connection_state(&identity("d")).await);
    }
    assert!(shown.windows(2).all(|pair| pair[0] == pair[1]), "{shown:?}");
    shown[0]
}

fn now(cluster: &Cluster) -> UnixMillis {
    cluster.hub(NodeId(1)).clock().now()
}

#[test]
fn a_connection_that_has_ended_is_known_after_a_restart_and_under_every_owner() {
    simulate(async {
        let mut cluster = Cluster::start(1).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(1)).await;
        let never = state(&cluster).await;
        assert_eq!(
            (never.is_connected, never.updated, never.last_activity),
            (false, None, None)
        );
        let mut client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        let began = state(&cluster).await;
        assert!(began.is_connected && began.updated == began.last_activity);
        tokio::time::sleep(20 * SECOND).await;
        client.disconnect();
        tokio::time::sleep(WRITTEN).await;
        let ended = state(&cluster).await;
        assert!(!ended.is_connected && ended.updated > began.updated, "{ended:?}");
        for owner in NODES {
            cluster.owned_by("d", owner).await;
            assert_eq!(state(&cluster).await, ended);
        }
        tokio::time::sleep(WRITTEN).await;
        cluster.restart_all().await;
        assert_eq!(state(&cluster).await, ended);
        // A device of the same name that was created later has never been connected.
        cluster.delete("d").await;
        cluster.create("d").await;
        assert_eq!(state(&cluster).await, never);
    });
}

#[test]
fn a_session_that_ends_with_its_node_is_shown_as_disconnected_with_its_last_activity() {
    simulate(async {
        let mut cluster = Cluster::start(2).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(1)).await;
        let client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        let began = state(&cluster).await;
        // Within the interval nothing is recorded, after it the first message is.
        tokio::time::sleep(60 * SECOND).await;
        client.send(0);
        client.until_acked(1).await;
        tokio::time::sleep(WRITTEN).await;
        assert_eq!(state(&cluster).await, began);
        tokio::time::sleep(300 * SECOND).await;
        let sent = now(&cluster);
        client.send(1);
        client.until_acked(2).await;
        tokio::time::sleep(2 * WRITTEN).await;
        let active = state(&cluster).await;
        assert!(active.is_connected && active.updated == began.updated);
        assert_eq!(active.last_activity, Some(sent));
        cluster.restart_all().await;
        let lost = state(&cluster).await;
        assert!(!lost.is_connected, "{lost:?}");
        assert_eq!(lost.last_activity, Some(sent));
    });
}

#[test]
fn a_device_whose_gateway_has_died_is_disconnected_and_keeps_its_last_activity() {
    simulate(async {
        let mut cluster = Cluster::start(3).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(1)).await;
        let _client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        let began = state(&cluster).await;
        tokio::time::sleep(WRITTEN).await;
        cluster.kill(NodeId(2));
        let hub = cluster.hub(NodeId(1)).clone();
        let mut shown = began;
        for _ in 0..600 {
            shown = hub.connection_state(&identity("d")).await;
            if !shown.is_connected {
                break;
            }
            tokio::time::sleep(SECOND / 10).await;
        }
        assert!(!shown.is_connected && shown.updated > began.updated, "{shown:?}");
        assert_eq!(shown.last_activity, began.last_activity);
        eventually("two nodes", || cluster.is_settled()).await;
        cluster.owned_by("d", NodeId(3)).await;
        assert_eq!(cluster.hub(NodeId(3)).connection_state(&identity("d")).await, shown);
    });
}
