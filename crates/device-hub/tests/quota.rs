//! The daily quota of a hub of three nodes: what all of them admit together, and what a hub still knows after nodes have died.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::time::Duration;

use holdfast_device_hub::{Protocol, ThrottleClass, ThrottlesConfig};
use holdfast_model::{ErrorCode, NodeId, PartitionId};
use holdfast_simulation::{Cluster, NODES, Setup, simulate};

const QUOTA: u64 = 600;

async fn cluster() -> Cluster {
    let throttles = ThrottlesConfig {
        daily_messages: Some(QUOTA),
        ..ThrottlesConfig::default()
    };
    let setup = Setup {
        throttles,
        ..Setup::default()
    };
    let cluster = Cluster::start_as(1, setup).await;
    cluster.settled().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster
}

/// Operations at every node, ten a second each, for so long; how many were admitted.
async fn operate(cluster: &Cluster, seconds: u64) -> u64 {
    let mut admitted = 0;
    for _ in 0..seconds * 10 {
        for node in cluster.nodes.values() {
            match node.hub.admit(ThrottleClass::Queries, 1, Protocol::Https) {
                Ok(turn) => {
                    assert!(turn.is_none());
                    node.hub.charge(|| 100);
                    admitted += 1;
                }
                Err(refused) => assert_eq!(refused.code, ErrorCode::IotHubQuotaExceeded),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    admitted
}

fn used(cluster: &Cluster, node: NodeId) -> u64 {
    cluster.nodes[&node].hub.daily_quota().unwrap().used
}

#[test]
fn all_nodes_together_admit_the_quota_and_what_they_take_in_half_a_second() {
    simulate(async {
        let cluster = cluster().await;
        let admitted = operate(&cluster, 40).await;
        // Thirty a second: the others' last reports are half a second old.
        assert!((QUOTA..=QUOTA + 30).contains(&admitted), "{admitted}");
        for node in NODES {
            assert_eq!(used(&cluster, node), admitted);
        }
    });
}

#[test]
fn the_count_outlives_every_node() {
    simulate(async {
        let mut cluster = cluster().await;
        let before = operate(&cluster, 8).await;
        let owner = cluster.owner(PartitionId(0)).await.node;
        // Half a second after the last report, and some seconds after the last stored count.
        tokio::time::sleep(Duration::from_secs(6)).await;
        cluster.kill(owner);
        let other = NODES.into_iter().find(|node| *node != owner).unwrap();
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(used(&cluster, other), before);
        let after = before + operate(&cluster, 2).await;
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!(used(&cluster, other), after);

        // One node after the other starts anew, so that in the end all counts come from the registry and from reports.
        cluster.start_node(owner).await;
        cluster.settled().await;
        for node in NODES.into_iter().filter(|node| *node != owner) {
            cluster.kill(node);
            tokio::time::sleep(Duration::from_secs(15)).await;
            cluster.start_node(node).await;
            cluster.settled().await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        for node in NODES {
            assert_eq!(used(&cluster, node), after, "{node}");
        }
        let rest = operate(&cluster, 40).await;
        assert!((QUOTA..=QUOTA + 30).contains(&(after + rest)), "{after} {rest}");
    });
}
