//! The queue of a device over REST: send, list, purge, requeue.

use holdfast_model::{NodeId, PartitionCount};
use serde_json::json;

use crate::support::Hub;

async fn hub() -> Hub {
    let hub = Hub::start().await;
    for id in PartitionCount::DEFAULT.iter() {
        hub.node.partitions.set_replicas(id, vec![NodeId(7)]);
        hub.node.partitions.host(hub.node.partition(id).await);
    }
    for (device, status) in [("d", "enabled"), ("off", "disabled")] {
        let body = json!({"deviceId": device, "status": status});
        let path = format!("/devices/{device}");
        hub.owner("PUT", &path).body(body).send().await.is(200);
    }
    hub
}

#[tokio::test]
async fn a_queue_is_filled_listed_and_purged() {
    let hub = hub().await;
    for number in 0..3 {
        let body = json!({
            "messageId": number.to_string(),
            "ack": "full",
            "properties": {"a": "b"},
            "payload": "hello",
        });
        let sent = hub.owner("POST", "/holdfast/v1/devices/d/c2d").body(body).send().await;
        sent.is(201);
        assert_eq!(sent.json()["sequenceNumber"], number + 1);
    }
    let listed = hub.by("service", "GET", "/holdfast/v1/devices/d/c2d").send().await;
    listed.is(200);
    let first = &listed.json()["messages"][0];
    assert_eq!(first["state"], "enqueued");
    assert_eq!(first["properties"], json!({"a": "b"}));
    assert_eq!((&first["ack"], &first["sizeInBytes"]), (&json!("full"), &json!(8)));
    assert_eq!(listed.json()["deadLetters"], json!([]));
    let shown = hub.owner("GET", "/devices/d").send().await;
    assert_eq!(shown.json()["cloudToDeviceMessageCount"], 3);
    let requeued = hub.owner("POST", "/holdfast/v1/devices/d/c2d/requeue").send().await;
    assert_eq!(requeued.json()["requeued"], 0);
    let purged = hub.owner("DELETE", "/devices/d/commands").send().await;
    purged.is(200);
    assert_eq!(
        purged.json(),
        json!({"totalMessagesPurged": 3, "deviceId": "d", "moduleId": null})
    );
    let operations: Vec<String> = hub.changes().into_iter().map(|(operation, ..)| operation).collect();
    assert!(
        operations.ends_with(&["requeueMessages".to_owned(), "purgeMessages".to_owned()]),
        "{operations:?}"
    );
}

#[tokio::test]
async fn calls_about_queues_are_refused_with_their_number() {
    let hub = hub().await;
    for (method, path, body, number, name) in [
        (
            "POST",
            "/holdfast/v1/devices/nobody/c2d",
            json!({}),
            404_001,
            "DeviceNotFound",
        ),
        (
            "POST",
            "/holdfast/v1/devices/off/c2d",
            json!({}),
            403_012,
            "DeviceDisabled",
        ),
        (
            "POST",
            "/holdfast/v1/devices/d/c2d",
            json!({"to what": 1}),
            400_004,
            "ArgumentInvalid",
        ),
        (
            "POST",
            "/holdfast/v1/devices/d/c2d/requeue",
            json!({"sequenceNumbers": ["x"]}),
            400_004,
            "ArgumentInvalid",
        ),
        (
            "GET",
            "/holdfast/v1/devices/nobody/c2d",
            json!({}),
            404_001,
            "DeviceNotFound",
        ),
        (
            "DELETE",
            "/devices/nobody/commands",
            json!({}),
            404_001,
            "DeviceNotFound",
        ),
    ] {
        hub.owner(method, path).body(body).send().await.refused(number, name);
    }
    for _ in 0..50 {
        hub.owner("POST", "/holdfast/v1/devices/d/c2d")
            .body(json!({}))
            .send()
            .await
            .is(201);
    }
    let full = hub
        .owner("POST", "/holdfast/v1/devices/d/c2d")
        .body(json!({}))
        .send()
        .await;
    full.refused(403_004, "DeviceMaximumQueueDepthExceeded");
    assert!(full.text().contains("holds 50 messages"), "{}", full.text());
    let weak = hub.by("registryRead", "GET", "/holdfast/v1/devices/d/c2d").send().await;
    weak.is(401);
}
