//! Server certificates that are renewed while the hub runs.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::Hub;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

type Stream = StreamOwned<ClientConnection, TcpStream>;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to the MQTT listener, and the certificate that it has shown.
fn connect(port: u16, roots: &[CertificateDer<'static>]) -> (Stream, CertificateDer<'static>) {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    let shown = stream.conn.peer_certificates().unwrap()[0].clone().into_owned();
    (stream, shown)
}

#[test]
fn renewed_certificates_count_for_new_connections_and_close_no_old_ones() {
    let hub = Hub::start(&["--set", "tls.reload_interval=100ms"]);
    let connection = hub.connection();
    let port = connection["ports"]["mqtt"].as_u64().unwrap().try_into().unwrap();
    let ca = CertificateDer::from_pem_file(connection["caFile"].as_str().unwrap()).unwrap();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let roots = [ca, cert.der().clone()];
    let (mut before, old) = connect(port, &roots);
    assert_ne!(&old, cert.der());

    // Half of it: a key that does not fit is not taken, and said.
    let folder = &hub.data_dir;
    std::fs::write(folder.join("server.pem"), cert.pem()).unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let failed = "holdfast_tls_certificate_reloads_total{outcome=\"failed\"}";
    while !hub.ops("/metrics").1.contains(failed) {
        assert!(Instant::now() < deadline, "{}", hub.last_lines());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(connect(port, &roots).1, old);

    std::fs::write(folder.join("server.key"), signing_key.serialize_pem()).unwrap();
    while &connect(port, &roots).1 != cert.der() {
        assert!(Instant::now() < deadline, "{}", hub.last_lines());
        std::thread::sleep(Duration::from_millis(20));
    }
    // CONNECT of "x", without a token.
    before.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01x").unwrap();
    let mut answer = [0; 4];
    before.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 0x20, "CONNACK");
}
