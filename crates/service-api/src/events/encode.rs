//! One event as readers get it: annotations, properties, application properties, one data section (Spec amqp §8.4).
//!
//! The hot path of the endpoint: keys are encoded at compile time, nothing is allocated, every byte is written once.
//! Marked critical: measure `benches/events.rs` before and after a change.

use holdfast_amqp::message::{
    Properties, begin_application_properties, begin_delivery_annotations, put_data, put_properties,
};
use holdfast_amqp::types::{Raw, put_long, put_null, put_str, put_timestamp};
use holdfast_model::property::{annotation, application};
use holdfast_model::{MessageSource, UnixMillis};
use holdfast_partition::record::{PropertyValueView, RecordView};
use holdfast_partition::{Event, PartitionStatus};

/// A symbol of at most 255 bytes, encoded.
const fn symbol<const N: usize>(text: &str) -> [u8; N] {
    let bytes = text.as_bytes();
    assert!(
        bytes.len() + 2 == N && bytes.len() < 256,
        "N is two more than the length"
    );
    let mut encoded = [0; N];
    encoded[0] = 0xa3;
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    {
        encoded[1] = bytes.len() as u8;
    }
    let mut index = 0;
    while index < bytes.len() {
        encoded[index + 2] = bytes[index];
        index += 1;
    }
    encoded
}

macro_rules! keys {
    ($($name:ident)*) => {
        $(const $name: [u8; annotation::$name.len() + 2] = symbol(annotation::$name);)*
    };
}

keys! {
    SEQUENCE_NUMBER OFFSET ENQUEUED_TIME PARTITION_KEY DEVICE_ID MODULE_ID AUTH_METHOD GENERATION_ID HUB_ENQUEUED_TIME
    MESSAGE_SOURCE MODEL_ID COMPONENT INTERFACE_ID
}

/// `00 53 72`, then a map32 whose size and count are patched.
const ANNOTATIONS: [u8; 12] = [0x00, 0x53, 0x72, 0xd1, 0, 0, 0, 0, 0, 0, 0, 0];

/// Runtime metrics that accompany each event of a receiver with that capability.
#[derive(Debug, Clone, Copy)]
pub(super) struct RuntimeMetric {
    pub(super) status: PartitionStatus,
    pub(super) now: UnixMillis,
}

/// Appends the sections of `event`.
pub(super) fn event(buf: &mut Vec<u8>, event: &Event<'_>, metric: Option<&RuntimeMetric>) {
    if let Some(metric) = metric {
        runtime_metric(buf, metric);
    }
    annotations(buf, event);
    properties(buf, &event.record);
    application_properties(buf, &event.record);
    put_data(buf, event.record.payload);
}

fn annotations(buf: &mut Vec<u8>, event: &Event<'_>) {
    let record = &event.record;
    let start = buf.len();
    buf.extend_from_slice(&ANNOTATIONS);
    let mut pairs = 7;
    buf.extend_from_slice(&SEQUENCE_NUMBER);
    put_long(buf, event.sequence.0.cast_signed());
    buf.extend_from_slice(&OFFSET);
    put_decimal(buf, event.sequence.0);
    buf.extend_from_slice(&ENQUEUED_TIME);
    put_time(buf, event.enqueued);
    buf.extend_from_slice(&PARTITION_KEY);
    put_str(buf, record.device_id);
    buf.extend_from_slice(&DEVICE_ID);
    put_str(buf, record.device_id);
    buf.extend_from_slice(&HUB_ENQUEUED_TIME);
    put_time(buf, record.received);
    buf.extend_from_slice(&MESSAGE_SOURCE);
    // A source of a later version is shown as an empty text: it must not pass for telemetry.
    put_str(buf, record.source.map_or("", MessageSource::name));
    let optional: [(&[u8], Option<&str>); 6] = [
        (&GENERATION_ID, Some(record.generation_id).filter(|id| !id.is_empty())),
        (&AUTH_METHOD, record.auth.map(|auth| auth.json())),
        (&MODULE_ID, record.module_id),
        (&MODEL_ID, record.model_id),
        (&COMPONENT, record.component),
        (&INTERFACE_ID, record.interface_id),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            buf.extend_from_slice(key);
            put_str(buf, value);
            pairs += 1;
        }
    }
    finish_map(buf, start + 4, pairs);
}

/// Patches size and count of the map32 whose size is at `at`.
fn finish_map(buf: &mut [u8], at: usize, pairs: u32) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a message of a device is far below 4 GiB"
    )]
    let size = (buf.len() - at - 4) as u32;
    buf[at..at + 4].copy_from_slice(&size.to_be_bytes());
    buf[at + 4..at + 8].copy_from_slice(&(pairs * 2).to_be_bytes());
}

fn put_time(buf: &mut Vec<u8>, time: UnixMillis) {
    put_timestamp(buf, time.0.cast_signed());
}

/// A number as a string of decimal digits.
fn put_decimal(buf: &mut Vec<u8>, number: u64) {
    // The longest has 20 digits.
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 20")]
    buf.extend_from_slice(&[0xa1, (digits.len() - at) as u8]);
    buf.extend_from_slice(&digits[at..]);
}

fn properties(buf: &mut Vec<u8>, record: &RecordView<'_>) {
    let has_any = record.message_id.is_some()
        || record.correlation_id.is_some()
        || record.user_id.is_some()
        || record.to.is_some()
        || record.content_type.is_some()
        || record.content_encoding.is_some()
        || record.absolute_expiry_ms.is_some();
    if !has_any {
        return;
    }
    let encoded = |id: Option<&str>| {
        id.map(|id| {
            let mut bytes = Vec::with_capacity(id.len() + 5);
            put_str(&mut bytes, id);
            bytes
        })
    };
    let (message_id, correlation_id) = (encoded(record.message_id), encoded(record.correlation_id));
    put_properties(
        buf,
        &Properties {
            message_id: message_id.as_deref().and_then(|bytes| Raw::new(bytes).ok()),
            correlation_id: correlation_id.as_deref().and_then(|bytes| Raw::new(bytes).ok()),
            user_id: record.user_id,
            to: record.to,
            content_type: record.content_type,
            content_encoding: record.content_encoding,
            absolute_expiry_time: record.absolute_expiry_ms,
            ..Properties::default()
        },
    );
}

fn application_properties(buf: &mut Vec<u8>, record: &RecordView<'_>) {
    let own = [
        (application::CREATION_TIME, record.creation_time),
        (application::MESSAGE_SCHEMA, record.message_schema),
        (application::OUTPUT_NAME, record.output_name),
    ];
    let properties = record.properties();
    if properties.len() == 0 && own.iter().all(|(_, value)| value.is_none()) {
        return;
    }
    let mut map = begin_application_properties(buf);
    for property in properties {
        let buf = map.string_key(property.name);
        match property.value {
            PropertyValueView::Null => put_null(buf),
            PropertyValueView::Text(text) => put_str(buf, text),
            PropertyValueView::Amqp(bytes) => buf.extend_from_slice(bytes),
        }
    }
    for (name, value) in own {
        if let Some(value) = value {
            put_str(map.string_key(name), value);
        }
    }
    map.finish();
}

fn runtime_metric(buf: &mut Vec<u8>, metric: &RuntimeMetric) {
    let last = last_sequence(&metric.status);
    let mut map = begin_delivery_annotations(buf);
    put_long(map.key("last_enqueued_sequence_number"), last);
    put_str(map.key("last_enqueued_offset"), &last.to_string());
    put_time(map.key("last_enqueued_time_utc"), metric.status.last_enqueued);
    put_time(map.key("runtime_info_retrieval_time_utc"), metric.now);
    map.finish();
}

/// The number of the newest event, -1 when there has been none.
pub(super) fn last_sequence(status: &PartitionStatus) -> i64 {
    status.last().map_or(-1, |last| last.0.cast_signed())
}

/// The value of a `$management` answer about a partition.
pub(super) fn partition_properties(buf: &mut Vec<u8>, name: &str, id: &str, status: &PartitionStatus, now: UnixMillis) {
    let last = last_sequence(status);
    let mut map = holdfast_amqp::types::MapWriter::begin(buf);
    put_str(map.string_key("name"), name);
    put_str(map.string_key("type"), "com.microsoft:partition");
    put_str(map.string_key("partition"), id);
    put_long(map.string_key("begin_sequence_number"), status.begin.0.cast_signed());
    put_long(map.string_key("last_enqueued_sequence_number"), last);
    // An empty partition has no offset that could be read after (Spec amqp §8.2).
    let offset = if status.is_empty() {
        "-1".to_owned()
    } else {
        last.to_string()
    };
    put_str(map.string_key("last_enqueued_offset"), &offset);
    put_time(map.string_key("last_enqueued_time_utc"), status.last_enqueued);
    put_time(map.string_key("runtime_info_retrieval_time_utc"), now);
    holdfast_amqp::types::put_bool(map.string_key("is_partition_empty"), status.is_empty());
    map.finish();
}

/// The value of a `$management` answer about the event hub.
pub(super) fn hub_properties(buf: &mut Vec<u8>, name: &str, created: UnixMillis, partitions: u16) {
    let ids: Vec<String> = (0..partitions).map(|id| id.to_string()).collect();
    let mut map = holdfast_amqp::types::MapWriter::begin(buf);
    put_str(map.string_key("name"), name);
    put_str(map.string_key("type"), "com.microsoft:eventhub");
    put_time(map.string_key("created_at"), created);
    holdfast_amqp::types::put_int(map.string_key("partition_count"), i32::from(partitions));
    holdfast_amqp::types::array_of_strings(map.string_key("partition_ids"), ids.iter().map(String::as_str));
    holdfast_amqp::types::put_int(map.string_key("georeplication_factor"), 1);
    map.finish();
}
