//! Fault-injection messages: a device asks the hub to break its connection (docs/spec/fault-injection.md).
//!
//! Why: the end-to-end suites of the SDKs test their reconnection with them. Only with `mqtt.fault_injection` and `amqp.fault_injection`; otherwise
//! such a message is telemetry like any other. With it the message is stored and acknowledged too, and then the fault happens.
//! Not here: what a protocol does ([`crate::mqtt`], [`crate::amqp`]), and for how long an identity is refused ([`holdfast_device_hub`]'s
//! injected faults).

use std::borrow::Cow;
use std::time::Duration;

use holdfast_amqp::types::Raw;
use holdfast_model::{ErrorCode, PropertyValue, TelemetryMessage};

pub(crate) const TYPE: &str = "AzIoTHub_FaultOperationType";
pub(crate) const REASON: &str = "AzIoTHub_FaultOperationCloseReason";
pub(crate) const DELAY: &str = "AzIoTHub_FaultOperationDelayInSecs";
pub(crate) const DURATION: &str = "AzIoTHub_FaultOperationDurationInSecs";

/// The longest delay.
const MAX_DELAY: Duration = Duration::from_secs(600);

/// What a message requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestedFault<'a> {
    /// The type, as the message has it.
    pub(crate) kind: Cow<'a, str>,
    /// Before it happens.
    pub(crate) delay: Duration,
    /// How long the identity is refused.
    pub(crate) duration: Duration,
}

impl<'a> RequestedFault<'a> {
    /// The fault that `message` asks for; `None` for telemetry.
    pub(crate) fn of(message: &'a TelemetryMessage<'_>) -> Option<Self> {
        let text = |name: &str| -> Option<Cow<'a, str>> {
            let property = message.properties.iter().find(|property| property.name == name)?;
            match &property.value {
                PropertyValue::Text(text) => Some(Cow::Borrowed(text)),
                // Over AMQP times are numbers.
                PropertyValue::Amqp(value) => {
                    let number = Raw::new(value).ok()?.value().ok()?.integer()?;
                    Some(Cow::Owned(number.to_string()))
                }
                PropertyValue::Null => None,
            }
        };
        let seconds = |name| Duration::from_secs(text(name).and_then(|text| text.parse().ok()).unwrap_or(0));
        let kind = text(TYPE)?;
        tracing::info!(
            kind = &*kind,
            reason = text(REASON).as_deref(),
            "a fault-injection message was received"
        );
        Some(Self {
            kind,
            delay: seconds(DELAY).min(MAX_DELAY),
            duration: seconds(DURATION),
        })
    }

    /// The error with which the identity is refused for the duration, if that is the fault.
    pub(crate) fn refusal(&self) -> Option<ErrorCode> {
        match &*self.kind {
            "InvokeThrottling" => Some(ErrorCode::ThrottlingException),
            "InvokeMaxMessageQuota" => Some(ErrorCode::IotHubQuotaExceeded),
            "InvokeAuthError" => Some(ErrorCode::IotHubUnauthorizedAccess),
            _ => None,
        }
    }

    /// Says that the protocol has no such fault.
    pub(crate) fn is_telemetry(&self, protocol: &'static str) {
        let kind = &*self.kind;
        tracing::info!(
            kind,
            protocol,
            "a fault-injection message asks for a fault that the protocol does not have; it is telemetry"
        );
    }
}

#[cfg(test)]
mod tests {
    use holdfast_amqp::types::put_int;
    use holdfast_model::Property;

    use super::*;

    #[test]
    fn times_are_text_or_numbers_and_bounded() {
        let mut number = Vec::new();
        put_int(&mut number, 7);
        let mut message = TelemetryMessage::default();
        let mut add = |name: &'static str, value| {
            message.properties.push(Property {
                name: Cow::Borrowed(name),
                value,
            });
        };
        add(TYPE, PropertyValue::Text("InvokeThrottling".into()));
        add(DELAY, PropertyValue::Amqp(number.into()));
        add(DURATION, PropertyValue::Text("18446744073709551615".into()));
        let fault = RequestedFault::of(&message).unwrap();
        assert_eq!(
            (fault.delay.as_secs(), fault.refusal()),
            (7, Some(ErrorCode::ThrottlingException))
        );
        assert_eq!(fault.duration.as_secs(), u64::MAX);
        assert_eq!(RequestedFault::of(&TelemetryMessage::default()), None);
    }
}
