//! A transfer of a device as messages: one, or the members of a batch (Spec amqp §6.1).
//!
//! Invariants: what the hub sets itself cannot be forged; application properties keep their AMQP types; a batch is taken
//! as a whole or not at all.

use std::borrow::Cow;

use holdfast_amqp::DecodeError;
use holdfast_amqp::message::{BATCH_FORMAT, Body, Message, Properties, id_text};
use holdfast_amqp::types::{Map, Raw, Value};
use holdfast_amqp_server::Refused;
use holdfast_model::limits::{MAX_MESSAGE_ID_CHARS, MAX_PROPERTIES, MAX_TELEMETRY_BYTES};
use holdfast_model::property::{annotation, application, is_reserved};
use holdfast_model::{ErrorCode, Property, PropertyValue, SystemProperties, TelemetryMessage, round_trip};
use smallvec::SmallVec;

/// Members of a batch (Spec amqp §6.1).
const MAX_MEMBERS: usize = 500;

/// One message of a transfer; its body is apart, since several data sections are joined.
struct Encoded<'a> {
    message: Message<'a>,
    body: Cow<'a, [u8]>,
}

impl<'a> Encoded<'a> {
    fn scan(bytes: &'a [u8]) -> Result<Self, Refused> {
        let message = Message::scan(bytes).map_err(malformed)?;
        Ok(Self {
            body: body(&message)?,
            message,
        })
    }

    fn telemetry<'b>(&'b self, to: &'b str) -> Result<TelemetryMessage<'b>, Refused> {
        let mut system = system(&self.message.properties().map_err(malformed)?)?;
        system.to = Some(Cow::Borrowed(to));
        system.component = text(self.message.message_annotations, annotation::COMPONENT)?;
        system.interface_id = text(self.message.message_annotations, annotation::INTERFACE_ID)?;
        let properties = application_properties(self.message.application_properties, &mut system)?;
        Ok(TelemetryMessage {
            payload: &self.body,
            system,
            properties,
        })
    }
}

/// Passes the messages of a transfer to the address `to` to `take`.
///
/// # Errors
/// The refusal of the whole transfer.
pub(super) fn read<R>(
    payload: &[u8],
    format: u32,
    to: &str,
    take: impl FnOnce(&[TelemetryMessage<'_>]) -> R,
) -> Result<R, Refused> {
    let mut members: SmallVec<[Encoded<'_>; 1]> = SmallVec::new();
    if format == BATCH_FORMAT {
        for bytes in Message::scan(payload).map_err(malformed)?.data() {
            if members.len() == MAX_MEMBERS {
                let text = format!("A batch has at most {MAX_MEMBERS} messages.");
                return Err(Refused::new(ErrorCode::MessageTooLarge, text));
            }
            members.push(Encoded::scan(bytes)?);
        }
        if members.is_empty() {
            return Err(invalid("A batch has no message."));
        }
    } else {
        members.push(Encoded::scan(payload)?);
    }
    let messages: Result<SmallVec<[TelemetryMessage<'_>; 1]>, Refused> =
        members.iter().map(|member| member.telemetry(to)).collect();
    let messages = messages?;
    let size: usize = messages.iter().map(TelemetryMessage::size).sum();
    if size > MAX_TELEMETRY_BYTES {
        let text = format!("The message has {size} bytes; the limit is {MAX_TELEMETRY_BYTES}, also of a batch.");
        return Err(Refused::new(ErrorCode::MessageTooLarge, text));
    }
    Ok(take(&messages))
}

/// The bytes of a body.
///
/// # Errors
/// A refusal when it is neither data nor a value of bytes or text.
pub(super) fn body<'a>(message: &Message<'a>) -> Result<Cow<'a, [u8]>, Refused> {
    Ok(match message.body {
        Body::None => Cow::Borrowed(&[]),
        Body::Data(bytes, 1) => Cow::Borrowed(bytes),
        Body::Data(..) => Cow::Owned(message.data().collect::<Vec<_>>().concat()),
        Body::Value(raw) => match raw.value().map_err(malformed)? {
            Value::Binary(bytes) => Cow::Borrowed(bytes),
            Value::String(text) => Cow::Borrowed(text.as_bytes()),
            Value::Null => Cow::Borrowed(&[]),
            _ => return Err(invalid("The body of a message is data, or a value of bytes or text.")),
        },
        Body::Sequence => return Err(invalid("The body of a message is data, not a sequence.")),
    })
}

fn system<'a>(properties: &Properties<'a>) -> Result<SystemProperties<'a>, Refused> {
    let id = |raw: Option<Raw<'a>>| match raw {
        None => Ok(None),
        Some(raw) => id_text(raw)
            .map(Some)
            .ok_or_else(|| invalid("A message id or correlation id is no simple value.")),
    };
    let message_id = id(properties.message_id)?;
    // Bytes first: counting characters is only needed near the limit.
    if let Some(id) = &message_id
        && id.len() > MAX_MESSAGE_ID_CHARS
        && id.chars().count() > MAX_MESSAGE_ID_CHARS
    {
        let text = format!("A message id has at most {MAX_MESSAGE_ID_CHARS} characters.");
        return Err(invalid(text));
    }
    Ok(SystemProperties {
        message_id,
        correlation_id: id(properties.correlation_id)?,
        user_id: properties.user_id.map(Cow::Borrowed),
        content_type: properties.content_type.map(Cow::Borrowed),
        content_encoding: properties.content_encoding.map(Cow::Borrowed),
        absolute_expiry_ms: properties.absolute_expiry_time,
        creation_time: properties.creation_time.and_then(round_trip).map(Cow::Owned),
        ..SystemProperties::default()
    })
}

fn text<'a>(map: Map<'a>, key: &str) -> Result<Option<Cow<'a, str>>, Refused> {
    let value = map.get(key).map_err(malformed)?;
    Ok(value.and_then(|value| value.text()).map(Cow::Borrowed))
}

/// The sender's own properties; those with a fixed meaning go to `system`.
fn application_properties<'a>(
    map: Map<'a>,
    system: &mut SystemProperties<'a>,
) -> Result<SmallVec<[Property<'a>; 4]>, Refused> {
    if usize::try_from(map.len()).map_or(true, |count| count > MAX_PROPERTIES) {
        let text = format!("A message has at most {MAX_PROPERTIES} application properties.");
        return Err(invalid(text));
    }
    let mut properties: SmallVec<[Property<'a>; 4]> = SmallVec::new();
    for entry in map.iter() {
        let (key, raw) = entry.map_err(malformed)?;
        let Some(name) = key.value().map_err(malformed)?.text() else {
            return Err(invalid("The name of an application property must be text."));
        };
        let value = raw.value().map_err(malformed)?;
        let own = match name {
            application::CREATION_TIME => Some(&mut system.creation_time),
            application::MESSAGE_SCHEMA => Some(&mut system.message_schema),
            application::OUTPUT_NAME => Some(&mut system.output_name),
            _ => None,
        };
        if let (Some(own), Some(text)) = (own, value.text()) {
            *own = Some(Cow::Borrowed(text));
            continue;
        }
        if is_reserved(name) {
            continue;
        }
        let value = match value {
            Value::Null => PropertyValue::Null,
            Value::String(text) | Value::Symbol(text) => PropertyValue::Text(Cow::Borrowed(text)),
            Value::List(_) | Value::Map(_) | Value::Array(_) | Value::Described(..) => {
                let shown: String = name.chars().take(64).collect();
                return Err(invalid(format!(
                    "The application property '{shown}' is no simple value."
                )));
            }
            _ => PropertyValue::Amqp(Cow::Borrowed(raw.bytes())),
        };
        match properties.iter_mut().find(|property| property.name == name) {
            Some(property) => property.value = value,
            None => properties.push(Property {
                name: Cow::Borrowed(name),
                value,
            }),
        }
    }
    Ok(properties)
}

fn invalid(text: impl Into<String>) -> Refused {
    Refused::new(ErrorCode::ArgumentInvalid, text)
}

pub(super) fn malformed(_: DecodeError) -> Refused {
    Refused::new(ErrorCode::ArgumentInvalid, "The message cannot be decoded.").with_condition("amqp:decode-error")
}

#[cfg(test)]
mod tests {
    use holdfast_amqp::message::{
        begin_application_properties, begin_message_annotations, put_data, put_properties, put_value,
    };
    use holdfast_amqp::types::{put_bool, put_double, put_long, put_null, put_str, put_uuid};

    use super::*;

    const TO: &str = "/devices/d/messages/events";

    fn encoded(body: &[u8]) -> Vec<u8> {
        let (mut buf, mut uuid) = (Vec::new(), Vec::new());
        put_uuid(&mut uuid, &[0x11; 16]);
        let mut annotations = begin_message_annotations(&mut buf);
        put_str(annotations.key("dt-subject"), "thermostat");
        put_str(annotations.key("iothub-connection-device-id"), "another");
        annotations.finish();
        put_properties(
            &mut buf,
            &Properties {
                message_id: Raw::new(&uuid).ok(),
                to: Some("/devices/another/messages/events"),
                content_type: Some("application/json"),
                creation_time: Some(1_700_000_000_000),
                ..Properties::default()
            },
        );
        let mut map = begin_application_properties(&mut buf);
        put_str(map.string_key("text"), "value");
        put_long(map.string_key("long"), -7);
        put_double(map.string_key("double"), 1.5);
        put_bool(map.string_key("flag"), true);
        put_null(map.string_key("nothing"));
        put_str(map.string_key("iothub-outputname"), "out");
        put_str(map.string_key("iothub-connection-device-id"), "another");
        put_str(map.string_key("text"), "last");
        map.finish();
        put_data(&mut buf, body);
        buf
    }

    /// The bodies of the messages, or the refusal.
    fn bodies(payload: &[u8], format: u32) -> Result<Vec<Vec<u8>>, Refused> {
        read(payload, format, TO, |messages| {
            messages.iter().map(|message| message.payload.to_vec()).collect()
        })
    }

    #[test]
    fn properties_keep_their_types_and_what_the_hub_sets_is_not_taken_from_the_device() {
        let read = read(&encoded(b"21.5"), 0, TO, |messages| {
            let message = &messages[0];
            assert_eq!(message.payload, b"21.5");
            let system = &message.system;
            assert_eq!(
                system.message_id.as_deref(),
                Some("11111111-1111-1111-1111-111111111111")
            );
            assert_eq!(system.to.as_deref(), Some(TO));
            assert_eq!(system.component.as_deref(), Some("thermostat"));
            assert_eq!(system.output_name.as_deref(), Some("out"));
            assert_eq!(system.creation_time.as_deref(), Some("2023-11-14T22:13:20.0000000Z"));
            let names: Vec<_> = message.properties.iter().map(|property| &*property.name).collect();
            assert_eq!(names, ["text", "long", "double", "flag", "nothing"]);
            assert_eq!(message.properties[0].value, PropertyValue::Text("last".into()));
            assert_eq!(
                message.properties[1].value,
                PropertyValue::Amqp(vec![0x55, 0xf9].into())
            );
            assert_eq!(message.properties[4].value, PropertyValue::Null);
        });
        read.unwrap();
    }

    #[test]
    fn a_batch_is_its_members_and_one_bad_member_refuses_all() {
        let mut batch = Vec::new();
        put_data(&mut batch, &encoded(b"one"));
        put_data(&mut batch, &encoded(b"two"));
        assert_eq!(
            bodies(&batch, BATCH_FORMAT).unwrap(),
            [b"one".to_vec(), b"two".to_vec()]
        );
        put_data(&mut batch, b"\x00garbage");
        assert_eq!(bodies(&batch, BATCH_FORMAT).unwrap_err().condition, "amqp:decode-error");
        assert_eq!(bodies(&[], BATCH_FORMAT).unwrap_err().code, ErrorCode::ArgumentInvalid);
        let mut many = Vec::new();
        (0..=MAX_MEMBERS).for_each(|_| put_data(&mut many, &[]));
        assert_eq!(
            bodies(&many, BATCH_FORMAT).unwrap_err().code,
            ErrorCode::MessageTooLarge
        );
    }

    #[test]
    fn bodies_are_bytes_and_have_a_limit() {
        let (mut value, mut number, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        put_value(&mut value, |buf| put_str(buf, "text"));
        put_value(&mut number, |buf| put_long(buf, 7));
        put_data(&mut parts, b"a");
        put_data(&mut parts, b"b");
        assert_eq!(bodies(&value, 0).unwrap(), [b"text"]);
        assert_eq!(bodies(&parts, 0).unwrap(), [b"ab"]);
        assert_eq!(bodies(&number, 0).unwrap_err().code, ErrorCode::ArgumentInvalid);
        let mut large = Vec::new();
        put_data(&mut large, &vec![0; MAX_TELEMETRY_BYTES]);
        assert_eq!(
            bodies(&large, 0).unwrap_err().condition,
            "amqp:link:message-size-exceeded"
        );
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = encoded(b"21.5");
        for length in 0..good.len() {
            let _ = bodies(&good[..length], 0);
        }
        for at in 0..good.len() {
            for byte in [0, 0x40, 0x43, 0x45, 0x53, 0x7f, 0xa1, 0xb0, 0xc0, 0xd0, 0xff] {
                let mut changed = good.clone();
                changed[at] = byte;
                let _ = bodies(&changed, 0);
                let _ = bodies(&changed, BATCH_FORMAT);
            }
        }
    }
}
