//! The numbers that every refusal carries: one catalogue for HTTPS, AMQP, MQTT, the audit log and `docs/errors.md`.
//!
//! Why: SDKs branch on number, name or condition, and an operator searches for the same number in a log; five front
//! ends must not hold five opinions. The rows are written once, in [`catalogue`](self) (`error_code/catalogue.rs`).
//! Wire facts: Spec auth-and-limits §8.2 (numbers, names), §8.3 (the answer to a kind on each protocol).
//! Invariants: a number is never given a second meaning; the HTTP status is its leading digits; no cell is empty.
//! Not here: the shape of an error body (`service-api`), AMQP errors as frames (`amqp`), the choice of a code.

mod catalogue;
mod kind;

use std::fmt;

pub use catalogue::ErrorCode;
pub use kind::{ErrorKind, MqttAnswer};

/// One row of the catalogue; read it through [`ErrorCode`]'s methods.
#[derive(Debug)]
struct Row {
    name: &'static str,
    kind: ErrorKind,
    meaning: &'static str,
    /// Advice for the device's owner, and for the hub's operator. `None`: this version never answers with it.
    help: Option<(&'static str, &'static str)>,
}

const NOT_SENT_DEVICE: &str = "nothing: this version of the hub does not answer with it";
const NOT_SENT_OPERATOR: &str = "nothing: listed so that the number keeps its meaning in logs and SDKs";

impl ErrorCode {
    /// The six-digit number, as in `errorCode` of an error body.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The name on the wire, as in header `iothub-errorcode`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The HTTP status: the number's three leading digits.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "three digits")]
    pub const fn http_status(self) -> u16 {
        (self as u32 / 1000) as u16
    }

    /// The class that decides what each protocol answers.
    #[must_use]
    pub fn kind(self) -> ErrorKind {
        self.row().kind
    }

    /// The condition of an AMQP error.
    #[must_use]
    pub fn amqp_condition(self) -> &'static str {
        self.kind().amqp_condition()
    }

    /// The answer on an MQTT connection.
    #[must_use]
    pub fn mqtt(self) -> MqttAnswer {
        self.kind().mqtt()
    }

    /// Whether the same request may succeed later without any change.
    #[must_use]
    pub fn retriable(self) -> bool {
        self.kind().retriable()
    }

    /// Whether this version of the hub answers with it.
    #[must_use]
    pub fn is_sent(self) -> bool {
        self.row().help.is_some()
    }

    /// The cause, in a sentence without a full stop.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        self.row().meaning
    }

    /// Advice for the owner of the device or back end.
    #[must_use]
    pub fn device_action(self) -> &'static str {
        self.row().help.map_or(NOT_SENT_DEVICE, |help| help.0)
    }

    /// Advice for the operator of the hub.
    #[must_use]
    pub fn operator_action(self) -> &'static str {
        self.row().help.map_or(NOT_SENT_OPERATOR, |help| help.1)
    }

    /// The code with this number; `None` for numbers outside the catalogue.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .binary_search_by_key(&number, |code| code.number())
            .ok()
            .map(|at| Self::ALL[at])
    }

    /// The code with this wire name, any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for ErrorCode {
    /// `404001 DeviceNotFound`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.name())
    }
}

#[cfg(test)]
mod tested;
#[cfg(test)]
mod tests;
