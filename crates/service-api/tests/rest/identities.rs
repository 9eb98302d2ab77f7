//! Devices, modules, lists, bulk, keys: requests, answers, and the state afterwards.

use serde_json::{Value, json};

use crate::support::{Answer, Hub};

fn ids(answer: &Answer) -> Vec<String> {
    answer
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|device| device["deviceId"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_device_is_created_read_updated_and_deleted_with_the_documented_answers() {
    let hub = Hub::start().await;
    let created = hub
        .owner("PUT", "/devices/dev-1")
        .body(json!({"deviceId": "dev-1"}))
        .send()
        .await;
    created.is(200);
    let document = created.json();
    assert_eq!(document["deviceId"], "dev-1");
    assert_eq!(document["status"], "enabled");
    assert_eq!(document["connectionState"], "Disconnected");
    assert_eq!(document["lastActivityTime"], "0001-01-01T00:00:00Z");
    assert_eq!(document["authentication"]["type"], "sas");
    assert_eq!(
        document["authentication"]["symmetricKey"]["primaryKey"]
            .as_str()
            .unwrap()
            .len(),
        44
    );
    assert_eq!(
        document["authentication"]["x509Thumbprint"]["primaryThumbprint"],
        Value::Null
    );
    assert_eq!(document["capabilities"]["iotEdge"], false);
    assert_eq!(document["cloudToDeviceMessageCount"], 0);
    assert!(document.get("deviceScope").is_none() && document["statusReason"].is_null());
    let etag = document["etag"].as_str().unwrap();
    assert_eq!(created.header("etag"), format!("\"{etag}\""));
    assert_eq!(created.header("content-type"), "application/json; charset=utf-8");
    assert_eq!(created.header("x-ms-request-id").len(), 32);

    let read = hub.owner("GET", "/devices/dev-1").send().await;
    read.is(200);
    assert_eq!(read.json(), document);

    let again = hub
        .owner("PUT", "/devices/dev-1")
        .body(json!({"deviceId": "dev-1"}))
        .send()
        .await;
    again.refused(409_001, "DeviceAlreadyExists");

    let mut changed = document.clone();
    changed["status"] = json!("Disabled");
    changed["statusReason"] = json!("lost");
    let updated = hub
        .owner("PUT", "/devices/dev-1")
        .if_match(&created.header("etag"))
        .body(changed.clone())
        .send()
        .await;
    updated.is(200);
    let updated_document = updated.json();
    assert_eq!(updated_document["status"], "disabled");
    assert_eq!(updated_document["statusReason"], "lost");
    assert_ne!(updated_document["statusUpdatedTime"], "0001-01-01T00:00:00Z");
    assert_eq!(updated_document["authentication"], document["authentication"]);
    assert_eq!(updated_document["generationId"], document["generationId"]);
    assert_ne!(updated_document["etag"], document["etag"]);

    let stale = hub
        .owner("PUT", "/devices/dev-1")
        .if_match(&created.header("etag"))
        .body(changed.clone())
        .send()
        .await;
    stale.refused(412_001, "PreconditionFailed");
    hub.owner("DELETE", "/devices/dev-1")
        .if_match("W/\"stale\"")
        .send()
        .await
        .refused(412_001, "PreconditionFailed");
    for any in ["*", "\"*\""] {
        hub.owner("PUT", "/devices/dev-1")
            .if_match(any)
            .body(changed.clone())
            .send()
            .await
            .is(200);
    }
    let deleted = hub.owner("DELETE", "/devices/dev-1").send().await;
    deleted.is(204);
    assert!(deleted.body.is_empty() && deleted.response_header("content-type").is_none());
    hub.owner("DELETE", "/devices/dev-1")
        .send()
        .await
        .refused(404_001, "DeviceNotFound");
    hub.owner("GET", "/devices/dev-1")
        .send()
        .await
        .refused(404_001, "DeviceNotFound");
    let absent = hub
        .owner("PUT", "/devices/dev-1")
        .if_match("*")
        .body(changed)
        .send()
        .await;
    absent.refused(404_001, "DeviceNotFound");
    let recreated = hub
        .owner("PUT", "/devices/dev-1")
        .body(json!({"deviceId": "dev-1"}))
        .send()
        .await;
    assert_ne!(recreated.json()["generationId"], document["generationId"]);
}

#[tokio::test]
async fn modules_answer_201_on_create_and_carry_their_own_fields() {
    let hub = Hub::start().await;
    let document = json!({"deviceId": "dev", "moduleId": "m1", "managedBy": "me"});
    hub.owner("PUT", "/devices/dev/modules/m1")
        .body(document.clone())
        .send()
        .await
        .refused(404_001, "DeviceNotFound");
    hub.owner("PUT", "/devices/dev")
        .body(json!({"deviceId": "dev"}))
        .send()
        .await
        .is(200);
    assert_eq!(hub.owner("GET", "/devices/dev/modules").send().await.json(), json!([]));
    let created = hub
        .owner("PUT", "/devices/dev/modules/m1")
        .body(document.clone())
        .send()
        .await;
    created.is(201);
    assert_eq!(created.json()["managedBy"], "me");
    assert!(created.json().get("status").is_none() && created.json().get("capabilities").is_none());
    hub.owner("PUT", "/devices/dev/modules/m1")
        .if_match("*")
        .body(document.clone())
        .send()
        .await
        .is(200);
    let exists = hub.owner("PUT", "/devices/dev/modules/m1").body(document).send().await;
    exists.refused(409_301, "ModuleAlreadyExistsOnDevice");
    hub.owner("GET", "/devices/dev/modules/m2")
        .send()
        .await
        .refused(404_010, "ModuleNotFound");
    assert_eq!(
        hub.owner("GET", "/devices/dev/modules")
            .send()
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    hub.owner("GET", "/devices/none/modules")
        .send()
        .await
        .refused(404_001, "DeviceNotFound");
    let below = hub
        .owner("PUT", "/devices/dev/modules/m1/modules/m2")
        .body(json!({}))
        .send()
        .await;
    below.refused(400_301, "CannotRegisterModuleToModule");
    let below = hub
        .owner("PUT", "/devices/dev/modules/m1%2Fm2")
        .body(json!({}))
        .send()
        .await;
    below.refused(400_301, "CannotRegisterModuleToModule");
    hub.owner("DELETE", "/devices/dev/modules/m1").send().await.is(204);
    hub.owner("DELETE", "/devices/dev/modules/m1")
        .send()
        .await
        .refused(404_010, "ModuleNotFound");
}

#[tokio::test]
async fn an_edge_device_has_a_scope_and_system_modules_that_cannot_be_deleted() {
    let hub = Hub::start().await;
    let edge = json!({"deviceId": "edge", "capabilities": {"iotEdge": true}});
    let edge = hub.owner("PUT", "/devices/edge").body(edge).send().await.json();
    let scope = format!("ms-azure-iot-edge://edge-{}", edge["generationId"].as_str().unwrap());
    assert_eq!(edge["deviceScope"], scope);
    assert_eq!(edge["parentScopes"], json!([]));
    let modules = hub.owner("GET", "/devices/edge/modules").send().await.json();
    let names: Vec<_> = modules
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["moduleId"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["$edgeAgent", "$edgeHub"]);
    let refused = hub.owner("DELETE", "/devices/edge/modules/$edgeAgent").send().await;
    refused.refused(401_100, "SystemModuleModifyUnauthorizedAccess");
    let leaf = json!({"deviceId": "leaf", "deviceScope": scope});
    let leaf = hub.owner("PUT", "/devices/leaf").body(leaf).send().await.json();
    assert_eq!(
        (&leaf["deviceScope"], &leaf["parentScopes"]),
        (&json!(scope), &json!([scope]))
    );
    let out = json!({"deviceId": "leaf", "deviceScope": ""});
    let out = hub
        .owner("PUT", "/devices/leaf")
        .if_match("*")
        .body(out)
        .send()
        .await
        .json();
    assert!(out.get("deviceScope").is_none() && out.get("parentScopes").is_none());
    let wrong = json!({"deviceId": "x", "deviceScope": "ms-azure-iot-edge://none-1"});
    hub.owner("PUT", "/devices/x")
        .body(wrong)
        .send()
        .await
        .refused(400_028, "InvalidDeviceScope");
}

#[tokio::test]
async fn lists_are_in_id_order_and_an_out_of_range_top_counts_as_the_maximum() {
    let hub = Hub::start().await;
    for id in ["b", "a", "C", "a-1"] {
        hub.owner("PUT", &format!("/devices/{id}"))
            .body(json!({"deviceId": id}))
            .send()
            .await
            .is(200);
    }
    assert_eq!(ids(&hub.owner("GET", "/devices").send().await), ["C", "a", "a-1", "b"]);
    assert_eq!(
        ids(&hub.owner("GET", "/devices/").query("top=2").send().await),
        ["C", "a"]
    );
    for top in ["0", "1001", "-1", "5000", "2147483647"] {
        let answer = hub.owner("GET", "/devices").query(&format!("top={top}")).send().await;
        answer.is(200);
        assert_eq!(ids(&answer).len(), 4, "{top}");
    }
    for top in ["x", ""] {
        hub.owner("GET", "/devices")
            .query(&format!("top={top}"))
            .send()
            .await
            .refused(400_004, "ArgumentInvalid");
    }
    let statistics = hub.owner("GET", "/statistics/devices").send().await.json();
    assert_eq!(
        statistics,
        json!({"totalDeviceCount": 4, "enabledDeviceCount": 4, "disabledDeviceCount": 0})
    );
    let service = hub.owner("GET", "/statistics/service").send().await.json();
    assert_eq!(service, json!({"connectedDeviceCount": 0}));
}

#[tokio::test]
async fn a_bulk_answers_200_or_400_with_errors_in_order_and_does_the_rest() {
    let hub = Hub::start().await;
    let entries = json!([
        {"id": "a", "importMode": "create", "tags": {"x": 1}, "properties": {"desired": {"y": 2}}},
        {"id": "b", "importMode": "Create", "status": "disabled"},
    ]);
    let done = hub.owner("POST", "/devices/").body(entries).send().await;
    done.is(200);
    assert_eq!(done.json(), json!({"isSuccessful": true, "errors": [], "warnings": []}));
    let entries = json!([
        {"id": "a", "importMode": "create"},
        {"id": "c"},
        {"id": "bad id", "importMode": "create"},
        {"id": "a", "moduleId": "m", "importMode": "create"},
        {"id": "b", "importMode": "updateIfMatchETag", "eTag": "wrong"},
        {"id": "d", "importMode": "delete"},
        {"id": "e", "importMode": "updateTwin"},
        {"id": "f", "importMode": "explode"},
        {"id": "g", "importMode": "deleteIfMatchETag"},
    ]);
    let partly = hub.owner("POST", "/devices").body(entries).send().await;
    partly.is(400);
    let answer = partly.json();
    assert_eq!(answer["isSuccessful"], false);
    let errors: Vec<_> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| {
            (
                error["deviceId"].as_str().unwrap(),
                error["errorCode"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        errors,
        [
            ("a", "DeviceAlreadyExists"),
            ("bad id", "ArgumentInvalid"),
            ("b", "PreconditionFailed"),
            ("d", "DeviceNotFound"),
            ("e", "DeviceNotFound"),
            ("f", "ArgumentInvalid"),
            ("g", "ArgumentInvalid"),
        ]
    );
    assert_eq!(answer["errors"][0]["operation"], "create");
    assert_eq!(ids(&hub.owner("GET", "/devices").send().await), ["a", "b", "c"]);
    hub.owner("GET", "/devices/a/modules/m").send().await.is(200);

    let post = |body: Value| hub.owner("POST", "/devices").body(body).send();
    // Python's SDK shows a 400 as the result that it has the shape of.
    let empty = post(json!([])).await;
    empty.refused(400_004, "ArgumentInvalid");
    assert_eq!(empty.json()["isSuccessful"], false);
    assert_eq!(empty.json()["errors"][0]["errorStatus"], "the list has no entry");
    post(json!({})).await.refused(400_006, "IotHubFormatError");
    post(json!([1])).await.refused(400_006, "IotHubFormatError");
    post(json!([{"id": 1}])).await.refused(400_006, "IotHubFormatError");
    let twice = post(json!([{"id": "x"}, {"id": "x"}])).await;
    twice.refused(400_011, "DeviceDefinedMultipleTimes");
    let shown = json!([{
        "deviceId": "x",
        "errorCode": "DeviceDefinedMultipleTimes",
        "errorStatus": "'x' is in the list more than once",
    }]);
    assert_eq!(
        (&twice.json()["errors"], &twice.json()["warnings"]),
        (&shown, &json!([]))
    );
    let many: Vec<_> = (0..101).map(|number| json!({"id": format!("n{number}")})).collect();
    post(Value::Array(many)).await.refused(413_002, "TooManyDevices");
}

#[tokio::test]
async fn keys_are_generated_kept_and_regenerated_as_the_rules_say() {
    let hub = Hub::start().await;
    let key = |document: &Value, name: &str| document["authentication"]["symmetricKey"][name].clone();
    let given = json!({"deviceId": "d", "authentication": {"symmetricKey":
        {"primaryKey": "AAECAwQFBgcICQoLDA0ODw==", "secondaryKey": "AAECAwQFBgcICQoLDA0ODw=="}}});
    let created = hub.owner("PUT", "/devices/d").body(given).send().await.json();
    assert_eq!(key(&created, "primaryKey"), "AAECAwQFBgcICQoLDA0ODw==");
    let update = |authentication: Value| {
        let body = json!({"deviceId": "d", "authentication": authentication});
        hub.owner("PUT", "/devices/d").if_match("*").body(body).send()
    };
    for absent in [
        Value::Null,
        json!({}),
        json!({"type": "sas"}),
        json!({"type": "sas", "symmetricKey": null}),
        json!({"type": "sas", "symmetricKey": {"primaryKey": null, "secondaryKey": null}}),
        json!({"type": "sas", "symmetricKey": {}, "x509Thumbprint": {"primaryThumbprint": "", "secondaryThumbprint": ""}}),
    ] {
        let kept = update(absent.clone()).await.json();
        assert_eq!(kept["authentication"], created["authentication"], "{absent}");
    }
    // Empty is not absent: the administrator wants the old keys to end.
    let mut before = created.clone();
    for empty in [
        json!({"symmetricKey": {"primaryKey": "", "secondaryKey": ""}}),
        json!({"type": "sas", "symmetricKey": {"primaryKey": "", "secondaryKey": ""}}),
        json!({"type": "sas", "symmetricKey": {"primaryKey": "", "secondaryKey": null}}),
    ] {
        let fresh = update(empty.clone()).await;
        fresh.is(200);
        let fresh = fresh.json();
        for name in ["primaryKey", "secondaryKey"] {
            assert_ne!(key(&fresh, name), key(&before, name), "{empty}");
            assert_eq!(key(&fresh, name).as_str().unwrap().len(), 44, "{empty}");
        }
        before = fresh;
    }
    for half in [
        json!({"primaryKey": "AAECAwQFBgcICQoLDA0ODw==", "secondaryKey": ""}),
        json!({"secondaryKey": "AAECAwQFBgcICQoLDA0ODw=="}),
    ] {
        update(json!({"symmetricKey": half}))
            .await
            .refused(400_004, "ArgumentInvalid");
    }
    let read = hub.owner("GET", "/devices/d").send().await.json();
    assert_eq!(read["authentication"], before["authentication"]);
    let created = before;
    for bad in [
        json!({"symmetricKey": {"primaryKey": "AAECAwQFBgcICQoLDA0ODw=="}}),
        json!({"symmetricKey": {"primaryKey": "AAEC", "secondaryKey": "AAEC"}}),
        json!({"symmetricKey": {"primaryKey": "not base64", "secondaryKey": "not base64"}}),
        json!({"type": "x"}),
        json!({"type": "none"}),
        json!({"type": "selfSigned"}),
        json!({"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "AB"}}),
        json!({"type": "selfSigned", "x509Thumbprint": {"secondaryThumbprint": "AA".repeat(20)}}),
    ] {
        let body = json!({"deviceId": "e", "authentication": bad});
        hub.owner("PUT", "/devices/e")
            .body(body)
            .send()
            .await
            .refused(400_004, "ArgumentInvalid");
    }
    let print = "aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd";
    let body = json!({"deviceId": "f", "authentication": {"x509Thumbprint": {"primaryThumbprint": print}}});
    let self_signed = hub.owner("PUT", "/devices/f").body(body).send().await.json();
    assert_eq!(self_signed["authentication"]["type"], "selfSigned");
    let stored = &self_signed["authentication"]["x509Thumbprint"]["primaryThumbprint"];
    assert_eq!(stored, "AABBCCDDEEFF00112233445566778899AABBCCDD");
    // An emptied thumbprint is not kept silently.
    let body =
        json!({"deviceId": "f", "authentication": {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": ""}}});
    let emptied = hub.owner("PUT", "/devices/f").if_match("*").body(body).send().await;
    emptied.refused(400_004, "ArgumentInvalid");

    hub.owner("PUT", "/devices/d/modules/m")
        .body(json!({"deviceId": "d", "moduleId": "m"}))
        .send()
        .await
        .is(201);
    let regenerate = |body: Value| hub.owner("POST", "/devices/keys/regenerate").body(body).send();
    let body = json!({"policyKey": "PrimaryKey", "devices": [{"id": "d"}, {"id": "d", "moduleId": "m"}]});
    let rotated = regenerate(body).await;
    rotated.is(200);
    let fresh = hub.owner("GET", "/devices/d").send().await.json();
    assert_ne!(key(&fresh, "primaryKey"), key(&created, "primaryKey"));
    assert_eq!(key(&fresh, "secondaryKey"), key(&created, "secondaryKey"));
    let module = hub.owner("GET", "/devices/d/modules/m").send().await.json();
    let expected = json!({
        "policyKey": "primaryKey",
        "rotatedKeys": [
            {"id": "d", "moduleId": null, "primaryKey": key(&fresh, "primaryKey"), "secondaryKey": null},
            {"id": "d", "moduleId": "m", "primaryKey": key(&module, "primaryKey"), "secondaryKey": null},
        ],
        "errors": [],
    });
    assert_eq!(rotated.json(), expected);
    // A device with thumbprints has no key to rotate, and is no error.
    let devices = json!([{"id": "d"}, {"id": "none"}, {"id": "d", "moduleId": "none"}, {"id": "f"}]);
    let some = regenerate(json!({"policyKey": "both", "devices": devices})).await;
    some.is(207);
    let some = some.json();
    assert_eq!(some["rotatedKeys"].as_array().unwrap().len(), 1);
    assert!(some["rotatedKeys"][0]["primaryKey"].is_string() && some["rotatedKeys"][0]["secondaryKey"].is_string());
    let errors = some["errors"].as_array().unwrap();
    let errors: Vec<_> = errors
        .iter()
        .map(|error| (&error["id"], &error["moduleId"], &error["errorCode"]))
        .collect();
    let expected = [
        (&json!("none"), &Value::Null, &json!("DeviceNotFound")),
        (&json!("d"), &json!("none"), &json!("ModuleNotFound")),
    ];
    assert_eq!(errors, expected);
    let body = json!({"policyKey": "both", "devices": [{"id": "none"}]});
    hub.owner("POST", "/devices/keys/regenerate")
        .body(body)
        .send()
        .await
        .is(400);
    let body = json!({"policyKey": "third", "devices": [{"id": "d"}]});
    hub.owner("POST", "/devices/keys/regenerate")
        .body(body)
        .send()
        .await
        .refused(400_035, "InvalidPolicyKey");
}

#[tokio::test]
async fn bodies_are_read_as_leniently_as_the_cloud_reads_them() {
    let hub = Hub::start().await;
    for body in [
        r#"{deviceId: "edison1"}"#,
        "{'deviceId': 'edison1'}",
        r#"{"deviceId":"edison1",}"#,
        r#"{"deviceId":"edison1" /* c */}"#,
    ] {
        let created = hub.owner("PUT", "/devices/edison1").raw_body(body.into()).send().await;
        created.is(200);
        assert_eq!(created.json()["deviceId"], "edison1", "{body}");
        hub.owner("DELETE", "/devices/edison1").send().await.is(204);
    }
}

#[tokio::test]
async fn a_list_that_is_cut_says_so_and_our_own_list_has_pages() {
    let hub = Hub::start().await;
    for number in 0..7 {
        let id = format!("d-{number}");
        let created = hub
            .owner("PUT", &format!("/devices/{id}"))
            .body(json!({"deviceId": id}));
        created.send().await.is(200);
    }
    let cut = hub.owner("GET", "/devices").query("top=6").send().await;
    assert_eq!(cut.header("holdfast-truncated"), "true");
    let whole = hub.owner("GET", "/devices").query("top=7").send().await;
    assert_eq!(whole.response_header("holdfast-truncated"), None);
    let (mut found, mut after, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = hub
            .by("registryRead", "GET", "/holdfast/v1/devices")
            .raw_query(&format!("top=3&after={after}"))
            .send()
            .await;
        page.is(200);
        let page = page.json();
        let devices = page["devices"].as_array().unwrap().clone();
        found.extend(
            devices
                .iter()
                .map(|device| device["deviceId"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        let Some(continuation) = page["continuation"].as_str() else {
            break;
        };
        after = continuation.to_owned();
    }
    let expected: Vec<_> = (0..7).map(|number| format!("d-{number}")).collect();
    assert_eq!((found, pages), (expected, 3));
    let bad = hub
        .owner("GET", "/holdfast/v1/devices")
        .raw_query("after=a%20b")
        .send()
        .await;
    bad.refused(400_004, "ArgumentInvalid");
}
