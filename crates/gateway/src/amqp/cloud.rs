//! Cloud-to-device messages as AMQP messages, under locks (Spec amqp §6.2).
//!
//! Invariant: a message is locked from its transfer to its outcome, for [`LOCK`] at most; then it goes back to its queue, and
//! a later outcome counts for nothing.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_amqp::message::{
    Properties, begin_application_properties, begin_message_annotations, put_data, put_properties,
};
use holdfast_amqp::types::{Raw, put_null, put_str, put_timestamp, put_ubyte, put_ulong};
use holdfast_amqp::{Delivery, Outcome, Outgoing};
use holdfast_amqp_server::{Links, Refused};
use holdfast_device_hub::{CloudMessage, FeedbackRequest, ReceivedDelivery, Settlement};
use holdfast_model::{ErrorCode, IdentityId};
use tokio::time::Instant;
use uuid::Uuid;

use super::downlink::{Sendable, Settled, has_room};
use super::handler::{Devices, Done};
use crate::own_address::own_address;
use crate::sent_deliveries::{Again, MessageHead, Sent};

/// How long a client may take for the outcome of a message.
pub(super) const LOCK: Duration = Duration::from_secs(60);

/// Appends a message in its stored form as the client gets it; `None` when it cannot be read.
fn encode(buf: &mut Vec<u8>, stored: &Bytes, head: &MessageHead, identity: &IdentityId, token: Uuid) -> Option<()> {
    let message = CloudMessage::decode(stored)?;
    let mut annotations = begin_message_annotations(buf);
    put_str(annotations.key("x-opt-lock-token"), &token.hyphenated().to_string());
    put_ulong(annotations.key("x-opt-sequence-number"), head.sequence);
    put_timestamp(annotations.key("iothub-enqueuedtime"), head.enqueued_ms.cast_signed());
    let deliveries = u8::try_from(head.deliveries).unwrap_or(u8::MAX);
    put_ubyte(annotations.key("iothub-deliverycount"), deliveries);
    annotations.finish();
    let id = |text: Option<&str>| {
        text.map(|text| {
            let mut encoded = Vec::with_capacity(text.len() + 5);
            put_str(&mut encoded, text);
            encoded
        })
    };
    let message_id = id(message.message_id.as_deref());
    let correlation_id = id(message.correlation_id.as_deref());
    let own = || Cow::Owned(own_address(identity, "devicebound"));
    let to = message.to.as_deref().map_or_else(own, Cow::Borrowed);
    put_properties(
        buf,
        &Properties {
            message_id: message_id.as_deref().and_then(|bytes| Raw::new(bytes).ok()),
            correlation_id: correlation_id.as_deref().and_then(|bytes| Raw::new(bytes).ok()),
            user_id: message.user_id.as_deref(),
            to: Some(&to),
            content_type: message.content_type.as_deref(),
            content_encoding: message.content_encoding.as_deref(),
            absolute_expiry_time: message.expiry.and_then(|expiry| i64::try_from(expiry.0).ok()),
            ..Properties::default()
        },
    );
    let mut map = begin_application_properties(buf);
    for (name, value) in &message.properties {
        match value {
            Some(value) => put_str(map.string_key(name), value),
            None => put_null(map.string_key(name)),
        }
    }
    if let Some(feedback) = message.feedback.map(FeedbackRequest::as_str) {
        put_str(map.string_key("iothub-ack"), feedback);
    }
    map.finish();
    put_data(buf, &message.body);
    Some(())
}

/// The token of a delivery: its tag is the GUID as .NET orders its bytes.
fn token_of(tag: &[u8]) -> Option<Uuid> {
    Some(Uuid::from_bytes_le(tag.try_into().ok()?))
}

fn settlement(outcome: &Outcome<'_>) -> Settlement {
    match outcome {
        Outcome::Accepted => Settlement::Accepted,
        Outcome::Rejected(_)
        | Outcome::Modified {
            undeliverable_here: true,
            ..
        } => Settlement::Rejected,
        Outcome::Released | Outcome::Modified { .. } => Settlement::Released,
    }
}

impl Devices {
    /// A message for a device has come.
    pub(super) fn message_delivered(&mut self, slot: u32, delivery: ReceivedDelivery) {
        let front = Rc::clone(&self.front);
        let Some((device, session)) = self.open(slot) else {
            return;
        };
        let (tag, bytes) = (delivery.tag, delivery.bytes());
        let downlink = device.downlink.get_or_insert_default();
        let Some(head) = MessageHead::of(&delivery) else {
            return Settled::new(tag, bytes, Settlement::Rejected).report(&front, session);
        };
        match downlink.sent.again(head.sequence, tag, bytes) {
            Some(Again::Completed) => {
                return Settled::new(tag, bytes, Settlement::Accepted).report(&front, session);
            }
            // Its owner is gone; the window has a place for one of the two.
            Some(Again::InFlight(earlier, bytes)) => {
                return Settled::new(earlier, bytes, Settlement::Released).report(&front, session);
            }
            None => {}
        }
        let is_same =
            |known: &ReceivedDelivery| MessageHead::of(known).is_some_and(|known| known.sequence == head.sequence);
        if let Some(index) = downlink.messages.iter().position(is_same) {
            let earlier = std::mem::replace(&mut downlink.messages[index], delivery);
            let (tag, bytes) = (earlier.tag, earlier.bytes());
            return Settled::new(tag, bytes, Settlement::Released).report(&front, session);
        }
        downlink.messages.push_back(delivery);
    }

    /// Sends the oldest message that waits.
    pub(super) fn send_message(&mut self, links: &mut Links, slot: u32) -> Sendable {
        let front = Rc::clone(&self.front);
        let Some((device, session)) = self.open(slot) else {
            return Sendable::Nothing;
        };
        let (Some(link), Some(downlink)) = (device.messages_link, device.downlink) else {
            return Sendable::Nothing;
        };
        if !downlink.messages.is_empty() && !has_room(links, link) {
            return Sendable::Later;
        }
        let Some(delivery) = downlink.messages.pop_front() else {
            return Sendable::Nothing;
        };
        let (tag, bytes) = (delivery.tag, delivery.bytes());
        let (token, head) = (Uuid::new_v4(), MessageHead::of(&delivery));
        let mut payload = Vec::with_capacity(delivery.body.len() + 256);
        let encoded = head.and_then(|head| encode(&mut payload, &delivery.body, &head, session.identity(), token));
        let transfer = Delivery {
            tag: &token.to_bytes_le(),
            settled: false,
            message_format: 0,
        };
        let sent = encoded.map(|()| {
            links
                .engine()
                .send_with(link, &transfer, |buf| buf.extend_from_slice(&payload))
        });
        if !matches!(sent, Some(Ok(_))) {
            tracing::warn!(
                identity = %session.identity(),
                "a message to a device cannot be written as an AMQP message; rejecting it"
            );
            Settled::new(tag, bytes, Settlement::Rejected).report(&front, session);
            return Sendable::Sent;
        }
        downlink.sent.push(Sent {
            name: token,
            tag,
            bytes,
            message: head.map(|head| head.sequence),
        });
        downlink.locks.push_back((Instant::now() + LOCK, token));
        self.watch_locks(slot);
        Sendable::Sent
    }

    /// The client has settled a message.
    pub(super) fn message_settled(&mut self, links: &mut Links, slot: u32, delivery: &Outgoing, outcome: &Outcome<'_>) {
        let front = Rc::clone(&self.front);
        let Some((device, session)) = self.open(slot) else {
            return;
        };
        let sent = device
            .downlink
            .as_mut()
            .zip(token_of(&delivery.tag))
            .and_then(|(downlink, token)| downlink.sent.take(&token));
        let Some(sent) = sent else {
            let text = "The lock of the message is over: it may have been delivered again.";
            return links
                .refuse_outcome(Refused::new(ErrorCode::DeviceMessageLockLost, text).with_condition("amqp:not-found"));
        };
        let settlement = settlement(outcome);
        if settlement == Settlement::Accepted
            && let Some(downlink) = device.downlink.as_mut()
        {
            downlink.sent.complete(sent.message);
        }
        Settled::new(sent.tag, sent.bytes, settlement).report(&front, session);
    }

    /// Has the oldest lock looked at when it is over.
    fn watch_locks(&mut self, slot: u32) {
        let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let place = device.target.place();
        let Some(downlink) = device.downlink.as_mut() else {
            return;
        };
        if let Some((until, _)) = downlink.locks.front()
            && !std::mem::replace(&mut downlink.watches_locks, true)
        {
            let until = *until;
            self.tasks.push(Box::pin(async move {
                tokio::time::sleep_until(until).await;
                Done::Lock(place)
            }));
        }
    }

    /// Gives back the messages whose locks are over.
    pub(super) fn locks_over(&mut self, slot: u32) {
        let front = Rc::clone(&self.front);
        let now = Instant::now();
        let Some((device, session)) = self.open(slot) else {
            return;
        };
        let Some(downlink) = device.downlink.as_mut() else {
            return;
        };
        downlink.watches_locks = false;
        while let Some((until, token)) = downlink.locks.front().copied()
            && (until <= now || !downlink.sent.is_used(&token))
        {
            downlink.locks.pop_front();
            if let Some(sent) = downlink.sent.take(&token) {
                Settled::new(sent.tag, sent.bytes, Settlement::Released).report(&front, session);
            }
        }
        self.watch_locks(slot);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_amqp::message::Message;
    use holdfast_amqp::types::Value;
    use holdfast_model::{DeviceId, UnixMillis};

    use super::*;

    #[test]
    fn a_message_has_the_annotations_that_sdks_read() {
        let identity = IdentityId::device(DeviceId::parse("a+b").unwrap());
        let message = CloudMessage {
            message_id: Some("m1".into()),
            expiry: Some(UnixMillis(1_700_000_000_000)),
            feedback: Some(FeedbackRequest::Full),
            properties: vec![("k".into(), Some("v".into())), ("n".into(), None)],
            body: Bytes::from_static(b"x"),
            ..CloudMessage::default()
        };
        let head = MessageHead {
            sequence: 7,
            deliveries: 300,
            enqueued_ms: 1_600_000_000_000,
        };
        let token = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let mut buf = Vec::new();
        encode(&mut buf, &message.encode().into(), &head, &identity, token).unwrap();
        let read = Message::scan(&buf).unwrap();
        let annotation = |key| read.message_annotations.get(key).unwrap().unwrap();
        let text = "00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(annotation("x-opt-lock-token"), Value::String(text));
        assert_eq!(annotation("x-opt-sequence-number"), Value::Ulong(7));
        assert_eq!(annotation("iothub-enqueuedtime"), Value::Timestamp(1_600_000_000_000));
        assert_eq!(annotation("iothub-deliverycount"), Value::Ubyte(255));
        let properties = read.properties().unwrap();
        assert_eq!(properties.to, Some("/devices/a%2Bb/messages/devicebound"));
        assert_eq!(properties.absolute_expiry_time, Some(1_700_000_000_000));
        assert_eq!(
            read.application_properties.get("iothub-ack").unwrap(),
            Some(Value::String("full"))
        );
        assert_eq!(read.data().collect::<Vec<_>>(), [b"x"]);
        // .NET reads the first three groups in little-endian order.
        assert_eq!(token.to_bytes_le()[..4], [0x33, 0x22, 0x11, 0x00]);
        assert_eq!(token_of(&token.to_bytes_le()), Some(token));
        assert_eq!(token_of(b"short"), None);
    }

    #[test]
    fn outcomes_complete_reject_or_abandon() {
        let modified = |undeliverable_here| Outcome::Modified {
            delivery_failed: true,
            undeliverable_here,
        };
        assert_eq!(settlement(&Outcome::Accepted), Settlement::Accepted);
        assert_eq!(settlement(&Outcome::Rejected(None)), Settlement::Rejected);
        assert_eq!(settlement(&Outcome::Released), Settlement::Released);
        assert_eq!(settlement(&modified(false)), Settlement::Released);
        assert_eq!(settlement(&modified(true)), Settlement::Rejected);
    }
}
