//! The certificate that a client has shown as its own.

use holdfast_model::UnixMillis;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_X509_COMMON_NAME};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name, X509Version};

use super::refusal::CertificateRefusal;
use super::revocation::Serial;
use super::{CertificateFingerprints, millis, shown};

/// Fewest and most bits of an RSA key.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

const WHICH: &str = "the client's certificate";

/// The extension that carries a device's epoch in certificates that the hub issues: 2.25.5731203398157246841, the content of its OID
/// in DER. The epoch is an octet string.
pub const EPOCH_OID: &[u8] = &[0x69, 0xcf, 0xc4, 0xd4, 0xe4, 0x81, 0xd5, 0xb2, 0xc2, 0x79];

/// Bytes of an epoch.
pub const EPOCH_BYTES: usize = 16;

const OCTET_STRING: u8 = 4;

/// A client's own certificate, read.
#[derive(Debug)]
pub struct ClientCertificate<'a> {
    certificate: X509Certificate<'a>,
    fingerprints: CertificateFingerprints,
}

impl<'a> ClientCertificate<'a> {
    /// Reads the DER form; says nothing about trust. It may be of version 1, which has no extensions: `openssl x509 -req` makes such
    /// certificates.
    ///
    /// # Errors
    /// [`CertificateRefusal::Unreadable`].
    pub fn parse(der: &'a [u8]) -> Result<Self, CertificateRefusal> {
        Ok(Self {
            certificate: parse(WHICH, der, &[X509Version::V1, X509Version::V3])?,
            fingerprints: CertificateFingerprints::of(der),
        })
    }

    /// Its digests.
    #[must_use]
    pub fn fingerprints(&self) -> &CertificateFingerprints {
        &self.fingerprints
    }

    /// When it ends: the first millisecond after `notAfter`.
    #[must_use]
    pub fn ends(&self) -> UnixMillis {
        ends(&self.certificate)
    }

    /// Checks `notBefore` and `notAfter`.
    ///
    /// # Errors
    /// [`CertificateRefusal::NotYetValid`], [`CertificateRefusal::Ended`].
    pub fn check_time(&self, now: UnixMillis) -> Result<(), CertificateRefusal> {
        check_time(&self.certificate, now, || WHICH.to_owned())
    }

    /// Checks that the subject has exactly one common name and that it is `expected`, byte for byte.
    ///
    /// Two names, or one in an encoding with several readings (UTF-16, Teletex), are none: another verifier could read
    /// another name.
    ///
    /// # Errors
    /// [`CertificateRefusal::CommonName`].
    pub fn check_common_name(&self, expected: &str) -> Result<(), CertificateRefusal> {
        let found = match self.common_name() {
            Ok(name) if name == expected => return Ok(()),
            Ok(name) => format!("\"{}\"", shown(name)),
            Err(fault) => fault,
        };
        Err(CertificateRefusal::CommonName {
            found,
            expected: expected.to_owned(),
        })
    }

    /// The one common name of the subject.
    ///
    /// # Errors
    /// For people: it has none, or several, or one in an encoding with several readings.
    pub fn common_name(&self) -> Result<&str, String> {
        common_name(self.certificate.subject())
    }

    /// The epoch of the device that the hub issued it for; `None`: it carries none.
    ///
    /// # Errors
    /// [`CertificateRefusal::Unreadable`] when it carries something else there.
    pub fn epoch(&self) -> Result<Option<[u8; EPOCH_BYTES]>, CertificateRefusal> {
        let mut found = None;
        for extension in self.certificate.extensions() {
            if extension.oid.as_bytes() != EPOCH_OID {
                continue;
            }
            let value = match extension.value {
                [OCTET_STRING, length, epoch @ ..] if usize::from(*length) == EPOCH_BYTES => epoch.try_into().ok(),
                _ => None,
            };
            let (true, Some(epoch)) = (found.is_none(), value) else {
                return Err(CertificateRefusal::Unreadable {
                    which: WHICH,
                    cause: "its epoch is no octet string of 16 bytes, or there are two".to_owned(),
                });
            };
            found = Some(epoch);
        }
        Ok(found)
    }

    /// Its key, a `SubjectPublicKeyInfo` in DER.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.certificate.public_key().raw
    }

    /// Its first second.
    #[must_use]
    pub fn begins(&self) -> UnixMillis {
        millis(self.certificate.validity().not_before.timestamp())
    }

    /// Checks what a certificate of a CA's device must be: no CA itself, and with a strong key.
    ///
    /// # Errors
    /// [`CertificateRefusal::LeafIsCa`], [`CertificateRefusal::Key`].
    pub fn check_is_leaf(&self) -> Result<(), CertificateRefusal> {
        if self.certificate.is_ca() {
            return Err(CertificateRefusal::LeafIsCa);
        }
        check_key(self.certificate.public_key()).map_err(CertificateRefusal::Key)
    }

    /// Whether it is of version 1, which has no extensions.
    pub(crate) fn is_version_1(&self) -> bool {
        self.certificate.version() == X509Version::V1
    }

    /// Whether the algorithm in its signed part is the one that its signature names (RFC 5280 §4.1.1.2).
    pub(crate) fn names_one_algorithm(&self) -> bool {
        self.certificate.signature == self.certificate.signature_algorithm
    }

    /// Its serial number.
    #[must_use]
    pub fn serial(&self) -> Serial {
        Serial::of(self.certificate.raw_serial())
    }

    /// The name of its issuer, in DER.
    pub(crate) fn issuer(&self) -> &[u8] {
        self.certificate.issuer().as_raw()
    }

    /// The name of its issuer, for an operator.
    pub(crate) fn issuer_text(&self) -> String {
        shown(&self.certificate.issuer().to_string())
    }
}

/// The one common name of a subject; the error is for people.
pub(crate) fn common_name<'a>(subject: &'a X509Name<'_>) -> Result<&'a str, String> {
    let mut names = subject
        .iter_attributes()
        .filter(|attribute| *attribute.attr_type() == OID_X509_COMMON_NAME);
    match (names.next(), names.next()) {
        (None, _) => Err("missing".to_owned()),
        (Some(_), Some(_)) => Err("given more than once".to_owned()),
        (Some(name), None) => {
            let value = name.attr_value();
            let is_plain = matches!(value.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String);
            let text = std::str::from_utf8(value.data).ok().filter(|_| is_plain);
            text.ok_or_else(|| {
                let text = shown(&String::from_utf8_lossy(value.data));
                format!("\"{text}\" in an encoding that is not accepted")
            })
        }
    }
}

/// Reads a certificate of one of these versions and nothing behind it.
pub(crate) fn parse<'a>(
    which: &'static str,
    der: &'a [u8],
    versions: &[X509Version],
) -> Result<X509Certificate<'a>, CertificateRefusal> {
    let unreadable = |cause: String| CertificateRefusal::Unreadable { which, cause };
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| unreadable(shown(&error.to_string())))?;
    if !rest.is_empty() {
        return Err(unreadable(format!("{} bytes follow it", rest.len())));
    }
    check_version(which, &certificate, versions)?;
    Ok(certificate)
}

fn check_version(
    which: &'static str,
    certificate: &X509Certificate<'_>,
    versions: &[X509Version],
) -> Result<(), CertificateRefusal> {
    if versions.contains(&certificate.version()) {
        return Ok(());
    }
    // The field counts from 0.
    let found = certificate.version().0.saturating_add(1);
    let cause = match versions {
        [X509Version::V3] => format!("it is of version {found}; version 3 is needed"),
        _ => format!("it is of version {found}"),
    };
    Err(CertificateRefusal::Unreadable { which, cause })
}

pub(crate) fn ends(certificate: &X509Certificate<'_>) -> UnixMillis {
    millis(certificate.validity().not_after.timestamp().saturating_add(1))
}

pub(crate) fn check_time(
    certificate: &X509Certificate<'_>,
    now: UnixMillis,
    which: impl FnOnce() -> String,
) -> Result<(), CertificateRefusal> {
    let from = millis(certificate.validity().not_before.timestamp());
    if now < from {
        return Err(CertificateRefusal::NotYetValid {
            which: which(),
            from,
            now,
        });
    }
    if now >= ends(certificate) {
        return Err(CertificateRefusal::Ended {
            which: which(),
            at: millis(certificate.validity().not_after.timestamp()),
            now,
        });
    }
    Ok(())
}

/// RSA from 2048 bits, and the curves P-256 and P-384.
pub(crate) fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), String> {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let bits = rsa.key_size();
            if RSA_BITS.contains(&bits) {
                return Ok(());
            }
            Err(format!(
                "RSA with {bits} bits; allowed are {} to {}",
                RSA_BITS.start(),
                RSA_BITS.end()
            ))
        }
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|given| given.as_oid().ok());
            match curve {
                Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
                _ => Err("an elliptic curve other than P-256 and P-384".to_owned()),
            }
        }
        Ok(_) => Err("neither RSA nor an elliptic curve".to_owned()),
        Err(_) => Err("it cannot be read".to_owned()),
    }
}
