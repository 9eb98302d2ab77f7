//! Nodes join, drain, die and return in a simulated cluster: it always reaches the desired state of the registry, and nothing
//! acknowledged is lost.
//!
//! Each test runs on a paused clock; randomness follows from its seed.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "control/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use harness::{CLUSTER, Cluster, PARTITIONS, TIMEOUT};
use holdfast_cluster::control::ControlError;
use holdfast_cluster::join::JoinError;
use holdfast_consensus::{ConsensusConfig, GroupId};
use holdfast_model::{NodeId, PartitionId};
use holdfast_registry::{NodeRole, NodeState, join_token_id};
use tokio::time::Instant;

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn simulate<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn three_nodes_join_and_share_partitions_and_leaders() {
    simulate(async {
        let mut cluster = Cluster::new(1);
        cluster.start(NodeId(1)).await;
        cluster.append_everywhere().await;
        let answer = cluster.join(NodeId(2), "n2").await.unwrap();
        assert_eq!((answer.cluster.as_str(), answer.partitions), (CLUSTER, PARTITIONS));
        assert!(!answer.wrapped_key.is_empty() && answer.members.len() == 2 && !answer.gateway);
        cluster.join(NodeId(3), "n3").await.unwrap();
        cluster.settled().await;
        assert_eq!(
            cluster.members(GroupId::REGISTRY),
            BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)])
        );
        assert!(
            cluster
                .view()
                .placements
                .iter()
                .all(|placement| placement.replicas.len() == 3)
        );
        assert!(
            cluster.nodes.values().all(|node| (1..=2).contains(&node.leads())),
            "4 leaders on 3 nodes"
        );
        cluster.append_everywhere().await;
        cluster.check_data().await;
        let status = cluster.nodes[&NodeId(2)].control.status().await;
        assert!(status.healthy, "{:?}", status.notes);
        assert_eq!(status.groups.len(), 5);
    });
}

#[test]
fn a_token_admits_one_node_and_refusals_give_advice() {
    simulate(async {
        let mut cluster = Cluster::new(2);
        cluster.start(NodeId(1)).await;
        let secret = cluster.token().await;
        cluster.ask_to_join(NodeId(2), "n2", &secret).await.unwrap();
        // The answer may have been lost: the same node joins again.
        cluster.join_with(NodeId(2), "n2", &secret).await.unwrap();
        let denied = |answer: Result<_, JoinError>| match answer {
            Err(JoinError::Denied { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        let used = denied(cluster.ask_to_join(NodeId(3), "n3", &secret).await);
        assert!(used.contains("holdfast node token"), "{used}");
        let unknown = denied(cluster.ask_to_join(NodeId(3), "n3", &"0".repeat(64)).await);
        assert!(unknown.contains("holdfast node token"), "{unknown}");
        let secret = cluster.token().await;
        let taken = denied(cluster.ask_to_join(NodeId(3), "N2", &secret).await);
        assert!(taken.contains("cluster.node_name"), "{taken}");
        assert_eq!(cluster.view().nodes.len(), 2);
        let secret = cluster
            .any()
            .control
            .create_token(Duration::from_secs(5), NodeRole::Core)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        let expired = denied(cluster.ask_to_join(NodeId(3), "n3", &secret).await);
        assert!(expired.contains("holdfast node token"), "{expired}");
        // Created on one node, revoked on another.
        let secret = cluster.token().await;
        let id = join_token_id(&secret).unwrap();
        cluster.nodes[&NodeId(2)].control.revoke_token(&id).await.unwrap();
        let revoked = denied(cluster.ask_to_join(NodeId(3), "n3", &secret).await);
        assert!(revoked.contains("revoked"), "{revoked}");
        let known = cluster.any().control.join_tokens().await.unwrap();
        let found = known.iter().find(|token| token.id == id).unwrap();
        assert!(found.revoked.is_some() && found.used_by.is_none());
        assert!(!format!("{known:?}").contains(&secret));
    });
}

#[test]
fn a_gateway_replicates_the_registry_and_holds_no_partition() {
    simulate(async {
        let mut cluster = Cluster::of(3, 1).await;
        let secret = cluster
            .any()
            .control
            .create_token(Duration::from_secs(60), NodeRole::Gateway)
            .await
            .unwrap();
        let answer = cluster.join_with(NodeId(2), "gw", &secret).await.unwrap();
        assert!(answer.gateway);
        cluster.settled().await;
        assert_eq!(cluster.state_of("gw"), Some(NodeState::Active));
        assert!(
            PARTITIONS
                .iter()
                .all(|id| cluster.nodes[&NodeId(2)].partitions.local(id).is_none())
        );
        assert!(
            cluster.nodes[&NodeId(1)]
                .registry
                .group()
                .members()
                .learners
                .contains(&NodeId(2))
        );
    });
}

#[test]
fn a_node_drains_until_it_holds_no_replica_and_is_removed() {
    simulate(async {
        let mut cluster = Cluster::of(4, 4).await;
        cluster.append_everywhere().await;
        let control = cluster.any().control.clone();
        control.drain("n1").await.unwrap();
        control.drain("n1").await.unwrap();
        cluster.append_everywhere().await;
        cluster
            .until("n1 is drained", |c| c.state_of("n1") == Some(NodeState::Drained))
            .await;
        assert!(
            PARTITIONS.iter().all(|id| !cluster.has_data(NodeId(1), id)),
            "its replicas are deleted"
        );
        assert!(!cluster.members(GroupId::REGISTRY).contains(&NodeId(1)));
        assert_eq!(
            *cluster.nodes[&NodeId(1)].control.state().borrow(),
            Some(NodeState::Drained)
        );
        cluster.append_everywhere().await;
        cluster.check_data().await;
        cluster.nodes[&NodeId(2)].control.remove("n1", false).await.unwrap();
        cluster
            .until("n1 has left the registry", |c| {
                let leader = c.leader(GroupId::REGISTRY).unwrap();
                !c.nodes[&leader].registry.group().members().contains(NodeId(1))
            })
            .await;
        cluster.kill(NodeId(1));
        cluster.check_data().await;
    });
}

#[test]
fn a_node_is_not_drained_before_its_last_device_session_has_ended() {
    simulate(async {
        let cluster = Cluster::of(14, 4).await;
        let sessions = cluster.nodes[&NodeId(1)].sessions.clone();
        sessions.store(3, Ordering::Relaxed);
        cluster.any().control.drain("n1").await.unwrap();
        cluster
            .until("n1 holds no replica", |c| {
                PARTITIONS.iter().all(|id| !c.has_data(NodeId(1), id))
                    && !c.members(GroupId::REGISTRY).contains(&NodeId(1))
            })
            .await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(cluster.state_of("n1"), Some(NodeState::Draining));
        let notes = cluster.nodes[&NodeId(2)].control.status().await.notes;
        assert!(
            notes
                .iter()
                .any(|note| note.ends_with("0 replicas and 3 device sessions left")),
            "{notes:?}"
        );
        sessions.store(0, Ordering::Relaxed);
        cluster
            .until("n1 is drained", |c| c.state_of("n1") == Some(NodeState::Drained))
            .await;
    });
}

#[test]
fn a_leader_that_is_removed_transfers_first_so_that_writes_do_not_wait_for_an_election() {
    simulate(async {
        let mut cluster = Cluster::of(12, 4).await;
        let leader = cluster.leader(GroupId::REGISTRY).unwrap();
        let leads = cluster.nodes[&leader].leads();
        assert!(leads > 0, "the registry's leader leads partitions too");
        let name = format!("n{leader}");
        cluster.any().control.drain(&name).await.unwrap();
        // A follower does not request votes before this time.
        let election = ConsensusConfig::default().election_timeout_max.get();
        let drained = async |cluster: &mut Cluster| {
            let mut longest = Duration::ZERO;
            while cluster.state_of(&name) != Some(NodeState::Drained) {
                for partition in PARTITIONS.iter() {
                    let began = Instant::now();
                    cluster.append(partition).await;
                    longest = longest.max(began.elapsed());
                }
            }
            longest
        };
        let longest = tokio::time::timeout(TIMEOUT, drained(&mut cluster)).await.unwrap();
        assert!(longest < election, "a batch waited for {longest:?}");
        cluster.check_data().await;
    });
}

/// Node 1 has created all partitions: a partition that it has given up must not be created again when it returns.
#[test]
fn a_founder_that_is_drained_and_undrained_gets_the_data_of_the_others() {
    simulate(async {
        let mut cluster = Cluster::of(5, 4).await;
        cluster.append_everywhere().await;
        let control = cluster.nodes[&NodeId(2)].control.clone();
        control.drain("n1").await.unwrap();
        cluster
            .until("n1 is drained", |c| c.state_of("n1") == Some(NodeState::Drained))
            .await;
        control.undrain("n1").await.unwrap();
        cluster.append_everywhere().await;
        cluster
            .until("n1 is back", |c| c.state_of("n1") == Some(NodeState::Active))
            .await;
        cluster.check_data().await;
        assert!(
            cluster
                .view()
                .placements
                .iter()
                .any(|placement| placement.replicas.contains(&NodeId(1)))
        );
    });
}

#[test]
fn a_dead_node_is_replaced_by_one_with_the_same_name() {
    simulate(async {
        let mut cluster = Cluster::of(6, 3).await;
        cluster.append_everywhere().await;
        cluster.lose(NodeId(3));
        cluster.append_everywhere().await;
        let control = cluster.any().control.clone();
        let refused = control.remove("n3", false).await.unwrap_err();
        assert!(refused.to_string().contains("--dead"), "{refused}");
        let refused = control.remove("n2", true).await.unwrap_err();
        assert!(
            matches!(&refused, ControlError::Refused(text) if text.contains("is up")),
            "{refused}"
        );
        control.remove("n3", true).await.unwrap();
        cluster.settled().await;
        assert!(
            cluster
                .view()
                .placements
                .iter()
                .all(|placement| placement.replicas.len() == 2)
        );
        cluster.append_everywhere().await;
        cluster.join(NodeId(4), "n3").await.unwrap();
        cluster.check_data().await;
        assert!(
            cluster
                .view()
                .placements
                .iter()
                .all(|placement| placement.replicas.len() == 3)
        );
        assert_eq!(
            cluster.members(GroupId::REGISTRY),
            BTreeSet::from([NodeId(1), NodeId(2), NodeId(4)])
        );
    });
}

#[test]
fn a_node_that_returns_with_its_disk_continues_from_its_data() {
    simulate(async {
        let mut cluster = Cluster::of(7, 3).await;
        cluster.append_everywhere().await;
        let view = cluster.view();
        cluster.kill(NodeId(2));
        cluster.append_everywhere().await;
        cluster.start(NodeId(2)).await;
        cluster.check_data().await;
        assert_eq!(cluster.view().placements, view.placements, "nothing was moved");
    });
}

#[test]
fn leaderships_move_away_before_a_node_stops_and_return_afterwards() {
    simulate(async {
        let mut cluster = Cluster::of(8, 3).await;
        let terms: Vec<u64> = PARTITIONS.iter().map(|id| term(&cluster, id)).collect();
        let leads = cluster.nodes[&NodeId(2)].leads();
        assert!(leads > 0);
        let handed = cluster.nodes[&NodeId(2)]
            .control
            .transfer_leaderships(Duration::from_secs(5))
            .await;
        let registry = usize::from(handed.moved > leads);
        assert_eq!((handed.moved, handed.kept), (leads + registry, 0));
        assert_eq!(cluster.nodes[&NodeId(2)].leads(), 0);
        // It accepts none while it is stopping.
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(cluster.nodes[&NodeId(2)].leads(), 0);
        for (id, before) in PARTITIONS.iter().zip(terms) {
            assert!(term(&cluster, id) <= before + 1, "one transfer, no election");
        }
        cluster.append_everywhere().await;
        cluster.kill(NodeId(2));
        cluster.start(NodeId(2)).await;
        cluster.check_data().await;
        assert_eq!(cluster.nodes[&NodeId(2)].leads(), leads, "its share is back");
    });
}

fn term(cluster: &Cluster, partition: PartitionId) -> u64 {
    let group = GroupId::partition(partition.0);
    let leader = cluster.leader(group).unwrap();
    (cluster.nodes[&leader].group(group).unwrap().leader().unwrap().term).get()
}

#[test]
fn a_node_with_a_full_disk_gets_no_leadership() {
    simulate(async {
        let cluster = Cluster::of(9, 3).await;
        cluster.fill_disk(NodeId(3));
        cluster.fill_disk(NodeId(1));
        cluster
            .until("all that has a disk with room leads", |c| {
                c.nodes[&NodeId(2)].leads() == PARTITIONS.iter().count()
            })
            .await;
        cluster.nodes[&NodeId(2)]
            .control
            .transfer_leaderships(Duration::from_secs(3))
            .await;
        assert!(
            cluster.nodes[&NodeId(2)].leads() > 0,
            "no node takes it: better an election than a full disk"
        );
    });
}

#[test]
fn a_node_whose_disk_fills_transfers_its_leaderships_and_gets_them_back_when_it_has_space() {
    simulate(async {
        let mut cluster = Cluster::of(10, 3).await;
        cluster.append_everywhere().await;
        for full in 1..=3 {
            let leads = cluster.nodes[&NodeId(full)].leads();
            assert!(leads > 0);
            cluster.fill_disk(NodeId(full));
            // The check interval of the guard, and a transfer for each leadership.
            let began = Instant::now();
            cluster
                .until("it leads nothing", |c| {
                    c.nodes[&NodeId(full)].leads() == 0
                        && c.leader(GroupId::REGISTRY).is_some_and(|leader| leader != NodeId(full))
                })
                .await;
            cluster.append_everywhere().await;
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
            // It follows as before, and declines the leaderships for which it is preferred.
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert_eq!(cluster.nodes[&NodeId(full)].leads(), 0);
            cluster.empty_disk(NodeId(full));
            cluster.check_data().await;
            assert_eq!(cluster.nodes[&NodeId(full)].leads(), leads, "its share is back");
        }
    });
}

#[test]
fn a_full_node_that_is_elected_transfers_at_once() {
    simulate(async {
        let mut cluster = Cluster::of(11, 3).await;
        cluster.append_everywhere().await;
        cluster.fill_disk(NodeId(1));
        cluster
            .until("it leads nothing", |c| c.nodes[&NodeId(1)].leads() == 0)
            .await;
        // Half of the groups may elect the full node now.
        cluster.kill(NodeId(3));
        cluster.append_everywhere().await;
        cluster
            .until("only the one with room leads", |c| {
                c.nodes[&NodeId(2)].leads() == PARTITIONS.iter().count()
            })
            .await;
        cluster.empty_disk(NodeId(1));
        cluster.start(NodeId(3)).await;
        cluster.check_data().await;
    });
}

#[test]
fn removing_and_draining_nodes_that_the_cluster_needs_is_refused() {
    simulate(async {
        let mut cluster = Cluster::of(10, 3).await;
        let control = cluster.any().control.clone();
        let refused = control.drain("n2").await.unwrap_err().to_string();
        assert!(refused.contains("holdfast node join"), "{refused}");
        let unknown = control.drain("n9").await.unwrap_err().to_string();
        assert!(unknown.contains("holdfast node list"), "{unknown}");
        control.set_replication_factor(1).await.unwrap();
        cluster.settled().await;
        assert!(
            cluster
                .view()
                .placements
                .iter()
                .all(|placement| placement.replicas.len() == 1)
        );
        // A node that holds the only replica is not removed.
        let only = cluster
            .view()
            .placements
            .iter()
            .find(|p| p.replicas[0] != NodeId(1))
            .unwrap()
            .replicas[0];
        cluster.kill(only);
        let refused = control.remove(&format!("n{only}"), true).await.unwrap_err().to_string();
        assert!(
            refused.contains("has no leader") || refused.contains("alone holds"),
            "{refused}"
        );
        cluster.start(only).await;
        cluster.check_data().await;
    });
}

#[test]
fn non_members_may_only_join() -> TestResult {
    simulate(async {
        use bytes::Bytes;
        use holdfast_consensus::transport::{Call, Dispatch, Service};
        let cluster = Cluster::of(11, 1).await;
        let stranger = cluster.network.node(NodeId(66), Dispatch::new());
        for body in [
            Bytes::new(),
            Bytes::from_static(&[1]),
            Bytes::from_static(&[2, 18, 0]),
            Bytes::from_static(&[1, 18, 0]),
            Bytes::from_static(&[1, 26, 0]),
            Bytes::from_static(&[1, 0xff, 0xff, 0xff]),
            Bytes::from(vec![1; 1 << 20]),
        ] {
            let call = Call {
                service: Service::Control,
                target: 0,
                body: vec![body],
                timeout: Duration::from_secs(1),
            };
            if let Ok(answer) = stranger.call(NodeId(1), call).await {
                // A refusal (field 1), never a report.
                assert_eq!(answer.get(1), Some(&0x0a), "{answer:?}");
            }
        }
    });
    Ok(())
}

/// Nodes join, drain, are cut off, die and return, while leaders die in the middle of their steps.
fn upheaval(seed: u64) {
    simulate(async {
        let mut cluster = Cluster::of(seed, 3).await;
        let mut next = 4;
        for _ in 0..4 {
            cluster.append_everywhere().await;
            let pause = Duration::from_millis(cluster.random(3_000));
            match cluster.random(4) {
                0 => {
                    let name = format!("n{next}");
                    cluster.join(NodeId(next), &name).await.unwrap();
                    next += 1;
                }
                1 => {
                    let names: Vec<String> = cluster.nodes.keys().map(|id| format!("n{id}")).collect();
                    let index = usize::try_from(cluster.random(names.len() as u64)).unwrap();
                    // Refused if too few nodes would be left.
                    let _ = cluster.any().control.drain(&names[index]).await;
                }
                2 => {
                    let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
                    let index = usize::try_from(cluster.random(ids.len() as u64)).unwrap();
                    cluster.network.isolate(NodeId((ids[index]).get()));
                    tokio::time::sleep(pause).await;
                    cluster.network.heal_all();
                }
                _ => {}
            }
            tokio::time::sleep(pause).await;
            let Some(victim) = cluster.leader(GroupId::REGISTRY) else {
                continue;
            };
            cluster.kill(victim);
            cluster.append_everywhere().await;
            cluster.start(victim).await;
        }
        cluster.append_everywhere().await;
        cluster.check_data().await;
        cluster
            .until("the draining node is drained", |c| {
                c.view().nodes.values().all(|node| node.state != NodeState::Draining)
            })
            .await;
        cluster.check_data().await;
    });
}

#[test]
fn a_new_leader_continues_the_steps_of_one_that_died() {
    let seeds = std::env::var_os("HOLDFAST_SEEDS").and_then(|seeds| seeds.to_str()?.parse().ok());
    for seed in 0..seeds.unwrap_or(3) {
        println!("seed {seed}");
        upheaval(seed);
    }
}
