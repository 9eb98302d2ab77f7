//! Values of the hub, changed while it runs.

use serde_json::json;

use crate::support::Hub;

const PATH: &str = "/holdfast/v1/settings";

#[tokio::test]
async fn settings_are_shown_changed_and_checked() {
    let hub = Hub::start().await;
    let first = hub.owner("GET", PATH).send().await.json();
    assert_eq!(first["retentionSeconds"], 86_400);
    let changed = hub
        .owner("PATCH", PATH)
        .body(json!({"retentionSeconds": 172_800, "retentionBytes": 1 << 30, "maxIdentities": 2}))
        .send()
        .await
        .json();
    let expected =
        json!({"retentionSeconds": 172_800, "retentionBytes": 1 << 30, "maxIdentities": 2, "dailyMessages": null});
    assert_eq!(changed, expected);
    // Other fields stay; null lifts the limit.
    let lifted = hub
        .owner("PATCH", PATH)
        .body(json!({"retentionBytes": null}))
        .send()
        .await
        .json();
    assert_eq!(
        lifted,
        json!({"retentionSeconds": 172_800, "retentionBytes": null, "maxIdentities": 2, "dailyMessages": null})
    );
    assert_eq!(hub.owner("GET", PATH).send().await.json(), lifted);

    for wrong in [
        json!({"retentionSeconds": 60}),
        json!({"retentionSeconds": 700_000}),
        json!({"retentionSeconds": "1d"}),
        json!({"retentionSeconds": -1}),
        json!({"maxIdentities": 0}),
        json!({"maxIdentities": 1.5}),
        json!({"colour": "blue"}),
    ] {
        hub.owner("PATCH", PATH)
            .body(wrong)
            .send()
            .await
            .refused(400_004, "ArgumentInvalid");
    }
    hub.request("PATCH", PATH)
        .body(json!({}))
        .send()
        .await
        .refused(401_002, "IotHubUnauthorizedAccess");
    assert_eq!(hub.owner("GET", PATH).send().await.json(), lifted);

    // The limit counts.
    for device in ["a", "b"] {
        hub.owner("PUT", &format!("/devices/{device}"))
            .body(json!({"deviceId": device}))
            .send()
            .await
            .is(200);
    }
    hub.owner("PUT", "/devices/c")
        .body(json!({"deviceId": "c"}))
        .send()
        .await
        .refused(413_002, "TooManyDevices");
}
