//! From a topic's tail to a message.

use std::borrow::Cow;

use holdfast_model::property::{application, is_reserved};
use holdfast_model::{Property, PropertyValue, TelemetryMessage};

use super::{check_size, parse_utc};
use crate::codec::Publish;
use crate::escape;
use crate::limits::{MAX_MESSAGE_ID_CHARS, MAX_PROPERTIES};
use crate::violation::Violation;

/// Makes the telemetry message of a PUBLISH: bag, payload, size rule, and the marks of its flags.
///
/// RETAIN and DUP are not obeyed but recorded, as `mqtt-retain` and `mqtt-dup` (Spec §5.3).
///
/// # Errors
/// As [`parse`], and [`Violation::MessageTooLarge`].
pub fn telemetry<'a>(bag: &'a str, publish: &Publish<'a>) -> Result<TelemetryMessage<'a>, Violation> {
    let mut message = TelemetryMessage::default();
    fill(bag, publish, &mut message)?;
    Ok(message)
}

/// As [`telemetry`], into an empty message of the caller's: half a KiB that is not moved twice.
///
/// # Errors
/// As [`telemetry`]; the message is then incomplete and must not be used.
pub fn fill<'a>(bag: &'a str, publish: &Publish<'a>, message: &mut TelemetryMessage<'a>) -> Result<(), Violation> {
    message.payload = publish.payload;
    parse(bag, message)?;
    check_size(message)?;
    if publish.retain {
        mark(message, application::MQTT_RETAIN, "true");
    }
    if publish.dup {
        mark(message, application::MQTT_DUP, "true");
    }
    Ok(())
}

/// Adds the properties of `bag` to `message`.
///
/// One trailing `/` and one leading `?` do not belong to the bag. `key` alone is null, `key=` the empty text; a system
/// property that is null counts as not set. Reserved names are dropped, unknown system keys kept as application properties.
///
/// # Errors
/// [`Violation::BagUtf8`], [`Violation::MessageIdTooLong`], [`Violation::TooManyProperties`].
#[inline]
pub fn parse<'a>(bag: &'a str, message: &mut TelemetryMessage<'a>) -> Result<(), Violation> {
    let bag = bag.strip_suffix('/').unwrap_or(bag);
    let bag = bag.strip_prefix('?').unwrap_or(bag);
    if bag.is_empty() {
        return Ok(());
    }
    let mut rest = bag;
    while !rest.is_empty() {
        let pair = Pair::cut(&mut rest);
        let key = pair.key;
        let value = match pair.value {
            // The most frequent value, decoded without an allocation.
            Some("application%2Fjson" | "application%2fjson") => Some(Cow::Borrowed("application/json")),
            Some(value) if pair.value_is_escaped => Some(decode(value)?),
            Some(value) => Some(Cow::Borrowed(value)),
            None if key.is_empty() => continue,
            None => None,
        };
        // Nearly all system keys arrive in one of these two spellings, without further escapes.
        match key.strip_prefix("%24.").or_else(|| key.strip_prefix("$.")) {
            Some(name) if !name.contains('%') => set_system(message, key, name, value)?,
            _ => {
                let key = decode(key)?;
                match key.strip_prefix("$.") {
                    Some(name) => set_system(message, "", name, value)?,
                    None => set_application(message, key, value)?,
                }
            }
        }
    }
    Ok(())
}

/// `key` or `key=value`, still escaped.
struct Pair<'a> {
    key: &'a str,
    value: Option<&'a str>,
    value_is_escaped: bool,
}

impl<'a> Pair<'a> {
    /// Cuts the first pair off, in one pass: pairs are so short that a search for each character costs more.
    fn cut(rest: &mut &'a str) -> Self {
        let bytes = rest.as_bytes();
        let mut equals = None;
        let mut value_is_escaped = false;
        let mut end = bytes.len();
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'&' => {
                    end = at;
                    break;
                }
                b'=' if equals.is_none() => equals = Some(at),
                b'%' => value_is_escaped = equals.is_some(),
                _ => {}
            }
        }
        let part = |from, to| rest.get(from..to).unwrap_or_default();
        let (key, value) = match equals {
            Some(at) => (part(0, at), Some(part(at + 1, end))),
            None => (part(0, end), None),
        };
        *rest = part(end + 1, bytes.len());
        Self {
            key,
            value,
            value_is_escaped,
        }
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, Violation> {
    escape::decode(text).ok_or(Violation::BagUtf8)
}

/// Sets the system property `$.{name}`; `raw` is its key as sent, for keys that turn out to be unknown.
fn set_system<'a>(
    message: &mut TelemetryMessage<'a>,
    raw: &'a str,
    name: &str,
    value: Option<Cow<'a, str>>,
) -> Result<(), Violation> {
    let system = &mut message.system;
    match name {
        "mid" => {
            // Bytes first: counting characters is only needed near the limit.
            if value
                .as_ref()
                .is_some_and(|id| id.len() > MAX_MESSAGE_ID_CHARS && id.chars().count() > MAX_MESSAGE_ID_CHARS)
            {
                return Err(Violation::MessageIdTooLong);
            }
            system.message_id = value;
        }
        "cid" => system.correlation_id = value,
        "uid" => {
            system.user_id = value.map(|text| match text {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            });
        }
        "to" => system.to = value,
        "ct" => system.content_type = value,
        "ce" => system.content_encoding = value,
        "on" => system.output_name = value,
        "ctime" => system.creation_time = value,
        "sub" => system.component = value,
        "ifid" => system.interface_id = value,
        "schema" => system.message_schema = value,
        "exp" => match value {
            None => system.absolute_expiry_ms = None,
            // Python lets the application write anything; text that is no time is kept as text rather than lost.
            Some(text) => match parse_utc(&text) {
                Some(time) => system.absolute_expiry_ms = Some(time),
                None => return set_application(message, Cow::Borrowed("$.exp"), Some(text)),
            },
        },
        // The connection's own ids; Java can send them, the hub knows better.
        "cdid" | "cmid" => {}
        unknown => {
            let key = if raw.starts_with("$.") {
                Cow::Borrowed(raw)
            } else {
                Cow::Owned(format!("$.{unknown}"))
            };
            return set_application(message, key, value);
        }
    }
    Ok(())
}

fn set_application<'a>(
    message: &mut TelemetryMessage<'a>,
    name: Cow<'a, str>,
    value: Option<Cow<'a, str>>,
) -> Result<(), Violation> {
    if is_reserved(&name) {
        return Ok(());
    }
    if message.properties.len() >= MAX_PROPERTIES && !message.properties.iter().any(|property| property.name == name) {
        return Err(Violation::TooManyProperties);
    }
    set(message, name, value.map_or(PropertyValue::Null, PropertyValue::Text));
    Ok(())
}

/// Sets a property of the hub's own, over a value that the device may have sent under that name.
pub(crate) fn mark(message: &mut TelemetryMessage<'_>, name: &'static str, value: &'static str) {
    set(message, Cow::Borrowed(name), PropertyValue::Text(Cow::Borrowed(value)));
}

/// Replaces or adds.
fn set<'a>(message: &mut TelemetryMessage<'a>, name: Cow<'a, str>, value: PropertyValue<'a>) {
    match message.properties.iter_mut().find(|property| property.name == name) {
        Some(property) => property.value = value,
        None => message.properties.push(Property { name, value }),
    }
}
