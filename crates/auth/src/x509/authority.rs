//! The hub's CAs: what an uploaded certificate must be, and how the CA of a chain is found.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::UnixMillis;
use holdfast_model::limits::MAX_CERTIFICATE_BYTES;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::x509::X509Version;

use super::der::Signed;
use super::leaf::{check_key, check_time, ends, parse};
use super::revocation::{IssuerId, RevokedBy, Serial};
use super::{CertificateFingerprints, CertificateRefusal, ClientCertificate, Revocations, millis, shown};
use crate::x509::chain::{SIGNATURES, describe};

const WHICH: &str = "the CA's certificate";

/// How PEM begins.
const PEM_BEGIN: &str = "-----BEGIN";

/// Longest text of a certificate: the largest one in base64 twice, with line ends.
const MAX_TEXT_BYTES: usize = MAX_CERTIFICATE_BYTES * 2;

/// Why a certificate cannot be a CA of the hub, or does not prove that its owner has the CA's key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CaError {
    /// The text is no certificate.
    #[error("the certificate cannot be read: {0}")]
    Text(&'static str),
    /// Larger than `limits::MAX_CERTIFICATE_BYTES`.
    #[error("the certificate has {0} bytes; allowed are {MAX_CERTIFICATE_BYTES}")]
    TooLarge(usize),
    /// Unreadable, or not valid at this time.
    #[error(transparent)]
    Certificate(#[from] CertificateRefusal),
    /// A device's certificate.
    #[error("the certificate is no CA's: it needs basicConstraints with CA:TRUE")]
    NotCa,
    /// Its key usage leaves out what a CA does.
    #[error("the certificate's key usage does not allow it to sign certificates (keyCertSign)")]
    Usage,
    /// Its key is too weak, or of an unknown kind.
    #[error("the key of the CA is not accepted: {0}")]
    Key(String),
    /// It holds something that chains through it could not be checked against.
    #[error("the certificate cannot be used for verification: {0}")]
    Unusable(String),
    /// The certificate with the verification code was not signed by the CA.
    #[error("the CA has not signed the certificate: {0}")]
    NotSigned(String),
}

/// The DER form of a certificate that an operator has given as text: PEM, or base64 of DER or of PEM.
///
/// # Errors
/// [`CaError::Text`], also for PEM with several certificates: it would not be clear which one counts.
pub fn read_certificate(text: &str) -> Result<Vec<u8>, CaError> {
    use base64::Engine as _;
    if text.len() > MAX_TEXT_BYTES {
        return Err(CaError::TooLarge(text.len()));
    }
    let pem = |bytes: &[u8]| -> Result<Vec<u8>, CaError> {
        let mut certificates = CertificateDer::pem_slice_iter(bytes);
        match (certificates.next(), certificates.next()) {
            (Some(Ok(only)), None) => Ok(only.to_vec()),
            (Some(Ok(_)), Some(_)) => Err(CaError::Text("it holds more than one certificate")),
            (Some(Err(_)), _) | (None, _) => Err(CaError::Text("it is neither PEM nor base64 of DER")),
        }
    };
    if text.contains(PEM_BEGIN) {
        return pem(text.as_bytes());
    }
    let compact: String = text.split_ascii_whitespace().collect();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(compact)
        .map_err(|_| CaError::Text("it is neither PEM nor base64 of DER"))?;
    if bytes.starts_with(PEM_BEGIN.as_bytes()) {
        return pem(&bytes);
    }
    Ok(bytes)
}

/// A CA's certificate, read and checked; cheap to use for many chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    der: Bytes,
    fingerprints: CertificateFingerprints,
    subject: Box<[u8]>,
    subject_text: String,
    issuer: Box<[u8]>,
    serial: Serial,
    /// Its `SubjectPublicKeyInfo`.
    key: Box<[u8]>,
    key_identifier: Option<Box<[u8]>>,
    id: IssuerId,
    may_sign_crls: bool,
    from: UnixMillis,
    ends: UnixMillis,
    path_length: Option<u32>,
    constrains_names: bool,
}

impl CaCertificate {
    /// Reads the DER form of a CA's certificate and checks what it claims. Its dates are the caller's business, since a CA
    /// may be registered before its time begins.
    ///
    /// # Errors
    /// [`CaError`] names the first rule that it breaks.
    pub fn parse(der: &[u8]) -> Result<Self, CaError> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(CaError::TooLarge(der.len()));
        }
        let certificate = parse(WHICH, der, &[X509Version::V3])?;
        let path_length = path_length(&certificate)?;
        check_key(certificate.public_key()).map_err(CaError::Key)?;
        let der = CertificateDer::from(der);
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|error| CaError::Unusable(describe(&error)))?;
        let constrains_names = anchor.name_constraints.is_some();
        Ok(Self {
            fingerprints: CertificateFingerprints::of(&der),
            subject: certificate.subject().as_raw().into(),
            subject_text: shown(&certificate.subject().to_string()),
            issuer: certificate.issuer().as_raw().into(),
            serial: Serial::of(certificate.raw_serial()),
            key: certificate.public_key().raw.into(),
            key_identifier: key_identifier(&certificate),
            id: IssuerId::of(certificate.subject().as_raw(), certificate.public_key().raw),
            may_sign_crls: may_sign_crls(&certificate),
            from: millis(certificate.validity().not_before.timestamp()),
            ends: ends(&certificate),
            path_length,
            constrains_names,
            der: Bytes::copy_from_slice(&der),
        })
    }

    /// The DER form.
    #[must_use]
    pub fn der(&self) -> &Bytes {
        &self.der
    }

    /// Its digests.
    #[must_use]
    pub fn fingerprints(&self) -> &CertificateFingerprints {
        &self.fingerprints
    }

    /// Its name, for people.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject_text
    }

    /// When it ends: the first millisecond after `notAfter`.
    #[must_use]
    pub fn ends(&self) -> UnixMillis {
        self.ends
    }

    /// Checks `notBefore` and `notAfter`.
    ///
    /// # Errors
    /// [`CertificateRefusal::NotYetValid`], [`CertificateRefusal::Ended`].
    pub fn check_time(&self, now: UnixMillis) -> Result<(), CertificateRefusal> {
        let which = || format!("the CA {}", self.subject_text);
        if now < self.from {
            let (which, from) = (which(), self.from);
            return Err(CertificateRefusal::NotYetValid { which, from, now });
        }
        if now >= self.ends {
            let (which, at) = (which(), UnixMillis(self.ends.0.saturating_sub(1000)));
            return Err(CertificateRefusal::Ended { which, at, now });
        }
        Ok(())
    }

    /// Identifies it as an issuer.
    #[must_use]
    pub fn issuer_id(&self) -> IssuerId {
        self.id
    }

    /// Whether `issuer` has signed it. Costs a signature where the names fit.
    #[must_use]
    pub fn is_issued_by(&self, issuer: &Self) -> bool {
        self.issuer == issuer.subject
            && self.id != issuer.id
            && Signed::read(&self.der).is_some_and(|signed| issuer.has_signed(&signed))
    }

    /// Its own serial number.
    #[must_use]
    pub fn serial(&self) -> Serial {
        self.serial
    }

    /// Its name, in DER.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    /// Its key, a `SubjectPublicKeyInfo` in DER.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The identifier of its key, which certificates below it name it by; `None`: it has none.
    #[must_use]
    pub fn key_identifier(&self) -> Option<&[u8]> {
        self.key_identifier.as_deref()
    }

    pub(crate) fn may_sign_crls(&self) -> bool {
        self.may_sign_crls
    }

    /// Whether its certificate limits the names below it.
    pub(crate) fn constrains_names(&self) -> bool {
        self.constrains_names
    }

    /// Whether it has issued `leaf`, a certificate of version 1 whose DER form is `der`. A CA with name constraints has not: a
    /// certificate without extensions has no names to compare them with.
    pub(crate) fn has_issued_version_1(&self, der: &[u8], leaf: &ClientCertificate<'_>) -> bool {
        !self.constrains_names
            && leaf.names_one_algorithm()
            && Signed::read(der).is_some_and(|signed| self.has_signed(&signed))
    }

    pub(super) fn has_signed(&self, signed: &Signed<'_>) -> bool {
        signed.is_signed_by(&self.key)
    }

    /// What revokes the certificate itself: the deny list, or one of `authorities` that has issued it.
    #[must_use]
    pub fn revoked<'a>(
        &self,
        mut authorities: impl Iterator<Item = &'a Self>,
        revocations: &Revocations,
    ) -> Option<RevokedBy> {
        let denied = revocations.of_certificate(&self.fingerprints.sha256);
        denied.or_else(|| {
            authorities.find_map(|issuer| {
                let may_be_issuer = issuer.subject == self.issuer && issuer.id != self.id;
                let by = may_be_issuer.then(|| revocations.of_serial(issuer.id, self.serial))??;
                // A signature is verified only of a certificate that is named.
                Signed::read(&self.der)
                    .is_some_and(|signed| issuer.has_signed(&signed))
                    .then_some(by)
            })
        })
    }

    /// Checks the proof of possession: `proof` is a certificate with the common name `code` that this CA has signed (Spec
    /// auth-and-limits §3).
    ///
    /// # Errors
    /// [`CaError::TooLarge`], [`CaError::Certificate`] for its form, its name and its dates, [`CaError::NotSigned`].
    pub fn check_possession(&self, proof: &[u8], code: &str, now: UnixMillis) -> Result<(), CaError> {
        if proof.len() > MAX_CERTIFICATE_BYTES {
            return Err(CaError::TooLarge(proof.len()));
        }
        let leaf = ClientCertificate::parse(proof)?;
        leaf.check_common_name(code)?;
        leaf.check_is_leaf()?;
        leaf.check_time(now)?;
        let not_signed = |error: webpki::Error| CaError::NotSigned(describe(&error));
        if leaf.is_version_1() {
            return match leaf.issuer() == self.subject_der() && self.has_issued_version_1(proof, &leaf) {
                true => Ok(()),
                false => Err(not_signed(webpki::Error::InvalidSignatureForPublicKey)),
            };
        }
        let der = CertificateDer::from(&*self.der);
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(not_signed)?;
        let proof = CertificateDer::from(proof);
        let proof = webpki::EndEntityCert::try_from(&proof).map_err(not_signed)?;
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.0));
        let usage = webpki::KeyUsage::client_auth();
        proof
            .verify_for_usage(SIGNATURES, &[anchor], &[], time, usage, None, None)
            .map(|_| ())
            .map_err(not_signed)
    }

    /// How many issuers may stand between it and a device's certificate.
    pub(crate) fn path_length(&self) -> Option<u32> {
        self.path_length
    }
}

/// What a CA's certificate says about the issuers below it; an error when it is no CA's.
fn path_length(certificate: &X509Certificate<'_>) -> Result<Option<u32>, CaError> {
    let unreadable = |error: x509_parser::error::X509Error| CaError::Unusable(shown(&error.to_string()));
    let constraints = certificate.basic_constraints().map_err(unreadable)?;
    let constraints = constraints.filter(|given| given.value.ca).ok_or(CaError::NotCa)?;
    let usage = certificate.key_usage().map_err(unreadable)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(CaError::Usage);
    }
    Ok(constraints.value.path_len_constraint)
}

fn key_identifier(certificate: &X509Certificate<'_>) -> Option<Box<[u8]>> {
    let mut found = certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.into()),
            _ => None,
        });
    found.next()
}

/// A CA without a key usage may sign both certificates and lists.
fn may_sign_crls(certificate: &X509Certificate<'_>) -> bool {
    let usage = certificate.key_usage().ok().flatten();
    usage.is_none_or(|usage| usage.value.crl_sign())
}

/// An issuer that a client has sent.
pub(crate) struct SentIssuer<'a> {
    pub(crate) der: &'a [u8],
    certificate: X509Certificate<'a>,
}

impl<'a> SentIssuer<'a> {
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, CertificateRefusal> {
        let certificate = parse("an issuer that the client sent", der, &[X509Version::V3])?;
        Ok(Self { der, certificate })
    }

    pub(crate) fn subject(&self) -> &[u8] {
        self.certificate.subject().as_raw()
    }

    pub(crate) fn issuer(&self) -> &[u8] {
        self.certificate.issuer().as_raw()
    }

    pub(crate) fn issuer_text(&self) -> String {
        shown(&self.certificate.issuer().to_string())
    }

    pub(crate) fn serial(&self) -> Serial {
        Serial::of(self.certificate.raw_serial())
    }

    pub(crate) fn issuer_id(&self) -> IssuerId {
        IssuerId::of(self.subject(), self.certificate.public_key().raw)
    }

    pub(crate) fn ends(&self) -> UnixMillis {
        ends(&self.certificate)
    }

    /// Checks everything about it that needs no signature.
    pub(crate) fn check(&self, now: UnixMillis) -> Result<(), CertificateRefusal> {
        let name = || shown(&self.certificate.subject().to_string());
        let refused = |cause| CertificateRefusal::Issuer { issuer: name(), cause };
        match path_length(&self.certificate) {
            Ok(_) => {}
            Err(CaError::Usage) => return Err(refused("its key usage lacks keyCertSign")),
            Err(CaError::NotCa) => return Err(refused("it is no CA's (basicConstraints)")),
            Err(_) => return Err(refused("its extensions cannot be read")),
        }
        if check_key(self.certificate.public_key()).is_err() {
            return Err(refused("its key is not accepted"));
        }
        check_time(&self.certificate, now, || format!("the issuer {}", name()))
    }
}

/// The verified CAs of a hub, found by their names.
#[derive(Debug, Default)]
pub struct CaSet {
    by_subject: HashMap<Box<[u8]>, Vec<Arc<CaCertificate>>>,
    digests: HashSet<[u8; 32]>,
    revoked: HashMap<[u8; 32], RevokedBy>,
}

impl CaSet {
    /// The set of `authorities`.
    pub fn new(authorities: impl IntoIterator<Item = Arc<CaCertificate>>) -> Self {
        let mut set = Self::default();
        for authority in authorities {
            set.digests.insert(authority.fingerprints.sha256);
            set.by_subject
                .entry(authority.subject.clone())
                .or_default()
                .push(authority);
        }
        set
    }

    /// Marks the certificate with this SHA-256, if it is in the set, as revoked: nothing below it is accepted.
    pub fn revoke(&mut self, sha256: [u8; 32], by: RevokedBy) {
        self.revoked.insert(sha256, by);
    }

    /// What revokes the CA with this SHA-256.
    #[must_use]
    pub fn revoked(&self, sha256: &[u8; 32]) -> Option<&RevokedBy> {
        self.revoked.get(sha256)
    }

    /// Whether it holds the certificate with this SHA-256, revoked or not.
    #[must_use]
    pub fn holds(&self, sha256: &[u8; 32]) -> bool {
        self.digests.contains(sha256)
    }

    /// The CAs with a name, in DER.
    pub(crate) fn named(&self, subject: &[u8]) -> &[Arc<CaCertificate>] {
        self.by_subject.get(subject).map_or(&[], Vec::as_slice)
    }
}
