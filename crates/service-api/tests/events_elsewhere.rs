//! Event Hubs readers on a node that has no replica of what they read.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/events_hub.rs"]
mod events_hub;

use events_hub::{HOST, Hub, Site, on_a_core};
use holdfast_amqp::message::ResponseView;
use holdfast_amqp::selector::{self, Start};
use holdfast_amqp::types::{Raw, Value};
use holdfast_amqp::{AttachSpec, Event, InfoValue};
use holdfast_consensus::sim::SimNetwork;
use holdfast_model::PartitionId;
use holdfast_service_api::events::EventsConfig;

const OWNER: u64 = 7;
const OTHER: u64 = 8;

/// The node with the partitions, and one without.
fn on_two_nodes<F: Future<Output = ()>>(test: impl FnOnce(SimNetwork, Hub, Hub) -> F) {
    on_a_core(|| async {
        let network = SimNetwork::new(1);
        let site = |node| Site {
            node,
            owner: OWNER,
            network: network.clone(),
        };
        let owner = Hub::start_at(EventsConfig::default(), site(OWNER)).await;
        let other = Hub::start_at(EventsConfig::default(), site(OTHER)).await;
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
fn management_tells_what_the_owner_has() {
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
fn a_connection_goes_on_while_a_partition_does_not_answer() {
    on_two_nodes(|network, owner, other| async move {
        owner.append_texts(0, &["a"]).await;
        let mut client = other.reader().await;
        network.cut(OWNER, OTHER);
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
