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
    connect_to("localhost", port, roots)
}

/// As [`connect`], with `name` in the TLS greeting.
fn connect_to(name: &'static str, port: u16, roots: &[CertificateDer<'static>]) -> (Stream, CertificateDer<'static>) {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    let name = ServerName::try_from(name).unwrap();
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

#[test]
fn the_clients_of_a_name_get_its_chain_and_are_counted_by_what_they_need() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["old.test".to_owned()]).unwrap();
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = (files.path().join("old.pem"), files.path().join("old.key"));
    std::fs::write(&certificate, cert.pem()).unwrap();
    std::fs::write(&key, signing_key.serialize_pem()).unwrap();
    let old = format!("tls.alternatives=old.test={}:{}", certificate.display(), key.display());
    let hub = Hub::start(&["--set", &old, "--set", "hub.aliases=old.test"]);
    let connection = hub.connection();
    let port = connection["ports"]["mqtt"].as_u64().unwrap().try_into().unwrap();
    let ca = CertificateDer::from_pem_file(connection["caFile"].as_str().unwrap()).unwrap();
    let roots = [ca, cert.der().clone()];
    assert_eq!(connect_to("old.test", port, &roots).1, *cert.der());
    for name in ["localhost", "localhost.device.localhost"] {
        assert_ne!(connect_to(name, port, &roots).1, *cert.der());
    }
    for labels in [
        "name=\"alias\",version=\"1.3\",signatures=\"ecdsa_rsa\",chain=\"alternative1\"",
        "name=\"hub\",version=\"1.3\",signatures=\"ecdsa_rsa\",chain=\"server\"",
        "name=\"device\",version=\"1.3\",signatures=\"ecdsa_rsa\",chain=\"server\"",
    ] {
        hub.until(labels, |hub| {
            hub.ops("/metrics")
                .1
                .contains(&format!("holdfast_tls_clients_total{{{labels}}} 1\n"))
        });
    }
}
