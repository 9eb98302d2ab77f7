//! Calls of later versions, our own additions, and what reaches the audit log.

use serde_json::json;

use crate::support::Hub;

#[tokio::test]
async fn calls_of_later_versions_say_which_feature_is_missing() {
    let hub = Hub::start().await;
    let table = [
        ("GET", "/twins/d", "device twins"),
        ("PATCH", "/twins/d/modules/m", "device twins"),
        ("POST", "/twins/d/methods", "direct methods"),
        ("POST", "/devices/query", "device queries"),
        ("PUT", "/jobs/v2/j", "scheduled jobs"),
        ("POST", "/jobs/create", "import and export jobs"),
        ("GET", "/configurations", "configurations"),
        ("POST", "/devices/d/applyConfigurationContent", "configurations"),
        ("GET", "/digitaltwins/d", "digital twins"),
        ("DELETE", "/devices/d/commands", "cloud-to-device messages"),
        ("GET", "/messages/serviceBound/feedback", "cloud-to-device messages"),
        ("POST", "/devices/d/messages/events", "over HTTPS"),
    ];
    for (method, path, feature) in table {
        let answer = hub.owner(method, path).send().await;
        answer.refused(404_013, "FeatureNotSupported");
        assert!(answer.text().contains(feature), "{path}");
        hub.request(method, path)
            .send()
            .await
            .refused(401_002, "IotHubUnauthorizedAccess");
    }
    hub.owner("POST", "/$admin/exportRegistry")
        .send()
        .await
        .refused(404_000, "GenericNotFound");
    // A device's own token is known, too.
    let document = hub
        .owner("PUT", "/devices/d")
        .body(json!({"deviceId": "d"}))
        .send()
        .await
        .json();
    let token = hub.device_token(
        "d",
        document["authentication"]["symmetricKey"]["primaryKey"]
            .as_str()
            .unwrap(),
    );
    let answer = hub
        .request("POST", "/devices/d/messages/events")
        .authorization(Some(&token))
        .send()
        .await;
    answer.refused(404_013, "FeatureNotSupported");
    let other = hub
        .request("POST", "/devices/other/messages/events")
        .authorization(Some(&token))
        .send()
        .await;
    other.refused(401_002, "IotHubUnauthorizedAccess");
    hub.request("GET", "/devices/d")
        .authorization(Some(&token))
        .send()
        .await
        .refused(401_002, "IotHubUnauthorizedAccess");
}

#[tokio::test]
async fn our_own_calls_show_the_hub_its_consumer_groups_and_why_a_device_cannot_connect() {
    let hub = Hub::start().await;
    let shown = hub.owner("GET", "/holdfast/v1/hub").send().await.json();
    assert_eq!(
        (&shown["hubName"], &shown["partitionCount"]),
        (&json!("hub1"), &json!(4))
    );
    assert_eq!(shown["consumerGroups"], json!(["$Default"]));
    assert_eq!(shown["policies"].as_array().unwrap().len(), 5);
    assert!(!shown.to_string().contains("rimaryKey"));
    hub.owner("PUT", "/holdfast/v1/consumerGroups/analytics")
        .send()
        .await
        .is(201);
    hub.owner("PUT", "/holdfast/v1/consumergroups/analytics")
        .body(json!({"name": "analytics"}))
        .send()
        .await
        .is(200);
    let unknown = hub
        .owner("PUT", "/holdfast/v1/consumerGroups/b")
        .body(json!({"nam": 1}))
        .send()
        .await;
    unknown.refused(400_004, "ArgumentInvalid");
    assert!(unknown.text().contains("nam"));
    hub.owner("PUT", "/holdfast/v1/consumerGroups/-bad")
        .send()
        .await
        .refused(400_004, "ArgumentInvalid");
    let groups = hub.owner("GET", "/holdfast/v1/consumerGroups").send().await.json();
    assert_eq!(groups, json!([{"name": "$Default"}, {"name": "analytics"}]));
    hub.owner("DELETE", "/holdfast/v1/consumerGroups/analytics")
        .send()
        .await
        .is(204);
    hub.owner("DELETE", "/holdfast/v1/consumerGroups/analytics")
        .send()
        .await
        .refused(404_000, "GenericNotFound");
    hub.owner("DELETE", "/holdfast/v1/consumerGroups/$Default")
        .send()
        .await
        .refused(400_003, "InvalidOperation");

    hub.owner("PUT", "/devices/d")
        .body(json!({"deviceId": "d"}))
        .send()
        .await
        .is(200);
    let diagnosis = hub.owner("GET", "/holdfast/v1/diagnose/d").send().await.json();
    assert_eq!(
        (&diagnosis["registered"], &diagnosis["identity"]["status"]),
        (&json!(true), &json!("enabled"))
    );
    assert_eq!(diagnosis["refusals"], json!([]));
    assert!(!diagnosis.to_string().contains("symmetricKey"));
    let diagnosis = hub.owner("GET", "/holdfast/v1/diagnose/none").send().await.json();
    assert_eq!(diagnosis["registered"], false);
}

#[tokio::test]
async fn every_registry_write_and_its_refusal_reaches_the_audit_log() {
    let hub = Hub::start().await;
    hub.owner("PUT", "/devices/d")
        .body(json!({"deviceId": "d"}))
        .send()
        .await
        .is(200);
    hub.owner("PUT", "/devices/d")
        .body(json!({"deviceId": "d"}))
        .send()
        .await
        .is(409);
    hub.owner("POST", "/devices")
        .body(json!([{"id": "e"}, {"id": "!bad id"}]))
        .send()
        .await
        .is(400);
    hub.owner("DELETE", "/devices/d").send().await.is(204);
    let written: Vec<_> = hub.view.changes();
    let expected = [
        ("createDevice", "d", None),
        ("createDevice", "d", Some(409_001)),
        ("bulk", "e", None),
        ("bulk", "!bad id", Some(400_004)),
        ("deleteDevice", "d", None),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(op, id, code)| (op.to_owned(), id.to_owned(), code))
        .collect();
    assert_eq!(written, expected);
}
