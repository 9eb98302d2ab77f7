//! The reader against an Event-Hubs-compatible endpoint of the test's own.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/event_hub.rs"]
mod event_hub;

use event_hub::{EventServer, Stored};
use holdfast_amqp::selector::Start;
use holdfast_client::connection_file::{ConnectionFile, Ports};
use holdfast_swarm::events::EventHub;
use holdfast_swarm::hub::Hub;
use holdfast_swarm::ledger::{Ledger, Span};
use holdfast_swarm::marker::{FILLER, MessageMarker};
use holdfast_swarm::read::{Until, timed, verify};
use holdfast_swarm::target::Transport;

const EVENTS: u64 = 12_000;
const SIZE: usize = 64;

/// The messages of two devices, each alone in its partition.
fn stored(device: u32) -> Vec<Stored> {
    let event = |number| {
        let mut body = vec![FILLER; SIZE];
        MessageMarker {
            run: 5,
            device,
            epoch: 0,
            number,
            sent_us: 0,
        }
        .write(&mut body);
        (format!("d{device:07}"), body)
    };
    (0..EVENTS).map(event).collect()
}

fn ledger() -> Ledger {
    let mut ledger = Ledger::new(5, "d", SIZE);
    for device in [0, 1] {
        let span = Span {
            epoch: 0,
            first: 0,
            sent_below: EVENTS,
            acknowledged_below: EVENTS,
            acknowledged_early: Vec::new(),
            is_sessionless: false,
        };
        ledger.devices.insert(device, vec![span]);
    }
    ledger
}

async fn endpoint(partitions: Vec<Vec<Stored>>, token_prefix: &str) -> EventHub {
    let server = EventServer {
        partitions,
        token_prefix: token_prefix.to_owned(),
    };
    let address = server.start().await;
    let hub = Hub(ConnectionFile {
        host_name: "localhost".to_owned(),
        event_hub: "Endpoint=sb://localhost/;SharedAccessKeyName=service;SharedAccessKey=a2V5;EntityPath=localhost"
            .to_owned(),
        ports: Ports {
            amqp_plain: Some(address.port()),
            ..Ports::default()
        },
        ..ConnectionFile::default()
    });
    EventHub::of(&hub, Transport::Plain).unwrap()
}

const TOKEN: &str = "SharedAccessSignature sr=sb%3A%2F%2Flocalhost%2Flocalhost&sig=";

#[tokio::test]
async fn all_partitions_are_read_to_their_ends_and_a_missing_event_is_noticed() {
    let hub = endpoint(vec![stored(0), Vec::new(), stored(1)], TOKEN).await;
    let verdict = verify(&hub, &ledger()).await.unwrap();
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!((verdict.events, verdict.acknowledged), (2 * EVENTS, 2 * EVENTS));

    let mut short = stored(1);
    short.remove(7000);
    let hub = endpoint(vec![stored(0), short], TOKEN).await;
    let verdict = verify(&hub, &ledger()).await.unwrap();
    assert_eq!((verdict.lost, verdict.doubled, verdict.gaps), (1, 0, 0), "{verdict}");
}

#[tokio::test]
async fn a_timed_reading_begins_and_ends_at_the_given_positions() {
    let hub = endpoint(vec![stored(0)], TOKEN).await;
    let mut client = hub.connect().await.unwrap();
    for _ in 0..2 {
        let start = Start::Sequence {
            number: 10,
            inclusive: true,
        };
        let reading = timed(&mut client, "0", start, Until::Sequence(9_999), || Ok(()))
            .await
            .unwrap();
        assert_eq!((reading.events, reading.body_bytes), (9_990, 9_990 * SIZE as u64));
    }
}

#[tokio::test]
async fn refusals_carry_the_words_of_the_hub() {
    let hub = endpoint(vec![stored(0)], "another token").await;
    let error = format!("{:#}", hub.connect().await.err().unwrap());
    assert!(error.contains("401") && error.contains("not that token"), "{error}");

    let hub = endpoint(vec![stored(0)], TOKEN).await;
    let mut client = hub.connect().await.unwrap();
    let error = format!("{:#}", client.receive("9", Start::Oldest).await.unwrap_err());
    assert!(error.contains("no such partition"), "{error}");
}
