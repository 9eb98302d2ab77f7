//! The queue of a device and any front end: outcomes that MQTT has no word for, and owners that are killed.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::time::Duration;

use holdfast_device_hub::{
    CloudMessage, CloudQueueError, DeadLetterReason, FeedbackRequest, ListedMessage, Settlement,
};
use holdfast_model::{GenerationId, NodeId};
use holdfast_simulation::{Client, Cluster, QUEUED, identity, simulate};
use holdfast_testkit::eventually;

const DEVICE: &str = "dev-1";

async fn start() -> Cluster {
    let cluster = Cluster::start(1).await;
    cluster.create(DEVICE).await;
    cluster
}

fn generation(cluster: &Cluster, node: NodeId) -> GenerationId {
    let registered = cluster.hub(node).registry().identity(&identity(DEVICE)).unwrap();
    registered.unwrap().generation.clone()
}

async fn send(cluster: &Cluster, node: NodeId, number: u64) -> Result<u64, CloudQueueError> {
    let message = CloudMessage {
        message_id: Some((QUEUED + number).to_string()),
        feedback: Some(FeedbackRequest::Full),
        ..CloudMessage::default()
    };
    let (device, generation) = (identity(DEVICE), generation(cluster, node));
    let sent = cluster.hub(node).send_cloud_message(&device, &generation, &message);
    sent.await.map(|sent| sent.sequence)
}

async fn list(cluster: &Cluster, node: NodeId) -> Vec<ListedMessage> {
    let (device, generation) = (identity(DEVICE), generation(cluster, node));
    let listed = cluster.hub(node).list_cloud_messages(&device, &generation);
    listed.await.unwrap()
}

async fn connect(cluster: &Cluster, node: NodeId) -> Client {
    let client = cluster.connect(node, 0, DEVICE).await.unwrap();
    client.take_messages();
    client.grant_deliveries(50, 100_000);
    client
}

/// The numbers that the client has received, in order.
async fn received(client: &Client, count: usize) -> Vec<u64> {
    eventually("messages", || client.received_messages().len() >= count).await;
    let messages = client.received_messages().into_iter();
    messages.map(|(number, _)| number - QUEUED).collect()
}

#[test]
fn a_message_that_is_given_back_comes_again_at_once_and_in_its_place() {
    simulate(async {
        let cluster = start().await;
        cluster.owned_by(DEVICE, NodeId(2)).await;
        let client = connect(&cluster, NodeId(1)).await;
        for number in 1..=3 {
            assert_eq!(send(&cluster, NodeId(3), number).await, Ok(number));
        }
        assert_eq!(received(&client, 3).await, [1, 2, 3]);
        client.settle_delivery(QUEUED + 2, Settlement::Released);
        assert_eq!(received(&client, 4).await, [1, 2, 3, 2]);
        let counts: Vec<u32> = list(&cluster, NodeId(3))
            .await
            .iter()
            .map(|one| one.deliveries)
            .collect();
        assert_eq!(counts, [0, 1, 0]);
        client.settle_delivery(QUEUED + 2, Settlement::Rejected);
        client.settle_delivery(QUEUED + 1, Settlement::Accepted);
        for times in 1..10 {
            client.settle_delivery(QUEUED + 3, Settlement::Released);
            assert_eq!(received(&client, 4 + times).await.last(), Some(&3));
        }
        client.settle_delivery(QUEUED + 3, Settlement::Released);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let dead: Vec<_> = list(&cluster, NodeId(3))
            .await
            .iter()
            .map(|one| one.dead.unwrap().0)
            .collect();
        assert_eq!(
            dead,
            [DeadLetterReason::Rejected, DeadLetterReason::DeliveryCountExceeded]
        );
        assert_eq!(client.received_messages().len(), 13, "nothing more");
    });
}

#[test]
fn a_session_that_takes_no_messages_gets_none_until_it_does() {
    simulate(async {
        let cluster = start().await;
        let client = cluster.connect(NodeId(1), 0, DEVICE).await.unwrap();
        client.grant_deliveries(50, 100_000);
        send(&cluster, NodeId(2), 1).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(client.received_messages().is_empty());
        client.take_messages();
        assert_eq!(received(&client, 1).await, [1]);
    });
}

#[test]
fn owners_that_are_killed_lose_no_message_and_no_settlement_twice() {
    simulate(async {
        let mut cluster = start().await;
        let mut number = 0;
        for killed in [NodeId(3), NodeId(2), NodeId(3)] {
            cluster.owned_by(DEVICE, killed).await;
            let client = connect(&cluster, NodeId(1)).await;
            let first = number + 1;
            for _ in 0..4 {
                number += 1;
                send(&cluster, NodeId(1), number).await.unwrap();
            }
            assert_eq!(received(&client, 4).await, (first..=number).collect::<Vec<_>>());
            client.settle_delivery(QUEUED + first, Settlement::Accepted);
            eventually("its end", || client.received_messages().len() == 4).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            cluster.kill(killed);
            // The next owner delivers what was not settled, to the same connection.
            let again = received(&client, 7).await;
            assert_eq!(again[4..], (first + 1..=number).collect::<Vec<_>>()[..]);
            for number in first + 1..=number {
                client.settle_delivery(QUEUED + number, Settlement::Accepted);
            }
            cluster.start_node(killed).await;
            cluster.settled().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(list(&cluster, NodeId(1)).await, []);
        }
    });
}
