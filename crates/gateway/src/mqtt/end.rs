//! How connections end: 3.1.1 has no packet for it, so log, counter and audit are where the cause is told
//! (Spec device-mqtt §3.6).

use holdfast_device_hub::CloseReason;
use holdfast_model::ErrorCode;
use holdfast_mqtt::Violation;

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client said DISCONNECT.
    Disconnected,
    /// The client closed without DISCONNECT, or the network did.
    Lost,
    /// The client broke a rule.
    Broken(Violation),
    /// The client broke TLS, or spoke none on a TLS port.
    Tls,
    /// No complete CONNECT in time.
    ConnectTimeout,
    /// Silent for 1.5 keep-alives (404104).
    KeepAlive,
    /// The CONNECT was refused; the CONNACK said so.
    Refused,
    /// Too many connections had not authenticated, and this one had waited longest.
    Evicted,
    /// The client does not read what it is sent.
    OutputOverflow,
    /// The code that serves this connection panicked: a bug; other connections continue.
    Panicked,
    /// The hub ends the session.
    Hub(CloseReason),
}

impl End {
    /// The word in logs and in the label of the counter.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnect",
            Self::Lost => "lost",
            Self::Broken(_) => "violation",
            Self::Tls => "tls",
            Self::ConnectTimeout => "connect_timeout",
            Self::KeepAlive => "keep_alive",
            Self::Refused => "refused",
            Self::Evicted => "evicted",
            Self::OutputOverflow => "output_overflow",
            Self::Panicked => "panic",
            Self::Hub(reason) => reason.as_str(),
        }
    }

    /// The catalogue number of the log record, where the specification has one.
    pub(super) fn code(self) -> Option<ErrorCode> {
        Some(match self {
            Self::Broken(violation) => violation.code(),
            Self::KeepAlive | Self::Lost => ErrorCode::DeviceConnectionClosedRemotely,
            Self::Hub(CloseReason::TakenOver) => ErrorCode::ConnectionForcefullyClosedOnNewConnection,
            Self::Hub(CloseReason::TokenExpired | CloseReason::Revoked) => ErrorCode::IotHubUnauthorized,
            Self::Hub(CloseReason::Unavailable | CloseReason::Stopping) => ErrorCode::ServiceUnavailable,
            _ => return None,
        })
    }
}
