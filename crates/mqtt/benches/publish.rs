//! The hot path: a PUBLISH at QoS 1 with 256 bytes, from bytes to a telemetry message.
//!
//! `cargo bench -p holdfast-mqtt`

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use holdfast_model::{DeviceId, IdentityId};
use holdfast_mqtt::codec::{Limits, Packet, Publish, QoS, decode, publish};
use holdfast_mqtt::connection::{Action, Connection};
use holdfast_mqtt::topic::DeviceTopic;
use holdfast_mqtt::{bag, codec::Connect};

const PLAIN: &str = "devices/device-000123/messages/events/";
const BAG: &str =
    "devices/device-000123/messages/events/%24.mid=0e1d2c3b&%24.ct=application%2Fjson&%24.ce=utf-8&level=hot";

fn packet(topic: &str) -> Vec<u8> {
    let packet = Publish {
        qos: QoS::AtLeastOnce,
        topic,
        packet_id: Some(7),
        payload: &[b'x'; 256],
        ..Publish::default()
    };
    let mut bytes = Vec::new();
    publish(&mut bytes, &packet).expect("encodes");
    bytes
}

fn connection() -> Connection {
    let mut connection = Connection::new(0);
    let connect = Connect {
        client_id: "device-000123",
        username: Some("hub/device-000123"),
        ..Connect::default()
    };
    connection.handle(Packet::Connect(connect), 0).expect("valid");
    connection.accept(None, 0);
    connection
}

fn benches(criterion: &mut Criterion) {
    let identity = IdentityId::device(DeviceId::parse("device-000123").expect("valid"));
    let limits = Limits::CLIENT;
    for (name, topic) in [("no bag", PLAIN), ("4 properties", BAG)] {
        let bytes = packet(topic);
        criterion.bench_function(&format!("decode, {name}"), |b| {
            b.iter(|| decode(black_box(&bytes), &limits).is_ok_and(|found| found.is_some()));
        });
        criterion.bench_function(&format!("topic and bag, {name}"), |b| {
            let Ok(Some((Packet::Publish(packet), _))) = decode(&bytes, &limits) else {
                panic!("PUBLISH")
            };
            b.iter(|| {
                let Ok(DeviceTopic::Events { bag }) = DeviceTopic::parse(&identity, black_box(packet.topic)) else {
                    panic!("telemetry")
                };
                bag::telemetry(bag, &packet).expect("valid").properties.len()
            });
        });
        let mut connection = connection();
        criterion.bench_function(&format!("bytes to message, {name}"), |b| {
            b.iter(|| {
                let Ok(Some((packet, _))) = decode(black_box(&bytes), &connection.limits()) else {
                    panic!("PUBLISH")
                };
                let Ok(Action::Publish {
                    topic: DeviceTopic::Events { bag },
                    packet,
                }) = connection.handle(packet, 1)
                else {
                    panic!("telemetry")
                };
                bag::telemetry(bag, &packet).expect("valid").properties.len()
            });
        });
    }
}

criterion_group!(publishes, benches);
criterion_main!(publishes);
