//! Cloud-to-device messages of a module on a simulated cluster: a queue beside its device's, received over each protocol, with
//! feedback.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_amqp::message::Message;
use holdfast_amqp::{Event, Incoming, Outcome};
use holdfast_device_hub::{CloudMessage, FeedbackRequest, FeedbackSource, FeedbackStatus, FeedbackVerdict};
use holdfast_model::{IdentityId, ModuleId, NodeId};
use holdfast_mqtt::codec::{Connect, Packet, QoS, subscribe};
use holdfast_registry::{IdentityContent, IdentityWrite, WriteOperation};
use holdfast_simulation::{HOST, identity, simulate};
use holdfast_testkit::eventually;
use support::amqp::{Amqp, address};
use support::https::Https;
use support::{Bench, DEVICE, NODE, encoded};

impl Bench {
    async fn module(&self) -> IdentityId {
        let id = IdentityId::module(identity(DEVICE).device, ModuleId::parse("pump").unwrap());
        let write = IdentityWrite {
            id: id.clone(),
            operation: WriteOperation::Create(IdentityContent::default()),
        };
        self.cluster.hub(NodeId(NODE)).registry().write(write).await.unwrap();
        eventually("the module everywhere", || {
            let nodes = self.cluster.nodes.values();
            nodes
                .into_iter()
                .all(|node| node.registry.identity(&id).unwrap().is_some())
        })
        .await;
        id
    }

    async fn send_to(&self, id: &IdentityId, name: &str) {
        let hub = self.cluster.hub(NodeId(2));
        let generation = hub.registry().identity(id).unwrap().unwrap().generation.clone();
        let message = CloudMessage {
            message_id: Some(name.to_owned()),
            feedback: Some(FeedbackRequest::Full),
            body: name.to_owned().into(),
            ..CloudMessage::default()
        };
        hub.send_cloud_message(id, &generation, &message).await.unwrap();
    }

    async fn depth_of(&self, id: &IdentityId) -> usize {
        let hub = self.cluster.hub(NodeId(3));
        let generation = hub.registry().identity(id).unwrap().unwrap().generation.clone();
        hub.list_cloud_messages(id, &generation).await.unwrap().len()
    }

    /// The next piece of feedback, accepted by a back end at node 1.
    async fn next_feedback(&self) -> (String, String, FeedbackStatus) {
        let mut source = FeedbackSource::new(Arc::clone(self.cluster.hub(NodeId(1))));
        let next = std::future::poll_fn(|cx| source.poll_next(cx));
        let heard = tokio::time::timeout(Duration::from_secs(100), next)
            .await
            .expect("feedback in time");
        assert_eq!(heard.len(), 1);
        let one = (
            heard[0].identity.to_string(),
            heard[0].message_id.clone(),
            heard[0].status,
        );
        self.cluster
            .hub(NodeId(1))
            .settle_feedback(heard, FeedbackVerdict::Done)
            .await;
        one
    }
}

fn success(name: &str) -> (String, String, FeedbackStatus) {
    ("dev-1/pump".to_owned(), name.to_owned(), FeedbackStatus::Success)
}

#[test]
fn over_mqtt_a_module_gets_its_own_messages_and_the_device_does_not() {
    simulate(async {
        let bench = Bench::start().await;
        let module = bench.module().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        let mut device = bench.connect().await;
        device
            .subscribe("devices/dev-1/messages/devicebound/#", QoS::AtLeastOnce)
            .await;
        let token = bench.identity_token(&module, 3600);
        let username = format!("{HOST}/{DEVICE}/pump/?api-version=2021-04-12");
        let mut pump = bench.open();
        let connect = encoded(&Packet::Connect(Connect {
            clean: true,
            keep_alive: 60,
            client_id: "dev-1/pump",
            username: Some(&username),
            password: Some(token.as_bytes()),
            ..Connect::default()
        }));
        pump.send(&connect).await;
        assert_eq!(pump.receive(4).await, [0x20, 2, 0, 0]);
        bench.send_to(&module, "one").await;
        // The whole subtree is for inputs.
        let mut bytes = Vec::new();
        subscribe(&mut bytes, 7, &[("devices/dev-1/modules/pump/#", QoS::AtLeastOnce)]).unwrap();
        pump.send(&bytes).await;
        assert_eq!(pump.receive(5).await, [0x90, 3, 0, 7, 1]);
        pump.gets_nothing().await;
        let filter = "devices/dev-1/modules/pump/messages/devicebound/#";
        pump.subscribe(filter, QoS::AtLeastOnce).await;
        let (topic, payload, id) = pump.published().await;
        let bag = "%24.mid=one&%24.to=%2Fdevices%2Fdev-1%2Fmodules%2Fpump%2Fmessages%2Fdevicebound&iothub-ack=full";
        let expected = format!("devices/dev-1/modules/pump/messages/devicebound/{bag}");
        assert_eq!((topic, payload), (expected, b"one".to_vec()));
        assert_eq!(bench.depth_of(&module).await, 1, "until its acknowledgement");
        pump.send(&encoded(&Packet::PubAck(id.unwrap()))).await;
        assert_eq!(bench.next_feedback().await, success("one"));
        assert_eq!(bench.depth_of(&module).await, 0);
        device.gets_nothing().await;
        // And the other way round.
        bench.send_to(&identity(DEVICE), "two").await;
        assert_eq!(device.published().await.1, b"two");
        pump.gets_nothing().await;
    });
}

#[test]
fn over_amqp_a_module_settles_its_messages() {
    simulate(async {
        let bench = Bench::start().await;
        let module = bench.module().await;
        let amqp = Amqp::serve(&bench);
        let mut pump = amqp.open().await;
        assert_eq!(pump.put(&bench.identity_token(&module, 3600)).await.status, 200);
        let own = address("modules/pump/messages/devicebound");
        let link = pump.receiver("messages", &own, 10).await;
        bench.send_to(&module, "one").await;
        for (expected, outcome) in [(0, Outcome::Released), (1, Outcome::Accepted)] {
            let (id, deliveries) = pump
                .until(move |_, event| match event {
                    Event::Transfer(Incoming {
                        link: found,
                        delivery_id,
                        payload,
                        ..
                    }) if *found == link => {
                        let message = Message::scan(payload).unwrap();
                        let to = message.properties().unwrap().to;
                        assert_eq!(to, Some("/devices/dev-1/modules/pump/messages/devicebound"));
                        let count = message.message_annotations.get("iothub-deliverycount").unwrap();
                        Some((*delivery_id, count.unwrap().integer().unwrap()))
                    }
                    _ => None,
                })
                .await;
            assert_eq!(deliveries, expected);
            pump.engine.settle(link, id, id, &outcome);
            pump.flush().await;
        }
        assert_eq!(bench.next_feedback().await, success("one"));
    });
}

#[test]
fn over_https_a_module_takes_and_completes_its_messages() {
    simulate(async {
        let bench = Bench::start().await;
        let module = bench.module().await;
        bench.send_to(&module, "one").await;
        let mut https = Https::open(&bench, NodeId(2), None);
        let version = "?api-version=2021-04-12";
        let of_device = format!("/devices/dev-1/messages/deviceBound{version}");
        let answer = https
            .request("GET", &of_device, &bench.device_token(DEVICE, 60), &[], b"")
            .await;
        assert_eq!(answer.status, 204, "the device has none");
        let token = bench.identity_token(&module, 60);
        let own = "/devices/dev-1/modules/pump/messages/deviceBound";
        let taken = https.request("GET", &format!("{own}{version}"), &token, &[], b"").await;
        assert_eq!((taken.status, taken.body.as_str()), (200, "one"));
        assert_eq!(
            taken.header("iothub-to"),
            Some("/devices/dev-1/modules/pump/messages/deviceBound")
        );
        let lock = taken.header("etag").unwrap().trim_matches('"').to_owned();
        let done = https
            .request("DELETE", &format!("{own}/{lock}{version}"), &token, &[], b"")
            .await;
        assert_eq!(done.status, 204, "{done:?}");
        assert_eq!(bench.next_feedback().await, success("one"));
        assert_eq!(bench.depth_of(&module).await, 0);
    });
}
