//! A cloud-to-device message as front ends see it, and in its stored form.
//!
//! Invariant: what a sender has set is stored and delivered unchanged; the hub adds nothing to a message.
//! Not here: its place in a queue ([`super::queue`]), property bags and annotations (front ends).

use bytes::Bytes;
use holdfast_model::UnixMillis;
use holdfast_proto::device::v1 as proto;
use holdfast_spans::{CONTEXT_PROPERTIES, TraceContext};
use prost::Message as _;

use super::feedback::FeedbackRequest;

const VERSION: u32 = 1;

/// Of `StoredCloudMessage`: all other fields are skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredTrace {
    #[prost(bytes = "bytes", tag = "12")]
    trace: Bytes,
}

/// A cloud-to-device message (Spec amqp §7, device-mqtt §6).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloudMessage {
    /// The sender's id of it.
    pub message_id: Option<String>,
    /// The id that it answers.
    pub correlation_id: Option<String>,
    /// The sender's user.
    pub user_id: Option<Vec<u8>>,
    /// The address to which it was sent.
    pub to: Option<String>,
    /// The type of the body.
    pub content_type: Option<String>,
    /// The encoding of the body.
    pub content_encoding: Option<String>,
    /// When it expires; without it after the hub's default.
    pub expiry: Option<UnixMillis>,
    /// The feedback that its sender wants; `None`: not said.
    pub feedback: Option<FeedbackRequest>,
    /// The application's properties; a value may be null.
    pub properties: Vec<(String, Option<String>)>,
    /// The payload.
    pub body: Bytes,
    /// Of one that is sent: its sender's context. Of a stored one: the recorded span of its sending, for the hub alone.
    pub trace: Option<TraceContext>,
}

impl CloudMessage {
    /// Bytes that count against the limit of a message: the body, and names and values of all properties.
    #[must_use]
    pub fn size(&self) -> usize {
        let system = [
            &self.message_id,
            &self.correlation_id,
            &self.to,
            &self.content_type,
            &self.content_encoding,
        ];
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let application = self.properties.iter().map(|(name, value)| name.len() + text(value));
        self.body.len()
            + self.user_id.as_ref().map_or(0, Vec::len)
            + system.into_iter().map(text).sum::<usize>()
            + application.sum::<usize>()
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let properties = self.properties.iter().map(|(name, value)| proto::StoredProperty {
            name: name.clone(),
            value: value.clone(),
        });
        let stored = proto::StoredCloudMessage {
            version: VERSION,
            message_id: self.message_id.clone(),
            correlation_id: self.correlation_id.clone(),
            user_id: self.user_id.clone().map(Bytes::from),
            to: self.to.clone(),
            content_type: self.content_type.clone(),
            content_encoding: self.content_encoding.clone(),
            expiry_ms: self.expiry.map(|expiry| expiry.0),
            feedback: FeedbackRequest::number(self.feedback),
            properties: properties.collect(),
            body: self.body.clone(),
            trace: TraceContext::to_wire(self.trace),
        };
        stored.encode_to_vec()
    }

    /// The context that its sender has put into its properties: `traceparent`, or `Diagnostic-Id` as Azure's SDKs write it.
    #[must_use]
    pub fn context_in_properties(&self) -> Option<TraceContext> {
        let value = |name: &str| {
            let property = self.properties.iter().find(|(known, _)| known == name)?;
            TraceContext::parse(property.1.as_deref()?)
        };
        CONTEXT_PROPERTIES.iter().find_map(|name| value(name))
    }

    /// The recorded span of the sending of a stored message, without decoding the rest.
    #[must_use]
    pub(crate) fn trace_of(value: &Bytes) -> Option<TraceContext> {
        TraceContext::from_wire(&StoredTrace::decode(value.clone()).ok()?.trace)
    }

    /// Reads the stored form, which is also the body of a delivery; `None` when this version cannot read it.
    #[must_use]
    pub fn decode(value: &Bytes) -> Option<Self> {
        let stored = proto::StoredCloudMessage::decode(value.clone()).ok()?;
        if stored.version != VERSION {
            return None;
        }
        let properties = stored.properties.into_iter().map(|one| (one.name, one.value));
        Some(Self {
            message_id: stored.message_id,
            correlation_id: stored.correlation_id,
            user_id: stored.user_id.map(|bytes| bytes.to_vec()),
            to: stored.to,
            content_type: stored.content_type,
            content_encoding: stored.content_encoding,
            expiry: stored.expiry_ms.map(UnixMillis),
            feedback: FeedbackRequest::from_number(stored.feedback),
            properties: properties.collect(),
            body: stored.body,
            trace: TraceContext::from_wire(&stored.trace),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was_stored() {
        let full = CloudMessage {
            message_id: Some("m".into()),
            correlation_id: Some(String::new()),
            user_id: Some(vec![0, 255]),
            to: Some("/devices/d/messages/deviceBound".into()),
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            expiry: Some(UnixMillis(7)),
            feedback: Some(FeedbackRequest::Full),
            properties: vec![("a".into(), None), ("b".into(), Some("ü".into()))],
            body: Bytes::from_static(&[0, 1, 2]),
            trace: TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        };
        assert_eq!(CloudMessage::trace_of(&full.encode().into()), full.trace);
        assert_eq!(full.size(), 3 + 2 + 1 + 31 + 16 + 5 + 1 + 3);
        for message in [full, CloudMessage::default()] {
            assert_eq!(CloudMessage::decode(&message.encode().into()), Some(message));
        }
        assert_eq!(
            CloudMessage::decode(&Bytes::from_static(&[0x08, 2])),
            None,
            "a later version"
        );
        assert_eq!(CloudMessage::decode(&Bytes::from_static(&[0xff])), None);
    }

    #[test]
    fn stored_bytes_never_change() {
        let message = CloudMessage {
            message_id: Some("m".into()),
            expiry: Some(UnixMillis(1)),
            feedback: Some(FeedbackRequest::Negative),
            body: Bytes::from_static(b"x"),
            ..CloudMessage::default()
        };
        let expected = [
            0x08, 1, 0x12, 1, b'm', 0x41, 1, 0, 0, 0, 0, 0, 0, 0, 0x48, 3, 0x5a, 1, b'x',
        ];
        assert_eq!(message.encode(), expected);
    }
}
