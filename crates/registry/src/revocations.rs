//! Revoked certificates as the rest of the node sees them: the deny list, and the CAs' revocation lists.
//!
//! Not here: look-ups (`auth::x509`), the rules of a change (`state::revocations`).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXUPPER;
use holdfast_auth::x509::{CrlNumber, Denied, IssuerId, RevocationList, Revocations, Serial};
use holdfast_model::{ErrorCode, UnixMillis};
use holdfast_proto::registry::v1 as proto;

use crate::state::Rejection;

/// Longest comment of an entry, in bytes.
const MAX_COMMENT_BYTES: usize = 256;

/// The reasons of RFC 5280 §5.3.1 that revoke a certificate.
pub const REVOCATION_REASONS: [&str; 9] = [
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "certificateHold",
    "privilegeWithdrawn",
    "aACompromise",
];

/// A certificate, as the deny list names it. As text: the digest, or the digest of the issuer, a hyphen and the serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokedCertificate {
    /// By the SHA-256 of its DER form.
    Digest([u8; 32]),
    /// By its issuer and its serial number.
    Issued(IssuerId, Serial),
}

impl RevokedCertificate {
    /// From its text, in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digest = |text: &str| -> Option<[u8; 32]> {
            let bytes = HEXUPPER.decode(text.to_ascii_uppercase().as_bytes()).ok()?;
            bytes.try_into().ok()
        };
        match text.split_once('-') {
            None => Some(Self::Digest(digest(text)?)),
            Some((issuer, serial)) => Some(Self::Issued(IssuerId(digest(issuer)?), Serial::parse(serial)?)),
        }
    }

    pub(crate) fn record(self) -> proto::RevokedCertificate {
        match self {
            Self::Digest(sha256) => proto::RevokedCertificate {
                sha256: Bytes::copy_from_slice(&sha256),
                ..proto::RevokedCertificate::default()
            },
            Self::Issued(issuer, serial) => proto::RevokedCertificate {
                issuer: Bytes::copy_from_slice(&issuer.0),
                serial: Bytes::copy_from_slice(serial.as_bytes()),
                ..proto::RevokedCertificate::default()
            },
        }
    }

    fn read(record: &proto::RevokedCertificate) -> Option<Self> {
        if record.sha256.is_empty() {
            let issuer = IssuerId(record.issuer[..].try_into().ok()?);
            return Some(Self::Issued(issuer, Serial::from_bytes(&record.serial)?));
        }
        Some(Self::Digest(record.sha256[..].try_into().ok()?))
    }
}

impl fmt::Display for RevokedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(sha256) => f.write_str(&HEXUPPER.encode(sha256)),
            Self::Issued(issuer, serial) => write!(f, "{}-{serial}", HEXUPPER.encode(&issuer.0)),
        }
    }
}

/// An entry of the deny list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedCertificate {
    /// The certificate.
    pub certificate: RevokedCertificate,
    /// One of [`REVOCATION_REASONS`].
    pub reason: String,
    /// For people.
    pub comment: Option<String>,
    /// The name that the issuer had as a CA of the hub, if the entry names an issuer.
    pub ca: Option<String>,
    /// When it was revoked.
    pub at: UnixMillis,
}

impl DeniedCertificate {
    /// `None`, with an error in the log, for a record that this version cannot read.
    pub(crate) fn read(record: proto::RevocationRecord) -> Option<Self> {
        let certificate = record.certificate.as_ref().and_then(RevokedCertificate::read);
        if certificate.is_none() {
            tracing::error!("an entry of the deny list cannot be read; it revokes nothing");
        }
        let some = |text: String| (!text.is_empty()).then_some(text);
        Some(Self {
            certificate: certificate?,
            reason: record.reason,
            comment: some(record.comment),
            ca: some(record.ca),
            at: UnixMillis(record.revoked_ms),
        })
    }

    pub(crate) fn add_to(&self, revocations: &mut Revocations) {
        let denied = Denied {
            reason: self.reason.clone(),
            at: self.at,
        };
        match self.certificate {
            RevokedCertificate::Digest(sha256) => revocations.deny_certificate(sha256, denied),
            RevokedCertificate::Issued(issuer, serial) => revocations.deny_serial(issuer, serial, denied),
        }
    }
}

/// The revocation list of a CA.
#[derive(Debug, Clone)]
pub struct CaCrl {
    /// What it revokes.
    pub list: Arc<RevocationList>,
    /// SHA-256 of its DER form.
    pub sha256: Bytes,
    /// Where it was fetched from; `None`: it was uploaded.
    pub source: Option<String>,
    /// When the hub got it.
    pub updated: UnixMillis,
}

impl CaCrl {
    /// The list of `record`, with the serial numbers that `serials` reads; `earlier` is used if it is the same one.
    pub(crate) fn read<E>(
        record: proto::CrlRecord,
        earlier: Option<&Self>,
        serials: impl FnOnce(&proto::CrlRecord) -> Result<Bytes, E>,
    ) -> Result<Option<Self>, E> {
        let Ok(issuer) = <[u8; 32]>::try_from(&record.issuer[..]) else {
            tracing::error!(ca = record.ca, "a stored CRL cannot be read; it revokes nothing");
            return Ok(None);
        };
        let issuer = IssuerId(issuer);
        let earlier = earlier.filter(|earlier| {
            earlier.sha256 == record.sha256 && earlier.list.issuer == issuer && earlier.list.ca == record.ca
        });
        let list = match earlier {
            Some(earlier) => Arc::clone(&earlier.list),
            None => Arc::new(RevocationList {
                issuer,
                number: CrlNumber::of(&record.number),
                this_update: UnixMillis(record.this_update_ms),
                next_update: UnixMillis(record.next_update_ms),
                serials: serials(&record)?,
                ca: record.ca,
            }),
        };
        Ok(Some(Self {
            list,
            sha256: record.sha256,
            source: (!record.source.is_empty()).then_some(record.source),
            updated: UnixMillis(record.updated_ms),
        }))
    }
}

pub(crate) fn check_reason(reason: &str, comment: Option<&str>) -> Result<(), Rejection> {
    if !REVOCATION_REASONS.contains(&reason) {
        let text = format!("the reason of a revocation is one of {}", REVOCATION_REASONS.join(", "));
        return Err(Rejection::new(ErrorCode::ArgumentInvalid, text));
    }
    if comment.is_some_and(|comment| comment.len() > MAX_COMMENT_BYTES || comment.contains(char::is_control)) {
        let text = format!("a comment has at most {MAX_COMMENT_BYTES} bytes, and no control characters");
        return Err(Rejection::new(ErrorCode::ArgumentInvalid, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_written_as_it_is_read() {
        let digest = "AB".repeat(32);
        for text in [digest.clone(), format!("{digest}-0102FF"), format!("{digest}-00")] {
            let read = RevokedCertificate::parse(&text.to_ascii_lowercase()).unwrap();
            assert_eq!(read.to_string(), text);
            assert_eq!(RevokedCertificate::read(&read.record()), Some(read));
        }
        for text in [
            "",
            "AB",
            "-01",
            &format!("{digest}-"),
            &format!("{digest}-x"),
            &format!("{digest}00"),
        ] {
            assert_eq!(RevokedCertificate::parse(text), None, "{text}");
        }
    }
}
