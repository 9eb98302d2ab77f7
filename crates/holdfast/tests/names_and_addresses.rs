//! The names under which a hub is reached, and the addresses that may reach it.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::Hub;
use holdfast_auth::{Key, sign, sign_identity};
use holdfast_model::{DeviceId, IdentityId};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

type Stream = StreamOwned<ClientConnection, TcpStream>;

const TIMEOUT: Duration = Duration::from_secs(30);
const NAMES: [&str; 3] = ["hub1.test", "hub1.device.test", "hub1.service.test"];

/// A connection to a listener; `head` goes before TLS, which names `name` and checks the certificate for it.
fn connect(hub: &Hub, port: &str, name: &str, head: &[u8]) -> std::io::Result<Stream> {
    let connection = hub.connection();
    let port = connection["ports"][port].as_u64().unwrap().try_into().unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(connection["caFile"].as_str().unwrap()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut socket = TcpStream::connect::<(&str, u16)>(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.write_all(head)?;
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn text(value: &str) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&length[..], value.as_bytes()].concat()
}

/// The return code of the CONNACK to a CONNECT of device `dev`.
fn connack(stream: &mut Stream, username: &str, password: &str) -> u8 {
    let variable = [&text("MQTT")[..], &[4, 0xc2, 0, 0]].concat();
    let body = [variable, text("dev"), text(username), text(password)].concat();
    let mut packet = vec![0x10];
    let mut length = body.len();
    while length > 0x7f {
        packet.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    packet.push(u8::try_from(length).unwrap());
    packet.extend(body);
    stream.write_all(&packet).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    answer[3]
}

fn in_an_hour() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600
}

#[test]
fn certificate_user_name_and_token_may_each_have_any_of_the_names() {
    let hub = Hub::start(&["--host", "hub1.test", "--bind", "127.0.0.1"]);
    let connection = hub.connection();
    let given =
        ["hostName", "deviceHostName", "serviceHostName"].map(|key| connection[key].as_str().unwrap().to_owned());
    assert_eq!(given, NAMES);
    let device = hub.json(&["device", "create", "dev", "-o", "json"]);
    let key = device["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap();
    let key = Key::from_base64(key).unwrap();
    let identity = IdentityId::device(DeviceId::parse("dev").unwrap());
    for certificate in NAMES {
        for user in NAMES {
            for token in NAMES {
                let mut stream = connect(&hub, "mqtt", certificate, b"").unwrap();
                let token = sign_identity(token, &identity, &key, in_an_hour());
                let user = format!("{user}/dev/?api-version=2021-04-12");
                assert_eq!(connack(&mut stream, &user, &token), 0, "{certificate} {user} {token}");
            }
        }
    }
    // Of another hub.
    let mut stream = connect(&hub, "mqtt", "hub1.test", b"").unwrap();
    let token = sign_identity("hub2.device.test", &identity, &key, in_an_hour());
    assert_eq!(connack(&mut stream, "hub1.test/dev/?api-version=2021-04-12", &token), 5);

    // The REST API.
    let owner = connection["owner"].as_str().unwrap();
    let owner = Key::from_base64(owner.split("SharedAccessKey=").nth(1).unwrap()).unwrap();
    for certificate in NAMES {
        for host in NAMES {
            let token = sign(host, owner.as_bytes(), Some("iothubowner"), in_an_hour());
            let mut stream = connect(&hub, "https", certificate, b"").unwrap();
            let request = format!(
                "GET /devices/dev?api-version=2021-04-12 HTTP/1.1\r\nHost: {host}\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).unwrap();
            let mut status = [0; 12];
            stream.read_exact(&mut status).unwrap();
            assert_eq!(&status, b"HTTP/1.1 200", "{certificate} {host}");
        }
    }
}

#[test]
fn the_audit_log_and_the_rules_see_the_address_that_a_load_balancer_names() {
    let hub = Hub::start(&[
        "--set",
        "net.proxies=127.0.0.0/8",
        "--set",
        "net.ip_rules=accept 192.0.2.0/24,reject 198.51.100.0/24",
    ]);
    let head = |client: &str| format!("PROXY TCP4 {client} 10.0.0.1 4711 8883\r\n").into_bytes();
    let mut stream = connect(&hub, "mqtt", "localhost", &head("192.0.2.7")).unwrap();
    assert_eq!(connack(&mut stream, "localhost/dev/?api-version=2021-04-12", "x"), 5);
    for port in ["mqtt", "amqp", "https"] {
        assert!(
            connect(&hub, port, "localhost", &head("198.51.100.9")).is_err(),
            "{port}"
        );
        assert!(connect(&hub, port, "localhost", &head("203.0.113.5")).is_ok(), "{port}");
        assert!(
            connect(&hub, port, "localhost", b"no head of anything").is_err(),
            "{port}"
        );
    }
    let audit = hub.data_dir.join("audit.jsonl");
    hub.until("the audit log has them", |_| {
        let log = std::fs::read_to_string(&audit).unwrap_or_default();
        let has = |parts: &[&str]| log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        has(&["192.0.2.7:4711", "\"dev\""]) && has(&["198.51.100.9:4711", "\"ip\""]) && has(&["PROXY protocol"])
    });
    let metrics = hub.ops("/metrics").1;
    assert!(
        metrics.contains("holdfast_net_rejected_total{reason=\"ip\"} 3"),
        "{metrics}"
    );
    assert!(
        metrics.contains("holdfast_net_rejected_total{reason=\"proxy_head\"} 3"),
        "{metrics}"
    );
}
