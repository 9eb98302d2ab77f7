//! The last message of a connection that ends without DISCONNECT (Spec §3.5).
//!
//! Owned, because it outlives the CONNECT by hours; checked once, when the client connects.
//! Not here: the decision that it is due ([`crate::Connection::will_is_due`]).

use holdfast_model::property::application;
use holdfast_model::{IdentityId, TelemetryMessage};

use crate::bag;
use crate::codec::{LastWill, Publish, QoS};
use crate::topic::DeviceTopic;
use crate::violation::Violation;

/// A checked will, kept for as long as the connection lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    bag: Box<str>,
    payload: Box<[u8]>,
    qos: QoS,
    retain: bool,
}

impl Will {
    /// Checks the will of a CONNECT.
    ///
    /// # Errors
    /// [`Violation::WillTopic`] unless it is the identity's own telemetry topic, [`Violation::WillQos`] for QoS 2, and
    /// the violations of [`bag::telemetry`] for its properties and size.
    pub fn accept(identity: &IdentityId, will: &LastWill<'_>) -> Result<Self, Violation> {
        let bag = Self::check(identity, will)?;
        Ok(Self {
            bag: bag.into(),
            payload: will.payload.into(),
            qos: will.qos,
            retain: will.retain,
        })
    }

    /// The same checks without keeping anything; the bag.
    pub(crate) fn check<'a>(identity: &IdentityId, will: &LastWill<'a>) -> Result<&'a str, Violation> {
        if will.qos == QoS::ExactlyOnce {
            return Err(Violation::WillQos(2));
        }
        let Ok(DeviceTopic::Events { bag }) = DeviceTopic::parse(identity, will.topic) else {
            return Err(Violation::WillTopic);
        };
        message(bag, will.payload, will.retain)?;
        Ok(bag)
    }

    /// The message to store: ordinary telemetry, marked as a will.
    ///
    /// # Errors
    /// None in practice: everything was checked by [`Self::accept`].
    pub fn message(&self) -> Result<TelemetryMessage<'_>, Violation> {
        message(&self.bag, &self.payload, self.retain)
    }

    /// The QoS that the client requested.
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.qos
    }
}

fn message<'a>(bag: &'a str, payload: &'a [u8], retain: bool) -> Result<TelemetryMessage<'a>, Violation> {
    let mut message = bag::telemetry(
        bag,
        &Publish {
            payload,
            retain,
            ..Publish::default()
        },
    )?;
    bag::mark(&mut message, application::MESSAGE_TYPE, application::MESSAGE_TYPE_WILL);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use holdfast_model::{DeviceId, PropertyValue};

    use super::*;

    #[test]
    fn a_will_is_marked_telemetry() {
        let identity = &IdentityId::device(DeviceId::parse("dev-1").expect("valid"));
        let will = LastWill {
            topic: "devices/dev-1/messages/events/$.ct=text%2Fplain&iothub-MessageType=mine&a=1",
            payload: b"gone",
            qos: QoS::AtLeastOnce,
            retain: true,
        };
        let kept = Will::accept(identity, &will).expect("valid");
        let message = kept.message().expect("checked");
        assert_eq!(
            (message.payload, message.system.content_type.as_deref()),
            (&b"gone"[..], Some("text/plain"))
        );
        let properties: Vec<_> = message
            .properties
            .iter()
            .map(|p| (p.name.to_string(), p.value.clone()))
            .collect();
        let text = |text: &'static str| PropertyValue::Text(text.into());
        let expected = [
            ("iothub-MessageType".to_owned(), text("Will")),
            ("a".to_owned(), text("1")),
            ("mqtt-retain".to_owned(), text("true")),
        ];
        assert_eq!(properties, expected);
        assert_eq!(kept.qos(), QoS::AtLeastOnce);

        let qos2 = LastWill {
            qos: QoS::ExactlyOnce,
            ..will
        };
        assert_eq!(Will::accept(identity, &qos2), Err(Violation::WillQos(2)));
        for topic in [
            "devices/dev-2/messages/events/",
            "$iothub/twin/GET/?$rid=1",
            "x",
            "devices/+/messages/events/",
        ] {
            assert_eq!(
                Will::accept(identity, &LastWill { topic, ..will }),
                Err(Violation::WillTopic),
                "{topic}"
            );
        }
        let bag = LastWill {
            topic: "devices/dev-1/messages/events/a=%ff",
            ..will
        };
        assert_eq!(Will::accept(identity, &bag), Err(Violation::BagUtf8));
    }
}
