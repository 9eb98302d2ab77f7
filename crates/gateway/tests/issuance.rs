//! Devices that get certificates from the hub when they register, on a simulated cluster: bytes over in-memory streams.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

#[path = "issuance/kept.rs"]
mod kept;
#[path = "issuance/operations.rs"]
mod operations;
mod support;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_auth::x509::{ClientCertificate, KeyType};
use holdfast_auth::{Key, sign};
use holdfast_model::{CertificateChain, DeviceId, NodeId, RefusalReason};
use holdfast_mqtt::codec::{Connect, Packet, Publish, QoS};
use holdfast_provisioning::{CaKeySource, NewCa, Provisioning, SignerAnswer, SignerCall, SignerFuture};
use holdfast_registry::{
    AttestationWrite, Authentication, EnrollmentContent, EnrollmentKind, EnrollmentOperation, EnrollmentWrite,
    IssuanceForm, IssuancePolicy, IssuanceReference, Registry,
};
use holdfast_simulation::{HOST, NODES, identity, simulate};
use holdfast_testkit::eventually;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, PublicKeyData as _, SanType,
};
use serde_json::{Value, json};
use support::{Bench, Device, encoded};

const REGISTER: &str = "$dps/registrations/PUT/iotdps-register/?$rid=1";
const REPLIES: &str = "$dps/registrations/res/#";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];
const REFUSED: [u8; 4] = [0x20, 2, 0, 5];
const CURRENT: &str = "2026-11-02-preview";

struct Factory {
    bench: Bench,
    scope: String,
    group_key: Key,
    service: Arc<Provisioning>,
}

impl Factory {
    /// A cluster with an issuing CA "fleet-ca" and a group "fleet" of which devices get certificates.
    async fn start() -> Self {
        let bench = Bench::start().await;
        let hub = bench.cluster.hub(NodeId(1));
        let registry = hub.registry().clone();
        registry.found_provisioning().await.unwrap();
        let service = Arc::clone(bench.provisioning(NodeId(1)));
        let factory = Self {
            scope: registry.provisioning().unwrap().id_scope.clone(),
            group_key: Key::from_bytes(vec![7; 64]).unwrap(),
            bench,
            service,
        };
        let source = CaKeySource::Generated {
            common_name: "Fleet CA".to_owned(),
            validity: DAY * 3650,
        };
        factory.create_ca("fleet-ca", source).await;
        factory.enroll("fleet", Some("fleet-ca"), |_| {}).await;
        factory
    }

    async fn create_ca(&self, name: &str, source: CaKeySource) {
        let policy = IssuancePolicy {
            name: "default".to_owned(),
            validity: DAY * 30,
            key_types: vec![KeyType::EcdsaP256, KeyType::Rsa],
            names: vec!["SN-*".to_owned()],
        };
        let new = NewCa {
            name: name.to_owned(),
            policies: vec![policy],
            source,
        };
        self.service.create_ca(new).await.unwrap();
        eventually("the CA everywhere", || {
            NODES.into_iter().all(|node| {
                let registry = self.bench.cluster.hub(node).registry().clone();
                let is_verified = registry.authorities().get(name).is_some_and(|ca| ca.is_verified);
                is_verified && registry.issuers().get(name).is_some()
            })
        })
        .await;
    }

    async fn enroll(&self, group: &str, ca: Option<&str>, change: impl FnOnce(&mut EnrollmentContent)) {
        let mut content = EnrollmentContent {
            issuance: ca.map(|ca| IssuanceReference {
                issuer: ca.to_owned(),
                policy: "default".to_owned(),
                namespace: String::new(),
                form: IssuanceForm::Names,
            }),
            ..EnrollmentContent::default()
        };
        change(&mut content);
        let attestation = AttestationWrite::SymmetricKey {
            primary: Some(self.group_key.clone()),
            secondary: None,
        };
        let write = EnrollmentWrite {
            id: group.to_owned(),
            operation: EnrollmentOperation::CreateOrUpdate(attestation, content),
        };
        let registry = self.registry();
        registry.write_enrollment(EnrollmentKind::Group, write).await.unwrap();
    }

    fn registry(&self) -> Registry {
        self.bench.cluster.hub(NodeId(1)).registry().clone()
    }

    /// The answer to a registration.
    async fn register(&self, id: &str, version: &str, body: &Value) -> (String, Value) {
        let (_, topic, answer) = self.registering(NodeId(2), id, version, body).await;
        (topic, answer)
    }

    /// The answer to a registration, and the device that got it.
    async fn registering(&self, node: NodeId, id: &str, version: &str, body: &Value) -> (Device, String, Value) {
        let now = self.bench.cluster.hub(NodeId(1)).clock().now().seconds();
        let key = self.group_key.derive(id);
        let token = sign(
            &format!("{}/registrations/{id}", self.scope),
            key.as_bytes(),
            Some("registration"),
            now + 3600,
        );
        let username = format!("{}/registrations/{id}/api-version={version}", self.scope);
        let mut device = self.bench.open_at(node, 64 * 1024);
        device
            .send(&encoded(&Packet::Connect(Connect {
                clean: true,
                keep_alive: 60,
                client_id: id,
                username: Some(&username),
                password: Some(token.as_bytes()),
                ..Connect::default()
            })))
            .await;
        assert_eq!(device.receive(4).await, ACCEPTED);
        device.subscribe(REPLIES, QoS::AtMostOnce).await;
        device
            .send(&encoded(&Packet::Publish(Publish {
                topic: REGISTER,
                payload: body.to_string().as_bytes(),
                ..Publish::default()
            })))
            .await;
        let (topic, payload, _) = device.published().await;
        (device, topic, serde_json::from_slice(&payload).unwrap())
    }

    /// Registers with a request and returns the chain that the device has got.
    async fn issued(&self, id: &str, key: &KeyPair) -> CertificateChain {
        let (topic, answer) = self.register(id, CURRENT, &json!({"csr": csr(id, key)})).await;
        assert!(topic.starts_with("$dps/registrations/res/200/"), "{topic} {answer}");
        assert_eq!(answer["status"], "assigned", "{answer}");
        chain(&answer)
    }

    /// A CONNECT at the hub with a certificate, and the answer.
    async fn connect(&self, node: NodeId, id: &str, shown: &CertificateChain) -> (Device, Vec<u8>) {
        let mut device = self.bench.open_with_certificates(node, Some(shown.clone()));
        let username = format!("{HOST}/{id}/?api-version=2021-04-12");
        device
            .send(&encoded(&Packet::Connect(Connect {
                clean: true,
                keep_alive: 0,
                client_id: id,
                username: Some(&username),
                ..Connect::default()
            })))
            .await;
        let connack = device.receive(4).await;
        (device, connack)
    }
}

fn request(name: &str, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    change(&mut params);
    STANDARD.encode(params.serialize_request(key).unwrap().der())
}

fn csr(name: &str, key: &KeyPair) -> String {
    request(name, key, |_| {})
}

fn chain(answer: &Value) -> CertificateChain {
    let chain = answer["registrationState"]["issuedCertificateChain"].as_array();
    let ders = chain
        .expect("a chain")
        .iter()
        .map(|text| STANDARD.decode(text.as_str().unwrap()).unwrap().into());
    CertificateChain::new(ders).unwrap()
}

#[test]
fn a_device_gets_a_certificate_and_connects_with_it_at_once() {
    simulate(async {
        let factory = Factory::start().await;
        let key = KeyPair::generate().unwrap();
        // What a request wishes for is not granted.
        let wishes = request("SN-1", &key, |params| {
            params
                .subject_alt_names
                .push(SanType::DnsName("hub.example.com".try_into().unwrap()));
        });
        let (_, answer) = factory
            .register("SN-1", CURRENT, &json!({"registrationId": "SN-1", "csr": wishes}))
            .await;
        let issued = chain(&answer);
        assert_eq!(issued.iter().len(), 2, "the leaf and the root");
        let (_, leaf) = x509_parser::parse_x509_certificate(issued.leaf()).unwrap();
        assert!(leaf.subject_alternative_name().unwrap().is_none());
        assert_eq!(leaf.public_key().raw, key.subject_public_key_info());
        assert!(!leaf.is_ca());
        for node in NODES {
            let (_device, connack) = factory.connect(node, "SN-1", &issued).await;
            assert_eq!(connack, ACCEPTED, "{node:?}");
        }
        let found = factory.registry().get(&identity("SN-1")).await.unwrap().unwrap();
        assert_eq!(found.authentication, Authentication::CertificateAuthority);
        let device = DeviceId::parse("SN-1").unwrap();
        let recorded = factory.registry().device_certificates(&device).unwrap().unwrap();
        let read = ClientCertificate::parse(issued.leaf()).unwrap();
        assert_eq!(recorded.issued.len(), 1);
        assert_eq!(recorded.issued[0].serial, read.serial());
        assert_eq!(recorded.registration_id.as_deref(), Some("SN-1"));
        // A second one is valid beside it, and has another number.
        let second = factory.issued("SN-1", &key).await;
        assert_ne!(ClientCertificate::parse(second.leaf()).unwrap().serial(), read.serial());
        for shown in [&issued, &second] {
            assert_eq!(factory.connect(NodeId(3), "SN-1", shown).await.1, ACCEPTED);
        }
        // Another device's is none of this one's.
        let other = factory.issued("SN-2", &KeyPair::generate().unwrap()).await;
        assert_eq!(factory.connect(NodeId(1), "SN-1", &other).await.1, REFUSED);
    });
}

#[test]
fn a_wrong_request_is_refused_before_anything_is_assigned() {
    simulate(async {
        let factory = Factory::start().await;
        let key = KeyPair::generate().unwrap();
        let mut forged = STANDARD.decode(csr("SN-1", &key)).unwrap();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let foreign = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let large = request("SN-1", &key, |params| {
            params
                .subject_alt_names
                .extend((0..1000).map(|at| SanType::DnsName(format!("{at}.example.com").try_into().unwrap())));
        });
        for (csr, text) in [
            (csr("SN-2", &key), "common name"),
            (csr("sn-1", &key), "common name"),
            (STANDARD.encode(&forged), "signature"),
            (csr("SN-1", &foreign), "key"),
            // The policy has no P-384.
            (csr("SN-1", &p384), "ecdsa-p384"),
            (large, "bytes"),
            (STANDARD.encode([0x30; 2000]), "PKCS#10"),
            (STANDARD.encode("x".repeat(60_000)), "bytes"),
            ("-----BEGIN CERTIFICATE REQUEST-----".to_owned(), "base64"),
            (String::new(), "PKCS#10"),
        ] {
            let (topic, answer) = factory.register("SN-1", CURRENT, &json!({"csr": csr})).await;
            assert!(topic.starts_with("$dps/registrations/res/400/"), "{topic} {answer}");
            assert_eq!(answer["errorCode"], 400_004, "{answer}");
            let message = answer["message"].as_str().unwrap();
            assert!(message.contains(text), "{message} instead of {text}");
        }
        // The policy issues for other names.
        let (_, answer) = factory
            .register("other", CURRENT, &json!({"csr": csr("other", &key)}))
            .await;
        assert_eq!(answer["errorCode"], 400_004, "{answer}");
        factory.enroll("fleet", None, |_| {}).await;
        let (_, answer) = factory
            .register("SN-1", CURRENT, &json!({"csr": csr("SN-1", &key)}))
            .await;
        assert_eq!(answer["errorCode"], 400_004, "{answer}");
        assert!(factory.registry().registration("SN-1").unwrap().is_none());
        // An api-version that knows no certificates has no such field.
        let (_, answer) = factory
            .register("SN-1", "2019-03-31", &json!({"csr": csr("SN-1", &key)}))
            .await;
        assert_eq!(answer["status"], "assigned", "{answer}");
        assert!(answer["registrationState"].get("issuedCertificateChain").is_none());
    });
}

#[test]
fn a_revocation_ends_sessions_everywhere_within_a_second() {
    simulate(async {
        let factory = Factory::start().await;
        let key = KeyPair::generate().unwrap();
        let device = DeviceId::parse("SN-1").unwrap();
        let (first, second) = (factory.issued("SN-1", &key).await, factory.issued("SN-1", &key).await);
        let (session, _) = factory.connect(NodeId(3), "SN-1", &first).await;
        let begun = tokio::time::Instant::now();
        let serial = ClientCertificate::parse(first.leaf()).unwrap().serial().to_string();
        let revoked = factory.service.revoke_issued(&device, &serial, "keyCompromise", None);
        revoked.await.unwrap();
        session.rest().await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        for node in NODES {
            assert_eq!(factory.connect(node, "SN-1", &first).await.1, REFUSED, "{node:?}");
        }
        // The other one is still good.
        let (session, _) = factory.connect(NodeId(2), "SN-1", &second).await;
        let begun = tokio::time::Instant::now();
        let registry = factory.registry();
        registry
            .revoke_device_certificates(&device, "keyCompromise")
            .await
            .unwrap();
        session.rest().await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        for node in NODES {
            assert_eq!(factory.connect(node, "SN-1", &second).await.1, REFUSED, "{node:?}");
        }
        let record = factory.bench.diagnosis("SN-1").await.pop().unwrap();
        assert_eq!(record.reason, RefusalReason::CertificateRevoked, "{record:?}");
        // With its first credential it gets another one.
        let third = factory.issued("SN-1", &key).await;
        assert_eq!(factory.connect(NodeId(1), "SN-1", &third).await.1, ACCEPTED);
        assert_eq!(factory.connect(NodeId(1), "SN-1", &second).await.1, REFUSED);
    });
}

#[test]
fn a_device_that_begins_anew_loses_its_earlier_certificates() {
    simulate(async {
        let factory = Factory::start().await;
        let reset = holdfast_registry::ReprovisionPolicy {
            update_hub_assignment: true,
            migrate_device_data: false,
        };
        factory
            .enroll("fleet", Some("fleet-ca"), |content| content.reprovision = Some(reset))
            .await;
        let key = KeyPair::generate().unwrap();
        let first = factory.issued("SN-1", &key).await;
        let second = factory.issued("SN-1", &key).await;
        assert_eq!(factory.connect(NodeId(1), "SN-1", &first).await.1, REFUSED);
        assert_eq!(factory.connect(NodeId(1), "SN-1", &second).await.1, ACCEPTED);
    });
}

#[test]
fn an_external_signer_is_believed_as_far_as_it_is_checked() {
    simulate(async {
        let factory = Factory::start().await;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Plant CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let source = CaKeySource::External {
            chain: vec![ca.der().to_vec()],
            url: "http://signer.example.com/sign".to_owned(),
            token: None,
        };
        factory.create_ca("plant-ca", source).await;
        factory.enroll("fleet", Some("plant-ca"), |_| {}).await;
        let (key, other) = (Arc::new(KeyPair::generate().unwrap()), KeyPair::generate().unwrap());
        let signed = |name: &str, key: &KeyPair, days: i64| {
            let mut leaf = CertificateParams::default();
            leaf.distinguished_name.push(DnType::CommonName, name);
            let now = i64::try_from(factory.bench.cluster.hub(NodeId(1)).clock().now().seconds()).unwrap();
            leaf.not_before = time::OffsetDateTime::from_unix_timestamp(now - 60).unwrap();
            leaf.not_after = time::OffsetDateTime::from_unix_timestamp(now + days * 86_400).unwrap();
            let issuer = Issuer::from_params(&params, &ca_key);
            let leaf = leaf.signed_by(key, &issuer).unwrap();
            json!({"certificates": [STANDARD.encode(leaf.der())]}).to_string()
        };
        let answers = [
            (500, "out of order".to_owned(), "500"),
            (200, "<html>".to_owned(), "certificates"),
            (200, signed("SN-1", &other, 30), "another key"),
            (200, signed("SN-2", &key, 30), "common name"),
            (200, signed("SN-1", &key, 300), "longer"),
            (200, signed("SN-1", &key, 30), ""),
        ];
        for (status, body, text) in answers {
            for node in NODES {
                let (body, service) = (body.clone(), factory.bench.provisioning(node));
                service.set_signer(Arc::new(move |call: SignerCall| -> SignerFuture {
                    assert!(call.body.contains("\"commonName\":\"SN-1\""), "{}", call.body);
                    let body = body.clone().into_bytes();
                    Box::pin(async move { Ok(SignerAnswer { status, body }) })
                }));
            }
            let answer = factory.outcome("SN-1", &json!({"csr": csr("SN-1", &key)})).await;
            // Within the rate of polls.
            tokio::time::sleep(Duration::from_secs(3)).await;
            if text.is_empty() {
                assert_eq!(factory.connect(NodeId(1), "SN-1", &chain(&answer)).await.1, ACCEPTED);
                continue;
            }
            assert_eq!(answer["status"], "failed", "{answer}");
            let message = answer["registrationState"]["errorMessage"].as_str().unwrap();
            assert!(message.contains(text), "{message} instead of {text}");
            assert!(factory.registry().identity(&identity("SN-1")).unwrap().is_none());
        }
    });
}

const RENEW: &str = "$iothub/credentials/POST/issueCertificate/?$rid=";

async fn renew(session: &mut Device, rid: &str, body: &Value) {
    session
        .send(&encoded(&Packet::Publish(Publish {
            topic: &format!("{RENEW}{rid}"),
            payload: body.to_string().as_bytes(),
            ..Publish::default()
        })))
        .await;
}

async fn reply(session: &mut Device) -> (String, Value) {
    let (topic, payload, _) = session.published().await;
    (topic, serde_json::from_slice(&payload).unwrap())
}

#[test]
fn a_connected_device_renews_its_certificate_over_its_session() {
    simulate(async {
        let factory = Factory::start().await;
        let (old, new) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let first = factory.issued("SN-1", &old).await;
        let (mut session, _) = factory.connect(NodeId(2), "SN-1", &first).await;
        session.subscribe("$iothub/credentials/res/#", QoS::AtMostOnce).await;
        let good = json!({"id": "SN-1", "csr": csr("SN-1", &new), "replace": null});
        renew(&mut session, "a%2F1", &good).await;
        let (topic, accepted) = reply(&mut session).await;
        assert_eq!(topic, "$iothub/credentials/res/202/?$rid=a%2F1");
        assert!(accepted["operationExpires"].is_string(), "{accepted}");
        let (topic, done) = reply(&mut session).await;
        assert_eq!(topic, "$iothub/credentials/res/200/?$rid=a%2F1");
        assert_eq!(done["correlationId"], accepted["correlationId"]);
        let ders = done["certificates"].as_array().unwrap().iter();
        let second =
            CertificateChain::new(ders.map(|text| STANDARD.decode(text.as_str().unwrap()).unwrap().into())).unwrap();
        // The earlier one stays valid until it ends.
        assert_eq!(factory.connect(NodeId(1), "SN-1", &first).await.1, ACCEPTED);
        let (mut session, connack) = factory.connect(NodeId(3), "SN-1", &second).await;
        assert_eq!(connack, ACCEPTED);
        session.subscribe("$iothub/credentials/res/#", QoS::AtMostOnce).await;
        for (body, number) in [
            (json!({"id": "SN-2", "csr": csr("SN-2", &new)}), 400_040),
            (json!({"id": "SN-1", "csr": csr("SN-2", &new)}), 400_040),
            (json!({"id": "SN-1", "csr": "MIIB"}), 400_040),
            (json!({"id": "SN-1"}), 400_040),
            (json!([]), 400_040),
            (json!({"csr": csr("SN-1", &new), "replace": "other"}), 412_001),
        ] {
            renew(&mut session, "2", &body).await;
            let (topic, mut answer) = reply(&mut session).await;
            if topic.contains("/202/") {
                answer = reply(&mut session).await.1;
            }
            assert_eq!(answer["errorCode"], number, "{body} {answer}");
            assert_eq!(answer["info"]["requestId"], "2");
        }
        // A second request before the first is done.
        renew(&mut session, "3", &good).await;
        renew(&mut session, "4", &good).await;
        let mut topics = Vec::new();
        for _ in 0..3 {
            topics.push(reply(&mut session).await.0);
        }
        // 409_005: one request at a time.
        topics.sort();
        assert_eq!(
            topics,
            [
                "$iothub/credentials/res/200/?$rid=3",
                "$iothub/credentials/res/202/?$rid=3",
                "$iothub/credentials/res/409/?$rid=4"
            ]
        );
        // A disabled enrollment renews nothing.
        factory
            .enroll("fleet", Some("fleet-ca"), |content| content.is_disabled = true)
            .await;
        renew(&mut session, "5", &good).await;
        reply(&mut session).await;
        assert_eq!(reply(&mut session).await.1["errorCode"], 400_040);
    });
}
