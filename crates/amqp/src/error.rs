//! Errors in a peer's bytes, and reasons why a send is not possible.

use thiserror::Error;

/// Bytes that are no AMQP value, performative or message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The value extends past the end of its enclosing value.
    #[error("the value is cut short")]
    Truncated,
    /// No type has this constructor.
    #[error("unknown constructor 0x{0:02x}")]
    UnknownConstructor(u8),
    /// Values nest deeper than [`crate::limits::MAX_NESTING`].
    #[error("values nest too deep")]
    TooDeep,
    /// A string or symbol is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A value has another type than its place demands.
    #[error("{0} has a wrong type")]
    WrongType(&'static str),
    /// A mandatory field is null or absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A list, map or array claims a count that its bytes cannot hold.
    #[error("a compound value has an impossible count")]
    BadCount,
}

/// A broken rule of the protocol by the peer; the connection cannot continue.
///
/// When [`crate::Connection::receive`] returns one, a `close` with [`Violation::condition`] is already in the output:
/// write it and shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    /// The first bytes are no AMQP 1.0 protocol header; ours has been put into the output.
    #[error("the peer does not start with an AMQP 1.0 protocol header")]
    ProtocolHeader,
    /// A frame is larger than we allow.
    #[error("a frame of {0} bytes exceeds the limit")]
    FrameTooLarge(u32),
    /// A frame's header is impossible.
    #[error("a frame has a malformed header")]
    FrameHeader,
    /// A frame's body cannot be decoded.
    #[error("a frame cannot be decoded")]
    Decode(#[from] DecodeError),
    /// A frame that makes no sense in this phase of the connection.
    #[error("unexpected {0} frame")]
    UnexpectedFrame(&'static str),
    /// A frame for a channel that was never begun.
    #[error("a frame came on channel {0}, which was never begun")]
    UnknownChannel(u16),
    /// A begin on a channel that is in use or above the maximum, or an answer to a session that we never began.
    #[error("channel {0} cannot be begun")]
    BadChannel(u16),
    /// More sessions, links or unfinished deliveries than allowed.
    #[error("too many {0}")]
    ResourceLimit(&'static str),
    /// The server offers none of the mechanisms that we can use.
    #[error("the server does not offer the SASL mechanism")]
    NoMechanism,
}

impl Violation {
    /// The error condition that tells the peer.
    #[must_use]
    pub fn condition(&self) -> &'static str {
        match self {
            Self::ProtocolHeader | Self::FrameTooLarge(_) | Self::FrameHeader => "amqp:connection:framing-error",
            Self::Decode(_) => "amqp:decode-error",
            Self::UnexpectedFrame(_) | Self::UnknownChannel(_) | Self::BadChannel(_) | Self::NoMechanism => {
                "amqp:not-allowed"
            }
            Self::ResourceLimit(_) => "amqp:resource-limit-exceeded",
        }
    }
}

/// Why a delivery was not sent; nothing has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// The link is detached, or is no sending link.
    #[error("the link is gone")]
    Gone,
    /// The receiver has granted no credit.
    #[error("the link has no credit")]
    NoCredit,
    /// The session's window is used up.
    #[error("the session's window is closed")]
    WindowClosed,
    /// Too many deliveries of this link wait for their outcome.
    #[error("too many deliveries are unsettled")]
    TooManyUnsettled,
    /// The message is larger than the peer takes.
    #[error("the message exceeds the peer's max-message-size")]
    TooLarge,
}
