//! A hub that fetches the CRLs of its CAs by itself.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use harness::{Hub, holdfast, text};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A CA that revokes.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// Its list of that number with one certificate.
    fn crl(&self, number: u64) -> Vec<u8> {
        let crl = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(1_u64),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        crl.signed_by(&issuer).unwrap().der().to_vec()
    }
}

fn answer(mut stream: impl Read + Write, body: &[u8]) {
    // A client that refuses the certificate goes away.
    if stream.read(&mut [0; 4096]).is_err() {
        return;
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
    let _ = stream.flush();
}

/// Answers every request with `body`; over TLS when there is a configuration.
fn serve(body: Arc<Mutex<Vec<u8>>>, tls: Option<Arc<ServerConfig>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, body) = (stream.unwrap(), body.lock().unwrap().clone());
            match &tls {
                None => answer(stream, &body),
                Some(tls) => {
                    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(tls)).unwrap(), stream);
                    answer(&mut stream, &body);
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
            }
        }
    });
    port
}

/// A server's certificate by a CA that no system knows; writes that CA to `file`.
fn private_tls(file: &Path) -> Arc<ServerConfig> {
    let (issuer, key) = (Ca::new("Web"), KeyPair::generate().unwrap());
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf
        .signed_by(&key, &Issuer::from_params(&issuer.params, &issuer.key))
        .unwrap();
    std::fs::write(file, &issuer.pem).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    Arc::new(config)
}

#[test]
fn the_crl_is_fetched_as_soon_as_its_ca_is_there() {
    let ca = Ca::new("Fleet");
    let port = serve(Arc::new(Mutex::new(ca.crl(7))), None);
    let hub = Hub::start(&["--set", &format!("crl.sources=fleet=http://127.0.0.1:{port}/fleet.crl")]);
    let file = hub.data_dir.join("fleet.pem");
    std::fs::write(&file, &ca.pem).unwrap();
    hub.ok(&["ca", "add", "fleet", "--file", file.to_str().unwrap()]);
    hub.until("the CRL is there", |hub| {
        hub.command(&["ca", "crl", "show", "fleet"]).status.success()
    });
    let shown = hub.json(&["ca", "crl", "show", "fleet"]);
    assert_eq!(
        (shown["number"].as_str(), shown["entries"].as_u64()),
        (Some("7"), Some(1))
    );
    assert_eq!(shown["source"], format!("http://127.0.0.1:{port}/fleet.crl"));
    let metrics = hub.ops("/metrics").1;
    assert!(
        metrics.contains("holdfast_crl_fetches_total{outcome=\"new\"} 1"),
        "{metrics}"
    );
    // The other commands about revocation, against a hub as it is.
    hub.ok(&[
        "ca",
        "revoke",
        "--certificate",
        file.to_str().unwrap(),
        "--reason",
        "superseded",
    ]);
    hub.ok(&["ca", "revoke", "--ca", "fleet", "--serial", "0A"]);
    let entries = hub.json(&["ca", "revoked", "-o", "json"]);
    let ids: Vec<&str> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 2);
    for id in ids {
        hub.ok(&["ca", "unrevoke", id]);
    }
    assert_eq!(hub.json(&["ca", "revoked", "-o", "json"]), serde_json::json!([]));
    let plan = hub.json(&["ca", "plan-rollover", "fleet", "--json"]);
    assert_eq!(
        plan["counts"],
        serde_json::json!({"below": 0, "elsewhere": 0, "unknown": 0})
    );
    assert!(
        hub.ok(&["ca", "plan-rollover", "fleet"])
            .contains("0 devices and modules are below it")
    );
    hub.ok(&["ca", "crl", "delete", "fleet"]);
    assert!(!hub.command(&["ca", "revoke", "--ca", "fleet"]).status.success());
}

/// The number of the list that a node has; a command of its own connection file.
fn number_at(node: &Path) -> Option<String> {
    let output = holdfast()
        .args(["ca", "crl", "show", "fleet", "--connection-file"])
        .arg(node)
        .output()
        .unwrap();
    let shown: serde_json::Value = serde_json::from_str(&text(&output.stdout)).ok()?;
    shown["number"].as_str().map(str::to_owned)
}

#[test]
fn a_crl_is_fetched_over_tls_and_by_the_next_leader_when_the_one_before_dies() {
    let dir = tempfile::tempdir().unwrap();
    let web_ca = dir.path().join("web.pem");
    let (ca, tls) = (Ca::new("Fleet"), private_tls(&web_ca));
    let body = Arc::new(Mutex::new(ca.crl(7)));
    let port = serve(Arc::clone(&body), Some(tls));
    let hub = Hub::start(&[
        "--nodes",
        "3",
        "--set",
        &format!("crl.sources=fleet=https://127.0.0.1:{port}/fleet.crl"),
        "--set",
        &format!("crl.ca_file={}", web_ca.display()),
        "--set",
        "crl.fetch_interval=7d",
    ]);
    let file = dir.path().join("fleet.pem");
    std::fs::write(&file, &ca.pem).unwrap();
    hub.ok(&["ca", "add", "fleet", "--file", file.to_str().unwrap()]);
    let connection = hub.connection();
    let nodes: Vec<_> = (connection["nodes"].as_array().unwrap().iter())
        .map(|node| Path::new(node["dataDir"].as_str().unwrap()).join("node.json"))
        .collect();
    for node in &nodes {
        hub.until("every node has the list", |_| number_at(node).as_deref() == Some("7"));
    }

    // The interval is a week: only a node that begins to lead fetches.
    *body.lock().unwrap() = ca.crl(8);
    let status = hub.json(&["cluster", "status", "--json"]);
    let registry = (status["groups"].as_array().unwrap().iter())
        .find(|group| group["name"] == "registry")
        .unwrap_or_else(|| panic!("{status:#}"));
    let leader = (status["nodes"].as_array().unwrap().iter())
        .find(|node| node["id"] == registry["leader"])
        .unwrap_or_else(|| panic!("{status:#}"));
    let number = (connection["nodes"].as_array().unwrap().iter())
        .position(|node| node["name"] == leader["name"])
        .unwrap();
    let pid = connection["pids"][number].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    for (at, node) in nodes.iter().enumerate() {
        if at != number {
            hub.until("the next leader fetches", |_| number_at(node).as_deref() == Some("8"));
        }
    }
}

#[test]
fn a_server_that_the_configured_ca_has_not_issued_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (web_ca, other) = (dir.path().join("web.pem"), dir.path().join("other.pem"));
    let ca = Ca::new("Fleet");
    let port = serve(Arc::new(Mutex::new(ca.crl(7))), Some(private_tls(&web_ca)));
    std::fs::write(&other, Ca::new("Other").pem).unwrap();
    let hub = Hub::start(&[
        "--set",
        &format!("crl.sources=fleet=https://127.0.0.1:{port}/fleet.crl"),
        "--set",
        &format!("crl.ca_file={}", other.display()),
    ]);
    let file = dir.path().join("fleet.pem");
    std::fs::write(&file, &ca.pem).unwrap();
    hub.ok(&["ca", "add", "fleet", "--file", file.to_str().unwrap()]);
    hub.until("the attempt has failed", |hub| {
        hub.ops("/metrics")
            .1
            .contains("holdfast_crl_fetches_total{outcome=\"failed\"}")
    });
    assert!(!hub.command(&["ca", "crl", "show", "fleet"]).status.success());
    assert!(hub.log().contains("no TLS"), "{}", hub.last_lines());
}
