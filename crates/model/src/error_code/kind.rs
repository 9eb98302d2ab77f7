//! The answer to a class of errors on each protocol: the one table that front ends translate with (Spec auth-and-limits §8.3, device-mqtt §2.4, amqp §9).

/// A class of errors that every protocol answers alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A request that is wrong in itself.
    Argument,
    /// A value outside its range.
    Range,
    /// A request that is legal but not possible here or now.
    Operation,
    /// A version of a protocol or API that is not spoken.
    Version,
    /// A content type or feature that is not spoken.
    Unsupported,
    /// Credentials that do not suffice.
    Credentials,
    /// A host name that is no hub here.
    HubUnknown,
    /// A hub that is switched off.
    Suspended,
    /// A device has used up its quota.
    Quota,
    /// A back end has used up its quota.
    ServiceQuota,
    /// The subject of the request does not exist.
    NotFound,
    /// Another connection or link took the place.
    Taken,
    /// The subject to be created exists already.
    Exists,
    /// A condition of the request (ETag) does not hold.
    Precondition,
    /// The lock on a message is gone.
    LockLost,
    /// A message or document is over its size.
    TooLarge,
    /// A list has too many members, or the hub holds too many of them.
    TooMany,
    /// Too many requests for now.
    Throttled,
    /// The connection is gone; only logs see it.
    ConnectionLost,
    /// A device that does not answer now.
    Offline,
    /// The hub failed.
    Internal,
    /// The hub cannot serve it now: overload, failover, restart.
    Busy,
    /// No answer in time; the outcome is unknown.
    Timeout,
}

/// The answer on an MQTT connection; after CONNACK, MQTT 3.1.1 can only close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttAnswer {
    /// CONNACK 1.
    RefuseVersion,
    /// CONNACK 3, or the connection drops; a live one is closed.
    Unavailable,
    /// CONNACK 5, only when the refusal is certain; a live connection is closed.
    NotAuthorized,
    /// The connection is closed.
    Close,
    /// The acknowledgement is withheld, then the connection is closed.
    Throttle,
    /// The status of a twin or method reply, else the connection is closed.
    Status,
    /// Never seen by an MQTT client.
    Never,
}

impl MqttAnswer {
    /// As in the catalogue page.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::RefuseVersion => "CONNACK 1",
            Self::Unavailable => "CONNACK 3; live: closed",
            Self::NotAuthorized => "CONNACK 5; live: closed",
            Self::Close => "closed",
            Self::Throttle => "PUBACK withheld, then closed",
            Self::Status => "status of the reply, else closed",
            Self::Never => "not on MQTT",
        }
    }
}

impl ErrorKind {
    /// The condition of an AMQP error of this class.
    #[must_use]
    pub const fn amqp_condition(self) -> &'static str {
        match self {
            Self::Argument => "com.microsoft:argument-error",
            Self::Range => "com.microsoft:argument-out-of-range",
            Self::Operation => "amqp:not-allowed",
            Self::Version | Self::Unsupported => "amqp:not-implemented",
            Self::Credentials => "amqp:unauthorized-access",
            Self::HubUnknown => "com.microsoft:iot-hub-not-found-error",
            Self::Suspended => "com.microsoft:iot-hub-suspended",
            Self::Quota | Self::TooMany => "amqp:resource-limit-exceeded",
            Self::ServiceQuota => "com.microsoft:quota-exceeded",
            Self::NotFound | Self::Offline => "amqp:not-found",
            Self::Taken => "com.microsoft:link-creation-conflict",
            Self::Exists => "com.microsoft:device-already-exists",
            Self::Precondition => "com.microsoft:precondition-failed",
            Self::LockLost => "com.microsoft:message-lock-lost",
            Self::TooLarge => "amqp:link:message-size-exceeded",
            Self::Throttled => "com.microsoft:device-container-throttled",
            Self::ConnectionLost => "amqp:connection:forced",
            Self::Internal => "amqp:internal-error",
            Self::Busy => "amqp:link:detach-forced",
            Self::Timeout => "com.microsoft:timeout",
        }
    }

    /// The answer on an MQTT connection.
    #[must_use]
    pub const fn mqtt(self) -> MqttAnswer {
        match self {
            Self::Version => MqttAnswer::RefuseVersion,
            Self::Suspended | Self::Busy | Self::Timeout => MqttAnswer::Unavailable,
            Self::Credentials | Self::HubUnknown => MqttAnswer::NotAuthorized,
            Self::Operation | Self::Taken | Self::Quota | Self::ConnectionLost => MqttAnswer::Close,
            Self::Throttled => MqttAnswer::Throttle,
            Self::Argument | Self::Range | Self::NotFound | Self::Precondition | Self::TooLarge | Self::Internal => {
                MqttAnswer::Status
            }
            Self::Unsupported | Self::ServiceQuota | Self::Exists | Self::LockLost | Self::TooMany | Self::Offline => {
                MqttAnswer::Never
            }
        }
    }

    /// Whether the same request may succeed later without any change.
    #[must_use]
    pub const fn retriable(self) -> bool {
        matches!(
            self,
            Self::Throttled
                | Self::Busy
                | Self::Timeout
                | Self::Internal
                | Self::Offline
                | Self::Taken
                | Self::ConnectionLost
                | Self::Quota
                | Self::ServiceQuota
        )
    }
}
