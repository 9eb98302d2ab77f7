//! Hostile and unlucky AMQP clients on a simulated cluster and a paused clock: bounded links, frames and guesses; random input beside a
//! device that must not notice; and what a live trace shows.
//!
//! `HOLDFAST_SEEDS=n` runs n random connections instead of a few, `HOLDFAST_SEED=s` the one of that seed.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]
#![expect(clippy::disallowed_methods, reason = "the environment says which seeds to run")]

mod support;

use std::time::{Duration, Instant};

use holdfast_amqp::{AttachSpec, Detached, Event, Role};
use holdfast_auth::sign;
use holdfast_device_hub::{TraceKind, TraceRequest};
use holdfast_model::NodeId;
use holdfast_simulation::{HOST, identity, simulate};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use support::amqp::{Amqp, Verdict, address};
use support::{Bench, DEVICE, NODE};

#[test]
fn of_many_links_to_one_address_one_stays_and_the_device_works_on() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let path = address("messages/events");
        let session = device.session.unwrap();
        let names: Vec<String> = (0..50).map(|number| format!("link-{number}")).collect();
        for name in &names {
            device.engine.attach(session, &AttachSpec::sender(name, &path)).unwrap();
        }
        device.flush().await;
        let mut gone = 0;
        device
            .until(|_, event| {
                // Those of `$cbs` are detached without an error.
                if let Event::Detached { error: Some(error), .. } = event {
                    let condition = error.condition;
                    assert!(
                        matches!(condition, "amqp:link:stolen" | "amqp:not-allowed"),
                        "{condition}"
                    );
                    gone += 1;
                }
                (gone == names.len() - 1).then_some(())
            })
            .await;
        let link = device.sender("last", &path).await;
        assert_eq!(device.sent(link, b"21.5").await, Verdict::Accepted);
    });
}

#[test]
fn a_frame_larger_than_agreed_ends_its_connection_and_no_other() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.create("dev-2").await;
        let amqp = Amqp::serve(&bench);
        let mut neighbour = amqp.connect(&bench, "dev-2").await;
        let link = neighbour.sender("events", "/devices/dev-2/messages/events").await;
        for size in [65_537_u32, u32::MAX, 7] {
            let mut device = amqp.connect(&bench, DEVICE).await;
            device.sender("events", &address("messages/events")).await;
            let mut frame = size.to_be_bytes().to_vec();
            frame.extend_from_slice(&[2, 0, 0, 0]);
            device.raw(&frame).await;
            assert_eq!(device.closed().await.0, "amqp:connection:framing-error", "{size}");
            assert_eq!(neighbour.sent(link, b"21.5").await, Verdict::Accepted, "{size}");
        }
    });
}

#[test]
fn a_wrong_token_that_is_repeated_is_answered_later_and_later_and_the_right_one_at_once() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let wrong = sign(&format!("{HOST}/devices/{DEVICE}"), &[7; 32], None, 4_000_000_000);
        let mut took = Vec::new();
        for _ in 0..12 {
            let mut device = amqp.open().await;
            let began = tokio::time::Instant::now();
            assert_eq!(device.put(&wrong).await.status, 401);
            took.push(began.elapsed());
            let began = tokio::time::Instant::now();
            amqp.connect(&bench, DEVICE).await;
            assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
        }
        assert!(took[0] < Duration::from_millis(200), "{took:?}");
        assert!(took[11] >= Duration::from_secs(1), "{took:?}");
    });
}

#[test]
fn a_trace_shows_the_messages_and_the_end_of_a_device() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let hub = bench.cluster.hub(NodeId(NODE));
        let id = identity(DEVICE);
        let request = TraceRequest {
            identity: &id,
            number: 1,
            left: Duration::from_secs(60),
            payloads: true,
        };
        hub.take_trace(&request).await.unwrap();
        let mut device = amqp.connect(&bench, DEVICE).await;
        let link = device.sender("events", &address("messages/events")).await;
        assert_eq!(device.sent(link, b"21.5").await, Verdict::Accepted);
        device.engine.detach(link, Detached::Closed, None, Instant::now());
        device.flush().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let events = hub.take_trace(&request).await.unwrap().events;
        let has = |kind, text: &str| {
            events
                .iter()
                .any(|event| event.kind == kind && event.text.contains(text))
        };
        assert!(has(TraceKind::Received, "transfer of 1 messages"), "{events:?}");
        assert!(has(TraceKind::Decided, "session ended"), "{events:?}");
        let payload = events.iter().find_map(|event| event.payload.as_ref());
        assert_eq!(payload.map(|payload| &payload[..]), Some(&b"21.5"[..]));
    });
}

/// Addresses of devices, of others, and of none.
const PATHS: [&str; 9] = [
    "/devices/dev-1/messages/events",
    "/devices/dev-1/messages/devicebound",
    "/devices/dev-1/methods/devicebound",
    "/devices/dev-1/twin",
    "/devices/dev-1/modules/m/messages/events",
    "/devices/dev-2/messages/events",
    "/devices/unknown/twin",
    "$cbs",
    "/messages/events",
];

/// One connection that does whatever it likes: attaches, sends, settles, grants, detaches, ends, puts tokens, and at last writes garbage.
async fn wild(bench: &Bench, amqp: &Amqp, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut device = match rng.random_bool(0.8) {
        true => amqp.connect(bench, DEVICE).await,
        false => amqp.open().await,
    };
    let mut links = Vec::new();
    for step in 0..rng.random_range(5..120) {
        let now = Instant::now();
        match rng.random_range(0..13) {
            0..=3 => {
                let path = PATHS.choose(&mut rng).unwrap();
                let name = format!("{step}");
                let pair = match rng.random() {
                    true => AttachSpec::sender(&name, path),
                    false => AttachSpec::receiver(&name, path),
                };
                if let Some(session) = device.session
                    && let Some(link) = device.engine.attach(session, &pair)
                {
                    links.push((link, pair.role));
                }
            }
            4..=6 => {
                if let Some((link, Role::Sender)) = links.choose(&mut rng) {
                    let delivery = holdfast_amqp::Delivery {
                        tag: b"tag",
                        settled: rng.random(),
                        message_format: if rng.random_bool(0.2) { 0x8001_3700 } else { 0 },
                    };
                    let length = rng.random_range(0..3000);
                    let bytes: Vec<u8> = match rng.random() {
                        true => (0..length).map(|_| rng.random()).collect(),
                        false => {
                            let mut message = Vec::new();
                            holdfast_amqp::message::put_data(&mut message, &vec![1; length]);
                            message
                        }
                    };
                    let _ = device
                        .engine
                        .send_with(*link, &delivery, |buf| buf.extend_from_slice(&bytes));
                }
            }
            7 => {
                if let Some((link, _)) = links.choose(&mut rng) {
                    device.engine.grant(*link, rng.random_range(0..2000));
                }
            }
            8 => {
                if let Some((link, _)) = links.choose(&mut rng) {
                    device.engine.drain(*link);
                }
            }
            9 => {
                if let Some((link, _)) = links.choose(&mut rng) {
                    let how = if rng.random() {
                        Detached::Closed
                    } else {
                        Detached::Suspended
                    };
                    device.engine.detach(*link, how, None, now);
                }
            }
            10 => {
                if rng.random_bool(0.3)
                    && let Some(session) = device.session.take()
                {
                    device.engine.end(session, None);
                    device.session = device.engine.begin();
                }
            }
            _ => {
                device.flush().await;
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
                // Whatever the hub has sent meanwhile.
                let mut events = 0;
                let waited = device.maybe(|_, _| {
                    events += 1;
                    (events > 3).then_some(())
                });
                let _ = tokio::time::timeout(Duration::from_millis(50), waited).await;
            }
        }
        device.flush().await;
    }
    let garbage: Vec<u8> = (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
    device.raw(&garbage).await;
}

#[test]
fn random_connections_end_no_other_and_leave_nothing_behind() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("HOLDFAST_SEED").unwrap_or_else(rand::random);
    let count = match number("HOLDFAST_SEED") {
        Some(_) => 1,
        None => number("HOLDFAST_SEEDS").unwrap_or(60),
    };
    eprintln!("random connections: HOLDFAST_SEED={first}, {count} of them");
    simulate(async move {
        let bench = Bench::start().await;
        bench.cluster.create("dev-2").await;
        let amqp = Amqp::serve(&bench);
        let mut neighbour = amqp.connect(&bench, "dev-2").await;
        let link = neighbour.sender("events", "/devices/dev-2/messages/events").await;
        for seed in first..first.saturating_add(count) {
            wild(&bench, &amqp, seed).await;
            neighbour.credit(link).await;
            assert_eq!(
                neighbour.sent(link, b"21.5").await,
                Verdict::Accepted,
                "HOLDFAST_SEED={seed}"
            );
        }
        // The device that shared its name with all of them still connects and sends.
        let mut device = amqp.connect(&bench, DEVICE).await;
        let link = device.sender("events", &address("messages/events")).await;
        assert_eq!(device.sent(link, b"21.5").await, Verdict::Accepted);
        device.engine.detach(link, Detached::Closed, None, Instant::now());
        device.flush().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let diagnosis = bench.cluster.hub(NodeId(NODE)).diagnose(&identity(DEVICE)).await;
        assert!(diagnosis.session.is_none(), "a session without a connection");
    });
}
