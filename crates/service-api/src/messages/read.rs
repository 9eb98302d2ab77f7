//! An AMQP message of a back end as a cloud-to-device message (Spec amqp §7).

use bytes::Bytes;
use holdfast_amqp::DecodeError;
use holdfast_amqp::address::{self, DeviceChannel, Endpoint};
use holdfast_amqp::message::{BATCH_FORMAT, Body, Message, id_text};
use holdfast_amqp::types::Value;
use holdfast_amqp_server::Refused;
use holdfast_device_hub::{CloudMessage, FeedbackRequest};
use holdfast_model::limits::{MAX_CLOUD_MESSAGE_BYTES, MAX_MESSAGE_ID_CHARS, MAX_PROPERTIES};
use holdfast_model::{DeviceId, ErrorCode, IdentityId, ModuleId, UnixMillis};

/// The application property with the feedback that a sender wants.
const ACK: &str = "iothub-ack";

/// The device or module, and the message.
pub(super) fn message(payload: &[u8], format: u32, now: UnixMillis) -> Result<(IdentityId, CloudMessage), Refused> {
    if format == BATCH_FORMAT {
        return Err(invalid(
            "Batches of messages to devices are not supported; send each by itself.",
        ));
    }
    let message = Message::scan(payload).map_err(malformed)?;
    let properties = message.properties().map_err(malformed)?;
    let to = properties.to.unwrap_or_default();
    let receiver = receiver(to)?;
    let id = |raw: Option<_>| match raw.map(id_text) {
        None => Ok(None),
        Some(Some(text)) if text.chars().count() <= MAX_MESSAGE_ID_CHARS => Ok(Some(text.into_owned())),
        Some(_) => Err(invalid(
            "A message id or correlation id is no text of at most 128 characters.",
        )),
    };
    let (feedback, application) = application(&message)?;
    let body = match message.body {
        Body::None => Bytes::new(),
        Body::Data(bytes, 1) => Bytes::copy_from_slice(bytes),
        Body::Data(..) => message.data().flatten().copied().collect::<Vec<u8>>().into(),
        Body::Value(raw) => match raw.value().map_err(malformed)? {
            Value::Binary(bytes) => Bytes::copy_from_slice(bytes),
            Value::String(text) => Bytes::copy_from_slice(text.as_bytes()),
            Value::Null => Bytes::new(),
            _ => return Err(invalid("The body must be data, or a value of bytes or text.")),
        },
        Body::Sequence => return Err(invalid("The body must be data, or a value of bytes or text.")),
    };
    let message = CloudMessage {
        message_id: id(properties.message_id)?,
        correlation_id: id(properties.correlation_id)?,
        user_id: properties.user_id.map(<[u8]>::to_vec),
        to: Some(to.to_owned()),
        content_type: properties.content_type.map(str::to_owned),
        content_encoding: properties.content_encoding.map(str::to_owned),
        expiry: expiry(properties.absolute_expiry_time, now)?,
        feedback,
        properties: application,
        body,
        trace: None,
    };
    match too_large(&message) {
        Some(text) => Err(Refused::new(ErrorCode::MessageTooLarge, text)),
        None => Ok((receiver, message)),
    }
}

/// The text that refuses a message which is too large.
pub(crate) fn too_large(message: &CloudMessage) -> Option<String> {
    let size = message.size();
    (size > MAX_CLOUD_MESSAGE_BYTES)
        .then(|| format!("The message has {size} bytes, at most {MAX_CLOUD_MESSAGE_BYTES} are allowed."))
}

/// The device or module of an address `/devices/{id}[/modules/{id}]/messages/devicebound`.
fn receiver(to: &str) -> Result<IdentityId, Refused> {
    let refused = |text: &str| Refused::new(ErrorCode::InvalidOperation, text);
    match address::parse(to) {
        Endpoint::Device {
            device,
            module,
            channel: DeviceChannel::Devicebound,
        } => {
            let device =
                DeviceId::parse(&device).map_err(|error| invalid(format!("The device id in 'to': {error}.")))?;
            let module = module.as_deref().map(ModuleId::parse).transpose();
            let module = module.map_err(|error| invalid(format!("The module id in 'to': {error}.")))?;
            Ok(IdentityId { device, module })
        }
        _ => Err(refused(
            "'to' must be /devices/{device id}/messages/devicebound, or /devices/{device id}/modules/{module id}/messages/devicebound.",
        )),
    }
}

fn expiry(millis: Option<i64>, now: UnixMillis) -> Result<Option<UnixMillis>, Refused> {
    let Some(millis) = millis else { return Ok(None) };
    // .NET writes its least time when there is none.
    if millis <= 0 {
        return Ok(None);
    }
    let expiry = u64::try_from(millis)
        .map(UnixMillis)
        .ok()
        .filter(|expiry| *expiry > now);
    let text = "The expiry time of the message is over.";
    expiry
        .map(Some)
        .ok_or_else(|| Refused::new(ErrorCode::InvalidMessageExpiryTime, text))
}

type Properties = Vec<(String, Option<String>)>;

/// The feedback that is wanted, and the other application properties as text.
fn application(message: &Message<'_>) -> Result<(Option<FeedbackRequest>, Properties), Refused> {
    let map = message.application_properties;
    if usize::try_from(map.len()).map_or(true, |count| count > MAX_PROPERTIES) {
        return Err(invalid(format!(
            "A message has at most {MAX_PROPERTIES} application properties."
        )));
    }
    let (mut feedback, mut properties) = (None, Properties::new());
    for entry in map.iter() {
        let (key, value) = entry.map_err(malformed)?;
        let key = key.value().map_err(malformed)?;
        let Some(name) = key.text() else {
            return Err(invalid("The name of an application property must be text."));
        };
        let value = text(value.value().map_err(malformed)?)
            .ok_or_else(|| invalid(format!("The application property '{name}' is no simple value.")))?;
        if name == ACK {
            let word = value.unwrap_or_default();
            let request = FeedbackRequest::parse(&word);
            let unknown = || invalid("iothub-ack must be none, positive, negative or full.");
            feedback = Some(request.ok_or_else(unknown)?);
        } else {
            properties.push((name.to_owned(), value));
        }
    }
    Ok((feedback, properties))
}

/// A simple value as text, null as `Some(None)`; `None` for anything else.
fn text(value: Value<'_>) -> Option<Option<String>> {
    Some(Some(match value {
        Value::Null => return Some(None),
        Value::String(text) | Value::Symbol(text) => text.to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Ulong(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Timestamp(millis) => holdfast_model::round_trip(millis)?,
        Value::Binary(bytes) => std::str::from_utf8(bytes).ok()?.to_owned(),
        other => other.integer()?.to_string(),
    }))
}

fn invalid(text: impl Into<String>) -> Refused {
    Refused::new(ErrorCode::ArgumentInvalid, text)
}

fn malformed(_: DecodeError) -> Refused {
    Refused::new(ErrorCode::ArgumentInvalid, "The message cannot be decoded.").with_condition("amqp:decode-error")
}

#[cfg(test)]
mod tests {
    use holdfast_amqp::message::{
        Properties as MessageProperties, begin_application_properties, put_data, put_properties,
    };
    use holdfast_amqp::types::{Raw, put_double, put_long, put_str, put_timestamp, put_ulong, put_uuid};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000_000_000);

    fn encoded(to: &str, id: &[u8]) -> Vec<u8> {
        let mut buf = Vec::new();
        put_properties(
            &mut buf,
            &MessageProperties {
                message_id: Raw::new(id).ok(),
                to: Some(to),
                absolute_expiry_time: Some(1_000_000_060_000),
                user_id: Some(b"\xffme"),
                ..MessageProperties::default()
            },
        );
        let mut map = begin_application_properties(&mut buf);
        put_str(map.string_key("iothub-ack"), "Positive");
        put_long(map.string_key("long"), -7);
        put_double(map.string_key("double"), 1.5);
        put_timestamp(map.string_key("time"), 1_910_732_800_000);
        map.finish();
        put_data(&mut buf, b"one ");
        put_data(&mut buf, b"two");
        buf
    }

    fn string(text: &str) -> Vec<u8> {
        let mut id = Vec::new();
        put_str(&mut id, text);
        id
    }

    #[test]
    fn properties_become_text_and_ids_of_all_types_too() {
        let (device, read) = message(&encoded("/devices/a%2Bb/messages/deviceBound", &string("m")), 0, NOW).unwrap();
        assert_eq!(device.to_string(), "a+b");
        assert_eq!(read.feedback, Some(FeedbackRequest::Positive));
        assert_eq!(read.expiry, Some(UnixMillis(1_000_000_060_000)));
        assert_eq!(&read.body[..], b"one two");
        let values: Vec<_> = read
            .properties
            .iter()
            .map(|(_, value)| value.as_deref().unwrap())
            .collect();
        assert_eq!(values, ["-7", "1.5", "2030-07-19T23:06:40.0000000Z"]);
        let (mut number, mut uuid) = (Vec::new(), Vec::new());
        put_ulong(&mut number, 42);
        put_uuid(&mut uuid, &[0x11; 16]);
        for (id, text) in [(number, "42"), (uuid, "11111111-1111-1111-1111-111111111111")] {
            let (_, read) = message(&encoded("devices/d/messages/devicebound", &id), 0, NOW).unwrap();
            assert_eq!(read.message_id.as_deref(), Some(text));
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = encoded("/devices/d/messages/devicebound", &string("m"));
        for length in 0..good.len() {
            let _ = message(&good[..length], 0, NOW);
        }
        // Every byte in turn becomes several others.
        for at in 0..good.len() {
            for byte in [0, 0x40, 0x43, 0x45, 0x53, 0x7f, 0xa1, 0xb0, 0xc0, 0xd0, 0xff] {
                let mut changed = good.clone();
                changed[at] = byte;
                let _ = message(&changed, 0, NOW);
            }
        }
        let (module, _) = message(
            &encoded("/devices/d/modules/m%23/messages/devicebound", &string("m")),
            0,
            NOW,
        )
        .unwrap();
        assert_eq!(module.to_string(), "d/m#");
        let batch = message(&good, BATCH_FORMAT, NOW).unwrap_err();
        assert_eq!(batch.code, ErrorCode::ArgumentInvalid);
    }
}
