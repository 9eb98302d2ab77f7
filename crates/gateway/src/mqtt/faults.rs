//! Fault-injection messages over MQTT: their connection ends, and new ones may be refused for a while.

use std::rc::Rc;
use std::time::Duration;

use holdfast_model::{ErrorCode, TelemetryMessage};

use super::connection::{Connection, State};
use super::disconnect::DisconnectReason;
use crate::faults::RequestedFault;

/// The end of a connection that a message requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The TCP connection is reset.
    Reset,
    /// The hub closes it.
    Close,
    /// The hub closes it and refuses new ones for the duration.
    Refuse(ErrorCode, Duration),
}

/// A fault that will happen.
#[derive(Debug)]
pub(super) struct PlannedFault {
    at_ms: u64,
    fault: Fault,
}

impl PlannedFault {
    pub(super) fn at_ms(&self) -> u64 {
        self.at_ms
    }

    /// The fault that `message` asks for; `None` for telemetry, and for faults of another protocol.
    fn parse(message: &TelemetryMessage<'_>, now_ms: u64) -> Option<Self> {
        let requested = RequestedFault::of(message)?;
        let fault = match (&*requested.kind, requested.refusal()) {
            ("KillTcp", _) => Fault::Reset,
            ("ShutDownMqtt", _) => Fault::Close,
            (_, Some(code)) => Fault::Refuse(code, requested.duration),
            _ => {
                requested.is_telemetry("MQTT");
                return None;
            }
        };
        let delay = u64::try_from(requested.delay.as_millis()).unwrap_or(u64::MAX);
        let at_ms = now_ms.saturating_add(delay);
        Some(Self { at_ms, fault })
    }
}

impl Connection {
    /// Plans the fault that `message` asks for, if faults may be injected.
    pub(super) fn plan_fault(self: &Rc<Self>, state: &mut State, message: &TelemetryMessage<'_>) {
        if !self.front.config.fault_injection {
            return;
        }
        if let Some(fault) = PlannedFault::parse(message, self.transport.now_ms()) {
            self.transport.check_earlier(fault.at_ms);
            state.fault = Some(Box::new(fault));
        }
    }

    /// Lets the fault happen that is due.
    pub(super) fn inject_fault(&self, state: &mut State, now_ms: u64) {
        let Some(planned) = state.fault.take_if(|planned| planned.at_ms <= now_ms) else {
            return;
        };
        match planned.fault {
            Fault::Reset => self.transport.reset(DisconnectReason::Fault),
            Fault::Close => self.transport.end(DisconnectReason::Fault),
            Fault::Refuse(code, duration) => {
                if let Some(session) = &state.session {
                    self.front.core.hub().refuse_for(session.identity(), code, duration);
                }
                self.transport.end(DisconnectReason::Fault);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use holdfast_model::{Property, PropertyValue};

    use super::*;
    use crate::faults::{DELAY, DURATION, REASON, TYPE};

    fn parsed(properties: &[(&'static str, &'static str)]) -> Option<(u64, Fault)> {
        let text = |(name, value): &(&'static str, &'static str)| Property {
            name: Cow::Borrowed(*name),
            value: PropertyValue::Text(Cow::Borrowed(*value)),
        };
        let message = TelemetryMessage {
            properties: properties.iter().map(text).collect(),
            ..TelemetryMessage::default()
        };
        PlannedFault::parse(&message, 1000).map(|planned| (planned.at_ms, planned.fault))
    }

    #[test]
    fn a_message_says_which_fault_when_and_for_how_long() {
        let kill = parsed(&[(TYPE, "KillTcp"), (REASON, "boom"), (DELAY, "2")]);
        assert_eq!(kill, Some((3000, Fault::Reset)));
        let refuse = parsed(&[(TYPE, "InvokeAuthError"), (DELAY, "1"), (DURATION, "20")]);
        let expected = Fault::Refuse(ErrorCode::IotHubUnauthorizedAccess, Duration::from_secs(20));
        assert_eq!(refuse, Some((2000, expected)));
        assert_eq!(
            parsed(&[(TYPE, "ShutDownMqtt"), (DELAY, "-5")]),
            Some((1000, Fault::Close))
        );
        let endless = parsed(&[(TYPE, "KillTcp"), (DELAY, "18446744073709551615")]);
        assert_eq!(endless, Some((601_000, Fault::Reset)));
        assert_eq!(parsed(&[(TYPE, "KillAmqpConnection")]), None);
        assert_eq!(parsed(&[(REASON, "boom")]), None);
    }
}
