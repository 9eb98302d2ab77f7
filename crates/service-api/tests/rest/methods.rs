//! Calls of methods that end without the device: who and what is refused, and with which number.

use serde_json::{Value, json};

use crate::support::Hub;

async fn create(hub: &Hub, device: &str, status: &str) {
    let body = json!({"deviceId": device, "status": status});
    hub.owner("PUT", &format!("/devices/{device}"))
        .body(body)
        .send()
        .await
        .is(200);
}

#[tokio::test]
async fn a_device_that_cannot_be_called_is_named_with_the_time_outs() {
    let hub = Hub::start().await;
    create(&hub, "d", "enabled").await;
    create(&hub, "off", "disabled").await;
    hub.owner("PUT", "/devices/d/modules/m")
        .body(json!({"deviceId": "d", "moduleId": "m"}))
        .send()
        .await
        .is(201);
    for (path, number, name, text) in [
        (
            "/twins/d/methods",
            404_103,
            "DeviceNotOnline",
            "not connected (connect time-out 0 s, response time-out 30 s)",
        ),
        ("/twins/d/modules/m/methods", 404_103, "DeviceNotOnline", "'d/m'"),
        ("/twins/off/methods", 404_103, "DeviceNotOnline", "disabled"),
        ("/twins/nobody/methods", 404_001, "DeviceNotFound", "nobody"),
        ("/twins/d/modules/none/methods", 404_010, "ModuleNotFound", "none"),
    ] {
        let answer = hub
            .owner("POST", path)
            .body(json!({"methodName": "reboot"}))
            .send()
            .await;
        answer.refused(number, name);
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }
    let audited = hub.changes();
    let calls = audited
        .iter()
        .filter(|(operation, ..)| operation == "invokeMethod")
        .count();
    assert_eq!(calls, 2, "the calls that reached the hub: {audited:?}");
}

#[tokio::test]
async fn a_malformed_call_is_refused_before_the_device_is_looked_for() {
    let hub = Hub::start().await;
    let table: [(Value, u32, &str); 7] = [
        (json!([]), 400_006, "IotHubFormatError"),
        (json!({}), 400_004, "ArgumentInvalid"),
        (json!({"methodName": 7}), 400_006, "IotHubFormatError"),
        (json!({"methodName": "a/b"}), 400_004, "ArgumentInvalid"),
        (
            json!({"methodName": "m", "responseTimeoutInSeconds": 4}),
            400_004,
            "ArgumentInvalid",
        ),
        (
            json!({"methodName": "m", "connectTimeoutInSeconds": 301}),
            400_004,
            "ArgumentInvalid",
        ),
        (
            json!({"methodName": "m", "payload": "x".repeat(128 * 1024)}),
            413_001,
            "MessageTooLarge",
        ),
    ];
    for (body, number, name) in table {
        hub.owner("POST", "/twins/nobody/methods")
            .body(body)
            .send()
            .await
            .refused(number, name);
    }
    hub.owner("GET", "/twins/d/methods")
        .send()
        .await
        .refused(405_000, "GenericMethodNotAllowed");
}
