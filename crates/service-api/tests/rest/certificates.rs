//! The hub's CAs: in the shape of Azure's management calls, under our own path.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_registry::RegistryConfig;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
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

impl Ca {
    /// A list in PEM that never ends.
    fn crl(&self, number: u64, serials: impl Iterator<Item = u64>) -> String {
        let revoked_certs = serials.map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&issuer).unwrap().pem().unwrap()
    }
}

#[tokio::test]
async fn a_certificate_is_put_on_the_deny_list_shown_and_taken_off() {
    let hub = Hub::start().await;
    let ca = Ca::new("root");
    let body = json!({"certificate": ca.certificate.pem()});
    hub.owner("PUT", &format!("{CAS}/Root")).body(body).send().await.is(201);
    let path = "/holdfast/v1/revocations";
    let post = async |body: Value| hub.owner("POST", path).body(body).send().await;
    let device = ca.issue("d");
    let by_file =
        post(json!({"certificate": device.pem(), "reason": "keyCompromise", "comment": "lost in the field"})).await;
    by_file.is(201);
    let entry = by_file.json();
    assert_eq!(entry["reason"], "keyCompromise");
    assert_eq!(entry["id"], entry["thumbprint"]);
    let again = post(json!({"thumbprint": entry["thumbprint"], "reason": "superseded"})).await;
    again.is(200);
    assert_eq!(again.json(), entry, "the first entry stands");
    let by_number = post(json!({"ca": "root", "serialNumber": "0A:ff"})).await;
    by_number.is(201);
    let numbered = by_number.json();
    assert_eq!(
        (&numbered["ca"], &numbered["serialNumber"]),
        (&json!("Root"), &json!("0AFF"))
    );
    assert_eq!(numbered["reason"], "unspecified");
    // Page by page.
    let first = hub.owner("GET", path).query("top=1").send().await.json();
    let after = first["continuation"].as_str().unwrap();
    let second = hub
        .owner("GET", path)
        .query(&format!("top=1&after={after}"))
        .send()
        .await
        .json();
    assert!(second["continuation"].is_null());
    assert_ne!(first["value"], second["value"]);
    for entry in [&entry, &numbered] {
        let one = format!("{path}/{}", entry["id"].as_str().unwrap());
        assert_eq!(hub.owner("GET", &one).send().await.json(), *entry);
        hub.by("service", "DELETE", &one)
            .send()
            .await
            .refused(401_002, "IotHubUnauthorizedAccess");
        hub.owner("DELETE", &one).send().await.is(204);
        for method in ["GET", "DELETE"] {
            hub.owner(method, &one)
                .send()
                .await
                .refused(404_008, "CertificateNotFound");
        }
    }
    let digest = "A".repeat(64);
    let wrong: [(Value, &str); 9] = [
        (json!({}), "one way"),
        (json!({"thumbprint": "A".repeat(40)}), "SHA-256"),
        (json!({"thumbprint": digest, "ca": "root"}), "one way"),
        (json!({"ca": "root"}), "one way"),
        (json!({"ca": "root", "serialNumber": "x"}), "hexadecimal"),
        (json!({"certificate": "x"}), "PEM"),
        (json!({"thumbprint": digest, "reason": "boredom"}), "one of"),
        (json!({"thumbprint": digest, "comment": "x".repeat(257)}), "256"),
        (json!({"thumbprint": digest, "until": "tomorrow"}), "unknown"),
    ];
    for (body, part) in wrong {
        let refused = post(body).await;
        refused.refused(400_004, "ArgumentInvalid");
        assert!(refused.text().contains(part), "{part}: {}", refused.text());
    }
    post(json!({"ca": "none", "serialNumber": "1"}))
        .await
        .refused(404_008, "CertificateNotFound");
    hub.owner("GET", &format!("{path}/x"))
        .send()
        .await
        .refused(400_004, "ArgumentInvalid");
}

#[tokio::test]
async fn a_ca_is_given_its_revocation_list_and_only_newer_ones_after_it() {
    let hub = Hub::start().await;
    let ca = Ca::new("root");
    let body = json!({"certificate": ca.certificate.pem()});
    hub.owner("PUT", &format!("{CAS}/root")).body(body).send().await.is(201);
    let path = format!("{CAS}/root/crl");
    let put = async |crl: String| hub.owner("PUT", &path).raw_body(crl.into_bytes()).send().await;
    hub.owner("GET", &path)
        .send()
        .await
        .refused(404_008, "CertificateNotFound");
    // Larger than any other body.
    let large = ca.crl(5, 1..=40_000);
    assert!(large.len() > 1_100_000, "{}", large.len());
    let first = put(large.clone()).await;
    first.is(201);
    let shown = first.json();
    assert_eq!(
        (&shown["number"], &shown["entries"], &shown["hasEnded"]),
        (&json!("5"), &json!(40_000), &json!(false))
    );
    assert!(shown["source"].is_null());
    put(large).await.is(200);
    assert_eq!(hub.owner("GET", &path).send().await.json(), shown);
    let newer = put(ca.crl(6, 1..=2)).await;
    newer.is(200);
    assert_eq!(newer.json()["entries"], 2);
    for number in [5, 6] {
        put(ca.crl(number, 1..=3)).await.refused(400_003, "InvalidOperation");
    }
    for (crl, part) in [
        (Ca::new("root").crl(9, 1..=1), "not signed by the key"),
        (Ca::new("other").crl(9, 1..=1), "another name"),
        (ca.certificate.pem(), "PEM of an X509 CRL"),
        ("junk".to_owned(), "cannot be read"),
    ] {
        let refused = put(crl).await;
        refused.refused(400_004, "ArgumentInvalid");
        assert!(refused.text().contains(part), "{part}: {}", refused.text());
    }
    let most = holdfast_model::limits::MAX_CRL_BYTES / 2 * 3;
    put("x".repeat(most + 1)).await.refused(413_001, "MessageTooLarge");
    hub.by("registryReadWrite", "PUT", &path)
        .raw_body(b"x".to_vec())
        .send()
        .await
        .refused(401_002, "IotHubUnauthorizedAccess");
    hub.owner("DELETE", &path).send().await.is(204);
    hub.owner("DELETE", &path)
        .send()
        .await
        .refused(404_008, "CertificateNotFound");
    // A list that was removed may be given again.
    put(ca.crl(1, 1..=1)).await.is(201);
}

#[tokio::test]
async fn the_plan_of_a_rollover_counts_devices_and_modules_page_by_page() {
    let hub = Hub::start().await;
    let ca = Ca::new("root");
    let body = json!({"certificate": ca.certificate.pem()});
    hub.owner("PUT", &format!("{CAS}/root")).body(body).send().await.is(201);
    for number in 0..5 {
        let id = format!("d{number}");
        let kind = if number == 4 { "sas" } else { "certificateAuthority" };
        let body = json!({"deviceId": id, "authentication": {"type": kind}});
        hub.owner("PUT", &format!("/devices/{id}"))
            .body(body)
            .send()
            .await
            .is(200);
    }
    let body = json!({"deviceId": "d0", "moduleId": "m", "authentication": {"type": "certificateAuthority"}});
    hub.owner("PUT", "/devices/d0/modules/m")
        .body(body)
        .send()
        .await
        .is(201);
    let path = "/holdfast/v1/rollover";
    let (mut query, mut pages, mut unknown) = ("ca=ROOT&top=2".to_owned(), 0, 0);
    loop {
        let page = hub.owner("GET", path).query(&query).send().await;
        page.is(200);
        let page = page.json();
        assert_eq!(page["devices"], json!([]));
        unknown += page["counts"]["unknown"].as_u64().unwrap();
        pages += 1;
        match page["continuation"].as_str() {
            Some(after) => query = format!("ca=root&top=2&after={after}"),
            None => break,
        }
    }
    assert_eq!(unknown, 5, "four devices and a module; none has connected");
    assert!(pages >= 4, "{pages}");
    let digest = "A".repeat(64);
    hub.owner("GET", path)
        .query(&format!("issuer={digest}"))
        .send()
        .await
        .is(200);
    for query in ["", "issuer=AB", "ca=root&issuer=AB", "ca=root&after=a/b"] {
        hub.owner("GET", path)
            .query(query)
            .send()
            .await
            .refused(400_004, "ArgumentInvalid");
    }
    hub.owner("GET", path)
        .query("ca=none")
        .send()
        .await
        .refused(404_008, "CertificateNotFound");
    hub.by("service", "GET", path)
        .query("ca=root")
        .send()
        .await
        .refused(401_002, "IotHubUnauthorizedAccess");
}
