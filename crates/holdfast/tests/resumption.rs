//! Resumed TLS sessions of devices with certificates: each connection is decided by the registry, whatever the session was begun with.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use harness::Hub;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};

/// The CONNACK codes of 3.1.1.
const ACCEPTED: u8 = 0;
const NOT_AUTHORIZED: u8 = 5;

/// A device with a certificate of the CA "fleet" of `hub`.
struct Device {
    id: &'static str,
    file: PathBuf,
    config: Arc<ClientConfig>,
}

fn ca(hub: &Hub) -> Issuer<'static, KeyPair> {
    let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
    params.distinguished_name.push(DnType::CommonName, "fleet");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let file = hub.data_dir.join("fleet.pem");
    std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
    hub.ok(&["ca", "add", "fleet", "--file", file.to_str().unwrap(), "--verified"]);
    Issuer::new(params, key)
}

impl Device {
    fn create(
        hub: &Hub,
        issuer: &Issuer<'static, KeyPair>,
        id: &'static str,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        hub.ok(&["device", "create", id, "--auth-method", "x509_ca"]);
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.distinguished_name.push(DnType::CommonName, id);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, issuer).unwrap();
        let file = hub.data_dir.join(Path::new(id).with_extension("pem"));
        std::fs::write(&file, certificate.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut roots = RootCertStore::empty();
        let hub_ca = hub.connection()["caFile"].as_str().unwrap().to_owned();
        roots.add(CertificateDer::from_pem_file(hub_ca).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Self {
            id,
            file,
            config: Arc::new(config),
        }
    }

    /// Connects by MQTT: how the TLS handshake was, and the CONNACK's code.
    fn connect(&self, hub: &Hub) -> (HandshakeKind, u8) {
        let port: u16 = hub.connection()["ports"]["mqtt"].as_u64().unwrap().try_into().unwrap();
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        stream.write_all(&self.connect_packet()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[0], 0x20, "CONNACK");
        (stream.conn.handshake_kind().unwrap(), answer[3])
    }

    fn connect_packet(&self) -> Vec<u8> {
        let field = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
        let user = format!("localhost/{}/?api-version=2021-04-12", self.id);
        let body = [&b"\0\x04MQTT\x04\x82\0\x3c"[..], &field(self.id), &field(&user)].concat();
        [&[0x10, u8::try_from(body.len()).unwrap()][..], &body].concat()
    }
}

#[test]
fn a_revoked_certificate_is_refused_in_a_resumed_session_as_well() {
    let hub = Hub::start(&["--set", "tls.resumption=tickets"]);
    let issuer = ca(&hub);
    for (id, version) in [("dev-12", &TLS12), ("dev-13", &TLS13)] {
        let device = Device::create(&hub, &issuer, id, version);
        assert_eq!(device.connect(&hub), (HandshakeKind::Full, ACCEPTED), "{id}");
        assert_eq!(device.connect(&hub), (HandshakeKind::Resumed, ACCEPTED), "{id}");
        hub.ok(&["ca", "revoke", "--certificate", device.file.to_str().unwrap()]);
        assert_eq!(device.connect(&hub), (HandshakeKind::Resumed, NOT_AUTHORIZED), "{id}");
    }
    // Nor does a session outlive the trust in the CA.
    let device = Device::create(&hub, &issuer, "dev", &TLS13);
    assert_eq!(device.connect(&hub), (HandshakeKind::Full, ACCEPTED));
    hub.ok(&["ca", "delete", "fleet"]);
    assert_eq!(device.connect(&hub), (HandshakeKind::Resumed, NOT_AUTHORIZED));
    for line in [
        "holdfast_tls_handshakes_total{version=\"1.2\",kind=\"full\"} 1\n",
        "holdfast_tls_handshakes_total{version=\"1.2\",kind=\"resumed\"} 2\n",
        "holdfast_tls_handshakes_total{version=\"1.3\",kind=\"resumed\"} 3\n",
        "holdfast_tls_clients_total{name=\"hub\",version=\"1.2\",signatures=\"ecdsa_rsa\",chain=\"server\"} 1\n",
    ] {
        hub.until(line, |hub| hub.ops("/metrics").1.contains(line));
    }
}

#[test]
fn nothing_is_resumed_when_it_is_switched_off() {
    let hub = Hub::start(&["--set", "tls.resumption=off"]);
    let issuer = ca(&hub);
    for (id, version) in [("dev-12", &TLS12), ("dev-13", &TLS13)] {
        let device = Device::create(&hub, &issuer, id, version);
        for _ in 0..3 {
            assert_eq!(device.connect(&hub), (HandshakeKind::Full, ACCEPTED), "{id}");
        }
    }
}
