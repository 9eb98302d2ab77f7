//! Certificates of devices and modules: thumbprints, and chains to the hub's CAs.
//!
//! Why: a device proves in the TLS handshake that it owns a key; whether the certificate of that key is the identity's is
//! decided here, alike for every protocol (Spec auth-and-limits §3, §6.1).
//! Invariants: pure, without a clock; sizes are checked before anything is parsed, and names, dates and usage before any
//! signature; the work is bounded by the number of certificates, of which a chain has at most
//! [`MAX_CHAIN_CERTIFICATES`](holdfast_model::limits::MAX_CHAIN_CERTIFICATES); text of a certificate leaves escaped and cut.
//! Not here: the proof of possession (`net`), which identities and CAs there are (`registry`).

mod authority;
mod chain;
mod crl;
mod der;
mod fingerprint;
mod info;
mod leaf;
mod ocsp;
mod refusal;
mod request;
mod revocation;

pub use authority::{CaCertificate, CaError, CaSet, read_certificate};
pub use chain::{PathKey, PathMemory, PathShape, VerifiedChain, check_size, verify_chain};
pub use crl::{Crl, CrlError, read_crl};
pub use fingerprint::CertificateFingerprints;
pub use info::CertificateInfo;
pub use leaf::{ClientCertificate, EPOCH_BYTES, EPOCH_OID};
pub use ocsp::{MAX_OCSP_BYTES, OcspError, OcspResponse};
pub use refusal::CertificateRefusal;
pub use request::{KeyType, MAX_REQUEST_BYTES, RequestError, SigningRequest};
pub use revocation::{
    CrlNumber, Denied, IssuerId, PathCertificate, RevocationList, Revocations, RevokedBy, SERIAL_BYTES, Serial,
};

use holdfast_model::UnixMillis;
use holdfast_model::round_trip;

/// Longest part of a name in a certificate that is shown, in characters.
const MAX_SHOWN_CHARS: usize = 160;

/// A point in time for an operator.
pub(crate) fn shown_time(at: UnixMillis) -> String {
    let text = i64::try_from(at.0).ok().and_then(round_trip);
    // A certificate may claim any year.
    text.unwrap_or_else(|| format!("{} s after 1970", at.seconds()))
}

/// Text out of a certificate for an operator: escaped, and cut.
pub(crate) fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars
        .by_ref()
        .take(MAX_SHOWN_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Seconds since 1970 as milliseconds; a time before 1970 is 1970.
pub(crate) fn millis(seconds: i64) -> UnixMillis {
    UnixMillis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

#[cfg(test)]
mod tests;
