//! Devices that register over AMQP, on a simulated cluster: SASL or none, links, messages, and refusals.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_amqp::message::{Message, Properties, begin_application_properties, put_data, put_properties};
use holdfast_amqp::types::{Raw, put_str};
use holdfast_amqp::{AttachSpec, ClientSasl, Event, InfoValue, LinkId, Outcome};
use holdfast_auth::Key;
use holdfast_auth::x509::KeyType;
use holdfast_gateway::AmqpConfig;
use holdfast_model::{CertificateChain, NodeId, RefusalReason};
use holdfast_provisioning::{CaKeySource, NewCa};
use holdfast_registry::{
    AttestationWrite, Authentication, CertificateSource, EnrollmentContent, EnrollmentKind, EnrollmentOperation,
    IssuanceForm, IssuancePolicy, IssuanceReference, X509Attestation,
};
use holdfast_service_api::events::EventsConfig;
use holdfast_simulation::{HOST, identity, simulate};
use holdfast_testkit::eventually;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use support::amqp::{Amqp, Device};
use support::factory::Factory;
use tokio::time::Instant;

const API_VERSION: &str = "com.microsoft:api-version";

/// The user name and the password of SASL PLAIN.
fn plain(factory: &Factory, id: &str, key: &Key) -> ClientSasl {
    ClientSasl::Plain {
        user: format!("{}/registrations/{id}", factory.scope),
        password: factory.token(id, key),
    }
}

/// A request as the SDKs send it.
fn request(operation: &str, operation_id: Option<&str>, body: &[u8], correlation_id: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut id = Vec::new();
    if let Some(text) = correlation_id {
        put_str(&mut id, text);
    }
    put_properties(
        &mut bytes,
        &Properties {
            correlation_id: correlation_id.and_then(|_| Raw::new(&id).ok()),
            ..Properties::default()
        },
    );
    let mut map = begin_application_properties(&mut bytes);
    put_str(map.string_key("iotdps-operation-type"), operation);
    if let Some(operation_id) = operation_id {
        put_str(map.string_key("iotdps-operation-id"), operation_id);
    }
    map.finish();
    put_data(&mut bytes, body);
    bytes
}

/// A device's two links.
struct Links {
    sender: LinkId,
    receiver: LinkId,
}

/// The outcome of a request.
#[derive(Debug)]
enum Answer {
    Reply {
        body: Value,
        correlation_id: Option<String>,
        retry_after: Vec<i64>,
    },
    Rejected {
        condition: String,
        body: Value,
    },
}

impl Answer {
    fn body(self) -> Value {
        match self {
            Self::Reply { body, .. } => body,
            Self::Rejected { .. } => panic!("{self:?}"),
        }
    }

    fn number(&self) -> u64 {
        match self {
            Self::Rejected { body, .. } => body["errorCode"].as_u64().unwrap(),
            Self::Reply { .. } => panic!("{self:?}"),
        }
    }
}

/// Attaches as the SDKs do: the receiver first.
async fn links(device: &mut Device, address: &str) -> Links {
    links_at(device, address, "2019-03-31").await
}

async fn links_at(device: &mut Device, address: &str, version: &str) -> Links {
    let properties = [(API_VERSION, InfoValue::Text(version))];
    let receiver = AttachSpec {
        properties: &properties,
        ..AttachSpec::receiver("recv_link", address)
    };
    let receiver = device.attach(&receiver).await.unwrap();
    let sender = AttachSpec {
        properties: &properties,
        ..AttachSpec::sender("sender_link", address)
    };
    let sender = device.attach(&sender).await.unwrap();
    device.credit(sender).await;
    device.engine.grant(receiver, 10);
    Links { sender, receiver }
}

/// Sends a request and waits for its reply, or for its rejection.
async fn ask(device: &mut Device, links: &Links, payload: &[u8]) -> Answer {
    device.credit(links.sender).await;
    device.transfer(links.sender, 0, payload);
    device.flush().await;
    let receiver = links.receiver;
    let mut is_accepted = false;
    device
        .until(move |engine, event| match event {
            Event::Disposition {
                session,
                first,
                last,
                outcome,
                ..
            } => {
                engine.take_outgoing(*session, *first, *last);
                match outcome.as_ref().unwrap() {
                    Outcome::Accepted => is_accepted = true,
                    Outcome::Rejected(Some(fault)) => {
                        return Some(Answer::Rejected {
                            condition: fault.condition.to_owned(),
                            body: serde_json::from_str(fault.description.unwrap()).unwrap(),
                        });
                    }
                    other => panic!("{other:?}"),
                }
                None
            }
            Event::Transfer(incoming) if incoming.link == receiver => {
                assert!(is_accepted, "the request is accepted before its reply");
                let message = Message::scan(&incoming.payload).unwrap();
                let properties = message.properties().unwrap();
                let retry_after = ["retry-after", "Retry-After"].iter().filter_map(|key| {
                    let value = message.application_properties.get(key).unwrap()?;
                    value.integer()
                });
                Some(Answer::Reply {
                    body: serde_json::from_slice(message.data().next().unwrap()).unwrap(),
                    correlation_id: properties
                        .correlation_id
                        .map(|id| id.value().unwrap().text().unwrap().to_owned()),
                    retry_after: retry_after.collect(),
                })
            }
            _ => None,
        })
        .await
}

#[test]
fn a_device_registers_by_its_key_over_sasl_plain() {
    simulate(async {
        let factory = Factory::start().await;
        let amqp = Amqp::serve(&factory.bench);
        // Node, Java and C write the address in forms of their own.
        for (id, address) in [
            ("SN-1", format!("{}/registrations/SN-1", factory.scope)),
            ("SN-2", format!("/{}/registrations/sn-2", factory.scope)),
            ("SN-3", format!("amqps://{HOST}/{}/registrations/SN-3", factory.scope)),
        ] {
            let key = factory.group_key.derive(id);
            let mut device = amqp.open_as(plain(&factory, id, &key), None).await;
            let links = links(&mut device, &address).await;
            let register = request("iotdps-register", None, b"{}", Some("one"));
            let answer = ask(&mut device, &links, &register).await;
            let Answer::Reply {
                body,
                correlation_id,
                retry_after,
            } = answer
            else {
                panic!("{answer:?}")
            };
            assert_eq!(correlation_id.as_deref(), Some("one"));
            assert_eq!(retry_after, [3, 3]);
            assert_eq!(body["status"], "assigned");
            assert_eq!(body["registrationState"]["assignedHub"], HOST);
            assert!(factory.registry().get(&identity(id)).await.unwrap().is_some());
            let operation_id = body["operationId"].as_str().unwrap();
            // Java and C send no correlation id.
            let poll = request("iotdps-get-operationstatus", Some(operation_id), b"", None);
            assert_eq!(ask(&mut device, &links, &poll).await.body(), body);
            let look_up = request("iotdps-get-registration", None, b"", None);
            let state = ask(&mut device, &links, &look_up).await.body();
            assert_eq!(state, body["registrationState"]);
        }
    });
}

#[test]
fn a_device_registers_by_its_certificate_without_sasl_and_with_external_or_anonymous() {
    simulate(async {
        let factory = Factory::start().await;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "cert-1");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let der = Bytes::copy_from_slice(certificate.der());
        let attestation = AttestationWrite::X509(Some(X509Attestation {
            source: CertificateSource::Client,
            primary: Some(der.clone()),
            secondary: None,
        }));
        let create = EnrollmentOperation::Create(attestation, EnrollmentContent::default());
        factory.enroll(EnrollmentKind::Individual, "cert-1", create).await;
        let chain = CertificateChain::new(vec![der]);
        let address = format!("{}/registrations/cert-1", factory.scope);
        let amqp = Amqp::serve(&factory.bench);
        for sasl in [ClientSasl::None, ClientSasl::Anonymous] {
            let mut device = amqp.open_as(sasl, chain.clone()).await;
            let links = links(&mut device, &address).await;
            let register = request("iotdps-register", None, b"", None);
            assert_eq!(ask(&mut device, &links, &register).await.body()["status"], "assigned");
        }
        // Another name than the certificate's.
        let mut device = amqp.open_as(ClientSasl::None, chain).await;
        let links = links(&mut device, &format!("{}/registrations/cert-2", factory.scope)).await;
        let answer = ask(&mut device, &links, &request("iotdps-register", None, b"{}", None)).await;
        assert_eq!(answer.number(), 401_000);
        let last = factory.bench.diagnosis("cert-2").await.pop().unwrap();
        assert_eq!(last.reason, RefusalReason::CommonName);
    });
}

#[test]
fn a_device_gets_a_certificate_over_amqp_from_the_first_version_with_certificates() {
    simulate(async {
        let factory = Factory::start().await;
        let new = NewCa {
            name: "fleet-ca".to_owned(),
            policies: vec![IssuancePolicy {
                name: "default".to_owned(),
                validity: Duration::from_secs(24 * 3600),
                key_types: vec![KeyType::EcdsaP256],
                names: vec!["*".to_owned()],
            }],
            source: CaKeySource::Generated {
                common_name: "Fleet CA".to_owned(),
                validity: Duration::from_secs(3650 * 24 * 3600),
            },
        };
        factory.bench.provisioning(NodeId(1)).create_ca(new).await.unwrap();
        let registry = factory.registry();
        eventually("the CA", || {
            let ca = registry.authorities().get("fleet-ca").is_some_and(|ca| ca.is_verified);
            ca && registry.issuers().get("fleet-ca").is_some()
        })
        .await;
        let content = EnrollmentContent {
            issuance: Some(IssuanceReference {
                issuer: "fleet-ca".to_owned(),
                policy: "default".to_owned(),
                namespace: String::new(),
                form: IssuanceForm::Names,
            }),
            ..EnrollmentContent::default()
        };
        let create = EnrollmentOperation::CreateOrUpdate(factory.attestation(), content);
        factory.enroll(EnrollmentKind::Group, "fleet", create).await;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "SN-9");
        let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let body = json!({"registrationId": "SN-9", "csr": STANDARD.encode(csr.der())}).to_string();
        let amqp = Amqp::serve(&factory.bench);
        let address = format!("{}/registrations/SN-9", factory.scope);
        let key = factory.group_key.derive("SN-9");
        for (version, is_issued) in [("2019-03-31", false), ("2026-11-01", true)] {
            let mut device = amqp.open_as(plain(&factory, "SN-9", &key), None).await;
            let links = links_at(&mut device, &address, version).await;
            let register = request("iotdps-register", None, body.as_bytes(), None);
            let answer = ask(&mut device, &links, &register).await.body();
            assert_eq!(answer["status"], "assigned");
            let chain = &answer["registrationState"]["issuedCertificateChain"];
            assert_eq!(chain.as_array().map(Vec::len), is_issued.then_some(2), "{version}");
            let look_up = request("iotdps-get-registration", None, b"", None);
            let state = ask(&mut device, &links, &look_up).await.body();
            assert!(state.get("issuedCertificateChain").is_none());
            let look_up = request("iotdps-get-registration", None, body.as_bytes(), None);
            assert_eq!(ask(&mut device, &links, &look_up).await.number(), 400_004);
        }
        let identity = registry.get(&identity("SN-9")).await.unwrap().unwrap();
        assert_eq!(identity.authentication, Authentication::CertificateAuthority);
    });
}

#[test]
fn links_that_cannot_register_are_refused_with_their_condition() {
    simulate(async {
        let factory = Factory::start().await;
        let amqp = Amqp::serve(&factory.bench);
        let key = factory.group_key.derive("SN-4");
        let own = format!("{}/registrations/SN-4", factory.scope);
        let mut device = amqp.open_as(plain(&factory, "SN-4", &key), None).await;
        for (address, version, condition) in [
            (
                format!("{}/registrations/SN-5", factory.scope),
                "2019-03-31",
                "amqp:unauthorized-access",
            ),
            (
                "0neFFFFFFFF/registrations/SN-4".to_owned(),
                "2019-03-31",
                "amqp:unauthorized-access",
            ),
            (own.clone(), "2030-01-01", "com.microsoft:argument-error"),
        ] {
            let spec = AttachSpec {
                properties: &[("com.microsoft:api-version", InfoValue::Text(version))],
                ..AttachSpec::sender(&address, &address)
            };
            assert_eq!(device.attach(&spec).await.unwrap_err().0, condition, "{address}");
        }
        // Neither SASL nor a certificate.
        let mut device = amqp.open().await;
        let refused = device.attach(&AttachSpec::sender("s", &own)).await.unwrap_err();
        assert_eq!(refused.0, "amqp:unauthorized-access");
        let foreign = "0neFFFFFFFF/registrations/SN-4";
        let refused = device.attach(&AttachSpec::sender("f", foreign)).await.unwrap_err();
        assert_eq!(refused.0, "amqp:not-found");
        // Links are bounded.
        let mut device = amqp.open_as(plain(&factory, "SN-4", &key), None).await;
        for number in 0..8 {
            device
                .attach(&AttachSpec::sender(&number.to_string(), &own))
                .await
                .unwrap();
        }
        let refused = device.attach(&AttachSpec::receiver("more", &own)).await.unwrap_err();
        assert_eq!(refused.0, "com.microsoft:device-container-throttled");
        let causes: Vec<_> = factory
            .bench
            .diagnosis("SN-4")
            .await
            .iter()
            .map(|refusal| refusal.reason)
            .collect();
        assert!(causes.contains(&RefusalReason::Version), "{causes:?}");
        assert!(causes.contains(&RefusalReason::Missing), "{causes:?}");
        assert!(causes.contains(&RefusalReason::Scope), "{causes:?}");
    });
}

#[test]
fn sasl_of_another_scope_or_without_a_token_fails_with_its_code() {
    simulate(async {
        let factory = Factory::start().await;
        let amqp = Amqp::serve(&factory.bench);
        let key = factory.group_key.derive("SN-6");
        for (user, password) in [
            ("0neFFFFFFFF/registrations/SN-6".to_owned(), factory.token("SN-6", &key)),
            (format!("{}/registrations/SN-6", factory.scope), String::new()),
        ] {
            let mut device = amqp.unopened(ClientSasl::Plain { user, password }, None);
            let code = device
                .until(|_, event| match event {
                    Event::SaslFailed(code) => Some(*code),
                    _ => None,
                })
                .await;
            assert_eq!(code, 1);
        }
    });
}

#[test]
fn wrong_keys_are_delayed_over_amqp_and_hostile_requests_are_answered() {
    simulate(async {
        let factory = Factory::start().await;
        let events = EventsConfig {
            unauthenticated_timeout: Duration::from_secs(10),
            ..EventsConfig::default()
        };
        let amqp = Amqp::serve_with(&factory.bench, AmqpConfig::default(), events);
        let address = format!("{}/registrations/SN-7", factory.scope);
        let mut delays = Vec::new();
        for _ in 0..7 {
            let wrong = Key::from_bytes(vec![1; 32]).unwrap();
            let mut device = amqp.open_as(plain(&factory, "SN-7", &wrong), None).await;
            let links = links(&mut device, &address).await;
            let begun = Instant::now();
            let answer = ask(&mut device, &links, &request("iotdps-register", None, b"{}", None)).await;
            assert_eq!(answer.number(), 401_000);
            let Answer::Rejected { condition, body } = answer else {
                panic!()
            };
            assert_eq!(condition, "amqp:unauthorized-access");
            assert!(body.get("operationId").is_none());
            delays.push(begun.elapsed());
        }
        assert!(
            delays[..5].iter().all(|delay| *delay < Duration::from_millis(100)),
            "{delays:?}"
        );
        assert!(delays[6] >= Duration::from_millis(250), "{delays:?}");
        let last = factory.bench.diagnosis("SN-7").await;
        assert!(last.iter().any(|record| record.reason == RefusalReason::Signature));

        let key = factory.group_key.derive("SN-7");
        let mut device = amqp.open_as(plain(&factory, "SN-7", &key), None).await;
        let links = links(&mut device, &address).await;
        for (payload, number) in [
            (b"\xff\x00".to_vec(), 400_006),
            (request("iotdps-delete", None, b"{}", None), 400_004),
            (request("iotdps-register", None, b"[]", None), 400_006),
            (
                request("iotdps-register", None, br#"{"registrationId":"x"}"#, None),
                400_004,
            ),
            (request("iotdps-register", None, &vec![b' '; 100_000], None), 413_001),
            (request("iotdps-get-operationstatus", Some("4.0.x"), b"", None), 404_201),
        ] {
            assert_eq!(ask(&mut device, &links, &payload).await.number(), number);
        }
        let register = request("iotdps-register", None, b"{}", None);
        assert_eq!(ask(&mut device, &links, &register).await.body()["status"], "assigned");
        let old = request("iotdps-get-operationstatus", Some("4.0.x"), b"", None);
        assert_eq!(ask(&mut device, &links, &old).await.number(), 404_203);
        // Without a further request the connection ends.
        let begun = Instant::now();
        assert_eq!(device.closed().await.0, "amqp:connection:forced");
        assert!((Duration::from_secs(9)..Duration::from_secs(15)).contains(&begun.elapsed()));
    });
}

#[test]
fn a_second_request_during_the_first_is_rejected_as_throttled() {
    simulate(async {
        let factory = Factory::start().await;
        let amqp = Amqp::serve(&factory.bench);
        let key = factory.group_key.derive("SN-8");
        let address = format!("{}/registrations/SN-8", factory.scope);
        let mut device = amqp.open_as(plain(&factory, "SN-8", &key), None).await;
        let first = links(&mut device, &address).await;
        let other = device.sender("other", &address).await;
        let register = request("iotdps-register", None, b"{}", None);
        device.transfer(first.sender, 0, &register);
        let second = device.transfer(other, 0, &register);
        device.flush().await;
        let (mut is_rejected, mut is_answered) = (false, false);
        let receiver = first.receiver;
        device
            .until(move |_, event| {
                match event {
                    Event::Disposition {
                        first, last, outcome, ..
                    } if (*first..=*last).contains(&second) => {
                        let Some(Outcome::Rejected(Some(fault))) = outcome else {
                            panic!("{outcome:?}")
                        };
                        assert_eq!(fault.condition, "com.microsoft:device-container-throttled");
                        is_rejected = true;
                    }
                    Event::Transfer(incoming) if incoming.link == receiver => is_answered = true,
                    _ => {}
                }
                (is_rejected && is_answered).then_some(())
            })
            .await;
        assert!(
            factory
                .bench
                .cluster
                .hub(NodeId(1))
                .registry()
                .registration("SN-8")
                .unwrap()
                .is_some()
        );
    });
}
