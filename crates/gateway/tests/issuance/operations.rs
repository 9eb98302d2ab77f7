//! Certificates for devices whose registration is an operation: a webhook chooses their hub, they belong to another one, or a server outside
//! of the hub signs.

use holdfast_registry::{
    AllocationPolicy, CustomAllocation, HubLogin, LinkedHubContent, PendingCertificate, Registration,
};
use tokio::time::Instant;

use super::support::fake_hub::{FakeHubs, Fault};
use super::support::servers::Reaction;
use super::*;

pub(super) const A: &str = "a.example.com";
const B: &str = "b.example.com";

impl Factory {
    /// The registration, once its operation has ended.
    pub(super) async fn ended(&self, node: NodeId, id: &str) -> Registration {
        loop {
            let found = self.registration_at(node, id);
            if let Some(found) = found.filter(|found| found.pending().is_none()) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn registration_at(&self, node: NodeId, id: &str) -> Option<Registration> {
        self.bench.cluster.hub(node).registry().registration(id).unwrap()
    }

    /// The certificate of an operation in progress, once it is signed.
    async fn signed(&self, node: NodeId, id: &str) -> PendingCertificate {
        loop {
            let found = self.registration_at(node, id);
            let pending = found.as_ref().and_then(Registration::pending);
            if let Some(certificate) = pending.and_then(|pending| pending.certificate.clone()) {
                return certificate;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Registers at the current version, and waits for the end, as a client does.
    pub(super) async fn outcome(&self, id: &str, body: &Value) -> Value {
        let node = NodeId(2);
        let begun = Instant::now();
        let (mut device, topic, answer) = self.registering(node, id, CURRENT, body).await;
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        if answer["status"] != "assigning" {
            return answer;
        }
        assert!(topic.starts_with("$dps/registrations/res/202/"), "{topic}");
        assert!(answer["registrationState"].get("issuedCertificateChain").is_none());
        self.ended(node, id).await;
        poll(&mut device, &answer["operationId"]).await.1
    }

    pub(super) async fn by_webhook(&self, answer: &Value) {
        let answer = answer.to_string();
        self.bench.servers.react(move |_| Reaction::Answer(200, answer.clone()));
        self.enroll("fleet", Some("fleet-ca"), |content| {
            content.allocation = Some(AllocationPolicy::Custom);
            content.custom_allocation = Some(CustomAllocation::of(
                "https://hooks.example.com/api",
                "2021-10-01".to_owned(),
            ));
        })
        .await;
    }

    pub(super) async fn link(&self) -> FakeHubs {
        let hubs = FakeHubs::start(&self.bench.servers, &[A, B]);
        for host in [A, B] {
            let hub = LinkedHubContent {
                host_name: host.to_owned(),
                login: Some(HubLogin {
                    policy: "provisioning".to_owned(),
                    key: Some(self.group_key.clone()),
                }),
                weight: 1,
                applies_allocation: true,
                is_disabled: false,
                endpoint: None,
                ca_certificate: None,
                location: None,
            };
            self.registry().put_linked_hub(&hub, None).await.unwrap();
        }
        self.assign_to(&[A]).await;
        hubs
    }

    async fn assign_to(&self, hosts: &[&str]) {
        self.enroll("fleet", Some("fleet-ca"), |content| {
            content.allocation = Some(AllocationPolicy::Static);
            content.iot_hubs = hosts.iter().map(|host| (*host).to_owned()).collect();
        })
        .await;
    }

    fn leader(&self) -> NodeId {
        let leads = |node: &NodeId| self.bench.cluster.hub(*node).registry().is_leader();
        NODES.into_iter().find(leads).unwrap()
    }
}

async fn poll(device: &mut Device, operation_id: &Value) -> (String, Value) {
    let topic = format!(
        "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId={}",
        operation_id.as_str().unwrap()
    );
    device
        .send(&encoded(&Packet::Publish(Publish {
            topic: &topic,
            payload: b" ",
            ..Publish::default()
        })))
        .await;
    let (topic, payload, _) = device.published().await;
    (topic, serde_json::from_slice(&payload).unwrap())
}

pub(super) fn thumbprint(der: &[u8]) -> String {
    let leaf = ClientCertificate::parse(der).unwrap();
    leaf.fingerprints()
        .sha256
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect()
}

/// The thumbprints by which a fake hub knows a device.
pub(super) fn known(hubs: &FakeHubs, host: &str, id: &str) -> [Value; 2] {
    let all = hubs.0.lock();
    let authentication = &all[host].devices[id]["authentication"];
    assert_eq!(authentication["type"], "selfSigned", "{authentication}");
    let thumbprints = &authentication["x509Thumbprint"];
    [
        thumbprints["primaryThumbprint"].clone(),
        thumbprints["secondaryThumbprint"].clone(),
    ]
}

fn recorded(factory: &Factory, node: NodeId, id: &str) -> Vec<[u8; 32]> {
    let registry = factory.bench.cluster.hub(node).registry().clone();
    let found = registry.device_certificates(&DeviceId::parse(id).unwrap()).unwrap();
    found.map_or_else(Vec::new, |found| {
        found.issued.iter().map(|issued| issued.sha256).collect()
    })
}

#[test]
fn a_device_that_a_webhook_assigns_gets_its_certificate_with_the_end_of_its_operation() {
    simulate(async {
        let factory = Factory::start().await;
        factory.by_webhook(&json!({"iotHubHostName": HOST})).await;
        let key = KeyPair::generate().unwrap();
        let (mut device, topic, answer) = factory
            .registering(NodeId(2), "SN-1", CURRENT, &json!({"csr": csr("SN-1", &key)}))
            .await;
        assert!(topic.starts_with("$dps/registrations/res/202/"), "{topic} {answer}");
        factory.ended(NodeId(2), "SN-1").await;
        let (topic, end) = poll(&mut device, &answer["operationId"]).await;
        assert!(topic.starts_with("$dps/registrations/res/200/"), "{topic} {end}");
        let issued = chain(&end);
        assert_eq!(issued.iter().len(), 2, "the leaf and the root");
        // A client whose answer was lost reads it again, and it is the same.
        assert_eq!(poll(&mut device, &answer["operationId"]).await.1, end);
        for node in NODES {
            assert_eq!(factory.connect(node, "SN-1", &issued).await.1, ACCEPTED, "{node:?}");
        }
        assert_eq!(recorded(&factory, NodeId(1), "SN-1").len(), 1);
        // It ends with the device's epoch, as every certificate for this hub.
        let (session, _) = factory.connect(NodeId(3), "SN-1", &issued).await;
        let device = DeviceId::parse("SN-1").unwrap();
        let registry = factory.registry();
        registry
            .revoke_device_certificates(&device, "keyCompromise")
            .await
            .unwrap();
        session.rest().await;
        assert_eq!(factory.connect(NodeId(3), "SN-1", &issued).await.1, REFUSED);
    });
}

#[test]
fn a_request_that_the_operation_could_not_fulfil_begins_none() {
    simulate(async {
        let factory = Factory::start().await;
        factory.link().await;
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let key = KeyPair::generate().unwrap();
        for body in [csr("SN-1", &p384), csr("SN-2", &key), "MIIB".to_owned()] {
            let (topic, answer) = factory.register("SN-1", CURRENT, &json!({"csr": body})).await;
            assert!(topic.starts_with("$dps/registrations/res/400/"), "{topic} {answer}");
            assert_eq!(answer["errorCode"], 400_004, "{answer}");
        }
        let (_, answer) = factory.register("no", CURRENT, &json!({"csr": csr("no", &key)})).await;
        assert_eq!(answer["errorCode"], 400_004, "{answer}");
        assert!(factory.registry().registration("SN-1").unwrap().is_none());
        let calls = factory.bench.servers.calls.lock().clone();
        assert!(
            calls.iter().all(|call| call.url.contains("/statistics/")),
            "only latencies are measured"
        );
    });
}

#[test]
fn a_linked_hub_knows_a_device_by_its_newest_certificate_and_the_one_before() {
    simulate(async {
        let factory = Factory::start().await;
        let hubs = factory.link().await;
        let (old, new) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let first = chain(&factory.outcome("SN-1", &json!({"csr": csr("SN-1", &old)})).await);
        let leaf = ClientCertificate::parse(first.leaf()).unwrap();
        assert_eq!(leaf.epoch().unwrap(), None, "the other hub does not know it");
        assert_eq!(known(&hubs, A, "SN-1"), [json!(thumbprint(first.leaf())), Value::Null]);
        let second = chain(&factory.outcome("SN-1", &json!({"csr": csr("SN-1", &new)})).await);
        let both = [json!(thumbprint(second.leaf())), json!(thumbprint(first.leaf()))];
        assert_eq!(known(&hubs, A, "SN-1"), both);
        assert_eq!(recorded(&factory, NodeId(1), "SN-1").len(), 2);
        // A certificate that is revoked is not the one before.
        let device = DeviceId::parse("SN-1").unwrap();
        let serial = ClientCertificate::parse(second.leaf()).unwrap().serial().to_string();
        let revoked = factory.service.revoke_issued(&device, &serial, "keyCompromise", None);
        revoked.await.unwrap();
        let third = chain(&factory.outcome("SN-1", &json!({"csr": csr("SN-1", &new)})).await);
        let both = [json!(thumbprint(third.leaf())), json!(thumbprint(first.leaf()))];
        assert_eq!(known(&hubs, A, "SN-1"), both);
        // It comes to this hub, and its certificate with it.
        factory.assign_to(&[HOST]).await;
        let fourth = chain(&factory.outcome("SN-1", &json!({"csr": csr("SN-1", &new)})).await);
        assert_eq!(factory.connect(NodeId(3), "SN-1", &fourth).await.1, ACCEPTED);
        // And leaves it: the identity here goes, and the record is that of the next certificate.
        factory.assign_to(&[B]).await;
        let fifth = chain(&factory.outcome("SN-1", &json!({"csr": csr("SN-1", &new)})).await);
        assert_eq!(known(&hubs, B, "SN-1")[0], json!(thumbprint(fifth.leaf())));
        assert_eq!(factory.connect(NodeId(3), "SN-1", &fourth).await.1, REFUSED);
        assert_eq!(recorded(&factory, NodeId(1), "SN-1").len(), 1);
    });
}

#[test]
fn an_operation_has_one_certificate_whatever_its_leader_does() {
    simulate(async {
        let mut factory = Factory::start().await;
        let hubs = factory.link().await;
        let key = KeyPair::generate().unwrap();
        let leader = factory.leader();
        let other = NODES.into_iter().find(|node| *node != leader).unwrap();
        // The hub gets the device, and says nothing.
        hubs.set(A, Fault::LosesAnswers);
        let (mut device, _, answer) = factory
            .registering(other, "SN-1", CURRENT, &json!({"csr": csr("SN-1", &key)}))
            .await;
        let signed = factory.signed(other, "SN-1").await;
        while hubs.holders("SN-1").is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(recorded(&factory, other, "SN-1").is_empty(), "nothing is delivered yet");
        factory.bench.cluster.kill(leader);
        hubs.set(A, Fault::None);
        factory.ended(other, "SN-1").await;
        let (_, end) = poll(&mut device, &answer["operationId"]).await;
        let issued = chain(&end);
        assert_eq!(issued.leaf(), &signed.chain.certificates[0][..]);
        assert_eq!(known(&hubs, A, "SN-1"), [json!(thumbprint(issued.leaf())), Value::Null]);
        assert_eq!(recorded(&factory, other, "SN-1"), [signed.issue.certificate.sha256]);
    });
}

#[test]
fn what_is_revoked_before_it_is_delivered_is_signed_anew() {
    simulate(async {
        let factory = Factory::start().await;
        let hubs = factory.link().await;
        let key = KeyPair::generate().unwrap();
        factory.outcome("SN-1", &json!({"csr": csr("SN-1", &key)})).await;
        hubs.set(A, Fault::Down);
        let (mut device, _, answer) = factory
            .registering(NodeId(2), "SN-1", CURRENT, &json!({"csr": csr("SN-1", &key)}))
            .await;
        let signed = factory.signed(NodeId(2), "SN-1").await;
        let id = DeviceId::parse("SN-1").unwrap();
        let registry = factory.registry();
        registry.revoke_device_certificates(&id, "keyCompromise").await.unwrap();
        hubs.set(A, Fault::None);
        factory.ended(NodeId(2), "SN-1").await;
        let issued = chain(&poll(&mut device, &answer["operationId"]).await.1);
        assert_ne!(issued.leaf(), &signed.chain.certificates[0][..]);
        assert_eq!(known(&hubs, A, "SN-1"), [json!(thumbprint(issued.leaf())), Value::Null]);
    });
}

#[test]
fn a_registration_with_another_request_takes_the_operation_over() {
    simulate(async {
        let factory = Factory::start().await;
        let hubs = factory.link().await;
        let (first, second) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        hubs.set(A, Fault::Down);
        let body = json!({"csr": csr("SN-1", &first)});
        let (mut early, _, one) = factory.registering(NodeId(2), "SN-1", CURRENT, &body).await;
        let (_same, _, again) = factory.registering(NodeId(3), "SN-1", CURRENT, &body).await;
        assert_eq!(one["operationId"], again["operationId"], "the same request joins it");
        let body = json!({"csr": csr("SN-1", &second)});
        let (mut late, topic, two) = factory.registering(NodeId(3), "SN-1", CURRENT, &body).await;
        assert!(topic.starts_with("$dps/registrations/res/202/"), "{topic} {two}");
        assert_ne!(one["operationId"], two["operationId"]);
        hubs.set(A, Fault::None);
        factory.ended(NodeId(3), "SN-1").await;
        let end = poll(&mut late, &two["operationId"]).await.1;
        let issued = chain(&end);
        let leaf = ClientCertificate::parse(issued.leaf()).unwrap();
        assert_eq!(leaf.key(), second.subject_public_key_info());
        assert_eq!(known(&hubs, A, "SN-1")[0], json!(thumbprint(issued.leaf())));
        let (topic, gone) = poll(&mut early, &one["operationId"]).await;
        assert!(topic.starts_with("$dps/registrations/res/404/"), "{topic} {gone}");
        assert_eq!(recorded(&factory, NodeId(1), "SN-1").len(), 1);
    });
}

#[test]
fn a_device_that_begins_anew_is_known_by_the_certificate_of_its_operation() {
    simulate(async {
        let factory = Factory::start().await;
        factory.by_webhook(&json!({"iotHubHostName": HOST})).await;
        let reset = holdfast_registry::ReprovisionPolicy {
            update_hub_assignment: true,
            migrate_device_data: false,
        };
        factory
            .enroll("fleet", Some("fleet-ca"), |content| {
                content.allocation = Some(AllocationPolicy::Custom);
                content.custom_allocation = Some(CustomAllocation::of("https://hooks.example.com/x", String::new()));
                content.reprovision = Some(reset);
            })
            .await;
        let key = KeyPair::generate().unwrap();
        let first = chain(&factory.outcome("SN-1", &json!({"csr": csr("SN-1", &key)})).await);
        let end = factory.outcome("SN-1", &json!({"csr": csr("SN-1", &key)})).await;
        assert_eq!(end["registrationState"]["substatus"], "deviceDataReset");
        assert_eq!(factory.connect(NodeId(1), "SN-1", &first).await.1, REFUSED);
        assert_eq!(factory.connect(NodeId(1), "SN-1", &chain(&end)).await.1, ACCEPTED);
    });
}

#[test]
fn a_signer_that_hangs_holds_no_device_up() {
    simulate(async {
        let mut factory = Factory::start().await;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Plant CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let source = CaKeySource::External {
            chain: vec![params.self_signed(&ca_key).unwrap().der().to_vec()],
            url: "https://signer.example.com/sign".to_owned(),
            token: None,
        };
        factory.create_ca("plant-ca", source).await;
        factory.enroll("fleet", Some("plant-ca"), |_| {}).await;
        let issuer = Arc::new(Issuer::new(params, ca_key));
        let calls: Arc<std::sync::Mutex<Vec<Value>>> = Arc::default();
        for node in NODES {
            let calls = Arc::clone(&calls);
            factory
                .bench
                .provisioning(node)
                .set_signer(Arc::new(move |call: SignerCall| -> SignerFuture {
                    calls.lock().unwrap().push(serde_json::from_str(&call.body).unwrap());
                    Box::pin(async {
                        tokio::time::sleep(Duration::from_secs(5)).await;
                        Err("the signer did not answer within 5000 ms".to_owned())
                    })
                }));
        }
        let leader = factory.leader();
        let other = NODES.into_iter().find(|node| *node != leader).unwrap();
        let key = Arc::new(KeyPair::generate().unwrap());
        let begun = Instant::now();
        let body = json!({"csr": csr("SN-1", &key)});
        let (mut device, topic, answer) = factory.registering(other, "SN-1", CURRENT, &body).await;
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        assert!(topic.starts_with("$dps/registrations/res/202/"), "{topic} {answer}");
        while calls.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Its leader dies while the signer works: the next one calls with the same operation.
        let now = i64::try_from(factory.bench.cluster.hub(other).clock().now().seconds()).unwrap();
        for node in NODES.into_iter().filter(|node| *node != leader) {
            let (calls, key, issuer) = (Arc::clone(&calls), Arc::clone(&key), Arc::clone(&issuer));
            factory
                .bench
                .provisioning(node)
                .set_signer(Arc::new(move |call: SignerCall| -> SignerFuture {
                    calls.lock().unwrap().push(serde_json::from_str(&call.body).unwrap());
                    let mut leaf = CertificateParams::default();
                    leaf.distinguished_name.push(DnType::CommonName, "SN-1");
                    leaf.not_before = time::OffsetDateTime::from_unix_timestamp(now - 60).unwrap();
                    leaf.not_after = time::OffsetDateTime::from_unix_timestamp(now + 86_400).unwrap();
                    let leaf = leaf.signed_by(&*key, &issuer).unwrap();
                    let body = json!({"certificates": [STANDARD.encode(leaf.der())]})
                        .to_string()
                        .into_bytes();
                    Box::pin(async move { Ok(SignerAnswer { status: 200, body }) })
                }));
        }
        factory.bench.cluster.kill(leader);
        factory.ended(other, "SN-1").await;
        let issued = chain(&poll(&mut device, &answer["operationId"]).await.1);
        assert_eq!(issued.iter().len(), 2);
        assert_eq!(factory.connect(other, "SN-1", &issued).await.1, ACCEPTED);
        assert_eq!(recorded(&factory, other, "SN-1").len(), 1);
        let calls = calls.lock().unwrap();
        assert!(
            calls.iter().all(|call| call["operationId"] == answer["operationId"]),
            "{calls:?}"
        );
    });
}

#[test]
fn a_revocation_reaches_a_linked_hub_and_changes_nothing_else() {
    simulate(async {
        let factory = Factory::start().await;
        let hubs = factory.link().await;
        // Data begin anew with a registration, and with nothing else.
        let reset = holdfast_registry::ReprovisionPolicy {
            update_hub_assignment: true,
            migrate_device_data: false,
        };
        let key = KeyPair::generate().unwrap();
        let first = chain(&factory.outcome("SN-1", &json!({"csr": csr("SN-1", &key)})).await);
        let second = chain(&factory.outcome("SN-1", &json!({"csr": csr("SN-1", &key)})).await);
        factory
            .enroll("fleet", Some("fleet-ca"), |content| {
                content.allocation = Some(AllocationPolicy::Static);
                content.iot_hubs = vec![B.to_owned()];
                content.reprovision = Some(reset);
            })
            .await;
        hubs.0.lock().get_mut(A).unwrap().devices.get_mut("SN-1").unwrap()["tags"] = json!({"site": "x"});
        let device = DeviceId::parse("SN-1").unwrap();
        let serial = ClientCertificate::parse(second.leaf()).unwrap().serial().to_string();
        let revoked = factory.service.revoke_issued(&device, &serial, "keyCompromise", None);
        revoked.await.unwrap();
        let begun = Instant::now();
        factory.ended(NodeId(1), "SN-1").await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(known(&hubs, A, "SN-1"), [json!(thumbprint(first.leaf())), Value::Null]);
        // The hub is down for minutes; the revocation waits for it, and chooses no other one.
        hubs.set(A, Fault::Down);
        factory
            .service
            .revoke_all_issued(&device, "keyCompromise")
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(100)).await;
        // It outlives a change of the enrollment.
        factory.assign_to(&[B]).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(factory.registration_at(NodeId(1), "SN-1").unwrap().pending().is_some());
        hubs.set(A, Fault::None);
        factory.ended(NodeId(1), "SN-1").await;
        let [primary, secondary] = known(&hubs, A, "SN-1");
        let revoked = [json!(thumbprint(first.leaf())), json!(thumbprint(second.leaf()))];
        assert!(
            !revoked.contains(&primary) && secondary.is_null(),
            "{primary} {secondary}"
        );
        assert_eq!(hubs.0.lock()[A].devices["SN-1"]["tags"], json!({"site": "x"}));
        assert_eq!(hubs.holders("SN-1"), [A]);
        // A device that registers meanwhile does not wait for it.
        hubs.set(A, Fault::Down);
        factory
            .service
            .revoke_all_issued(&device, "keyCompromise")
            .await
            .unwrap();
        factory.assign_to(&[B]).await;
        hubs.set(A, Fault::None);
        let third = chain(&factory.outcome("SN-1", &json!({"csr": csr("SN-1", &key)})).await);
        assert_eq!(known(&hubs, B, "SN-1"), [json!(thumbprint(third.leaf())), Value::Null]);
        // A device that is gone there is not made.
        hubs.0.lock().get_mut(B).unwrap().devices.clear();
        factory
            .service
            .revoke_all_issued(&device, "keyCompromise")
            .await
            .unwrap();
        factory.ended(NodeId(1), "SN-1").await;
        assert!(!hubs.holders("SN-1").contains(&B.to_owned()));
    });
}

#[test]
fn a_revocation_continues_when_a_registration_that_has_overtaken_it_fails() {
    simulate(async {
        let factory = Factory::start().await;
        let hubs = factory.link().await;
        let key = KeyPair::generate().unwrap();
        let first = chain(&factory.outcome("SN-1", &json!({"csr": csr("SN-1", &key)})).await);
        let device = DeviceId::parse("SN-1").unwrap();
        hubs.set(A, Fault::Down);
        let revoked = factory.service.revoke_all_issued(&device, "keyCompromise");
        revoked.await.unwrap();
        // It has the same hub, which stays down longer than a registration waits.
        let body = json!({"csr": csr("SN-1", &key)});
        let (mut connection, _, answer) = factory.registering(NodeId(2), "SN-1", CURRENT, &body).await;
        let operation = &answer["operationId"];
        let failed = loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let (_, answer) = poll(&mut connection, operation).await;
            if answer["status"] != "assigning" {
                break answer;
            }
        };
        assert_eq!(failed["status"], "failed", "{failed}");
        assert!(failed["registrationState"]["errorMessage"].is_string(), "{failed}");
        tokio::time::sleep(Duration::from_secs(100)).await;
        let waiting = factory.registration_at(NodeId(1), "SN-1").unwrap();
        assert!(
            waiting.pending().is_some() && waiting.failure().is_some(),
            "{waiting:?}"
        );
        assert_eq!(known(&hubs, A, "SN-1")[0], json!(thumbprint(first.leaf())));
        hubs.set(A, Fault::None);
        let ended = factory.ended(NodeId(1), "SN-1").await;
        assert_ne!(known(&hubs, A, "SN-1")[0], json!(thumbprint(first.leaf())));
        // The device is shut out, and its registration is as it has been answered.
        assert!(ended.failure().is_some(), "{ended:?}");
        let history = ended.past_operations();
        let ids: Vec<&str> = history.iter().map(|past| past.operation_id.as_str()).collect();
        assert_eq!(ids.iter().filter(|id| *operation == json!(id)).count(), 1, "{ids:?}");
        let again = factory.outcome("SN-1", &json!({"csr": csr("SN-1", &key)})).await;
        let second = chain(&again);
        assert_eq!(known(&hubs, A, "SN-1"), [json!(thumbprint(second.leaf())), Value::Null]);
    });
}
