//! OCSP responses for clients that ask for one.

use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{ServerName, UnixTime};

use super::super::Staple;
use super::*;

/// Keeps the stapled response, and trusts every server.
#[derive(Debug, Default)]
struct Sees(holdfast_tasks::sync::Mutex<Vec<Vec<u8>>>);

impl ServerCertVerifier for Sees {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.lock().push(ocsp_response.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[test]
fn a_response_is_stapled_until_its_end() {
    let now = UnixTime::now().as_secs();
    for (until, expected) in [(now + 3600, &b"response"[..]), (now - 1, b"")] {
        let identity = Identity::new(&PKCS_ECDSA_P256_SHA256);
        let staple = Staple {
            response: b"response".to_vec(),
            until: UnixTime::since_unix_epoch(Duration::from_secs(until)),
        };
        let identity = ServerIdentity {
            staple: Some(staple),
            ..identity.server()
        };
        let certificates = ServerCertificates::new(vec![identity]).unwrap();
        let server = TlsServer::new(&certificates, TlsOptions::default()).unwrap();
        for version in [&TLS12, &TLS13] {
            let sees = Arc::new(Sees::default());
            let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&sees) as _)
                .with_no_client_auth();
            connect(&server, &Arc::new(client), HOST).unwrap();
            assert_eq!(*sees.0.lock(), [expected], "{version:?} until {until}");
        }
    }
}
