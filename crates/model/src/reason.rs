//! Why a client was refused or its connection ended by the hub: for the audit log, the metrics' label and
//! `holdfast device diagnose`.
//!
//! Why: a peer learns only a number of the catalogue (it must not learn whether an id exists); the operator needs the
//! exact cause. Spec auth-and-limits §6.1 step 10.
//! Not here: the answer to the peer ([`RefusalReason::code`] gives the number; the front ends translate it).

use std::fmt;

use crate::ErrorCode;

/// The exact cause of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefusalReason {
    /// No credential was given.
    Missing,
    /// The credential cannot be read.
    Malformed,
    /// The token is for another host.
    Host,
    /// The token is for another resource.
    Scope,
    /// The token names a policy that the hub does not have.
    UnknownPolicy,
    /// No such device or module.
    UnknownIdentity,
    /// The policy lacks the right that the call needs.
    Right,
    /// The signature fits neither key.
    Signature,
    /// The token has expired.
    Expired,
    /// The bearer token is of another issuer.
    Issuer,
    /// The bearer token is for another audience.
    Audience,
    /// The bearer token is not valid yet.
    NotYet,
    /// The identity is disabled.
    Disabled,
    /// The identity uses another kind of credential.
    AuthType,
    /// The hub's settings forbid this kind of credential.
    SasDisabled,
    /// Client id, username or link address name different identities.
    IdentityMismatch,
    /// The protocol or api-version is not spoken.
    Version,
    /// An identity with certificates came without one.
    NoCertificate,
    /// The certificate's thumbprint is not the registered one.
    Thumbprint,
    /// The certificate's chain ends in no verified CA.
    Chain,
    /// The certificate's common name is not the identity's.
    CommonName,
    /// The certificate is not valid yet or any more.
    CertificateTime,
    /// A certificate of the client's chain is on the deny list, or on the revocation list of its CA.
    CertificateRevoked,
    /// The revocation list of a CA of the client's chain is too old, and the settings demand a current one.
    CrlEnded,
    /// The client's address is not accepted.
    Ip,
    /// The hub could not decide in time; the client may retry.
    Unconfirmed,
    /// The node is being drained; the client reaches another node when it retries.
    Draining,
    /// The client broke a rule of the protocol; the record names packet, rule and section.
    ProtocolViolation,
    /// The client broke TLS, or spoke none on a TLS port.
    Tls,
    /// The client did not complete its CONNECT in time.
    ConnectTimeout,
    /// The client was silent for longer than its keep-alive allows.
    KeepAlive,
    /// Another connection of the same identity took the place.
    Superseded,
    /// The identity was deleted, disabled or given other keys while it was connected.
    Revoked,
    /// The client did not read what the hub sent.
    SlowReader,
    /// Too many connections had not authenticated.
    Overload,
    /// The hub, or the device, has used up a configured rate.
    Throttled,
    /// Wrong credentials came again and again from one source; their answers come later from now on.
    Guessing,
    /// A fault-injection message of the client requested it (docs/spec/fault-injection.md).
    InjectedFault,
    /// The hub failed.
    Internal,
}

impl RefusalReason {
    /// All reasons.
    pub const ALL: &'static [Self] = &[
        Self::Missing,
        Self::Malformed,
        Self::Host,
        Self::Scope,
        Self::UnknownPolicy,
        Self::UnknownIdentity,
        Self::Right,
        Self::Signature,
        Self::Expired,
        Self::Issuer,
        Self::Audience,
        Self::NotYet,
        Self::Disabled,
        Self::AuthType,
        Self::SasDisabled,
        Self::IdentityMismatch,
        Self::Version,
        Self::NoCertificate,
        Self::Thumbprint,
        Self::Chain,
        Self::CommonName,
        Self::CertificateTime,
        Self::CertificateRevoked,
        Self::CrlEnded,
        Self::Ip,
        Self::Unconfirmed,
        Self::Draining,
        Self::ProtocolViolation,
        Self::Tls,
        Self::ConnectTimeout,
        Self::KeepAlive,
        Self::Superseded,
        Self::Revoked,
        Self::SlowReader,
        Self::Overload,
        Self::Throttled,
        Self::Guessing,
        Self::InjectedFault,
        Self::Internal,
    ];

    /// The word in logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Host => "host",
            Self::Scope => "scope",
            Self::UnknownPolicy => "unknown_policy",
            Self::UnknownIdentity => "unknown_identity",
            Self::Right => "right",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::NotYet => "not_yet",
            Self::Disabled => "disabled",
            Self::AuthType => "auth_type",
            Self::SasDisabled => "sas_disabled",
            Self::IdentityMismatch => "identity_mismatch",
            Self::Version => "version",
            Self::NoCertificate => "no_cert",
            Self::Thumbprint => "thumbprint",
            Self::Chain => "chain",
            Self::CommonName => "cn",
            Self::CertificateTime => "cert_time",
            Self::CertificateRevoked => "cert_revoked",
            Self::CrlEnded => "crl_ended",
            Self::Ip => "ip",
            Self::Unconfirmed => "unconfirmed",
            Self::Draining => "draining",
            Self::ProtocolViolation => "protocol_violation",
            Self::Tls => "tls",
            Self::ConnectTimeout => "connect_timeout",
            Self::KeepAlive => "keep_alive",
            Self::Superseded => "superseded",
            Self::Revoked => "revoked",
            Self::SlowReader => "slow_reader",
            Self::Overload => "overload",
            Self::Throttled => "throttled",
            Self::Guessing => "guessing",
            Self::InjectedFault => "injected_fault",
            Self::Internal => "internal",
        }
    }

    /// The number that the peer receives.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Expired
            | Self::NotYet
            | Self::CertificateTime
            | Self::CertificateRevoked
            | Self::Disabled
            | Self::Revoked => ErrorCode::IotHubUnauthorized,
            Self::Version => ErrorCode::InvalidProtocolVersion,
            Self::Unconfirmed | Self::Draining | Self::Overload | Self::InjectedFault | Self::CrlEnded => {
                ErrorCode::ServiceUnavailable
            }
            Self::ProtocolViolation | Self::Tls | Self::ConnectTimeout => ErrorCode::GenericBadRequest,
            Self::KeepAlive | Self::SlowReader => ErrorCode::DeviceConnectionClosedRemotely,
            Self::Throttled => ErrorCode::ThrottlingException,
            Self::Superseded => ErrorCode::ConnectionForcefullyClosedOnNewConnection,
            Self::Internal => ErrorCode::ServerError,
            Self::Missing
            | Self::Malformed
            | Self::Host
            | Self::Scope
            | Self::UnknownPolicy
            | Self::UnknownIdentity
            | Self::Right
            | Self::Signature
            | Self::Issuer
            | Self::Audience
            | Self::AuthType
            | Self::SasDisabled
            | Self::IdentityMismatch
            | Self::NoCertificate
            | Self::Thumbprint
            | Self::Chain
            | Self::CommonName
            | Self::Guessing
            | Self::Ip => ErrorCode::IotHubUnauthorizedAccess,
        }
    }

    /// Whether the refusal may rest on a stale replica, so that a linearizable read must confirm it
    /// (docs/decisions/0022-the-registry-lease.md).
    #[must_use]
    pub const fn needs_confirmation(self) -> bool {
        matches!(
            self,
            Self::UnknownPolicy
                | Self::UnknownIdentity
                | Self::Right
                | Self::Signature
                | Self::Disabled
                | Self::AuthType
                | Self::Thumbprint
                | Self::Chain
                | Self::CommonName
                | Self::CertificateTime
                | Self::CertificateRevoked
                | Self::CrlEnded
        )
    }

    /// Whether a client that guesses gets such refusals: its credential was read and does not open the identity.
    #[must_use]
    pub const fn is_wrong_credential(self) -> bool {
        matches!(
            self,
            Self::Malformed
                | Self::Host
                | Self::Scope
                | Self::UnknownPolicy
                | Self::UnknownIdentity
                | Self::Signature
                | Self::Expired
                | Self::AuthType
                | Self::Thumbprint
                | Self::Chain
                | Self::CommonName
                | Self::CertificateTime
        )
    }

    /// Advice for the operator, as `holdfast device diagnose` prints it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Missing => "the client sent no token and no certificate: check its connection string",
            Self::Malformed => {
                "the client's token cannot be read: it is cut, quoted or built by hand; make one with `holdfast sas-token`"
            }
            Self::Host => {
                "the token was made for another host name: compare HostName of its connection string with the hub's names"
            }
            Self::Scope => {
                "the token was made for another device, module or endpoint: compare its sr with the device id, which is case-sensitive"
            }
            Self::UnknownPolicy => "the token names a shared access policy (skn) that this hub does not have",
            Self::UnknownIdentity => {
                "no such device or module is registered: create it, or look in the audit log for who deleted it"
            }
            Self::Right => {
                "the policy lacks the right, or the principal of the bearer token the role: use one that has it, or assign it"
            }
            Self::Signature => {
                "the key does not fit: the client has an old key, or one of another device; compare with `holdfast device show`"
            }
            Self::Expired => {
                "the token has expired: the device's clock is wrong, or a token that was made by hand is not renewed"
            }
            Self::Issuer => {
                "the bearer token is of another issuer: compare its iss with auth.oidc.issuer, byte for byte"
            }
            Self::Audience => {
                "the bearer token was requested for another audience: compare its aud with auth.oidc.audiences"
            }
            Self::NotYet => "the bearer token is not valid yet: the clock of the hub or of the issuer is wrong",
            Self::Disabled => "the device is disabled: enable it with `holdfast device update --status enabled`",
            Self::AuthType => "the identity is registered for another kind of credential (sas or certificate)",
            Self::SasDisabled => {
                "tokens and keys of shared access policies are switched off (auth.service.shared_policies): use a bearer token, or the device's own key"
            }
            Self::IdentityMismatch => "client id and username, or token and link address, name different identities",
            Self::Version => "the client speaks a protocol or api-version that the hub does not",
            Self::NoCertificate => "the identity is registered with a certificate, and the client showed none",
            Self::Thumbprint => "the certificate is not the registered one: the detail shows the thumbprints of both",
            Self::Chain => {
                "the certificate does not lead to a verified CA of the hub: register the CA, send the intermediates, or see the detail"
            }
            Self::CommonName => "the certificate's common name must equal the device id (module: deviceId/moduleId)",
            Self::CertificateTime => {
                "a certificate is not valid now, or a live session's has ended: renew it, or set the clock that it was made by"
            }
            Self::CertificateRevoked => {
                "a certificate of its chain is revoked: the detail says by what; give the device a new one, or see `holdfast ca revoked`"
            }
            Self::CrlEnded => {
                "the CA's CRL is too old and device_hub.expired_crl is refuse: upload the current one (`holdfast ca crl upload`)"
            }
            Self::Ip => "no IP filter rule accepts the client's address",
            Self::Unconfirmed => "the hub had no quorum or too many checks at once; the client may retry",
            Self::Draining => "this node is being drained: the client reaches another node when it retries",
            Self::ProtocolViolation => {
                "the client broke a rule of the protocol: see the detail, and docs/spec for the section that it names"
            }
            Self::Tls => "the TLS handshake failed: check the client's CA certificate, TLS version and port",
            Self::ConnectTimeout => "the client opened a connection and did not send a complete CONNECT in time",
            Self::KeepAlive => {
                "the client was silent: it hangs, sleeps or has lost its network; or its keep-alive is shorter than its ping interval"
            }
            Self::Superseded => {
                "two clients use this identity, or the client reconnected while the hub still had its old connection"
            }
            Self::Revoked => "the identity was changed: look in the audit log for its author",
            Self::SlowReader => "the client does not read: it hangs, or its network is too slow",
            Self::Overload => {
                "too many clients connect without authenticating: raise mqtt.max_unauthenticated, or find them"
            }
            Self::Throttled => {
                "a rate of section [throttles] is used up: the log names it; raise it, or find the clients that use it up"
            }
            Self::Guessing => {
                "wrong credentials come again and again from this address: a client with an old credential, or one that guesses; the right credential is not delayed"
            }
            Self::InjectedFault => {
                "a fault-injection message of this client requested it: the hub runs with mqtt.fault_injection"
            }
            Self::Internal => "the hub failed; its log has the cause",
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own_and_advice() {
        let words: BTreeSet<_> = RefusalReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), RefusalReason::ALL.len());
        for reason in RefusalReason::ALL {
            assert!(reason.advice().len() > 20, "{reason}");
            assert!(
                reason.code().is_sent(),
                "{reason} answers with a number without help texts"
            );
        }
    }

    #[test]
    fn errors_in_the_token_itself_are_refused_without_asking_the_leader() {
        for reason in [
            RefusalReason::Malformed,
            RefusalReason::Expired,
            RefusalReason::Host,
            RefusalReason::Scope,
        ] {
            assert!(!reason.needs_confirmation());
        }
        assert!(RefusalReason::Signature.needs_confirmation() && RefusalReason::UnknownIdentity.needs_confirmation());
    }
}
