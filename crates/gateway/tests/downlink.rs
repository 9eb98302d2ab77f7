//! Deliveries to an MQTT client on a simulated cluster: a window of PUBLISH packets that its PUBACKs settle.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_device_hub::{
    CloudMessage, Delivery, DeliveryError, DeliveryKind, DeliveryOutcome, OnSessionChange, Settlement,
};
use holdfast_model::NodeId;
use holdfast_mqtt::codec::{Packet, QoS, unsubscribe};
use holdfast_simulation::{identity, simulate};
use support::{Bench, DEVICE, encoded};
use tokio::task::JoinHandle;

const DEVICEBOUND: &str = "devices/dev-1/messages/devicebound/";

fn message(number: usize) -> CloudMessage {
    CloudMessage {
        message_id: Some(number.to_string()),
        to: Some("/x".into()),
        properties: vec![("a".into(), Some("b".into()))],
        body: format!("message {number}").into(),
        ..CloudMessage::default()
    }
}

impl Bench {
    /// Sends a cloud-to-device message to the device from a node that does not own its partition.
    fn deliver(&self, number: usize) -> JoinHandle<Result<DeliveryOutcome, DeliveryError>> {
        let hub = Arc::clone(self.cluster.hub(NodeId(2)));
        let delivery = Delivery {
            kind: DeliveryKind::CloudToDevice,
            on_session_change: OnSessionChange::Redeliver,
            head: format!("{}/0/0", number + 1).into(),
            body: message(number).encode().into(),
            trace: None,
        };
        let send = async move { hub.deliver(&identity(DEVICE), delivery, Duration::from_secs(20)).await };
        tokio::task::spawn_local(send)
    }
}

#[test]
fn a_delivery_is_published_and_its_puback_settles_it() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        let mut device = bench.connect().await;
        // Without a subscription it grants nothing.
        let waiting = bench.deliver(0);
        device.gets_nothing().await;
        device.subscribe(&format!("{DEVICEBOUND}#"), QoS::AtLeastOnce).await;
        let (topic, payload, packet_id) = device.published().await;
        assert_eq!(
            (topic, payload),
            (format!("{DEVICEBOUND}%24.mid=0&%24.to=%2Fx&a=b"), b"message 0".to_vec())
        );
        assert!(!waiting.is_finished(), "the PUBACK settles it");
        device.send(&encoded(&Packet::PubAck(packet_id.unwrap()))).await;
        let accepted = Ok(DeliveryOutcome::Settled(Settlement::Accepted));
        assert_eq!(waiting.await.unwrap(), accepted);
        // At QoS 0 it is settled when it is written.
        device.subscribe(&format!("{DEVICEBOUND}#"), QoS::AtMostOnce).await;
        assert_eq!(bench.deliver(1).await.unwrap(), accepted);
        assert_eq!(device.published().await.2, None);
        // After the client has unsubscribed it goes back.
        let mut bytes = Vec::new();
        unsubscribe(&mut bytes, 8, &[&format!("{DEVICEBOUND}#")]).unwrap();
        device.send(&bytes).await;
        device.receive(4).await;
        let released = Ok(DeliveryOutcome::Settled(Settlement::Released));
        assert_eq!(bench.deliver(2).await.unwrap(), released);
    });
}

#[test]
fn a_client_that_does_not_acknowledge_gets_one_window_and_others_all() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.connect().await;
        device.subscribe(&format!("{DEVICEBOUND}#"), QoS::AtLeastOnce).await;
        let waiting: Vec<_> = (0..60).map(|number| bench.deliver(number)).collect();
        let mut ids = Vec::new();
        for number in 0..50 {
            let (_, payload, packet_id) = device.published().await;
            assert_eq!(payload, format!("message {number}").as_bytes());
            ids.push(packet_id.unwrap());
        }
        device.gets_nothing().await;
        // In any order, an unknown id among them.
        for id in ids.iter().rev().chain([&999]) {
            device.send(&encoded(&Packet::PubAck(*id))).await;
        }
        for _ in 50..60 {
            let id = device.published().await.2.unwrap();
            device.send(&encoded(&Packet::PubAck(id))).await;
        }
        for one in waiting {
            assert_eq!(one.await.unwrap(), Ok(DeliveryOutcome::Settled(Settlement::Accepted)));
        }
    });
}
