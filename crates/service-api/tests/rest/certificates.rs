//! The hub's CAs: in the shape of Azure's management calls, under our own path.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_registry::RegistryConfig;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use crate::support::Hub;

const CAS: &str = "/holdfast/v1/certificates";

fn params(common_name: &str, is_ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

struct Ca {
    params: CertificateParams,
    key: KeyPair,
    certificate: Certificate,
}

impl Ca {
    fn new(common_name: &str) -> Self {
        let (params, key) = (params(common_name, true), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self {
            params,
            key,
            certificate,
        }
    }

    fn issue(&self, common_name: &str) -> Certificate {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params(common_name, false)
            .signed_by(&KeyPair::generate().unwrap(), &issuer)
            .unwrap()
    }
}

#[tokio::test]
async fn a_ca_is_added_proved_listed_and_removed() {
    let hub = Hub::start().await;
    let ca = Ca::new("Fleet Root");
    let path = format!("{CAS}/Fleet");
    let body = json!({"properties": {"certificate": ca.certificate.pem()}});
    let added = hub.owner("PUT", &path).body(body.clone()).send().await;
    added.is(201);
    let added = added.json();
    let properties = &added["properties"];
    assert_eq!(
        (added["name"].as_str(), properties["isVerified"].as_bool()),
        (Some("Fleet"), Some(false))
    );
    assert_eq!(properties["certificate"], STANDARD.encode(ca.certificate.der()));
    assert_eq!(properties["subject"], "CN=Fleet Root");
    assert_eq!(properties["expiry"], "Sun, 01 Jan 4096 00:00:00 GMT");
    for name in ["created", "updated"] {
        assert!(properties[name].as_str().unwrap().ends_with(" GMT"), "{properties}");
    }
    assert_eq!(properties["thumbprint"].as_str().unwrap().len(), 40);
    assert!(properties["verificationCode"].is_null());
    hub.owner("PUT", &path)
        .body(body.clone())
        .send()
        .await
        .refused(409_000, "GenericConflict");

    // The proof of possession.
    let verify = format!("{path}/verify");
    let proof = |certificate: &Certificate| json!({"certificate": STANDARD.encode(certificate.der())});
    let early = hub.owner("POST", &verify).body(proof(&ca.issue("x"))).send().await;
    early.refused(400_003, "InvalidOperation");
    let generate = format!("{path}/generateVerificationCode");
    let stale = hub.owner("POST", &generate).header("if-match", "\"x\"").send().await;
    stale.refused(412_001, "PreconditionFailed");
    let etag = format!("\"{}\"", added["etag"].as_str().unwrap());
    let generated = hub
        .owner("POST", &generate)
        .header("if-match", &etag)
        .send()
        .await
        .json();
    let code = generated["properties"]["verificationCode"].as_str().unwrap();
    assert_eq!(code.len(), 48);
    for (certificate, part) in [
        (ca.issue("x"), "common name"),
        (Ca::new("Fleet Root").issue(code), "has not signed"),
        (ca.certificate.clone(), "common name"),
    ] {
        let refused = hub.owner("POST", &verify).body(proof(&certificate)).send().await;
        refused.refused(400_004, "ArgumentInvalid");
        assert!(refused.text().contains(part), "{}", refused.text());
    }
    let verified = hub
        .owner("POST", &verify)
        .body(proof(&ca.issue(code)))
        .send()
        .await
        .json();
    assert_eq!(verified["properties"]["isVerified"], true);
    let shown = hub.owner("GET", &path).send().await;
    assert_eq!(shown.json(), verified);
    let list = hub.owner("GET", CAS).send().await.json();
    assert_eq!(list, json!({"value": [verified]}));

    let stale = hub.owner("DELETE", &path).header("if-match", "\"x\"").send().await;
    stale.refused(412_001, "PreconditionFailed");
    hub.owner("DELETE", &path).send().await.is(204);
    for method in ["GET", "DELETE"] {
        hub.owner(method, &path)
            .send()
            .await
            .refused(404_008, "CertificateNotFound");
    }
}

#[tokio::test]
async fn what_cannot_be_a_ca_is_refused_with_the_rule() {
    let hub = Hub::start().await;
    let ca = Ca::new("root");
    let mut over = params("over", true);
    over.not_after = date_time_ymd(2020, 1, 1);
    let over = over.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let table: [(Value, &str); 8] = [
        (json!({}), "missing"),
        (json!({"certificate": ""}), "no X.509 certificate"),
        (json!({"certificate": "????"}), "neither PEM nor base64"),
        (json!({"certificate": ca.issue("d").pem()}), "no CA's"),
        (json!({"certificate": ca.certificate.pem().repeat(2)}), "more than one"),
        (json!({"certificate": over.pem()}), "ended at 2020-01-01"),
        (json!({"certificate": "A".repeat(60_000)}), "allowed are"),
        (
            json!({"certificate": ca.certificate.pem(), "verified": true}),
            "verified",
        ),
    ];
    for (body, part) in table {
        let refused = hub.owner("PUT", &format!("{CAS}/x")).body(body.clone()).send().await;
        refused.refused(400_004, "ArgumentInvalid");
        assert!(refused.text().contains(part), "{part}: {}", refused.text());
    }
    let body = json!({"certificate": ca.certificate.pem(), "isVerified": true});
    let name = "x".repeat(65);
    for path in [format!("{CAS}/{name}"), format!("{CAS}/a%20b")] {
        let refused = hub.owner("PUT", &path).body(body.clone()).send().await;
        refused.refused(400_004, "ArgumentInvalid");
    }
    for policy in ["service", "registryReadWrite", "device"] {
        let refused = hub
            .by(policy, "PUT", &format!("{CAS}/x"))
            .body(body.clone())
            .send()
            .await;
        refused.refused(401_002, "IotHubUnauthorizedAccess");
    }
    // As many as the configuration allows.
    for number in 0..RegistryConfig::default().max_cas {
        let body = json!({"certificate": Ca::new(&number.to_string()).certificate.pem(), "isVerified": true});
        let added = hub.owner("PUT", &format!("{CAS}/ca-{number}")).body(body).send().await;
        added.is(201);
        assert_eq!(added.json()["properties"]["isVerified"], true);
    }
    let full = hub.owner("PUT", &format!("{CAS}/x")).body(body).send().await;
    full.refused(400_003, "InvalidOperation");
}
