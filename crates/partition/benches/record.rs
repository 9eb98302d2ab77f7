//! Nanoseconds to encode one message into the open batch, and to read it back.

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, DeviceId, GenerationId, IdentityId, Incarnation, NodeId, Property, PropertyValue,
    TelemetryMessage, UnixMillis,
};
use holdfast_partition::record::{BatchHeader, BatchWriter, EntryView, Origin, StreamId};

const MESSAGES: u64 = 100;

fn record(criterion: &mut Criterion) {
    let identity = IdentityId::device(DeviceId::parse("device-000123").expect("a valid id"));
    let generation = GenerationId("638400000000000001".into());
    let auth = AuthMethod {
        scope: AuthScope::Device,
        kind: AuthType::Sas,
    };
    let origin = Origin {
        identity: &identity,
        generation: &generation,
        auth,
        model_id: None,
    };
    let stream = StreamId {
        gateway_node: NodeId(1),
        incarnation: Incarnation(1),
        core: 0,
    };
    let header = BatchHeader {
        stream,
        batch_number: 1,
        enqueued: UnixMillis(1),
    };
    let payload = vec![7; 256];
    let mut message = TelemetryMessage {
        payload: &payload,
        ..TelemetryMessage::default()
    };
    message.system.content_type = Some(Cow::Borrowed("application/json"));
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(MESSAGES));
    for properties in ["none", "two"] {
        if properties == "two" {
            for (name, value) in [("level", "hot"), ("site", "A")] {
                message.properties.push(Property {
                    name: name.into(),
                    value: PropertyValue::Text(value.into()),
                });
            }
        }
        let mut writer = BatchWriter::new();
        let mut batch = || {
            for _ in 0..MESSAGES {
                writer
                    .push(&origin, black_box(&message), UnixMillis(1_790_000_000_000))
                    .expect("a message fits");
            }
            writer.close(header)
        };
        group.bench_function(format!("push, {properties} properties"), |bencher| {
            bencher.iter(&mut batch)
        });
        let entry = batch();
        group.bench_function(format!("view, {properties} properties"), |bencher| {
            bencher.iter(|| {
                let view = EntryView::parse(black_box(&entry)).expect("just written");
                view.records()
                    .flatten()
                    .map(|record| record.payload.len() + record.properties().len())
                    .sum::<usize>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, record);
criterion_main!(benches);
