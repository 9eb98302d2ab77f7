//! Registrations that take several steps: custom allocation by a webhook.

use std::time::Duration;

use holdfast_model::NodeId;
use holdfast_mqtt::codec::QoS;
use holdfast_registry::{
    AllocationPolicy, CustomAllocation, EnrollmentContent, EnrollmentKind, EnrollmentOperation, IfMatch, Registration,
    RegistrationOutcome,
};
use holdfast_simulation::{HOST, NODES, identity, simulate};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::support::Device;
use super::support::servers::Reaction;
use super::{Factory, REGISTER, reply, request};

impl Factory {
    /// The group's devices are assigned by a webhook from now on.
    async fn allocate_by_webhook(&self) {
        let content = EnrollmentContent {
            allocation: Some(AllocationPolicy::Custom),
            custom_allocation: Some(CustomAllocation::of(
                "https://hooks.example.com/api?code=secret",
                "2021-10-01".to_owned(),
            )),
            ..EnrollmentContent::default()
        };
        let update = EnrollmentOperation::Update(IfMatch::Any, self.attestation(), content);
        self.enroll(EnrollmentKind::Group, "fleet", update).await;
    }

    pub(super) async fn registering(&self, node: u64, id: &str, body: &str) -> (Device, String, Value) {
        let mut device = self.connected(node, id, &self.group_key.derive(id)).await;
        device.send(&request(REGISTER, body.as_bytes(), QoS::AtMostOnce)).await;
        let (topic, body) = reply(&mut device).await;
        (device, topic, body)
    }

    /// The registration, once its operation has ended.
    pub(super) async fn ended(&self, node: u64, id: &str) -> Registration {
        let registry = self.bench.cluster.hub(NodeId(node)).registry();
        loop {
            let found = registry.registration(id).unwrap();
            if let Some(found) = found.filter(|found| found.pending().is_none()) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn poll(device: &mut Device, operation_id: &Value) -> (String, Value) {
    let topic = format!(
        "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId={}",
        operation_id.as_str().unwrap()
    );
    device.send(&request(&topic, b" ", QoS::AtMostOnce)).await;
    reply(device).await
}

#[test]
fn a_webhook_chooses_and_the_device_is_answered_before_it() {
    simulate(async {
        let factory = Factory::start().await;
        factory.allocate_by_webhook().await;
        let answer =
            json!({"iotHubHostName": HOST, "payload": {"colour": "red"}, "initialTwin": {"tags": {"site": "x"}}});
        let answer = answer.to_string();
        factory
            .bench
            .servers
            .react(move |_| Reaction::Answer(200, answer.clone()));
        let begun = Instant::now();
        let (mut device, topic, body) = factory.registering(2, "SN-1", r#"{"payload":{"model":7}}"#).await;
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        let after = topic
            .strip_prefix("$dps/registrations/res/202/?$rid=1&retry-after=")
            .unwrap();
        assert!((2..=4).contains(&after.parse::<u64>().unwrap()));
        assert_eq!(body["status"], "assigning");
        let found = factory.ended(2, "SN-1").await;
        assert_eq!(found.webhook.unwrap().status, Some(200));
        let (topic, end) = poll(&mut device, &body["operationId"]).await;
        assert_eq!(topic, "$dps/registrations/res/200/?$rid=2");
        assert_eq!(end["status"], "assigned");
        assert_eq!(end["operationId"], body["operationId"]);
        assert_eq!(end["registrationState"]["assignedHub"], HOST);
        assert_eq!(end["registrationState"]["payload"], json!({"colour": "red"}));
        let seed = factory.registry().twin_seed(&identity("SN-1")).unwrap().unwrap();
        assert_eq!(seed.tags.as_deref(), Some(r#"{"site":"x"}"#));

        let calls = factory.bench.servers.calls.lock().clone();
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].url, "https://hooks.example.com/api?code=secret");
        let sent: Value = serde_json::from_slice(&calls[0].body).unwrap();
        let text = sent.to_string();
        assert!(!text.contains("primaryKey") && !text.contains("secret"), "{text}");
        assert_eq!(sent["enrollmentGroup"]["enrollmentGroupId"], "fleet");
        assert_eq!(sent["deviceRuntimeContext"]["payload"], json!({"model": 7}));
        assert!(sent["deviceRuntimeContext"].get("currentDeviceId").is_none());
        assert_eq!(sent["linkedHubs"], json!([HOST]));

        // Again: the webhook learns where the device is.
        let _ = factory.registering(3, "sn-1", "{}").await;
        factory.ended(3, "sn-1").await;
        let call = factory.bench.servers.calls.lock().last().cloned().unwrap();
        let sent: Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(sent["deviceRuntimeContext"]["currentIotHubHostName"], HOST);
        assert_eq!(sent["deviceRuntimeContext"]["currentDeviceId"], "SN-1");
    });
}

/// Registration id, reaction of the webhook, its calls, and the status and text that the record keeps.
type Case = (&'static str, fn() -> Reaction, usize, Option<u16>, &'static str);

#[test]
fn a_webhook_that_fails_fails_the_registration_at_once() {
    simulate(async {
        let factory = Factory::start().await;
        factory.allocate_by_webhook().await;
        let cases: [Case; 5] = [
            (
                "A",
                || Reaction::Answer(404, "no such function".to_owned()),
                1,
                Some(404),
                "status code: 404",
            ),
            (
                "B",
                || Reaction::Answer(500, "oops".to_owned()),
                2,
                Some(500),
                "status code: 500",
            ),
            ("C", || Reaction::Silence, 2, None, "no answer in time"),
            ("D", || Reaction::Unreachable, 2, None, "cannot connect"),
            (
                "E",
                || Reaction::Answer(200, r#"{"iotHubHostName":"x"}"#.to_owned()),
                1,
                Some(200),
                "not a linked hub",
            ),
        ];
        for (id, react, calls, status, part) in cases {
            let before = factory.bench.servers.count();
            factory.bench.servers.react(move |_| react());
            let begun = Instant::now();
            let (mut device, _, body) = factory.registering(1, id, "").await;
            let found = factory.ended(1, id).await;
            assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
            assert_eq!(factory.bench.servers.count() - before, calls, "{id}");
            let RegistrationOutcome::Failed { code, text } = &found.outcome else {
                panic!("{found:?}")
            };
            assert_eq!(code.number(), 400_207);
            assert!(text.contains(part), "{text}");
            let webhook = found.webhook.unwrap();
            assert_eq!((webhook.status, webhook.attempts as usize), (status, calls));
            let (topic, end) = poll(&mut device, &body["operationId"]).await;
            assert_eq!(topic, "$dps/registrations/res/200/?$rid=2");
            assert_eq!(end["status"], "failed");
            assert_eq!(end["registrationState"]["errorCode"], 400_207);
        }
        // The beginning of the answer is kept, and a later attempt succeeds and shows the failure in the history.
        let answer = json!({"iotHubHostName": HOST}).to_string();
        factory
            .bench
            .servers
            .react(move |_| Reaction::Answer(200, answer.clone()));
        let _ = factory.registering(1, "A", "").await;
        let found = factory.ended(1, "A").await;
        assert!(matches!(found.outcome, RegistrationOutcome::Assigned { .. }));
        assert_eq!(found.history.len(), 1);
        assert_eq!(found.history[0].webhook_status, Some(404));
        assert_eq!(found.history[0].failure.as_ref().unwrap().0.number(), 400_207);
    });
}

#[test]
fn an_operation_survives_its_leader_and_a_second_caller_joins_it() {
    simulate(async {
        let mut factory = Factory::start().await;
        factory.allocate_by_webhook().await;
        factory.bench.servers.react(|_| Reaction::Silence);
        let leader = NODES
            .into_iter()
            .find(|node| factory.bench.cluster.hub(*node).registry().is_leader());
        let leader = leader.unwrap();
        let other = if leader == NodeId(2) { NodeId(3) } else { NodeId(2) };
        let (_device, _, body) = factory.registering(other.get(), "SN-1", "").await;
        assert_eq!(body["status"], "assigning");
        while factory.bench.servers.count() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (_second, topic, again) = factory.registering(other.get(), "SN-1", "").await;
        assert!(topic.contains("/res/202/"), "{topic}");
        assert_eq!(again["operationId"], body["operationId"]);
        factory.bench.cluster.kill(leader);
        let answer = json!({"iotHubHostName": HOST}).to_string();
        factory
            .bench
            .servers
            .react(move |_| Reaction::Answer(200, answer.clone()));
        let found = factory.ended(other.get(), "SN-1").await;
        assert!(
            matches!(found.outcome, RegistrationOutcome::Assigned { .. }),
            "{found:?}"
        );
        assert_eq!(found.operation_id, body["operationId"].as_str().unwrap());
    });
}

#[test]
fn an_enrollment_that_changes_meanwhile_ends_the_operation() {
    simulate(async {
        let factory = Factory::start().await;
        factory.allocate_by_webhook().await;
        factory.bench.servers.react(|_| Reaction::Silence);
        let _ = factory.registering(1, "SN-1", "").await;
        let delete = EnrollmentOperation::Delete(IfMatch::Any);
        factory.enroll(EnrollmentKind::Group, "fleet", delete).await;
        let found = factory.ended(1, "SN-1").await;
        let RegistrationOutcome::Failed { code, .. } = &found.outcome else {
            panic!("{found:?}")
        };
        // The webhook has failed already, or the enrollment is missed.
        assert!([400_207, 409_203].contains(&code.number()), "{code}");
        assert!(factory.registry().identity(&identity("SN-1")).unwrap().is_none());
    });
}
