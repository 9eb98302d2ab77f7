//! Requests and responses of `$cbs` and `$management`, both sides (Spec amqp §5, §8.2).

use super::properties::Properties;
use super::scan::{Body, Message};
use super::sections::{begin_application_properties, put_properties, put_value};
use crate::error::DecodeError;
use crate::types::{Map, Raw, Value, put_int, put_null, put_str, put_symbol};

/// A request as a server reads it. Absent and mistyped properties alike are `None`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request<'a> {
    /// To be repeated as correlation-id, value and type.
    pub message_id: Option<Raw<'a>>,
    /// `put-token`, `READ`.
    pub operation: Option<&'a str>,
    /// The kind of the token or entity.
    pub kind: Option<&'a str>,
    /// The entity's name, or a token's audience.
    pub name: Option<&'a str>,
    /// All application properties.
    pub properties: Map<'a>,
    /// The body, if it is a value of text, or one data section of UTF-8: a token.
    pub text: Option<&'a str>,
}

impl<'a> Request<'a> {
    /// Reads a request from a delivery's payload.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no message.
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let message = Message::scan(payload)?;
        let properties = message.application_properties;
        let text = |key| Ok::<_, DecodeError>(properties.get(key)?.and_then(|value| value.text()));
        Ok(Self {
            message_id: message.properties()?.message_id,
            operation: text("operation")?,
            kind: text("type")?,
            name: text("name")?,
            properties,
            text: match message.body {
                Body::Value(raw) => raw.value()?.text(),
                Body::Data(bytes, 1) => std::str::from_utf8(bytes).ok(),
                _ => None,
            },
        })
    }

    /// A further text property, such as `partition` or `security_token`.
    #[must_use]
    pub fn property(&self, key: &str) -> Option<&'a str> {
        self.properties.get(key).ok().flatten().and_then(|value| value.text())
    }
}

/// A response as a server writes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Response<'a> {
    /// The request's message-id.
    pub correlation_id: Option<Raw<'a>>,
    /// As in HTTP.
    pub status: i32,
    /// Always present: .NET wants it.
    pub description: &'a str,
    /// An error condition, on failure.
    pub condition: Option<&'a str>,
}

impl Response<'_> {
    /// Appends the sections; `body` writes the value of the body, null for none.
    pub fn encode(&self, buf: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
        put_properties(
            buf,
            &Properties {
                correlation_id: self.correlation_id,
                ..Properties::default()
            },
        );
        let mut map = begin_application_properties(buf);
        put_int(map.string_key("status-code"), self.status);
        put_str(map.string_key("status-description"), self.description);
        if let Some(condition) = self.condition {
            put_symbol(map.string_key("error-condition"), condition);
        }
        map.finish();
        put_value(buf, body);
    }

    /// Appends the sections with a null body.
    pub fn encode_empty(&self, buf: &mut Vec<u8>) {
        self.encode(buf, put_null);
    }
}

/// A response as a client reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseView<'a> {
    /// The request's message-id.
    pub correlation_id: Option<Raw<'a>>,
    /// As in HTTP; 0 when the server sent none.
    pub status: i64,
    /// Text for people.
    pub description: &'a str,
    /// An error condition, on failure.
    pub condition: Option<&'a str>,
    /// The body's value.
    pub body: Value<'a>,
}

impl<'a> ResponseView<'a> {
    /// Reads a response from a delivery's payload.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no message.
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let message = Message::scan(payload)?;
        let properties = message.application_properties;
        let text = |key| Ok::<_, DecodeError>(properties.get(key)?.and_then(|value| value.text()));
        Ok(Self {
            correlation_id: message.properties()?.correlation_id,
            status: properties
                .get("status-code")?
                .and_then(|value| value.integer())
                .unwrap_or(0),
            description: text("status-description")?.unwrap_or(""),
            condition: text("error-condition")?,
            body: match message.body {
                Body::Value(raw) => raw.value()?,
                _ => Value::Null,
            },
        })
    }
}

/// Appends a put-token request, as a client.
pub fn put_token(buf: &mut Vec<u8>, message_id: &str, token: &str, audience: &str) {
    request(
        buf,
        message_id,
        "$cbs",
        &[
            ("operation", "put-token"),
            ("type", "servicebus.windows.net:sastoken"),
            ("name", audience),
        ],
    );
    put_value(buf, |buf| put_str(buf, token));
}

/// Appends a `READ` request to `$management`, as a client: of the hub, or of one partition.
pub fn read_request(buf: &mut Vec<u8>, message_id: &str, name: &str, partition: Option<&str>) {
    match partition {
        None => request(
            buf,
            message_id,
            "$management",
            &[
                ("operation", "READ"),
                ("name", name),
                ("type", "com.microsoft:eventhub"),
            ],
        ),
        Some(id) => request(
            buf,
            message_id,
            "$management",
            &[
                ("operation", "READ"),
                ("name", name),
                ("type", "com.microsoft:partition"),
                ("partition", id),
            ],
        ),
    }
    put_value(buf, put_null);
}

fn request(buf: &mut Vec<u8>, message_id: &str, to: &str, entries: &[(&str, &str)]) {
    let mut id = Vec::with_capacity(message_id.len() + 5);
    put_str(&mut id, message_id);
    let message_id = Raw::new(&id).ok();
    put_properties(
        buf,
        &Properties {
            message_id,
            to: Some(to),
            ..Properties::default()
        },
    );
    let mut map = begin_application_properties(buf);
    for (key, value) in entries {
        put_str(map.string_key(key), value);
    }
    map.finish();
}
