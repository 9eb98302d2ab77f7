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
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConnection, SignatureScheme};

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
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The parameters of a handshake that has progressed far enough.
pub(crate) fn parameters(connection: &ServerConnection) -> Option<TlsParameters> {
    let version = connection.protocol_version()?.as_str()?;
    let cipher = connection.negotiated_cipher_suite()?.suite().as_str()?;
    Some(TlsParameters {
        version: version.into(),
        cipher: cipher.into(),
    })
}

/// The certificates that the client of a completed handshake has shown; `None` when it has shown none.
pub(crate) fn chain(connection: &ServerConnection) -> Option<CertificateChain> {
    let certificates = connection.peer_certificates()?;
    CertificateChain::new(
        certificates
            .iter()
            .map(|certificate| Bytes::copy_from_slice(certificate)),
    )
}
