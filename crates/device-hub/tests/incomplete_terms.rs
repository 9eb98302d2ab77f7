//! Sessions while an owner does not know all of them yet, and while a partition is stuck.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::time::Duration;

use holdfast_device_hub::CloseReason;
use holdfast_model::NodeId;
use holdfast_simulation::{Cluster, SECOND, partition_of, simulate};
use tokio::time::Instant;

/// A device whose first message has been acknowledged through a core of node 1.
async fn sends_from(cluster: &Cluster, core: usize, device: &str) -> holdfast_simulation::Client {
    let client = cluster.connect(NodeId(1), core, device).await.unwrap();
    client.send(0);
    client.until_acked(1).await;
    client
}

#[test]
fn a_session_whose_successor_was_cancelled_before_the_term_was_complete_is_still_known() {
    simulate(async {
        let cluster = Cluster::start(21).await;
        cluster.create("d").await;
        cluster.owned_by("d", NodeId(1)).await;
        let first = sends_from(&cluster, 0, "d").await;
        // A new term of the same owner, which must wait for the report of the third node.
        let id = cluster.owned_by("d", NodeId(2)).await;
        cluster.network.isolate(NodeId(3));
        let leads = cluster.nodes[&NodeId(2)].partitions.local(id).unwrap();
        leads.group().transfer_leader(NodeId(1)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let second = cluster.connecting(NodeId(1), 0, "d");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!second.is_finished(), "the term is complete too early for this test");
        second.abort();
        // Once the term is complete, a third session comes on another node.
        let third = cluster.connect(NodeId(2), 0, "d").await.unwrap();
        assert_eq!(first.closed(), Some(CloseReason::TakenOver));
        assert_eq!(third.closed(), None);
    });
}

#[test]
fn a_partition_whose_appends_wait_does_not_delay_the_others_of_the_core() {
    simulate(async {
        let cluster = Cluster::start(22).await;
        let stuck = "d0";
        let beside: Vec<String> = (0..20).map(|number| format!("d{number}")).collect();
        let same = beside[1..]
            .iter()
            .find(|device| partition_of(device) == partition_of(stuck))
            .unwrap();
        let other = beside[1..]
            .iter()
            .find(|device| partition_of(device) != partition_of(stuck))
            .unwrap();
        for device in [stuck, same.as_str(), other.as_str()] {
            cluster.create(device).await;
            cluster.owned_by(device, NodeId(1)).await;
        }
        // Only this partition loses its quorum with node 3.
        let group = cluster.nodes[&NodeId(1)].partitions.local(partition_of(stuck)).unwrap();
        group.group().set_voters([NodeId(1), NodeId(3)].into()).await.unwrap();
        let closes_the_gate = sends_from(&cluster, 0, stuck).await;
        let waits = sends_from(&cluster, 1, same).await;
        let goes_on = sends_from(&cluster, 1, other).await;
        cluster.network.isolate(NodeId(3));
        tokio::time::sleep(Duration::from_millis(1200)).await;
        closes_the_gate.send(1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        waits.send(1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let sent = Instant::now();
        goes_on.send(1);
        goes_on.until_acked(2).await;
        assert!(sent.elapsed() < SECOND / 10, "{:?}", sent.elapsed());
        assert_eq!((closes_the_gate.acked().len(), waits.acked().len()), (1, 1));
    });
}
