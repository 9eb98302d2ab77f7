//! A hub that fetches the CRL of a CA by itself.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod harness;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use harness::Hub;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

/// Answers every request with `body`.
fn serve(body: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    port
}

#[test]
fn the_crl_is_fetched_as_soon_as_its_ca_is_there() {
    let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
    params.distinguished_name.push(DnType::CommonName, "Fleet");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let crl = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from(7_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(1_u64),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let crl = crl.signed_by(&Issuer::from_params(&params, &key)).unwrap();
    let port = serve(crl.der().to_vec());
    let hub = Hub::start(&["--set", &format!("crl.sources=fleet=http://127.0.0.1:{port}/fleet.crl")]);
    let file = hub.data_dir.join("fleet.pem");
    std::fs::write(&file, ca.pem()).unwrap();
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
