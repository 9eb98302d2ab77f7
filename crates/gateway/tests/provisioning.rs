//! Devices that register over MQTT, on a simulated cluster: bytes over in-memory streams, on a paused clock.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

#[path = "provisioning/linked_hubs.rs"]
mod linked_hubs;
#[path = "provisioning/operations.rs"]
mod operations;
mod support;

use std::time::Duration;

use holdfast_auth::{Key, KeyPair};
use holdfast_model::{NodeId, RefusalReason};
use holdfast_mqtt::codec::{Connect, Packet, Publish, QoS, subscribe};
use holdfast_registry::{Authentication, EnrollmentContent, EnrollmentKind, EnrollmentOperation, IfMatch};
use holdfast_simulation::{NODES, identity, simulate};
use serde_json::Value;
use support::factory::Factory;
use support::{Device, encoded};
use tokio::time::Instant;

const REGISTER: &str = "$dps/registrations/PUT/iotdps-register/?$rid=1";
const REPLIES: &str = "$dps/registrations/res/#";

impl Factory {
    fn connect_packet(&self, id: &str, token: Option<&str>) -> Vec<u8> {
        let username = format!("{}/registrations/{id}/api-version=2019-03-31", self.scope);
        connect_as(&username, id, token)
    }

    /// A device of `node` with an accepted CONNECT and a subscription to its replies.
    async fn connected(&self, node: u64, id: &str, key: &Key) -> Device {
        let mut device = self.bench.open_at(NodeId(node), 64 * 1024);
        device.send(&self.connect_packet(id, Some(&self.token(id, key)))).await;
        assert_eq!(device.receive(4).await, [0x20, 2, 0, 0], "no session is ever present");
        device.subscribe(REPLIES, QoS::AtLeastOnce).await;
        device
    }
}

fn connect_as(username: &str, client_id: &str, token: Option<&str>) -> Vec<u8> {
    encoded(&Packet::Connect(Connect {
        clean: true,
        keep_alive: 60,
        client_id,
        username: Some(username),
        password: token.map(str::as_bytes),
        ..Connect::default()
    }))
}

fn request(topic: &str, payload: &[u8], qos: QoS) -> Vec<u8> {
    encoded(&Packet::Publish(Publish {
        qos,
        topic,
        packet_id: (qos != QoS::AtMostOnce).then_some(9),
        payload,
        ..Publish::default()
    }))
}

async fn reply(device: &mut Device) -> (String, Value) {
    let (topic, payload, _) = device.published().await;
    (topic, serde_json::from_slice(&payload).unwrap())
}

#[test]
fn a_device_registers_by_its_derived_key_and_every_node_knows_it() {
    simulate(async {
        let factory = Factory::start().await;
        let key = factory.group_key.derive("SN-1");
        let mut device = factory.connected(2, "SN-1", &key).await;
        // The C# client sends nothing when it has no payload.
        device.send(&request(REGISTER, b"", QoS::AtLeastOnce)).await;
        assert_eq!(device.pubacks(1).await, [9], "the PUBACK comes before the reply");
        let (topic, body) = reply(&mut device).await;
        assert_eq!(topic, "$dps/registrations/res/200/?$rid=1");
        assert_eq!(body["status"], "assigned");
        assert_eq!(body["registrationState"]["deviceId"], "SN-1");
        assert_eq!(body["registrationState"]["assignedHub"], holdfast_simulation::HOST);
        for node in NODES {
            let registry = factory.bench.cluster.hub(node).registry();
            let found = registry.get(&identity("SN-1")).await.unwrap().unwrap();
            let Authentication::Sas(KeyPair { primary, .. }) = &found.authentication else {
                panic!("{found:?}")
            };
            assert_eq!(*primary, key);
        }
        // Any node answers a poll.
        let poll = format!(
            "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId={}",
            body["operationId"].as_str().unwrap()
        );
        let mut other = factory.connected(3, "sn-1", &factory.group_key.derive("sn-1")).await;
        other.send(&request(&poll, b" ", QoS::AtMostOnce)).await;
        assert_eq!(
            reply(&mut other).await,
            ("$dps/registrations/res/200/?$rid=2".to_owned(), body)
        );
    });
}

#[test]
fn a_connect_that_cannot_register_is_refused_with_its_code() {
    simulate(async {
        let factory = Factory::start().await;
        let token = factory.token("d", &factory.group_key.derive("d"));
        let foreign = "0neFFFFFFFF/registrations/d/api-version=2019-03-31".to_owned();
        let unknown = format!("{}/registrations/d/api-version=2030-01-01", factory.scope);
        let without = format!("{}/registrations/d", factory.scope);
        let same = format!("{}/registrations/d/api-version=2019-03-31", factory.scope);
        for (packet, code) in [
            (connect_as(&foreign, "d", Some(&token)), 5),
            (connect_as(&unknown, "d", Some(&token)), 1),
            (connect_as(&without, "d", Some(&token)), 1),
            (connect_as(&same, "other", Some(&token)), 5),
            (factory.connect_packet("d", None), 5),
        ] {
            let mut device = factory.bench.open();
            device.send(&packet).await;
            assert_eq!(device.rest().await, [0x20, 2, 0, code]);
        }
        let causes: Vec<_> = factory
            .bench
            .diagnosis("d")
            .await
            .iter()
            .map(|refusal| refusal.reason)
            .collect();
        let (scope, version) = (RefusalReason::Scope, RefusalReason::Version);
        assert_eq!(
            causes,
            [
                scope,
                version,
                version,
                RefusalReason::IdentityMismatch,
                RefusalReason::Missing
            ]
        );
        // A device of the hub may be named so, and have modules.
        let name = format!("{}/registrations/m/?api-version=2021-04-12", holdfast_simulation::HOST);
        let packet = connect_as(&name, "registrations/m", Some("x"));
        let mut device = factory.bench.open();
        device.send(&packet).await;
        assert_eq!(device.rest().await, [0x20, 2, 0, 5]);
        let module = holdfast_model::IdentityId::module(
            holdfast_model::DeviceId::parse("registrations").unwrap(),
            holdfast_model::ModuleId::parse("m").unwrap(),
        );
        assert_eq!(
            factory
                .bench
                .cluster
                .hub(NodeId(1))
                .diagnose(&module)
                .await
                .refusals
                .len(),
            1
        );
    });
}

#[test]
fn a_wrong_key_is_answered_in_json_and_the_connection_ends_soon() {
    simulate(async {
        let factory = Factory::start().await;
        let mut device = factory.connected(1, "SN-2", &factory.group_key).await;
        let begun = Instant::now();
        device.send(&request(REGISTER, b"{}", QoS::AtMostOnce)).await;
        let (topic, body) = reply(&mut device).await;
        assert_eq!(topic, "$dps/registrations/res/401/?$rid=1");
        assert_eq!(body["errorCode"], 401_000);
        assert!(body.get("operationId").is_none(), "the Java client reads only the body");
        assert!(device.rest().await.is_empty());
        let open = begun.elapsed();
        assert!(
            (Duration::from_secs(4)..Duration::from_secs(10)).contains(&open),
            "{open:?}"
        );
        let last = factory.bench.diagnosis("SN-2").await.pop().unwrap();
        assert_eq!(last.reason, RefusalReason::Signature);
        assert!(last.detail.unwrap().contains("none of 1 enrollment groups"));
    });
}

#[test]
fn repeated_wrong_credentials_are_delayed_and_a_right_one_is_not() {
    simulate(async {
        let factory = Factory::start().await;
        let wrong = Key::from_bytes(vec![1; 32]).unwrap();
        let mut delays = Vec::new();
        for _ in 0..7 {
            let mut device = factory.connected(1, "SN-3", &wrong).await;
            let begun = Instant::now();
            device.send(&request(REGISTER, b"{}", QoS::AtMostOnce)).await;
            assert_eq!(reply(&mut device).await.1["errorCode"], 401_000);
            delays.push(begun.elapsed());
        }
        assert!(
            delays[..5].iter().all(|delay| *delay < Duration::from_millis(100)),
            "{delays:?}"
        );
        assert!(delays[6] >= Duration::from_millis(250), "{delays:?}");
        let mut device = factory.connected(1, "SN-3", &factory.group_key.derive("SN-3")).await;
        let begun = Instant::now();
        device.send(&request(REGISTER, b"{}", QoS::AtMostOnce)).await;
        assert_eq!(reply(&mut device).await.1["status"], "assigned");
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    });
}

#[test]
fn hostile_requests_are_answered_or_end_the_connection() {
    simulate(async {
        let factory = Factory::start().await;
        let key = factory.group_key.derive("SN-4");
        let mut device = factory.connected(1, "SN-4", &key).await;
        for (payload, status, number) in [
            (vec![b' '; 100_000], 413, 413_001),
            (b"[]".to_vec(), 400, 400_006),
            (br#"{"registrationId":"SN-5"}"#.to_vec(), 400, 400_004),
        ] {
            device.send(&request(REGISTER, &payload, QoS::AtMostOnce)).await;
            let (topic, body) = reply(&mut device).await;
            assert_eq!(topic, format!("$dps/registrations/res/{status}/?$rid=1"));
            assert_eq!(body["errorCode"], number);
        }
        let poll = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId=4.00.x";
        device.send(&request(poll, b"", QoS::AtMostOnce)).await;
        assert_eq!(
            reply(&mut device).await.1["errorCode"],
            404_201,
            "it has never registered"
        );
        // Only the filter of replies is granted.
        let mut bytes = Vec::new();
        subscribe(
            &mut bytes,
            8,
            &[
                ("#", QoS::AtMostOnce),
                ("$dps/registrations/res/200/#", QoS::AtMostOnce),
            ],
        )
        .unwrap();
        device.send(&bytes).await;
        assert_eq!(device.receive(6).await, [0x90, 4, 0, 8, 0x80, 0x80]);
        drop(device);
        for bytes in [
            request("devices/SN-4/messages/events/", b"x", QoS::AtMostOnce),
            request("$dps/registrations/PUT/iotdps-register/", b"", QoS::AtMostOnce),
            request(REGISTER, b"", QoS::ExactlyOnce),
            factory.connect_packet("SN-4", Some("x")),
        ] {
            let mut device = factory.connected(1, "SN-4", &key).await;
            device.send(&bytes).await;
            assert!(device.rest().await.is_empty());
        }
        // Silence ends the connection.
        let device = factory.connected(1, "SN-4", &key).await;
        let begun = Instant::now();
        device.rest().await;
        assert!((Duration::from_secs(59)..Duration::from_secs(70)).contains(&begun.elapsed()));
    });
}

#[test]
fn a_disabled_group_and_a_deleted_one_refuse_devices_on_every_node() {
    simulate(async {
        let factory = Factory::start().await;
        let content = EnrollmentContent {
            is_disabled: true,
            ..EnrollmentContent::default()
        };
        let update = EnrollmentOperation::Update(IfMatch::Any, factory.attestation(), content);
        factory.enroll(EnrollmentKind::Group, "FLEET", update).await;
        for node in [1, 2, 3] {
            let id = format!("off-{node}");
            let mut device = factory.connected(node, &id, &factory.group_key.derive(&id)).await;
            device.send(&request(REGISTER, b"{}", QoS::AtMostOnce)).await;
            let (topic, body) = reply(&mut device).await;
            assert_eq!(
                (topic.as_str(), &body["status"]),
                ("$dps/registrations/res/200/?$rid=1", &"disabled".into())
            );
            assert!(factory.registry().get(&identity(&id)).await.unwrap().is_none());
        }
        factory
            .enroll(
                EnrollmentKind::Group,
                "fleet",
                EnrollmentOperation::Delete(IfMatch::Any),
            )
            .await;
        for node in [1, 2, 3] {
            let id = format!("gone-{node}");
            let mut device = factory.connected(node, &id, &factory.group_key.derive(&id)).await;
            device.send(&request(REGISTER, b"{}", QoS::AtMostOnce)).await;
            assert_eq!(reply(&mut device).await.1["errorCode"], 401_000);
        }
    });
}

#[test]
fn registered_devices_survive_a_power_cut_of_all_nodes() {
    simulate(async {
        let mut factory = Factory::start().await;
        for number in 0..10 {
            let id = format!("SN-{number}");
            let mut device = factory
                .connected(number % 3 + 1, &id, &factory.group_key.derive(&id))
                .await;
            device.send(&request(REGISTER, b"{}", QoS::AtLeastOnce)).await;
            assert_eq!(device.pubacks(1).await, [9]);
            assert_eq!(reply(&mut device).await.1["status"], "assigned");
        }
        for node in NODES {
            factory.bench.cluster.cut_power(node);
        }
        factory.bench.cluster.restart_all().await;
        factory.bench.cluster.settled().await;
        let registry = factory.registry();
        for number in 0..10 {
            let id = format!("SN-{number}");
            assert!(registry.get(&identity(&id)).await.unwrap().is_some(), "{id}");
            assert!(registry.registration(&id).unwrap().is_some(), "{id}");
        }
        assert_eq!(registry.provisioning().unwrap().id_scope, factory.scope);
    });
}
