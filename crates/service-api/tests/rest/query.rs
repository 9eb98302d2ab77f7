//! Device queries: pages, item types, aggregates, refusals.

use std::time::Duration;

use holdfast_device_hub::{DeviceHubConfig, TwinsConfig};
use serde_json::{Value, json};

use crate::support::{Answer, Hub};

const TOKEN: &str = "x-ms-continuation";

async fn put(hub: &Hub, path: &str, body: Value) {
    let answer = hub.owner("PUT", path).body(body).send().await;
    answer.is(if path.contains("/modules/") { 201 } else { 200 });
}

/// Ten devices, `d-0` to `d-9`; the odd ones are disabled; `d-3` has two modules, `gw` is an edge device.
async fn fleet() -> Hub {
    Box::pin(fleet_with(DeviceHubConfig::default())).await
}

async fn fleet_with(config: DeviceHubConfig) -> Hub {
    let hub = Hub::start_with(config).await;
    for id in hub.node.partitions.count().iter() {
        let replica = hub.node.partition(id).await;
        hub.node.partitions.host(replica);
    }
    for number in 0..10 {
        let status = if number % 2 == 1 { "disabled" } else { "enabled" };
        let id = format!("d-{number}");
        put(
            &hub,
            &format!("/devices/{id}"),
            json!({"deviceId": id, "status": status}),
        )
        .await;
    }
    for module in ["m1", "m2"] {
        let path = format!("/devices/d-3/modules/{module}");
        put(&hub, &path, json!({"deviceId": "d-3", "moduleId": module})).await;
    }
    let edge = json!({"deviceId": "gw", "capabilities": {"iotEdge": true}});
    put(&hub, "/devices/gw", edge).await;
    hub
}

async fn page(hub: &Hub, query: &str, size: Option<&str>, token: Option<&str>) -> Answer {
    let mut call = hub
        .by("service", "POST", "/devices/query")
        .body(json!({"query": query}));
    if let Some(size) = size {
        call = call.header("x-ms-max-item-count", size);
    }
    if let Some(token) = token {
        call = call.header(TOKEN, token);
    }
    call.send().await
}

async fn query(hub: &Hub, text: &str) -> Value {
    let answer = page(hub, text, None, None).await;
    answer.is(200);
    assert!(answer.response_header(TOKEN).is_none(), "{text}");
    answer.json()
}

/// All results, in pages of `size`.
async fn all(hub: &Hub, text: &str, size: usize) -> (Vec<Value>, usize) {
    let (mut results, mut pages) = (Vec::new(), 0);
    let mut token = None;
    loop {
        let answer = page(hub, text, Some(&size.to_string()), token.as_deref()).await;
        answer.is(200);
        let found = answer.json();
        let found = found.as_array().unwrap();
        assert!(found.len() <= size);
        results.extend(found.iter().cloned());
        pages += 1;
        if answer.response_header(TOKEN).is_none() {
            return (results, pages);
        }
        token = Some(answer.header(TOKEN));
    }
}

fn ids(results: &[Value]) -> Vec<&str> {
    results
        .iter()
        .map(|result| result["deviceId"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn one_device_is_one_page_of_one_twin_without_secrets() {
    let hub = fleet().await;
    let answer = page(&hub, "select * from devices where deviceId = 'd-1'", None, None).await;
    answer.is(200);
    assert_eq!(answer.header("x-ms-item-type"), "Twin");
    assert!(answer.response_header(TOKEN).is_none());
    let twins = answer.json();
    assert_eq!(twins.as_array().unwrap().len(), 1);
    let twin = &twins[0];
    assert_eq!(twin["deviceId"], "d-1");
    assert_eq!(twin["status"], "disabled");
    assert_eq!(twin["connectionState"], "Disconnected");
    assert_eq!(twin["lastActivityTime"], "0001-01-01T00:00:00Z");
    assert_eq!(twin["cloudToDeviceMessageCount"], 0);
    assert_eq!(twin["authenticationType"], "sas");
    assert_eq!(
        twin["x509Thumbprint"],
        json!({"primaryThumbprint": null, "secondaryThumbprint": null})
    );
    assert_eq!(twin["capabilities"], json!({"iotEdge": false}));
    assert_eq!(twin["tags"], json!({}));
    assert_eq!(twin["properties"]["desired"]["$version"], 1);
    assert_eq!(twin["version"], 1);
    assert!(twin.get("moduleId").is_none() && twin.get("authentication").is_none());
    let identity = hub.owner("GET", "/devices/d-1").send().await.json();
    assert_eq!(twin["deviceEtag"], identity["etag"]);
    assert_eq!(twin, &hub.by("service", "GET", "/twins/d-1").send().await.json());
}

#[tokio::test]
async fn conditions_and_columns_see_the_identity() {
    let hub = fleet().await;
    let disabled = query(&hub, "SELECT deviceId AS id FROM devices WHERE status = 'disabled'").await;
    assert_eq!(
        disabled,
        json!([{"id": "d-1"}, {"id": "d-3"}, {"id": "d-5"}, {"id": "d-7"}, {"id": "d-9"}])
    );
    let edge = query(&hub, "SELECT deviceId FROM devices WHERE capabilities.iotEdge = true").await;
    assert_eq!(edge, json!([{"deviceId": "gw"}]));
    let named = query(
        &hub,
        "SELECT DeviceId FROM devices WHERE deviceId IN ['d-7', 'd-2', 'none', 5]",
    )
    .await;
    assert_eq!(named, json!([{"deviceId": "d-2"}, {"deviceId": "d-7"}]));
    let prefix = query(
        &hub,
        "SELECT deviceId FROM devices WHERE startswith(id, 'g') AND status = 'enabled'",
    )
    .await;
    assert_eq!(prefix, json!([{"deviceId": "gw"}]));
    let connected = query(&hub, "SELECT deviceId FROM devices WHERE connectionState = 'Connected'").await;
    assert_eq!(connected, json!([]));
    let never = "SELECT COUNT() AS n FROM devices WHERE lastActivityTime < '2000'";
    assert_eq!(query(&hub, never).await, json!([{"n": 11}]));
    let typed = query(
        &hub,
        "SELECT deviceId FROM devices WHERE status = 1 OR deviceId > 5 OR tags = tags",
    )
    .await;
    assert_eq!(typed, json!([]));
}

#[tokio::test]
async fn conditions_and_columns_see_the_twin() {
    let hub = fleet().await;
    for (id, site, floor) in [
        ("d-1", "A", json!(1)),
        ("d-2", "A", json!(2)),
        ("d-3/modules/m1", "B", json!("x")),
    ] {
        let body = json!({
            "tags": {"site": site, "floor": floor},
            "properties": {"desired": {"rate": 10, "config": {"mode": site}}},
        });
        let answer = hub
            .by("service", "PATCH", &format!("/twins/{id}"))
            .body(body)
            .send()
            .await;
        answer.is(200);
    }
    let tagged = query(&hub, "SELECT deviceId, tags.floor FROM devices WHERE tags.site = 'A'").await;
    assert_eq!(
        tagged,
        json!([{"deviceId": "d-1", "floor": 1}, {"deviceId": "d-2", "floor": 2}])
    );
    let whole = query(&hub, "SELECT * FROM devices WHERE tags.floor > 1").await;
    assert_eq!(whole[0], hub.by("service", "GET", "/twins/d-2").send().await.json());
    let nested =
        "SELECT deviceId FROM devices WHERE properties.desired.config.mode = 'A' AND properties.desired.$version = 2";
    assert_eq!(
        query(&hub, nested).await,
        json!([{"deviceId": "d-1"}, {"deviceId": "d-2"}])
    );
    let metadata = "SELECT deviceId FROM devices WHERE IS_DEFINED(properties.desired.$metadata.rate.$lastUpdated)";
    assert_eq!(
        query(&hub, metadata).await,
        json!([{"deviceId": "d-1"}, {"deviceId": "d-2"}])
    );
    let unwritten =
        "SELECT COUNT() AS n FROM devices WHERE properties.reported.$version = 1 AND NOT IS_DEFINED(tags.site)";
    assert_eq!(query(&hub, unwritten).await, json!([{"n": 9}]));
    let groups = "SELECT tags.site AS site, COUNT() AS n, AVG(tags.floor) AS floor FROM devices GROUP BY tags.site";
    assert_eq!(
        query(&hub, groups).await,
        json!([{"site": "A", "n": 2, "floor": 1.5}, {"n": 9}])
    );
    let section = "SELECT properties.desired.config FROM devices WHERE version = 2 AND deviceId = 'd-1'";
    assert_eq!(query(&hub, section).await, json!([{"config": {"mode": "A"}}]));
    let module = "SELECT * FROM devices.modules WHERE tags.site = 'B'";
    let module = query(&hub, module).await;
    assert_eq!(
        module[0],
        hub.by("service", "GET", "/twins/d-3/modules/m1").send().await.json()
    );
    // A device that is created again has another twin.
    hub.owner("DELETE", "/devices/d-1").if_match("*").send().await.is(204);
    put(&hub, "/devices/d-1", json!({"deviceId": "d-1"})).await;
    assert_eq!(
        query(&hub, "SELECT deviceId FROM devices WHERE tags.site = 'A'").await,
        json!([{"deviceId": "d-2"}])
    );
}

#[tokio::test]
async fn modules_are_queried_like_devices() {
    let hub = fleet().await;
    let modules = query(&hub, "SELECT deviceId, moduleId FROM devices.modules").await;
    assert_eq!(
        modules,
        json!([
            {"deviceId": "d-3", "moduleId": "m1"},
            {"deviceId": "d-3", "moduleId": "m2"},
            {"deviceId": "gw", "moduleId": "$edgeAgent"},
            {"deviceId": "gw", "moduleId": "$edgeHub"},
        ])
    );
    let of_device = "SELECT * FROM devices.modules WHERE devices.deviceId = 'd-3'";
    let answer = page(&hub, of_device, Some("1"), None).await;
    assert_eq!(answer.header("x-ms-item-type"), "Twin");
    assert_eq!(answer.json()[0]["moduleId"], "m1");
    assert_eq!(answer.json()[0]["status"], "disabled", "its device's");
    let next = page(&hub, of_device, Some("1"), Some(&answer.header(TOKEN))).await;
    assert_eq!(next.json()[0]["moduleId"], "m2");
    let (modules, _) = all(&hub, "SELECT deviceId, moduleId FROM devices.modules", 1).await;
    assert_eq!(modules.len(), 4);
}

#[tokio::test]
async fn pages_have_every_result_once_and_the_last_one_has_no_token() {
    let hub = fleet().await;
    for size in [1, 3, 4, 11, 12] {
        let (results, pages) = all(&hub, "SELECT * FROM devices", size).await;
        let expected = [
            "d-0", "d-1", "d-2", "d-3", "d-4", "d-5", "d-6", "d-7", "d-8", "d-9", "gw",
        ];
        assert_eq!(ids(&results), expected, "{size}");
        assert!(pages <= 11 / size + 1, "{size}: {pages} pages");
    }
    let (results, _) = all(&hub, "SELECT TOP 5 deviceId FROM devices WHERE deviceId != 'd-0'", 2).await;
    assert_eq!(ids(&results), ["d-1", "d-2", "d-3", "d-4", "d-5"]);
    let (results, pages) = all(&hub, "SELECT TOP 4 * FROM devices", 2).await;
    assert_eq!((results.len(), pages), (4, 2), "no page behind the last result of TOP");
    assert_eq!(query(&hub, "SELECT TOP 0 * FROM devices").await, json!([]));
}

#[tokio::test]
async fn a_device_that_is_deleted_between_two_pages_does_not_disturb_them() {
    let hub = fleet().await;
    let text = "SELECT deviceId FROM devices";
    let first = page(&hub, text, Some("3"), None).await;
    hub.owner("DELETE", "/devices/d-2").if_match("*").send().await.is(204);
    let second = page(&hub, text, Some("3"), Some(&first.header(TOKEN))).await;
    assert_eq!(ids(second.json().as_array().unwrap()), ["d-3", "d-4", "d-5"]);
}

#[tokio::test]
async fn aggregates_are_raw_results_in_pages() {
    let hub = fleet().await;
    let answer = page(&hub, "select count() AS numberOfDevices from devices", None, None).await;
    assert_eq!(answer.header("x-ms-item-type"), "Raw");
    assert_eq!(answer.json(), json!([{"numberOfDevices": 11}]));
    let by_status = "SELECT status, COUNT() AS n, MIN(deviceId) AS least FROM devices GROUP BY status";
    let expected = [
        json!({"status": "disabled", "n": 5, "least": "d-1"}),
        json!({"status": "enabled", "n": 6, "least": "d-0"}),
    ];
    assert_eq!(query(&hub, by_status).await, json!(expected));
    let (results, pages) = all(&hub, by_status, 1).await;
    assert_eq!((results, pages), (expected.to_vec(), 2));
    let (by_id, pages) = all(&hub, "SELECT deviceId, COUNT() AS n FROM devices GROUP BY deviceId", 4).await;
    assert_eq!((by_id.len(), pages), (11, 3));
    let mixed = "SELECT connectionState, tags.x AS x, COUNT() AS n FROM devices GROUP BY connectionState, tags.x";
    assert_eq!(
        query(&hub, mixed).await,
        json!([{"connectionState": "Disconnected", "n": 11}])
    );
}

#[tokio::test]
async fn what_is_no_query_is_refused_with_its_place() {
    let hub = fleet().await;
    let long = format!("SELECT * FROM devices WHERE tags.a = '{}'", "x".repeat(100_000));
    let deep = format!(
        "SELECT * FROM devices WHERE {}tags.a{}",
        "(".repeat(1000),
        ")".repeat(1000)
    );
    for (text, expected) in [
        ("", "line 1, column 1"),
        ("SELECT * FROM devices WHERE", "line 1, column 28"),
        (
            "SELECT *\nFROM devices\nWHERE FROBNICATE(tags.a)",
            "line 3, column 7: there is no function",
        ),
        (
            "SELECT * FROM devices ORDER BY deviceId",
            "ORDER is not part of the query language",
        ),
        ("SELECT * FROM devices.jobs", "no jobs"),
        ("SELECT * FROM users", "there is no collection"),
        (long.as_str(), "more than 8192 characters"),
        (deep.as_str(), "more than 64 levels"),
    ] {
        let answer = page(&hub, text, None, None).await;
        answer.refused(400_004, "ArgumentInvalid");
        let message = answer.json()["Message"].as_str().unwrap().to_owned();
        assert!(message.contains(expected), "{message}");
    }
    for body in [json!({}), json!({"query": 5}), json!([]), json!({"query": null})] {
        let answer = hub.by("service", "POST", "/devices/query").body(body).send().await;
        answer.is(400);
    }
}

#[tokio::test]
async fn headers_are_checked() {
    let hub = fleet().await;
    let text = "SELECT * FROM devices";
    for (size, expected) in [("0", 1), ("-7", 1), ("2", 2), ("99999999999999999999", 11), ("", 11)] {
        let answer = page(&hub, text, Some(size), None).await;
        assert_eq!(answer.json().as_array().unwrap().len(), expected, "{size}");
    }
    page(&hub, text, Some("ten"), None)
        .await
        .refused(400_004, "ArgumentInvalid");
    page(&hub, text, None, Some("")).await.is(200);
    let token = page(&hub, text, Some("2"), None).await.header(TOKEN);
    for bad in ["x", "AAAA", &token[1..], &format!("{token}AA")] {
        page(&hub, text, None, Some(bad))
            .await
            .refused(400_004, "ArgumentInvalid");
    }
    let other = "SELECT deviceId FROM devices";
    page(&hub, other, None, Some(&token))
        .await
        .refused(400_004, "ArgumentInvalid");
    page(&hub, "select  *  from Devices", None, Some(&token)).await.is(200);
}

#[tokio::test]
async fn the_right_is_service_connect() {
    let hub = fleet().await;
    let body = json!({"query": "SELECT * FROM devices"});
    for policy in ["registryRead", "registryReadWrite", "device"] {
        let answer = hub.by(policy, "POST", "/devices/query").body(body.clone()).send().await;
        answer.is(401);
    }
    hub.owner("POST", "/devices/query").body(body).send().await.is(200);
}

#[tokio::test]
async fn a_query_is_explained() {
    let hub = fleet().await;
    let explain = |text: &str| {
        hub.by("service", "POST", "/holdfast/v1/queries/explain")
            .body(json!({"query": text}))
    };
    let scan = explain("SELECT * FROM devices WHERE tags.a = 1 AND connectionState = 'Connected'")
        .send()
        .await;
    scan.is(200);
    let scan = scan.json();
    assert_eq!(scan["access"], "scan");
    assert_eq!(scan["visitedAtMost"], 11);
    assert_eq!(scan["conditionReads"], json!(["identity", "connection", "twin"]));
    let ids = explain("SELECT * FROM devices WHERE deviceId IN ['a', 'd-1']")
        .send()
        .await
        .json();
    assert_eq!(
        (ids["access"].as_str(), ids["visitedAtMost"].as_u64()),
        (Some("deviceId"), Some(2))
    );
    explain("SELECT").send().await.refused(400_004, "ArgumentInvalid");
}

#[tokio::test]
async fn an_index_is_used_and_explained() {
    let hub = fleet_with(DeviceHubConfig {
        twins: TwinsConfig {
            indexes: vec!["tags.site".to_owned()],
            ..TwinsConfig::default()
        },
        ..DeviceHubConfig::default()
    })
    .await;
    let explain = |text: &str| {
        hub.by("service", "POST", "/holdfast/v1/queries/explain")
            .body(json!({"query": text}))
            .send()
    };
    for number in 0..10 {
        let site = if number % 3 == 0 { "A" } else { "B" };
        let path = format!("/twins/d-{number}");
        let tags = json!({"tags": {"site": site}});
        hub.by("service", "PATCH", &path).body(tags).send().await.is(200);
    }
    let text = "SELECT deviceId FROM devices WHERE tags.site = 'A' AND deviceId != 'd-0'";
    let is_used = async {
        while explain(text).await.json()["access"] == "scan" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), is_used).await.unwrap();
    let plan = explain(text).await.json();
    assert_eq!(
        (plan["access"].as_str(), plan["indexHits"].as_u64()),
        (Some("index tags.site"), Some(4)),
        "{plan}"
    );
    let expected = json!([{"deviceId": "d-3"}, {"deviceId": "d-6"}, {"deviceId": "d-9"}]);
    assert_eq!(query(&hub, text).await, expected);
    let (results, pages) = all(&hub, text, 2).await;
    assert_eq!((json!(results), pages), (expected, 2));
    let by_id = explain("SELECT * FROM devices WHERE tags.site = 'A' AND deviceId = 'd-0'")
        .await
        .json();
    assert_eq!(by_id["access"], "deviceId");
    let scan = explain("SELECT * FROM devices WHERE tags.site != 'A'").await.json();
    assert_eq!((&scan["access"], &scan["indexHits"]), (&json!("scan"), &Value::Null));
}
