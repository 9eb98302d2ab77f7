//! How connections end. MQTT 3.1.1 has no packet for it, so the log, a counter, the audit log and
//! `holdfast device diagnose` give the cause (Spec device-mqtt §3.6).

use holdfast_device_hub::CloseReason;
use holdfast_model::{ErrorCode, RefusalReason};
use holdfast_mqtt::Violation;
use holdfast_net::connection::TransportEnd;

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DisconnectReason {
    /// The client sent DISCONNECT.
    Disconnected,
    /// The client broke a rule.
    Violation(Violation),
    /// No complete CONNECT in time.
    ConnectTimeout,
    /// No packet for 1.5 keep-alives (404104).
    KeepAlive,
    /// The CONNECT was refused; the CONNACK said so.
    Refused,
    /// The hub ends the session.
    Hub(CloseReason),
    /// A fault-injection message of the client requested it.
    Fault,
    /// The client sent more than a rate allows, for longer than it may wait.
    Throttled(ErrorCode),
    /// The driver ends the connection.
    Transport(TransportEnd),
}

impl From<TransportEnd> for DisconnectReason {
    fn from(end: TransportEnd) -> Self {
        match end {
            TransportEnd::Stopping => Self::Hub(CloseReason::Stopping),
            end => Self::Transport(end),
        }
    }
}

impl DisconnectReason {
    /// The word in logs and in the label of the counter.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnect",
            Self::Violation(_) => "violation",
            Self::ConnectTimeout => "connect_timeout",
            Self::KeepAlive => "keep_alive",
            Self::Refused => "refused",
            Self::Fault => "injected_fault",
            Self::Throttled(_) => "throttled",
            Self::Hub(reason) => reason.as_str(),
            Self::Transport(end) => end.label(),
        }
    }

    /// The catalogue number of the log record, where the specification has one.
    pub(super) fn code(self) -> Option<ErrorCode> {
        match self {
            Self::Violation(violation) => Some(violation.code()),
            Self::Throttled(code) => Some(code),
            Self::Transport(TransportEnd::Lost) => Some(ErrorCode::DeviceConnectionClosedRemotely),
            Self::Hub(CloseReason::Stopping) => Some(ErrorCode::ServiceUnavailable),
            reason => reason.refusal().map(RefusalReason::code),
        }
    }

    /// The reason in the audit log and in `holdfast device diagnose`. `None` when the client or the network ended the
    /// connection, when the refused CONNECT has been recorded already, and when the whole node stops.
    pub(super) fn refusal(self) -> Option<RefusalReason> {
        Some(match self {
            Self::Violation(Violation::Login(error)) => error.reason(),
            Self::Violation(_) => RefusalReason::ProtocolViolation,
            Self::ConnectTimeout => RefusalReason::ConnectTimeout,
            Self::KeepAlive => RefusalReason::KeepAlive,
            Self::Hub(CloseReason::TakenOver) => RefusalReason::Superseded,
            Self::Hub(CloseReason::TokenExpired) => RefusalReason::Expired,
            Self::Hub(CloseReason::CertificateExpired) => RefusalReason::CertificateTime,
            Self::Hub(CloseReason::Revoked) => RefusalReason::Revoked,
            Self::Hub(CloseReason::CertificateRevoked) => RefusalReason::CertificateRevoked,
            Self::Hub(CloseReason::Unavailable) => RefusalReason::Unconfirmed,
            Self::Transport(TransportEnd::BrokenTls) => RefusalReason::Tls,
            Self::Transport(TransportEnd::OutputOverflow) => RefusalReason::SlowReader,
            Self::Transport(TransportEnd::Evicted) => RefusalReason::Overload,
            Self::Fault => RefusalReason::InjectedFault,
            Self::Throttled(_) => RefusalReason::Throttled,
            Self::Transport(TransportEnd::Panicked) => RefusalReason::Internal,
            Self::Disconnected
            | Self::Refused
            | Self::Hub(CloseReason::Stopping)
            | Self::Transport(TransportEnd::Lost | TransportEnd::Stopping) => return None,
        })
    }
}
