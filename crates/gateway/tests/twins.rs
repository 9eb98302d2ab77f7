//! The twin of an MQTT client on a simulated cluster: requests, answers, and changes of desired properties.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::time::Duration;

use holdfast_device_hub::{Twin, TwinWrite, TwinsConfig, WriteMode};
use holdfast_model::NodeId;
use holdfast_mqtt::codec::{Packet, Publish, QoS, unsubscribe};
use holdfast_simulation::{Setup, identity, simulate};
use serde_json::{Value, json};
use support::{Bench, DEVICE, Device, encoded, telemetry};

const RESPONSES: &str = "$iothub/twin/res/#";
const CHANGES: &str = "$iothub/twin/PATCH/properties/desired/#";
const WAIT: Duration = Duration::from_secs(30);

impl Bench {
    /// A back end writes desired properties, through a node that neither owns the partition nor has the connection.
    async fn write(&self, mode: WriteMode, desired: Value) -> Twin {
        let hub = self.cluster.hub(NodeId(2));
        let device = identity(DEVICE);
        let registered = hub.registry().identity(&device).unwrap().unwrap();
        let write = TwinWrite {
            mode,
            tags: None,
            desired: Some(desired.to_string()),
            if_etag: None,
        };
        let written = hub.write_twin(&device, &registered.generation, write, WAIT);
        written.await.unwrap().twin
    }

    async fn patch(&self, desired: Value) -> Twin {
        self.write(WriteMode::Merge, desired).await
    }

    /// A device that has subscribed to answers and changes.
    async fn twin_device(&self) -> Device {
        let mut device = self.connect().await;
        device.subscribe(RESPONSES, QoS::AtMostOnce).await;
        device.subscribe(CHANGES, QoS::AtMostOnce).await;
        device
    }
}

impl Device {
    async fn request(&mut self, topic: &str, packet_id: Option<u16>, payload: &str) {
        let packet = Publish {
            qos: packet_id.map_or(QoS::AtMostOnce, |_| QoS::AtLeastOnce),
            topic,
            packet_id,
            payload: payload.as_bytes(),
            ..Publish::default()
        };
        self.send(&encoded(&Packet::Publish(packet))).await;
    }

    async fn ask(&mut self, rid: &str) {
        self.request(&format!("$iothub/twin/GET/?$rid={rid}"), None, " ").await;
    }

    async fn report(&mut self, rid: &str, patch: &str) {
        let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}");
        self.request(&topic, None, patch).await;
    }

    /// The rest of the topic of the next answer, and its body.
    async fn answer(&mut self) -> (String, Value) {
        let (topic, payload, _) = self.published().await;
        let rest = topic.strip_prefix("$iothub/twin/res/").expect(&topic).to_owned();
        (rest, serde_json::from_slice(&payload).unwrap_or(Value::Null))
    }

    async fn refused(&mut self, rid: &str, number: u32) -> String {
        let (rest, body) = self.answer().await;
        assert_eq!(rest, format!("{}/?$rid={rid}", number / 1000), "{body}");
        assert_eq!(body["errorCode"], number, "{body}");
        assert!(
            body["trackingId"].is_string() && body["timestampUtc"].is_string(),
            "{body}"
        );
        body["message"].as_str().unwrap().to_owned()
    }

    /// The version and body of the next change.
    async fn change(&mut self) -> (u64, Value) {
        let (topic, payload, _) = self.published().await;
        let version = topic.strip_prefix("$iothub/twin/PATCH/properties/desired/?$version=");
        let version = version.expect(&topic).parse().unwrap();
        let body: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(body["$version"], version);
        (version, body)
    }
}

#[test]
fn a_device_reads_and_reports_and_sees_what_it_has_reported() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        let mut device = bench.twin_device().await;
        device.ask("a%20b").await;
        let expected = json!({"desired": {"$version": 1}, "reported": {"$version": 1}});
        assert_eq!(device.answer().await, ("200/?$rid=a%20b".to_owned(), expected));
        bench.patch(json!({"rate": 10})).await;
        assert_eq!(device.change().await, (2, json!({"rate": 10, "$version": 2})));
        // Sent together: each sees the ones before it.
        device.report("1", r#"{"fw":"1.0","gone":1}"#).await;
        device.report("2", r#"{"gone":null,"n":4503599627370495}"#).await;
        device.ask("3").await;
        assert_eq!(
            device.answer().await,
            ("204/?$rid=1&$version=2".to_owned(), Value::Null)
        );
        assert_eq!(device.answer().await.0, "204/?$rid=2&$version=3");
        let (rest, body) = device.answer().await;
        assert_eq!(rest, "200/?$rid=3");
        let expected = json!({
            "desired": {"rate": 10, "$version": 2},
            "reported": {"fw": "1.0", "n": 4_503_599_627_370_495_i64, "$version": 3},
        });
        assert_eq!(body, expected);
        // At QoS 1 the acknowledgement leaves with the answer, and without a request id alone.
        let patch = "$iothub/twin/PATCH/properties/reported/";
        device.request(&format!("{patch}?$rid=q"), Some(9), "{}").await;
        assert_eq!(device.answer().await.0, "204/?$rid=q&$version=4");
        assert_eq!(device.pubacks(1).await, [9]);
        device.request(patch, Some(10), r#"{"silent":true}"#).await;
        assert_eq!(device.pubacks(1).await, [10]);
        device.request(patch, None, "{").await;
        device.ask("last").await;
        assert_eq!(device.answer().await.1["reported"]["silent"], true);
    });
}

#[test]
fn what_is_not_valid_is_refused_with_its_request_id() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.twin_device().await;
        for (patch, number, text) in [
            ("[1]", 400_006, "arrays"),
            ("", 400_006, "JSON"),
            (r#"{"a.b":1}"#, 400_004, "properties.reported.a.b"),
            (r#"{"a":{"$x":1}}"#, 400_004, "properties.reported.a.$x"),
            (r#"{"n":4503599627370496}"#, 400_004, "4503599627370496"),
        ] {
            device.report("r", patch).await;
            let message = device.refused("r", number).await;
            assert!(message.contains(text), "{message}");
        }
        let full = json!({"a": "x".repeat(4095), "b": "x".repeat(4095), "c": "x".repeat(4095), "d": "x".repeat(4095)});
        device.report("1", &full.to_string()).await;
        assert_eq!(device.answer().await.0, "204/?$rid=1&$version=2");
        device
            .report("2", &json!({"more": full, "even": "x".repeat(4095)}).to_string())
            .await;
        assert!(device.refused("2", 413_001).await.contains("at most 32768"));
        let versioned = "$iothub/twin/PATCH/properties/reported/?$rid=v&$version=";
        device.request(&format!("{versioned}1"), None, "{}").await;
        device.refused("v", 412_001).await;
        device.request(&format!("{versioned}2"), None, "{}").await;
        assert_eq!(device.answer().await.0, "204/?$rid=v&$version=3");
    });
}

#[test]
fn every_request_has_one_answer_in_order_and_past_the_bound_it_is_429() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.twin_device().await;
        let mut all = Vec::new();
        for number in 0..200_u16 {
            let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={number}");
            let packet = Publish {
                qos: QoS::AtLeastOnce,
                topic: &topic,
                packet_id: Some(number + 1),
                payload: br#"{"n":1}"#,
                ..Publish::default()
            };
            all.extend(encoded(&Packet::Publish(packet)));
        }
        all.extend(telemetry(1000));
        device.send(&all).await;
        let (mut done, mut throttled) = (0, 0);
        for number in 0..200_u16 {
            let (rest, body) = device.answer().await;
            if rest.starts_with("204") {
                done += 1;
                assert_eq!(rest, format!("204/?$rid={number}&$version={}", done + 1));
            } else {
                throttled += 1;
                assert_eq!(rest, format!("429/?$rid={number}"), "{body}");
                assert_eq!(body["errorCode"], 429_001);
            }
            assert_eq!(device.pubacks(1).await, [number + 1]);
        }
        assert!(done >= 32 && throttled > 0, "{done} {throttled}");
        assert_eq!(device.pubacks(1).await, [1000], "acknowledgements keep their order");
    });
}

#[test]
fn changes_come_in_the_order_of_their_versions_and_never_behind_a_read() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        let mut device = bench.twin_device().await;
        let writes = (0..30).map(|number| bench.patch(json!({"n": number, "gone": null})));
        let reads = async {
            for number in 0..10 {
                device.ask(&number.to_string()).await;
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
            device
        };
        let (_, mut device) = tokio::join!(futures_util::future::join_all(writes), reads);
        let mut seen = 0;
        let mut reads = 0;
        while seen < 31 || reads < 10 {
            let (topic, payload, _) = device.published().await;
            let body: Value = serde_json::from_slice(&payload).unwrap();
            if topic.starts_with("$iothub/twin/res/200/") {
                reads += 1;
                let version = body["desired"]["$version"].as_u64().unwrap();
                assert!(version >= seen, "{version} {seen}");
                seen = version;
            } else {
                let version = body["$version"].as_u64().unwrap();
                assert_eq!(version, seen.max(1) + 1, "the next one");
                assert!(
                    body["gone"].is_null() && body.get("gone").is_some(),
                    "the patch as it was written"
                );
                seen = version;
            }
        }
        let replaced = bench.write(WriteMode::Replace, json!({"only": 1})).await;
        assert_eq!(replaced.desired_version(), 32);
        assert_eq!(device.change().await, (32, json!({"only": 1, "$version": 32})));
        device.gets_nothing().await;
    });
}

#[test]
fn only_a_device_that_has_subscribed_gets_changes() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.connect().await;
        bench.patch(json!({"n": 1})).await;
        device.ask("unheard").await;
        device.gets_nothing().await;
        device.subscribe(RESPONSES, QoS::AtLeastOnce).await;
        device.subscribe(CHANGES, QoS::AtLeastOnce).await;
        device.gets_nothing().await;
        bench.patch(json!({"n": 2})).await;
        let (topic, _, packet_id) = device.published().await;
        assert!(topic.ends_with("?$version=3") && packet_id.is_some(), "{topic}");
        let mut bytes = Vec::new();
        unsubscribe(&mut bytes, 8, &[CHANGES]).unwrap();
        device.send(&bytes).await;
        assert_eq!(device.receive(4).await, [0xb0, 2, 0, 8]);
        bench.patch(json!({"n": 3})).await;
        device.gets_nothing().await;
    });
}

#[test]
fn a_new_connection_reads_and_gets_what_follows() {
    simulate(async {
        let bench = Bench::start().await;
        let (mut device, _) = bench.resume(NodeId(1)).await;
        device.subscribe(RESPONSES, QoS::AtMostOnce).await;
        device.subscribe(CHANGES, QoS::AtMostOnce).await;
        drop(device);
        bench.patch(json!({"n": 1})).await;
        // The subscriptions are kept; nothing is queued for a device that is away.
        let (mut device, is_present) = bench.resume(NodeId(3)).await;
        assert!(is_present);
        device.ask("r").await;
        assert_eq!(device.answer().await.1["desired"], json!({"n": 1, "$version": 2}));
        bench.patch(json!({"n": 2})).await;
        assert_eq!(device.change().await.0, 3);
        device.gets_nothing().await;
    });
}

#[test]
fn changes_during_changes_of_the_owner_reach_the_device() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        let mut device = bench.twin_device().await;
        device.ask("r").await;
        device.answer().await;
        let mut seen = 1;
        for owner in [1, 2, 3, 1] {
            let written = bench.patch(json!({"owner": owner}));
            let moved = bench.cluster.owned_by(DEVICE, NodeId(owner));
            let (written, _) = tokio::join!(written, moved);
            // It comes, though the owner may have ended before it was on its way.
            while seen < written.desired_version() {
                let (version, body) = device.change().await;
                assert!(version > seen);
                assert_eq!(body["owner"], owner);
                seen = version;
            }
        }
    });
}

#[test]
fn a_device_that_does_not_read_gets_the_newest_properties_when_it_does() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.open_with(2048);
        device.send(&bench.connect_packet(|_| {})).await;
        assert_eq!(device.receive(4).await, [0x20, 2, 0, 0]);
        device.subscribe(RESPONSES, QoS::AtLeastOnce).await;
        device.subscribe(CHANGES, QoS::AtLeastOnce).await;
        device.ask("r").await;
        device.answer().await;
        // At QoS 1 without acknowledgements: the window and the owner's queue fill up.
        for number in 0..150 {
            let patch = bench.patch(json!({"n": number, "text": "x".repeat(4000)}));
            tokio::time::timeout(Duration::from_secs(2), patch)
                .await
                .expect("back ends do not wait for devices");
        }
        let mut seen = 1;
        while seen < 151 {
            let (topic, payload, packet_id) = device.published().await;
            let body: Value = serde_json::from_slice(&payload).unwrap();
            let version = body["$version"].as_u64().unwrap();
            assert!(version > seen && topic.ends_with(&format!("={version}")));
            if version > seen + 1 {
                assert_eq!(body["text"], "x".repeat(4000), "all properties");
            }
            assert_eq!(body["n"], version - 2);
            seen = version;
            if let Some(packet_id) = packet_id {
                device.send(&encoded(&Packet::PubAck(packet_id))).await;
            }
        }
    });
}

#[test]
fn a_device_that_subscribes_again_gets_its_properties_if_the_hub_is_to_resend_them() {
    simulate(async {
        let setup = Setup {
            twins: TwinsConfig {
                resend_desired_on_subscribe: true,
                ..TwinsConfig::default()
            },
            ..Setup::default()
        };
        let bench = Bench::start_as(setup).await;
        let (mut device, _) = bench.resume(NodeId(1)).await;
        device.subscribe(RESPONSES, QoS::AtMostOnce).await;
        device.subscribe(CHANGES, QoS::AtMostOnce).await;
        device.gets_nothing().await;
        drop(device);
        bench.patch(json!({"n": 1})).await;
        bench.patch(json!({"m": 2})).await;
        let (mut device, _) = bench.resume(NodeId(2)).await;
        assert_eq!(device.change().await, (3, json!({"n": 1, "m": 2, "$version": 3})));
        // It has got this version: subscribing once more brings nothing.
        device.subscribe(CHANGES, QoS::AtMostOnce).await;
        device.gets_nothing().await;
    });
}
