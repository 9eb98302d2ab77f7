//! How soon the devices of a lost gateway have service elsewhere, in simulated time.
//!
//! A device reconnects at once, to another node, and tries again when it is refused; it has service when its first message
//! is acknowledged. The target is the same for a gateway that was killed and for a frozen one.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_consensus::GroupId;
use holdfast_model::{NodeId, PartitionCount};
use holdfast_simulation::{Client, Cluster, SECOND, partition_of, simulate};
use holdfast_testkit::eventually;
use tokio::time::Instant;

/// Half of the devices have service after this time.
const MEDIAN: Duration = Duration::from_secs(2);

/// All devices have.
const WORST: Duration = Duration::from_millis(3500);

const DEVICES: usize = 64;

/// How long a device waits after a refusal.
const BACKOFF: Duration = Duration::from_millis(200);

/// How the gateway is lost.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Killed,
    Frozen,
}

/// Ownerships and leadership are spread: node 2 owns a third of the partitions, and leads the registry if `leads_registry`.
async fn spread(cluster: &Cluster, leads_registry: bool) {
    for (id, node) in PartitionCount::DEFAULT.iter().zip([1, 2, 3].into_iter().cycle()) {
        let owner = cluster.owner(id).await;
        if owner.node != NodeId(node) {
            let replica = cluster.nodes[&owner.node].partitions.local(id).unwrap();
            replica.group().transfer_leader(NodeId(node)).await.unwrap();
        }
        eventually("the transfer", || {
            let mut nodes = cluster.nodes.values();
            nodes.all(|other| {
                other
                    .partitions
                    .owner(id)
                    .is_some_and(|owner| owner.node == NodeId(node))
            })
        })
        .await;
    }
    let wanted = if leads_registry { 2 } else { 1 };
    let leader = cluster.leader(GroupId::REGISTRY).unwrap();
    if leader != NodeId(wanted) {
        let registry = cluster.nodes[&leader].registry.group();
        registry.transfer_leader(NodeId(wanted)).await.unwrap();
        eventually("the registry's leader", || {
            cluster.leader(GroupId::REGISTRY) == Some(NodeId(wanted))
        })
        .await;
    }
    cluster.settled().await;
}

/// Connects until the device is let in, and sends a message.
async fn back_in_service(cluster: &Cluster, device: &str, number: usize, lost: Instant) -> (Client, Duration) {
    let node = [1, 3][number % 2];
    let client = loop {
        match cluster.connect(NodeId(node), number / 2 % 2, device).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(BACKOFF).await,
        }
    };
    client.send(1);
    client.until_acked(1).await;
    (client, lost.elapsed())
}

fn measure(loss: Loss, leads_registry: bool, seed: u64) -> (Duration, Duration) {
    simulate(async {
        let mut cluster = Cluster::start(seed).await;
        let devices: Vec<String> = (0..DEVICES).map(|number| format!("d{number}")).collect();
        for device in &devices {
            cluster.create(device).await;
        }
        spread(&cluster, leads_registry).await;
        let mut old = Vec::new();
        for (number, device) in devices.iter().enumerate() {
            let client = cluster.connect(NodeId(2), number % 2, device).await.unwrap();
            client.send(0);
            client.until_acked(1).await;
            old.push(client);
        }
        // Renewals are at any point of their period.
        tokio::time::sleep(Duration::from_millis(1000 + seed * 137 % 500)).await;
        let lost = Instant::now();
        match loss {
            Loss::Killed => cluster.kill(NodeId(2)),
            Loss::Frozen => cluster.network.isolate(NodeId(2)),
        }
        let all = devices.iter().enumerate();
        let back = join_all(all.map(|(number, device)| back_in_service(&cluster, device, number, lost))).await;
        let mut times: Vec<Duration> = back.iter().map(|(_, time)| *time).collect();
        if std::env::var_os("HOLDFAST_SHOW").is_some() {
            for (device, time) in devices.iter().zip(&times) {
                println!("{device} of partition {}: {time:?}", partition_of(device).0);
            }
        }
        times.sort_unstable();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{loss:?}, leads the registry: {leads_registry}: median {median:?}, worst {worst:?}");
        if let Loss::Frozen = loss {
            // It continues, and nothing of it is stored behind what the new sessions have sent.
            cluster.network.heal_all();
            tokio::time::sleep(5 * SECOND).await;
            for device in &devices {
                assert_eq!(cluster.events(NodeId(1), device).await, [0, 1], "{device}");
            }
            assert!(old.iter().all(|client| client.closed().is_some()));
        }
        (median, worst)
    })
}

#[test]
fn devices_of_a_lost_gateway_have_service_elsewhere_soon() {
    for loss in [Loss::Killed, Loss::Frozen] {
        for (seed, leads_registry) in [(1, false), (2, false), (3, true), (4, true)] {
            let (median, worst) = measure(loss, leads_registry, seed);
            assert!(
                median <= MEDIAN && worst <= WORST,
                "{loss:?}, leads the registry: {leads_registry}: median {median:?}, worst {worst:?}"
            );
        }
    }
}
