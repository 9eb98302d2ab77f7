//! Why a bearer token is refused: a number for the peer, the exact cause for the operator.

use holdfast_model::{ErrorCode, RefusalReason, UnixMillis};
use thiserror::Error;

/// A refused bearer token. Precedence, the first that applies, in the order of the variants. None repeats the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BearerRefusal {
    /// The hub has no issuer.
    #[error("this hub accepts no bearer tokens: no issuer is configured (auth.oidc.issuer)")]
    NoIssuer,
    /// The token cannot be read.
    #[error("the bearer token cannot be read: {0}")]
    Malformed(BearerDefect),
    /// `alg` is not one that the hub accepts.
    #[error("the bearer token is signed with an algorithm that the hub does not accept (auth.oidc.algorithms)")]
    Algorithm,
    /// `iss` is not the hub's issuer.
    #[error("the bearer token is of another issuer than the hub's (auth.oidc.issuer)")]
    Issuer,
    /// `aud` has no audience of the hub.
    #[error("the bearer token is for another audience (auth.oidc.audiences)")]
    Audience,
    /// `exp` plus the tolerance for clock differences has passed.
    #[error("the bearer token expired at {} ms, the hub's time is {} ms", at.0, now.0)]
    Expired {
        /// The token's `exp`.
        at: UnixMillis,
        /// The hub's clock.
        now: UnixMillis,
    },
    /// `nbf` minus the tolerance for clock differences has not come.
    #[error("the bearer token is good from {} ms on, the hub's time is {} ms", at.0, now.0)]
    NotYet {
        /// The token's `nbf`.
        at: UnixMillis,
        /// The hub's clock.
        now: UnixMillis,
    },
    /// The issuer's keys have never been read.
    #[error("the hub has not read the keys of the issuer yet; retry, or see its log")]
    NoKeys,
    /// The issuer has no key with this `kid` that fits the algorithm.
    #[error("the issuer has no key with which the bearer token can be checked")]
    UnknownKey,
    /// The signature does not fit the key.
    #[error("the signature of the bearer token does not fit the issuer's key")]
    Signature,
}

/// The reason why a bearer token is unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BearerDefect {
    /// Longer than `limits::MAX_BEARER_TOKEN_BYTES`.
    #[error("it is too long")]
    TooLong,
    /// Not three parts of base64 with dots between them; an encrypted token has five.
    #[error("it is not three parts with dots between them")]
    Parts,
    /// A part is not base64 for URLs without padding.
    #[error("a part is not base64 for URLs")]
    Base64,
    /// A part is not a JSON object, or one with a duplicate key, or nests too deep.
    #[error("a part is not a JSON object with different names")]
    Json,
    /// The header asks for something that has to be understood and is not: `crit`, `enc`, `zip`, a nested token, another `typ`.
    #[error("its header asks for something that this hub does not do")]
    Header,
    /// A registered claim is missing or has the wrong type.
    #[error("iss, aud, exp, nbf or sub is missing or has the wrong type")]
    Claim,
}

impl BearerRefusal {
    /// The cause for audit log, metrics and diagnosis.
    #[must_use]
    pub const fn reason(self) -> RefusalReason {
        match self {
            Self::NoIssuer => RefusalReason::AuthType,
            Self::Malformed(_) => RefusalReason::Malformed,
            Self::Algorithm | Self::UnknownKey | Self::Signature => RefusalReason::Signature,
            Self::Issuer => RefusalReason::Issuer,
            Self::Audience => RefusalReason::Audience,
            Self::Expired { .. } => RefusalReason::Expired,
            Self::NotYet { .. } => RefusalReason::NotYet,
            Self::NoKeys => RefusalReason::Unconfirmed,
        }
    }

    /// The error number for the peer.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        self.reason().code()
    }

    /// Whether newer keys of the issuer could accept the token.
    #[must_use]
    pub const fn needs_newer_keys(self) -> bool {
        matches!(self, Self::NoKeys | Self::UnknownKey)
    }
}
