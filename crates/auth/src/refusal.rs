//! Why a token is refused: a number for the peer, the exact cause for the operator.

use holdfast_model::{ErrorCode, RefusalReason, UnixMillis};
use thiserror::Error;

use crate::Rights;

/// A refused token. Precedence, the first that applies: missing, malformed, expired, host, scope, unknown policy,
/// signature, right (Spec auth-and-limits §6.1). None repeats the token's signature or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SasRefusal {
    /// There is no token.
    #[error("there is no token")]
    Missing,
    /// The token cannot be read.
    #[error("the token cannot be read: {0}")]
    Malformed(Defect),
    /// `se` plus the tolerance for clock differences has passed.
    #[error("the token expired at {} ms, the hub's time is {} ms", at.0, now.0)]
    Expired {
        /// The token's `se`.
        at: UnixMillis,
        /// The hub's clock.
        now: UnixMillis,
    },
    /// The host in `sr` is not one of the hub's names.
    #[error("the token is for another host")]
    Host,
    /// The path in `sr` does not cover the resource.
    #[error("the token is for another resource")]
    Scope,
    /// `skn` names no policy, or names one where an identity's own key is needed.
    #[error("the token names a policy that does not exist")]
    UnknownPolicy,
    /// The signature fits neither key.
    #[error("the signature fits neither key")]
    Signature,
    /// The policy lacks a right.
    #[error("the policy lacks the right {0}")]
    Right(Rights),
}

/// The reason why a token is unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Defect {
    /// Longer than `limits::MAX_SAS_TOKEN_BYTES`.
    #[error("it is too long")]
    TooLong,
    /// Not two words, or the first is not `SharedAccessSignature`.
    #[error("it is not \"SharedAccessSignature\", a space and the fields")]
    Prefix,
    /// A field without `=`.
    #[error("a field has no =")]
    Field,
    /// More than `limits::MAX_SAS_FIELDS` fields.
    #[error("it has too many fields")]
    TooManyFields,
    /// A field occurs twice.
    #[error("a field occurs twice")]
    Duplicate,
    /// `sr` is missing, empty or not UTF-8 after decoding.
    #[error("the resource (sr) is missing or unreadable")]
    Resource,
    /// `sig` is missing or not the base64 of 32 bytes.
    #[error("the signature (sig) is missing or is not base64 of 32 bytes")]
    Signature,
    /// `se` is missing or not a number.
    #[error("the expiry (se) is missing or is not a number of seconds")]
    Expiry,
    /// `skn` is not UTF-8 after decoding, or too long.
    #[error("the policy name (skn) is unreadable")]
    Policy,
}

impl SasRefusal {
    /// The cause for audit log, metrics and diagnosis.
    #[must_use]
    pub const fn reason(self) -> RefusalReason {
        match self {
            Self::Missing => RefusalReason::Missing,
            Self::Malformed(_) => RefusalReason::Malformed,
            Self::Expired { .. } => RefusalReason::Expired,
            Self::Host => RefusalReason::Host,
            Self::Scope => RefusalReason::Scope,
            Self::UnknownPolicy => RefusalReason::UnknownPolicy,
            Self::Signature => RefusalReason::Signature,
            Self::Right(_) => RefusalReason::Right,
        }
    }

    /// The error number for the peer.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        self.reason().code()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_token_is_401003_and_all_others_are_401002() {
        let expired = SasRefusal::Expired {
            at: UnixMillis(1),
            now: UnixMillis(2),
        };
        assert_eq!(
            (expired.code().number(), expired.reason().as_str()),
            (401_003, "expired")
        );
        for refusal in [
            SasRefusal::Missing,
            SasRefusal::Malformed(Defect::Prefix),
            SasRefusal::Host,
            SasRefusal::Scope,
            SasRefusal::UnknownPolicy,
            SasRefusal::Signature,
            SasRefusal::Right(Rights::SERVICE_CONNECT),
        ] {
            assert_eq!(refusal.code().number(), 401_002);
        }
    }
}
