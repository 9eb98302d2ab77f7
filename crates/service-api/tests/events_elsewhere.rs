//! Event Hubs readers on a node that has no replica of what they read.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/events_hub.rs"]
mod events_hub;

use std::time::{Duration, Instant};

use events_hub::{Client, HOST, Hub, Site, on_a_core};
use holdfast_amqp::message::ResponseView;
use holdfast_amqp::selector::{self, Start};
use holdfast_amqp::types::{Raw, Value};
use holdfast_amqp::{AttachSpec, Event, InfoValue};
use holdfast_consensus::sim::SimNetwork;
use holdfast_model::{NodeId, PartitionId, UnixMillis};
use holdfast_registry::{NodeInfo, NodeRole, NodeState};
use holdfast_service_api::events::EventsConfig;
use holdfast_tasks::Phase;
use tokio::io::DuplexStream;

const OWNER: u64 = 7;
const OTHER: u64 = 8;

/// The node with the partitions, and one without.
fn on_two_nodes<F: Future<Output = ()>>(test: impl FnOnce(SimNetwork, Hub, Hub) -> F) {
    on_a_core(|| async {
        let network = SimNetwork::new(1);
        let site = |node| Site {
            node,
            owner: NodeId(OWNER),
            network: network.clone(),
        };
        let owner = Hub::start_at(EventsConfig::default(), site(NodeId(OWNER))).await;
        let other = Hub::start_at(EventsConfig::default(), site(NodeId(OTHER))).await;
        let mut known = other.hub.partitions().watch_owner(PartitionId(3));
        known.wait_for(Option::is_some).await.unwrap();
        test(network, owner, other).await;
    });
}

fn sequence(number: u64, inclusive: bool) -> Start {
    Start::Sequence { number, inclusive }
}

#[test]
fn readers_start_where_they_ask_and_see_later_events_as_they_come() {
    on_two_nodes(|_network, owner, other| async move {
        owner.append_texts(2, &["a", "b", "c"]).await;
        let mut client = other.reader().await;
        let all = client.receive(2, Start::Oldest, &[]).await.unwrap();
        assert_eq!(client.bodies(all, 3).await, ["a", "b", "c"]);
        let later = client.receive(2, Start::Latest, &[]).await.unwrap();
        let middle = client.receive(2, sequence(1, true), &[]).await.unwrap();
        assert_eq!(client.bodies(middle, 2).await, ["b", "c"]);
        owner.append_texts(2, &["d"]).await;
        for link in [all, later, middle] {
            assert_eq!(client.bodies(link, 1).await, ["d"]);
        }
        let (condition, text) = client.receive(2, sequence(9, true), &[]).await.unwrap_err();
        assert_eq!(condition, "com.microsoft:argument-error");
        assert!(
            text.starts_with("The supplied offset '9' is invalid. The last offset in the system is '3'"),
            "{text}"
        );
    });
}

#[test]
fn management_reports_the_owners_state() {
    on_two_nodes(|_network, owner, other| async move {
        owner.append_texts(1, &["a", "b"]).await;
        let mut client = other.reader().await;
        let answer = client.management("hub1", Some("1")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let view = ResponseView::parse(&answer.body).unwrap();
        let Value::Map(map) = view.body else { panic!("{view:?}") };
        assert_eq!(map.get("last_enqueued_sequence_number"), Ok(Some(Value::Long(1))));
        assert_eq!(map.get("is_partition_empty"), Ok(Some(Value::Bool(false))));
        assert_eq!(client.management("hub1", Some("4")).await.status, 400);
    });
}

#[test]
fn epochs_hold_across_nodes() {
    on_two_nodes(|_network, owner, other| async move {
        owner.append_texts(0, &["a"]).await;
        let (mut here, mut there) = (owner.reader().await, other.reader().await);
        let epoch = |epoch| [("com.microsoft:epoch", InfoValue::Long(epoch))];
        let first = here.receive(0, Start::Oldest, &epoch(3)).await.unwrap();
        assert_eq!(here.bodies(first, 1).await, ["a"]);
        let (condition, _) = there.receive(0, Start::Oldest, &epoch(2)).await.unwrap_err();
        assert_eq!(condition, "amqp:link:stolen");
        let second = there.receive(0, Start::Oldest, &epoch(3)).await.unwrap();
        let (condition, text) = here.detached(first).await;
        assert_eq!(condition, "amqp:link:stolen");
        assert!(text.starts_with("New receiver"), "{text}");
        assert_eq!(there.bodies(second, 1).await, ["a"]);
        here.receive(0, Start::Oldest, &epoch(4)).await.unwrap();
        assert_eq!(there.detached(second).await.0, "amqp:link:stolen");
    });
}

#[test]
fn a_connection_continues_while_a_partition_does_not_answer() {
    on_two_nodes(|network, owner, other| async move {
        owner.append_texts(0, &["a"]).await;
        let mut client = other.reader().await;
        network.cut(NodeId(OWNER), NodeId(OTHER));
        let address = format!("amqps://{HOST}/hub1/ConsumerGroups/$Default/Partitions/0");
        let filter = selector::filter_map(&selector::expression(Start::Oldest));
        let mut spec = AttachSpec::receiver("waits", &address);
        spec.source.filter = Raw::new(&filter).ok();
        let waits = client.engine.attach(client.session.unwrap(), &spec).unwrap();
        client.flush().await;
        assert_eq!(client.management("hub1", None).await.status, 200, "answered meanwhile");
        network.heal_all();
        client
            .until(|_, event| matches!(event, Event::Attached { link, .. } if *link == waits).then_some(()))
            .await;
        assert_eq!(client.bodies(waits, 1).await, ["a"]);
    });
}

/// The condition and time of the connection's end.
async fn closed(client: &mut Client<DuplexStream>) -> (String, Duration) {
    let began = Instant::now();
    let condition = client
        .until(|_, event| match event {
            Event::Closed(Some(error)) => Some(error.condition.to_owned()),
            _ => None,
        })
        .await;
    (condition, began.elapsed())
}

#[test]
fn readers_of_a_node_that_stops_lose_their_links_first_and_continue_elsewhere() {
    on_two_nodes(|_network, owner, other| async move {
        owner.append_texts(2, &["a", "b", "c"]).await;
        let mut client = other.reader().await;
        let link = client.receive(2, Start::Oldest, &[]).await.unwrap();
        assert_eq!(client.bodies(link, 2).await, ["a", "b"]);
        other.stop.enter(Phase::Draining);
        let (condition, text) = client.detached(link).await;
        assert_eq!(condition, "amqp:link:detach-forced");
        assert!(text.starts_with("The node is stopping; connect again."), "{text}");
        // The connection is still open; the client has connected elsewhere before it ends.
        let mut elsewhere = owner.reader().await;
        let link = elsewhere.receive(2, sequence(1, false), &[]).await.unwrap();
        owner.append_texts(2, &["d"]).await;
        assert_eq!(elsewhere.bodies(link, 2).await, ["c", "d"]);
        assert_eq!(closed(&mut client).await.0, "amqp:connection:forced");
    });
}

#[test]
fn a_reader_that_attaches_again_at_a_stopping_node_is_sent_away_at_once() {
    on_two_nodes(|_network, owner, other| async move {
        owner.append_texts(2, &["a"]).await;
        let mut client = other.reader().await;
        let link = client.receive(2, Start::Oldest, &[]).await.unwrap();
        other.stop.enter(Phase::Draining);
        client.detached(link).await;
        let address = format!("amqps://{HOST}/hub1/ConsumerGroups/$Default/Partitions/2");
        let again = AttachSpec::receiver("again", &address);
        client.engine.attach(client.session.unwrap(), &again).unwrap();
        client.flush().await;
        let (condition, taken) = closed(&mut client).await;
        assert_eq!(condition, "amqp:connection:forced");
        assert!(taken < Duration::from_millis(500), "{taken:?}");
    });
}

#[test]
fn a_drained_node_sends_its_readers_away_and_serves_those_that_come_back() {
    on_two_nodes(|_network, owner, other| async move {
        owner.append_texts(2, &["a"]).await;
        let info = NodeInfo {
            id: NodeId(OTHER),
            name: "other".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            zone: String::new(),
            version: "1".to_owned(),
            role: NodeRole::Core,
            state: NodeState::Active,
            joined: UnixMillis(0),
        };
        other.registry.found_cluster("c1", 1, &info).await.unwrap();
        let mut client = other.reader().await;
        let link = client.receive(2, Start::Oldest, &[]).await.unwrap();
        assert_eq!(client.bodies(link, 1).await, ["a"]);
        other
            .registry
            .set_node_state(NodeId(OTHER), NodeState::Draining)
            .await
            .unwrap();
        assert_eq!(client.detached(link).await.0, "amqp:link:detach-forced");
        assert_eq!(closed(&mut client).await.0, "amqp:connection:forced");
        let mut again = other.reader().await;
        let link = again.receive(2, sequence(0, false), &[]).await.unwrap();
        owner.append_texts(2, &["b"]).await;
        assert_eq!(again.bodies(link, 1).await, ["b"]);
    });
}
