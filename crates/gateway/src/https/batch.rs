//! A batch of messages in one request: a JSON array (Spec rest §5).

use std::borrow::Cow;

use data_encoding::{BASE64, BASE64_NOPAD};
use holdfast_model::limits::MAX_TELEMETRY_BYTES;
use holdfast_model::{ErrorCode, TelemetryMessage, json, lenient_json};
use serde_json::{Map, Value};

use super::answer::HttpsError;
use super::message;

/// The most messages of a batch (Spec auth-and-limits §9.2).
const MAX_MESSAGES: usize = 500;

/// The decoded messages of a batch.
#[derive(Debug)]
pub(super) struct Batch(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    body: Vec<u8>,
    properties: Map<String, Value>,
}

/// A body as JSON; `what` names it to its sender.
///
/// # Errors
/// 400006.
pub(super) fn read_json(bytes: &[u8], what: &str) -> Result<Value, HttpsError> {
    let text = std::str::from_utf8(bytes).map_err(|_| format_error(format!("the {what} is not UTF-8 text")))?;
    json::parse(text).or_else(|error| {
        let relaxed = lenient_json::to_strict(text).and_then(|strict| json::parse(&strict).ok());
        relaxed.ok_or_else(|| format_error(format!("the {what} is not valid JSON: {error}")))
    })
}

impl Batch {
    /// Reads a batch, all of it or nothing.
    ///
    /// # Errors
    /// 400006 for what is no batch, 400004 for a wrong entry, which the text names.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, HttpsError> {
        let Value::Array(entries) = read_json(bytes, "batch")? else {
            return Err(format_error("a batch is a JSON array of messages"));
        };
        if entries.is_empty() || entries.len() > MAX_MESSAGES {
            let text = format!(
                "a batch has 1 to {MAX_MESSAGES} messages, this one has {}",
                entries.len()
            );
            return Err(HttpsError::invalid(text));
        }
        let entries = entries
            .into_iter()
            .enumerate()
            .map(|(at, entry)| Entry::parse(at, entry));
        Ok(Self(entries.collect::<Result<_, _>>()?))
    }

    /// The messages, in their order.
    ///
    /// # Errors
    /// 400004 for an entry that breaks a rule, 413001 when the batch is too large.
    pub(super) fn messages(&self) -> Result<Vec<TelemetryMessage<'_>>, HttpsError> {
        let mut messages = Vec::with_capacity(self.0.len());
        let mut size = 0;
        for (at, entry) in self.0.iter().enumerate() {
            let named = entry
                .properties
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()));
            let message = message::of(&entry.body, named).map_err(|error| of_entry(at, error))?;
            size += message.size();
            messages.push(message);
        }
        match size <= MAX_TELEMETRY_BYTES {
            true => Ok(messages),
            false => Err(message::too_large(size)),
        }
    }
}

impl Entry {
    fn parse(at: usize, entry: Value) -> Result<Self, HttpsError> {
        let wrong = |text: &str| of_entry(at, HttpsError::invalid(text));
        let Value::Object(fields) = entry else {
            return Err(wrong("it is no object"));
        };
        let (mut body, mut is_base64, mut properties) = (Value::Null, true, Map::new());
        for (name, value) in fields {
            match (name.to_ascii_lowercase().as_str(), value) {
                ("body", value) => body = value,
                ("base64encoded", Value::Bool(value)) => is_base64 = value,
                ("base64encoded", Value::Null) | ("properties", Value::Null) => {}
                ("base64encoded", _) => return Err(wrong("base64Encoded must be true or false")),
                ("properties", Value::Object(value)) => properties = value,
                ("properties", _) => return Err(wrong("properties must be an object")),
                _ => {}
            }
        }
        for (name, value) in &mut properties {
            match value {
                Value::String(_) | Value::Null => {}
                Value::Number(_) | Value::Bool(_) => *value = Value::String(value.to_string()),
                Value::Array(_) | Value::Object(_) => {
                    return Err(wrong(&format!("property {} must be text", json::quoted(name))));
                }
            }
        }
        let body = match (body, is_base64) {
            (Value::Null, _) => Vec::new(),
            (Value::String(text), true) => decode(&text).ok_or_else(|| wrong("its body is not base64"))?,
            (Value::String(text), false) => text.into_bytes(),
            _ => return Err(wrong("its body must be text")),
        };
        Ok(Self { body, properties })
    }
}

/// With or without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes = match text.contains(['\r', '\n', ' ']) {
        true => Cow::Owned(text.split_whitespace().collect::<String>()),
        false => Cow::Borrowed(text),
    };
    let padded = BASE64.decode(bytes.as_bytes()).ok();
    padded.or_else(|| BASE64_NOPAD.decode(bytes.as_bytes()).ok())
}

fn of_entry(at: usize, error: HttpsError) -> HttpsError {
    HttpsError::new(error.code, format!("message {at} of the batch: {}", error.text))
}

fn format_error(text: impl Into<String>) -> HttpsError {
    HttpsError::new(ErrorCode::IotHubFormatError, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> u32 {
        let batch = Batch::parse(text.as_bytes());
        batch
            .and_then(|batch| batch.messages().map(drop))
            .unwrap_err()
            .code
            .number()
    }

    #[test]
    fn bodies_are_base64_or_text_and_properties_are_texts() {
        let text = r#"[{"body": "aGk=", "properties":{"iothub-app-k":"v","dt-subject":"c","iothub-messageid":"m"}},
            {"body":"plain","base64Encoded":false,"properties":{"iothub-app-n":7,"iothub-app-null":null}},
            {"Body":"aGk"},{}]"#;
        let batch = Batch::parse(text.as_bytes()).unwrap();
        let messages = batch.messages().unwrap();
        let bodies: Vec<_> = messages.iter().map(|message| message.payload).collect();
        assert_eq!(bodies, [&b"hi"[..], b"plain", b"hi", b""]);
        assert_eq!(messages[0].system.message_id.as_deref(), Some("m"));
        assert_eq!(messages[0].system.component.as_deref(), Some("c"));
        assert_eq!(messages[1].properties.len(), 2);
    }

    #[test]
    fn what_is_no_batch_is_refused_as_a_whole() {
        for (text, expected) in [
            ("", 400_006),
            ("{}", 400_006),
            ("[}", 400_006),
            ("[]", 400_004),
            ("[1]", 400_004),
            (r#"[{"body":"*"}]"#, 400_004),
            (r#"[{"body":7}]"#, 400_004),
            (r#"[{"body":"aGk=","properties":[]}]"#, 400_004),
            (r#"[{"body":"aGk=","properties":{"a":{}}}]"#, 400_004),
            (r#"[{"body":"aGk=","base64Encoded":"no"}]"#, 400_004),
            (r#"[{"body":"aGk=","properties":{"iothub-expiry":"x"}}]"#, 400_004),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
        let many = format!("[{}]", vec!["{}"; MAX_MESSAGES + 1].join(","));
        assert_eq!(number(&many), 400_004);
        let large = BASE64.encode(&vec![0; MAX_TELEMETRY_BYTES / 2]);
        let large = format!(r#"[{{"body":"{large}"}},{{"body":"{large}","properties":{{"iothub-app-a":"b"}}}}]"#);
        assert_eq!(number(&large), 413_001);
    }
}
