//! Direct methods of an MQTT client on a simulated cluster: from any node to the device, and its answer back.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_device_hub::{MethodAnswer, MethodCall, MethodError};
use holdfast_model::NodeId;
use holdfast_mqtt::codec::{Packet, Publish, QoS};
use holdfast_simulation::{identity, simulate};
use support::{Bench, DEVICE, Device, encoded};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const FILTER: &str = "$iothub/methods/POST/#";
const RESPONSE: Duration = Duration::from_secs(30);

impl Bench {
    /// Calls a method from a node that neither owns the device's partition nor has its connection.
    fn call(&self, name: &str, connect_timeout: Duration) -> JoinHandle<Result<MethodAnswer, MethodError>> {
        let hub = Arc::clone(self.cluster.hub(NodeId(2)));
        let call = MethodCall {
            name: name.into(),
            payload: r#"{"a":1}"#.into(),
            connect_timeout,
            response_timeout: RESPONSE,
            trace: None,
        };
        tokio::task::spawn_local(async move { hub.invoke_method(&identity(DEVICE), &call).await })
    }
}

impl Device {
    /// The name and request id of the next method.
    async fn method(&mut self) -> (String, String) {
        let (topic, payload, _) = self.published().await;
        assert_eq!(payload, br#"{"a":1}"#);
        let (name, rid) = topic
            .strip_prefix("$iothub/methods/POST/")
            .and_then(|rest| rest.split_once("/?$rid="))
            .unwrap();
        (name.to_owned(), rid.to_owned())
    }

    async fn answer(&mut self, rid: &str, status: i32, payload: &str, packet_id: Option<u16>) {
        let qos = match packet_id {
            Some(_) => QoS::AtLeastOnce,
            None => QoS::AtMostOnce,
        };
        let packet = Publish {
            qos,
            topic: &format!("$iothub/methods/res/{status}/?$rid={rid}"),
            packet_id,
            payload: payload.as_bytes(),
            ..Publish::default()
        };
        self.send(&encoded(&Packet::Publish(packet))).await;
        if let Some(packet_id) = packet_id {
            let ack = packet_id.to_be_bytes();
            assert_eq!(self.receive(4).await, [0x40, 2, ack[0], ack[1]]);
        }
    }
}

fn answered(status: i32, payload: &'static str) -> Result<MethodAnswer, MethodError> {
    Ok(MethodAnswer {
        status,
        payload: payload.into(),
    })
}

#[test]
fn a_method_reaches_the_device_and_its_answer_the_caller() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        let mut device = bench.connect().await;
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            device.subscribe(FILTER, qos).await;
            let call = bench.call("reboot", Duration::ZERO);
            let (name, rid) = device.method().await;
            assert_eq!(name, "reboot");
            device
                .answer(&rid, -7, "[1,2]", (qos == QoS::AtLeastOnce).then_some(9))
                .await;
            assert_eq!(call.await.unwrap(), answered(-7, "[1,2]"));
            // A second answer, and one to a call that never was.
            device.answer(&rid, 1, "", Some(10)).await;
            device.answer("1-1-1", 1, "", Some(11)).await;
        }
        // Several at once, answered in any order.
        let calls: Vec<_> = (0..40).map(|_| bench.call("many", Duration::ZERO)).collect();
        let mut rids = Vec::new();
        for _ in &calls {
            rids.push(device.method().await.1);
        }
        for rid in rids.iter().rev() {
            device.answer(rid, 200, "", None).await;
        }
        for call in calls {
            assert_eq!(call.await.unwrap(), answered(200, ""));
        }
    });
}

#[test]
fn a_call_ends_with_the_reason_why_there_is_no_answer() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        let start = Instant::now();
        assert_eq!(
            bench.call("m", Duration::ZERO).await.unwrap(),
            Err(MethodError::NotConnected)
        );
        assert!(start.elapsed() < Duration::from_secs(1), "at once");
        let mut device = bench.connect().await;
        let start = Instant::now();
        let refused = bench.call("m", Duration::from_secs(60)).await.unwrap();
        assert_eq!(refused, Err(MethodError::NotSubscribed));
        assert!(start.elapsed() < Duration::from_secs(1), "at once: it is connected");
        // It has not been kept for later.
        device.subscribe(FILTER, QoS::AtMostOnce).await;
        device.gets_nothing().await;
        let start = Instant::now();
        assert_eq!(
            bench.call("slow", Duration::ZERO).await.unwrap(),
            Err(MethodError::NoAnswer)
        );
        assert_eq!(start.elapsed().as_secs(), RESPONSE.as_secs());
        device.method().await;
        let call = bench.call("dies", Duration::ZERO);
        device.method().await;
        let start = Instant::now();
        drop(device);
        assert_eq!(call.await.unwrap(), Err(MethodError::Disconnected));
        assert!(start.elapsed() < Duration::from_secs(1), "at once");
    });
}

#[test]
fn a_call_waits_for_a_device_that_connects_and_subscribes() {
    simulate(async {
        let bench = Bench::start().await;
        let start = Instant::now();
        let absent = bench.call("m", Duration::from_secs(7)).await.unwrap();
        assert_eq!(absent, Err(MethodError::NotConnected));
        assert_eq!(start.elapsed().as_secs(), 7);
        let call = bench.call("m", Duration::from_secs(60));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut device = bench.connect().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        device.subscribe(FILTER, QoS::AtMostOnce).await;
        let (_, rid) = device.method().await;
        device.answer(&rid, 0, "null", None).await;
        assert_eq!(call.await.unwrap(), answered(0, "null"));
    });
}

#[test]
fn a_device_has_a_bounded_number_of_methods_in_flight() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.connect().await;
        device.subscribe(FILTER, QoS::AtMostOnce).await;
        let mut calls = Vec::new();
        for _ in 0..64 {
            calls.push(bench.call("m", Duration::ZERO));
            device.method().await;
        }
        let beyond = bench.call("m", Duration::ZERO).await.unwrap();
        assert_eq!(beyond, Err(MethodError::TooManyInFlight));
        for call in calls {
            assert_eq!(call.await.unwrap(), Err(MethodError::NoAnswer));
        }
        // Their callers are gone.
        let call = bench.call("m", Duration::ZERO);
        let (_, rid) = device.method().await;
        device.answer(&rid, 200, "true", None).await;
        assert_eq!(call.await.unwrap(), answered(200, "true"));
    });
}

#[test]
fn a_call_during_a_change_of_owner_is_answered() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        let mut device = bench.connect().await;
        device.subscribe(FILTER, QoS::AtMostOnce).await;
        for owner in [1, 2, 3, 2] {
            let call = bench.call("m", Duration::ZERO);
            bench.cluster.owned_by(DEVICE, NodeId(owner)).await;
            let (_, rid) = device.method().await;
            device.answer(&rid, 200, "", None).await;
            assert_eq!(call.await.unwrap(), answered(200, ""), "{owner}");
            let during = bench.call("m", Duration::ZERO);
            let (_, rid) = device.method().await;
            device.answer(&rid, 200, "", None).await;
            assert_eq!(during.await.unwrap(), answered(200, ""), "{owner}");
        }
    });
}
