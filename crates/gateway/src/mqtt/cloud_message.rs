//! A cloud-to-device message as an MQTT client gets it: the bag of its topic, and its payload (Spec device-mqtt §6, §4.2).

use std::borrow::Cow;

use bytes::Bytes;
use holdfast_device_hub::{CloudMessage, FeedbackRequest};
use holdfast_model::IdentityId;
use holdfast_mqtt::bag::{Devicebound, devicebound};

use crate::own_address::own_address;

/// The bag and the payload of a message in its stored form; `None` when it cannot be read.
pub(super) fn bag(stored: &Bytes, identity: &IdentityId) -> Option<(String, Bytes)> {
    let message = CloudMessage::decode(stored)?;
    let own = || Cow::Owned(own_address(identity, "devicebound"));
    let to = message.to.as_deref().map_or_else(own, Cow::Borrowed);
    let system = Devicebound {
        expiry_ms: message.expiry.and_then(|expiry| i64::try_from(expiry.0).ok()),
        correlation_id: message.correlation_id.as_deref(),
        message_id: message.message_id.as_deref(),
        to: &to,
        content_type: message.content_type.as_deref(),
        content_encoding: message.content_encoding.as_deref(),
        user_id: message.user_id.as_deref().and_then(|id| std::str::from_utf8(id).ok()),
        ack: message.feedback.map(FeedbackRequest::as_str),
    };
    let application = message.properties.iter();
    let application = application.map(|(name, value)| (name.as_str(), value.as_deref()));
    let mut bag = String::new();
    devicebound(&system, application, &mut bag);
    Some((bag, message.body))
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;

    use super::*;

    #[test]
    fn a_message_without_an_address_gets_that_of_its_device() {
        let identity = IdentityId::device(DeviceId::parse("a+b").expect("an id"));
        let message = CloudMessage {
            properties: vec![("k".into(), Some("v".into()))],
            body: Bytes::from_static(b"x"),
            ..CloudMessage::default()
        };
        let (bag, body) = bag(&message.encode().into(), &identity).expect("a message");
        assert_eq!(bag, "%24.to=%2Fdevices%2Fa%252Bb%2Fmessages%2Fdevicebound&k=v");
        assert_eq!(&body[..], b"x");
    }
}
