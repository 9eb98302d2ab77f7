//! Twins over REST: the document, patch and replace, conditions, refusals, bulk, and the history.

use serde_json::{Value, json};

use crate::support::{Answer, Hub};

async fn create(hub: &Hub, device: &str) {
    let path = format!("/devices/{device}");
    hub.owner("PUT", &path)
        .body(json!({"deviceId": device}))
        .send()
        .await
        .is(200);
}

async fn call(hub: &Hub, method: &str, path: &str, body: Value) -> Answer {
    hub.by("service", method, path).body(body).send().await
}

/// The document after a write that must succeed.
async fn written(hub: &Hub, method: &str, path: &str, body: Value) -> Value {
    let answer = call(hub, method, path, body).await;
    answer.is(200);
    answer.json()
}

#[tokio::test]
async fn every_identity_has_a_twin_and_its_document_has_no_secret() {
    let hub = Hub::start().await;
    create(&hub, "d").await;
    let module = json!({"deviceId": "d", "moduleId": "m"});
    hub.owner("PUT", "/devices/d/modules/m")
        .body(module)
        .send()
        .await
        .is(201);
    let answer = hub.by("service", "GET", "/twins/d").send().await;
    answer.is(200);
    assert_eq!(answer.header("etag"), "\"AAAAAAAAAAE=\"");
    let twin = answer.json();
    let created = twin["properties"]["desired"]["$metadata"]["$lastUpdated"].clone();
    assert!(created.as_str().unwrap().starts_with("20"), "{created}");
    let identity = hub.owner("GET", "/devices/d").send().await.json();
    let section = json!({"$metadata": {"$lastUpdated": created}, "$version": 1});
    let expected = json!({
        "deviceId": "d",
        "etag": "AAAAAAAAAAE=",
        "deviceEtag": identity["etag"],
        "status": "enabled",
        "statusUpdateTime": identity["statusUpdatedTime"],
        "connectionState": "Disconnected",
        "lastActivityTime": "0001-01-01T00:00:00Z",
        "cloudToDeviceMessageCount": 0,
        "authenticationType": "sas",
        "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null},
        "modelId": "",
        "version": 1,
        "tags": {},
        "properties": {"desired": section, "reported": section},
        "capabilities": {"iotEdge": false},
    });
    assert_eq!(twin, expected);
    let module = hub.by("service", "GET", "/twins/d/modules/m").send().await.json();
    assert_eq!((&module["moduleId"], &module["version"]), (&json!("m"), &json!(1)));
    assert!(module.get("capabilities").is_none() && module["status"] == "enabled");
    for (path, number, name) in [
        ("/twins/nobody", 404_001, "DeviceNotFound"),
        ("/twins/d/modules/none", 404_010, "ModuleNotFound"),
    ] {
        hub.by("service", "GET", path).send().await.refused(number, name);
        call(&hub, "PATCH", path, json!({"tags": {}}))
            .await
            .refused(number, name);
    }
    hub.by("service", "DELETE", "/twins/d")
        .send()
        .await
        .refused(405_000, "GenericMethodNotAllowed");
}

#[tokio::test]
async fn patches_merge_and_replacements_replace() {
    let hub = Hub::start().await;
    create(&hub, "d").await;
    let first = json!({"tags": {"site": "B", "line": {"n": 1}}, "properties": {"desired": {"rate": 10, "mode": "x"}}});
    let twin = written(&hub, "PATCH", "/twins/d", first).await;
    assert_eq!((&twin["version"], &twin["etag"]), (&json!(2), &json!("AAAAAAAAAAI=")));
    let desired = &twin["properties"]["desired"];
    assert_eq!(desired["$version"], 2);
    assert_eq!(desired["$metadata"]["rate"]["$lastUpdatedVersion"], 2);
    // A client sends back the whole twin, changed.
    let mut whole = twin.clone();
    whole["tags"]["line"]["n"] = Value::Null;
    whole["tags"]["site"] = json!("C");
    whole["properties"]["desired"]["mode"] = Value::Null;
    whole["properties"]["reported"]["no"] = json!("back end reports");
    whole["version"] = json!(77);
    let twin = written(&hub, "PATCH", "/twins/d", whole).await;
    assert_eq!(twin["tags"], json!({"site": "C", "line": {}}));
    let desired = &twin["properties"]["desired"];
    assert!(desired["rate"] == 10 && desired.get("mode").is_none() && desired["$version"] == 3);
    assert_eq!(twin["properties"]["reported"]["$version"], 1);
    // Java cannot send PATCH.
    let answer = hub
        .by("service", "POST", "/twins/d")
        .header("x-http-method-override", "PATCH")
        .body(json!({"properties": {"desired": {"big": 4_503_599_627_370_495_i64, "f": 1.5}}}))
        .send()
        .await;
    answer.is(200);
    assert_eq!(answer.json()["properties"]["desired"]["big"], 4_503_599_627_370_495_i64);
    let replaced = written(&hub, "PUT", "/twins/d", json!({"properties": {"desired": {"only": 1}}})).await;
    assert_eq!(replaced["tags"]["site"], "C", "a section that is not there stays");
    let desired = replaced["properties"]["desired"].as_object().unwrap();
    assert_eq!(desired.len(), 3, "{desired:?}");
    let emptied = written(&hub, "PUT", "/twins/d", json!({"tags": null})).await;
    assert_eq!((&emptied["tags"], &emptied["version"]), (&json!({}), &json!(6)));
    let same = written(&hub, "PATCH", "/twins/d", json!({})).await;
    assert_eq!(same["version"], 6, "without a section nothing is written");
    assert_eq!(hub.by("service", "GET", "/twins/d").send().await.json()["version"], 6);
}

#[tokio::test]
async fn a_condition_decides_whether_a_write_takes_effect() {
    let hub = Hub::start().await;
    create(&hub, "d").await;
    let patch = |etag: &'static str| {
        hub.owner("PATCH", "/twins/d")
            .if_match(etag)
            .body(json!({"tags": {"a": 1}}))
    };
    patch("\"AAAAAAAAAAE=\"").send().await.is(200);
    let refused = patch("AAAAAAAAAAE=").send().await;
    refused.refused(412_001, "PreconditionFailed");
    assert!(refused.text().contains("AAAAAAAAAAI="), "{}", refused.text());
    for any in ["*", "\"*\"", "W/\"AAAAAAAAAAQ=\""] {
        patch(any).send().await.is(200);
    }
    assert_eq!(hub.by("service", "GET", "/twins/d").send().await.json()["version"], 5);
    let audited = hub.changes();
    let twins: Vec<_> = audited
        .iter()
        .filter(|(operation, ..)| operation == "updateTwin")
        .collect();
    assert_eq!(twins.len(), 5, "{audited:?}");
}

#[tokio::test]
async fn what_is_refused_names_the_place_and_changes_nothing() {
    let hub = Hub::start().await;
    create(&hub, "d").await;
    let large = json!({"a": "x".repeat(4096), "b": "x".repeat(4096)});
    for (body, number, name, text) in [
        (json!({"tags": {"a.b": 1}}), 400_004, "ArgumentInvalid", "tags.a.b"),
        (json!({"tags": []}), 400_006, "IotHubFormatError", "tags must be"),
        (
            json!({"properties": {"desired": 7}}),
            400_006,
            "IotHubFormatError",
            "properties.desired must be",
        ),
        (json!({"properties": []}), 400_006, "IotHubFormatError", "properties"),
        (
            json!({"tags": {"ok": 1}, "properties": {"desired": {"$x": 1}}}),
            400_004,
            "ArgumentInvalid",
            "properties.desired.$x",
        ),
        (json!({"tags": large}), 413_001, "MessageTooLarge", "at most 8192"),
        (json!([]), 400_006, "IotHubFormatError", "object"),
    ] {
        let answer = call(&hub, "PATCH", "/twins/d", body).await;
        answer.refused(number, name);
        assert!(answer.text().contains(text), "{}", answer.text());
    }
    assert_eq!(hub.by("service", "GET", "/twins/d").send().await.json()["version"], 1);
    for policy in ["registryReadWrite", "device"] {
        hub.by(policy, "GET", "/twins/d")
            .send()
            .await
            .refused(401_002, "IotHubUnauthorizedAccess");
    }
}

#[tokio::test]
async fn a_bulk_creates_twins_and_replaces_them() {
    let hub = Hub::start().await;
    let bulk = async |entries: Value| hub.owner("POST", "/devices").body(entries).send().await;
    let created = bulk(json!([
        {"id": "a", "importMode": "create", "tags": {"x": 1}, "properties": {"desired": {"y": 2}}},
        {"id": "b", "importMode": "create"},
    ]));
    created.await.is(200);
    let twin = hub.by("service", "GET", "/twins/a").send().await.json();
    assert_eq!((&twin["tags"], &twin["version"]), (&json!({"x": 1}), &json!(2)));
    assert_eq!(twin["properties"]["desired"]["y"], 2);
    let twin = written(&hub, "PATCH", "/twins/a", json!({"tags": {"z": 3}})).await;
    assert_eq!(
        (&twin["tags"], &twin["properties"]["desired"]["y"]),
        (&json!({"x": 1, "z": 3}), &json!(2))
    );
    let partly = bulk(json!([
        {"id": "a", "importMode": "updateTwinIfMatchETag", "twinETag": "AAAAAAAAAAE=", "tags": {"lost": 1}},
        {"id": "b", "importMode": "updateTwin", "tags": {"t": 1}, "properties": {"desired": {"d": 1}}},
        {"id": "c", "importMode": "updateTwin", "tags": {}},
        {"id": "e", "importMode": "create", "tags": {"bad.key": 1}},
        {"id": "f", "importMode": "updateTwinIfMatchETag", "tags": {}},
    ]))
    .await;
    partly.is(400);
    let errors = partly.json()["errors"].clone();
    let errors: Vec<_> = errors
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (&error["deviceId"], &error["errorCode"]))
        .map(|(id, code)| format!("{id} {code}").replace('"', ""))
        .collect();
    assert_eq!(
        errors,
        [
            "a PreconditionFailed",
            "c DeviceNotFound",
            "e ArgumentInvalid",
            "f ArgumentInvalid"
        ]
    );
    let twin = hub.by("service", "GET", "/twins/b").send().await.json();
    assert_eq!(
        (&twin["tags"], &twin["properties"]["desired"]["d"]),
        (&json!({"t": 1}), &json!(1))
    );
    hub.owner("GET", "/devices/e")
        .send()
        .await
        .refused(404_001, "DeviceNotFound");
}

#[tokio::test]
async fn a_device_that_is_created_again_has_a_new_twin() {
    let hub = Hub::start().await;
    create(&hub, "d").await;
    written(&hub, "PATCH", "/twins/d", json!({"tags": {"old": 1}})).await;
    hub.owner("DELETE", "/devices/d").send().await.is(204);
    hub.by("service", "GET", "/twins/d")
        .send()
        .await
        .refused(404_001, "DeviceNotFound");
    create(&hub, "d").await;
    let twin = hub.by("service", "GET", "/twins/d").send().await.json();
    assert_eq!((&twin["tags"], &twin["version"]), (&json!({}), &json!(1)));
}

#[tokio::test]
async fn the_history_has_the_last_versions_newest_first() {
    let hub = Hub::start().await;
    create(&hub, "d").await;
    for number in 0..13 {
        written(
            &hub,
            "PATCH",
            "/twins/d",
            json!({"properties": {"desired": {"n": number}}}),
        )
        .await;
    }
    let answer = hub.by("service", "GET", "/holdfast/v1/twins/d/history").send().await;
    answer.is(200);
    let versions = answer.json()["versions"].clone();
    let numbers: Vec<_> = versions
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["version"].as_u64().unwrap())
        .collect();
    assert_eq!(
        numbers,
        (4..=14).rev().collect::<Vec<_>>(),
        "the current one and ten before it"
    );
    assert_eq!(versions[1]["desired"], json!({"n": 11, "$version": 13}));
    hub.by("device", "GET", "/holdfast/v1/twins/d/history")
        .send()
        .await
        .refused(401_002, "IotHubUnauthorizedAccess");
    hub.by("service", "GET", "/holdfast/v1/twins/d/modules/m/history")
        .send()
        .await
        .refused(404_010, "ModuleNotFound");
}
