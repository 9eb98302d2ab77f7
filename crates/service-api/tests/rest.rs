//! The service API over a real registry: a real disk, a real group of one member, requests without a socket.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use http::StatusCode;
use serde_json::{Value, json};

use support::{Answer, Hub, VERSION};

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
async fn lists_are_in_id_order_and_top_has_its_range() {
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
    for top in ["0", "1001", "-1", "x", ""] {
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
    assert_eq!(service, json!({"connectedDeviceCount": 3}));
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
            ("e", "FeatureNotSupported"),
            ("f", "ArgumentInvalid"),
            ("g", "ArgumentInvalid"),
        ]
    );
    assert_eq!(answer["errors"][0]["operation"], "create");
    assert_eq!(ids(&hub.owner("GET", "/devices").send().await), ["a", "b", "c"]);
    hub.owner("GET", "/devices/a/modules/m").send().await.is(200);

    let post = |body: Value| hub.owner("POST", "/devices").body(body).send();
    post(json!([])).await.refused(400_004, "ArgumentInvalid");
    post(json!({})).await.refused(400_006, "IotHubFormatError");
    post(json!([1])).await.refused(400_006, "IotHubFormatError");
    post(json!([{"id": 1}])).await.refused(400_006, "IotHubFormatError");
    post(json!([{"id": "x"}, {"id": "x"}]))
        .await
        .refused(400_011, "DeviceDefinedMultipleTimes");
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
    let empty = json!({"deviceId": "d", "authentication": {"type": "sas", "symmetricKey": {"primaryKey": "", "secondaryKey": null}}});
    let kept = hub
        .owner("PUT", "/devices/d")
        .if_match("*")
        .body(empty)
        .send()
        .await
        .json();
    assert_eq!(kept["authentication"], created["authentication"]);
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

    let body = json!({"policyKey": "primaryKey", "devices": [{"id": "d"}]});
    hub.owner("POST", "/devices/keys/regenerate")
        .body(body)
        .send()
        .await
        .is(200);
    let fresh = hub.owner("GET", "/devices/d").send().await.json();
    assert_ne!(key(&fresh, "primaryKey"), key(&created, "primaryKey"));
    assert_eq!(key(&fresh, "secondaryKey"), key(&created, "secondaryKey"));
    let body = json!({"policyKey": "both", "devices": [{"id": "d"}, {"id": "none"}, {"id": "f"}]});
    let some = hub.owner("POST", "/devices/keys/regenerate").body(body).send().await;
    some.is(207);
    assert_eq!(some.json()["errors"][0]["errorCode"], "DeviceNotFound");
    assert_eq!(some.json()["errors"].as_array().unwrap().len(), 2);
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
async fn each_policy_may_do_what_its_rights_say_and_the_text_names_what_is_missing() {
    let hub = Hub::start().await;
    hub.owner("PUT", "/devices/d")
        .body(json!({"deviceId": "d"}))
        .send()
        .await
        .is(200);
    let table = [
        ("registryRead", "GET", "/devices/d", 200, ""),
        ("registryRead", "DELETE", "/devices/d", 401, "RegistryWrite"),
        ("registryRead", "GET", "/statistics/service", 401, "ServiceConnect"),
        ("registryReadWrite", "GET", "/devices", 200, ""),
        ("registryReadWrite", "GET", "/statistics/devices", 200, ""),
        ("service", "GET", "/devices/d", 401, "RegistryRead"),
        ("service", "GET", "/statistics/service", 200, ""),
        ("device", "GET", "/devices/d", 401, "RegistryRead"),
        ("service", "GET", "/holdfast/v1/hub", 401, "RegistryRead"),
        ("iothubowner", "GET", "/holdfast/v1/hub", 200, ""),
    ];
    for (policy, method, path, status, missing) in table {
        let answer = hub.by(policy, method, path).send().await;
        answer.is(status);
        if status == 401 {
            answer.refused(401_002, "IotHubUnauthorizedAccess");
            assert!(answer.text().contains(missing), "{policy} {path}: {}", answer.text());
        }
    }
    let refusals = hub.view.refusals();
    assert_eq!(refusals.len(), 5);
    assert!(
        refusals
            .iter()
            .all(|(principal, reason)| principal.starts_with("policy ") && reason == "right")
    );
}

#[tokio::test]
async fn who_has_not_proved_itself_learns_nothing() {
    let hub = Hub::start().await;
    hub.owner("PUT", "/devices/d")
        .body(json!({"deviceId": "d"}))
        .send()
        .await
        .is(200);
    let good = hub.token("iothubowner", 3600);
    let tokens = [
        (None, 401_002),
        (Some("nonsense".to_owned()), 401_002),
        (Some("Bearer abc".to_owned()), 401_002),
        (Some(good.replace("skn=iothubowner", "skn=nobody")), 401_002),
        (Some(good.replace("skn=iothubowner", "skn=service")), 401_002),
        (Some(good.replace("hub1.example.com", "hub2.example.com")), 401_002),
        (Some(hub.token("iothubowner", -600)), 401_003),
        (Some(good.replace("&skn=iothubowner", "")), 401_002),
    ];
    let mut texts = std::collections::BTreeSet::new();
    for (token, number) in tokens {
        let shown = token.clone().unwrap_or_default();
        let mut answers = Vec::new();
        for (method, path) in [
            ("GET", "/devices/d"),
            ("GET", "/devices/none"),
            ("GET", "/nothing"),
            ("PATCH", "/devices"),
            ("PUT", "//"),
        ] {
            let request = hub.request(method, path).authorization(token.as_deref());
            let answer = request.body(json!({"deviceId": "x"})).send().await;
            assert_eq!(answer.json()["errorCode"], number, "{shown} {path}");
            let text = answer.json()["Message"].as_str().unwrap().to_owned();
            // The hub's clock may go on between two answers.
            answers.push(text.split(", the hub's clock").next().unwrap().to_owned());
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{shown}: {answers:?}");
        texts.insert(answers[0].clone());
    }
    assert!(texts.iter().all(|text| !text.contains("sig=")));
    // An allowed caller is told what there is and what not.
    hub.owner("GET", "/nothing")
        .send()
        .await
        .refused(404_000, "GenericNotFound");
    hub.owner("GET", "//devices")
        .send()
        .await
        .refused(404_000, "GenericNotFound");
    hub.owner("GET", "/devices/../devices")
        .send()
        .await
        .refused(404_000, "GenericNotFound");
    let method = hub.owner("PATCH", "/devices").send().await;
    method.refused(405_000, "GenericMethodNotAllowed");
    assert_eq!(method.header("allow"), "GET, POST");
}

#[tokio::test]
async fn the_api_version_is_checked_before_anything_else() {
    let hub = Hub::start().await;
    for query in ["", "api-version=2099-01-01", "api-version=x"] {
        let answer = hub.request("GET", "/devices").raw_query(query).send().await;
        answer.refused(400_001, "InvalidProtocolVersion");
        assert!(answer.text().contains("2021-04-12"));
    }
    hub.owner("GET", "/devices")
        .raw_query("api-version=2018-06-30")
        .send()
        .await
        .is(200);
    hub.owner("GET", "/holdfast/v1/hub").raw_query("").send().await.is(200);
}

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

#[tokio::test]
async fn ids_with_every_legal_character_pass_and_every_other_is_refused() {
    let hub = Hub::start().await;
    for byte in 0..=127_u8 {
        let id = format!("a{}", char::from(byte));
        let encoded = format!("/devices/a%{byte:02X}");
        let answer = hub.owner("PUT", &encoded).body(json!({"deviceId": id})).send().await;
        let legal = byte.is_ascii_alphanumeric() || b"-:.+%_#*?!(),=@;$'".contains(&byte);
        if legal {
            answer.is(200);
            assert_eq!(answer.json()["deviceId"], id);
            hub.owner("GET", &encoded).send().await.is(200);
        } else {
            answer.refused(400_004, "ArgumentInvalid");
        }
    }
    for (path, number) in [
        (format!("/devices/{}", "a".repeat(129)), 400_004),
        ("/devices/%C3%A4".to_owned(), 400_004),
        ("/devices/%ff".to_owned(), 404_000),
        ("/devices/%2e%2e".to_owned(), 404_000),
        (format!("/devices/{}", "a".repeat(9000)), 404_000),
    ] {
        let answer = hub.owner("PUT", &path).body(json!({"deviceId": "x"})).send().await;
        assert_eq!(answer.json()["errorCode"], number, "{path:.40}");
    }
    hub.owner("PUT", &format!("/devices/{}", "a".repeat(128)))
        .body(json!({"deviceId": "a".repeat(128)}))
        .send()
        .await
        .is(200);
}

#[tokio::test]
async fn bodies_that_are_wrong_get_their_number_and_change_nothing() {
    let hub = Hub::start().await;
    let nested = |levels: usize| {
        format!(
            "{{\"deviceId\":\"d\",\"x\":{}{}}}",
            "[".repeat(levels),
            "]".repeat(levels)
        )
    };
    let table: Vec<(Vec<u8>, u32)> = vec![
        (b"".to_vec(), 400_006),
        (b"{".to_vec(), 400_006),
        (b"[]".to_vec(), 400_006),
        (b"\"d\"".to_vec(), 400_006),
        (b"null".to_vec(), 400_006),
        (nested(32).into_bytes(), 400_006),
        (nested(100_000).into_bytes(), 400_006),
        (br#"{"deviceId":"d","deviceId":"d"}"#.to_vec(), 400_006),
        (br#"{"deviceId":"d","DEVICEID":"d"}"#.to_vec(), 400_006),
        (br#"{"deviceId":"d","status":1}"#.to_vec(), 400_006),
        (br#"{"deviceId":"d","authentication":[]}"#.to_vec(), 400_006),
        (
            br#"{"deviceId":"d","capabilities":{"iotEdge":"yes"}}"#.to_vec(),
            400_006,
        ),
        (br#"{"deviceId":["d"]}"#.to_vec(), 400_006),
        (b"{\"deviceId\":\"\xff\"}".to_vec(), 400_006),
        (br#"{"deviceId":"other"}"#.to_vec(), 400_004),
        (br#"{}"#.to_vec(), 400_004),
        (br#"{"deviceId":"d","status":"asleep"}"#.to_vec(), 400_004),
        (
            format!(r#"{{"deviceId":"d","statusReason":"{}"}}"#, "ä".repeat(129)).into_bytes(),
            400_004,
        ),
        (
            format!(r#"{{"deviceId":"d","x":"{}"}}"#, "a".repeat(1 << 20)).into_bytes(),
            413_001,
        ),
    ];
    for (body, number) in table {
        let shown = body[..body.len().min(60)].escape_ascii().to_string();
        let answer = hub.owner("PUT", "/devices/d").raw_body(body).send().await;
        assert_eq!(answer.json()["errorCode"], number, "{shown}");
    }
    hub.owner("GET", "/devices/d")
        .send()
        .await
        .refused(404_001, "DeviceNotFound");
    let fine = format!(
        r#"{{"deviceId":"d","statusReason":"{}","unknown":{{"a":1}}}}"#,
        "ä".repeat(128)
    );
    hub.owner("PUT", "/devices/d")
        .raw_body([b"\xEF\xBB\xBF", fine.as_bytes()].concat())
        .send()
        .await
        .is(200);
}

#[tokio::test]
async fn a_body_announced_far_too_large_is_refused_before_it_is_read() {
    let hub = Hub::start().await;
    let answer = hub.owner("PUT", "/devices/d").endless_body((4 << 20) + 1).send().await;
    answer.refused(413_001, "MessageTooLarge");
}

#[tokio::test]
async fn an_error_body_satisfies_every_sdk() {
    let hub = Hub::start().await;
    let answer = hub.owner("GET", "/devices/none").send().await;
    answer.is(404);
    assert_eq!(answer.header("iothub-errorcode"), "DeviceNotFound");
    let body = answer.json();
    assert_eq!(body["errorCode"], 404_001);
    assert!(
        body["Message"]
            .as_str()
            .unwrap()
            .starts_with("ErrorCode:DeviceNotFound;")
    );
    let exception = body["ExceptionMessage"].as_str().unwrap();
    assert!(exception.starts_with(&format!("Tracking ID:{}-TimeStamp:", answer.header("x-ms-request-id"))));
    let echoed = hub
        .owner("GET", "/devices/none")
        .header("x-ms-client-request-id", "mine")
        .header("x-ms-return-client-request-id", "true")
        .send()
        .await;
    assert_eq!(echoed.header("x-ms-client-request-id"), "mine");
    let silent = hub
        .owner("GET", "/devices/none")
        .header("x-ms-client-request-id", "mine")
        .send()
        .await;
    assert!(silent.response_header("x-ms-client-request-id").is_none());
}

#[tokio::test]
async fn while_the_group_has_no_leader_calls_are_answered_with_503() {
    let hub = Hub::start().await;
    hub.registry.group().shutdown().await;
    for (method, path) in [("GET", "/devices/d"), ("PUT", "/devices/d"), ("GET", "/devices")] {
        let answer = hub.owner(method, path).body(json!({"deviceId": "d"})).send().await;
        answer.is(StatusCode::SERVICE_UNAVAILABLE.as_u16());
        assert_eq!(answer.header("retry-after"), "1");
    }
    // A wrong token is not refused for good by a replica that cannot confirm it.
    let token = hub.token("iothubowner", 3600).replace("skn=iothubowner", "skn=nobody");
    hub.request("GET", "/devices/d")
        .authorization(Some(&token))
        .send()
        .await
        .refused(503_001, "ServiceUnavailable");
    let _ = VERSION;
}
