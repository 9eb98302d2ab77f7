//! Sessions across three nodes on a simulated network: one live session per identity, messages in order and stored
//! once, under every failure of owners and gateways.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::time::Duration;

use holdfast_device_hub::{CloseReason, OfferedKind};
use holdfast_model::{NodeId, RefusalReason};
use holdfast_registry::{IdentityContent, IdentityWrite, IfMatch, Status, WriteOperation};
use holdfast_simulation::{Client, Cluster, SECOND, identity, partition_of, simulate};
use holdfast_testkit::eventually;
use tokio::time::Instant;

#[test]
fn a_device_may_connect_to_any_node_and_every_node_reports_it() {
    simulate(async {
        let cluster = Cluster::start(1).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(1)).await;
        let mut client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        for number in 0..200 {
            client.send(number);
            if number % 7 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        client.until_acked(200).await;
        assert_eq!(client.acked(), (0..200).collect::<Vec<_>>());
        assert_eq!(cluster.events(NodeId(3), "d").await, (0..200).collect::<Vec<_>>());
        for node in [1, 2, 3] {
            assert!(
                cluster
                    .hub(NodeId(node))
                    .connection_state(&identity("d"))
                    .await
                    .is_connected
            );
            assert_eq!(
                cluster.hub(NodeId(node)).connected_device_count().await,
                1,
                "node {node}"
            );
            let diagnosis = cluster.hub(NodeId(node)).diagnose(&identity("d")).await;
            assert_eq!(diagnosis.session.unwrap().gateway, NodeId(2));
        }
        client.disconnect();
        tokio::time::sleep(SECOND).await;
        for node in [1, 2, 3] {
            let facts = cluster.hub(NodeId(node)).connection_state(&identity("d")).await;
            assert!(!facts.is_connected && facts.updated.is_some(), "node {node}: {facts:?}");
            assert_eq!(cluster.hub(NodeId(node)).connected_device_count().await, 0);
        }
    });
}

#[test]
fn messages_of_a_newer_connection_on_another_node_follow_those_of_the_older_one() {
    simulate(async {
        let cluster = Cluster::start(2).await;
        cluster.create("d").await;
        for owner in [1, 2, 3] {
            cluster.owned_by("d", NodeId(owner)).await;
            let before = cluster.events(NodeId(owner), "d").await.len() as u64;
            let first = cluster.connect(NodeId(2), 0, "d").await.unwrap();
            for number in before..before + 10 {
                first.send(number);
            }
            let second = cluster.connect(NodeId(3), 1, "d").await.unwrap();
            assert_eq!(first.closed(), Some(CloseReason::TakenOver));
            second.send(before + 10);
            second.until_acked(1).await;
            assert_eq!(
                cluster.events(NodeId(1), "d").await,
                (0..=before + 10).collect::<Vec<_>>()
            );
            // The end of the older connection does not end the newer session.
            let mut first = first;
            first.disconnect();
            tokio::time::sleep(SECOND).await;
            assert_eq!(second.closed(), None);
            assert_eq!(cluster.hub(NodeId(1)).connected_device_count().await, 1);
            let mut second = second;
            second.disconnect();
        }
    });
}

#[test]
fn a_device_moves_while_its_gateway_is_cut_off_and_no_message_of_the_old_session_follows() {
    simulate(async {
        let cluster = Cluster::start(3).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(1)).await;
        let old = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        old.send(0);
        old.until_acked(1).await;
        cluster.network.isolate(NodeId(2));
        for number in 1..4 {
            old.send(number);
        }
        let asked = Instant::now();
        let new = cluster.connect(NodeId(3), 0, "d").await.unwrap();
        assert!(asked.elapsed() < 4 * SECOND, "{:?}", asked.elapsed());
        // The three were not acknowledged: the device sends them again.
        for number in 1..6 {
            new.send(number);
        }
        new.until_acked(5).await;
        assert_eq!(old.closed(), None, "its gateway cannot know of the newer session");
        cluster.network.heal_all();
        assert_eq!(old.until_closed().await, CloseReason::TakenOver);
        tokio::time::sleep(5 * SECOND).await;
        assert_eq!(old.acked(), [0]);
        assert_eq!(cluster.events(NodeId(1), "d").await, (0..6).collect::<Vec<_>>());
        assert_eq!(new.closed(), None);
    });
}

/// A session of "d" on node 2, which is cut off with messages of it in flight. Its successor on node 3 has sent all of them
/// and more, and has ended. Node 1 is the owner.
async fn left_behind(cluster: &Cluster) -> Client {
    cluster.create("d").await;
    cluster.owned_by("d", NodeId(1)).await;
    let old = cluster.connect(NodeId(2), 0, "d").await.unwrap();
    old.send(0);
    old.until_acked(1).await;
    cluster.network.isolate(NodeId(2));
    // In flight on the node that is cut off.
    for number in 1..6 {
        old.send(number);
    }
    let mut new = cluster.connect(NodeId(3), 0, "d").await.unwrap();
    for number in 1..9 {
        new.send(number);
    }
    new.until_acked(8).await;
    new.disconnect();
    while cluster
        .hub(NodeId(1))
        .connection_state(&identity("d"))
        .await
        .is_connected
    {
        tokio::time::sleep(SECOND / 10).await;
    }
    old
}

#[test]
fn no_message_follows_when_the_successor_has_ended_before_the_gateway_is_back() {
    simulate(async {
        let cluster = Cluster::start(23).await;
        let old = left_behind(&cluster).await;
        cluster.network.heal_all();
        assert_eq!(old.until_closed().await, CloseReason::TakenOver);
        assert_eq!(old.acked(), [0]);
        let last = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        last.send(9);
        last.until_acked(1).await;
        assert_eq!(cluster.events(NodeId(1), "d").await, (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn no_message_follows_a_successor_that_began_and_ended_under_an_earlier_owner() {
    simulate(async {
        let cluster = Cluster::start(24).await;
        let old = left_behind(&cluster).await;
        // The next owner has never heard of the newer session.
        let partition = partition_of("d");
        let replica = |node: NodeId| cluster.nodes[&node].partitions.local(partition).unwrap();
        replica(NodeId(1)).group().transfer_leader(NodeId(3)).await.unwrap();
        eventually("the transfer", || replica(NodeId(3)).is_owner()).await;
        tokio::time::sleep(3 * SECOND).await;
        cluster.network.heal_all();
        assert_eq!(old.until_closed().await, CloseReason::TakenOver);
        assert_eq!(old.acked(), [0]);
        // Afterwards the gateway is like any other: the next owner takes over its sessions.
        let last = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        last.send(9);
        last.until_acked(1).await;
        cluster.owned_by("d", NodeId(1)).await;
        last.send(10);
        last.until_acked(2).await;
        assert_eq!(last.closed(), None);
        assert_eq!(cluster.events(NodeId(1), "d").await, (0..11).collect::<Vec<_>>());
    });
}

#[test]
fn the_death_of_the_owner_closes_no_session_and_everything_is_stored_once() {
    simulate(async {
        let mut cluster = Cluster::start(4).await;
        cluster.create("d").await;
        cluster.create("e").await;
        cluster.owned_by("d", NodeId(1)).await;
        cluster.owned_by("e", NodeId(1)).await;
        let clients = [
            (cluster.connect(NodeId(2), 0, "d").await.unwrap(), "d"),
            (cluster.connect(NodeId(3), 1, "e").await.unwrap(), "e"),
        ];
        for number in 0..40 {
            for (client, _) in &clients {
                client.send(number);
            }
            if number == 20 {
                cluster.kill(NodeId(1));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let killed = Instant::now();
        for (client, device) in &clients {
            client.until_acked(40).await;
            assert_eq!(client.closed(), None);
            assert_eq!(client.acked(), (0..40).collect::<Vec<_>>());
            assert_eq!(cluster.events(NodeId(2), device).await, (0..40).collect::<Vec<_>>());
        }
        assert!(killed.elapsed() < 4 * SECOND, "{:?}", killed.elapsed());
        assert_eq!(cluster.hub(NodeId(2)).connected_device_count().await, 2);
    });
}

#[test]
fn a_transfer_of_leadership_closes_no_session() {
    simulate(async {
        let cluster = Cluster::start(5).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(1)).await;
        let client = cluster.connect(NodeId(1), 0, "d").await.unwrap();
        let mut number = 0;
        for owner in [2, 3, 1, 2] {
            for _ in 0..10 {
                client.send(number);
                number += 1;
            }
            let began = Instant::now();
            cluster.owned_by("d", NodeId(owner)).await;
            client.until_acked(usize::try_from(number).unwrap()).await;
            assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
        }
        assert_eq!(client.closed(), None);
        assert_eq!(cluster.events(NodeId(3), "d").await, (0..number).collect::<Vec<_>>());
        // A session that was carried over is still the older one.
        let second = cluster.connect(NodeId(3), 0, "d").await.unwrap();
        assert_eq!(client.closed(), Some(CloseReason::TakenOver));
        drop(second);
    });
}

#[test]
fn a_revocation_closes_the_session_on_another_node_within_a_second() {
    simulate(async {
        let cluster = Cluster::start(6).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(1)).await;
        let client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        let content = IdentityContent {
            status: Status::Disabled,
            ..IdentityContent::default()
        };
        let write = IdentityWrite {
            id: identity("d"),
            operation: WriteOperation::Update(IfMatch::Any, content),
        };
        cluster.nodes[&NodeId(3)].registry.write(write).await.unwrap();
        let committed = Instant::now();
        assert_eq!(client.until_closed().await, CloseReason::Revoked);
        assert!(committed.elapsed() < SECOND);
        let refusal = cluster.connect(NodeId(2), 0, "d").await.unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::Disabled);
        for node in [1, 3] {
            assert_eq!(
                cluster.hub(NodeId(node)).diagnose(&identity("d")).await.refusals.len(),
                1
            );
        }
    });
}

#[test]
fn an_attempt_that_one_node_refused_is_shown_by_another_and_a_dead_node_is_named() {
    simulate(async {
        let mut cluster = Cluster::start(12).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(2)).await;
        // An id that does not exist, and one that does, with a good connection before.
        cluster.create("ghost").await;
        cluster.delete("ghost").await;
        let refusal = cluster.connect(NodeId(1), 0, "ghost").await.unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::UnknownIdentity);
        let mut client = cluster.connect(NodeId(1), 0, "d").await.unwrap();
        let diagnosis = cluster.hub(NodeId(2)).diagnose(&identity("d")).await;
        assert!(diagnosis.session.unwrap().address.is_some());
        client.disconnect();
        for node in [1, 2, 3] {
            let diagnosis = cluster.hub(NodeId(node)).diagnose(&identity("ghost")).await;
            let refusal = &diagnosis.refusals[0];
            assert_eq!(
                (refusal.node, refusal.reason),
                (Some(NodeId(1)), RefusalReason::UnknownIdentity)
            );
            let offered = refusal.offered.as_ref().unwrap();
            assert_eq!(offered.kind, OfferedKind::Token);
            assert!(offered.audience.as_ref().unwrap().ends_with("ghost"), "{offered:?}");
            assert!(diagnosis.nodes.len() == 3 && diagnosis.nodes.iter().all(|node| node.fault.is_none()));
        }
        let left = async || {
            let diagnosis = cluster.hub(NodeId(3)).diagnose(&identity("d")).await;
            diagnosis.session.is_none().then_some(diagnosis)
        };
        let diagnosis = loop {
            match left().await {
                Some(diagnosis) => break diagnosis,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        assert_eq!(diagnosis.last.unwrap().gateway, NodeId(1));

        cluster.kill(NodeId(1));
        let diagnosis = cluster.hub(NodeId(3)).diagnose(&identity("ghost")).await;
        let silent: Vec<NodeId> = diagnosis
            .nodes
            .iter()
            .filter(|node| node.fault.is_some())
            .map(|node| node.node)
            .collect();
        assert_eq!(silent, [NodeId(1)]);
    });
}

#[test]
fn a_node_without_lease_refuses_devices_and_closes_its_sessions_after_the_grace() {
    simulate(async {
        let cluster = Cluster::start(7).await;
        for device in ["d", "e", "f"] {
            cluster.create(device).await;
            cluster.owned_by(device, NodeId(1)).await;
        }
        let client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        let other = cluster.connect(NodeId(2), 1, "e").await.unwrap();
        cluster.network.isolate(NodeId(2));
        let cut = Instant::now();
        eventually("the end of the lease", || {
            !cluster.nodes[&NodeId(2)].registry.in_lease()
        })
        .await;
        let asked = Instant::now();
        let refusal = cluster.connect(NodeId(2), 0, "f").await.unwrap_err();
        assert_eq!(
            (refusal.reason, refusal.is_certain()),
            (RefusalReason::Unconfirmed, false)
        );
        assert!(asked.elapsed() <= 6 * SECOND);
        client.send(1);
        assert_eq!(client.until_closed().await, CloseReason::Unavailable);
        assert_eq!(other.until_closed().await, CloseReason::Unavailable);
        assert!(
            cut.elapsed() >= 30 * SECOND && cut.elapsed() < 33 * SECOND,
            "{:?}",
            cut.elapsed()
        );
        assert!(client.acked().is_empty());
        // The owner has forgotten them as well.
        eventually("the owner forgets", || {
            cluster.hub(NodeId(1)).local_session_count() == 0
        })
        .await;
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(cluster.hub(NodeId(1)).connected_device_count().await, 0);
        cluster.network.heal_all();
        cluster.settled().await;
        assert!(cluster.connect(NodeId(2), 0, "f").await.is_ok());
    });
}

#[test]
fn sessions_of_a_dead_gateway_end_when_it_comes_back_or_after_the_grace() {
    simulate(async {
        let mut cluster = Cluster::start(8).await;
        cluster.create("d").await;
        cluster.create("e").await;
        cluster.owned_by("d", NodeId(1)).await;
        cluster.owned_by("e", NodeId(1)).await;
        for comes_back in [true, false] {
            let client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
            let staying = cluster.connect(NodeId(3), 0, "e").await.unwrap();
            assert_eq!(cluster.hub(NodeId(1)).connected_device_count().await, 2);
            cluster.kill(NodeId(2));
            drop(client);
            let killed = Instant::now();
            if comes_back {
                cluster.start_node(NodeId(2)).await;
                cluster.settled().await;
            }
            while cluster.hub(NodeId(1)).connected_device_count().await == 2 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let bound = if comes_back { 10 } else { 32 };
            assert!(killed.elapsed() < bound * SECOND, "{:?}", killed.elapsed());
            assert!(comes_back || killed.elapsed() > 25 * SECOND);
            assert_eq!(staying.closed(), None);
            let mut staying = staying;
            staying.disconnect();
        }
    });
}

#[test]
fn a_connect_without_an_owner_waits_and_is_never_called_unauthorized() {
    simulate(async {
        let mut cluster = Cluster::start(9).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(1)).await;
        cluster.kill(NodeId(1));
        let asked = Instant::now();
        let client = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        assert!(asked.elapsed() < 5 * SECOND, "{:?}", asked.elapsed());
        client.send(0);
        client.until_acked(1).await;
        // Without a quorum no owner is confirmed and no lease is granted.
        cluster.kill(NodeId(3));
        tokio::time::sleep(3 * SECOND).await;
        let asked = Instant::now();
        let refusal = cluster.connect(NodeId(2), 1, "d").await.unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::Unconfirmed);
        assert!(asked.elapsed() < 11 * SECOND, "{:?}", asked.elapsed());
    });
}

#[test]
fn a_connection_that_ends_before_its_session_begins_leaves_nothing_behind() {
    simulate(async {
        let cluster = Cluster::start(10).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(1)).await;
        cluster
            .network
            .set_delay(Duration::from_millis(50)..=Duration::from_millis(60));
        for delay in [1, 40, 60, 105, 115, 130] {
            let connecting = cluster.connecting(NodeId(2), 0, "d");
            tokio::time::sleep(Duration::from_millis(delay)).await;
            if connecting.is_finished() {
                let mut client = connecting.await.unwrap().unwrap();
                client.disconnect();
            } else {
                connecting.abort();
            }
            tokio::time::sleep(2 * SECOND).await;
            assert_eq!(
                cluster.hub(NodeId(1)).connected_device_count().await,
                0,
                "after {delay} ms"
            );
            assert_eq!(cluster.hub(NodeId(2)).local_session_count(), 0);
        }
    });
}

#[test]
fn a_drain_spreads_reconnecting_devices_over_all_owners() {
    simulate(async {
        let cluster = Cluster::start(31).await;
        let mut clients = Vec::new();
        for number in 0..80 {
            let device = format!("d{number}");
            cluster.create(&device).await;
            clients.push((
                device.clone(),
                cluster.connect(NodeId(2), number % 2, &device).await.unwrap(),
            ));
        }
        let partitions = cluster.hub(NodeId(2)).partitions().count();
        let closing = cluster.hub(NodeId(2)).close_paced(20, CloseReason::Stopping);
        let _ = tokio::time::timeout(SECOND, closing).await;
        let closed = clients.iter().filter(|(_, client)| client.closed().is_some());
        let of: std::collections::BTreeSet<u16> = closed
            .map(|(device, _)| partitions.partition_of(&identity(device).device).0)
            .collect();
        assert_eq!(
            of.len(),
            partitions.iter().count(),
            "a quarter of the devices, of all partitions"
        );
    });
}

#[test]
fn a_node_that_is_kept_empty_refuses_devices_until_it_is_back_in_service() {
    simulate(async {
        let cluster = Cluster::start(32).await;
        for device in ["old", "new"] {
            cluster.create(device).await;
        }
        let mut old = cluster.connect(NodeId(2), 0, "old").await.unwrap();
        let hub = cluster.hub(NodeId(2)).clone();
        let keeping = holdfast_tasks::spawn("keep-empty", async move { hub.keep_empty(100).await });
        assert_eq!(old.until_closed().await, CloseReason::Stopping);
        old.disconnect();
        let refusal = cluster.connect(NodeId(2), 0, "new").await.err().unwrap();
        assert_eq!((refusal.reason, refusal.is_certain()), (RefusalReason::Draining, false));
        assert!(
            cluster.connect(NodeId(3), 0, "new").await.is_ok(),
            "another node takes it"
        );
        assert_eq!(cluster.hub(NodeId(2)).local_session_count(), 0);
        keeping.abort();
        assert!(keeping.await.is_err_and(|error| error.is_cancelled()));
        assert!(cluster.connect(NodeId(2), 0, "old").await.is_ok());
    });
}

#[test]
fn a_node_with_little_time_to_stop_closes_its_sessions_evenly_within_it() {
    simulate(async {
        let cluster = Cluster::start(33).await;
        let mut clients = Vec::new();
        for number in 0..90 {
            let device = format!("d{number}");
            cluster.create(&device).await;
            clients.push(cluster.connect(NodeId(2), 0, &device).await.unwrap());
        }
        let hub = cluster.hub(NodeId(2));
        assert_eq!(hub.pace_within(1000, 10 * SECOND), 1000);
        assert_eq!(hub.pace_within(1, 10 * SECOND), 10);
        assert_eq!(hub.pace_within(1, Duration::ZERO), 90_000);
    });
}

#[test]
fn a_drain_closes_sessions_at_its_rate() {
    simulate(async {
        let cluster = Cluster::start(11).await;
        let mut clients = Vec::new();
        for number in 0..40 {
            let device = format!("d{number}");
            cluster.create(&device).await;
            clients.push(cluster.connect(NodeId(2), number % 2, &device).await.unwrap());
        }
        let closing = {
            let hub = cluster.hub(NodeId(2)).clone();
            async move { hub.close_paced(20, CloseReason::Stopping).await }
        };
        let began = Instant::now();
        let watch = async {
            tokio::time::sleep(SECOND).await;
            let closed = clients.iter().filter(|client| client.closed().is_some()).count();
            assert!((15..=25).contains(&closed), "{closed}");
        };
        let ended = async {
            for client in &clients {
                client.until_closed().await;
            }
        };
        tokio::join!(watch, async {
            tokio::select! {
                () = closing => {}
                () = ended => {}
            }
        });
        assert!(began.elapsed() >= Duration::from_millis(1800), "{:?}", began.elapsed());
    });
}

#[test]
fn a_device_moves_while_one_direction_between_its_gateway_and_the_owner_is_cut() {
    simulate(async {
        let cluster = Cluster::start(12).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(1)).await;
        for (from, to) in [(1, 2), (2, 1)] {
            let old = cluster.connect(NodeId(2), 0, "d").await.unwrap();
            cluster.network.cut_one_way(NodeId(from), NodeId(to));
            let asked = Instant::now();
            let new = cluster.connect(NodeId(3), 0, "d").await;
            assert!(new.is_ok(), "{new:?} after {:?}", asked.elapsed());
            assert!(asked.elapsed() < 5 * SECOND, "{:?}", asked.elapsed());
            cluster.network.heal_all();
            assert_eq!(old.until_closed().await, CloseReason::TakenOver);
            cluster.settled().await;
            new.unwrap().disconnect();
            tokio::time::sleep(SECOND).await;
        }
    });
}
