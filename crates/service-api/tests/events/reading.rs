//! The view of readers: the content of events, where they begin, credit, and filters.

use std::time::Duration;

use holdfast_amqp::message::{self, Message};
use holdfast_amqp::selector::Start;
use holdfast_amqp::types::{MapWriter, Raw, Value, put_str};
use holdfast_amqp::{AttachSpec, Event};
use holdfast_model::{Property, PropertyValue, SystemProperties, TelemetryMessage};

use crate::events_hub::now;
use crate::{on_a_hub, sequence};

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
