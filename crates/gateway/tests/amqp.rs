//! Devices and modules over AMQP, on a simulated cluster and a paused clock: credentials, links, messages, and the ends of
//! sessions.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::time::{Duration, Instant};

use holdfast_amqp::message::{BATCH_FORMAT, put_data, put_value};
use holdfast_amqp::types::put_long;
use holdfast_amqp::{AttachSpec, ClientSasl, Detached, Event, InfoValue};
use holdfast_auth::sign;
use holdfast_device_hub::{Operation, Protocol, ThrottlesConfig};
use holdfast_gateway::AmqpConfig;
use holdfast_model::limits::MAX_TELEMETRY_BYTES;
use holdfast_model::{IdentityId, ModuleId, NodeId, Rate, RefusalReason};
use holdfast_registry::{IdentityContent, IdentityWrite, WriteOperation};
use holdfast_service_api::events::EventsConfig;
use holdfast_simulation::{HOST, Setup, identity, simulate};
use holdfast_tasks::Phase;
use support::amqp::{Amqp, Verdict, address};
use support::{Bench, DEVICE, NODE};

const UNAUTHORIZED: &str = "amqp:unauthorized-access";

async fn create_module(bench: &Bench, name: &str) -> IdentityId {
    let id = IdentityId {
        module: Some(ModuleId::parse(name).unwrap()),
        ..identity(DEVICE)
    };
    let write = IdentityWrite {
        id: id.clone(),
        operation: WriteOperation::Create(IdentityContent::default()),
    };
    bench.cluster.nodes[&NodeId(NODE)].registry.write(write).await.unwrap();
    id
}

/// Whether the node knows a session of the identity.
async fn is_connected(bench: &Bench, device: &str) -> bool {
    bench
        .cluster
        .hub(NodeId(NODE))
        .diagnose(&identity(device))
        .await
        .session
        .is_some()
}

#[test]
fn a_session_begins_with_the_first_link_and_ends_with_the_last() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        assert!(!is_connected(&bench, DEVICE).await, "a token is no session");
        let link = device.sender("events", &address("messages/events")).await;
        let live = bench.cluster.hub(NodeId(NODE)).diagnose(&identity(DEVICE)).await;
        assert_eq!(live.session.unwrap().protocol, Protocol::Amqp);
        assert_eq!(device.sent(link, b"21.5").await, Verdict::Accepted);
        device.engine.detach(link, Detached::Closed, None, Instant::now());
        device.flush().await;
        while is_connected(&bench, DEVICE).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn messages_are_accepted_in_ranges_after_their_commit() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let link = device.sender("events", &address("messages/events")).await;
        let before = bench.cluster.events(NodeId(NODE), DEVICE).await.len();
        let first = device.telemetry(link, b"0");
        let last = (1..50).map(|_| device.telemetry(link, b"1")).last().unwrap();
        let ranges = device.outcomes(last).await;
        assert!(ranges.len() < 10, "{ranges:?}");
        assert_eq!((ranges[0].0, ranges.last().unwrap().1), (first, last));
        assert!(ranges.iter().all(|(_, _, verdict)| *verdict == Verdict::Accepted));
        assert_eq!(bench.cluster.events(NodeId(NODE), DEVICE).await.len(), before + 50);
        // More than the first credit.
        for _ in 0..300 {
            device.credit(link).await;
            assert_eq!(device.sent(link, b"2").await, Verdict::Accepted);
        }
    });
}

#[test]
fn a_batch_has_one_outcome() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let link = device.sender("events", &address("messages/events")).await;
        let before = bench.cluster.events(NodeId(NODE), DEVICE).await.len();
        let mut batch = Vec::new();
        for body in [b"1", b"2"] {
            let mut member = Vec::new();
            put_data(&mut member, body);
            put_data(&mut batch, &member);
        }
        let id = device.transfer(link, BATCH_FORMAT, &batch);
        assert_eq!(device.outcomes(id).await, [(id, id, Verdict::Accepted)]);
        assert_eq!(bench.cluster.events(NodeId(NODE), DEVICE).await.len(), before + 2);
        put_data(&mut batch, b"garbage");
        let id = device.transfer(link, BATCH_FORMAT, &batch);
        let rejected = Verdict::Rejected("amqp:decode-error".to_owned());
        assert_eq!(device.outcomes(id).await, [(id, id, rejected)]);
        assert_eq!(bench.cluster.events(NodeId(NODE), DEVICE).await.len(), before + 2);
    });
}

#[test]
fn bad_messages_are_rejected_one_by_one_and_the_link_lives_on() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let link = device.sender("events", &address("messages/events")).await;
        let large = device.telemetry(link, &vec![0; MAX_TELEMETRY_BYTES]);
        let mut number = Vec::new();
        put_value(&mut number, |buf| put_long(buf, 7));
        let number = device.transfer(link, 0, &number);
        let garbage = device.transfer(link, 0, b"garbage");
        let outcomes = device.outcomes(garbage).await;
        let rejected = |condition: &str| Verdict::Rejected(condition.to_owned());
        assert_eq!(
            outcomes,
            [
                (large, large, rejected("amqp:link:message-size-exceeded")),
                (number, number, rejected("com.microsoft:argument-error")),
                (garbage, garbage, rejected("amqp:decode-error")),
            ]
        );
        assert_eq!(device.sent(link, b"good").await, Verdict::Accepted);
        let refusals = bench.diagnosis(DEVICE).await;
        assert!(refusals.is_empty(), "they are no refusals of credentials: {refusals:?}");
    });
}

#[test]
fn addresses_are_opened_by_their_own_identity_alone() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.create("dev-2").await;
        let module = create_module(&bench, "m1").await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        for path in ["/devices/dev-2/messages/events", "/devices/unknown/messages/events"] {
            let (condition, _) = device.attach(&AttachSpec::sender("foreign", path)).await.unwrap_err();
            assert_eq!(condition, UNAUTHORIZED, "{path}");
        }
        // The device's own token does not open its module.
        let of_module = address("modules/m1/messages/events");
        let refused = device
            .attach(&AttachSpec::sender("module", &of_module))
            .await
            .unwrap_err();
        assert_eq!(refused.0, UNAUTHORIZED);
        let answer = device.put(&bench.identity_token(&module, 3600)).await;
        assert_eq!(answer.status, 200);
        let link = device.sender("module", &of_module).await;
        assert_eq!(device.sent(link, b"from a module").await, Verdict::Accepted);
        // Modules listen for inputs; devices have none.
        device
            .attach(&AttachSpec::receiver("inputs", &of_module))
            .await
            .unwrap();
        let inputs = address("messages/events");
        let refused = device
            .attach(&AttachSpec::receiver("inputs-2", &inputs))
            .await
            .unwrap_err();
        assert_eq!(refused.0, "amqp:not-allowed");
        // Without any credential.
        let mut nobody = amqp.open().await;
        let refused = nobody
            .attach(&AttachSpec::sender("events", &address("messages/events")))
            .await;
        assert_eq!(refused.unwrap_err().0, UNAUTHORIZED);
    });
}

#[test]
fn wrong_tokens_are_refused_and_diagnosed() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.open().await;
        let resource = format!("{HOST}/devices/{DEVICE}");
        let wrong = sign(&resource, &[7; 32], None, 4_000_000_000);
        let answer = device.put(&wrong).await;
        assert_eq!((answer.status, answer.condition.as_deref()), (401, Some(UNAUTHORIZED)));
        let expired = bench.device_token(DEVICE, 0);
        tokio::time::sleep(Duration::from_secs(301)).await;
        // A connection without any credential is not kept that long.
        let mut device = amqp.open().await;
        assert_eq!(device.put(&expired).await.status, 401);
        let refusals = bench.diagnosis(DEVICE).await;
        let reasons: Vec<_> = refusals.iter().map(|refusal| refusal.reason).collect();
        assert!(reasons.contains(&RefusalReason::Signature) && reasons.contains(&RefusalReason::Expired));
        assert!(refusals.iter().all(|refusal| refusal.protocol == Protocol::Amqp));
        assert!(refusals.iter().all(|refusal| refusal.operation == Operation::Connect));
        assert_eq!(device.put(&bench.device_token(DEVICE, 3600)).await.status, 200);
    });
}

#[test]
fn sasl_plain_opens_a_device_and_a_wrong_password_does_not() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let plain = |password: String| ClientSasl::Plain {
            user: format!("{DEVICE}@sas.{HOST}"),
            password,
        };
        let mut device = amqp.open_as(plain(bench.device_token(DEVICE, 3600)), None).await;
        let link = device.sender("events", &address("messages/events")).await;
        assert_eq!(device.sent(link, b"21.5").await, Verdict::Accepted);
    });
}

#[test]
fn a_policy_opens_all_devices() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.create("dev-2").await;
        let amqp = Amqp::serve(&bench);
        for name in ["device", "iothubowner"] {
            let policy = bench.cluster.hub(NodeId(NODE)).registry().policy(name).unwrap();
            let now = bench.cluster.hub(NodeId(NODE)).clock().now().0 / 1000;
            let token = sign(HOST, policy.keys.primary.as_bytes(), Some(name), now + 3600);
            let mut client = amqp.open().await;
            assert_eq!(client.put(&token).await.status, 200, "{name}");
            for device in [DEVICE, "dev-2"] {
                let path = format!("/devices/{device}/messages/events");
                let link = client.sender(&format!("{name}-{device}"), &path).await;
                assert_eq!(client.sent(link, b"21.5").await, Verdict::Accepted, "{name} {device}");
            }
        }
    });
}

#[test]
fn one_identity_of_a_connection_ends_and_the_others_go_on() {
    simulate(async {
        let bench = Bench::start().await;
        for number in 2..=20 {
            bench.cluster.create(&format!("dev-{number}")).await;
        }
        let amqp = Amqp::serve(&bench);
        let mut gateway = amqp.open().await;
        let mut links = Vec::new();
        for number in 1..=20 {
            let device = format!("dev-{number}");
            assert_eq!(gateway.put(&bench.device_token(&device, 3600)).await.status, 200);
            let path = format!("/devices/{device}/messages/events");
            links.push(gateway.sender(&device, &path).await);
        }
        bench.cluster.delete("dev-7").await;
        let (condition, _) = gateway.detached(links[6]).await;
        assert_eq!(condition, UNAUTHORIZED);
        for (index, link) in links.iter().enumerate().filter(|(index, _)| *index != 6) {
            assert_eq!(gateway.sent(*link, b"21.5").await, Verdict::Accepted, "{index}");
        }
        // The token of the deleted device opens nothing.
        let again = gateway
            .attach(&AttachSpec::sender("again", "/devices/dev-7/messages/events"))
            .await;
        assert_eq!(again.unwrap_err().0, UNAUTHORIZED);
    });
}

#[test]
fn a_newer_connection_takes_the_place_of_an_older_one_over_any_protocol() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut first = amqp.connect(&bench, DEVICE).await;
        let link = first.sender("events", &address("messages/events")).await;
        let mut mqtt = bench.connect().await;
        assert_eq!(first.detached(link).await.0, "com.microsoft:link-creation-conflict");
        mqtt.send(&support::telemetry(1)).await;
        assert_eq!(mqtt.pubacks(1).await, [1]);
        let mut second = amqp.connect(&bench, DEVICE).await;
        let link = second.sender("events", &address("messages/events")).await;
        assert_eq!(second.sent(link, b"21.5").await, Verdict::Accepted);
        assert!(mqtt.rest().await.is_empty(), "the hub has closed the MQTT connection");
        let superseded = bench.diagnosis(DEVICE).await;
        let by = |protocol| {
            let of = |record: &&holdfast_device_hub::AuditRecord| record.reason == RefusalReason::Superseded;
            superseded.iter().filter(of).any(|record| record.protocol == protocol)
        };
        assert!(by(Protocol::Amqp) && by(Protocol::MqttWs), "{superseded:?}");
    });
}

#[test]
fn a_second_link_to_an_address_takes_the_place_of_the_first() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let first = device.sender("first", &address("messages/events")).await;
        let path = address("messages/events");
        let session = device.session.unwrap();
        let second = device
            .engine
            .attach(session, &AttachSpec::sender("second", &path))
            .unwrap();
        device.flush().await;
        assert_eq!(device.detached(first).await.0, "amqp:link:stolen");
        device.credit(second).await;
        assert_eq!(device.sent(second, b"21.5").await, Verdict::Accepted);
        // Unless it says that it belongs to the same pair.
        let mut spec = AttachSpec::sender("third", &path);
        let properties = [("com.microsoft:channel-correlation-id", InfoValue::Text("pair"))];
        spec.properties = &properties;
        device.attach(&spec).await.unwrap();
        spec.name = "fourth";
        let refused = device.attach(&spec).await.unwrap_err();
        assert_eq!(refused.0, "com.microsoft:link-creation-conflict");
    });
}

#[test]
fn a_token_that_ends_takes_the_session_with_it_and_a_renewed_one_does_not() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.open().await;
        assert_eq!(device.put(&bench.device_token(DEVICE, 60)).await.status, 200);
        let link = device.sender("events", &address("messages/events")).await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!(device.put(&bench.device_token(DEVICE, 60)).await.status, 200);
        // The grace for clocks is 300 s.
        for number in 0..3 {
            tokio::time::sleep(Duration::from_secs(110)).await;
            assert_eq!(device.sent(link, b"21.5").await, Verdict::Accepted, "{number}");
        }
        tokio::time::sleep(Duration::from_secs(100)).await;
        let (condition, text) = device.detached(link).await;
        assert_eq!(condition, UNAUTHORIZED);
        assert!(
            text.starts_with("ExpiredToken: The token is expired. TrackingId:"),
            "{text}"
        );
    });
}

#[test]
fn the_number_of_identities_of_a_connection_is_bounded() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve_with(
            &bench,
            AmqpConfig {
                max_identities: 1,
                ..AmqpConfig::default()
            },
            EventsConfig::default(),
        );
        bench.cluster.create("dev-2").await;
        let mut client = amqp.connect(&bench, DEVICE).await;
        client.sender("first", &address("messages/events")).await;
        assert_eq!(client.put(&bench.device_token("dev-2", 3600)).await.status, 200);
        let path = "/devices/dev-2/messages/events";
        let refused = client.attach(&AttachSpec::sender("second", path)).await.unwrap_err();
        assert_eq!(refused.0, "amqp:resource-limit-exceeded");
        assert!(refused.1.contains("amqp.max_identities"), "{}", refused.1);
    });
}

#[test]
fn a_throttled_device_is_accepted_later_and_then_rejected() {
    simulate(async {
        let throttles = ThrottlesConfig {
            device_d2c_sends: Some(Rate::PerSecond(2)),
            ..ThrottlesConfig::default()
        };
        let bench = Bench::start_as(Setup {
            throttles,
            ..Setup::default()
        })
        .await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let link = device.sender("events", &address("messages/events")).await;
        for _ in 0..90 {
            device.telemetry(link, b"1");
        }
        let (mut accepted, mut rejected) = (0, 0);
        let began = tokio::time::Instant::now();
        while accepted + rejected < 90 {
            for (first, end, verdict) in device.outcomes(0).await {
                match verdict {
                    Verdict::Accepted => accepted += end - first + 1,
                    Verdict::Rejected(condition) => {
                        assert_eq!(condition, "com.microsoft:device-container-throttled");
                        rejected += end - first + 1;
                    }
                }
            }
        }
        assert!(
            accepted >= 20 && rejected >= 40,
            "{accepted} accepted, {rejected} rejected"
        );
        assert!(
            began.elapsed() >= Duration::from_secs(5),
            "what waits is accepted at its turn"
        );
        assert_eq!(
            bench.cluster.events(NodeId(NODE), DEVICE).await.len(),
            accepted as usize
        );
    });
}

#[test]
fn a_node_that_stops_accepts_what_it_has_and_sends_devices_away() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let link = device.sender("events", &address("messages/events")).await;
        let id = device.telemetry(link, b"21.5");
        device.flush().await;
        tokio::task::yield_now().await;
        amqp.stop.enter(Phase::Draining);
        assert_eq!(device.outcomes(id).await.pop().unwrap().2, Verdict::Accepted);
        assert_eq!(device.detached(link).await.0, "amqp:link:detach-forced");
        let closed = device.until(|_, event| match event {
            Event::Closed(Some(error)) => Some(error.condition.to_owned()),
            _ => None,
        });
        assert_eq!(closed.await, "amqp:connection:forced");
    });
}
