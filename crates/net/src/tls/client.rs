//! Client certificates: requested of every client but browsers ([`super::greeting::is_browser`]), never required.
//!
//! Why: an identity is known only after the handshake, from the first packet or request, so trust is decided there; TLS
//! proves that the client owns the key of the certificate that it shows (Spec auth-and-limits §3.3).
//! Invariants: the handshake fails when the signature does not fit the certificate; a chain beyond the limits is refused
//! before any of it is parsed.
//! Not here: thumbprints, issuers, validity dates (`auth`, `device-hub`).

use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::limits::{MAX_CERTIFICATE_BYTES, MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};
use holdfast_model::{CertificateChain, TlsParameters};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

/// Accepts every certificate whose key the client owns.
#[derive(Debug)]
pub(super) struct ProofOfPossession(pub(super) Arc<CryptoProvider>);

impl ClientCertVerifier for ProofOfPossession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: a device chooses its certificate by itself, and a list of CAs would only cost bytes.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let lengths = || std::iter::once(end_entity.len()).chain(intermediates.iter().map(|issuer| issuer.len()));
        if intermediates.len() >= MAX_CHAIN_CERTIFICATES
            || lengths().sum::<usize>() > MAX_CHAIN_BYTES
            || lengths().any(|length| length > MAX_CERTIFICATE_BYTES)
        {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms).or_else(|error| {
            let key = key_of_version_1(certificate).ok_or(error)?;
            verify_tls12_signature_with_key(message, &key, signature, algorithms)
        })
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms).or_else(|error| {
            let key = key_of_version_1(certificate).ok_or(error)?;
            verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The key of a certificate of X.509 version 1, which rustls' verifier does not read: `openssl x509 -req` makes such certificates, and
/// devices with thumbprints have them. `None` for every other certificate.
fn key_of_version_1(certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let key = certificate.public_key().raw.to_vec();
    (certificate.version() == X509Version::V1).then(|| SubjectPublicKeyInfoDer::from(key))
}

/// rustls has this for TLS 1.3 alone.
fn verify_tls12_signature_with_key(
    message: &[u8],
    key: &SubjectPublicKeyInfoDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let bad = || Error::from(CertificateError::BadSignature);
    let key = webpki::RawPublicKeyEntity::try_from(key).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let known = algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == signature.scheme);
    let (_, candidates) = known.ok_or_else(bad)?;
    // In TLS 1.2 a scheme of ECDSA does not name the curve, so that several algorithms have it.
    let is_valid = |algorithm: &&dyn SignatureVerificationAlgorithm| {
        key.verify_signature(*algorithm, message, signature.signature()).is_ok()
    };
    match candidates.iter().any(is_valid) {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(bad()),
    }
}

/// The parameters of a handshake that has progressed far enough.
pub(crate) fn parameters(connection: &CommonState) -> Option<TlsParameters> {
    let version = connection.protocol_version()?.as_str()?;
    let cipher = connection.negotiated_cipher_suite()?.suite().as_str()?;
    Some(TlsParameters {
        version: version.into(),
        cipher: cipher.into(),
    })
}

/// The certificates that the client of a completed handshake has shown; `None` when it has shown none.
pub(crate) fn chain(connection: &CommonState) -> Option<CertificateChain> {
    let certificates = connection.peer_certificates()?;
    CertificateChain::new(
        certificates
            .iter()
            .map(|certificate| Bytes::copy_from_slice(certificate)),
    )
}
