//! Requests for certificates (PKCS#10), as devices send them.
//!
//! Invariants: the size is checked before anything is parsed; a request is believed only if the owner of its key has signed it; of its
//! content the common name and the key count, and nothing that it wishes for (extensions, alternative names, usages) is looked at.
//! Not here: what is issued for it (`provisioning`).

use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::OID_EC_P256;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::der::Signed;
use super::leaf::{check_key, common_name};
use super::shown;

/// Largest request, in bytes of its DER form; one with a key of 8192 bits has less than 2.5 KiB.
pub const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// The kinds of keys that certificates are issued for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// The curve P-256.
    EcdsaP256,
    /// The curve P-384.
    EcdsaP384,
    /// RSA from 2048 bits.
    Rsa,
}

impl KeyType {
    /// All.
    pub const ALL: [Self; 3] = [Self::EcdsaP256, Self::EcdsaP384, Self::Rsa];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Rsa => "rsa",
        }
    }

    /// Reads a name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str().eq_ignore_ascii_case(name))
    }
}

/// Why a request is refused. The texts are for its sender; what it has chosen is escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Larger than [`MAX_REQUEST_BYTES`].
    #[error("the certificate signing request has {0} bytes; allowed are {MAX_REQUEST_BYTES}")]
    TooLarge(usize),
    /// No PKCS#10 in DER.
    #[error("the certificate signing request cannot be read: {0}")]
    Unreadable(String),
    /// A key that is too weak, or of a kind that is not accepted.
    #[error("the key of the certificate signing request is not accepted: {0}")]
    Key(String),
    /// The common name cannot be used.
    #[error("the common name of the certificate signing request is {0}")]
    CommonName(String),
    /// It was not signed by the owner of its key, or by an algorithm that is not accepted.
    #[error("the signature of the certificate signing request is not by its key with SHA-2")]
    Signature,
}

/// A request whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningRequest {
    common_name: String,
    key: Vec<u8>,
    key_type: KeyType,
}

impl SigningRequest {
    /// Reads a request in DER, and verifies that the owner of its key has signed it.
    ///
    /// # Errors
    /// [`RequestError`] names the first rule that it breaks; the one about the signature comes last.
    pub fn read(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLarge(der.len()));
        }
        let unreadable = |text: &str| RequestError::Unreadable(shown(text));
        let signed = Signed::read(der).ok_or_else(|| unreadable("it is no PKCS#10 in DER"))?;
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|error| unreadable(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable("other bytes follow it"));
        }
        let info = &request.certification_request_info;
        let key = &info.subject_pki;
        check_key(key).map_err(RequestError::Key)?;
        let key_type = key_type(key).ok_or_else(|| RequestError::Key("it cannot be read".to_owned()))?;
        let common_name = common_name(&info.subject).map_err(RequestError::CommonName)?;
        if !signed.is_signed_by(key.raw) {
            return Err(RequestError::Signature);
        }
        Ok(Self {
            common_name: common_name.to_owned(),
            key: key.raw.to_vec(),
            key_type,
        })
    }

    /// Its common name.
    #[must_use]
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// Its key, a `SubjectPublicKeyInfo` in DER.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The kind of its key.
    #[must_use]
    pub const fn key_type(&self) -> KeyType {
        self.key_type
    }
}

/// The kind of a key that [`check_key`] has accepted.
fn key_type(key: &SubjectPublicKeyInfo<'_>) -> Option<KeyType> {
    match key.parsed().ok()? {
        PublicKey::RSA(_) => Some(KeyType::Rsa),
        PublicKey::EC(_) => {
            let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
            Some(match curve == OID_EC_P256 {
                true => KeyType::EcdsaP256,
                false => KeyType::EcdsaP384,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn request(names: &[&str], key: &KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params
            .subject_alt_names
            .push(SanType::DnsName("evil.example.com".try_into().unwrap()));
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn requests_of_each_kind_of_key_are_read() {
        for (algorithm, expected) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, KeyType::EcdsaP256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, KeyType::EcdsaP384),
            (&rcgen::PKCS_RSA_SHA256, KeyType::Rsa),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let read = SigningRequest::read(&request(&["dev-1"], &key)).unwrap();
            assert_eq!((read.common_name(), read.key_type()), ("dev-1", expected));
        }
    }

    #[test]
    fn hostile_requests_are_refused() {
        let key = KeyPair::generate().unwrap();
        let good = request(&["dev-1"], &key);
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert!(matches!(
            SigningRequest::read(&request(&["dev-1"], &other)),
            Err(RequestError::Key(_))
        ));
        assert!(matches!(
            SigningRequest::read(&request(&[], &key)),
            Err(RequestError::CommonName(_))
        ));
        // The name is part of what was signed.
        let mut forged = good.clone();
        let at = good.windows(5).position(|window| window == b"dev-1").unwrap();
        forged[at + 4] = b'2';
        assert_eq!(SigningRequest::read(&forged), Err(RequestError::Signature));
        let mut longer = good.clone();
        longer.push(0);
        assert!(matches!(
            SigningRequest::read(&longer),
            Err(RequestError::Unreadable(_))
        ));
        for cut in 0..good.len() {
            assert!(SigningRequest::read(&good[..cut]).is_err(), "{cut}");
        }
        let large = vec![0x30; MAX_REQUEST_BYTES + 1];
        assert_eq!(SigningRequest::read(&large), Err(RequestError::TooLarge(large.len())));
        assert!(SigningRequest::read(&vec![0x30; MAX_REQUEST_BYTES]).is_err());
    }
}
