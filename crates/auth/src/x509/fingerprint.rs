//! The digests by which registries name a certificate.

use data_encoding::HEXUPPER;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::KeyFingerprint;

/// The SHA-1 and the SHA-256 digest of a certificate's DER form, both of which registries call its thumbprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateFingerprints {
    /// Kept for registries that hold SHA-1 thumbprints. A second certificate with the digest of a given one cannot be made
    /// in practice; two with the same digest can.
    pub sha1: [u8; 20],
    /// The digest that identifies it.
    pub sha256: [u8; 32],
}

impl CertificateFingerprints {
    /// Those of a certificate in DER.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self {
            sha1: <Sha1 as sha1::Digest>::digest(der).into(),
            sha256: Self::sha256(der),
        }
    }

    /// The SHA-256 digest of a certificate in DER.
    #[must_use]
    pub fn sha256(der: &[u8]) -> [u8; 32] {
        Sha256::digest(der).into()
    }

    /// Whether `thumbprint`, 40 or 64 hexadecimal characters in any case, names the certificate.
    #[must_use]
    pub fn is_named(&self, thumbprint: &str) -> bool {
        match thumbprint.len() {
            40 => self.sha1_hex().eq_ignore_ascii_case(thumbprint),
            64 => self.sha256_hex().eq_ignore_ascii_case(thumbprint),
            _ => false,
        }
    }

    /// As registries write it: upper case.
    #[must_use]
    pub fn sha1_hex(&self) -> String {
        HEXUPPER.encode(&self.sha1)
    }

    /// As registries write it: upper case.
    #[must_use]
    pub fn sha256_hex(&self) -> String {
        HEXUPPER.encode(&self.sha256)
    }

    /// Identifies the certificate in a session, as the fingerprint of a symmetric key does.
    #[must_use]
    pub fn key(&self) -> KeyFingerprint {
        let mut first = [0; 8];
        first.copy_from_slice(&self.sha256[..8]);
        KeyFingerprint(first)
    }
}
