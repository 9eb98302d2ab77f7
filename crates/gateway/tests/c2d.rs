//! Cloud-to-device messages of an MQTT client on a simulated cluster: from any node through the queue to the device, and the
//! feedback back.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_device_hub::{
    CloudMessage, CloudQueueError, DeadLetterReason, DeviceHub, Enqueued, Feedback, FeedbackRequest, FeedbackSource,
    FeedbackStatus, FeedbackVerdict, ListedMessage,
};
use holdfast_model::{GenerationId, NodeId, UnixMillis};
use holdfast_mqtt::codec::{Packet, QoS, unsubscribe};
use holdfast_simulation::{identity, simulate};
use support::https::{Answer, Https};
use support::{Bench, DEVICE, Device, encoded};
use tokio::io::AsyncWriteExt as _;

const TOPIC: &str = "devices/dev-1/messages/devicebound/";
const FILTER: &str = "devices/dev-1/messages/devicebound/#";

fn message(id: &str) -> CloudMessage {
    CloudMessage {
        message_id: Some(id.to_owned()),
        feedback: Some(FeedbackRequest::Full),
        body: format!("body {id}").into(),
        ..CloudMessage::default()
    }
}

impl Bench {
    /// A node that neither has the device's connection nor, in most tests, owns its partition.
    fn sender(&self) -> &Arc<DeviceHub> {
        self.cluster.hub(NodeId(2))
    }

    fn generation(&self) -> GenerationId {
        let registered = self.sender().registry().identity(&identity(DEVICE)).unwrap();
        registered.unwrap().generation.clone()
    }

    async fn send(&self, message: &CloudMessage) -> Result<Enqueued, CloudQueueError> {
        let (device, generation) = (identity(DEVICE), self.generation());
        self.sender().send_cloud_message(&device, &generation, message).await
    }

    async fn list(&self) -> Vec<ListedMessage> {
        let (device, generation) = (identity(DEVICE), self.generation());
        self.sender().list_cloud_messages(&device, &generation).await.unwrap()
    }

    async fn requeue(&self) -> u32 {
        let (device, generation) = (identity(DEVICE), self.generation());
        let requeued = self.sender().requeue_dead_letters(&device, &generation, None).await;
        requeued.unwrap()
    }

    /// What becomes of the next `count` messages, as a back end at node 1 hears of it.
    async fn feedback(&self, count: usize) -> Vec<(String, FeedbackStatus)> {
        let feedback = self.lease_feedback(count).await;
        let heard = feedback
            .iter()
            .map(|one| (one.message_id.clone(), one.status))
            .collect();
        self.sender().settle_feedback(feedback, FeedbackVerdict::Done).await;
        heard
    }

    async fn lease_feedback(&self, count: usize) -> Vec<Feedback> {
        let mut source = FeedbackSource::new(Arc::clone(self.cluster.hub(NodeId(1))));
        let mut taken = Vec::new();
        while taken.len() < count {
            let next = std::future::poll_fn(|cx| source.poll_next(cx));
            let next = tokio::time::timeout(Duration::from_secs(100), next).await;
            taken.extend(next.expect("feedback in time"));
        }
        taken
    }

    /// Waits until the queue has this depth.
    async fn depth(&self, depth: usize) {
        let wait = async {
            while self.list().await.iter().filter(|one| one.dead.is_none()).count() != depth {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("the depth in time");
    }

    fn now(&self) -> UnixMillis {
        self.sender().clock().now()
    }
}

impl Device {
    async fn acknowledge(&mut self, packet_id: Option<u16>) {
        self.send(&encoded(&Packet::PubAck(packet_id.unwrap()))).await;
    }
}

fn success(id: &str) -> (String, FeedbackStatus) {
    (id.to_owned(), FeedbackStatus::Success)
}

#[test]
fn messages_wait_for_their_device_and_its_pubacks_complete_them() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        for id in ["1", "2", "3"] {
            bench.send(&message(id)).await.unwrap();
        }
        let mut device = bench.connect().await;
        device.gets_nothing().await;
        device.subscribe(FILTER, QoS::AtLeastOnce).await;
        let mut ids = Vec::new();
        for id in ["1", "2", "3"] {
            let (topic, payload, packet_id, is_repeated) = device.published_or_repeated().await;
            let bag = format!("%24.mid={id}&%24.to=%2Fdevices%2Fdev-1%2Fmessages%2Fdevicebound&iothub-ack=full");
            assert_eq!(
                (topic, payload),
                (format!("{TOPIC}{bag}"), format!("body {id}").into_bytes())
            );
            assert!(!is_repeated);
            ids.push(packet_id);
        }
        let listed = bench.list().await;
        assert!(listed.iter().all(|one| one.is_locked && one.deliveries == 0));
        // In any order.
        device.acknowledge(ids[1]).await;
        bench.depth(2).await;
        assert_eq!(bench.feedback(1).await, [success("2")]);
        device.acknowledge(ids[0]).await;
        device.acknowledge(ids[2]).await;
        bench.depth(0).await;
        bench.feedback(2).await;
        // To a device that is there, at once.
        bench.send(&message("4")).await.unwrap();
        assert_eq!(device.published().await.1, b"body 4");
        // At QoS 0 it is completed when it is written.
        device.subscribe(FILTER, QoS::AtMostOnce).await;
        bench.send(&message("5")).await.unwrap();
        assert_eq!(device.published().await.2, None);
        assert_eq!(bench.feedback(1).await, [success("5")]);
    });
}

#[test]
fn a_message_without_puback_comes_again_to_the_next_connection_wherever_it_is() {
    simulate(async {
        let bench = Bench::start().await;
        let (mut device, _) = bench.resume(NodeId(1)).await;
        device.subscribe(FILTER, QoS::AtLeastOnce).await;
        for id in ["1", "2"] {
            bench.send(&message(id)).await.unwrap();
        }
        let first = device.published().await;
        device.published().await;
        device.acknowledge(first.2).await;
        bench.depth(1).await;
        drop(device);
        bench.send(&message("3")).await.unwrap();
        // It subscribes to nothing: its subscription is stored.
        let (mut device, is_present) = bench.resume(NodeId(3)).await;
        assert!(is_present);
        let (_, payload, second, is_repeated) = device.published_or_repeated().await;
        assert_eq!((&payload[..], is_repeated), (&b"body 2"[..], true));
        let (_, payload, third, is_repeated) = device.published_or_repeated().await;
        assert_eq!((&payload[..], is_repeated), (&b"body 3"[..], false));
        assert_eq!(bench.list().await[0].deliveries, 1);
        // A newer connection takes over.
        let (mut newer, _) = bench.resume(NodeId(2)).await;
        // Its acknowledgements come too late, if at all.
        for id in [second, third] {
            let _ = device.stream.write_all(&encoded(&Packet::PubAck(id.unwrap()))).await;
        }
        for body in ["body 2", "body 3"] {
            let (_, payload, packet_id, is_repeated) = newer.published_or_repeated().await;
            assert_eq!((payload, is_repeated), (body.as_bytes().to_vec(), true));
            newer.acknowledge(packet_id).await;
        }
        bench.depth(0).await;
        assert_eq!(bench.feedback(3).await.len(), 3);
        newer.gets_nothing().await;
    });
}

#[test]
fn a_full_queue_is_refused_and_a_purge_gives_the_exact_number() {
    simulate(async {
        let bench = Bench::start().await;
        for number in 0..50 {
            bench.send(&message(&number.to_string())).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(7)).await;
        match bench.send(&message("more")).await {
            Err(CloudQueueError::Full { depth, oldest_age_ms }) => {
                assert!(
                    depth == 50 && (7000..9000).contains(&oldest_age_ms),
                    "{depth} {oldest_age_ms}"
                );
            }
            other => panic!("{other:?}"),
        }
        let device = identity(DEVICE);
        let state = bench.sender().connection_state(&device).await;
        assert_eq!(state.cloud_messages, 50);
        let purged = bench.sender().purge_cloud_messages(&device, &bench.generation()).await;
        assert_eq!(purged, Ok(50));
        assert_eq!(bench.list().await, []);
        let heard = bench.feedback(50).await;
        assert!(heard.iter().all(|(_, status)| *status == FeedbackStatus::Purged));
        assert_eq!(heard.len(), 50);
        let gone = GenerationId("1".into());
        let refused = bench.sender().send_cloud_message(&device, &gone, &message("x")).await;
        assert_eq!(refused, Err(CloudQueueError::Gone), "of a deleted generation");
    });
}

#[test]
fn expired_and_often_delivered_messages_are_dead_letters_that_can_be_requeued() {
    simulate(async {
        let bench = Bench::start().await;
        let soon = CloudMessage {
            expiry: Some(UnixMillis(bench.now().0 + 60_000)),
            ..message("late")
        };
        bench.send(&soon).await.unwrap();
        tokio::time::sleep(Duration::from_secs(61)).await;
        // It expires without a request.
        let heard = bench.feedback(1).await;
        assert_eq!(heard, [("late".to_owned(), FeedbackStatus::Expired)]);
        bench.send(&message("often")).await.unwrap();
        let (mut device, _) = bench.resume(NodeId(1)).await;
        device.subscribe(FILTER, QoS::AtLeastOnce).await;
        for number in 0..10 {
            let (_, payload, _, is_repeated) = device.published_or_repeated().await;
            assert_eq!((&payload[..], is_repeated), (&b"body often"[..], number > 0));
            drop(device);
            (device, _) = bench.resume(NodeId(1)).await;
        }
        let heard = bench.feedback(1).await;
        assert_eq!(heard, [("often".to_owned(), FeedbackStatus::DeliveryCountExceeded)]);
        device.gets_nothing().await;
        let reasons: Vec<_> = bench.list().await.iter().map(|one| one.dead.unwrap().0).collect();
        assert_eq!(
            reasons,
            [DeadLetterReason::Expired, DeadLetterReason::DeliveryCountExceeded]
        );
        assert_eq!(bench.requeue().await, 2);
        for body in ["body late", "body often"] {
            let (_, payload, packet_id, is_repeated) = device.published_or_repeated().await;
            assert_eq!((payload, is_repeated), (body.as_bytes().to_vec(), false));
            device.acknowledge(packet_id).await;
        }
        assert_eq!(bench.feedback(2).await, [success("late"), success("often")]);
        assert_eq!(bench.list().await, []);
    });
}

#[test]
fn a_change_of_owner_neither_loses_nor_repeats_what_the_connection_has() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        let mut device = bench.connect().await;
        device.subscribe(FILTER, QoS::AtLeastOnce).await;
        let mut number = 0;
        for owner in [2, 1, 3, 1, 2, 3] {
            for _ in 0..2 {
                number += 1;
                bench.send(&message(&number.to_string())).await.unwrap();
            }
            let first = device.published().await;
            let second = device.published().await;
            assert_eq!(second.1, format!("body {number}").into_bytes());
            // One is acknowledged while the owner changes, the other afterwards.
            device.acknowledge(first.2).await;
            bench.cluster.owned_by(DEVICE, NodeId(owner)).await;
            device.gets_nothing().await;
            device.acknowledge(second.2).await;
            bench.depth(0).await;
        }
        let heard = bench.feedback(number).await;
        assert!(
            heard.iter().all(|(_, status)| *status == FeedbackStatus::Success),
            "{heard:?}"
        );
    });
}

#[test]
fn a_new_owner_delivers_what_a_killed_one_had_queued() {
    simulate(async {
        let mut bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        let mut device = bench.connect().await;
        device.subscribe(FILTER, QoS::AtLeastOnce).await;
        let mut unsubscribed = Vec::new();
        unsubscribe(&mut unsubscribed, 8, &[FILTER]).unwrap();
        device.send(&unsubscribed).await;
        device.receive(4).await;
        for id in ["1", "2", "3"] {
            bench.send(&message(id)).await.unwrap();
        }
        device.gets_nothing().await;
        bench.cluster.kill(NodeId(3));
        device.subscribe(FILTER, QoS::AtLeastOnce).await;
        let until_delivered = async {
            for id in ["1", "2", "3"] {
                while device.input.is_empty() {
                    let more = tokio::io::AsyncReadExt::read_buf(&mut device.stream, &mut device.input);
                    more.await.unwrap();
                }
                let (_, payload, packet_id) = device.published().await;
                assert_eq!(payload, format!("body {id}").into_bytes());
                device.acknowledge(packet_id).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), until_delivered)
            .await
            .expect("delivered in time");
        bench.depth(0).await;
        assert_eq!(bench.feedback(3).await.len(), 3);
    });
}

#[test]
fn feedback_comes_again_until_a_back_end_has_accepted_it() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        bench.send(&message("1")).await.unwrap();
        // A back end that has ended while it was waiting keeps none.
        let mut ended = FeedbackSource::new(Arc::clone(bench.cluster.hub(NodeId(1))));
        let waits = std::future::poll_fn(|cx| ended.poll_next(cx));
        assert!(tokio::time::timeout(Duration::from_millis(1), waits).await.is_err());
        drop(ended);
        bench
            .sender()
            .purge_cloud_messages(&identity(DEVICE), &bench.generation())
            .await
            .unwrap();
        let soon = tokio::time::timeout(Duration::from_secs(2), bench.lease_feedback(1)).await;
        let first = soon.expect("feedback at once");
        // Given back, it comes at once.
        bench.sender().settle_feedback(first, FeedbackVerdict::Released).await;
        bench.lease_feedback(1).await;
        // Kept without a word, it comes after a minute.
        let kept = bench.lease_feedback(1).await;
        // The next owner knows it too.
        bench.cluster.owned_by(DEVICE, NodeId(1)).await;
        assert_eq!(bench.lease_feedback(1).await, kept);
        bench.sender().settle_feedback(kept, FeedbackVerdict::Done).await;
        let more = tokio::time::timeout(Duration::from_secs(90), bench.lease_feedback(1)).await;
        assert!(more.is_err(), "it was accepted");
    });
}

const RECEIVE: &str = "/devices/dev-1/messages/deviceBound?api-version=2021-04-12";

impl Bench {
    fn https_token(&self) -> String {
        let hub = self.sender();
        let registered = hub.registry().identity(&identity(DEVICE)).unwrap().unwrap();
        let key = holdfast_simulation::primary_key(&registered.authentication);
        let end = hub.clock().now().0 / 1000 + 3600;
        holdfast_auth::sign_identity(holdfast_simulation::HOST, &identity(DEVICE), &key, end)
    }

    async fn receive(&self, https: &mut Https, headers: &[(&str, &str)]) -> Answer {
        https.request("GET", RECEIVE, &self.https_token(), headers, &[]).await
    }

    async fn settle(&self, https: &mut Https, received: &Answer, how: &str) -> Answer {
        // The C SDK looks for this spelling.
        assert!(
            received.headers.iter().any(|(name, _)| name == "ETag"),
            "{:?}",
            received.headers
        );
        let token = received.header("etag").unwrap().trim_matches('"').to_owned();
        let path = |rest: &str| format!("/devices/dev-1/messages/devicebound/{token}{rest}api-version=2021-04-12");
        let (method, path) = match how {
            "complete" => ("DELETE", path("?")),
            "reject" => ("DELETE", path("?reject&")),
            _ => ("POST", path("/abandon?")),
        };
        https.request(method, &path, &self.https_token(), &[], &[]).await
    }
}

#[test]
fn a_device_takes_messages_over_https_one_by_one_and_settles_each_as_it_likes() {
    simulate(async {
        let bench = Bench::start().await;
        // The node that it asks, and the next one: both know its locks.
        let mut https = Https::open(&bench, NodeId(1), None);
        let mut other = Https::open(&bench, NodeId(3), None);
        assert_eq!(bench.receive(&mut https, &[]).await.status, 204, "there is none");
        for id in ["a", "b", "c"] {
            let mut message = message(id);
            message.properties = vec![("Level".into(), Some("hot".into()))];
            bench.send(&message).await.unwrap();
        }
        let first = bench.receive(&mut https, &[]).await;
        assert_eq!((first.status, first.body.as_str()), (200, "body a"));
        assert_eq!(first.header("iothub-messageid"), Some("a"));
        assert_eq!(first.header("iothub-to"), Some("/devices/dev-1/messages/deviceBound"));
        assert_eq!(first.header("iothub-app-level"), Some("hot"));
        assert_eq!(first.header("iothub-deliverycount"), Some("0"));
        let second = bench.receive(&mut other, &[]).await;
        assert_eq!(second.body, "body b", "the first is locked");
        assert_eq!(bench.settle(&mut other, &first, "complete").await.status, 204);
        let again = bench.settle(&mut https, &first, "complete").await;
        assert_eq!((again.status, again.number()), (412, 412_002));
        assert_eq!(bench.settle(&mut https, &second, "abandon").await.status, 204);
        let second = bench.receive(&mut https, &[]).await;
        assert_eq!(
            (second.body.as_str(), second.header("iothub-deliverycount")),
            ("body b", Some("1"))
        );
        assert_eq!(bench.settle(&mut https, &second, "reject").await.status, 204);
        let third = bench.receive(&mut https, &[]).await;
        assert_eq!(bench.settle(&mut https, &third, "complete").await.status, 204);
        assert_eq!(bench.receive(&mut https, &[]).await.status, 204);
        let heard = bench.feedback(3).await;
        let expected = [
            ("a".to_owned(), FeedbackStatus::Success),
            ("b".to_owned(), FeedbackStatus::Rejected),
            ("c".to_owned(), FeedbackStatus::Success),
        ];
        for one in expected {
            assert!(heard.contains(&one), "{one:?}: {heard:?}");
        }
    });
}

#[test]
fn a_lock_runs_out_and_the_message_goes_to_the_session_that_waits_for_it() {
    simulate(async {
        let bench = Bench::start().await;
        let mut https = Https::open(&bench, NodeId(1), None);
        bench.send(&message("a")).await.unwrap();
        for wrong in ["4", "301", "x"] {
            let answer = bench.receive(&mut https, &[("iothub-messagelocktimeout", wrong)]).await;
            assert_eq!((answer.status, answer.number()), (400, 400_004));
        }
        let taken = bench.receive(&mut https, &[("IoTHub-MessageLockTimeout", "8")]).await;
        assert_eq!(taken.body, "body a");
        let mut device = bench.connect().await;
        device.subscribe(FILTER, QoS::AtLeastOnce).await;
        device.gets_nothing().await;
        let (_, payload, id) = device.published().await;
        assert_eq!(payload, b"body a");
        let lost = bench.settle(&mut https, &taken, "complete").await;
        assert_eq!((lost.status, lost.number()), (412, 412_002));
        assert_eq!(bench.receive(&mut https, &[]).await.status, 204, "the session has it");
        device.send(&encoded(&Packet::PubAck(id.unwrap()))).await;
        let heard = bench.feedback(1).await;
        assert_eq!(heard, [("a".to_owned(), FeedbackStatus::Success)]);
    });
}

#[test]
fn another_owner_loses_locks_and_no_message() {
    simulate(async {
        let bench = Bench::start().await;
        bench.cluster.owned_by(DEVICE, NodeId(1)).await;
        let mut https = Https::open(&bench, NodeId(2), None);
        bench.send(&message("a")).await.unwrap();
        let taken = bench.receive(&mut https, &[]).await;
        bench.cluster.owned_by(DEVICE, NodeId(3)).await;
        assert_eq!(bench.settle(&mut https, &taken, "complete").await.number(), 412_002);
        let taken = bench.receive(&mut https, &[]).await;
        assert_eq!(taken.body, "body a");
        assert_eq!(bench.settle(&mut https, &taken, "complete").await.status, 204);
        assert_eq!(bench.list().await, []);
    });
}
