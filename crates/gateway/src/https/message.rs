//! Headers and fields of a batch to a telemetry message (Spec rest §5).

use std::borrow::Cow;

use holdfast_model::limits::{MAX_MESSAGE_ID_CHARS, MAX_PROPERTIES, MAX_TELEMETRY_BYTES};
use holdfast_model::property::is_reserved;
use holdfast_model::{ErrorCode, Property, PropertyValue, TelemetryMessage};
use holdfast_mqtt::bag::parse_utc;
use http::HeaderMap;

use super::answer::HttpsError;

/// The prefix of application properties.
const APPLICATION: &str = "iothub-app-";
/// The prefix of system properties.
const SYSTEM: &str = "iothub-";
/// The component, which Node sends without a prefix.
const COMPONENT: &str = "dt-subject";

/// The headers of a message, decoded.
pub(super) struct Texts<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Texts<'a> {
    /// Those that belong to the message. Bytes are UTF-8, or else Latin-1, as HTTP has them.
    ///
    /// # Errors
    /// More than a message may have.
    pub(super) fn of(headers: &'a HeaderMap) -> Result<Self, HttpsError> {
        let mut texts = Vec::new();
        for (name, value) in headers {
            let name = name.as_str();
            if !name.starts_with(SYSTEM) && name != COMPONENT {
                continue;
            }
            let text = match std::str::from_utf8(value.as_bytes()) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => Cow::Owned(value.as_bytes().iter().map(|byte| char::from(*byte)).collect()),
            };
            texts.push((name, text));
        }
        Ok(Self(texts))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(name, text)| (*name, Some(&**text)))
    }
}

/// The message with `payload` and the named properties; `None` is null.
///
/// # Errors
/// 400004 for properties that break a rule, 413001 for a message that is too large.
pub(super) fn of<'a>(
    payload: &'a [u8],
    named: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<TelemetryMessage<'a>, HttpsError> {
    let mut message = TelemetryMessage {
        payload,
        ..TelemetryMessage::default()
    };
    for (name, value) in named {
        set(&mut message, name, value)?;
    }
    match message.size() {
        size if size <= MAX_TELEMETRY_BYTES => Ok(message),
        size => Err(too_large(size)),
    }
}

pub(super) fn too_large(size: usize) -> HttpsError {
    let text = format!("a message or batch may have {MAX_TELEMETRY_BYTES} bytes, this one has {size}");
    HttpsError::new(ErrorCode::MessageTooLarge, text)
}

fn set<'a>(message: &mut TelemetryMessage<'a>, name: &'a str, value: Option<&'a str>) -> Result<(), HttpsError> {
    let strip = |prefix: &str| {
        let head = name.get(..prefix.len())?;
        head.eq_ignore_ascii_case(prefix).then(|| &name[prefix.len()..])
    };
    if let Some(name) = strip(APPLICATION) {
        return application(message, name, value);
    }
    if name.eq_ignore_ascii_case(COMPONENT) {
        message.system.component = value.map(Cow::Borrowed);
        return Ok(());
    }
    // Other names in a batch mean nothing here.
    match strip(SYSTEM) {
        Some(name) => system(message, &name.to_ascii_lowercase(), value),
        None => Ok(()),
    }
}

fn system<'a>(message: &mut TelemetryMessage<'a>, name: &str, value: Option<&'a str>) -> Result<(), HttpsError> {
    let text = value.filter(|text| !text.is_empty()).map(Cow::Borrowed);
    let system = &mut message.system;
    match name {
        "messageid" => {
            if text
                .as_ref()
                .is_some_and(|id| id.chars().count() > MAX_MESSAGE_ID_CHARS)
            {
                let text = format!("iothub-messageid may have {MAX_MESSAGE_ID_CHARS} characters");
                return Err(HttpsError::invalid(text));
            }
            system.message_id = text;
        }
        "correlationid" => system.correlation_id = text,
        "userid" => system.user_id = value.map(|text| Cow::Borrowed(text.as_bytes())),
        "contenttype" => system.content_type = text,
        "contentencoding" => system.content_encoding = text,
        "creationtimeutc" => system.creation_time = text,
        "interface-id" => system.interface_id = text,
        "message-schema" => system.message_schema = text,
        "outputname" => system.output_name = text,
        "expiry" => match text {
            None => system.absolute_expiry_ms = None,
            Some(text) => {
                let time = parse_utc(&text);
                system.absolute_expiry_ms =
                    Some(time.ok_or_else(|| HttpsError::invalid("iothub-expiry is no time of ISO 8601"))?);
            }
        },
        // `to` carries the path and `ack` is for messages to devices (Spec rest §5); the hub sets its own names itself.
        _ => {}
    }
    Ok(())
}

fn application<'a>(
    message: &mut TelemetryMessage<'a>,
    name: &'a str,
    value: Option<&'a str>,
) -> Result<(), HttpsError> {
    if is_reserved(name) {
        return Ok(());
    }
    let value = value.map_or(PropertyValue::Null, |text| PropertyValue::Text(Cow::Borrowed(text)));
    let properties = &mut message.properties;
    if let Some(property) = properties.iter_mut().find(|property| property.name == name) {
        property.value = value;
        return Ok(());
    }
    if properties.len() >= MAX_PROPERTIES {
        let text = format!("a message may have {MAX_PROPERTIES} application properties");
        return Err(HttpsError::invalid(text));
    }
    properties.push(Property {
        name: Cow::Borrowed(name),
        value,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(named: &[(&'static str, Option<&'static str>)]) -> Result<TelemetryMessage<'static>, HttpsError> {
        of(b"21.5", named.iter().copied())
    }

    #[test]
    fn every_documented_name_reaches_the_message_in_any_case() {
        let message = made(&[
            ("IoTHub-MessageId", Some("m-1")),
            ("iothub-correlationid", Some("c")),
            ("iothub-userid", Some("u")),
            ("iothub-expiry", Some("2030-01-01T00:00:00Z")),
            ("iothub-creationtimeutc", Some("2026-11-29T00:00:00Z")),
            ("iothub-contenttype", Some("application/json")),
            ("iothub-contentencoding", Some("utf-8")),
            ("iothub-interface-id", Some("i")),
            ("iothub-message-schema", Some("s")),
            ("dt-subject", Some("pump")),
            ("iothub-app-Level", Some("hot")),
            ("IOTHUB-APP-none", None),
            ("iothub-to", Some("/devices/d/messages/events")),
            ("iothub-ack", Some("full")),
            ("iothub-connection-device-id", Some("forged")),
            ("iothub-app-iothub-connection-device-id", Some("forged")),
        ])
        .unwrap();
        let system = &message.system;
        assert_eq!(system.message_id.as_deref(), Some("m-1"));
        assert_eq!(system.correlation_id.as_deref(), Some("c"));
        assert_eq!(system.user_id.as_deref(), Some(&b"u"[..]));
        assert_eq!(system.absolute_expiry_ms, Some(1_893_456_000_000));
        assert_eq!(system.creation_time.as_deref(), Some("2026-11-29T00:00:00Z"));
        assert_eq!(system.content_type.as_deref(), Some("application/json"));
        assert_eq!(system.content_encoding.as_deref(), Some("utf-8"));
        assert_eq!(system.interface_id.as_deref(), Some("i"));
        assert_eq!(system.message_schema.as_deref(), Some("s"));
        assert_eq!(system.component.as_deref(), Some("pump"));
        assert_eq!(system.to, None);
        let properties: Vec<_> = message.properties.iter().map(|p| (&*p.name, &p.value)).collect();
        let expected = [
            ("Level", &PropertyValue::Text("hot".into())),
            ("none", &PropertyValue::Null),
        ];
        assert_eq!(properties, expected);
    }

    #[test]
    fn what_is_too_long_too_many_or_no_time_is_refused() {
        let long: &'static str = Box::leak("x".repeat(MAX_MESSAGE_ID_CHARS + 1).into_boxed_str());
        assert_eq!(
            made(&[("iothub-messageid", Some(long))]).unwrap_err().code.number(),
            400_004
        );
        assert_eq!(
            made(&[("iothub-expiry", Some("soon"))]).unwrap_err().code.number(),
            400_004
        );
        let names: Vec<String> = (0..=MAX_PROPERTIES).map(|n| format!("iothub-app-{n}")).collect();
        let named = names.iter().map(|name| (name.as_str(), Some("x")));
        assert_eq!(of(b"", named).unwrap_err().code.number(), 400_004);
        let body = vec![0; MAX_TELEMETRY_BYTES];
        assert!(of(&body, std::iter::empty()).is_ok());
        let named = [("iothub-app-a", Some("b"))].into_iter();
        assert_eq!(of(&body, named).unwrap_err().code.number(), 413_001);
    }

    #[test]
    fn header_bytes_are_utf_8_or_else_latin_1() {
        let mut headers = HeaderMap::new();
        headers.insert("iothub-app-a", http::HeaderValue::from_bytes("ü".as_bytes()).unwrap());
        headers.insert("iothub-app-b", http::HeaderValue::from_bytes(&[0xfc]).unwrap());
        headers.insert("user-agent", http::HeaderValue::from_static("x"));
        let texts = Texts::of(&headers).unwrap();
        let found: Vec<_> = texts.iter().collect();
        assert_eq!(found, [("iothub-app-a", Some("ü")), ("iothub-app-b", Some("ü"))]);
    }
}
