//! The hand-written form against the generated code, and damaged bytes.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::{
    AuthMethod, DeviceId, GenerationId, IdentityId, ModuleId, Property, PropertyValue, SystemProperties,
    TelemetryMessage, UnixMillis,
};
use holdfast_proto::partition::v1 as stored;
use proptest::prelude::*;
use prost::Message;

use super::*;

/// A message that owns its parts, so that a strategy can make it.
#[derive(Debug, Clone, Default)]
struct Sample {
    device: String,
    module: Option<String>,
    generation: String,
    auth: u32,
    model_id: Option<String>,
    received: u64,
    payload: Vec<u8>,
    texts: [Option<String>; 10],
    user_id: Option<Vec<u8>>,
    expiry: Option<i64>,
    properties: Vec<(String, Value)>,
}

#[derive(Debug, Clone)]
enum Value {
    Null,
    Text(String),
    Amqp(Vec<u8>),
}

impl Sample {
    fn push(&self, writer: &mut BatchWriter) -> Result<(), PushError> {
        let device = DeviceId::parse(&self.device).unwrap();
        let identity = match &self.module {
            Some(module) => IdentityId::module(device, ModuleId::parse(module).unwrap()),
            None => IdentityId::device(device),
        };
        let generation = GenerationId(Arc::from(self.generation.as_str()));
        let origin = Origin {
            identity: &identity,
            generation: &generation,
            auth: AuthMethod::from_number(self.auth).unwrap(),
            model_id: self.model_id.as_deref(),
        };
        let text = |position: usize| self.texts[position].as_deref().map(Cow::Borrowed);
        let message = TelemetryMessage {
            payload: &self.payload,
            system: SystemProperties {
                message_id: text(0),
                correlation_id: text(1),
                user_id: self.user_id.as_deref().map(Cow::Borrowed),
                to: text(2),
                content_type: text(3),
                content_encoding: text(4),
                absolute_expiry_ms: self.expiry,
                creation_time: text(5),
                component: text(6),
                interface_id: text(7),
                output_name: text(8),
                message_schema: text(9),
            },
            properties: self
                .properties
                .iter()
                .map(|(name, value)| Property {
                    name: Cow::Borrowed(name),
                    value: match value {
                        Value::Null => PropertyValue::Null,
                        Value::Text(text) => PropertyValue::Text(Cow::Borrowed(text)),
                        Value::Amqp(bytes) => PropertyValue::Amqp(Cow::Borrowed(bytes)),
                    },
                })
                .collect(),
        };
        writer.push(&origin, &message, UnixMillis(self.received))
    }

    fn stored(&self) -> stored::TelemetryRecord {
        let text = |position: usize| self.texts[position].clone();
        stored::TelemetryRecord {
            device_id: self.device.clone(),
            module_id: self.module.clone().unwrap_or_default(),
            generation_id: self.generation.clone(),
            auth_method: self.auth,
            received_ms: self.received,
            payload: Bytes::from(self.payload.clone()),
            message_id: text(0),
            correlation_id: text(1),
            user_id: self.user_id.clone().map(Bytes::from),
            to: text(2),
            content_type: text(3),
            content_encoding: text(4),
            absolute_expiry_ms: self.expiry,
            creation_time: text(5),
            model_id: self.model_id.clone().unwrap_or_default(),
            component: text(6),
            interface_id: text(7),
            output_name: text(8),
            message_schema: text(9),
            properties: self
                .properties
                .iter()
                .map(|(name, value)| stored::Property {
                    name: name.clone(),
                    value: match value {
                        Value::Null => None,
                        Value::Text(text) => Some(stored::property::Value::Text(text.clone())),
                        Value::Amqp(bytes) => Some(stored::property::Value::Amqp(Bytes::from(bytes.clone()))),
                    },
                })
                .collect(),
            source: 0,
        }
    }
}

/// A view as the generated type.
fn shown(view: &RecordView<'_>) -> stored::TelemetryRecord {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let properties = view.properties();
    assert_eq!(properties.len(), properties.count());
    stored::TelemetryRecord {
        device_id: view.device_id.to_owned(),
        module_id: owned(view.module_id).unwrap_or_default(),
        generation_id: view.generation_id.to_owned(),
        auth_method: view.auth.unwrap().number(),
        received_ms: view.received.0,
        payload: Bytes::copy_from_slice(view.payload),
        message_id: owned(view.message_id),
        correlation_id: owned(view.correlation_id),
        user_id: view.user_id.map(Bytes::copy_from_slice),
        to: owned(view.to),
        content_type: owned(view.content_type),
        content_encoding: owned(view.content_encoding),
        absolute_expiry_ms: view.absolute_expiry_ms,
        creation_time: owned(view.creation_time),
        model_id: owned(view.model_id).unwrap_or_default(),
        component: owned(view.component),
        interface_id: owned(view.interface_id),
        output_name: owned(view.output_name),
        message_schema: owned(view.message_schema),
        properties: view
            .properties()
            .map(|property| stored::Property {
                name: property.name.to_owned(),
                value: match property.value {
                    PropertyValueView::Null => None,
                    PropertyValueView::Text(text) => Some(stored::property::Value::Text(text.to_owned())),
                    PropertyValueView::Amqp(bytes) => {
                        Some(stored::property::Value::Amqp(Bytes::copy_from_slice(bytes)))
                    }
                },
            })
            .collect(),
        source: u32::try_from(view.source.unwrap().number()).unwrap(),
    }
}

fn header() -> BatchHeader {
    BatchHeader {
        stream: StreamId {
            gateway_node: NodeId(0x0102_0304_0506_0708),
            incarnation: Incarnation(u64::MAX),
            core: 3,
        },
        batch_number: 77,
        enqueued: UnixMillis(1_790_000_000_123),
    }
}

fn sample() -> impl Strategy<Value = Sample> {
    let text = || proptest::option::of(".{0,20}");
    let value = prop_oneof![
        Just(Value::Null),
        ".{0,200}".prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Amqp),
    ];
    let origin = (
        "[a-zA-Z0-9#%]{1,128}",
        proptest::option::of("[a-z]{1,128}"),
        "[0-9]{0,20}",
        text(),
    );
    let auth = prop_oneof![Just(0_u32), Just(1), Just(2), Just(4), Just(5), Just(6)];
    let texts = [(); 10].map(|()| text());
    let body = (
        proptest::collection::vec(any::<u8>(), 0..600),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        proptest::option::of(any::<i64>()),
        proptest::collection::vec((".{0,20}", value), 0..6),
    );
    (origin, auth, any::<u64>(), texts, body).prop_map(|(origin, auth, received, texts, body)| Sample {
        device: origin.0,
        module: origin.1,
        generation: origin.2,
        auth,
        model_id: origin.3.filter(|text| !text.is_empty()),
        received,
        payload: body.0,
        texts,
        user_id: body.1,
        expiry: body.2,
        properties: body.3,
    })
}

fn simple(payload: usize) -> Sample {
    Sample {
        device: "device-1".to_owned(),
        generation: "638400000000000001".to_owned(),
        received: 1_790_000_000_000,
        payload: vec![7; payload],
        ..Sample::default()
    }
}

proptest! {
    #[test]
    fn the_generated_code_and_the_view_read_the_writers_output(
        samples in proptest::collection::vec(sample(), 0..12),
    ) {
        let mut writer = BatchWriter::new();
        for sample in &samples {
            sample.push(&mut writer).unwrap();
        }
        prop_assert_eq!(writer.len() as usize, samples.len());
        let bytes = writer.close(header());
        let entry = stored::PartitionEntry::decode(bytes.clone()).unwrap();
        prop_assert_eq!(entry.version, TELEMETRY_VERSION);
        prop_assert_eq!(entry.gateway_node, header().stream.gateway_node.get());
        prop_assert_eq!(entry.incarnation, header().stream.incarnation.get());
        prop_assert_eq!(entry.core, header().stream.core);
        prop_assert_eq!(entry.batch_number, header().batch_number);
        prop_assert_eq!(entry.enqueued_time_ms, header().enqueued.0);
        prop_assert_eq!(entry.record_count as usize, samples.len());
        let expected: Vec<_> = samples.iter().map(Sample::stored).collect();
        prop_assert_eq!(&entry.records, &expected);

        let view = EntryView::parse(&bytes).unwrap();
        prop_assert_eq!(view.header().stream, header().stream);
        prop_assert_eq!(view.header().proposed, header().enqueued);
        let seen: Vec<_> = view.records().map(|record| shown(&record.unwrap())).collect();
        prop_assert_eq!(&seen, &expected);

        // The generated code's own bytes, with shortest lengths, read the same.
        let canonical = entry.encode_to_vec();
        let view = EntryView::parse(&canonical).unwrap();
        let seen: Vec<_> = view.records().map(|record| shown(&record.unwrap())).collect();
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn no_bytes_make_a_view_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(view) = EntryView::parse(&bytes) {
            prop_assert!(view.records().count() <= bytes.len());
        }
        if let Ok(record) = RecordView::parse(&bytes) {
            prop_assert_eq!(record.properties().count(), record.properties().len());
        }
    }

    #[test]
    fn a_damaged_entry_is_an_error_or_other_content_but_never_a_panic(
        samples in proptest::collection::vec(sample(), 1..4),
        position in any::<prop::sample::Index>(),
        flip in 1_u8..=255,
    ) {
        let mut writer = BatchWriter::new();
        for sample in &samples {
            sample.push(&mut writer).unwrap();
        }
        let mut bytes = writer.close(header()).to_vec();
        let position = position.index(bytes.len());
        bytes[position] ^= flip;
        if let Ok(view) = EntryView::parse(&bytes) {
            for record in view.records().flatten() {
                let _ = record.properties().count();
            }
        }
        bytes.truncate(position);
        if position >= HEADER_BYTES {
            prop_assert!(EntryView::parse(&bytes).is_err(), "a cut entry lacks a record");
        }
    }
}

#[test]
fn the_header_has_the_width_that_it_says() {
    let bytes = BatchWriter::new().close(header());
    assert_eq!(bytes.len(), HEADER_BYTES);
    assert_eq!(EntryView::parse(&bytes).unwrap().records().count(), 0);
}

#[test]
fn records_can_be_skipped_and_resumed_by_offset() {
    let mut writer = BatchWriter::new();
    for payload in 0..5 {
        simple(payload).push(&mut writer).unwrap();
    }
    let bytes = writer.close(header());
    let mut records = EntryView::parse(&bytes).unwrap().records();
    records.skip_records(3).unwrap();
    assert_eq!(records.next().unwrap().unwrap().payload.len(), 3);
    let mut resumed = Records::resume(&bytes, records.offset());
    assert_eq!(resumed.next().unwrap().unwrap().payload.len(), 4);
    assert!(resumed.next().is_none());
    resumed.skip_records(9).unwrap();
    assert!(Records::resume(&bytes, usize::MAX).next().is_none());
}

#[test]
fn an_entry_of_another_version_is_refused_by_its_number() {
    let mut bytes = BatchWriter::new().close(header()).to_vec();
    bytes[1] = 9;
    assert_eq!(EntryView::parse(&bytes).unwrap_err(), EntryError::Version(9));
}

#[test]
fn a_record_with_broken_text_is_an_error_and_the_next_one_is_readable() {
    let mut writer = BatchWriter::new();
    simple(1).push(&mut writer).unwrap();
    simple(2).push(&mut writer).unwrap();
    let mut bytes = writer.close(header()).to_vec();
    // Tag and length of the record, tag and length of the device id.
    bytes[HEADER_BYTES + 6] = 0xff;
    let records: Vec<_> = EntryView::parse(&bytes).unwrap().records().collect();
    assert_eq!(records[0].unwrap_err().what, "a text is not UTF-8");
    assert_eq!(records[1].unwrap().payload.len(), 2);
    assert_eq!(records.len(), 2);
}

#[test]
fn a_message_that_no_batch_can_hold_is_refused_and_leaves_the_batch_as_it_was() {
    let mut writer = BatchWriter::new();
    assert!(matches!(
        simple(MAX_RECORD_BYTES).push(&mut writer),
        Err(PushError::RecordTooLarge { .. })
    ));
    assert!(writer.is_empty());
    simple(1).push(&mut writer).unwrap();
    let before = writer.bytes();
    assert!(matches!(
        simple(MAX_RECORD_BYTES).push(&mut writer),
        Err(PushError::RecordTooLarge { .. })
    ));
    assert_eq!((writer.len(), writer.bytes()), (1, before));
}

#[test]
fn a_full_batch_says_so_and_the_next_one_takes_the_message() {
    let mut writer = BatchWriter::new();
    let big = simple(1 << 20);
    while big.push(&mut writer).is_ok() {}
    assert_eq!(big.push(&mut writer), Err(PushError::BatchFull));
    let full = writer.close(header());
    assert!(full.len() <= MAX_ENTRY_BYTES);
    assert_eq!(EntryView::parse(&full).unwrap().records().count(), 3);
    big.push(&mut writer).unwrap();
    assert_eq!(EntryView::parse(&writer.close(header())).unwrap().header().records, 1);
}

#[test]
fn entries_of_one_writer_are_independent_and_clear_forgets() {
    let mut writer = BatchWriter::new();
    simple(10).push(&mut writer).unwrap();
    let first = writer.close(header());
    simple(20).push(&mut writer).unwrap();
    writer.clear();
    simple(30).push(&mut writer).unwrap();
    let second = writer.close(header());
    assert_eq!(
        EntryView::parse(&first)
            .unwrap()
            .records()
            .next()
            .unwrap()
            .unwrap()
            .payload
            .len(),
        10
    );
    let records: Vec<_> = EntryView::parse(&second).unwrap().records().collect();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].unwrap().payload.len(), 30);
}

#[test]
fn records_that_are_taken_out_leave_the_rest_as_it_was() {
    let mut writer = BatchWriter::new();
    for payload in [10, 20, 30] {
        simple(payload).push(&mut writer).unwrap();
    }
    let whole = writer.close(header());
    for mask in 0..8_u32 {
        let keep = |index: usize| mask & (1 << index) != 0;
        let kept = retain_records(&whole, keep).unwrap();
        let view = EntryView::parse(&kept).unwrap();
        let lengths: Vec<usize> = view.records().map(|record| record.unwrap().payload.len()).collect();
        let expected: Vec<usize> = (0..3)
            .filter(|index| keep(*index))
            .map(|index| 10 + 10 * index)
            .collect();
        assert_eq!(lengths, expected);
        let (before, after) = (EntryView::parse(&whole).unwrap().header(), view.header());
        assert_eq!(
            (after.stream, after.batch_number, after.proposed),
            (before.stream, before.batch_number, before.proposed)
        );
    }
    assert!(retain_records(&whole.slice(..whole.len() - 1), |_| false).is_err());
}
