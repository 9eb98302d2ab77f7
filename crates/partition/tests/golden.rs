//! Bytes that are on disks: this version writes them so, and every later one must read them.
//!
//! A change of format adds a file; the old ones are never removed.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};

use holdfast_consensus::LogPosition;
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, DeviceId, GenerationId, IdentityId, Incarnation, ModuleId, NodeId, Property,
    PropertyValue, SequenceNumber, TelemetryMessage, Term, UnixMillis,
};
use holdfast_partition::record::{
    BatchHeader, BatchWriter, DeviceStateChange, DeviceStateKey, DeviceStateKind, Effect, EntryView, Leadership,
    Origin, PartitionCommand, PropertyValueView, StreamId,
};
use holdfast_partition::state::{Head, IndexPoint, Spacing, State};

fn at(index: u64) -> LogPosition {
    LogPosition {
        term: Term(2),
        node: NodeId(1),
        index,
    }
}

const SPACING: Spacing = Spacing { bytes: 1, entries: 1 };

/// The bytes in `tests/golden`, written as hexadecimal text in lines.
fn golden(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn check(name: &str, written: &[u8], golden: &[u8]) {
    let hex: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(written == golden, "{name} is written differently now:\n{hex}");
}

fn entry() -> bytes::Bytes {
    let device = DeviceId::parse("pump-7").unwrap();
    let plain = IdentityId::device(device.clone());
    let module = IdentityId::module(device, ModuleId::parse("edge").unwrap());
    let generation = GenerationId("638400000000000001".into());
    let mut message = TelemetryMessage {
        payload: b"{\"t\":21.5}",
        ..TelemetryMessage::default()
    };
    let mut writer = BatchWriter::new();
    let sas = AuthMethod {
        scope: AuthScope::Device,
        kind: AuthType::Sas,
    };
    let origin = Origin {
        identity: &plain,
        generation: &generation,
        auth: sas,
        model_id: None,
    };
    writer.push(&origin, &message, UnixMillis(1_790_000_000_000)).unwrap();

    let text = |text: &'static str| Some(Cow::Borrowed(text));
    let system = &mut message.system;
    system.message_id = text("m-1");
    system.correlation_id = text("c-1");
    system.user_id = Some(Cow::Borrowed(b"\x00u"));
    system.to = text("/devices/pump-7/messages/events");
    system.content_type = text("application/json");
    system.content_encoding = text("utf-8");
    system.absolute_expiry_ms = Some(-1);
    system.creation_time = text("2026-11-24T08:00:00Z");
    system.component = text("motor1");
    system.interface_id = text("urn:i");
    system.output_name = text("out");
    system.message_schema = text("s");
    let values = [
        ("level", PropertyValue::Text(Cow::Borrowed("hot"))),
        ("empty", PropertyValue::Text(Cow::Borrowed(""))),
        ("null", PropertyValue::Null),
        ("int", PropertyValue::Amqp(Cow::Borrowed(b"\x54\x07"))),
    ];
    message.properties = values
        .into_iter()
        .map(|(name, value)| Property {
            name: name.into(),
            value,
        })
        .collect();
    let x509 = AuthMethod {
        scope: AuthScope::Module,
        kind: AuthType::X509,
    };
    let model_id = Some("dtmi:com:example:Pump;1");
    let origin = Origin {
        identity: &module,
        generation: &generation,
        auth: x509,
        model_id,
    };
    writer.push(&origin, &message, UnixMillis(1_790_000_000_001)).unwrap();
    let stream = StreamId {
        gateway_node: NodeId(1),
        incarnation: Incarnation(1_790_000_000_000),
        core: 1,
    };
    writer.close(BatchHeader {
        stream,
        batch_number: 1,
        enqueued: UnixMillis(1_790_000_000_002),
    })
}

#[test]
fn an_entry_of_version_1_is_written_and_read_as_ever() {
    let golden = golden(include_str!("golden/entry-v1.hex"));
    check("an entry", &entry(), &golden);
    let view = EntryView::parse(&golden).unwrap();
    assert_eq!(view.header().records, 2);
    let record = view.records().nth(1).unwrap().unwrap();
    assert_eq!((record.device_id, record.module_id), ("pump-7", Some("edge")));
    assert_eq!(
        (record.component, record.absolute_expiry_ms),
        (Some("motor1"), Some(-1))
    );
    let values: Vec<_> = record.properties().map(|property| property.value).collect();
    assert_eq!(
        values,
        [
            PropertyValueView::Text("hot"),
            PropertyValueView::Text(""),
            PropertyValueView::Null,
            PropertyValueView::Amqp(b"\x54\x07"),
        ]
    );
}

fn entry_with_effects() -> bytes::Bytes {
    let owner = Leadership {
        term: Term(7),
        node: NodeId(1_000),
    };
    let key = DeviceStateKey {
        kind: DeviceStateKind::SUBSCRIPTIONS,
        device: "pump-7",
        module: Some("edge"),
        generation: "638400000000000001",
        item: b"\x00\x01",
    };
    let gateway = NodeId(3_000);
    let value = Some(&b"value"[..]);
    let effects = [
        Effect::GatewayAbsent { gateway },
        Effect::GatewayPresent { gateway },
        Effect::DeviceState(DeviceStateChange { key, value }),
        Effect::DeviceState(DeviceStateChange { key, value: None }),
    ];
    let mut writer = BatchWriter::new();
    for effect in &effects {
        writer.push_effect(owner, effect).unwrap();
    }
    writer.close(BatchHeader::of_owner(UnixMillis(1_790_000_000_003)))
}

#[test]
fn an_entry_of_version_2_is_written_and_read_as_ever() {
    let golden = golden(include_str!("golden/entry-v2.hex"));
    check("an entry with effects", &entry_with_effects(), &golden);
    let view = EntryView::parse(&golden).unwrap();
    let (owner, records) = (view.header().owner.unwrap(), view.header().records);
    assert_eq!((owner.term, owner.node, records), (Term(7), NodeId(1_000), 0));
    let commands: Vec<_> = view.commands().collect();
    assert_eq!(commands.len(), 4);
    let PartitionCommand::Effect(Effect::DeviceState(change)) = commands[2] else {
        panic!("{commands:?}");
    };
    assert_eq!((change.key.device, change.key.module), ("pump-7", Some("edge")));
    assert_eq!((change.key.item, change.value), (&b"\x00\x01"[..], Some(&b"value"[..])));
}

#[test]
fn a_state_of_version_2_is_written_and_read_as_ever() {
    let mut state = State::new(SPACING);
    let mut writer = BatchWriter::new();
    let owner = Leadership {
        term: Term(2),
        node: NodeId(1),
    };
    let gateway = NodeId(3_000);
    writer.push_effect(owner, &Effect::GatewayAbsent { gateway }).unwrap();
    let entry = writer.close(BatchHeader::of_owner(UnixMillis(5)));
    state.apply(&at(5), &entry).unwrap();
    let head = Head {
        term: Term(2),
        node: NodeId(1),
        index: 7,
        membership: bytes::Bytes::from_static(b"opaque"),
        device_state_epoch: 6,
    };
    let points: VecDeque<_> = state.take_changes(0).points.into();
    let golden_head = golden(include_str!("golden/state-v2.hex"));
    check("a state", &state.encode_head(&head), &golden_head);
    let (read_head, read) = State::restore(&golden_head, points, BTreeSet::new(), SPACING).unwrap();
    assert_eq!((read_head, &read), (head, &state));
    assert_eq!(read.absent_gateways().iter().collect::<Vec<_>>(), [gateway]);
}

#[test]
fn a_state_of_version_1_is_written_and_read_as_ever() {
    let mut state = State::new(SPACING);
    state
        .apply(&at(5), &golden(include_str!("golden/entry-v1.hex")))
        .unwrap();
    state.apply(&at(6), b"\xff").unwrap();
    let head = Head {
        term: Term(2),
        node: NodeId(1),
        index: 7,
        membership: bytes::Bytes::from_static(b"opaque"),
        device_state_epoch: 0,
    };
    let point = IndexPoint {
        log_index: 5,
        enqueued: UnixMillis(1_790_000_000_002),
        ..IndexPoint::default()
    };
    let changes = state.take_changes(0);
    assert_eq!((&changes.points[..], &changes.skipped[..]), (&[point][..], &[6][..]));

    let (golden_head, golden_point) = (
        golden(include_str!("golden/state-v1.hex")),
        golden(include_str!("golden/point-v1.hex")),
    );
    check("a state", &state.encode_head(&head), &golden_head);
    check("a point of the index", &point.encode(), &golden_point);
    let points = VecDeque::from([IndexPoint::decode(&golden_point).unwrap()]);
    let (read_head, read) = State::restore(&golden_head, points, BTreeSet::from([6]), SPACING).unwrap();
    assert_eq!((read_head, &read), (head, &state));
    assert_eq!(read.next(), SequenceNumber(2));
}
