//! Devices that prove themselves by a TPM, over HTTPS and AMQP, on a simulated cluster: the challenge of one node is answered at
//! another, and what is malformed, foreign or replayed is refused. `auth` and `holdfast` try the same with a software TPM.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_amqp::frame::{self, SASL_HEADER, TYPE_SASL};
use holdfast_amqp::message::{Message, begin_application_properties, put_data};
use holdfast_amqp::performative::{SaslFrame, encode_response};
use holdfast_amqp::types::put_str;
use holdfast_amqp::{AttachSpec, ClientSasl, Event, Outcome, SaslInit};
use holdfast_model::{NodeId, RefusalReason};
use holdfast_mqtt::codec::{Connect, Packet};
use holdfast_registry::{
    AttestationWrite, EnrollmentContent, EnrollmentKind, EnrollmentOperation, IfMatch, TpmEnrollmentKeys,
};
use holdfast_simulation::{HOST, identity, simulate};
use holdfast_testkit::tpm::EmulatedTpm;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use support::amqp::{Amqp, Device};
use support::encoded;
use support::factory::Factory;
use support::https::{Answer, Https};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

const VERSION: &str = "api-version=2019-03-31";

/// A device with a TPM, as a client's SDK drives it.
struct TpmDevice {
    tpm: EmulatedTpm,
    id: &'static str,
}

impl TpmDevice {
    /// A device with an enrollment of its own.
    async fn enrolled(factory: &Factory, id: &'static str) -> Self {
        let device = Self {
            tpm: EmulatedTpm::new(),
            id,
        };
        device.enroll(factory, EnrollmentContent::default()).await;
        device
    }

    fn attestation(&self) -> AttestationWrite {
        AttestationWrite::Tpm(Some(TpmEnrollmentKeys {
            endorsement_key: self.tpm.endorsement_key().into(),
            storage_root_key: None,
        }))
    }

    async fn enroll(&self, factory: &Factory, content: EnrollmentContent) {
        let write = EnrollmentOperation::CreateOrUpdate(self.attestation(), content);
        factory.enroll(EnrollmentKind::Individual, self.id, write).await;
    }

    fn body(&self) -> Vec<u8> {
        body(&self.tpm.endorsement_key(), &self.tpm.storage_root_key())
    }

    /// A token for `resource`, signed in the TPM.
    fn token(&self, factory: &Factory, resource: &str, key_name: Option<&str>) -> String {
        let now = factory.bench.cluster.hub(NodeId(1)).clock().now().seconds();
        let (resource, expiry) = (percent_encode(resource), now + 3600);
        let signature = self.tpm.hmac(format!("{resource}\n{expiry}").as_bytes());
        let signature = percent_encode(&STANDARD.encode(signature));
        let name = key_name.map_or_else(String::new, |name| format!("&skn={name}"));
        format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}{name}")
    }

    fn registration_token(&self, factory: &Factory) -> String {
        let resource = format!("{}/registrations/{}", factory.scope, self.id);
        self.token(factory, &resource, Some("registration"))
    }

    fn path(&self, factory: &Factory) -> String {
        format!("/{}/registrations/{}", factory.scope, self.id)
    }

    async fn put(&self, factory: &Factory, node: u64, token: &str, body: &[u8]) -> Answer {
        let mut https = Https::open(&factory.bench, NodeId(node), None);
        let path = format!("{}/register?{VERSION}", self.path(factory));
        https.request("PUT", &path, token, &[], body).await
    }

    /// Takes the challenge of a node into the TPM; the answer.
    async fn challenged(&mut self, factory: &Factory, node: u64) -> Answer {
        let answer = self.put(factory, node, "", &self.body()).await;
        if let Some(blob) = answer.json()["authenticationKey"].as_str() {
            self.tpm.activate(&STANDARD.decode(blob).unwrap());
        }
        answer
    }

    /// Registers over HTTPS, and takes the hub's key into the TPM; the state.
    async fn registered(&mut self, factory: &Factory, nodes: [u64; 2]) -> Value {
        assert_eq!(self.challenged(factory, nodes[0]).await.status, 401);
        let token = self.registration_token(factory);
        let answer = self.put(factory, nodes[1], &token, &self.body()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let answer = answer.json();
        self.take_hub_key(&answer["registrationState"]);
        answer
    }

    fn take_hub_key(&mut self, state: &Value) {
        let blob = state["tpm"]["authenticationKey"].as_str().unwrap();
        self.tpm.activate(&STANDARD.decode(blob).unwrap());
    }

    /// The code with which the hub answers a CONNECT with a token of the TPM's key.
    async fn connack(&self, factory: &Factory) -> u8 {
        let token = self.token(factory, &format!("{HOST}/devices/{}", self.id), None);
        let username = format!("{HOST}/{}/?api-version=2021-04-12", self.id);
        let packet = encoded(&Packet::Connect(Connect {
            clean: true,
            keep_alive: 60,
            client_id: self.id,
            username: Some(&username),
            password: Some(token.as_bytes()),
            ..Connect::default()
        }));
        let mut device = factory.bench.open();
        device.send(&packet).await;
        device.receive(4).await[3]
    }
}

fn percent_encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn body(endorsement: &[u8], storage_root: &[u8]) -> Vec<u8> {
    let tpm = json!({
        "endorsementKey": STANDARD.encode(endorsement),
        "storageRootKey": STANDARD.encode(storage_root),
    });
    json!({"tpm": tpm}).to_string().into_bytes()
}

#[test]
fn a_tpm_registers_at_any_node_and_opens_the_hub_with_the_key_it_was_given() {
    simulate(async {
        let factory = Factory::start().await;
        let mut device = TpmDevice::enrolled(&factory, "tpm-1").await;
        let challenge = device.challenged(&factory, 1).await;
        assert_eq!(challenge.status, 401);
        let challenge = challenge.json();
        assert_eq!(challenge["keyName"], "registration");
        // Clients read no status from it: "unassigned" would be another answer.
        assert!(challenge["message"].is_string() && challenge.get("status").is_none());
        let token = device.registration_token(&factory);
        let answer = device.put(&factory, 2, &token, &device.body()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["status"], "assigned");
        // The same token reads the state, with the key again.
        let mut https = Https::open(&factory.bench, NodeId(3), None);
        let operation = answer["operationId"].as_str().unwrap();
        let path = format!("{}/operations/{operation}?{VERSION}", device.path(&factory));
        let poll = https.request("GET", &path, &token, &[], b"").await;
        assert_eq!(poll.status, 200, "{poll:?}");
        device.take_hub_key(&poll.json()["registrationState"]);
        assert_eq!(device.connack(&factory).await, 0);
        device.take_hub_key(&answer["registrationState"]);
        assert_eq!(device.connack(&factory).await, 0);

        // Another registration destroys the key in the TPM, and brings the same one.
        assert_eq!(device.challenged(&factory, 3).await.status, 401);
        assert_eq!(device.connack(&factory).await, 5);
        let before = factory.registry().get(&identity("tpm-1")).await.unwrap().unwrap();
        let again = device.registered(&factory, [1, 1]).await;
        assert_ne!(again["operationId"], answer["operationId"]);
        assert_eq!(device.connack(&factory).await, 0);
        let after = factory.registry().get(&identity("tpm-1")).await.unwrap().unwrap();
        assert_eq!(before.etag, after.etag, "the identity was not written");
    });
}

#[test]
fn a_replayed_nonce_and_a_foreign_tpm_are_refused() {
    simulate(async {
        let factory = Factory::start().await;
        let mut device = TpmDevice::enrolled(&factory, "tpm-2").await;
        device.challenged(&factory, 1).await;
        let token = device.registration_token(&factory);
        assert_eq!(device.put(&factory, 1, &token, &device.body()).await.status, 202);
        for node in [1, 2, 3] {
            let answer = device.put(&factory, node, &token, &device.body()).await;
            assert_eq!(answer.number(), 401_000, "a replay");
        }
        // Another TPM with the same registration id, and one that shows the enrolled key with a root of its own.
        let foreign = EmulatedTpm::new();
        let own = device.tpm.endorsement_key();
        let keys = body(&foreign.endorsement_key(), &foreign.storage_root_key());
        let answer = device.put(&factory, 1, "", &keys).await;
        assert_eq!(answer.number(), 401_000);
        assert!(answer.json().get("authenticationKey").is_none());
        let stolen = device
            .put(&factory, 1, "", &body(&own, &foreign.storage_root_key()))
            .await;
        let blob = STANDARD
            .decode(stolen.json()["authenticationKey"].as_str().unwrap())
            .unwrap();
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut foreign = foreign;
            foreign.activate(&blob);
        }));
        assert!(opened.is_err(), "only the enrolled TPM opens it");
        // The challenge's token without the keys.
        device.challenged(&factory, 1).await;
        let token = device.registration_token(&factory);
        assert_eq!(device.put(&factory, 1, &token, b"{}").await.number(), 401_000);
        assert_eq!(device.put(&factory, 1, &token, &device.body()).await.status, 202);
        let causes: Vec<_> = factory
            .bench
            .diagnosis("tpm-2")
            .await
            .iter()
            .map(|refusal| refusal.reason)
            .collect();
        for reason in [
            RefusalReason::Signature,
            RefusalReason::Thumbprint,
            RefusalReason::Missing,
        ] {
            assert!(causes.contains(&reason), "{reason}: {causes:?}");
        }
    });
}

#[test]
fn what_is_malformed_unknown_or_of_another_kind_has_its_number() {
    simulate(async {
        let factory = Factory::start().await;
        let device = TpmDevice::enrolled(&factory, "tpm-3").await;
        let (own, root) = (device.tpm.endorsement_key(), device.tpm.storage_root_key());
        let mut weak = root.clone();
        // 1024 bits.
        weak[18..20].copy_from_slice(&1024_u16.to_be_bytes());
        let large = vec![b' '; 1_000_000];
        for (payload, number) in [
            (body(&own[..100], &root), 400_004),
            (body(&own, &weak), 400_004),
            (body(&[own.clone(), vec![0]].concat(), &root), 400_004),
            (body(&vec![0; 60_000], &root), 400_004),
            (
                br#"{"tpm":{"endorsementKey":"!","storageRootKey":"!"}}"#.to_vec(),
                400_004,
            ),
            (br#"{"tpm":[]}"#.to_vec(), 400_004),
            (b"{\"tpm\":".to_vec(), 400_006),
            (large, 413_001),
        ] {
            assert_eq!(device.put(&factory, 1, "", &payload).await.number(), number);
        }
        let unknown = TpmDevice {
            tpm: EmulatedTpm::new(),
            id: "tpm-unknown",
        };
        assert_eq!(unknown.put(&factory, 2, "", &unknown.body()).await.number(), 404_201);
        // The attestation of an individual enrollment decides.
        let key = factory.group_key.derive("tpm-3");
        let token = factory.token("tpm-3", &key);
        assert_eq!(device.put(&factory, 1, &token, b"{}").await.number(), 401_000);
        let symmetric = EnrollmentOperation::Create(factory.attestation(), EnrollmentContent::default());
        factory
            .enroll(EnrollmentKind::Individual, "tpm-unknown", symmetric)
            .await;
        assert_eq!(unknown.put(&factory, 2, "", &unknown.body()).await.number(), 401_000);
        // No group has it.
        let write = holdfast_registry::EnrollmentWrite {
            id: "tpms".to_owned(),
            operation: EnrollmentOperation::Create(device.attestation(), EnrollmentContent::default()),
        };
        let refused = factory
            .registry()
            .write_enrollment(EnrollmentKind::Group, write)
            .await
            .unwrap_err();
        assert_eq!(refused.code().number(), 400_004);
    });
}

#[test]
fn a_disabled_enrollment_answers_disabled_and_an_update_keeps_the_tpm() {
    simulate(async {
        let factory = Factory::start().await;
        let mut device = TpmDevice::enrolled(&factory, "tpm-4").await;
        device.registered(&factory, [1, 1]).await;
        let content = EnrollmentContent {
            is_disabled: true,
            ..EnrollmentContent::default()
        };
        let update = EnrollmentOperation::Update(IfMatch::Any, AttestationWrite::Tpm(None), content);
        factory.enroll(EnrollmentKind::Individual, "tpm-4", update).await;
        device.challenged(&factory, 2).await;
        let token = device.registration_token(&factory);
        let answer = device.put(&factory, 2, &token, &device.body()).await;
        assert_eq!((answer.status, &answer.json()["status"]), (202, &"disabled".into()));
        device.enroll(&factory, EnrollmentContent::default()).await;
        device.registered(&factory, [3, 2]).await;
        assert_eq!(device.connack(&factory).await, 0);
    });
}

/// The SASL of a test's own.
struct Sasl {
    stream: DuplexStream,
    input: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum SaslAnswer {
    Challenge(Vec<u8>),
    Outcome(u8),
}

impl Sasl {
    async fn begin(amqp: &Amqp, initial: &[u8]) -> Self {
        let mut sasl = Self {
            stream: amqp.stream(None),
            input: Vec::new(),
        };
        sasl.stream.write_all(&SASL_HEADER).await.unwrap();
        while sasl.input.len() < 8 {
            sasl.stream.read_buf(&mut sasl.input).await.unwrap();
        }
        assert_eq!(sasl.input.drain(..8).collect::<Vec<u8>>(), SASL_HEADER);
        let offered = sasl.frame().await;
        let text = String::from_utf8_lossy(&offered).into_owned();
        assert!(text.contains("TPM") && text.contains("PLAIN"), "{text:?}");
        sasl.send(|buf| {
            SaslInit {
                mechanism: "TPM",
                initial_response: Some(initial),
                hostname: Some(HOST),
            }
            .encode(buf);
        })
        .await;
        sasl
    }

    async fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, TYPE_SASL, 0, write);
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn frame(&mut self) -> Vec<u8> {
        loop {
            if let Some((frame, size)) = frame::decode(&self.input, 65_536).unwrap() {
                assert!(size <= 512, "a frame of SASL");
                let body = frame.body.to_vec();
                self.input.drain(..size);
                return body;
            }
            assert!(self.stream.read_buf(&mut self.input).await.unwrap() > 0, "closed");
        }
    }

    async fn answer(&mut self) -> SaslAnswer {
        let body = self.frame().await;
        match SaslFrame::decode(&body).unwrap() {
            SaslFrame::Challenge(bytes) => SaslAnswer::Challenge(bytes.to_vec()),
            SaslFrame::Outcome(code) => SaslAnswer::Outcome(code),
            other => panic!("{other:?}"),
        }
    }

    async fn respond(&mut self, response: &[u8]) -> SaslAnswer {
        self.send(|buf| encode_response(buf, response)).await;
        self.answer().await
    }
}

fn initial(scope: &str, id: &str, endorsement: &[u8]) -> Vec<u8> {
    [&[0][..], scope.as_bytes(), &[0], id.as_bytes(), &[0], endorsement].concat()
}

/// Carries out the exchange; a device that has signed with the challenge's key.
async fn sasl_tpm(factory: &Factory, amqp: &Amqp, device: &mut TpmDevice, in_segments: bool) -> Device {
    let go_on = SaslAnswer::Challenge(vec![0]);
    let whole = initial(&factory.scope, device.id, &device.tpm.endorsement_key());
    let mut sasl = if in_segments {
        // As the C client does with long messages.
        let mut sasl = Sasl::begin(amqp, &[&[0x80], &whole[1..200]].concat()).await;
        assert_eq!(sasl.answer().await, go_on);
        sasl.send(|buf| encode_response(buf, &[&[0xc1], &whole[200..]].concat()))
            .await;
        sasl
    } else {
        Sasl::begin(amqp, &whole).await
    };
    assert_eq!(sasl.answer().await, go_on);
    let root = [&[0][..], &device.tpm.storage_root_key()].concat();
    let SaslAnswer::Challenge(first) = sasl.respond(&root).await else {
        panic!()
    };
    assert_eq!(first[0], 0x80);
    let SaslAnswer::Challenge(second) = sasl.respond(&[0]).await else {
        panic!()
    };
    assert_eq!(second[0], 0xc1);
    device.tpm.activate(&[&first[1..], &second[1..]].concat());
    let token = device.registration_token(factory);
    assert_eq!(
        sasl.respond(&[&[0], token.as_bytes()].concat()).await,
        SaslAnswer::Outcome(0)
    );
    let mut client = Device::new(sasl.stream, HOST, ClientSasl::None);
    client.open().await;
    client
}

/// Registers over links; the answer, or the number of the rejection.
async fn register(factory: &Factory, client: &mut Device, id: &str, body: &[u8]) -> Result<Value, u64> {
    let address = format!("{}/registrations/{id}", factory.scope);
    let receiver = client.attach(&AttachSpec::receiver("r", &address)).await.unwrap();
    let sender = client.attach(&AttachSpec::sender("s", &address)).await.unwrap();
    client.credit(sender).await;
    client.engine.grant(receiver, 1);
    let mut message = Vec::new();
    let mut map = begin_application_properties(&mut message);
    put_str(map.string_key("iotdps-operation-type"), "iotdps-register");
    map.finish();
    put_data(&mut message, body);
    client.transfer(sender, 0, &message);
    client.flush().await;
    client
        .until(move |_, event| match event {
            Event::Disposition {
                outcome: Some(Outcome::Rejected(Some(fault))),
                ..
            } => {
                let body: Value = serde_json::from_str(fault.description.unwrap()).unwrap();
                Some(Err(body["errorCode"].as_u64().unwrap()))
            }
            Event::Transfer(incoming) if incoming.link == receiver => {
                let message = Message::scan(&incoming.payload).unwrap();
                Some(Ok(serde_json::from_slice(message.data().next().unwrap()).unwrap()))
            }
            _ => None,
        })
        .await
}

#[test]
fn a_tpm_registers_over_sasl_in_one_piece_and_in_segments() {
    simulate(async {
        let factory = Factory::start().await;
        let amqp = Amqp::serve(&factory.bench);
        let mut device = TpmDevice::enrolled(&factory, "tpm-5").await;
        for in_segments in [false, true] {
            let mut client = sasl_tpm(&factory, &amqp, &mut device, in_segments).await;
            // Some clients send the keys again, others do not.
            let body = if in_segments { device.body() } else { b"{}".to_vec() };
            let answer = register(&factory, &mut client, device.id, &body).await.unwrap();
            assert_eq!(answer["status"], "assigned");
            device.take_hub_key(&answer["registrationState"]);
            assert_eq!(device.connack(&factory).await, 0);
        }
        // The nonce is used up.
        let mut client = sasl_tpm(&factory, &amqp, &mut device, false).await;
        assert!(register(&factory, &mut client, device.id, b"{}").await.is_ok());
        let mut other = amqp
            .open_as(
                ClientSasl::Plain {
                    user: format!("{}/registrations/{}", factory.scope, device.id),
                    password: device.registration_token(&factory),
                },
                None,
            )
            .await;
        let replayed = register(&factory, &mut other, device.id, &device.body()).await;
        assert_eq!(replayed, Err(401_000));
    });
}

#[test]
fn sasl_of_an_unknown_foreign_or_malformed_tpm_fails() {
    simulate(async {
        let factory = Factory::start().await;
        let amqp = Amqp::serve(&factory.bench);
        let device = TpmDevice::enrolled(&factory, "tpm-6").await;
        let own = device.tpm.endorsement_key();
        let root = [&[0][..], &device.tpm.storage_root_key()].concat();
        let refused = SaslAnswer::Outcome(1);
        for first in [
            Vec::new(),
            vec![0],
            vec![0x81, 1],
            initial("0neFFFFFFFF", "tpm-6", &own),
            initial(&factory.scope, "tpm-6", &vec![1; 5000]),
        ] {
            assert_eq!(Sasl::begin(&amqp, &first).await.answer().await, refused, "{first:?}");
        }
        for (id, endorsement, storage_root) in [
            ("tpm-6", &own[..50], &root[..]),
            ("tpm-6", &own, &root[..50]),
            ("tpm-6", &own, &[0]),
            ("not an id", &own, &root),
        ] {
            let mut sasl = Sasl::begin(&amqp, &initial(&factory.scope, id, endorsement)).await;
            assert_eq!(sasl.answer().await, SaslAnswer::Challenge(vec![0]));
            assert_eq!(sasl.respond(storage_root).await, refused, "{id}");
        }
        // A TPM that is not enrolled is refused in the answer to its registration.
        for (id, number) in [("tpm-7", 404_201), ("tpm-6", 401_000)] {
            let mut other = TpmDevice {
                tpm: EmulatedTpm::new(),
                id,
            };
            let mut client = sasl_tpm(&factory, &amqp, &mut other, false).await;
            let answer = register(&factory, &mut client, id, &other.body()).await;
            assert_eq!(answer, Err(number), "{id}");
        }
        let last = factory.bench.diagnosis("tpm-6").await;
        assert!(last.iter().any(|refusal| refusal.reason == RefusalReason::Thumbprint));
    });
}
