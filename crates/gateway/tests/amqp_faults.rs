//! Fault-injection messages over AMQP (docs/spec/fault-injection.md), on a simulated cluster and a paused clock.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::time::Duration;

use holdfast_amqp::message::{begin_application_properties, put_data};
use holdfast_amqp::types::{put_int, put_str};
use holdfast_amqp::{AttachSpec, Event, LinkId};
use holdfast_gateway::AmqpConfig;
use holdfast_service_api::events::EventsConfig;
use holdfast_simulation::simulate;
use support::amqp::{Amqp, Device, Verdict, address};
use support::{Bench, DEVICE};
use tokio::time::Instant;

const FORCED: &str = "amqp:link:detach-forced";

fn faulty(bench: &Bench) -> Amqp {
    let config = AmqpConfig {
        fault_injection: true,
        ..AmqpConfig::default()
    };
    Amqp::serve_with(bench, config, EventsConfig::default())
}

/// The message that requests a fault: its delay as a number, as some SDKs send it.
fn fault(kind: &str, delay: i32, duration: &str) -> Vec<u8> {
    let mut buf = Vec::new();
    let mut map = begin_application_properties(&mut buf);
    put_str(map.string_key("AzIoTHub_FaultOperationType"), kind);
    put_str(map.string_key("AzIoTHub_FaultOperationCloseReason"), "boom");
    put_int(map.string_key("AzIoTHub_FaultOperationDelayInSecs"), delay);
    put_str(map.string_key("AzIoTHub_FaultOperationDurationInSecs"), duration);
    map.finish();
    put_data(&mut buf, b"");
    buf
}

impl Device {
    /// Sends the message, which is stored like any other.
    async fn request_fault(&mut self, link: LinkId, message: &[u8]) {
        let id = self.transfer(link, 0, message);
        assert_eq!(self.outcomes(id).await.pop().unwrap().2, Verdict::Accepted);
    }
}

#[test]
fn a_link_is_detached_after_the_delay_and_the_others_go_on() {
    let kinds = [
        ("KillAmqpC2DLink", "messages/devicebound", true),
        ("KillAmqpMethodReqLink", "methods/devicebound", true),
        ("KillAmqpMethodRespLink", "methods/devicebound", false),
        ("KillAmqpTwinLinkReq", "twin", false),
        ("KillAmqpTwinLinkResp", "twin", true),
    ];
    simulate(async move {
        let bench = Bench::start().await;
        let amqp = faulty(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let events = device.sender("events", &address("messages/events")).await;
        for (kind, path, receives) in kinds {
            let link = match receives {
                true => device.receiver(kind, &address(path), 10).await,
                false => device.sender(kind, &address(path)).await,
            };
            let requested = Instant::now();
            device.request_fault(events, &fault(kind, 2, "")).await;
            assert_eq!(device.detached(link).await.0, FORCED, "{kind}");
            assert!(requested.elapsed() >= Duration::from_secs(2), "{kind}");
            assert_eq!(device.sent(events, b"21.5").await, Verdict::Accepted, "{kind}");
        }
        device.request_fault(events, &fault("KillAmqpD2CLink", 0, "")).await;
        assert_eq!(device.detached(events).await.0, FORCED);
        let events = device.sender("again", &address("messages/events")).await;
        assert_eq!(device.sent(events, b"21.5").await, Verdict::Accepted);
    });
}

#[test]
fn links_of_cbs_are_detached() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = faulty(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let events = device.sender("events", &address("messages/events")).await;
        let requests = device.attach(&AttachSpec::sender("requests", "$cbs")).await.unwrap();
        let responses = device.attach(&AttachSpec::receiver("responses", "$cbs")).await.unwrap();
        for (kind, link) in [("KillAmqpCBSLinkReq", requests), ("KillAmqpCBSLinkResp", responses)] {
            device.request_fault(events, &fault(kind, 1, "")).await;
            assert_eq!(device.detached(link).await.0, FORCED, "{kind}");
        }
        assert_eq!(device.sent(events, b"21.5").await, Verdict::Accepted);
        assert_eq!(device.put(&bench.device_token(DEVICE, 3600)).await.status, 200);
    });
}

#[test]
fn sessions_and_connections_end_with_an_error_without_one_or_at_once() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = faulty(&bench);
        for kind in ["KillAmqpSession", "KillAmqpConnection", "ShutDownAmqp", "KillTcp"] {
            let mut device = amqp.connect(&bench, DEVICE).await;
            let events = device.sender("events", &address("messages/events")).await;
            device.request_fault(events, &fault(kind, 1, "")).await;
            let end = device
                .maybe(|_, event| match event {
                    Event::Ended { error, .. } => Some(("session", error.map(|error| error.condition.to_owned()))),
                    Event::Closed(error) => Some(("connection", error.map(|error| error.condition.to_owned()))),
                    _ => None,
                })
                .await;
            let expected = match kind {
                "KillAmqpSession" => Some(("session", Some("amqp:internal-error".to_owned()))),
                "KillAmqpConnection" => Some(("connection", Some("amqp:internal-error".to_owned()))),
                "ShutDownAmqp" => Some(("connection", None)),
                _ => None,
            };
            assert_eq!(end, expected, "{kind}");
        }
        let mut device = amqp.connect(&bench, DEVICE).await;
        let events = device.sender("events", &address("messages/events")).await;
        assert_eq!(device.sent(events, b"21.5").await, Verdict::Accepted);
    });
}

#[test]
fn an_identity_is_refused_for_the_duration_and_its_neighbour_is_not() {
    let kinds = [
        ("InvokeThrottling", "com.microsoft:device-container-throttled"),
        ("InvokeAuthError", "amqp:unauthorized-access"),
    ];
    simulate(async move {
        let bench = Bench::start().await;
        bench.cluster.create("dev-2").await;
        let amqp = faulty(&bench);
        for (kind, condition) in kinds {
            let mut gateway = amqp.connect(&bench, DEVICE).await;
            assert_eq!(gateway.put(&bench.device_token("dev-2", 3600)).await.status, 200);
            let neighbour = gateway.sender("neighbour", "/devices/dev-2/messages/events").await;
            let events = gateway.sender("events", &address("messages/events")).await;
            gateway.request_fault(events, &fault(kind, 1, "20")).await;
            assert_eq!(gateway.detached(events).await.0, condition, "{kind}");
            let refused = gateway
                .attach(&AttachSpec::sender("again", &address("messages/events")))
                .await;
            assert_eq!(refused.unwrap_err().0, condition, "{kind}");
            assert_eq!(gateway.sent(neighbour, b"21.5").await, Verdict::Accepted, "{kind}");
            tokio::time::sleep(Duration::from_secs(21)).await;
            let mut later = amqp.connect(&bench, DEVICE).await;
            let events = later.sender("events", &address("messages/events")).await;
            assert_eq!(later.sent(events, b"21.5").await, Verdict::Accepted, "{kind}");
        }
    });
}

#[test]
fn without_the_setting_and_of_another_protocol_it_is_telemetry() {
    simulate(async {
        let bench = Bench::start().await;
        for (amqp, kind) in [(Amqp::serve(&bench), "KillTcp"), (faulty(&bench), "ShutDownMqtt")] {
            let mut device = amqp.connect(&bench, DEVICE).await;
            let events = device.sender("events", &address("messages/events")).await;
            device.request_fault(events, &fault(kind, 0, "")).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(device.sent(events, b"21.5").await, Verdict::Accepted, "{kind}");
        }
    });
}
