//! Rates on MQTT: acknowledgements that come later, answers with 429, CONNACK 3, and closed connections.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_device_hub::ThrottlesConfig;
use holdfast_gateway::{UploadLocation, UploadStorage, UploadedBlob};
use holdfast_model::{ErrorCode, HumanDuration, NodeId, Rate, RefusalReason, UnixMillis};
use holdfast_mqtt::codec::{Packet, Publish, QoS};
use holdfast_simulation::{Setup, simulate};
use support::https::Https;
use support::{Bench, DEVICE, Device, encoded, publish, telemetry};
use tokio::time::Instant;

/// The rates below are those of three nodes, of which each has a third as long as nothing has been asked.
async fn bench(throttles: ThrottlesConfig) -> Bench {
    Bench::start_as(Setup {
        throttles,
        ..Setup::default()
    })
    .await
}

fn sends(rate: Rate, max_wait: u64) -> ThrottlesConfig {
    ThrottlesConfig {
        d2c_sends: Some(rate),
        max_wait: HumanDuration::secs(max_wait),
        ..ThrottlesConfig::default()
    }
}

fn numbered(id: u16, qos: QoS) -> Vec<u8> {
    let payload = id.to_string();
    encoded(&Packet::Publish(Publish {
        qos,
        topic: "devices/dev-1/messages/events/",
        packet_id: (qos != QoS::AtMostOnce).then_some(id),
        payload: payload.as_bytes(),
        ..Publish::default()
    }))
}

async fn send_all(device: &mut Device, ids: std::ops::RangeInclusive<u16>) {
    for id in ids {
        device.send(&numbered(id, QoS::AtLeastOnce)).await;
    }
}

#[test]
fn a_burst_is_acknowledged_at_once_and_what_follows_at_the_rate_in_order() {
    simulate(async {
        let bench = bench(sends(Rate::PerSecond(6), 10)).await;
        let mut device = bench.connect().await;
        let began = Instant::now();
        send_all(&mut device, 1..=120).await;
        assert_eq!(device.pubacks(120).await, (1..=120).collect::<Vec<_>>());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let began = Instant::now();
        send_all(&mut device, 121..=160).await;
        // The window does not fill, so that a ping is answered although messages before it wait.
        device.send(&[0xC0, 0]).await;
        let mut acks = Vec::new();
        let mut pong = None;
        while acks.len() < 40 {
            let first = device.receive(2).await;
            if first[0] == 0xD0 {
                pong = Some(began.elapsed());
            } else {
                let id = device.receive(2).await;
                acks.push(u16::from_be_bytes([id[0], id[1]]));
            }
        }
        assert_eq!(acks, (121..=160).collect::<Vec<_>>());
        let took = began.elapsed();
        assert!(
            (4..=21).contains(&took.as_secs()),
            "40 messages at 2/s, or more when the share has followed the demand: {took:?}"
        );
        assert!(pong.unwrap() < took, "{pong:?}");
        let stored = bench.cluster.events(NodeId(1), DEVICE).await;
        assert_eq!(stored, (1..=160).collect::<Vec<_>>());
    });
}

#[test]
fn a_message_without_acknowledgement_is_lost_beyond_the_rate() {
    simulate(async {
        let bench = bench(sends(Rate::PerMinute(90), 10)).await;
        let mut device = bench.connect().await;
        for id in 1..=50 {
            device.send(&numbered(id, QoS::AtMostOnce)).await;
        }
        device.send(&numbered(51, QoS::AtLeastOnce)).await;
        assert_eq!(device.pubacks(1).await, [51]);
        let stored = bench.cluster.events(NodeId(1), DEVICE).await;
        let expected: Vec<u64> = (1..=30).chain([51]).collect();
        assert_eq!(stored, expected);
    });
}

#[test]
fn a_device_that_sends_on_and_on_is_not_read_and_then_closed_with_the_reason() {
    simulate(async {
        let bench = bench(sends(Rate::PerMinute(6), 5)).await;
        let mut device = bench.connect().await;
        let began = Instant::now();
        send_all(&mut device, 1..=5).await;
        assert_eq!(device.rest().await, [0x40, 2, 0, 1, 0x40, 2, 0, 2]);
        let took = began.elapsed();
        assert!((5..8).contains(&took.as_secs()), "{took:?}");
        let records = bench.diagnosis(DEVICE).await;
        let record = records
            .iter()
            .find(|record| record.reason == RefusalReason::Throttled)
            .unwrap();
        assert_eq!(record.code, ErrorCode::ThrottlingBacklogTimeout);
        let detail = record.detail.as_deref().unwrap();
        assert!(detail.contains("throttles.max_wait"), "{detail}");
        assert_eq!(bench.cluster.events(NodeId(1), DEVICE).await, [1, 2]);
    });
}

#[test]
fn the_rate_of_a_device_counts_for_each_alone_and_begins_with_a_second_of_it() {
    simulate(async {
        let bench = bench(ThrottlesConfig {
            device_d2c_sends: Some(Rate::PerSecond(5)),
            max_wait: HumanDuration::secs(0),
            ..ThrottlesConfig::default()
        })
        .await;
        for _ in 0..2 {
            let mut device = bench.connect().await;
            send_all(&mut device, 1..=5).await;
            assert_eq!(device.pubacks(5).await, [1, 2, 3, 4, 5]);
            send_all(&mut device, 6..=6).await;
            assert_eq!(device.rest().await, b"");
        }
        let records = bench.diagnosis(DEVICE).await;
        let record = records
            .iter()
            .find(|record| record.reason == RefusalReason::Throttled)
            .unwrap();
        assert_eq!(record.code, ErrorCode::DeviceThrottlingLimitExceeded);
    });
}

#[test]
fn a_request_about_the_twin_beyond_a_rate_is_answered_with_429_and_its_rid() {
    simulate(async {
        let few = |change: fn(&mut ThrottlesConfig)| {
            let mut throttles = ThrottlesConfig {
                max_wait: HumanDuration::secs(0),
                ..ThrottlesConfig::default()
            };
            change(&mut throttles);
            throttles
        };
        for (throttles, code, text) in [
            (
                few(|t| t.twin_updates = Some(Rate::PerMinute(6))),
                429_001,
                "updates of twins are limited to 6/min",
            ),
            (
                few(|t| t.device_twin_requests = Some(Rate::PerSecond(2))),
                429_005,
                "limited to 2/s for one device",
            ),
        ] {
            let bench = bench(throttles).await;
            let mut device = bench.connect().await;
            device.subscribe("$iothub/twin/res/#", QoS::AtMostOnce).await;
            for rid in 1..=3 {
                let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}");
                let packet = Publish {
                    qos: QoS::AtLeastOnce,
                    topic: &topic,
                    packet_id: Some(rid),
                    payload: br#"{"n":1}"#,
                    ..Publish::default()
                };
                device.send(&encoded(&Packet::Publish(packet))).await;
                let (topic, payload, _) = device.published().await;
                assert_eq!(device.pubacks(1).await, [rid]);
                if rid <= 2 {
                    assert!(topic.starts_with("$iothub/twin/res/204/"), "{topic}");
                } else {
                    assert_eq!(topic, "$iothub/twin/res/429/?$rid=3");
                    let body: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                    assert_eq!(body["errorCode"], code);
                    assert!(body["message"].as_str().unwrap().contains(text), "{body}");
                }
            }
        }
    });
}

#[test]
fn a_request_about_the_twin_waits_for_its_turn() {
    simulate(async {
        let bench = bench(ThrottlesConfig {
            twin_reads: Some(Rate::PerMinute(60)),
            ..ThrottlesConfig::default()
        })
        .await;
        let mut device = bench.connect().await;
        device.subscribe("$iothub/twin/res/#", QoS::AtMostOnce).await;
        let began = Instant::now();
        for rid in 1..=21 {
            device
                .send(&publish(&format!("$iothub/twin/GET/?$rid={rid}"), QoS::AtMostOnce, 0))
                .await;
            let (topic, _, _) = device.published().await;
            assert_eq!(topic, format!("$iothub/twin/res/200/?$rid={rid}"));
        }
        let took = began.elapsed();
        assert!((1..=4).contains(&took.as_secs()), "a turn each 3 s at most: {took:?}");
    });
}

#[test]
fn a_connection_beyond_the_rate_is_refused_for_now_and_a_wrong_credential_is_not_counted() {
    simulate(async {
        let bench = bench(ThrottlesConfig {
            connects: Some(Rate::PerMinute(6)),
            max_wait: HumanDuration::secs(0),
            ..ThrottlesConfig::default()
        })
        .await;
        for _ in 0..5 {
            let mut guess = bench.open();
            let wrong = "SharedAccessSignature sr=hub1.example.com%2Fdevices%2Fdev-1&sig=AAAA&se=1999999999";
            guess
                .send(&bench.connect_packet(|connect| connect.password = Some(wrong.as_bytes())))
                .await;
            assert_eq!(guess.receive(4).await, [0x20, 2, 0, 5]);
        }
        let _first = bench.connect().await;
        let _second = bench.connect().await;
        let mut third = bench.open();
        third.send(&bench.connect_packet(|_| {})).await;
        assert_eq!(third.rest().await, [0x20, 2, 0, 3]);
        let records = bench.diagnosis(DEVICE).await;
        let record = records
            .iter()
            .find(|record| record.reason == RefusalReason::Throttled)
            .unwrap();
        assert!(
            record
                .detail
                .as_deref()
                .unwrap()
                .contains("new connections are limited to 6/min")
        );
    });
}

#[test]
fn a_connection_waits_for_its_turn_and_its_credential_is_checked_again() {
    simulate(async {
        let bench = bench(ThrottlesConfig {
            connects: Some(Rate::PerMinute(12)),
            max_wait: HumanDuration::secs(20),
            ..ThrottlesConfig::default()
        })
        .await;
        for _ in 0..4 {
            let _ = bench.connect().await;
        }
        let began = Instant::now();
        let mut waits = bench.connect().await;
        let took = began.elapsed();
        assert!((4..=16).contains(&took.as_secs()), "{took:?}");
        waits.send(&telemetry(1)).await;
        assert_eq!(waits.pubacks(1).await, [1]);
        let mut revoked = bench.open();
        revoked.send(&bench.connect_packet(|_| {})).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.cluster.delete(DEVICE).await;
        assert_eq!(revoked.receive(4).await, [0x20, 2, 0, 5]);
    });
}

/// The rate of one node of three, which has a third of it: ten at once, and none that wait.
const TEN_AT_ONCE: Rate = Rate::PerMinute(30);

/// The statuses of `count` requests.
async fn statuses(bench: &Bench, count: usize, method: &str, path: &str, body: &str) -> Vec<(u16, u32)> {
    let mut https = Https::open_with(bench, NodeId(1), None, Some(Arc::new(NoFiles)));
    let token = bench.device_token(DEVICE, 600);
    let kind = [("content-type", "application/vnd.microsoft.iothub.json")];
    let mut statuses = Vec::new();
    for _ in 0..count {
        let answer = https.request(method, path, &token, &kind, body.as_bytes()).await;
        statuses.push((answer.status, answer.number()));
    }
    statuses
}

/// A storage to which nothing is uploaded.
struct NoFiles;

impl UploadStorage for NoFiles {
    fn location(&self, _: &str, _: UnixMillis) -> UploadLocation {
        UploadLocation {
            host: "files.example.com".to_owned(),
            container: "uploads".to_owned(),
            sas: "?sig=x".to_owned(),
        }
    }

    fn find(&self, _: &str) -> UploadedBlob {
        Box::pin(async { Ok(None) })
    }
}

#[test]
fn over_https_a_batch_counts_as_its_messages() {
    simulate(async {
        let bench = bench(sends(TEN_AT_ONCE, 0)).await;
        let path = "/devices/dev-1/messages/events?api-version=2021-04-12";
        let batch = format!("[{}]", [r#"{"body":"MQ=="}"#; 4].join(","));
        let statuses = statuses(&bench, 3, "POST", path, &batch).await;
        assert_eq!(statuses, [(204, 0), (204, 0), (429, 429_001)]);
    });
}

#[test]
fn requests_for_messages_and_uploads_that_begin_have_rates_of_their_own() {
    simulate(async {
        let bench = bench(ThrottlesConfig {
            c2d_receives: Some(TEN_AT_ONCE),
            upload_initiations: Some(TEN_AT_ONCE),
            max_wait: HumanDuration::secs(0),
            ..ThrottlesConfig::default()
        })
        .await;
        let version = "?api-version=2021-04-12";
        let receive = format!("/devices/dev-1/messages/deviceBound{version}");
        let received = statuses(&bench, 11, "GET", &receive, "").await;
        assert_eq!(received[..10], [(204, 0); 10]);
        assert_eq!(received[10], (429, 429_001));
        let begin = format!("/devices/dev-1/files{version}");
        let begun = statuses(&bench, 11, "POST", &begin, r#"{"blobName":"x"}"#).await;
        assert_eq!(begun[..10], [(200, 0); 10]);
        assert_eq!(begun[10], (429, 429_001), "and not 403: it has not come to its slots");
    });
}
