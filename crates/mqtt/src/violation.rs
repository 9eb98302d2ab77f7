//! Every way in which a peer can break the rules of MQTT or of the hub, one variant each.
//!
//! Why: the MQTT 3.1.1 server has one answer to all of them, closing the connection, so the log, the counter and
//! `holdfast device diagnose` are the only places that can show the cause. Wire facts: Spec device-mqtt §10.1, §2.4.
//! Invariants: `Copy` and small; no text of the peer inside (the caller still has the packet, and may log it).
//! Not here: refusals of a valid request (wrong key, disabled device): `auth`, `gateway`.

use holdfast_model::ErrorCode;
use thiserror::Error;

use crate::login_error::LoginError;
use crate::packet_type::PacketType;

/// A rule that the peer broke; the connection ends, after [`crate::codec::refusal`] where that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    // Framing.
    /// The fixed header names a type that the version does not have.
    #[error("the packet type {0} does not exist")]
    UnknownPacketType(u8),
    /// The low four bits of the first byte are not those that the type requires.
    #[error("the fixed header of {0} has forbidden flags")]
    HeaderFlags(PacketType),
    /// The remaining length continues after four bytes.
    #[error("the remaining length is longer than four bytes")]
    RemainingLength,
    /// The packet is larger than the limit; decided on its fixed header.
    #[error("the packet announces {remaining} bytes; the limit is {limit}")]
    PacketTooLarge {
        /// Bytes after the fixed header, as announced.
        remaining: u32,
        /// The most that is accepted.
        limit: u32,
    },
    /// A field runs past the end of its packet.
    #[error("a field runs past the end of its packet")]
    Truncated,
    /// The packet has bytes after its last field.
    #[error("the packet has bytes after its last field")]
    TrailingBytes,
    /// A packet that needs a packet id carries 0.
    #[error("the packet id is 0")]
    PacketIdZero,
    /// A text field is not UTF-8.
    #[error("a text field is not valid UTF-8")]
    InvalidUtf8,
    /// A text field contains the character U+0000.
    #[error("a text field contains NUL")]
    Nul,

    // CONNECT.
    /// The protocol name is neither `MQTT` nor `MQIsdp`.
    #[error("the protocol name is not MQTT")]
    ProtocolName,
    /// The protocol level is not one that the hub speaks.
    #[error("the protocol level {0:#04x} is not supported; the hub speaks MQTT 3.1.1 (level 4)")]
    ProtocolLevel(u8),
    /// MQTT 5, which the hub does not speak.
    #[error("MQTT 5 is not enabled; the hub speaks MQTT 3.1.1")]
    Mqtt5Disabled,
    /// The reserved bit of the connect flags is set.
    #[error("the reserved connect flag is set")]
    ConnectFlags,
    /// Will QoS or Will Retain is set without the Will flag.
    #[error("will QoS or retain is set without a will")]
    WillFlags,
    /// The will asks for QoS 3 (no such thing) or QoS 2 (Spec §3.5).
    #[error("the will has QoS {0}; 0 and 1 are allowed")]
    WillQos(u8),
    /// The will's topic is not the client's own telemetry topic (Spec §3.5).
    #[error("the will's topic is not the device's own telemetry topic")]
    WillTopic,
    /// MQTT 3.1.1 has no password without a user name.
    #[error("a password is sent without a user name")]
    PasswordWithoutUsername,
    /// The user name or client id does not name an identity of a hub.
    #[error("{0}")]
    Login(LoginError),

    // Other packets.
    /// A PUBLISH has QoS 3.
    #[error("a PUBLISH has QoS 3")]
    PublishQos,
    /// A PUBLISH at QoS 0 has the DUP flag.
    #[error("a PUBLISH at QoS 0 has the DUP flag")]
    PublishDup,
    /// The topic of a PUBLISH is empty.
    #[error("the topic is empty")]
    EmptyTopic,
    /// A SUBSCRIBE or UNSUBSCRIBE has no filter.
    #[error("a {0} has no topic filter")]
    NoFilters(PacketType),
    /// A topic filter is empty.
    #[error("a topic filter is empty")]
    EmptyFilter,
    /// The options byte of a filter has QoS 3 or a reserved bit.
    #[error("the subscription options {0:#04x} are not valid")]
    SubscribeOptions(u8),
    /// A return code that the packet type does not have.
    #[error("the {0} has the unknown code {1:#04x}")]
    ReasonCode(PacketType, u8),
    /// The acknowledge flags of a CONNACK have a reserved bit, or claim a session for a refused connection.
    #[error("the acknowledge flags of the CONNACK are not valid")]
    ConnAckFlags,

    // Order and direction of packets.
    /// The first packet of a connection is not CONNECT.
    #[error("the first packet is not CONNECT")]
    FirstPacketNotConnect,
    /// A second CONNECT on one connection.
    #[error("a second CONNECT on one connection")]
    SecondConnect,
    /// A packet that only the other side may send.
    #[error("the peer may not send {0}")]
    WrongDirection(PacketType),
    /// A PUBLISH at QoS 2, or a packet of the QoS 2 exchange (Spec §5.3).
    #[error("QoS 2 is not supported")]
    QosTwo,

    // Topics.
    /// A publish topic contains `+` or `#` outside the device's own id and the property bag.
    #[error("a publish topic contains a wildcard")]
    WildcardInTopic,
    /// A publish topic of another identity, or one that the hub does not know.
    #[error("the publish topic does not exist or belongs to another identity")]
    ForeignTopic,
    /// A topic filter that the identity has no channel for (Spec §4.1).
    #[error("the topic filter matches no channel of this identity")]
    ForeignFilter,
    /// More filters in one SUBSCRIBE than a connection may have.
    #[error("a SUBSCRIBE has more than 50 topic filters")]
    TooManyFilters,
    /// A request topic has no `?$rid=`.
    #[error("the request topic has no $rid")]
    RequestIdMissing,
    /// A `$rid` longer than 256 bytes.
    #[error("the $rid is longer than 256 bytes")]
    RequestIdTooLong,
    /// `$version` is not a decimal number.
    #[error("the $version is not a number")]
    VersionNumber,
    /// The status of a method response is not a signed 32-bit integer.
    #[error("the status of a method response is not a 32-bit integer")]
    MethodStatus,

    // Messages.
    /// The property bag is not UTF-8 after percent-decoding.
    #[error("the property bag is not valid UTF-8 after decoding")]
    BagUtf8,
    /// The message id has more than 128 characters.
    #[error("the message id is longer than 128 characters")]
    MessageIdTooLong,
    /// The bag has more application properties than a message may have.
    #[error("the message has more than 256 application properties")]
    TooManyProperties,
    /// Payload and properties together are larger than a message may be.
    #[error("the message has {0} bytes with its properties; the limit is 262144")]
    MessageTooLarge(u32),
}

impl Violation {
    /// The catalogue number under which the refusal is logged (Spec auth-and-limits §8.2).
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::PacketTooLarge { .. } | Self::MessageTooLarge(_) => ErrorCode::MessageTooLarge,
            Self::ProtocolLevel(_) | Self::Mqtt5Disabled => ErrorCode::InvalidProtocolVersion,
            Self::Login(error) => error.code(),
            Self::ForeignTopic | Self::ForeignFilter | Self::WillTopic => ErrorCode::IotHubUnauthorizedAccess,
            Self::QosTwo
            | Self::WillQos(_)
            | Self::TooManyFilters
            | Self::WildcardInTopic
            | Self::FirstPacketNotConnect
            | Self::SecondConnect
            | Self::WrongDirection(_) => ErrorCode::InvalidOperation,
            Self::RequestIdMissing
            | Self::RequestIdTooLong
            | Self::VersionNumber
            | Self::MethodStatus
            | Self::BagUtf8
            | Self::MessageIdTooLong
            | Self::TooManyProperties => ErrorCode::ArgumentInvalid,
            _ => ErrorCode::GenericBadRequest,
        }
    }

    /// Where the specification has the rule: a section of `docs/spec/`.
    #[must_use]
    pub const fn section(self) -> &'static str {
        match self {
            Self::ProtocolLevel(_) | Self::Mqtt5Disabled => "device-mqtt §2.4",
            Self::ProtocolName | Self::ConnectFlags | Self::WillFlags | Self::PasswordWithoutUsername => {
                "device-mqtt §2.1"
            }
            Self::WillQos(_) | Self::WillTopic => "device-mqtt §3.5",
            Self::Login(LoginError::ClientIdEmpty | LoginError::ClientIdMismatch) => "device-mqtt §2.1",
            Self::Login(_) => "device-mqtt §2.2",
            Self::ForeignFilter | Self::TooManyFilters | Self::NoFilters(_) | Self::EmptyFilter => "device-mqtt §4.1",
            Self::WildcardInTopic | Self::ForeignTopic | Self::EmptyTopic => "device-mqtt §5.1",
            Self::BagUtf8 | Self::MessageIdTooLong | Self::TooManyProperties => "device-mqtt §5.2",
            Self::QosTwo
            | Self::PublishQos
            | Self::PublishDup
            | Self::PacketTooLarge { .. }
            | Self::MessageTooLarge(_) => "device-mqtt §5.3",
            Self::RequestIdMissing | Self::RequestIdTooLong | Self::VersionNumber => "device-mqtt §7.1",
            Self::MethodStatus => "device-mqtt §8",
            Self::UnknownPacketType(_)
            | Self::HeaderFlags(_)
            | Self::RemainingLength
            | Self::Truncated
            | Self::TrailingBytes
            | Self::PacketIdZero
            | Self::InvalidUtf8
            | Self::Nul
            | Self::SubscribeOptions(_)
            | Self::ReasonCode(..)
            | Self::ConnAckFlags
            | Self::FirstPacketNotConnect
            | Self::SecondConnect
            | Self::WrongDirection(_) => "device-mqtt §10.1",
        }
    }

    /// A short name for the label of a counter: one of a fixed set, never text of the peer.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownPacketType(_) => "packet_type",
            Self::HeaderFlags(_) => "header_flags",
            Self::RemainingLength => "remaining_length",
            Self::PacketTooLarge { .. } => "packet_too_large",
            Self::Truncated => "truncated",
            Self::TrailingBytes => "trailing_bytes",
            Self::PacketIdZero => "packet_id_zero",
            Self::InvalidUtf8 => "utf8",
            Self::Nul => "nul",
            Self::ProtocolName => "protocol_name",
            Self::ProtocolLevel(_) => "protocol_level",
            Self::Mqtt5Disabled => "mqtt5_disabled",
            Self::ConnectFlags => "connect_flags",
            Self::WillFlags => "will_flags",
            Self::WillQos(_) => "will_qos",
            Self::WillTopic => "will_topic",
            Self::PasswordWithoutUsername => "password_without_username",
            Self::Login(error) => error.label(),
            Self::PublishQos => "publish_qos",
            Self::PublishDup => "publish_dup",
            Self::EmptyTopic => "empty_topic",
            Self::NoFilters(_) => "no_filters",
            Self::EmptyFilter => "empty_filter",
            Self::SubscribeOptions(_) => "subscribe_options",
            Self::ReasonCode(..) => "reason_code",
            Self::ConnAckFlags => "connack_flags",
            Self::FirstPacketNotConnect => "first_packet_not_connect",
            Self::SecondConnect => "second_connect",
            Self::WrongDirection(_) => "wrong_direction",
            Self::QosTwo => "qos_two",
            Self::WildcardInTopic => "wildcard_in_topic",
            Self::ForeignTopic => "foreign_topic",
            Self::ForeignFilter => "foreign_filter",
            Self::TooManyFilters => "too_many_filters",
            Self::RequestIdMissing => "rid_missing",
            Self::RequestIdTooLong => "rid_too_long",
            Self::VersionNumber => "version_number",
            Self::MethodStatus => "method_status",
            Self::BagUtf8 => "bag_utf8",
            Self::MessageIdTooLong => "message_id_too_long",
            Self::TooManyProperties => "too_many_properties",
            Self::MessageTooLarge(_) => "message_too_large",
        }
    }
}
