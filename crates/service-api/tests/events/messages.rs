//! Messages to devices over AMQP: outcomes of sending, and feedback under locks.

use std::time::Duration;

use holdfast_amqp::message::{Message, Properties, begin_application_properties, put_data, put_properties};
use holdfast_amqp::types::{Raw, Value, put_bool, put_null, put_str, put_uint};
use holdfast_amqp::{AttachSpec, ClientSasl, Delivery, Detached, Event, LinkId, Outcome};
use holdfast_consensus::sim::SimNetwork;
use holdfast_device_hub::{DeviceHubConfig, ListedMessage, ThrottlesConfig};
use holdfast_model::{DeviceId, HumanDuration, IdentityId, ModuleId, NodeId, Rate};
use holdfast_registry::{IdentityContent, IdentityWrite, Status, WriteOperation};
use holdfast_service_api::events::EventsConfig;
use tokio::io::DuplexStream;

use crate::events_hub::{Client, Hub, Site, now, on_a_core};
use crate::on_a_hub;

const DEVICEBOUND: &str = "amqps://hub1.example.com/messages/devicebound";
const FEEDBACK: &str = "/messages/servicebound/feedback";

fn device(name: &str) -> IdentityId {
    IdentityId::device(DeviceId::parse(name).unwrap())
}

impl Hub {
    async fn create(&self, name: &str, status: Status) {
        let write = IdentityWrite {
            id: device(name),
            operation: WriteOperation::Create(IdentityContent {
                status,
                ..IdentityContent::default()
            }),
        };
        self.registry.write(write).await.unwrap();
    }

    async fn queue(&self, name: &str) -> Vec<ListedMessage> {
        let identity = self.registry.identity(&device(name)).unwrap().unwrap();
        let listed = self.hub.list_cloud_messages(&device(name), &identity.generation).await;
        listed.unwrap()
    }

    async fn purge(&self, name: &str) -> u32 {
        let identity = self.registry.identity(&device(name)).unwrap().unwrap();
        let purged = self.hub.purge_cloud_messages(&device(name), &identity.generation).await;
        purged.unwrap()
    }
}

/// A message that is sent, as tests change it.
struct Sent<'a> {
    to: &'a str,
    id: &'a str,
    expiry: Option<i64>,
    body: &'a [u8],
    ack: Option<&'a str>,
}

fn to(to: &str) -> Sent<'_> {
    Sent {
        to,
        id: "m1",
        expiry: None,
        body: b"hello",
        ack: None,
    }
}

impl Sent<'_> {
    fn encode(&self, buf: &mut Vec<u8>) {
        let mut id = Vec::new();
        put_str(&mut id, self.id);
        put_properties(
            buf,
            &Properties {
                message_id: Raw::new(&id).ok(),
                to: Some(self.to),
                absolute_expiry_time: self.expiry,
                ..Properties::default()
            },
        );
        let mut map = begin_application_properties(buf);
        if let Some(ack) = self.ack {
            put_str(map.string_key("iothub-ack"), ack);
        }
        put_uint(map.string_key("number"), 300);
        put_bool(map.string_key("flag"), true);
        put_null(map.string_key("nothing"));
        map.finish();
        put_data(buf, self.body);
    }
}

impl Client<DuplexStream> {
    /// Sends one message; the condition, number and text of its rejection.
    async fn send_message(&mut self, link: LinkId, message: &Sent<'_>) -> Result<(), (String, i64, String)> {
        if self.engine.sendable(link) == 0 {
            self.until(|engine, _| (engine.sendable(link) > 0).then_some(())).await;
        }
        let delivery = Delivery {
            tag: b"tag",
            settled: false,
            message_format: 0,
        };
        let id = self
            .engine
            .send_with(link, &delivery, |buf| message.encode(buf))
            .unwrap();
        self.flush().await;
        self.until(move |engine, event| match event {
            Event::Disposition {
                session,
                first,
                last,
                settled,
                outcome,
            } if *first <= id && id <= *last => {
                assert!(settled);
                engine.take_outgoing(*session, *first, *last);
                Some(match outcome {
                    Some(Outcome::Accepted) => Ok(()),
                    Some(Outcome::Rejected(Some(fault))) => {
                        let info = fault.received_info.unwrap();
                        let Value::Map(info) = info.value().unwrap() else {
                            panic!("the info is a map")
                        };
                        let number = info
                            .get("com.microsoft:error-code")
                            .unwrap()
                            .unwrap()
                            .integer()
                            .unwrap();
                        let text = fault.description.unwrap_or_default().to_owned();
                        Err((fault.condition.to_owned(), number, text))
                    }
                    other => panic!("{other:?}"),
                })
            }
            _ => None,
        })
        .await
    }

    /// The next feedback message: its delivery id and records.
    async fn feedback(&mut self, link: LinkId) -> (u32, serde_json::Value) {
        self.engine.grant(link, 1);
        self.flush().await;
        self.until(move |_, event| match event {
            Event::Transfer(incoming) if incoming.link == link => {
                assert!(!incoming.settled && incoming.tag.len() == 16);
                let message = Message::scan(&incoming.payload).unwrap();
                let properties = message.properties().unwrap();
                assert_eq!(
                    properties.content_type,
                    Some("application/vnd.microsoft.iothub.feedback.json")
                );
                assert_eq!(properties.user_id, Some(&b"hub1"[..]));
                let enqueued = message.message_annotations.get("iothub-enqueuedtime").unwrap();
                assert!(matches!(enqueued, Some(Value::Timestamp(_))), "C# requires it");
                let body = message.data().next().unwrap();
                Some((incoming.delivery_id, serde_json::from_slice(body).unwrap()))
            }
            _ => None,
        })
        .await
    }

    async fn settle(&mut self, link: LinkId, id: u32, outcome: &Outcome<'_>) {
        self.engine.settle(link, id, id, outcome);
        self.flush().await;
    }
}

#[test]
fn each_message_has_the_outcome_that_clients_know() {
    on_a_hub(|hub| async move {
        hub.create("d%1", Status::Enabled).await;
        hub.create("off", Status::Disabled).await;
        let mut client = hub.reader().await;
        // The token of readers is for the events endpoint alone.
        let refused = client.attach(&AttachSpec::sender("s", DEVICEBOUND)).await.unwrap_err();
        assert_eq!(refused.0, "amqp:unauthorized-access");
        assert_eq!(
            client.put(&hub.token("service", "hub1.example.com", 600)).await.status,
            200
        );
        let link = client.attach(&AttachSpec::sender("s", DEVICEBOUND)).await.unwrap();
        let address = "/devices/d%251/messages/deviceBound";
        let full = Sent {
            ack: Some("full"),
            ..to(address)
        };
        client.send_message(link, &full).await.unwrap();
        let queue = hub.queue("d%1").await;
        let message = &queue[0].message;
        assert_eq!(
            (message.to.as_deref(), message.message_id.as_deref()),
            (Some(address), Some("m1"))
        );
        let properties = [
            ("number".to_owned(), Some("300".to_owned())),
            ("flag".to_owned(), Some("true".to_owned())),
            ("nothing".to_owned(), None),
        ];
        assert_eq!(message.properties, properties);
        let large = vec![0; 64 * 1024 + 1];
        let past = i64::try_from(now().0).unwrap() - 1000;
        let wrong: [(Sent<'_>, &str, i64); 8] = [
            (to("/devices/nobody/messages/devicebound"), "amqp:not-found", 404_001),
            (to("/devices/off/messages/devicebound"), "amqp:not-allowed", 403_012),
            (
                to("/devices/d/modules/m/messages/devicebound"),
                "amqp:not-found",
                404_010,
            ),
            (to("somewhere"), "amqp:not-allowed", 400_003),
            (
                Sent {
                    body: &large,
                    ..to(address)
                },
                "amqp:link:message-size-exceeded",
                413_001,
            ),
            (
                Sent {
                    expiry: Some(past),
                    ..to(address)
                },
                "com.microsoft:argument-out-of-range",
                403_009,
            ),
            (
                Sent {
                    ack: Some("all"),
                    ..to(address)
                },
                "com.microsoft:argument-error",
                400_004,
            ),
            (
                Sent {
                    id: &"i".repeat(129),
                    ..to(address)
                },
                "com.microsoft:argument-error",
                400_004,
            ),
        ];
        for (message, condition, number) in wrong {
            let refused = client.send_message(link, &message).await.unwrap_err();
            assert_eq!((refused.0.as_str(), refused.1), (condition, number), "{}", refused.2);
        }
        let module = IdentityId::module(DeviceId::parse("d%1").unwrap(), ModuleId::parse("m").unwrap());
        let write = IdentityWrite {
            id: module.clone(),
            operation: WriteOperation::Create(IdentityContent::default()),
        };
        hub.registry.write(write).await.unwrap();
        let of_module = to("/devices/d%251/modules/m/messages/devicebound");
        client.send_message(link, &of_module).await.unwrap();
        let generation = hub.registry.identity(&module).unwrap().unwrap().generation.clone();
        let listed = hub.hub.list_cloud_messages(&module, &generation).await.unwrap();
        assert_eq!(listed.len(), 1, "in its own queue");
        for _ in 1..50 {
            client.send_message(link, &to(address)).await.unwrap();
        }
        let refused = client.send_message(link, &to(address)).await.unwrap_err();
        assert_eq!(
            (refused.0.as_str(), refused.1),
            ("amqp:resource-limit-exceeded", 403_004)
        );
        assert!(
            refused.2.contains("holds 50 messages") && refused.2.contains("waiting for"),
            "{}",
            refused.2
        );
        assert_eq!(hub.queue("d%1").await.len(), 50, "nothing of it was queued");
    });
}

#[test]
fn feedback_is_locked_given_back_and_accepted() {
    on_a_hub(|hub| async move {
        hub.create("d", Status::Enabled).await;
        let mut client = hub.connect(ClientSasl::Anonymous).await;
        assert_eq!(
            client.put(&hub.token("service", "hub1.example.com", 600)).await.status,
            200
        );
        let sender = client.attach(&AttachSpec::sender("s", DEVICEBOUND)).await.unwrap();
        for id in ["a", "b"] {
            let message = Sent {
                id,
                ack: Some("negative"),
                ..to("/devices/d/messages/devicebound")
            };
            client.send_message(sender, &message).await.unwrap();
        }
        let link = client.attach(&AttachSpec::receiver("r", FEEDBACK)).await.unwrap();
        assert_eq!(hub.purge("d").await, 2);
        let (id, records) = client.feedback(link).await;
        let generation = hub
            .registry
            .identity(&device("d"))
            .unwrap()
            .unwrap()
            .generation
            .to_string();
        assert_eq!(records.as_array().unwrap().len(), 2);
        assert_eq!(records[0]["originalMessageId"], "a");
        assert_eq!(records[1]["statusCode"], "Purged");
        assert_eq!(records[1]["description"], "Purged");
        assert_eq!(records[0]["deviceGenerationId"], *generation);
        assert!(records[0]["enqueuedTimeUtc"].as_str().unwrap().ends_with('Z'));
        client.settle(link, id, &Outcome::Released).await;
        let (_, again) = client.feedback(link).await;
        assert_eq!(again, records);
        // The connection ends without a word: another one gets it.
        drop(client);
        let mut client = hub.connect(ClientSasl::Anonymous).await;
        assert_eq!(
            client.put(&hub.token("service", "hub1.example.com", 600)).await.status,
            200
        );
        let link = client.attach(&AttachSpec::receiver("r", FEEDBACK)).await.unwrap();
        let (id, again) = client.feedback(link).await;
        assert_eq!(again, records);
        client.settle(link, id, &Outcome::Accepted).await;
        // It can neither be sent to, nor the other address received from.
        for spec in [
            AttachSpec::sender("x", FEEDBACK),
            AttachSpec::receiver("y", DEVICEBOUND),
        ] {
            assert_eq!(client.attach(&spec).await.unwrap_err().0, "amqp:not-allowed");
        }
        client.engine.grant(link, 1);
        let none = tokio::time::timeout(
            Duration::from_secs(2),
            client.until(|_, event| matches!(event, Event::Transfer(_)).then_some(())),
        );
        assert!(none.await.is_err(), "it was accepted");
    });
}

#[test]
fn of_two_receivers_one_has_a_record_and_the_other_gets_what_the_first_one_leaves() {
    on_a_hub(|hub| async move {
        hub.create("d", Status::Enabled).await;
        let token = hub.token("service", "hub1.example.com", 600);
        let (mut first, mut second) = (
            hub.connect(ClientSasl::Anonymous).await,
            hub.connect(ClientSasl::Anonymous).await,
        );
        assert_eq!(first.put(&token).await.status, 200);
        assert_eq!(second.put(&token).await.status, 200);
        let sender = first.attach(&AttachSpec::sender("s", DEVICEBOUND)).await.unwrap();
        let link = first.attach(&AttachSpec::receiver("r", FEEDBACK)).await.unwrap();
        let other = second.attach(&AttachSpec::receiver("r", FEEDBACK)).await.unwrap();
        let ended = async |client: &mut Client<DuplexStream>, id: &'static str| {
            let message = Sent {
                id,
                ack: Some("negative"),
                ..to("/devices/d/messages/devicebound")
            };
            client.send_message(sender, &message).await.unwrap();
            assert_eq!(hub.purge("d").await, 1);
        };
        ended(&mut first, "a").await;
        let (_, records) = first.feedback(link).await;
        assert_eq!(records[0]["originalMessageId"], "a");
        // It is locked, and the first receiver has no credit for another one.
        let none = tokio::time::timeout(Duration::from_secs(2), second.feedback(other)).await;
        assert!(none.is_err(), "{none:?}");
        ended(&mut first, "b").await;
        let (id, records) = second.feedback(other).await;
        assert_eq!(records.as_array().unwrap().len(), 1);
        assert_eq!(records[0]["originalMessageId"], "b");
        second.settle(other, id, &Outcome::Accepted).await;
        // The link ends, its connection stays.
        first
            .engine
            .detach(link, Detached::Closed, None, std::time::Instant::now());
        first.flush().await;
        let (id, records) = second.feedback(other).await;
        assert_eq!(records[0]["originalMessageId"], "a");
        second.settle(other, id, &Outcome::Accepted).await;
        let none = tokio::time::timeout(Duration::from_secs(2), second.feedback(other)).await;
        assert!(none.is_err(), "{none:?}");
    });
}

#[test]
fn a_message_beyond_the_rate_is_rejected_as_throttled_and_not_queued() {
    on_a_core(|| async {
        let site = Site {
            node: NodeId(7),
            owner: NodeId(7),
            network: SimNetwork::new(1),
        };
        let config = DeviceHubConfig {
            throttles: ThrottlesConfig {
                c2d_sends: Some(Rate::PerMinute(2)),
                max_wait: HumanDuration::secs(0),
                ..ThrottlesConfig::default()
            },
            ..DeviceHubConfig::default()
        };
        let hub = Hub::start_with(EventsConfig::default(), config, site).await;
        hub.create("d", Status::Enabled).await;
        let mut client = hub.reader().await;
        assert_eq!(
            client.put(&hub.token("service", "hub1.example.com", 600)).await.status,
            200
        );
        let link = client.attach(&AttachSpec::sender("s", DEVICEBOUND)).await.unwrap();
        let address = "/devices/d/messages/deviceBound";
        client.send_message(link, &to(address)).await.unwrap();
        client.send_message(link, &to(address)).await.unwrap();
        let (condition, number, text) = client.send_message(link, &to(address)).await.unwrap_err();
        assert_eq!(
            (condition.as_str(), number),
            ("com.microsoft:device-container-throttled", 429_001)
        );
        assert!(
            text.starts_with("messages to devices are limited to 2/min; retry after "),
            "{text}"
        );
        assert_eq!(hub.queue("d").await.len(), 2);
    });
}

#[test]
fn a_message_beyond_the_daily_quota_is_rejected_as_such_and_not_queued() {
    on_a_core(|| async {
        let site = Site {
            node: NodeId(7),
            owner: NodeId(7),
            network: SimNetwork::new(1),
        };
        let config = DeviceHubConfig {
            throttles: ThrottlesConfig {
                daily_messages: Some(1),
                ..ThrottlesConfig::default()
            },
            ..DeviceHubConfig::default()
        };
        let hub = Hub::start_with(EventsConfig::default(), config, site).await;
        hub.create("d", Status::Enabled).await;
        let mut client = hub.reader().await;
        let token = hub.token("service", "hub1.example.com", 600);
        assert_eq!(client.put(&token).await.status, 200);
        let link = client.attach(&AttachSpec::sender("s", DEVICEBOUND)).await.unwrap();
        let address = "/devices/d/messages/deviceBound";
        client.send_message(link, &to(address)).await.unwrap();
        // It counts when the device has completed it; something else uses the quota up.
        hub.hub.charge(|| 1);
        let (condition, number, text) = client.send_message(link, &to(address)).await.unwrap_err();
        assert_eq!((condition.as_str(), number), ("com.microsoft:quota-exceeded", 403_002));
        assert!(
            text.starts_with("the hub's quota of 1 messages a day is used up"),
            "{text}"
        );
        assert_eq!(hub.queue("d").await.len(), 1);
    });
}
