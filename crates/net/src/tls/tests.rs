//! Handshakes of real rustls clients, in memory.

mod alternatives;
mod browsers;
mod resumption;
mod session;
mod stapling;
mod version_1;

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::CertificateChain;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls::client::ResolvesClientCert;
use rustls::crypto::{SupportedKxGroup, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{ServerCertificates, ServerIdentity, TlsOptions, TlsServer, chain};
use crate::Socket;

const HOST: &str = "hub.test";

struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = CertificateParams::new([HOST.to_owned(), "old.test".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        Self {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    fn server(&self) -> ServerIdentity {
        ServerIdentity {
            name: "server",
            host: None,
            chain: vec![self.certificate.clone()],
            key: self.key.clone_key(),
            staple: None,
        }
    }

    /// As a client's certificate, with `certificates` shown in front of this key's signature.
    fn client(&self, certificates: Vec<CertificateDer<'static>>) -> Arc<CertifiedKey> {
        let key = aws_lc_rs::sign::any_supported_type(&self.key).unwrap();
        Arc::new(CertifiedKey::new(certificates, key))
    }
}

/// A hub with an ECDSA certificate, preferred, and an RSA one.
struct Hub {
    ecdsa: Identity,
    rsa: Identity,
    server: TlsServer,
}

impl Hub {
    fn new() -> Self {
        let (ecdsa, rsa) = (Identity::new(&PKCS_ECDSA_P256_SHA256), Identity::new(&PKCS_RSA_SHA256));
        let certificates = ServerCertificates::new(vec![ecdsa.server(), rsa.server()]).unwrap();
        let server = TlsServer::new(&certificates, TlsOptions::default()).unwrap();
        Self { ecdsa, rsa, server }
    }

    fn client(
        &self,
        version: &'static SupportedProtocolVersion,
        groups: &[&'static dyn SupportedKxGroup],
        certificate: Option<Arc<CertifiedKey>>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ecdsa.certificate.clone()).unwrap();
        roots.add(self.rsa.certificate.clone()).unwrap();
        let mut provider = aws_lc_rs::default_provider();
        if !groups.is_empty() {
            provider.kx_groups = groups.to_vec();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        match certificate {
            None => builder.with_no_client_auth(),
            Some(key) => builder.with_client_cert_resolver(Arc::new(Shows(key))),
        }
    }

    /// Runs a handshake; the certificate that the server has shown, and the chain that the client has.
    fn handshake(
        &self,
        client: ClientConfig,
    ) -> Result<(CertificateDer<'static>, Option<CertificateChain>), rustls::Error> {
        let (client, server) = connect(&self.server, &Arc::new(client), HOST)?;
        let shown = client.peer_certificates().unwrap()[0].clone();
        Ok((shown, chain(&server)))
    }
}

/// Completes a handshake of a client that names `host`; both ends of it, after all messages of both have arrived.
fn connect(
    server: &TlsServer,
    client: &Arc<ClientConfig>,
    host: &'static str,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(Arc::clone(client), host.try_into().unwrap())?;
    let mut server = ServerConnection::new(server.begin().config())?;
    loop {
        let is_quiet = !client.wants_write() && !server.wants_write();
        if is_quiet && !client.is_handshaking() && !server.is_handshaking() {
            return Ok((client, server));
        }
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut unread = &*bytes;
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets()?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut unread = &*bytes;
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
}

#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn a_tls_1_2_client_is_shown_a_certificate_on_a_curve_that_it_supports() {
    let hub = Hub::new();
    let (p256, p384, x25519) = (
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
        aws_lc_rs::kx_group::X25519,
    );
    for (groups, expected) in [
        (&[p384][..], &hub.rsa),
        (&[x25519], &hub.rsa),
        (&[x25519, p384], &hub.rsa),
        (&[p256], &hub.ecdsa),
        (&[x25519, p256], &hub.ecdsa),
        (&[], &hub.ecdsa),
    ] {
        let (shown, _) = hub.handshake(hub.client(&TLS12, groups, None)).unwrap();
        assert!(shown == expected.certificate, "{groups:?}");
    }
}

#[test]
fn a_hub_with_one_certificate_shows_it_to_every_client() {
    let hub = Hub::new();
    let certificates = ServerCertificates::new(vec![hub.ecdsa.server()]).unwrap();
    let hub = Hub {
        server: TlsServer::new(&certificates, TlsOptions::default()).unwrap(),
        ..hub
    };
    for groups in [aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1] {
        let (shown, _) = hub.handshake(hub.client(&TLS13, &[groups], None)).unwrap();
        assert!(shown == hub.ecdsa.certificate);
    }
}

#[test]
fn a_client_certificate_is_requested_and_not_required() {
    let hub = Hub::new();
    let device = Identity::new(&PKCS_ECDSA_P256_SHA256);
    let issuer = Identity::new(&PKCS_RSA_SHA256);
    let shown = vec![device.certificate.clone(), issuer.certificate.clone()];
    for version in [&TLS12, &TLS13] {
        let (_, without) = hub.handshake(hub.client(version, &[], None)).unwrap();
        assert_eq!(without, None);
        let key = device.client(shown.clone());
        let (_, with) = hub.handshake(hub.client(version, &[], Some(key))).unwrap();
        let expected = CertificateChain::new(shown.iter().map(|der| Bytes::copy_from_slice(der)));
        assert_eq!(with, expected);
    }
}

#[test]
fn a_client_that_does_not_own_the_key_of_its_certificate_is_refused() {
    let hub = Hub::new();
    let device = Identity::new(&PKCS_ECDSA_P256_SHA256);
    let thief = Identity::new(&PKCS_ECDSA_P256_SHA256);
    for version in [&TLS12, &TLS13] {
        let key = thief.client(vec![device.certificate.clone()]);
        let error = hub.handshake(hub.client(version, &[], Some(key))).unwrap_err();
        assert_eq!(error, rustls::CertificateError::BadSignature.into());
    }
}

#[test]
fn a_chain_beyond_the_limits_is_refused() {
    let hub = Hub::new();
    let device = Identity::new(&PKCS_ECDSA_P256_SHA256);
    let shown = |count: usize, size: usize| {
        let issuer = CertificateDer::from(vec![0x30; size]);
        let mut chain = vec![device.certificate.clone()];
        chain.resize(count, issuer);
        let key = device.client(chain);
        hub.handshake(hub.client(&TLS13, &[], Some(key)))
    };
    assert!(shown(10, 100).is_ok());
    let refused = rustls::CertificateError::ApplicationVerificationFailure.into();
    assert_eq!(shown(11, 100).unwrap_err(), refused);
    assert_eq!(shown(2, 33 * 1024).unwrap_err(), refused);
}

/// A TLS connection whose handshake is part of its first reads, as MQTT's are.
#[test]
fn a_lazy_connection_knows_the_chain_once_it_has_read_the_first_bytes() {
    let hub = Hub::new();
    let device = Identity::new(&PKCS_ECDSA_P256_SHA256);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for shown in [None, Some(vec![device.certificate.clone()])] {
            let expected = shown.iter().flatten().map(|der| Bytes::copy_from_slice(der));
            let expected = CertificateChain::new(expected);
            let client = hub.client(&TLS13, &[], shown.map(|chain| device.client(chain)));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let speaking = async {
                let socket = TcpStream::connect(address).await.unwrap();
                let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
                let mut stream = connector.connect(HOST.try_into().unwrap(), socket).await.unwrap();
                stream.write_all(b"hello").await.unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.unwrap();
                answer
            };
            let serving = async {
                let (socket, _) = listener.accept().await.unwrap();
                let mut socket = Socket::tls(socket, hub.server.clone());
                assert_eq!(socket.peer_certificates(), None);
                let mut bytes = vec![0; 64 * 1024];
                let read = poll_fn(|cx| socket.poll_read(cx, &mut bytes)).await.unwrap();
                assert_eq!(&bytes[..read], b"hello");
                assert_eq!(socket.peer_certificates(), expected);
                assert_eq!(socket.try_write(b"bye").unwrap(), 3);
                poll_fn(|cx| socket.poll_flush(cx)).await.unwrap();
                socket.close();
            };
            let (answer, ()) = tokio::join!(speaking, serving);
            assert_eq!(answer, b"bye");
        }
    });
}
