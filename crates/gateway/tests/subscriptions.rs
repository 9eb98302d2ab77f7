//! Subscriptions that outlive connections: a device on a simulated cluster subscribes, loses its connection, its gateway or
//! the owner of its partition, and finds its subscriptions.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use holdfast_model::NodeId;
use holdfast_mqtt::Limits;
use holdfast_mqtt::codec::{Packet, QoS, decode, subscribe, unsubscribe};
use holdfast_simulation::{NODES, SECOND, simulate};
use support::{Bench, DEVICE, Device, encoded, publish, telemetry};

const TWIN_RESPONSES: &str = "$iothub/twin/res/#";
const C2D: &str = "devices/dev-1/messages/devicebound/#";

/// Sends a SUBSCRIBE.
async fn ask(device: &mut Device, id: u16, filter: &str) {
    let mut bytes = Vec::new();
    subscribe(&mut bytes, id, &[(filter, QoS::AtLeastOnce)]).unwrap();
    device.send(&bytes).await;
}

/// Subscribes and waits for the SUBACK.
async fn subscribed(device: &mut Device, id: u16, filter: &str) {
    ask(device, id, filter).await;
    assert_eq!(device.receive(5).await, [0x90, 3, 0, u8::try_from(id).unwrap(), 1]);
}

/// Whether the hub answers twin requests on the topic that the device must have subscribed to.
async fn gets_twin_responses(device: &mut Device) -> bool {
    device
        .send(&publish("$iothub/twin/GET/?$rid=7", QoS::AtLeastOnce, 1))
        .await;
    // The acknowledgement leaves behind the answer.
    let mut bytes = device.receive(4).await;
    if bytes == [0x40, 2, 0, 1] {
        return false;
    }
    while matches!(decode(&bytes, &Limits::SERVER), Ok(None)) {
        bytes.extend(device.receive(1).await);
    }
    let (packet, _) = decode(&bytes, &Limits::SERVER).unwrap().unwrap();
    assert!(
        matches!(&packet, Packet::Publish(publish) if publish.topic.starts_with("$iothub/twin/res/200/?$rid=7")),
        "{packet:?}"
    );
    assert_eq!(device.pubacks(1).await, [1]);
    true
}

async fn disconnect(mut device: Device) {
    device.send(&encoded(&Packet::Disconnect)).await;
    assert_eq!(device.rest().await, b"");
}

#[test]
fn a_device_that_never_subscribes_again_keeps_its_subscriptions_at_every_node_and_owner() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(1)).await;
        let (mut device, is_present) = bench.resume(NodeId(1)).await;
        assert!(!is_present, "nothing is stored yet");
        assert!(!gets_twin_responses(&mut device).await);
        subscribed(&mut device, 1, TWIN_RESPONSES).await;
        subscribed(&mut device, 2, C2D).await;
        assert!(gets_twin_responses(&mut device).await);
        disconnect(device).await;
        for owner in NODES {
            bench.cluster.owned_by(DEVICE, owner).await;
            for gateway in NODES {
                let (mut device, is_present) = bench.resume(gateway).await;
                assert!(is_present, "owner {owner}, gateway {gateway}");
                assert!(
                    gets_twin_responses(&mut device).await,
                    "owner {owner}, gateway {gateway}"
                );
                disconnect(device).await;
            }
        }
        // An UNSUBSCRIBE lasts as well; the session stays.
        let (mut device, _) = bench.resume(NodeId(2)).await;
        let mut bytes = Vec::new();
        unsubscribe(&mut bytes, 3, &[TWIN_RESPONSES]).unwrap();
        device.send(&bytes).await;
        assert_eq!(device.receive(4).await, [0xb0, 2, 0, 3]);
        drop(device);
        let (mut device, is_present) = bench.resume(NodeId(3)).await;
        assert!(is_present);
        assert!(!gets_twin_responses(&mut device).await);
    });
}

#[test]
fn acknowledged_subscriptions_survive_a_power_cut_of_all_nodes() {
    simulate(async {
        let mut bench = Bench::start().await;
        let (mut device, _) = bench.resume(NodeId(2)).await;
        subscribed(&mut device, 1, TWIN_RESPONSES).await;
        // At once: only the log has them.
        bench.cluster.restart_all().await;
        NODES.into_iter().for_each(|node| bench.serve(node));
        let (mut device, is_present) = bench.resume(NodeId(3)).await;
        assert!(is_present);
        assert!(gets_twin_responses(&mut device).await);
    });
}

#[test]
fn a_subscription_is_acknowledged_only_when_a_quorum_has_it_and_telemetry_does_not_wait_for_that() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(1)).await;
        let (mut device, _) = bench.resume(NodeId(1)).await;
        for other in [2, 3] {
            bench.cluster.network.isolate(NodeId(other));
        }
        ask(&mut device, 1, TWIN_RESPONSES).await;
        device.send(&telemetry(2)).await;
        device.send(&encoded(&Packet::PingReq)).await;
        assert_eq!(device.receive(2).await, [0xd0, 0], "the connection is read on");
        let early = tokio::time::timeout(5 * SECOND, device.receive(1)).await;
        assert!(early.is_err(), "{early:?}");
        bench.cluster.network.heal_all();
        let mut answers = [device.receive(4).await, device.receive(5).await].concat();
        answers.sort_unstable();
        let mut expected = [&[0x90, 3, 0, 1, 1][..], &[0x40, 2, 0, 2]].concat();
        expected.sort_unstable();
        assert_eq!(answers, expected);
        assert!(gets_twin_responses(&mut device).await);
    });
}

#[test]
fn many_changes_at_once_are_acknowledged_in_order() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(2)).await;
        let (mut device, _) = bench.resume(NodeId(1)).await;
        let mut bytes = Vec::new();
        for id in 1..=600u16 {
            match id % 2 {
                1 => subscribe(&mut bytes, id, &[(TWIN_RESPONSES, QoS::AtMostOnce)]).unwrap(),
                _ => unsubscribe(&mut bytes, id, &[TWIN_RESPONSES]).unwrap(),
            }
        }
        device.send(&bytes).await;
        for id in 1..=600u16 {
            let [high, low] = id.to_be_bytes();
            match id % 2 {
                1 => assert_eq!(device.receive(5).await, [0x90, 3, high, low, 0]),
                _ => assert_eq!(device.receive(4).await, [0xb0, 2, high, low]),
            }
        }
        assert!(!gets_twin_responses(&mut device).await);
        drop(device);
        let (mut device, is_present) = bench.resume(NodeId(3)).await;
        assert!(is_present && !gets_twin_responses(&mut device).await);
    });
}

#[test]
fn a_clean_session_removes_what_was_stored_and_stores_nothing() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(2)).await;
        let (mut device, _) = bench.resume(NodeId(1)).await;
        subscribed(&mut device, 1, TWIN_RESPONSES).await;
        // The CONNACK of a clean session has no session, and its subscriptions end with it.
        let mut clean = bench.connect().await;
        assert!(!gets_twin_responses(&mut clean).await);
        subscribed(&mut clean, 1, TWIN_RESPONSES).await;
        assert!(gets_twin_responses(&mut clean).await);
        drop(clean);
        for _ in 0..2 {
            let (mut device, is_present) = bench.resume(NodeId(3)).await;
            assert!(!is_present, "a connection without a subscription stores nothing");
            assert!(!gets_twin_responses(&mut device).await);
        }
    });
}

#[test]
fn a_device_that_was_created_again_finds_no_session() {
    simulate(async {
        let bench = Bench::start().await;
        let (mut device, _) = bench.resume(NodeId(1)).await;
        subscribed(&mut device, 1, C2D).await;
        disconnect(device).await;
        bench.cluster.delete(DEVICE).await;
        bench.cluster.create(DEVICE).await;
        let (_device, is_present) = bench.resume(NodeId(2)).await;
        assert!(!is_present);
    });
}
