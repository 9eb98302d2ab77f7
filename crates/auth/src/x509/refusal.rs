//! Why a certificate is refused: a number for the peer, the exact cause for the operator.

use holdfast_model::limits::{MAX_CERTIFICATE_BYTES, MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};
use holdfast_model::{RefusalReason, UnixMillis};
use thiserror::Error;

use super::revocation::{RevocationList, RevokedBy};
use super::shown_time;

/// A refused certificate. The texts are for operators; those parts that a client has chosen are escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateRefusal {
    /// Too many certificates, or too many bytes.
    #[error(
        "the client sent {certificates} certificates with {bytes} bytes, the largest with {largest}; allowed are \
         {MAX_CHAIN_CERTIFICATES} certificates, {MAX_CHAIN_BYTES} bytes in all and {MAX_CERTIFICATE_BYTES} of one"
    )]
    TooLarge {
        /// How many there are.
        certificates: usize,
        /// Their bytes.
        bytes: usize,
        /// Bytes of the largest one.
        largest: usize,
    },
    /// It is not a certificate in DER, or of a version that is not accepted.
    #[error("{which} is no X.509 certificate that can be read: {cause}")]
    Unreadable {
        /// The certificate: the client's own, or an issuer.
        which: &'static str,
        /// The fault.
        cause: String,
    },
    /// Its time has not begun.
    #[error("{which} is not valid before {}; the hub's time is {}", shown_time(*from), shown_time(*now))]
    NotYetValid {
        /// The certificate.
        which: String,
        /// Its `notBefore`.
        from: UnixMillis,
        /// The hub's clock.
        now: UnixMillis,
    },
    /// Its time has ended.
    #[error("{which} ended at {}; the hub's time is {}", shown_time(*at), shown_time(*now))]
    Ended {
        /// The certificate.
        which: String,
        /// Its `notAfter`.
        at: UnixMillis,
        /// The hub's clock.
        now: UnixMillis,
    },
    /// Neither of its digests is registered. Operators search for these names (Spec auth-and-limits §3).
    #[error(
        "the certificate has SHA1Hash {sha1} and SHA2Hash {sha256}; registered are PrimaryThumbprint {primary} and \
         SecondaryThumbprint {}", secondary.as_deref().unwrap_or("(none)")
    )]
    Thumbprint {
        /// SHA-1 of the client's certificate.
        sha1: String,
        /// SHA-256 of it.
        sha256: String,
        /// The registered value.
        primary: String,
        /// The second registered value.
        secondary: Option<String>,
    },
    /// The subject's common name is not the identity's name.
    #[error("the certificate's common name is {found}, and must be exactly \"{expected}\"")]
    CommonName {
        /// What the subject has.
        found: String,
        /// Device id, or device id, `/` and module id.
        expected: String,
    },
    /// A CA's certificate was shown as a device's.
    #[error("the certificate is a CA's (basicConstraints has CA:TRUE); a device needs one of its own")]
    LeafIsCa,
    /// Its key is too short, or of a kind that is not accepted.
    #[error("the key of the certificate is not accepted: {0}")]
    Key(String),
    /// No verified CA of the hub has issued it or one of the issuers that the client sent.
    #[error("no verified CA of the hub is named {issuer}, which has issued the last certificate of the chain")]
    UnknownCa {
        /// The issuer of the last certificate that could be followed.
        issuer: String,
    },
    /// An issuer in the chain may not issue certificates.
    #[error("the issuer {issuer} may not sign certificates: {cause}")]
    Issuer {
        /// Its subject.
        issuer: String,
        /// Why.
        cause: &'static str,
    },
    /// The chain does not prove anything: a signature, a constraint, an algorithm.
    #[error("the chain is not valid: {0}")]
    Chain(String),
    /// A certificate of the path is revoked.
    #[error("{which} is revoked by {by}")]
    Revoked {
        /// The certificate: the client's own, an issuer, or a CA.
        which: String,
        /// What revokes it.
        by: RevokedBy,
    },
    /// The hub has issued it to the device, and has revoked the device's certificates since.
    #[error("the certificate was issued to the device before its certificates were revoked, or before it was deleted")]
    Epoch,
    /// The revocation list of a CA of the path is too old, and the settings demand a current one.
    #[error(
        "the CRL of CA {ca} with number {number} was valid until {}; the hub's time is {}", shown_time(*at), shown_time(*now)
    )]
    CrlEnded {
        /// The hub's name for the CA.
        ca: String,
        /// The list's number.
        number: String,
        /// Its `nextUpdate`.
        at: UnixMillis,
        /// The hub's clock.
        now: UnixMillis,
    },
}

impl CertificateRefusal {
    /// The certificate at position `at` of a path, 0 for the client's own, is revoked.
    #[must_use]
    pub fn revoked_in_path(at: usize, by: RevokedBy) -> Self {
        let which = match at {
            0 => "the client's certificate".to_owned(),
            at => format!("issuer {at} of the chain"),
        };
        Self::Revoked { which, by }
    }

    pub(crate) fn revoked_ca(subject: &str, by: &RevokedBy) -> Self {
        Self::Revoked {
            which: format!("the CA {subject}"),
            by: by.clone(),
        }
    }

    /// `list` is too old at `now`.
    #[must_use]
    pub fn crl_ended(list: &RevocationList, now: UnixMillis) -> Self {
        Self::CrlEnded {
            ca: list.ca.clone(),
            number: list.number.to_string(),
            at: list.next_update,
            now,
        }
    }

    /// The cause for audit log, metrics and diagnosis.
    #[must_use]
    pub const fn reason(&self) -> RefusalReason {
        match self {
            Self::TooLarge { .. } | Self::Unreadable { .. } => RefusalReason::Malformed,
            Self::NotYetValid { .. } | Self::Ended { .. } => RefusalReason::CertificateTime,
            Self::Thumbprint { .. } => RefusalReason::Thumbprint,
            Self::CommonName { .. } => RefusalReason::CommonName,
            Self::Revoked { .. } | Self::Epoch => RefusalReason::CertificateRevoked,
            Self::CrlEnded { .. } => RefusalReason::CrlEnded,
            Self::LeafIsCa | Self::Key(_) | Self::UnknownCa { .. } | Self::Issuer { .. } | Self::Chain(_) => {
                RefusalReason::Chain
            }
        }
    }
}
