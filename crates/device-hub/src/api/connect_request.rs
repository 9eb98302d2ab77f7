//! A client's request to connect, and why it is refused.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use holdfast_model::{CertificateChain, ErrorCode, RefusalReason, TlsParameters};
use holdfast_spans::TraceContext;

/// The protocol of a connection, for metric labels, the audit log and `diagnose`; no rule of the hub depends on it.
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

/// A client's proof of its identity, not yet checked.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// The client sent none.
    None,
    /// A shared access signature.
    SasToken(&'a str),
    /// The certificates of the TLS handshake, which has proved that the client owns the leaf's private key.
    CertificateChain(&'a CertificateChain),
    /// Both. Which one counts depends on the identity.
    Both(&'a str, &'a CertificateChain),
}

impl<'a> Credential<'a> {
    /// The credential of a client that may have sent both. An empty token is none.
    #[must_use]
    pub fn new(token: Option<&'a str>, chain: Option<&'a CertificateChain>) -> Self {
        match (token.filter(|token| !token.is_empty()), chain) {
            (Some(token), Some(chain)) => Self::Both(token, chain),
            (Some(token), None) => Self::SasToken(token),
            (None, Some(chain)) => Self::CertificateChain(chain),
            (None, None) => Self::None,
        }
    }

    pub(crate) fn token(self) -> Option<&'a str> {
        match self {
            Self::SasToken(token) | Self::Both(token, _) => Some(token),
            Self::None | Self::CertificateChain(_) => None,
        }
    }

    pub(crate) fn chain(self) -> Option<&'a CertificateChain> {
        match self {
            Self::CertificateChain(chain) | Self::Both(_, chain) => Some(chain),
            Self::None | Self::SasToken(_) => None,
        }
    }
}

impl fmt::Debug for Credential<'_> {
    /// The kind only: a token is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::SasToken(_) => "SasToken",
            Self::CertificateChain(_) => "CertificateChain",
            Self::Both(..) => "Both",
        })
    }
}

/// A client's request to connect as a device or module, not yet checked.
#[derive(Debug, Clone, Copy)]
pub struct ConnectRequest<'a> {
    /// The requested device.
    pub device: &'a str,
    /// The requested module of it.
    pub module: Option<&'a str>,
    /// The host name by which the client addresses the hub.
    pub host: &'a str,
    /// The proof of its identity.
    pub credential: Credential<'a>,
    /// The model id that it announces (docs/spec/device-mqtt.md §2.2).
    pub model_id: Option<&'a str>,
    /// Its request about the stored session of its identity.
    pub stored_session: StoredSession,
    /// The protocol of its connection.
    pub protocol: Protocol,
    /// Its network address.
    pub address: SocketAddr,
    /// The parameters of its TLS connection.
    pub tls: Option<&'a TlsParameters>,
    /// When its TLS handshake began and was complete, if that is known.
    pub handshake: Option<(Instant, Instant)>,
    /// The recorded span of the connect: the hub sets it.
    pub trace: Option<TraceContext>,
}

/// A new connection's request about the subscriptions that outlive connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredSession {
    /// Its protocol has none: the stored session stays.
    Unused,
    /// To continue with them: MQTT's clean session 0.
    Resume,
    /// To have them removed: clean session 1.
    Discard,
}

/// A refusal, and the exact fault for the operator, where the reason alone is not exact.
#[derive(Debug, Clone)]
pub struct Denied {
    /// The answer to the client.
    pub refusal: Refusal,
    /// The exact fault; not for the client.
    pub detail: Option<Arc<str>>,
    /// Whether it may rest on a stale replica, so that a linearizable read must confirm it (docs/decisions/0022).
    pub needs_confirmation: bool,
}

impl Denied {
    pub(crate) fn with(reason: RefusalReason, detail: &dyn fmt::Display) -> Self {
        Self {
            refusal: Refusal::new(reason),
            detail: Some(detail.to_string().into()),
            needs_confirmation: reason.needs_confirmation(),
        }
    }

    /// The same, where the registered authentication type has led to it.
    pub(crate) fn by_registered_type(self) -> Self {
        Self {
            needs_confirmation: true,
            ..self
        }
    }
}

impl From<RefusalReason> for Denied {
    fn from(reason: RefusalReason) -> Self {
        Self {
            refusal: Refusal::new(reason),
            detail: None,
            needs_confirmation: reason.needs_confirmation(),
        }
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            ..Self::from(refusal.reason)
        }
    }
}

/// A client was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The number that may be sent to the client.
    pub code: ErrorCode,
    /// The exact cause, for the operator.
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

    /// Whether the hub is sure. An uncertain refusal must not look final to the client: the Python and Node SDKs give up
    /// permanently on a certain one (docs/spec/device-mqtt.md §2.4).
    #[must_use]
    pub fn is_certain(self) -> bool {
        !matches!(
            self.reason,
            RefusalReason::Unconfirmed | RefusalReason::Draining | RefusalReason::Throttled | RefusalReason::CrlEnded
        )
    }
}
