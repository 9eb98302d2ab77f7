//! What a client says of itself, and how it is turned away.

use std::fmt;
use std::net::SocketAddr;

use holdfast_model::{ErrorCode, RefusalReason};

/// The protocol of a connection, as a metric label and in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// MQTT over TCP or TLS.
    Mqtt,
    /// MQTT over WebSockets.
    MqttWs,
    /// AMQP over TCP or TLS.
    Amqp,
    /// AMQP over WebSockets.
    AmqpWs,
    /// HTTPS.
    Https,
}

impl Protocol {
    /// The word in logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::MqttWs => "mqtt-ws",
            Self::Amqp => "amqp",
            Self::AmqpWs => "amqp-ws",
            Self::Https => "https",
        }
    }

    /// Its number in calls between nodes.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Mqtt => 1,
            Self::MqttWs => 2,
            Self::Amqp => 3,
            Self::AmqpWs => 4,
            Self::Https => 5,
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Mqtt,
            2 => Self::MqttWs,
            3 => Self::Amqp,
            4 => Self::AmqpWs,
            5 => Self::Https,
            _ => return None,
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A client's claim to be a device or module, not yet checked.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The device it claims to be.
    pub device: &'a str,
    /// The module it claims to be.
    pub module: Option<&'a str>,
    /// The host name under which it addresses the hub.
    pub host: &'a str,
    /// Its shared access signature.
    pub token: Option<&'a str>,
    /// The model id that it announces (Spec device-mqtt §2.2).
    pub model_id: Option<&'a str>,
    /// How it came.
    pub protocol: Protocol,
    /// Where it came from.
    pub address: SocketAddr,
}

/// A client was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What the client may be told.
    pub code: ErrorCode,
    /// What the operator is told.
    pub reason: RefusalReason,
}

impl Refusal {
    /// The refusal for `reason`, with the number that belongs to it.
    #[must_use]
    pub fn new(reason: RefusalReason) -> Self {
        Self {
            code: reason.code(),
            reason,
        }
    }

    /// Whether the hub is sure. An unsure refusal must not look final to the client: the Python and Node SDKs give up
    /// for ever on a certain one (Spec device-mqtt §2.4).
    #[must_use]
    pub fn is_certain(self) -> bool {
        !matches!(self.reason, RefusalReason::Unconfirmed | RefusalReason::Draining)
    }
}
