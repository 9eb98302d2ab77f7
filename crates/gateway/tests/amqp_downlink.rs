//! Messages to devices, methods and twins over AMQP, on a simulated cluster and a paused clock.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_amqp::message::{
    Message, Properties, begin_application_properties, begin_message_annotations, put_data, put_properties,
};
use holdfast_amqp::types::{Raw, Value, put_int, put_null, put_str};
use holdfast_amqp::{AttachSpec, Delivery, Detached, Event, Incoming, LinkId, Outcome};
use holdfast_device_hub::{
    CloudMessage, DeadLetterReason, ListedMessage, MethodAnswer, MethodCall, MethodError, TwinWrite, WriteMode,
};
use holdfast_model::{GenerationId, NodeId};
use holdfast_simulation::{identity, simulate};
use serde_json::{Value as Json, json};
use support::amqp::{Amqp, Device, Verdict, address};
use support::{Bench, DEVICE};
use tokio::task::JoinHandle;

/// A transfer to a device, owned.
#[derive(Debug, Clone)]
struct Got {
    id: u32,
    tag: Vec<u8>,
    settled: bool,
    payload: Vec<u8>,
}

impl Got {
    fn message(&self) -> Message<'_> {
        Message::scan(&self.payload).unwrap()
    }

    fn body(&self) -> String {
        String::from_utf8(self.message().data().next().unwrap().to_vec()).unwrap()
    }

    fn annotation(&self, key: &str) -> Option<Value<'_>> {
        self.message().message_annotations.get(key).unwrap()
    }
}

impl Device {
    /// The next transfer on `link`.
    async fn got(&mut self, link: LinkId) -> Got {
        self.until(|_, event| match event {
            Event::Transfer(Incoming {
                link: found,
                delivery_id,
                settled,
                tag,
                payload,
                ..
            }) if *found == link => Some(Got {
                id: *delivery_id,
                tag: tag.to_vec(),
                settled: *settled,
                payload: payload.to_vec(),
            }),
            _ => None,
        })
        .await
    }

    async fn settle(&mut self, link: LinkId, got: &Got, outcome: &Outcome<'_>) {
        self.engine.settle(link, got.id, got.id, outcome);
        self.flush().await;
    }
}

impl Bench {
    fn generation(&self) -> GenerationId {
        let registered = self
            .cluster
            .hub(NodeId(2))
            .registry()
            .identity(&identity(DEVICE))
            .unwrap();
        registered.unwrap().generation.clone()
    }

    async fn send(&self, body: &'static str) {
        let message = CloudMessage {
            message_id: Some(body.to_owned()),
            properties: vec![("k".into(), Some("v".into()))],
            body: body.into(),
            ..CloudMessage::default()
        };
        let hub = self.cluster.hub(NodeId(2));
        let sent = hub
            .send_cloud_message(&identity(DEVICE), &self.generation(), &message)
            .await;
        sent.unwrap();
    }

    async fn queue(&self) -> Vec<ListedMessage> {
        let hub = self.cluster.hub(NodeId(2));
        let listed = hub.list_cloud_messages(&identity(DEVICE), &self.generation()).await;
        listed.unwrap()
    }

    /// Waits until the queue has so many messages that are no dead letters.
    async fn queued(&self, count: usize) {
        while self.queue().await.iter().filter(|one| one.dead.is_none()).count() != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn call(&self, name: &str) -> JoinHandle<Result<MethodAnswer, MethodError>> {
        let hub = Arc::clone(self.cluster.hub(NodeId(2)));
        let call = MethodCall {
            name: name.into(),
            payload: r#"{"a":1}"#.into(),
            connect_timeout: Duration::ZERO,
            response_timeout: Duration::from_secs(30),
            trace: None,
        };
        tokio::task::spawn_local(async move { hub.invoke_method(&identity(DEVICE), &call).await })
    }

    async fn desired(&self, desired: Json) {
        let write = TwinWrite {
            mode: WriteMode::Merge,
            tags: None,
            desired: Some(desired.to_string()),
            if_etag: None,
        };
        let hub = self.cluster.hub(NodeId(2));
        let (device, generation) = (identity(DEVICE), self.generation());
        let written = hub.write_twin(&device, &generation, write, Duration::from_secs(30));
        written.await.unwrap();
    }
}

#[test]
fn messages_are_completed_abandoned_and_rejected() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let link = device.receiver("c2d", &address("messages/deviceBound"), 10).await;
        bench.send("one").await;
        let one = device.got(link).await;
        assert_eq!((one.body().as_str(), one.settled, one.tag.len()), ("one", false, 16));
        assert_eq!(one.annotation("iothub-deliverycount"), Some(Value::Ubyte(0)));
        let properties = one.message().properties().unwrap();
        assert_eq!(properties.to, Some("/devices/dev-1/messages/devicebound"));
        assert_eq!(
            one.message().application_properties.get("k").unwrap(),
            Some(Value::String("v"))
        );
        device.settle(link, &one, &Outcome::Accepted).await;
        bench.queued(0).await;
        bench.send("two").await;
        let two = device.got(link).await;
        let modified = Outcome::Modified {
            delivery_failed: true,
            undeliverable_here: false,
        };
        device.settle(link, &two, &modified).await;
        let again = device.got(link).await;
        assert_eq!(
            (again.body(), again.annotation("iothub-deliverycount")),
            ("two".into(), Some(Value::Ubyte(1)))
        );
        device.settle(link, &again, &Outcome::Rejected(None)).await;
        bench.queued(0).await;
        let dead: Vec<_> = bench
            .queue()
            .await
            .into_iter()
            .filter_map(|one| one.dead.map(|(reason, _)| reason))
            .collect();
        assert_eq!(dead, [DeadLetterReason::Rejected]);
    });
}

#[test]
fn messages_wait_for_credit_and_for_the_link() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        for body in ["1", "2", "3"] {
            bench.send(body).await;
        }
        let mut device = amqp.connect(&bench, DEVICE).await;
        let link = device.receiver("c2d", &address("messages/devicebound"), 0).await;
        for body in ["1", "2"] {
            device.engine.grant(link, 1);
            device.flush().await;
            let got = device.got(link).await;
            assert_eq!(got.body(), body);
            device.settle(link, &got, &Outcome::Accepted).await;
        }
        bench.queued(1).await;
        // Without an outcome it goes back with the link, and comes again with the next one.
        device.engine.grant(link, 1);
        device.flush().await;
        assert_eq!(device.got(link).await.body(), "3");
        device.engine.detach(link, Detached::Closed, None, Instant::now());
        let link = device.receiver("c2d-2", &address("messages/devicebound"), 10).await;
        let again = device.got(link).await;
        assert_eq!(
            (again.body(), again.annotation("iothub-deliverycount")),
            ("3".into(), Some(Value::Ubyte(1)))
        );
        device.settle(link, &again, &Outcome::Accepted).await;
        bench.queued(0).await;
    });
}

#[test]
fn a_lock_ends_after_a_minute_and_a_late_outcome_counts_for_nothing() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let link = device.receiver("c2d", &address("messages/devicebound"), 10).await;
        bench.send("one").await;
        let first = device.got(link).await;
        tokio::time::sleep(Duration::from_secs(61)).await;
        let second = device.got(link).await;
        assert_eq!(second.body(), "one");
        assert_ne!(first.tag, second.tag);
        // Proposed, not settled: the answer says that the lock is over.
        device
            .engine
            .propose_outcome(link, first.id, first.id, &Outcome::Accepted);
        device.flush().await;
        let answer = device.until(|_, event| match event {
            Event::SenderSettled { outcome, .. } => match outcome {
                Some(Outcome::Rejected(Some(fault))) => Some(fault.condition.to_owned()),
                other => panic!("{other:?}"),
            },
            _ => None,
        });
        assert_eq!(answer.await, "amqp:not-found");
        device
            .engine
            .propose_outcome(link, second.id, second.id, &Outcome::Accepted);
        device.flush().await;
        let answer = device.until(|_, event| match event {
            Event::SenderSettled { outcome, .. } => Some(outcome == &Some(Outcome::Accepted)),
            _ => None,
        });
        assert!(answer.await);
        bench.queued(0).await;
    });
}

/// The answer to a call, as the device sends it.
fn answer(correlation: Raw<'_>, status: i32, payload: &[u8]) -> Vec<u8> {
    let mut buf = Vec::new();
    put_properties(
        &mut buf,
        &Properties {
            correlation_id: Some(correlation),
            ..Properties::default()
        },
    );
    let mut map = begin_application_properties(&mut buf);
    put_int(map.string_key("IoThub-status"), status);
    map.finish();
    put_data(&mut buf, payload);
    buf
}

#[test]
fn methods_are_called_and_answered() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let path = address("methods/devicebound");
        let answers = device.sender("answers", &path).await;
        assert!(
            bench.call("early").await.unwrap().is_err(),
            "no link for calls: not online for methods"
        );
        let calls = device.receiver("calls", &path, 100).await;
        // The hub hears of the link a moment later.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let called = bench.call("reboot");
        let call = device.got(calls).await;
        assert_eq!((call.body().as_str(), call.settled), (r#"{"a":1}"#, true));
        let message = call.message();
        let name = message.application_properties.get("IoThub-methodname").unwrap();
        assert_eq!(name, Some(Value::String("reboot")));
        let correlation = message.properties().unwrap().correlation_id.unwrap();
        assert!(matches!(correlation.value().unwrap(), Value::Uuid(_)));
        for _ in 0..2 {
            let id = device.transfer(answers, 0, &answer(correlation, 201, b"{\"b\":2}"));
            assert_eq!(
                device.outcomes(id).await.pop().unwrap().2,
                Verdict::Accepted,
                "repeated answers too"
            );
        }
        let result = called.await.unwrap().unwrap();
        assert_eq!((result.status, &result.payload[..]), (201, b"{\"b\":2}".as_slice()));
        // A call that the device has and cannot answer any more.
        let called = bench.call("lost");
        device.got(calls).await;
        device.engine.detach(calls, Detached::Closed, None, Instant::now());
        device.flush().await;
        assert!(called.await.unwrap().is_err());
        let bad = device.transfer(answers, 0, b"garbage");
        assert_eq!(
            device.outcomes(bad).await.pop().unwrap().2,
            Verdict::Rejected("amqp:decode-error".to_owned())
        );
    });
}

/// A request about the twin, as the device sends it.
fn request(operation: &str, resource: Option<&str>, id: &str, body: &[u8]) -> Vec<u8> {
    let (mut buf, mut correlation) = (Vec::new(), Vec::new());
    put_str(&mut correlation, id);
    let mut annotations = begin_message_annotations(&mut buf);
    put_str(annotations.key("operation"), operation);
    match resource {
        Some(resource) => put_str(annotations.key("resource"), resource),
        None => put_null(annotations.key("resource")),
    }
    annotations.finish();
    put_properties(
        &mut buf,
        &Properties {
            correlation_id: Raw::new(&correlation).ok(),
            ..Properties::default()
        },
    );
    put_data(&mut buf, body);
    buf
}

impl Device {
    async fn ask(&mut self, link: LinkId, request: &[u8]) {
        let delivery = Delivery {
            tag: b"tag",
            settled: true,
            message_format: 0,
        };
        self.engine
            .send_with(link, &delivery, |buf| buf.extend_from_slice(request))
            .unwrap();
        self.flush().await;
    }
}

const DESIRED: Option<&str> = Some("/notifications/twin/properties/desired");

#[test]
fn twins_are_read_patched_and_followed() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let requests = device.sender("requests", &address("twin")).await;
        // Asked before there is a link for the answer.
        device.ask(requests, &request("GET", None, "g1", b" ")).await;
        let answers = device.receiver("answers", &address("twin"), 100).await;
        let got = device.got(answers).await;
        let id = |got: &Got| {
            let message = got.message();
            let id = message.properties().unwrap().correlation_id;
            id.map(|raw| holdfast_amqp::message::id_text(raw).unwrap().into_owned())
        };
        assert_eq!(
            (id(&got).as_deref(), got.annotation("status")),
            (Some("g1"), Some(Value::Int(200)))
        );
        let twin: Json = serde_json::from_str(&got.body()).unwrap();
        assert_eq!(twin["desired"]["$version"], 1);
        let patch = request("PATCH", Some("/properties/reported"), "p1", br#"{"a":1}"#);
        device.ask(requests, &patch).await;
        let got = device.got(answers).await;
        assert_eq!(
            (id(&got).as_deref(), got.annotation("status")),
            (Some("p1"), Some(Value::Int(204)))
        );
        assert_eq!(got.annotation("version"), Some(Value::Long(2)));
        for (id_text, bad) in [("b1", "[]"), ("b2", "{")] {
            let patch = request("PATCH", Some("/properties/reported"), id_text, bad.as_bytes());
            device.ask(requests, &patch).await;
            let got = device.got(answers).await;
            assert_eq!(id(&got).as_deref(), Some(id_text));
            assert_eq!(got.annotation("status"), Some(Value::Int(400)), "{bad}");
            assert!(serde_json::from_str::<Json>(&got.body()).is_ok());
        }
        device.ask(requests, &request("PUT", DESIRED, "s1", b" ")).await;
        let got = device.got(answers).await;
        assert_eq!(
            (id(&got).as_deref(), got.annotation("status")),
            (Some("s1"), Some(Value::Int(200)))
        );
        // The hub hears of the subscription a moment later.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for number in 1..=5 {
            bench.desired(json!({ "n": number })).await;
        }
        for number in 1..=5 {
            let got = device.got(answers).await;
            assert_eq!((id(&got), got.annotation("status")), (None, None));
            let change: Json = serde_json::from_str(&got.body()).unwrap();
            assert_eq!(
                (&change["n"], &change["$version"]),
                (&json!(number), &json!(number + 1))
            );
        }
        device.ask(requests, &request("DELETE", DESIRED, "s2", b" ")).await;
        assert_eq!(id(&device.got(answers).await).as_deref(), Some("s2"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.desired(json!({ "n": 6 })).await;
        device.ask(requests, &request("GET", None, "g2", b"")).await;
        assert_eq!(
            id(&device.got(answers).await).as_deref(),
            Some("g2"),
            "no change comes before it"
        );
    });
}

#[test]
fn links_of_one_identity_share_a_session_and_the_roles_are_checked() {
    simulate(async {
        let bench = Bench::start().await;
        let amqp = Amqp::serve(&bench);
        let mut device = amqp.connect(&bench, DEVICE).await;
        let link = device.sender("events", &address("messages/events")).await;
        device.receiver("c2d", &address("messages/devicebound"), 10).await;
        device.sender("twin-out", &address("twin")).await;
        device.receiver("twin-in", &address("twin"), 10).await;
        assert_eq!(device.sent(link, b"1").await, Verdict::Accepted);
        let wrong = device
            .attach(&AttachSpec::sender("wrong", &address("messages/devicebound")))
            .await;
        assert_eq!(wrong.unwrap_err().0, "amqp:not-allowed");
        let feedback = address("messages/serviceBound/feedback");
        let wrong = device.attach(&AttachSpec::sender("wrong-2", &feedback)).await;
        assert_eq!(wrong.unwrap_err().0, "amqp:not-implemented");
    });
}
