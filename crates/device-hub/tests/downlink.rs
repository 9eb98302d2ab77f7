//! Deliveries from the owner of a partition to devices on three nodes over a simulated network: in order, within credit,
//! each with one outcome, and never to a session that has been superseded.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::time::Duration;

use holdfast_device_hub::{
    Delivery, DeliveryError, DeliveryKind, DeliveryOutcome, OnSessionChange, PendingDelivery, Settlement,
};
use holdfast_model::NodeId;
use holdfast_simulation::{Client, Cluster, SECOND, identity, partition_of, simulate};
use holdfast_testkit::eventually;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;

const ENOUGH: u32 = 1_000_000;

fn delivery(number: u64, on_session_change: OnSessionChange) -> Delivery {
    Delivery {
        kind: DeliveryKind::CloudToDevice,
        on_session_change,
        head: "".into(),
        body: number.to_string().into(),
        trace: None,
    }
}

fn deliver(cluster: &Cluster, owner: NodeId, device: &str, number: u64) -> PendingDelivery {
    let delivery = delivery(number, OnSessionChange::Redeliver);
    cluster.hub(owner).deliver_here(&identity(device), delivery).unwrap()
}

async fn until_delivered(client: &Client, count: usize) {
    eventually("deliveries", || client.delivered().len() >= count).await;
}

async fn owned_device(cluster: &Cluster, device: &str, owner: NodeId) {
    cluster.create(device).await;
    cluster.owned_by(device, owner).await;
}

#[test]
fn deliveries_arrive_in_order_within_the_credit_and_are_settled() {
    simulate(async {
        let cluster = Cluster::start(51).await;
        owned_device(&cluster, "d", NodeId(1)).await;
        // On another node than the owner, and on the owner itself.
        for gateway in [2, 1] {
            let mut client = cluster.connect(NodeId(gateway), 0, "d").await.unwrap();
            let pending: Vec<PendingDelivery> = (0..64)
                .map(|number| deliver(&cluster, NodeId(1), "d", number))
                .collect();
            let beyond = cluster
                .hub(NodeId(1))
                .deliver_here(&identity("d"), delivery(64, OnSessionChange::Return));
            assert!(
                matches!(beyond, Err(DeliveryError::QueueFull { messages: 64, .. })),
                "{beyond:?}"
            );
            tokio::time::sleep(SECOND).await;
            assert!(client.delivered().is_empty(), "no credit, no delivery");
            client.grant_deliveries(10, ENOUGH);
            until_delivered(&client, 10).await;
            tokio::time::sleep(SECOND).await;
            assert_eq!(
                client.delivered(),
                (0..10).collect::<Vec<_>>(),
                "no more than was granted"
            );
            // A window of bytes takes one delivery more than fits.
            client.grant_deliveries(54, 1);
            until_delivered(&client, 64).await;
            assert_eq!(client.delivered(), (0..64).collect::<Vec<_>>());
            for number in 0..64 {
                let settlement = if number == 7 {
                    Settlement::Rejected
                } else {
                    Settlement::Accepted
                };
                client.settle_delivery(number, settlement);
            }
            for (number, pending) in (0..).zip(pending) {
                let settlement = if number == 7 {
                    Settlement::Rejected
                } else {
                    Settlement::Accepted
                };
                assert_eq!(pending.outcome().await, DeliveryOutcome::Settled(settlement));
            }
            client.disconnect();
            tokio::time::sleep(SECOND).await;
            let gone = cluster
                .hub(NodeId(1))
                .deliver_here(&identity("d"), delivery(0, OnSessionChange::Return));
            assert!(matches!(gone, Err(DeliveryError::NotConnected)));
            let elsewhere = cluster
                .hub(NodeId(3))
                .deliver_here(&identity("d"), delivery(0, OnSessionChange::Return));
            assert!(matches!(elsewhere, Err(DeliveryError::NoOwner)));
        }
    });
}

#[test]
fn a_device_that_takes_nothing_delays_no_other_one() {
    simulate(async {
        let cluster = Cluster::start(52).await;
        let partitions = cluster.hub(NodeId(1)).partitions().count();
        let slow = "d0".to_owned();
        let of = |device: &str| partitions.partition_of(&identity(device).device);
        let other = (1..)
            .map(|number| format!("d{number}"))
            .find(|device| of(device) == of(&slow));
        let other = other.unwrap();
        owned_device(&cluster, &slow, NodeId(1)).await;
        owned_device(&cluster, &other, NodeId(1)).await;
        let stuck = cluster.connect(NodeId(2), 0, &slow).await.unwrap();
        stuck.grant_deliveries(1, ENOUGH);
        let fast = cluster.connect(NodeId(2), 0, &other).await.unwrap();
        fast.grant_deliveries(1000, ENOUGH);
        for number in 0..60 {
            deliver(&cluster, NodeId(1), &slow, number);
            deliver(&cluster, NodeId(1), &other, number);
        }
        let began = tokio::time::Instant::now();
        until_delivered(&fast, 60).await;
        assert!(began.elapsed() < SECOND / 10, "{:?}", began.elapsed());
        assert_eq!(fast.delivered(), (0..60).collect::<Vec<_>>());
        assert_eq!(stuck.delivered(), [0]);
    });
}

#[test]
fn a_newer_session_takes_over_the_queue_and_the_older_one_gets_nothing_more() {
    simulate(async {
        let cluster = Cluster::start(53).await;
        owned_device(&cluster, "d", NodeId(1)).await;
        let old = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        old.grant_deliveries(3, ENOUGH);
        let hub = cluster.hub(NodeId(1));
        let redeliver: Vec<PendingDelivery> = (0..3).map(|number| deliver(&cluster, NodeId(1), "d", number)).collect();
        until_delivered(&old, 3).await;
        old.settle_delivery(0, Settlement::Accepted);
        let returned = hub
            .deliver_here(&identity("d"), delivery(3, OnSessionChange::Return))
            .unwrap();
        let last = deliver(&cluster, NodeId(1), "d", 4);
        tokio::time::sleep(SECOND).await;
        let new = cluster.connect(NodeId(3), 0, "d").await.unwrap();
        assert_eq!(returned.outcome().await, DeliveryOutcome::NotDelivered);
        new.grant_deliveries(10, ENOUGH);
        until_delivered(&new, 3).await;
        assert_eq!(new.delivered(), [1, 2, 4], "unsettled ones again, in order");
        for number in [1, 2, 4] {
            new.settle_delivery(number, Settlement::Accepted);
        }
        for pending in redeliver.into_iter().chain([last]) {
            assert_eq!(pending.outcome().await, DeliveryOutcome::Settled(Settlement::Accepted));
        }
        assert_eq!(old.delivered(), [0, 1, 2]);
        assert!(old.delivered_after_close().is_empty());
    });
}

#[test]
fn nothing_reaches_a_session_on_a_cut_off_gateway_that_has_been_superseded() {
    simulate(async {
        let cluster = Cluster::start(54).await;
        owned_device(&cluster, "d", NodeId(1)).await;
        let old = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        old.grant_deliveries(100, ENOUGH);
        deliver(&cluster, NodeId(1), "d", 0);
        until_delivered(&old, 1).await;
        // Calls are in flight to the gateway, and arrive late, when the new session has begun.
        cluster.network.set_delay(4 * SECOND..=5 * SECOND);
        for number in 1..5 {
            deliver(&cluster, NodeId(1), "d", number);
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        cluster
            .network
            .set_delay(Duration::from_micros(100)..=Duration::from_micros(500));
        cluster.network.isolate(NodeId(2));
        let new = cluster.connect(NodeId(3), 0, "d").await.unwrap();
        new.grant_deliveries(100, ENOUGH);
        until_delivered(&new, 5).await;
        cluster.network.heal_all();
        old.until_closed().await;
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(old.delivered(), [0]);
        assert!(old.delivered_after_close().is_empty());
        assert_eq!(new.delivered(), (0..5).collect::<Vec<_>>());
    });
}

#[test]
fn credit_and_connection_stay_when_the_owner_changes() {
    simulate(async {
        let cluster = Cluster::start(55).await;
        owned_device(&cluster, "d", NodeId(1)).await;
        let client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        client.grant_deliveries(5, ENOUGH);
        let first = deliver(&cluster, NodeId(1), "d", 0);
        let waiting: Vec<PendingDelivery> = (1..7).map(|number| deliver(&cluster, NodeId(1), "d", number)).collect();
        until_delivered(&client, 5).await;
        client.settle_delivery(0, Settlement::Accepted);
        assert_eq!(first.outcome().await, DeliveryOutcome::Settled(Settlement::Accepted));
        cluster.owned_by("d", NodeId(3)).await;
        tokio::time::sleep(SECOND).await;
        // The queue was the memory of the owner: its callers learn what is certain about each.
        for (number, pending) in (1..).zip(waiting) {
            let expected = if number < 5 {
                DeliveryOutcome::Unknown
            } else {
                DeliveryOutcome::NotDelivered
            };
            assert_eq!(pending.outcome().await, expected, "{number}");
        }
        let pending = deliver(&cluster, NodeId(3), "d", 10);
        tokio::time::sleep(SECOND).await;
        assert_eq!(
            client.delivered().len(),
            5,
            "the credit was used up with the owner before"
        );
        client.grant_deliveries(1, ENOUGH);
        until_delivered(&client, 6).await;
        client.settle_delivery(10, Settlement::Released);
        assert_eq!(pending.outcome().await, DeliveryOutcome::Settled(Settlement::Released));
        assert_eq!(client.closed(), None);
    });
}

#[test]
fn credit_that_is_granted_while_a_link_is_being_opened_reaches_the_owner() {
    simulate(async {
        let cluster = Cluster::start(60).await;
        owned_device(&cluster, "d", NodeId(1)).await;
        let client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        let id = partition_of("d");
        // The gateway's report of its sessions is on its way to the next owner for a while.
        cluster
            .network
            .set_delay(Duration::from_millis(20)..=Duration::from_millis(20));
        let replica = cluster.nodes[&NodeId(1)].partitions.local(id).unwrap();
        let transfer = async move { replica.group().transfer_leader(NodeId(3)).await.unwrap() };
        let transfer = tokio::task::spawn_local(transfer);
        let knows = || {
            cluster.nodes[&NodeId(2)]
                .partitions
                .owner(id)
                .is_some_and(|owner| owner.node == NodeId(3))
        };
        eventually("the next owner", knows).await;
        client.grant_deliveries(1, ENOUGH);
        transfer.await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
        deliver(&cluster, NodeId(3), "d", 0);
        until_delivered(&client, 1).await;
    });
}

#[test]
fn lost_calls_and_answers_double_nothing_and_keep_the_order() {
    simulate(async {
        let cluster = Cluster::start(56).await;
        owned_device(&cluster, "d", NodeId(1)).await;
        let client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        client.grant_deliveries(1000, ENOUGH);
        tokio::time::sleep(SECOND).await;
        cluster.network.set_loss(0.05);
        let mut pending = Vec::new();
        for number in 0..60 {
            pending.push(deliver(&cluster, NodeId(1), "d", number));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until_delivered(&client, 60).await;
        for number in 0..60 {
            client.settle_delivery(number, Settlement::Accepted);
        }
        cluster.network.set_loss(0.0);
        for one in pending {
            assert_eq!(one.outcome().await, DeliveryOutcome::Settled(Settlement::Accepted));
        }
        assert_eq!(client.delivered(), (0..60).collect::<Vec<_>>());
    });
}

#[test]
fn the_end_of_a_session_hands_every_delivery_back() {
    simulate(async {
        let cluster = Cluster::start(57).await;
        owned_device(&cluster, "d", NodeId(1)).await;
        let mut client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        client.grant_deliveries(1, ENOUGH);
        let (sent, queued) = (
            deliver(&cluster, NodeId(1), "d", 0),
            deliver(&cluster, NodeId(1), "d", 1),
        );
        until_delivered(&client, 1).await;
        tokio::time::sleep(SECOND).await;
        client.disconnect();
        assert_eq!(sent.outcome().await, DeliveryOutcome::Unknown);
        assert_eq!(queued.outcome().await, DeliveryOutcome::NotDelivered);
    });
}

fn deliver_from(
    cluster: &Cluster,
    node: NodeId,
    number: u64,
    timeout: Duration,
) -> JoinHandle<Result<DeliveryOutcome, DeliveryError>> {
    let (hub, delivery) = (cluster.hub(node).clone(), delivery(number, OnSessionChange::Return));
    let send = async move { hub.deliver(&identity("d"), delivery, timeout).await };
    tokio::task::spawn_local(send)
}

#[test]
fn any_node_delivers_and_learns_what_is_certain() {
    simulate(async {
        let mut cluster = Cluster::start(58).await;
        owned_device(&cluster, "d", NodeId(1)).await;
        let client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        client.grant_deliveries(3, ENOUGH);
        for (node, number) in [(1, 0), (2, 1), (3, 2)] {
            let sent = deliver_from(&cluster, NodeId(node), number, 10 * SECOND);
            until_delivered(&client, usize::try_from(number).unwrap() + 1).await;
            client.settle_delivery(number, Settlement::Rejected);
            let rejected = Ok(DeliveryOutcome::Settled(Settlement::Rejected));
            assert_eq!(sent.await.unwrap(), rejected, "from {node}");
        }
        // The credit is used up: it stays in the owner's queue.
        let unsettled = deliver_from(&cluster, NodeId(3), 3, SECOND).await.unwrap();
        assert_eq!(unsettled, Err(DeliveryError::Unsettled));
        client.grant_deliveries(1, ENOUGH);
        until_delivered(&client, 4).await;
        client.settle_delivery(3, Settlement::Accepted);
        // The owner does not answer, and no other one comes.
        let unknown = deliver_from(&cluster, NodeId(3), 4, SECOND);
        cluster.network.cut(NodeId(1), NodeId(3));
        assert_eq!(unknown.await.unwrap(), Err(DeliveryError::Unknown));
        cluster.network.heal_all();
        // Another owner takes over while the caller tries the earlier one, which does not run any more.
        cluster.kill(NodeId(1));
        let sent = deliver_from(&cluster, NodeId(3), 5, 30 * SECOND);
        client.grant_deliveries(5, ENOUGH);
        eventually("the delivery", || client.delivered().contains(&5)).await;
        client.settle_delivery(5, Settlement::Accepted);
        assert_eq!(sent.await.unwrap(), Ok(DeliveryOutcome::Settled(Settlement::Accepted)));
        let mut client = client;
        client.disconnect();
        tokio::time::sleep(SECOND).await;
        let not_connected = deliver_from(&cluster, NodeId(3), 6, SECOND).await.unwrap();
        assert_eq!(not_connected, Err(DeliveryError::NotConnected));
    });
}

#[test]
fn a_delivery_that_reaches_no_owner_is_certainly_not_queued() {
    simulate(async {
        let mut cluster = Cluster::start(59).await;
        owned_device(&cluster, "d", NodeId(1)).await;
        cluster.kill(NodeId(1));
        cluster.kill(NodeId(2));
        let began = tokio::time::Instant::now();
        let no_owner = deliver_from(&cluster, NodeId(3), 0, SECOND).await.unwrap();
        assert_eq!(no_owner, Err(DeliveryError::NoOwner));
        assert!(began.elapsed() <= 2 * SECOND, "{:?}", began.elapsed());
    });
}

/// Takes the deliveries of `device` at whichever node owns its partition; `None` while no node takes them.
fn try_deliver(cluster: &Cluster, device: &str, number: u64) -> Option<PendingDelivery> {
    let hubs = cluster.nodes.keys().map(|node| cluster.hub(*node));
    let mut taken = hubs.filter_map(|hub| {
        let delivery = delivery(number, OnSessionChange::Redeliver);
        hub.deliver_here(&identity(device), delivery).ok()
    });
    taken.next()
}

/// Random faults, moves of the device and of the ownership, while deliveries are sent and settled.
async fn run_of_faults(seed: u64) {
    let cluster = Cluster::start(seed).await;
    owned_device(&cluster, "d", NodeId(1)).await;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut sessions: Vec<Client> = Vec::new();
    let mut pending = Vec::new();
    let mut number = 0;
    for _ in 0..40 {
        match rng.random_range(0..10) {
            0..=1 => {
                let node = rng.random_range(1..=3);
                let connecting = cluster.connect(NodeId(node), 0, "d");
                if let Ok(Ok(client)) = tokio::time::timeout(6 * SECOND, connecting).await {
                    client.grant_deliveries(8, ENOUGH);
                    sessions.push(client);
                }
            }
            2..=5 => {
                for _ in 0..rng.random_range(1..8) {
                    pending.extend(try_deliver(&cluster, "d", number).map(|one| (number, one)));
                    number += 1;
                }
            }
            6 => {
                if let Some(client) = sessions.last() {
                    for delivered in client.delivered() {
                        client.settle_delivery(delivered, Settlement::Accepted);
                    }
                    client.grant_deliveries(8, ENOUGH);
                }
            }
            7 => cluster.network.isolate(NodeId(rng.random_range(1..=3))),
            8 => cluster.network.heal_all(),
            _ => {
                cluster.network.heal_all();
                let (id, to) = (partition_of("d"), rng.random_range(1..=3));
                let mut replicas = cluster.nodes.values().filter_map(|node| node.partitions.local(id));
                if let Some(owner) = replicas.find(|replica| replica.is_owner()) {
                    // A transfer right after a fault may fail.
                    let transfer = owner.group().transfer_leader(NodeId(to));
                    let _ = tokio::time::timeout(5 * SECOND, transfer).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..1500))).await;
    }
    cluster.network.heal_all();
    let last = cluster.connect(NodeId(1), 0, "d").await;
    tokio::time::sleep(5 * SECOND).await;
    sessions.extend(last.ok());
    for (index, client) in sessions.iter().enumerate() {
        let delivered = client.delivered();
        assert!(
            delivered.is_sorted_by(|a, b| a < b),
            "seed {seed}: {delivered:?}: in order, each once"
        );
        assert!(client.delivered_after_close().is_empty(), "seed {seed}");
        if let Some(next) = sessions.get(index + 1) {
            let late = client.delivered_after(next.up);
            assert!(late.is_empty(), "seed {seed}: {late:?} reached a superseded session");
        }
    }
    // The last session settles nothing: its end decides the rest, so that every delivery has an outcome.
    for client in &mut sessions {
        client.disconnect();
    }
    for (number, one) in pending {
        let outcome = tokio::time::timeout(60 * SECOND, one.outcome()).await.unwrap();
        let was_delivered = || sessions.iter().any(|client| client.delivered().contains(&number));
        assert!(
            !matches!(outcome, DeliveryOutcome::Settled(_)) || was_delivered(),
            "seed {seed}: {number} was settled and never delivered"
        );
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how many seeds is the caller's choice")]
fn random_faults_neither_double_nor_reorder_deliveries_nor_reach_superseded_sessions() {
    let seeds = std::env::var("HOLDFAST_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    for seed in 1000..1000 + seeds.unwrap_or(5_u64) {
        simulate(run_of_faults(seed));
    }
}
