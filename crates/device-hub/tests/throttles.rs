//! The rates of a hub of three nodes: what all of them admit together, as demand moves and nodes go.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::time::Duration;

use holdfast_device_hub::{Protocol, ThrottleClass, ThrottlesConfig};
use holdfast_model::{HumanDuration, NodeId, PartitionId, Rate};
use holdfast_simulation::{Cluster, NODES, Setup, simulate};

/// Of the whole hub, each second.
const RATE: u32 = 60;

const CLASS: ThrottleClass = ThrottleClass::Queries;

async fn cluster() -> Cluster {
    let throttles = ThrottlesConfig {
        queries: Some(Rate::PerSecond(RATE)),
        max_wait: HumanDuration::secs(0),
        ..ThrottlesConfig::default()
    };
    let cluster = Cluster::start_as(
        1,
        Setup {
            throttles,
            ..Setup::default()
        },
    )
    .await;
    cluster.settled().await;
    // Until each node knows the others.
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster
}

/// Asks each node so often a second; how many each has admitted.
async fn ask(cluster: &Cluster, seconds: u64, demand: [u32; 3]) -> [u32; 3] {
    let mut admitted = [0; 3];
    for _ in 0..seconds * 10 {
        for (index, node) in NODES.into_iter().enumerate() {
            let Some(node) = cluster.nodes.get(&node) else { continue };
            for _ in 0..demand[index] / 10 {
                if let Ok(None) = node.hub.admit(CLASS, 1, Protocol::Https) {
                    admitted[index] += 1;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    admitted
}

#[track_caller]
fn within(admitted: [u32; 3], seconds: u32, least: f64, most: f64) {
    let rate = f64::from(admitted.iter().sum::<u32>()) / f64::from(seconds * RATE);
    assert!((least..=most).contains(&rate), "{rate} of the rate: {admitted:?}");
}

#[test]
fn all_nodes_together_admit_the_rate_wherever_the_demand_is() {
    simulate(async {
        let cluster = cluster().await;
        // The buckets of a minute, and no more.
        let burst = ask(&cluster, 25, [300, 300, 300]).await;
        within(burst, 25 + 60, 0.97, 1.0);
        for demand in [[300, 300, 300], [400, 60, 0], [0, 0, 300], [100, 0, 100]] {
            // Shares follow within a few seconds; nodes without demand had a minute of their small part in their buckets.
            let moving = ask(&cluster, 4, demand).await;
            within(moving, 4, 0.2, 2.0);
            let admitted = ask(&cluster, 20, demand).await;
            within(admitted, 20, 0.9, 1.02);
        }
        let quiet = ask(&cluster, 20, [400, 10, 0]).await;
        assert!(quiet[1] >= 40, "a node with little demand has its part: {quiet:?}");
    });
}

#[test]
fn the_rate_holds_when_nodes_go_and_come_also_the_one_that_shares_out() {
    simulate(async {
        let mut cluster = cluster().await;
        let all = [200, 200, 200];
        ask(&cluster, 30, all).await;
        let sharing = cluster.owner(PartitionId(0)).await.node;
        for gone in [sharing, NODES.into_iter().find(|node| *node != sharing).unwrap()] {
            cluster.kill(gone);
            let failing_over = ask(&cluster, 10, all).await;
            within(failing_over, 10, 0.3, 1.05);
            let two = ask(&cluster, 20, all).await;
            within(two, 20, 0.6, 1.02);
            let later = ask(&cluster, 40, all).await;
            within(later, 40, 0.6, 1.02);
            // A node that is silent for so long takes no connections: its share goes to the others.
            within(ask(&cluster, 20, all).await, 20, 0.9, 1.02);
            cluster.start_node(gone).await;
            cluster.settled().await;
            // It begins with a full bucket of its share, a minute of a third of the rate.
            within(ask(&cluster, 20, all).await, 20, 0.9, 2.05);
            within(ask(&cluster, 20, all).await, 20, 0.9, 1.05);
        }
        assert_eq!(cluster.nodes.keys().copied().collect::<Vec<NodeId>>(), NODES);
    });
}
