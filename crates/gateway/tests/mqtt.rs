//! The MQTT front end on a simulated cluster: a device's bytes over an in-memory stream, on a paused clock.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::time::Duration;

use holdfast_device_hub::AuditRecord;
use holdfast_gateway::MqttConfig;
use holdfast_model::RefusalReason;
use holdfast_mqtt::codec::{LastWill, Packet, QoS, subscribe};
use holdfast_simulation::simulate;
use support::{Bench, DEVICE, encoded, publish, telemetry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn packets_that_arrive_byte_by_byte_are_acknowledged_once() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.open_with(1);
        for byte in bench.connect_packet(|_| {}) {
            device.send(&[byte]).await;
        }
        assert_eq!(device.receive(4).await, [0x20, 2, 0, 0]);
        for byte in telemetry(7) {
            device.send(&[byte]).await;
        }
        assert_eq!(device.pubacks(1).await, [7]);
    });
}

#[test]
fn packets_behind_a_connect_wait_for_its_decision() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.open();
        let mut bytes = bench.connect_packet(|_| {});
        for id in 1..=3 {
            bytes.extend(telemetry(id));
        }
        device.send(&bytes).await;
        assert_eq!(device.receive(4).await, [0x20, 2, 0, 0]);
        assert_eq!(device.pubacks(3).await, [1, 2, 3]);
    });
}

/// The request must not overtake the acknowledgement of the message before it, and the core must not spin meanwhile.
#[test]
fn a_request_behind_an_unacknowledged_message_waits_without_blocking_the_core() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.connect().await;
        let mut bytes = telemetry(1);
        bytes.extend(publish("$iothub/twin/GET/?$rid=1", QoS::AtLeastOnce, 2));
        bytes.extend(telemetry(3));
        device.send(&bytes).await;
        assert_eq!(device.pubacks(3).await, [1, 2, 3]);
    });
}

#[test]
fn a_window_of_messages_is_acknowledged_in_order_however_many_are_sent_at_once() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.connect().await;
        let ids: Vec<u16> = (1..=300).collect();
        let bytes: Vec<u8> = ids.iter().flat_map(|id| telemetry(*id)).collect();
        device.send(&bytes).await;
        assert_eq!(device.pubacks(300).await, ids);
    });
}

#[test]
fn a_device_that_does_not_read_its_acknowledgements_is_not_read_and_loses_nothing() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.open_with(256);
        device.send(&bench.connect_packet(|_| {})).await;
        assert_eq!(device.receive(4).await, [0x20, 2, 0, 0]);
        let (mut reader, mut writer) = tokio::io::split(device.stream);
        let writing = tokio::task::spawn_local(async move {
            for id in 1..=2000 {
                writer.write_all(&telemetry(id)).await.unwrap();
            }
            writer
        });
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!writing.is_finished(), "the hub has stopped reading");
        for id in 1..=2000u16 {
            let mut ack = [0; 4];
            reader.read_exact(&mut ack).await.unwrap();
            assert_eq!(ack[2..], id.to_be_bytes());
        }
        writing.await.unwrap();
    });
}

#[test]
fn a_connection_without_a_connect_is_closed_in_time() {
    simulate(async {
        let bench = Bench::start_with(MqttConfig {
            connect_timeout: Duration::from_secs(5),
            ..MqttConfig::default()
        })
        .await;
        let mut device = bench.open();
        device.send(&bench.connect_packet(|_| {})[..20]).await;
        let started = tokio::time::Instant::now();
        assert_eq!(device.rest().await, b"");
        let took = started.elapsed();
        assert!(
            took >= Duration::from_secs(5) && took < Duration::from_secs(8),
            "{took:?}"
        );
    });
}

/// Sends `bytes` as a connected device, and returns the record of the connection's end.
async fn record_of(bench: &Bench, bytes: &[u8]) -> AuditRecord {
    let before = bench.diagnosis(DEVICE).await.len();
    let mut device = bench.connect().await;
    device.send(bytes).await;
    assert_eq!(device.rest().await, b"", "3.1.1 has no word for it");
    let mut records = bench.diagnosis(DEVICE).await;
    assert!(records.len() > before);
    records.pop().unwrap()
}

fn detail(record: &AuditRecord) -> &str {
    record.detail.as_deref().unwrap()
}

#[test]
fn every_broken_rule_is_explained_with_packet_rule_and_section() {
    simulate(async {
        let bench = Bench::start().await;
        let mut everything = Vec::new();
        subscribe(
            &mut everything,
            1,
            &[("$iothub/twin/res/#", QoS::AtMostOnce), ("#", QoS::AtMostOnce)],
        )
        .unwrap();
        let long = "x".repeat(300);
        let rows: Vec<(Vec<u8>, u32, &[&str])> = vec![
            (
                publish("devices/other/messages/events/", QoS::AtLeastOnce, 1),
                401_002,
                &[
                    "PUBLISH to \"devices/other/messages/events/\"",
                    "another identity",
                    "device-mqtt §5.1",
                ],
            ),
            (
                publish("devices/dev-1/messages/events/", QoS::ExactlyOnce, 1),
                400_003,
                &[
                    "PUBLISH to \"devices/dev-1/messages/events/\"",
                    "QoS 2",
                    "device-mqtt §5.3",
                ],
            ),
            (
                everything,
                401_002,
                &["SUBSCRIBE to \"#\"", "no channel", "device-mqtt §4.1"],
            ),
            (
                vec![0x32, 0x80, 0xb5, 0x18],
                413_001,
                &["PUBLISH", "400000 bytes", "device-mqtt §5.3"],
            ),
            (
                vec![0x20, 2, 0, 0],
                400_003,
                &["CONNACK", "may not send", "device-mqtt §10.1"],
            ),
            (
                publish(&format!("a\u{1b}[31m\n{long}"), QoS::AtMostOnce, 0),
                401_002,
                &[r#"PUBLISH to "a\u{1b}[31m\nxxx"#, "…"],
            ),
        ];
        for (bytes, code, parts) in rows {
            let record = record_of(&bench, &bytes).await;
            assert_eq!(
                (record.reason, record.code.number()),
                (RefusalReason::ProtocolViolation, code)
            );
            for part in parts {
                assert!(detail(&record).contains(part), "{}", detail(&record));
            }
            assert!(detail(&record).len() < 600 && !detail(&record).contains(char::is_control));
        }
    });
}

#[test]
fn a_refused_will_and_a_wrong_client_id_are_explained_under_the_claimed_identity() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.open();
        let will = LastWill {
            topic: "devices/other/messages/events/",
            ..LastWill::default()
        };
        device
            .send(&bench.connect_packet(|connect| connect.will = Some(will)))
            .await;
        assert_eq!(device.rest().await, b"");
        let record = bench.diagnosis(DEVICE).await.pop().unwrap();
        assert_eq!(
            detail(&record),
            "CONNECT with a will for \"devices/other/messages/events/\": \
             the will's topic is not the device's own telemetry topic (device-mqtt §3.5)"
        );

        let mut device = bench.open();
        device
            .send(&bench.connect_packet(|connect| connect.client_id = "dev-2"))
            .await;
        assert_eq!(device.rest().await, [0x20, 2, 0, 5]);
        let record = bench.diagnosis("dev-2").await.pop().unwrap();
        assert_eq!(record.reason, RefusalReason::IdentityMismatch);
        assert!(detail(&record).contains("device-mqtt §2.1"), "{}", detail(&record));
    });
}

#[test]
fn silence_and_a_second_connection_are_explained() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.open();
        device
            .send(&bench.connect_packet(|connect| connect.keep_alive = 4))
            .await;
        assert_eq!(device.receive(4).await, [0x20, 2, 0, 0]);
        assert_eq!(device.rest().await, b"");
        let record = bench.diagnosis(DEVICE).await.pop().unwrap();
        assert_eq!(
            (record.reason, record.code.number()),
            (RefusalReason::KeepAlive, 404_104)
        );
        assert!(detail(&record).contains("no packet for 6 s"), "{}", detail(&record));

        let first = bench.connect().await;
        let _second = bench.connect().await;
        assert_eq!(first.rest().await, b"");
        let record = bench.diagnosis(DEVICE).await.pop().unwrap();
        assert_eq!(
            (record.reason, record.code.number()),
            (RefusalReason::Superseded, 400_027)
        );
    });
}

#[test]
fn a_client_that_disconnects_or_goes_away_leaves_no_record() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.connect().await;
        device.send(&encoded(&Packet::Disconnect)).await;
        assert_eq!(device.rest().await, b"");
        drop(bench.connect().await);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(bench.diagnosis(DEVICE).await.is_empty());
    });
}
