//! The Event-Hubs-compatible endpoint against a client of ours, through memory.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/audit_log.rs"]
mod audit_log;
#[path = "support/events_hub.rs"]
mod events_hub;

use std::time::{Duration, Instant};

use audit_log::AuditLog;
use events_hub::{HOST, Hub, now, on_a_core};
use holdfast_amqp::message::Message;
use holdfast_amqp::selector::Start;
use holdfast_amqp::types::{MapWriter, Raw, Value, put_str};
use holdfast_amqp::{AttachSpec, ClientSasl, Event, InfoValue, LinkId, message};
use holdfast_auth::{Rights, sign};
use holdfast_model::{Property, PropertyValue, SystemProperties, TelemetryMessage, UnixMillis};
use holdfast_service_api::events::EventsConfig;
use holdfast_tasks::Phase;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn on_a_hub<F: Future<Output = ()>>(test: impl FnOnce(Hub) -> F) {
    on_a_core(|| async { test(Hub::start(EventsConfig::default()).await).await });
}

fn sequence(number: u64, inclusive: bool) -> Start {
    Start::Sequence { number, inclusive }
}

#[test]
fn an_event_carries_what_the_device_sent_and_the_stamps_of_the_partition() {
    on_a_hub(|hub| async move {
        let message = TelemetryMessage {
            payload: b"{\"t\":1}",
            system: SystemProperties {
                message_id: Some("m-1".into()),
                correlation_id: Some("c-1".into()),
                user_id: Some(b"user".as_slice().into()),
                content_type: Some("application/json".into()),
                content_encoding: Some("utf-8".into()),
                component: Some("thermostat".into()),
                creation_time: Some("2026-01-02T03:04:05Z".into()),
                ..SystemProperties::default()
            },
            properties: [
                Property {
                    name: "alert".into(),
                    value: PropertyValue::Text("yes".into()),
                },
                Property {
                    name: "none".into(),
                    value: PropertyValue::Null,
                },
            ]
            .into_iter()
            .collect(),
        };
        let before = now();
        hub.append(1, &[TelemetryMessage::default(), message]).await;
        let mut client = hub.reader().await;
        let link = client.receive(1, Start::Oldest, &[]).await.unwrap();
        let payloads = client.take(link, 2).await;

        let empty = Message::scan(&payloads[0]).unwrap();
        assert_eq!(empty.body, message::Body::Data(b"", 1));
        assert!(empty.application_properties.is_empty());

        let event = Message::scan(&payloads[1]).unwrap();
        let text = |key: &str| match event.message_annotations.get(key).unwrap() {
            Some(Value::String(text)) => Some(text.to_owned()),
            other => panic!("{key} is {other:?}"),
        };
        assert_eq!(
            event.message_annotations.get("x-opt-sequence-number"),
            Ok(Some(Value::Long(1)))
        );
        assert_eq!(text("x-opt-offset").as_deref(), Some("1"));
        assert_eq!(text("x-opt-partition-key").as_deref(), Some("device-1"));
        assert_eq!(text("iothub-connection-device-id").as_deref(), Some("device-1"));
        assert_eq!(
            text("iothub-connection-auth-generation-id").as_deref(),
            Some("638400000000000001")
        );
        assert!(
            text("iothub-connection-auth-method")
                .unwrap()
                .contains("\"scope\":\"device\"")
        );
        assert_eq!(text("iothub-message-source").as_deref(), Some("Telemetry"));
        assert_eq!(text("dt-dataschema").as_deref(), Some("dtmi:m;1"));
        assert_eq!(text("dt-subject").as_deref(), Some("thermostat"));
        for key in ["x-opt-enqueued-time", "iothub-enqueuedtime"] {
            let Ok(Some(Value::Timestamp(time))) = event.message_annotations.get(key) else {
                panic!("{key}")
            };
            assert!(time >= i64::try_from(before.0).unwrap());
        }
        assert!(
            event
                .message_annotations
                .get("iothub-connection-module-id")
                .unwrap()
                .is_none()
        );
        let properties = event.properties().unwrap();
        assert_eq!(message::id_text(properties.message_id.unwrap()).unwrap(), "m-1");
        assert_eq!(message::id_text(properties.correlation_id.unwrap()).unwrap(), "c-1");
        assert_eq!(properties.user_id, Some(b"user".as_slice()));
        assert_eq!(properties.content_type, Some("application/json"));
        assert_eq!(properties.content_encoding, Some("utf-8"));
        let own = event.application_properties;
        assert_eq!(own.get("alert"), Ok(Some(Value::String("yes"))));
        assert_eq!(
            own.get("iothub-creation-time-utc"),
            Ok(Some(Value::String("2026-01-02T03:04:05Z")))
        );
        assert_eq!(own.len(), 3);
        assert_eq!(event.body, message::Body::Data(b"{\"t\":1}", 1));
    });
}

#[test]
fn readers_start_where_they_ask_and_see_later_events_as_they_come() {
    on_a_hub(|hub| async move {
        hub.append_texts(0, &["a", "b"]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let middle = i64::try_from(now().0).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        hub.append_texts(0, &["c", "d"]).await;
        let mut client = hub.reader().await;
        let latest = client.receive(0, Start::Latest, &[]).await.unwrap();
        for (start, expected) in [
            (Start::Oldest, vec!["a", "b", "c", "d"]),
            (
                Start::Offset {
                    offset: 0,
                    inclusive: false,
                },
                vec!["b", "c", "d"],
            ),
            (
                Start::Offset {
                    offset: 1,
                    inclusive: true,
                },
                vec!["b", "c", "d"],
            ),
            (sequence(2, false), vec!["d"]),
            (sequence(2, true), vec!["c", "d"]),
            (
                Start::Enqueued {
                    millis: middle,
                    inclusive: false,
                },
                vec!["c", "d"],
            ),
            (
                Start::Enqueued {
                    millis: 0,
                    inclusive: true,
                },
                vec!["a", "b", "c", "d"],
            ),
        ] {
            let mut one = hub.reader().await;
            let link = one.receive(0, start, &[]).await.unwrap();
            let count = u32::try_from(expected.len()).unwrap();
            assert_eq!(one.bodies(link, count).await, expected, "{start:?}");
        }
        hub.append_texts(0, &["e"]).await;
        assert_eq!(client.bodies(latest, 1).await, ["e"]);
        let after_last = client.receive(0, sequence(4, false), &[]).await.unwrap();
        hub.append_texts(0, &["f"]).await;
        assert_eq!(client.bodies(after_last, 1).await, ["f"]);
    });
}

#[test]
fn credit_is_honoured_and_drained_credit_comes_back() {
    on_a_hub(|hub| async move {
        hub.append_texts(2, &["1", "2", "3", "4", "5"]).await;
        let mut client = hub.reader().await;
        let link = client.receive(2, Start::Oldest, &[]).await.unwrap();
        assert_eq!(client.bodies(link, 2).await, ["1", "2"]);
        assert_eq!(
            client.bodies(link, 1).await,
            ["3"],
            "the rest of a batch waits for credit"
        );
        client.engine.grant(link, 10);
        client.engine.drain(link);
        let mut seen = 0;
        client
            .until(|_, event| {
                seen += u32::from(matches!(event, Event::Transfer(_)));
                matches!(event, Event::Drained(_)).then_some(())
            })
            .await;
        assert_eq!(seen, 2);
    });
}

#[test]
fn a_slow_reader_of_much_gets_every_event_once_and_in_order() {
    on_a_hub(|hub| async move {
        let body = vec![7u8; 3000];
        for _ in 0..20 {
            let batch: Vec<_> = (0..50)
                .map(|_| TelemetryMessage {
                    payload: &body,
                    ..TelemetryMessage::default()
                })
                .collect();
            hub.append(3, &batch).await;
        }
        let mut client = hub.reader().await;
        let link = client.receive(3, Start::Oldest, &[]).await.unwrap();
        client.engine.grant(link, 300);
        let mut next = 0;
        client
            .until(|engine, event| {
                if let Event::Transfer(incoming) = event {
                    let message = Message::scan(&incoming.payload).unwrap();
                    assert_eq!(
                        message.message_annotations.get("x-opt-sequence-number"),
                        Ok(Some(Value::Long(next)))
                    );
                    next += 1;
                    engine.top_up(link, 300);
                }
                (next == 1000).then_some(())
            })
            .await;
    });
}

#[test]
fn put_token_answers_with_the_status_that_clients_map() {
    on_a_hub(|hub| async move {
        let mut client = hub.connect(ClientSasl::Mssbcbs).await;
        let resource = "sb://hub1.example.com/hub1";
        let expiry = now().seconds() + 600;
        for (token, status, condition) in [
            (
                sign(resource, b"wrong key", Some("service"), expiry),
                401,
                "amqp:unauthorized-access",
            ),
            (
                sign(resource, b"key", Some("nobody"), expiry),
                401,
                "amqp:unauthorized-access",
            ),
            (hub.token("device", resource, 600), 403, "amqp:unauthorized-access"),
            (hub.token("service", resource, -301), 401, "amqp:unauthorized-access"),
            (
                hub.token("service", "sb://other.example.com/hub1", 600),
                401,
                "amqp:unauthorized-access",
            ),
            ("nonsense".to_owned(), 400, "amqp:unauthorized-access"),
            (sign(resource, b"key", None, expiry), 404, "amqp:not-implemented"),
        ] {
            let answer = client.put(&token).await;
            assert_eq!(answer.status, status, "{answer:?}");
            assert_eq!(answer.condition.as_deref(), Some(condition));
            assert!(answer.description.contains(" TrackingId:"), "{answer:?}");
        }
        let refused = client.receive(0, Start::Oldest, &[]).await.unwrap_err();
        assert_eq!(refused.0, "amqp:unauthorized-access");
        let audited = hub.hub.audit().refusals_of("-");
        assert_eq!(audited.last().unwrap().code.number(), 401_002);
        assert_eq!(client.put(&hub.token("service", resource, 600)).await.status, 200);
        assert!(client.receive(0, Start::Oldest, &[]).await.is_ok());
        // A failed renewal leaves the token that there is.
        assert_eq!(
            client
                .put(&sign(resource, b"wrong key", Some("service"), expiry))
                .await
                .status,
            401
        );
        assert!(client.receive(0, Start::Oldest, &[]).await.is_ok());
    });
}

#[test]
fn a_token_for_one_partition_opens_that_one_only() {
    on_a_hub(|hub| async move {
        let mut client = hub.connect(ClientSasl::None).await;
        let resource = "sb://hub1.example.com/hub1/ConsumerGroups/$Default/Partitions/1";
        assert_eq!(client.put(&hub.token("service", resource, 600)).await.status, 200);
        assert!(client.receive(1, Start::Oldest, &[]).await.is_ok());
        assert_eq!(
            client.receive(2, Start::Oldest, &[]).await.unwrap_err().0,
            "amqp:unauthorized-access"
        );
        assert_eq!(client.management("hub1", None).await.status, 200);
    });
}

#[test]
fn management_tells_of_the_hub_and_its_partitions() {
    on_a_hub(|hub| async move {
        hub.append_texts(1, &["a", "b"]).await;
        let mut client = hub.reader().await;
        let answer = client.management("HUB1", None).await;
        let view = message::ResponseView::parse(&answer.body).unwrap();
        let Value::Map(map) = view.body else { panic!("{view:?}") };
        assert_eq!(map.get("name"), Ok(Some(Value::String("hub1"))));
        assert_eq!(map.get("type"), Ok(Some(Value::String("com.microsoft:eventhub"))));
        assert_eq!(map.get("partition_count"), Ok(Some(Value::Int(4))));
        let Ok(Some(Value::Array(ids))) = map.get("partition_ids") else {
            panic!("{view:?}")
        };
        assert!(
            ids.iter()
                .map(|id| id.unwrap().text().unwrap())
                .eq(["0", "1", "2", "3"])
        );
        assert!(matches!(map.get("created_at"), Ok(Some(Value::Timestamp(_)))));

        for (id, begin, last, offset, empty) in [("1", 0, 1, "1", false), ("2", 0, -1, "-1", true)] {
            let answer = client.management("hub1", Some(id)).await;
            let view = message::ResponseView::parse(&answer.body).unwrap();
            let Value::Map(map) = view.body else { panic!("{view:?}") };
            assert_eq!(map.get("partition"), Ok(Some(Value::String(id))));
            assert_eq!(map.get("begin_sequence_number"), Ok(Some(Value::Long(begin))));
            assert_eq!(map.get("last_enqueued_sequence_number"), Ok(Some(Value::Long(last))));
            assert_eq!(map.get("last_enqueued_offset"), Ok(Some(Value::String(offset))));
            assert_eq!(map.get("is_partition_empty"), Ok(Some(Value::Bool(empty))));
            assert!(matches!(
                map.get("runtime_info_retrieval_time_utc"),
                Ok(Some(Value::Timestamp(_)))
            ));
        }
        let unknown = client.management("other", None).await;
        assert_eq!(
            (unknown.status, unknown.condition.as_deref()),
            (404, Some("amqp:not-found"))
        );
        assert!(
            unknown
                .description
                .starts_with("The messaging entity 'sb://hub1.example.com/other' could not be found.")
        );
        for id in ["4", "-1", "01", "x"] {
            let answer = client.management("hub1", Some(id)).await;
            assert_eq!(
                answer.condition.as_deref(),
                Some("com.microsoft:argument-out-of-range"),
                "{id}"
            );
        }
    });
}

#[test]
fn management_without_a_token_is_refused_with_401_unless_the_request_brings_one() {
    on_a_hub(|hub| async move {
        let mut client = hub.connect(ClientSasl::Anonymous).await;
        assert_eq!(client.management("hub1", None).await.status, 401);
        let token = hub.token("service", "sb://hub1.example.com/hub1", 600);
        let answer = client
            .request("hub1/$management", |buf| {
                let mut map = message::begin_application_properties(buf);
                for (key, value) in [
                    ("operation", "READ"),
                    ("name", "hub1"),
                    ("type", "com.microsoft:eventhub"),
                    ("security_token", &token),
                ] {
                    holdfast_amqp::types::put_str(map.string_key(key), value);
                }
                map.finish();
            })
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(
            client.management("hub1", None).await.status,
            401,
            "it was good for that request only"
        );
    });
}

#[test]
fn equal_epochs_steal_lower_ones_are_refused_and_a_sixth_reader_too() {
    on_a_hub(|hub| async move {
        let epoch = |number| [("com.microsoft:epoch", InfoValue::Long(number))];
        let mut client = hub.reader().await;
        let plain = client.receive(0, Start::Oldest, &[]).await.unwrap();
        let first = client.receive(0, Start::Oldest, &epoch(0)).await.unwrap();
        assert_eq!(client.detached(plain).await.0, "amqp:link:stolen");
        let second = client.receive(0, Start::Oldest, &epoch(0)).await.unwrap();
        let (condition, text) = client.detached(first).await;
        assert_eq!(condition, "amqp:link:stolen");
        assert!(text.contains("is created hence current receiver"), "{text}");
        let mut other = hub.reader().await;
        // The texts of Event Hubs, on which programs match.
        for (properties, begin, end) in [
            (
                &epoch(-1)[..],
                "Receiver 'receiver-4' with a higher epoch '0' already exists. Receiver 'receiver-2' with epoch -1 cannot \
                 be created.",
                "or ensure all old epoch receivers are closed or disconnected.",
            ),
            (
                &[],
                "At least one receiver for the endpoint is created with epoch of '0', and so non-epoch receiver is not \
                 allowed.",
                "or make sure all epoch receivers are closed or disconnected.",
            ),
        ] {
            let refused = other.receive(0, Start::Oldest, properties).await.unwrap_err();
            assert_eq!(refused.0, "amqp:link:stolen");
            let (text, _) = refused.1.split_once(" TrackingId:").unwrap();
            assert!(text.starts_with(begin) && text.ends_with(end), "{text}");
        }
        other.receive(0, Start::Oldest, &epoch(7)).await.unwrap();
        let (condition, has_info) = client
            .until(|_, event| match event {
                Event::Detached { link, error, .. } if *link == second => {
                    let error = error.unwrap();
                    Some((error.condition.to_owned(), error.received_info.is_some()))
                }
                _ => None,
            })
            .await;
        assert_eq!((condition.as_str(), has_info), ("amqp:link:stolen", false));

        for _ in 0..5 {
            client.receive(1, Start::Oldest, &[]).await.unwrap();
        }
        let refused = client.receive(1, Start::Oldest, &[]).await.unwrap_err();
        assert_eq!(refused.0, "amqp:resource-limit-exceeded");
        drop(client);
    });
}

#[test]
fn a_reader_that_reconnects_at_once_is_answered_later_and_later_and_writes_few_audit_records() {
    on_a_hub(|hub| async move {
        let log = AuditLog::capture();
        let address = "hub1/ConsumerGroups/nogroup/Partitions/0";
        let mut waits = Vec::new();
        for _ in 0..7 {
            let mut client = hub.reader().await;
            let from = Instant::now();
            let refused = client.attach(&AttachSpec::receiver("r", address)).await.unwrap_err();
            assert_eq!(refused.0, "amqp:not-found");
            waits.push(from.elapsed());
        }
        for (at, at_least) in [(3, 250), (4, 500), (5, 1000), (6, 2000)] {
            assert!(waits[at] >= Duration::from_millis(at_least), "{waits:?}");
        }
        // Another request of the same client is not delayed.
        let mut client = hub.reader().await;
        let from = Instant::now();
        let other = "hub1/ConsumerGroups/nogroup/Partitions/1";
        client.attach(&AttachSpec::receiver("r", other)).await.unwrap_err();
        assert!(from.elapsed() < Duration::from_secs(1));
        let expected = ("service".to_owned(), "amqp:not-found".to_owned());
        assert_eq!(log.refusals(), vec![expected; 5]);
        hub.hub.audit().write_suppressed(UnixMillis(now().0 + 60_000));
        assert_eq!(log.suppressed(), [("service".to_owned(), 3)]);
    });
}

#[test]
fn what_does_not_exist_or_is_not_served_is_refused_with_its_condition() {
    on_a_hub(|hub| async move {
        let mut client = hub.reader().await;
        for (address, condition) in [
            ("other/ConsumerGroups/$Default/Partitions/0", "amqp:not-found"),
            ("hub1/ConsumerGroups/nobody/Partitions/0", "amqp:not-found"),
            (
                "hub1/ConsumerGroups/$Default/Partitions/4",
                "com.microsoft:argument-out-of-range",
            ),
            ("hub1", "amqp:not-allowed"),
            ("devices/d/messages/devicebound", "amqp:not-implemented"),
            ("/messages/serviceBound/feedback", "amqp:not-implemented"),
            ("a/b/c", "amqp:not-found"),
        ] {
            let spec = AttachSpec::receiver(address, address);
            let refused = client.attach(&spec).await.unwrap_err();
            assert_eq!(refused.0, condition, "{address}: {}", refused.1);
        }
        let sender = client.attach(&AttachSpec::sender("s", "hub1")).await.unwrap_err();
        assert_eq!(sender.0, "amqp:not-allowed");
        assert!(sender.1.starts_with("The endpoint is read-only"));
        for (start, condition) in [
            ("amqp.annotation.x-opt-offset > 'x'", "com.microsoft:argument-error"),
            ("amqp.annotation.x-opt-offset > '0'", "com.microsoft:argument-error"),
            ("amqp.annotation.other > '0'", "com.microsoft:argument-error"),
        ] {
            let filter = holdfast_amqp::selector::filter_map(start);
            let mut spec = AttachSpec::receiver(start, "hub1/ConsumerGroups/$Default/Partitions/0");
            spec.source.filter = Raw::new(&filter).ok();
            let refused = client.attach(&spec).await.unwrap_err();
            assert_eq!(refused.0, condition, "{start}: {}", refused.1);
        }
    });
}

/// The address to which `link` is redirected.
async fn redirected(client: &mut events_hub::Client<tokio::io::DuplexStream>, link: LinkId) -> String {
    client
        .until(|_, event| match event {
            Event::Detached { link: found, error, .. } if *found == link => {
                let error = error.unwrap();
                assert_eq!(error.condition, "amqp:link:redirect");
                let Value::Map(info) = error.received_info.unwrap().value().unwrap() else {
                    panic!()
                };
                let text = |key| info.get(key).unwrap().unwrap().text();
                assert_eq!(info.get("port"), Ok(Some(Value::Int(5671))));
                assert_eq!((text("hostname"), text("network-host")), (Some(HOST), Some(HOST)));
                Some(text("address").unwrap().to_owned())
            }
            _ => None,
        })
        .await
}

#[test]
fn every_link_under_the_hubs_own_path_is_redirected() {
    on_a_hub(|hub| async move {
        let partition = "messages/events/ConsumerGroups/$Default/Partitions/0";
        for (address, tail) in [
            ("messages/events", ""),
            ("/messages/events/", ""),
            ("amqps://hub1.example.com/messages/events/$management", "$management"),
            ("/messages/events/$management", "$management"),
            (partition, "ConsumerGroups/$Default/Partitions/0"),
        ] {
            let mut client = hub.reader().await;
            let link = client.attach(&AttachSpec::receiver("r", address)).await.unwrap();
            let location = redirected(&mut client, link).await;
            assert_eq!(location, format!("amqps://{HOST}:5671/hub1/{tail}"), "{address}");
        }
        // `createFromIotHubConnectionString` of @azure/event-hubs 2 attaches a pair, the sender first.
        let mut client = hub.reader().await;
        for spec in [
            AttachSpec::sender("s", "/messages/events/$management"),
            AttachSpec::receiver("r", "/messages/events/$management"),
        ] {
            let link = client.attach(&spec).await.unwrap();
            let location = redirected(&mut client, link).await;
            assert_eq!(location, format!("amqps://{HOST}:5671/hub1/$management"));
        }
        // A redirect is for callers with a token that covers the address, and there is nothing to send to.
        let mut stranger = hub.connect(ClientSasl::Anonymous).await;
        let refused = stranger
            .attach(&AttachSpec::receiver("r", partition))
            .await
            .unwrap_err();
        assert_eq!(refused.0, "amqp:unauthorized-access");
        let refused = client
            .attach(&AttachSpec::sender("w", "messages/events"))
            .await
            .unwrap_err();
        assert_eq!(refused.0, "amqp:not-allowed");
    });
}

#[test]
fn without_redirects_links_under_the_hubs_own_path_are_served_but_for_a_lookup() {
    let config = EventsConfig {
        redirect: false,
        ..EventsConfig::default()
    };
    on_a_core(|| async {
        let hub = Hub::start(config).await;
        hub.append_texts(0, &["a"]).await;
        let mut client = hub.reader().await;
        let spec = AttachSpec::receiver("direct", "messages/events/ConsumerGroups/$Default/Partitions/0");
        let link = client.attach(&spec).await.unwrap();
        assert_eq!(client.bodies(link, 1).await, ["a"]);
        let spec = AttachSpec::receiver("lookup", "messages/events/$management");
        let link = client.attach(&spec).await.unwrap();
        let location = redirected(&mut client, link).await;
        assert_eq!(location, format!("amqps://{HOST}:5671/hub1/$management"));
        client
            .attach(&AttachSpec::sender("s", "messages/events/$management"))
            .await
            .unwrap();
        let refused = client
            .attach(&AttachSpec::receiver("x", "messages/events"))
            .await
            .unwrap_err();
        assert!(
            refused.1.starts_with("A receiver must name a partition"),
            "{}",
            refused.1
        );
    });
}

#[test]
fn a_start_filter_counts_under_any_key_and_the_answer_repeats_only_what_is_applied() {
    on_a_hub(|hub| async move {
        hub.append_texts(0, &["a", "b", "c"]).await;
        let mut client = hub.reader().await;
        // As Proton's `Selector` writes it, beside a filter that is not served.
        let mut filter = Vec::new();
        let mut map = MapWriter::begin(&mut filter);
        put_str(map.key("no-local"), "x");
        let buf = map.key("selector");
        buf.extend_from_slice(&[0x00, 0x80, 0, 0, 0x46, 0x8c, 0, 0, 0, 4]);
        put_str(buf, "amqp.annotation.x-opt-sequence-number > '1'");
        map.finish();
        let mut spec = AttachSpec::receiver("r", "hub1/ConsumerGroups/$Default/Partitions/0");
        spec.source.filter = Raw::new(&filter).ok();
        let link = client.engine.attach(client.session.unwrap(), &spec).unwrap();
        let in_place = client
            .until(|_, event| match event {
                Event::Attached { link: found, attach } if *found == link => {
                    let filter = attach.source().unwrap().unwrap().filter;
                    Some((filter.len(), filter.get("selector").unwrap().is_some()))
                }
                _ => None,
            })
            .await;
        assert_eq!(in_place, (1, true));
        assert_eq!(client.bodies(link, 1).await, ["c"]);
        // Without a selector the answer has no filter.
        let mut spec = AttachSpec::receiver("s", "hub1/ConsumerGroups/$Default/Partitions/0");
        let mut filter = Vec::new();
        let mut map = MapWriter::begin(&mut filter);
        put_str(map.key("no-local"), "x");
        map.finish();
        spec.source.filter = Raw::new(&filter).ok();
        let link = client.engine.attach(client.session.unwrap(), &spec).unwrap();
        let count = client
            .until(|_, event| match event {
                Event::Attached { link: found, attach } if *found == link => {
                    Some(attach.source().unwrap().unwrap().filter.len())
                }
                _ => None,
            })
            .await;
        assert_eq!(count, 0);
    });
}

#[test]
fn plain_takes_a_policy_with_its_token_or_its_key_and_refuses_others_with_code_1() {
    on_a_hub(|hub| async move {
        let plain = |user: &str, password: String| ClientSasl::Plain {
            user: user.to_owned(),
            password,
        };
        let token = hub.token("service", "hub1.example.com/messages", 600);
        let key = |policy: &str| hub.registry.policy(policy).unwrap().keys.clone();
        let (primary, secondary) = (key("service").primary.to_base64(), key("service").secondary.to_base64());
        let whole = hub.token("service", "sb://hub1.example.com/hub1", 600);
        let mut key_reader = None;
        for (user, password) in [
            ("service@sas.root.hub1", token.clone()),
            ("service@sas.root.hub1", primary.to_string()),
            ("service", whole),
            ("SERVICE", secondary.to_string()),
            ("service", primary.to_string()),
        ] {
            let mut client = hub.connect(plain(user, password)).await;
            // The token is for messages/events only, where every link is redirected.
            if user == "service@sas.root.hub1" {
                let spec = AttachSpec::receiver("h", "messages/events/ConsumerGroups/$Default/Partitions/0");
                let link = client.attach(&spec).await.unwrap();
                redirected(&mut client, link).await;
            } else {
                let spec = AttachSpec::receiver("r", "hub1/ConsumerGroups/$Default/Partitions/0");
                let link = client.attach(&spec).await.unwrap();
                key_reader = Some((client, link));
            }
        }
        let bad = sign("hub1.example.com", b"wrong", Some("service"), now().seconds() + 600);
        let other_key = key("iothubowner").primary.to_base64().to_string();
        let weak_key = key("device").primary.to_base64().to_string();
        for (user, password) in [
            ("service@sas.root.hub1", bad),
            ("iothubowner@sas.root.hub1", token),
            ("somebody", String::new()),
            ("somebody", other_key.clone()),
            ("service", other_key),
            ("service", "not a key".to_owned()),
            ("device", weak_key),
            ("device-1@sas.hub1", primary.to_string()),
        ] {
            let mut client = events_hub::Client::new(hub.raw(), plain(user, password));
            let code = client
                .until(|_, event| {
                    if let Event::SaslFailed(code) = event {
                        Some(*code)
                    } else {
                        None
                    }
                })
                .await;
            assert_eq!(code, 1, "{user}");
        }
        assert_eq!(hub.hub.audit().refusals_of("service@sas.root.hub1").len(), 1);
        // A reader that logged in with a key loses its link with the key.
        let (mut client, link) = key_reader.unwrap();
        let other = key("device");
        hub.registry
            .put_policy("service", Rights::SERVICE_CONNECT, Some(&other))
            .await
            .unwrap();
        assert_eq!(client.detached(link).await.0, "amqp:unauthorized-access");
    });
}

#[test]
fn a_receiver_that_asks_for_it_hears_of_the_partition_with_each_event() {
    on_a_hub(|hub| async move {
        hub.append_texts(0, &["a", "b"]).await;
        let mut client = hub.reader().await;
        let mut spec = AttachSpec::receiver("r", "hub1/ConsumerGroups/$Default/Partitions/0");
        spec.desired_capabilities = &[
            "com.microsoft:georeplication",
            "com.microsoft:enable-receiver-runtime-metric",
        ];
        let link = client.attach(&spec).await.unwrap();
        let payloads = client.take(link, 1).await;
        let told = Message::scan(&payloads[0]).unwrap().delivery_annotations;
        assert_eq!(told.get("last_enqueued_sequence_number"), Ok(Some(Value::Long(1))));
        assert_eq!(told.get("last_enqueued_offset"), Ok(Some(Value::String("1"))));
        assert!(matches!(
            told.get("last_enqueued_time_utc"),
            Ok(Some(Value::Timestamp(_)))
        ));
        assert!(matches!(
            told.get("runtime_info_retrieval_time_utc"),
            Ok(Some(Value::Timestamp(_)))
        ));
    });
}

#[test]
fn an_expired_token_detaches_its_receivers() {
    on_a_hub(|hub| async move {
        let mut client = hub.connect(ClientSasl::Anonymous).await;
        // Within the five minutes that clocks may differ; they end in a second or two.
        let token = hub.token("service", "sb://hub1.example.com/hub1", -299);
        assert_eq!(client.put(&token).await.status, 200);
        let link = client.receive(0, Start::Oldest, &[]).await.unwrap();
        let (condition, text) = client.detached(link).await;
        assert_eq!(condition, "amqp:unauthorized-access");
        assert!(
            text.starts_with("ExpiredToken: The token is expired. TrackingId:"),
            "{text}"
        );
        assert_eq!(
            client.receive(0, Start::Oldest, &[]).await.unwrap_err().0,
            "amqp:unauthorized-access"
        );
    });
}

#[test]
fn new_keys_of_a_policy_and_a_removed_consumer_group_detach_receivers() {
    on_a_hub(|hub| async move {
        hub.registry.add_consumer_group("analytics").await.unwrap();
        let mut client = hub.reader().await;
        let spec = AttachSpec::receiver("r", "hub1/ConsumerGroups/Analytics/Partitions/0");
        let analytics = client.attach(&spec).await.unwrap();
        let link = client.receive(0, Start::Oldest, &[]).await.unwrap();
        hub.registry.remove_consumer_group("analytics").await.unwrap();
        assert_eq!(client.detached(analytics).await.0, "amqp:not-found");
        let other = hub.registry.policy("device").unwrap().keys.clone();
        hub.registry
            .put_policy("service", Rights::SERVICE_CONNECT, Some(&other))
            .await
            .unwrap();
        assert_eq!(client.detached(link).await.0, "amqp:unauthorized-access");
    });
}

#[test]
fn a_connection_that_nobody_authenticates_is_closed_with_the_text_of_event_hubs() {
    on_a_core(|| async {
        let config = EventsConfig {
            unauthenticated_timeout: Duration::from_millis(200),
            ..EventsConfig::default()
        };
        let hub = Hub::start(config).await;
        let mut kept = hub.reader().await;
        let mut client = hub.connect(ClientSasl::Anonymous).await;
        let (condition, text) = client
            .until(|_, event| match event {
                Event::Closed(Some(error)) => Some((
                    error.condition.to_owned(),
                    error.description.unwrap_or_default().to_owned(),
                )),
                _ => None,
            })
            .await;
        assert_eq!(condition, "amqp:connection:forced");
        assert!(
            text.starts_with("The connection was inactive for more than the allowed 200 milliseconds"),
            "{text}"
        );
        assert!(kept.receive(0, Start::Oldest, &[]).await.is_ok());
    });
}

#[test]
fn the_longest_silent_connection_makes_room_for_others() {
    on_a_core(|| async {
        let hub = Hub::start(EventsConfig {
            max_unauthenticated: 2,
            ..EventsConfig::default()
        })
        .await;
        let mut silent = hub.raw();
        let _second = hub.raw();
        let mut third = hub.reader().await;
        let mut bytes = [0; 64];
        assert_eq!(silent.read(&mut bytes).await.unwrap(), 0);
        assert!(third.receive(0, Start::Oldest, &[]).await.is_ok());
    });
}

#[test]
fn nonsense_and_a_stopping_node_end_connections_and_nothing_else() {
    on_a_hub(|hub| async move {
        let mut client = hub.reader().await;
        for nonsense in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xff; 5000],
            b"AMQP\x00\x01\x00\x00\xff\xff\xff\xff".to_vec(),
        ] {
            let mut stream = hub.raw();
            stream.write_all(&nonsense).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer.len() < 200);
        }
        hub.stop.enter(Phase::Draining);
        let condition = client
            .until(|_, event| match event {
                Event::Closed(Some(error)) => Some(error.condition.to_owned()),
                _ => None,
            })
            .await;
        assert_eq!(condition, "amqp:connection:forced");
    });
}
