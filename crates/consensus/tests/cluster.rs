//! Groups of several members over a simulated network.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::cluster::{Cluster, PARTITION};
use holdfast_consensus::transport::{Call, CallError, Service};
use holdfast_consensus::{ChangeError, ProposeError, ReadError, Role, TransferError};
use holdfast_model::NodeId;
use holdfast_storage::Disk;
use holdfast_testkit::eventually;
use tokio::time::Instant;

fn numbered(number: usize) -> Bytes {
    Bytes::from(format!("entry {number}"))
}

fn all(count: usize) -> Vec<Bytes> {
    (0..count).map(numbered).collect()
}

fn nodes(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

#[tokio::test(start_paused = true)]
async fn entries_reach_every_member_whichever_proposes() {
    let cluster = Cluster::of(1, 3).await;
    assert_eq!(cluster.leader().await, NodeId(1));
    for number in 0..30 {
        let node = &cluster.nodes[&NodeId(1 + number as u64 % 3)];
        let (position, answer) = node.group.propose(numbered(number)).await.unwrap();
        assert_eq!(position.node, NodeId(1));
        assert_eq!(
            answer,
            Bytes::from(number.to_string()),
            "the answer is the leader's state machine's"
        );
        assert_eq!(node.applied(), all(number + 1), "the proposer reads its own writes");
    }
    assert_eq!(cluster.all_applied(30).await, all(30));
    let status = cluster.group(NodeId(1)).status();
    assert_eq!((status.role, status.leader), (Role::Leader, Some(NodeId(1))));
    assert_eq!(status.members.voters, nodes(1..=3));
    eventually("the leader knows how far the others are", || {
        let status = cluster.group(NodeId(1)).status();
        status.matched.len() == 3 && status.matched.values().all(|matched| *matched == status.last_log)
    })
    .await;
    assert!(cluster.group(NodeId(1)).status().quorum_acked_ago.unwrap() < Duration::from_secs(1));
    let status = cluster.group(NodeId(2)).status();
    assert_eq!(
        (status.role, status.leader, status.quorum_acked_ago),
        (Role::Follower, Some(NodeId(1)), None)
    );
    assert_eq!(cluster.group(NodeId(2)).leader(), cluster.group(NodeId(1)).leader());
}

#[tokio::test(start_paused = true)]
async fn another_leads_when_the_leader_dies_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::of(2, 3).await;
    for number in 0..20 {
        cluster.group(NodeId(1)).propose(numbered(number)).await.unwrap();
    }
    let mut watch = cluster.group(NodeId(2)).watch();
    let died = Instant::now();
    cluster.kill(NodeId(1));
    let leader = cluster.leader().await;
    assert!(leader != NodeId(1));
    watch.changed().await.unwrap();
    cluster.group(leader).propose(numbered(20)).await.unwrap();
    assert!(died.elapsed() < Duration::from_secs(3), "{:?}", died.elapsed());
    cluster.start(NodeId(1)).await;
    cluster.group(NodeId(1)).propose(numbered(21)).await.unwrap();
    assert_eq!(cluster.all_applied(22).await, all(22));
    assert!(
        !cluster.group(NodeId(1)).is_leader(),
        "a returning node does not disturb the leader"
    );
}

#[tokio::test(start_paused = true)]
async fn all_lose_power_at_once() {
    let mut cluster = Cluster::of(3, 3).await;
    for number in 0..20 {
        cluster.group(NodeId(2)).propose(numbered(number)).await.unwrap();
    }
    for id in (1..=3).map(NodeId) {
        cluster.kill(id);
    }
    let begun = Instant::now();
    for id in (1..=3).map(NodeId) {
        cluster.start(id).await;
        assert!(
            !cluster.group(id).is_leader(),
            "a member of several does not elect itself"
        );
    }
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "a start does not wait for a leader"
    );
    cluster.leader().await;
    cluster.group(NodeId(3)).propose(numbered(20)).await.unwrap();
    assert_eq!(cluster.all_applied(21).await, all(21));
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_quorum_acknowledges_nothing_and_gives_way() {
    let cluster = Cluster::of(4, 3).await;
    cluster.group(NodeId(1)).propose(numbered(0)).await.unwrap();
    cluster.network.isolate(NodeId(1));
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    for number in 0..5 {
        let outcomes = outcomes.clone();
        let lost = Bytes::from(format!("lost {number}"));
        cluster
            .group(NodeId(1))
            .propose_detached(lost, Box::new(move |outcome| outcomes.lock().unwrap().push(outcome)))
            .await;
    }
    let leader = cluster.leader_of(&nodes([2, 3])).await;
    cluster.group(leader).propose(numbered(1)).await.unwrap();
    assert!(outcomes.lock().unwrap().is_empty());
    // The old leader does not know better yet, and takes nothing once it has not heard a quorum for long.
    let refused = cluster.group(NodeId(1)).propose(Bytes::from_static(b"late")).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
    assert!(cluster.group(NodeId(1)).read_index().await.is_err());
    cluster.network.heal_all();
    assert_eq!(cluster.leader().await, leader);
    eventually("every proposal has its outcome", || outcomes.lock().unwrap().len() == 5).await;
    assert_eq!(*outcomes.lock().unwrap(), vec![Err(ProposeError::Unknown); 5]);
    cluster.group(NodeId(1)).propose(numbered(2)).await.unwrap();
    assert_eq!(cluster.all_applied(3).await, all(3));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_heard_but_does_not_hear_gives_way() {
    let cluster = Cluster::of(5, 3).await;
    cluster.network.cut_one_way(NodeId(2), NodeId(1));
    cluster.network.cut_one_way(NodeId(3), NodeId(1));
    let leader = cluster.leader_of(&nodes([2, 3])).await;
    assert!(leader != NodeId(1));
    cluster.group(leader).propose(numbered(0)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_cut_off_does_not_depose_the_leader_when_it_returns() {
    let cluster = Cluster::of(6, 3).await;
    let term = cluster.group(NodeId(1)).status().term;
    cluster.network.isolate(NodeId(3));
    tokio::time::sleep(Duration::from_secs(20)).await;
    cluster.group(NodeId(1)).propose(numbered(0)).await.unwrap();
    assert_eq!(
        cluster.group(NodeId(3)).status().term,
        term,
        "it has only asked whether it would win"
    );
    cluster.network.heal_all();
    cluster.all_applied(1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.leader().await, NodeId(1));
    assert_eq!(cluster.group(NodeId(1)).status().term, term);
}

#[tokio::test(start_paused = true)]
async fn members_come_and_go_while_entries_are_written() {
    let mut cluster = Cluster::of(7, 3).await;
    for number in 0..10 {
        cluster.group(NodeId(1)).propose(numbered(number)).await.unwrap();
    }
    cluster.start(NodeId(4)).await;
    assert_eq!(
        cluster.group(NodeId(2)).add_learner(NodeId(4)).await,
        Err(ChangeError::NotLeader {
            leader: Some(NodeId(1))
        })
    );
    let first = cluster.group(NodeId(1)).clone();
    assert_eq!(
        first.set_voters(nodes([1, 2, 3, 4])).await,
        Err(ChangeError::NotMember { node: NodeId(4) })
    );
    first.add_learner(NodeId(4)).await.unwrap();
    first.add_learner(NodeId(4)).await.unwrap();
    cluster.all_applied(10).await;
    assert_eq!(cluster.group(NodeId(4)).status().role, Role::Learner);
    cluster.group(NodeId(4)).propose(numbered(10)).await.unwrap();
    cluster.group(NodeId(4)).read_index().await.unwrap();
    assert_eq!(
        first.remove_learners(nodes([2])).await,
        Err(ChangeError::Votes { node: NodeId(2) })
    );
    assert_eq!(first.set_voters(nodes([])).await, Err(ChangeError::NoVoters));
    first.set_voters(nodes([1, 2, 4])).await.unwrap();
    first.set_voters(nodes([1, 2, 4])).await.unwrap();
    let members = first.status().members;
    assert_eq!((members.voters, members.joint), (nodes([1, 2, 4]), false));
    assert!(members.learners.is_empty(), "a former voter has left");
    // The removed one may not have heard that it is out; it must not disturb.
    let term = first.status().term;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(
        (cluster.leader_of(&nodes([1, 2, 4])).await, first.status().term),
        (NodeId(1), term)
    );
    let removed = cluster.nodes.remove(&NodeId(3)).unwrap();
    removed.group.destroy().await.unwrap();
    assert!(!holdfast_consensus::has_data(&cluster.disks[&NodeId(3)], PARTITION).unwrap());
    // Without 3 the new voters are a quorum on their own.
    cluster.kill(NodeId(2));
    first.propose(numbered(11)).await.unwrap();
    first.add_learner(NodeId(5)).await.unwrap();
    first.remove_learners(nodes([5, 9])).await.unwrap();
    assert!(first.status().members.learners.is_empty());
    cluster.all_applied(12).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_comes_back_empty_does_not_vote_against_the_prior_replicas_acknowledgements() {
    let mut cluster = Cluster::of(21, 3).await;
    cluster.start(NodeId(4)).await;
    let first = cluster.group(NodeId(1)).clone();
    first.add_learner(NodeId(4)).await.unwrap();
    first.propose(numbered(0)).await.unwrap();
    cluster.all_applied(1).await;
    // Node 2 does not hear that 3 goes; that this is committed rests on 3's own word.
    cluster.network.isolate(NodeId(2));
    first.set_voters(nodes([1, 2, 4])).await.unwrap();
    first.propose(numbered(1)).await.unwrap();
    let removed = cluster.nodes.remove(&NodeId(3)).unwrap();
    removed.group.destroy().await.unwrap();
    common::erase(PARTITION, &cluster.disks[&NodeId(3)]);
    cluster.start(NodeId(3)).await;
    // For node 2 it is still a voter.
    cluster.network.heal_all();
    for id in [1, 4].map(NodeId) {
        cluster.network.cut(NodeId(2), id);
        cluster.network.cut(NodeId(3), id);
    }
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!cluster.group(NodeId(2)).is_leader() && !cluster.group(NodeId(3)).is_leader());
    }
    cluster.network.heal_all();
    first.propose(numbered(2)).await.unwrap();
    // Wanted again, it is a member like any other once it has caught up.
    first.add_learner(NodeId(3)).await.unwrap();
    eventually("it has caught up", || {
        let status = first.status();
        status.matched.get(&NodeId(3)) == Some(&status.last_log)
    })
    .await;
    first.set_voters(nodes([1, 3])).await.unwrap();
    first.transfer_leader(NodeId(3)).await.unwrap();
    assert_eq!(cluster.leader_of(&nodes([1, 3])).await, NodeId(3));
    cluster.group(NodeId(3)).set_voters(nodes([3])).await.unwrap();
    cluster.group(NodeId(3)).propose(numbered(3)).await.unwrap();
    cluster.kill(NodeId(3));
    cluster.start(NodeId(3)).await;
    assert_eq!(cluster.leader_of(&nodes([3])).await, NodeId(3));
    assert_eq!(cluster.nodes[&NodeId(3)].applied(), all(4));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_removed_hands_over() {
    let cluster = Cluster::of(8, 3).await;
    cluster.group(NodeId(1)).propose(numbered(0)).await.unwrap();
    cluster.group(NodeId(1)).set_voters(nodes([2, 3])).await.unwrap();
    let leader = cluster.leader_of(&nodes([2, 3])).await;
    cluster.group(leader).propose(numbered(1)).await.unwrap();
    eventually("the removed one no longer leads", || {
        !cluster.group(NodeId(1)).is_leader()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn leadership_moves_on_request_within_a_moment() {
    let cluster = Cluster::of(9, 3).await;
    cluster.group(NodeId(1)).propose(numbered(0)).await.unwrap();
    assert_eq!(
        cluster.group(NodeId(2)).transfer_leader(NodeId(3)).await,
        Err(TransferError::NotLeader {
            leader: Some(NodeId(1))
        })
    );
    assert_eq!(
        cluster.group(NodeId(1)).transfer_leader(NodeId(9)).await,
        Err(TransferError::NotVoter { node: NodeId(9) })
    );
    cluster.group(NodeId(1)).transfer_leader(NodeId(1)).await.unwrap();
    for (number, to) in [3, 2, 1, 2, 3].into_iter().enumerate() {
        let from = cluster.leader().await;
        let begun = Instant::now();
        cluster.group(from).transfer_leader(NodeId(to)).await.unwrap();
        cluster.group(from).propose(numbered(number + 1)).await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
        assert_eq!(cluster.leader().await, NodeId(to));
    }
    assert_eq!(cluster.all_applied(6).await, all(6));
}

#[tokio::test(start_paused = true)]
async fn a_transfer_to_a_dead_node_fails_and_the_leader_continues() {
    let mut cluster = Cluster::of(10, 3).await;
    cluster.kill(NodeId(3));
    // The leader has heard of it a moment ago.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        cluster.group(NodeId(1)).transfer_leader(NodeId(3)).await,
        Err(TransferError::Behind { node: NodeId(3) })
    );
    let leader = cluster.leader().await;
    cluster.group(leader).propose(numbered(0)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn reads_on_followers_and_learners_see_acknowledged_entries() {
    let mut cluster = Cluster::of(11, 3).await;
    cluster.start(NodeId(4)).await;
    cluster.group(NodeId(1)).add_learner(NodeId(4)).await.unwrap();
    cluster
        .network
        .set_delay(Duration::from_millis(1)..=Duration::from_millis(30));
    for number in 0..20 {
        cluster.group(NodeId(1)).propose(numbered(number)).await.unwrap();
        let node = &cluster.nodes[&NodeId(2 + number as u64 % 3)];
        node.group.read_index().await.unwrap();
        assert_eq!(node.applied().len(), number + 1);
    }
    cluster.network.isolate(NodeId(4));
    assert!(matches!(
        cluster.group(NodeId(4)).read_index().await,
        Err(ReadError::TimedOut | ReadError::NotLeader { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_lease_names_the_index_to_apply_and_ends_when_the_leader_is_cut_off() {
    let mut cluster = Cluster::of(12, 3).await;
    cluster.start(NodeId(4)).await;
    cluster.group(NodeId(1)).add_learner(NodeId(4)).await.unwrap();
    let (position, _) = cluster.group(NodeId(1)).propose(numbered(0)).await.unwrap();
    for id in (1..=4).map(NodeId) {
        let asked = Instant::now();
        let grant = cluster.group(id).lease().await.unwrap();
        assert!(grant.asked >= asked && grant.asked <= Instant::now());
        assert!(grant.index >= position.index, "node {id}");
        assert!(grant.age < Duration::from_secs(1), "node {id}: {:?}", grant.age);
        cluster
            .group(id)
            .wait_applied(grant.index, Duration::from_secs(5))
            .await
            .unwrap();
    }
    // The learner stays with the leader that the others no longer hear.
    for other in [2, 3].map(NodeId) {
        cluster.network.cut(NodeId(1), other);
        cluster.network.cut(NodeId(4), other);
    }
    let cut = Instant::now();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        match cluster.group(NodeId(4)).lease().await {
            // Its state never reaches beyond the cut by more than the staleness allowed.
            Ok(grant) => assert!(grant.asked <= cut + grant.age + Duration::from_millis(1)),
            Err(error) => assert!(matches!(
                error,
                ReadError::NotLeader { .. } | ReadError::NoQuorum | ReadError::TimedOut
            )),
        }
    }
    let leader = cluster.leader_of(&nodes([2, 3])).await;
    cluster.group(leader).propose(numbered(1)).await.unwrap();
    cluster.network.heal_all();
    cluster.all_applied(2).await;
    assert!(cluster.group(NodeId(4)).lease().await.unwrap().age < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_an_only_voter_has_no_age() {
    let cluster = Cluster::of(13, 1).await;
    let (position, _) = cluster.group(NodeId(1)).propose(numbered(0)).await.unwrap();
    let grant = cluster.group(NodeId(1)).lease().await.unwrap();
    assert_eq!((grant.index, grant.age), (position.index, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_replica_below_the_floor_gets_the_state() {
    let mut cluster = Cluster::of(14, 3).await;
    for number in 0..50 {
        cluster.group(NodeId(1)).propose(numbered(number)).await.unwrap();
    }
    cluster.kill(NodeId(3));
    for number in 50..100 {
        cluster.group(NodeId(1)).propose(numbered(number)).await.unwrap();
    }
    for id in [1, 2].map(NodeId) {
        cluster.group(id).trim(0).await.unwrap();
        cluster.disks[&id].flush().unwrap();
        let floor = cluster.group(id).trim(u64::MAX).await.unwrap();
        assert_eq!(floor, cluster.group(id).applied_index() + 1);
    }
    for number in 100..110 {
        cluster.group(NodeId(1)).propose(numbered(number)).await.unwrap();
    }
    // One that comes back, and one that has never been there.
    cluster.start(NodeId(3)).await;
    cluster.start(NodeId(4)).await;
    cluster.group(NodeId(1)).add_learner(NodeId(4)).await.unwrap();
    assert_eq!(cluster.all_applied(110).await, all(110));
    cluster.group(NodeId(1)).set_voters(nodes([1, 3, 4])).await.unwrap();
    cluster.group(NodeId(4)).propose(numbered(110)).await.unwrap();
    let floor = cluster.group(NodeId(4)).log_reader().first_index();
    assert!(floor > 50, "what the snapshot did not bring is not read: {floor}");
    // The installed state survives, and so do later writes.
    for id in [3, 4].map(NodeId) {
        cluster.kill(id);
        cluster.start(id).await;
    }
    let removed = cluster.nodes.remove(&NodeId(2)).unwrap();
    removed.group.destroy().await.unwrap();
    cluster.leader().await;
    cluster.group(NodeId(4)).propose(numbered(111)).await.unwrap();
    assert_eq!(cluster.all_applied(112).await, all(112));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_cut_off_is_sent_again() {
    let mut cluster = Cluster::of(15, 1).await;
    for number in 0..200 {
        cluster.group(NodeId(1)).propose(numbered(number)).await.unwrap();
    }
    cluster.group(NodeId(1)).trim(0).await.unwrap();
    cluster.disks[&NodeId(1)].flush().unwrap();
    cluster.group(NodeId(1)).trim(u64::MAX).await.unwrap();
    cluster.start(NodeId(2)).await;
    cluster
        .network
        .set_delay(Duration::from_millis(1)..=Duration::from_millis(2));
    cluster.group(NodeId(1)).add_learner(NodeId(2)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(cluster.nodes[&NodeId(2)].applied().is_empty(), "it is in flight");
    cluster.kill(NodeId(2));
    cluster.start(NodeId(2)).await;
    cluster.all_applied(200).await;
}

async fn call(cluster: &Cluster, from: NodeId, target: u32, body: &[u8]) -> Result<Bytes, CallError> {
    let call = Call {
        service: Service::Raft,
        target,
        body: vec![Bytes::copy_from_slice(body)],
        timeout: Duration::from_secs(5),
    };
    cluster.nodes[&from].transport.call(NodeId(1), call).await
}

#[tokio::test(start_paused = true)]
async fn garbage_foreign_and_unknown_calls_are_refused_and_change_nothing() {
    let cluster = Cluster::of(16, 3).await;
    cluster.group(NodeId(1)).propose(numbered(0)).await.unwrap();
    let term = cluster.group(NodeId(1)).status().term;
    // A vote of term 99 for node 3.
    let vote = |kind: u8| {
        let mut body = vec![1, kind];
        body.extend(99_u64.to_be_bytes());
        body.extend(3_u64.to_be_bytes());
        body.push(0);
        body.extend([0; 25]);
        body.push(0);
        body
    };
    let refused = |answer: Result<Bytes, CallError>, why: &str| match answer {
        Err(CallError::Refused(reason)) => assert!(reason.contains(why), "{reason}"),
        other => panic!("not refused: {other:?}"),
    };
    let group = PARTITION.0;
    refused(
        call(&cluster, NodeId(2), 77, &vote(2)).await,
        "does not run on this node",
    );
    refused(
        call(&cluster, NodeId(2), group, &vote(2)).await,
        "acts in the name of node 3",
    );
    refused(call(&cluster, NodeId(2), group, &[9, 1]).await, "version 1");
    refused(call(&cluster, NodeId(2), group, &[1, 200]).await, "unknown request");
    refused(call(&cluster, NodeId(2), group, &[]).await, "too early");
    refused(call(&cluster, NodeId(2), group, &vote(8)).await, "in parts");
    for kind in 1..=4 {
        let whole = vote(kind);
        for length in 2..whole.len() - 1 {
            refused(call(&cluster, NodeId(2), group, &whole[..length]).await, "");
        }
    }
    // A vote by its candidate's own word is heard, but a leader that others hear is not deposed.
    let answer = call(&cluster, NodeId(3), group, &vote(3)).await.unwrap();
    assert_eq!(answer[18], 0, "not granted");
    assert_eq!(
        (cluster.leader().await, cluster.group(NodeId(1)).status().term),
        (NodeId(1), term)
    );
    cluster.group(NodeId(2)).propose(numbered(1)).await.unwrap();
    cluster.all_applied(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_has_stopped_is_no_longer_found() {
    let cluster = Cluster::of(17, 3).await;
    let groups = cluster.nodes[&NodeId(2)].host.groups.clone();
    assert!(groups.contains(PARTITION));
    cluster.group(NodeId(2)).shutdown().await;
    assert!(!groups.contains(PARTITION));
    assert!(cluster.group(NodeId(2)).watch().changed().await.is_err());
    assert_eq!(
        cluster.group(NodeId(2)).propose(numbered(0)).await,
        Err(ProposeError::Stopped)
    );
    assert_eq!(cluster.group(NodeId(2)).lease().await, Err(ReadError::Stopped));
    cluster.group(NodeId(3)).propose(numbered(0)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_entry_bound_to_a_term_is_refused_in_every_other_one() {
    let cluster = Cluster::of(40, 3).await;
    let (first, second) = (cluster.group(NodeId(1)), cluster.group(NodeId(2)));
    let term = first.leader().unwrap().term;
    let (position, answer) = first.propose_in_term(term, numbered(0)).await.unwrap();
    assert_eq!((position.term, answer), (term, Bytes::from_static(b"0")));
    assert_eq!(
        second.propose_in_term(term, numbered(1)).await,
        Err(ProposeError::TermChanged {
            term,
            leader: Some(NodeId(1))
        }),
        "a follower does not forward it"
    );
    // Acquired before the leadership moves, used when this node leads again.
    let entry = numbered(1);
    let permit = first.acquire_permit(&entry).await.unwrap().in_term(term);
    first.transfer_leader(NodeId(2)).await.unwrap();
    let led_by = async |node| {
        eventually("the leadership has moved", || {
            cluster
                .group(NodeId(1))
                .leader()
                .is_some_and(|leader| leader.node == node)
        })
        .await
    };
    led_by(NodeId(2)).await;
    assert_eq!(
        first.propose_in_term(term, numbered(1)).await,
        Err(ProposeError::TermChanged {
            term,
            leader: Some(NodeId(2))
        })
    );
    second.transfer_leader(NodeId(1)).await.unwrap();
    led_by(NodeId(1)).await;
    let later = first.leader().unwrap().term;
    assert!(later > term);
    let (outcome, reported) = tokio::sync::oneshot::channel();
    first
        .propose_with_permit(permit, entry, Box::new(move |result| outcome.send(result).unwrap()))
        .await;
    let refused = reported.await.unwrap().unwrap_err();
    assert_eq!(
        refused,
        ProposeError::TermChanged {
            term,
            leader: Some(NodeId(1))
        }
    );
    assert!(refused.is_certain());
    first.propose_in_term(later, numbered(1)).await.unwrap();
    assert_eq!(
        cluster.all_applied(2).await,
        all(2),
        "nothing of the refused entries was applied"
    );
}
