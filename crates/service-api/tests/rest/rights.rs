//! Rights of each policy, answers to unauthenticated callers, and the api-version check before both.

use serde_json::json;

use crate::support::Hub;

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
        (
            "registryRead",
            "DELETE",
            "/devices/d",
            401,
            "missing right RegistryWrite\"",
        ),
        ("registryRead", "GET", "/statistics/service", 401, "ServiceConnect"),
        ("registryReadWrite", "GET", "/devices", 200, ""),
        ("registryReadWrite", "GET", "/statistics/devices", 200, ""),
        ("service", "GET", "/devices/d", 401, "RegistryRead"),
        ("service", "GET", "/statistics/service", 200, ""),
        ("device", "GET", "/devices/d", 401, "RegistryRead"),
        ("registryReadWrite", "POST", "/twins/d/methods", 401, "ServiceConnect"),
        (
            "service",
            "GET",
            "/holdfast/v1/hub",
            401,
            "missing right RegistryWrite, DeviceConnect",
        ),
        (
            "service",
            "GET",
            "/holdfast/v1/devices",
            401,
            "missing right RegistryRead",
        ),
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
    let refusals = hub.refusals();
    assert_eq!(refusals.len(), 7);
    assert!(
        refusals
            .iter()
            .all(|(principal, reason)| principal.starts_with("policy ") && reason == "right")
    );
}

#[tokio::test]
async fn a_caller_without_valid_credentials_learns_nothing() {
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
            // The hub's clock advances between two answers.
            answers.push(text.split(", the hub's time").next().unwrap().to_owned());
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{shown}: {answers:?}");
        texts.insert(answers[0].clone());
    }
    assert!(texts.iter().all(|text| !text.contains("sig=")));
    // An authorized caller learns whether a path exists.
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
    for query in ["", "api-version=2016-02-02", "api-version=x"] {
        let answer = hub.request("GET", "/devices").raw_query(query).send().await;
        answer.refused(400_001, "InvalidProtocolVersion");
        assert!(answer.text().contains("2021-04-12"));
    }
    for version in ["2016-02-03", "2018-06-30", "2024-03-31", "2026-06-01-preview"] {
        let query = format!("api-version={version}");
        hub.owner("GET", "/devices").raw_query(&query).send().await.is(200);
    }
    hub.owner("GET", "/holdfast/v1/hub").raw_query("").send().await.is(200);
}
