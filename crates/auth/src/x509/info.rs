//! What a certificate says about itself, for people and for documents.

use data_encoding::HEXUPPER;
use holdfast_model::UnixMillis;
use x509_parser::x509::X509Version;

use super::leaf::parse;
use super::refusal::CertificateRefusal;
use super::{CertificateFingerprints, millis, shown};

/// The facts of a certificate; nothing about trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Its name.
    pub subject: String,
    /// The name of its issuer.
    pub issuer: String,
    /// Its serial number, in upper-case hexadecimal digits.
    pub serial: String,
    /// Its digests.
    pub fingerprints: CertificateFingerprints,
    /// When it begins.
    pub from: UnixMillis,
    /// Its last second.
    pub until: UnixMillis,
    /// 1 to 3.
    pub version: u32,
}

impl CertificateInfo {
    /// Reads the DER form.
    ///
    /// # Errors
    /// [`CertificateRefusal::Unreadable`].
    pub fn read(der: &[u8]) -> Result<Self, CertificateRefusal> {
        let certificate = parse("the certificate", der, &[X509Version::V1, X509Version::V3])?;
        let validity = certificate.validity();
        Ok(Self {
            subject: shown(&certificate.subject().to_string()),
            issuer: shown(&certificate.issuer().to_string()),
            serial: HEXUPPER.encode(certificate.raw_serial()),
            fingerprints: CertificateFingerprints::of(der),
            from: millis(validity.not_before.timestamp()),
            until: millis(validity.not_after.timestamp()),
            version: certificate.version().0.saturating_add(1),
        })
    }
}
