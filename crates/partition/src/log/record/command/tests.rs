//! Effects against the generated code, the versions of entries, and refusals.

use bytes::Bytes;
use holdfast_model::{Incarnation, MessageSource, UnixMillis};
use holdfast_proto::partition::v1 as stored;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::log::record::{
    BatchHeader, BatchWriter, COMMAND_VERSION, EntryError, EntryView, HubEvent, PushError, StreamId, TELEMETRY_VERSION,
    retain_records,
};

const OWNER: Leadership = Leadership {
    term: Term(7),
    node: NodeId(3),
};

/// An effect that owns its parts, so that a strategy can make it.
#[derive(Debug, Clone)]
enum Sample {
    Gateway {
        gateway: NodeId,
        absent: bool,
    },
    DeviceState {
        kind: u8,
        device: String,
        module: String,
        generation: String,
        item: Vec<u8>,
        value: Option<Vec<u8>>,
    },
}

impl Sample {
    fn effect(&self) -> Effect<'_> {
        match self {
            Self::Gateway { gateway, absent: true } => Effect::GatewayAbsent { gateway: *gateway },
            Self::Gateway { gateway, absent: false } => Effect::GatewayPresent { gateway: *gateway },
            Self::DeviceState {
                kind,
                device,
                module,
                generation,
                item,
                value,
            } => Effect::DeviceState(DeviceStateChange {
                key: DeviceStateKey {
                    kind: DeviceStateKind(*kind),
                    device,
                    module: Some(&module[..]).filter(|module| !module.is_empty()),
                    generation,
                    item,
                },
                value: value.as_deref(),
            }),
        }
    }

    fn stored(&self) -> stored::PartitionCommand {
        use stored::device_state_change::Change;
        use stored::partition_command::Command;
        let command = match self.clone() {
            Self::Gateway { gateway, absent } => {
                let presence = stored::GatewayPresence {
                    gateway_node: gateway.get(),
                };
                if absent {
                    Command::GatewayAbsent(presence)
                } else {
                    Command::GatewayPresent(presence)
                }
            }
            Self::DeviceState {
                kind,
                device,
                module,
                generation,
                item,
                value,
            } => Command::DeviceState(stored::DeviceStateChange {
                kind: kind.into(),
                device_id: device,
                module_id: module,
                generation_id: generation,
                item: item.into(),
                change: Some(value.map_or(Change::Removed(true), |value| Change::Value(value.into()))),
            }),
        };
        stored::PartitionCommand { command: Some(command) }
    }
}

fn sample() -> impl Strategy<Value = Sample> {
    let id = "[a-zA-Z0-9.:$ä-]{0,9}";
    let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
    let state = (
        1_u8..,
        "[a-z]{1,9}",
        id,
        id,
        bytes(20),
        proptest::option::of(bytes(300)),
    )
        .prop_map(|(kind, device, module, generation, item, value)| Sample::DeviceState {
            kind,
            device,
            module,
            generation,
            item,
            value,
        });
    prop_oneof![
        1 => (any::<u64>(), any::<bool>()).prop_map(|(gateway, absent)| Sample::Gateway { gateway: NodeId(gateway), absent }),
        3 => state,
    ]
}

fn effects(bytes: &[u8]) -> Vec<Effect<'_>> {
    let view = EntryView::parse(bytes).unwrap();
    let effects = view.commands().filter_map(|command| match command {
        PartitionCommand::Telemetry(_) => None,
        PartitionCommand::Effect(effect) => Some(effect),
    });
    effects.collect()
}

fn change(value: Option<&'static [u8]>) -> Effect<'static> {
    Effect::DeviceState(DeviceStateChange {
        key: DeviceStateKey {
            kind: DeviceStateKind::CONNECTION,
            device: "d",
            module: None,
            generation: "1",
            item: b"",
        },
        value,
    })
}

fn owners_entry(effect: &Effect<'_>) -> Bytes {
    let mut writer = BatchWriter::new();
    writer.push_effect(OWNER, effect).unwrap();
    writer.close(BatchHeader::of_owner(UnixMillis(5)))
}

proptest! {
    #[test]
    fn the_generated_code_and_the_view_read_the_writers_output(
        samples in proptest::collection::vec(sample(), 1..8),
    ) {
        let mut writer = BatchWriter::new();
        for sample in &samples {
            writer.push_effect(OWNER, &sample.effect()).unwrap();
        }
        let bytes = writer.close(BatchHeader::of_owner(UnixMillis(5)));
        prop_assert!(writer.is_empty());
        let entry = stored::PartitionEntry::decode(bytes.clone()).unwrap();
        prop_assert_eq!(entry.version, COMMAND_VERSION);
        prop_assert_eq!((entry.owner_term, entry.owner_node), (7, 3));
        let expected: Vec<_> = samples.iter().map(Sample::stored).collect();
        prop_assert_eq!(&entry.commands, &expected);
        let expected: Vec<_> = samples.iter().map(Sample::effect).collect();
        prop_assert_eq!(&effects(&bytes), &expected);
        // The generated code's own bytes read the same.
        let canonical = entry.encode_to_vec();
        prop_assert_eq!(&effects(&canonical), &expected);
    }

    #[test]
    fn a_damaged_effect_is_an_error_or_other_content_but_never_a_panic(
        sample in sample(),
        position in any::<prop::sample::Index>(),
        flip in 1_u8..=255,
    ) {
        let mut bytes = owners_entry(&sample.effect()).to_vec();
        let position = position.index(bytes.len());
        bytes[position] ^= flip;
        if let Ok(view) = EntryView::parse(&bytes) {
            let _ = view.commands().count();
        }
        bytes.truncate(position);
        if let Ok(view) = EntryView::parse(&bytes) {
            let _ = view.commands().count();
        }
    }
}

#[test]
fn an_entry_carries_telemetry_before_effects_and_loses_records_alone() {
    let identity = holdfast_model::IdentityId::device(holdfast_model::DeviceId::parse("d").unwrap());
    let generation = holdfast_model::GenerationId("1".into());
    let origin = crate::log::record::Origin {
        identity: &identity,
        generation: &generation,
        auth: holdfast_model::AuthMethod::from_number(0).unwrap(),
        model_id: None,
    };
    let stream = StreamId {
        gateway_node: NodeId(4),
        incarnation: Incarnation(5),
        core: 6,
    };
    let header = BatchHeader {
        stream,
        batch_number: 9,
        enqueued: UnixMillis(1),
    };
    let mut writer = BatchWriter::new();
    let message = holdfast_model::TelemetryMessage::default();
    writer.push_effect(OWNER, &change(Some(b"v"))).unwrap();
    writer.push(&origin, &message, UnixMillis(1)).unwrap();
    writer.push(&origin, &message, UnixMillis(1)).unwrap();
    let bytes = writer.close(header);
    let view = EntryView::parse(&bytes).unwrap();
    let found = view.header();
    assert_eq!((found.stream, found.batch_number, found.records), (stream, 9, 2));
    assert_eq!((found.owner, found.has_stream()), (Some(OWNER), true));
    let commands: Vec<_> = view.commands().collect();
    assert!(matches!(
        commands[..],
        [PartitionCommand::Telemetry(records), PartitionCommand::Effect(effect)]
            if records.count() == 2 && effect == change(Some(b"v"))
    ));
    let kept = retain_records(&bytes, |index| index == 1).unwrap();
    assert_eq!(EntryView::parse(&kept).unwrap().header().records, 1);
    assert_eq!(effects(&kept), [change(Some(b"v"))]);
    // The next batch of the same writer has none.
    writer.push(&origin, &message, UnixMillis(1)).unwrap();
    let plain = writer.close(header);
    assert_eq!(plain[1..5], TELEMETRY_VERSION.to_le_bytes());
    assert_eq!(EntryView::parse(&plain).unwrap().header().owner, None);
}

#[test]
fn an_event_of_the_hub_is_a_record_of_the_owners_entry() {
    let device = holdfast_model::DeviceId::parse("d").unwrap();
    let identity = holdfast_model::IdentityId::module(device, holdfast_model::ModuleId::parse("m").unwrap());
    let message = holdfast_model::TelemetryMessage {
        payload: b"{}",
        ..holdfast_model::TelemetryMessage::default()
    };
    let event = HubEvent {
        source: MessageSource::TwinChange,
        identity: &identity,
        message: &message,
        time: UnixMillis(7),
    };
    let mut writer = BatchWriter::new();
    writer.push_event(OWNER, &event).unwrap();
    let later = Leadership { term: Term(8), ..OWNER };
    let refused = writer.push_event(later, &event);
    assert_eq!(refused, Err(PushError::OtherLeadership(OWNER)));
    let bytes = writer.close(BatchHeader::of_owner(UnixMillis(9)));
    let view = EntryView::parse(&bytes).unwrap();
    let header = view.header();
    assert_eq!(
        (header.owner, header.records, header.has_stream()),
        (Some(OWNER), 1, false)
    );
    let record = view.records().next().unwrap().unwrap();
    assert_eq!(record.source, Some(MessageSource::TwinChange));
    assert_eq!((record.device_id, record.module_id), ("d", Some("m")));
    assert_eq!((record.auth, record.generation_id), (None, ""));
    assert_eq!((record.received, record.payload), (UnixMillis(7), &b"{}"[..]));
    writer.push_event(later, &event).unwrap();
    writer.push_effect(later, &change(None)).unwrap();
    let both = writer.close(BatchHeader::of_owner(UnixMillis(9)));
    assert_eq!(effects(&both), [change(None)]);
    assert_eq!(EntryView::parse(&both).unwrap().header().records, 1);
}

#[test]
fn an_owners_entry_has_no_stream() {
    let bytes = owners_entry(&change(None));
    let header = EntryView::parse(&bytes).unwrap().header();
    assert!(!header.has_stream());
    assert_eq!((header.owner, header.records), (Some(OWNER), 0));
    assert_eq!(effects(&bytes), [change(None)]);
}

#[test]
fn an_entry_holds_effects_of_one_leadership() {
    let mut writer = BatchWriter::new();
    writer.push_effect(OWNER, &change(None)).unwrap();
    let later = Leadership { term: Term(8), ..OWNER };
    let refused = writer.push_effect(later, &change(Some(b"1")));
    assert_eq!(refused, Err(PushError::OtherLeadership(OWNER)));
    let bytes = writer.close(BatchHeader::of_owner(UnixMillis(1)));
    assert_eq!(effects(&bytes), [change(None)]);
    writer.push_effect(later, &change(None)).unwrap();
}

#[test]
fn effects_that_no_entry_can_carry_are_refused() {
    let key = DeviceStateKey {
        kind: DeviceStateKind::SUBSCRIPTIONS,
        device: "d",
        module: None,
        generation: "1",
        item: b"",
    };
    let long = "x".repeat(MAX_KEY_TEXT_BYTES + 1);
    let (item, value) = (vec![0; MAX_ITEM_BYTES + 1], vec![0; MAX_DEVICE_STATE_BYTES + 1]);
    let kind = DeviceStateKind(0);
    let (device, generation) = ("a\0b", "1\0");
    let keys = [
        DeviceStateKey { kind, ..key },
        DeviceStateKey { device: "", ..key },
        DeviceStateKey { device, ..key },
        DeviceStateKey { device: &long, ..key },
        DeviceStateKey { generation, ..key },
        DeviceStateKey { item: &item, ..key },
    ];
    let mut changes: Vec<_> = keys.map(|key| DeviceStateChange { key, value: None }).into();
    changes.push(DeviceStateChange {
        key,
        value: Some(&value),
    });
    let mut writer = BatchWriter::new();
    for change in changes {
        let refused = writer.push_effect(OWNER, &Effect::DeviceState(change));
        assert!(matches!(refused, Err(PushError::InvalidEffect(_))), "{change:?}");
    }
    assert!(writer.is_empty());
    let largest = DeviceStateChange {
        key,
        value: Some(&value[1..]),
    };
    let mut taken = 0;
    while writer.push_effect(OWNER, &Effect::DeviceState(largest)).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 7, "seven of 512 KiB and their names fit 4 MiB");
    let bytes = writer.close(BatchHeader::of_owner(UnixMillis(1)));
    assert_eq!(effects(&bytes).len(), 7);
}

#[test]
fn a_command_of_a_later_version_and_a_missing_owner_are_refused() {
    let known = stored::PartitionEntry::decode(owners_entry(&change(None))).unwrap();
    let mut entry = known.clone();
    entry.owner_term = 0;
    let refused = EntryView::parse(&entry.encode_to_vec()).unwrap_err();
    assert!(matches!(refused, EntryError::Corrupt(_)), "{refused}");
    // Field 4 of a command, which version 2 does not have.
    let mut bytes = known.encode_to_vec();
    bytes.extend_from_slice(&[0x72, 2, 0x22, 0]);
    let refused = EntryView::parse(&bytes).unwrap_err();
    assert!(
        refused.to_string().contains("of a kind that its version does not have"),
        "{refused}"
    );
    let mut later = known;
    later.version = 3;
    assert_eq!(
        EntryView::parse(&later.encode_to_vec()).unwrap_err(),
        EntryError::Version(3)
    );
}

#[test]
fn fields_of_version_2_mean_nothing_in_version_1() {
    let mut entry = stored::PartitionEntry::decode(owners_entry(&change(None))).unwrap();
    entry.version = TELEMETRY_VERSION;
    let bytes = entry.encode_to_vec();
    assert_eq!(EntryView::parse(&bytes).unwrap().header().owner, None);
    assert!(effects(&bytes).is_empty());
}

#[test]
fn an_entry_of_telemetry_alone_is_known_to_have_no_effects() {
    let header = BatchHeader::of_owner(UnixMillis(1));
    let mut writer = BatchWriter::new();
    assert!(!EntryView::may_have_effects(&writer.close(header)));
    let gateway = Effect::GatewayAbsent { gateway: NodeId(1) };
    writer.push_effect(OWNER, &gateway).unwrap();
    assert!(EntryView::may_have_effects(&writer.close(header)));
    for unknown in [&b""[..], b"\xff", b"\x0d\x01"] {
        assert!(EntryView::may_have_effects(unknown), "{unknown:?}");
    }
}
