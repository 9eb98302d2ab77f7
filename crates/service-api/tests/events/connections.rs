//! How connections end: unauthenticated, too many, broken, or because the node stops.

use std::time::Duration;

use holdfast_amqp::ClientSasl;
use holdfast_amqp::selector::Start;
use holdfast_service_api::events::EventsConfig;
use holdfast_tasks::Phase;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::events_hub::{Hub, on_a_core};
use crate::on_a_hub;

#[test]
fn an_unauthenticated_connection_is_closed_with_the_text_of_event_hubs() {
    on_a_core(|| async {
        let config = EventsConfig {
            unauthenticated_timeout: Duration::from_millis(200),
            ..EventsConfig::default()
        };
        let hub = Hub::start(config).await;
        let mut kept = hub.reader().await;
        let mut client = hub.connect(ClientSasl::Anonymous).await;
        let (condition, text) = client.closed().await;
        assert_eq!(condition, "amqp:connection:forced");
        assert!(
            text.starts_with("The connection was inactive for more than the allowed 200 milliseconds"),
            "{text}"
        );
        assert!(kept.receive(0, Start::Oldest, &[]).await.is_ok());
    });
}

#[test]
fn the_longest_silent_connection_makes_room_for_others() {
    on_a_core(|| async {
        let hub = Hub::start(EventsConfig {
            max_unauthenticated: 2,
            ..EventsConfig::default()
        })
        .await;
        let mut silent = hub.raw();
        let _second = hub.raw();
        let mut third = hub.reader().await;
        let mut bytes = [0; 64];
        assert_eq!(silent.read(&mut bytes).await.unwrap(), 0);
        assert!(third.receive(0, Start::Oldest, &[]).await.is_ok());
    });
}

#[test]
fn nonsense_and_a_stopping_node_end_connections_and_nothing_else() {
    on_a_hub(|hub| async move {
        let mut client = hub.reader().await;
        for nonsense in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xff; 5000],
            b"AMQP\x00\x01\x00\x00\xff\xff\xff\xff".to_vec(),
        ] {
            let mut stream = hub.raw();
            stream.write_all(&nonsense).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer.len() < 200);
        }
        hub.stop.enter(Phase::Draining);
        assert_eq!(client.closed().await.0, "amqp:connection:forced");
    });
}
