//! Requests to `$management`.

use holdfast_amqp::ClientSasl;
use holdfast_amqp::message;
use holdfast_amqp::types::Value;

use crate::on_a_hub;

#[test]
fn management_describes_the_hub_and_its_partitions() {
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
