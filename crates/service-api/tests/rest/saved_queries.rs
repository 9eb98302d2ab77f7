//! Saved queries: conditions, pages of the list, running, refusals, rights, audit.

use serde_json::{Value, json};

use crate::support::{Answer, Hub};

const SAVED: &str = "/holdfast/v1/queries/saved";
const TOKEN: &str = "x-ms-continuation";

fn at(name: &str) -> String {
    format!("{SAVED}/{name}")
}

async fn put(hub: &Hub, name: &str, query: &str) -> Answer {
    let call = hub.owner("PUT", &at(name)).body(json!({"query": query}));
    call.send().await
}

/// Five devices, the odd ones disabled, on a hub whose partitions run.
async fn fleet() -> Hub {
    let hub = Hub::start().await;
    for id in hub.node.partitions.count().iter() {
        let replica = hub.node.partition(id).await;
        hub.node.partitions.host(replica);
    }
    for number in 0..5 {
        let status = if number % 2 == 1 { "disabled" } else { "enabled" };
        let id = format!("d-{number}");
        let device = json!({"deviceId": id, "status": status});
        hub.owner("PUT", &format!("/devices/{id}"))
            .body(device)
            .send()
            .await
            .is(200);
    }
    hub
}

#[tokio::test]
async fn a_saved_query_is_created_changed_under_conditions_and_deleted() {
    let hub = Hub::start().await;
    let query = "SELECT * FROM devices WHERE tags.site = 'A'";
    let body = json!({"query": query, "description": "site A"});
    let created = hub.owner("PUT", &at("Site-A")).body(body).send().await;
    created.is(201);
    let document = created.json();
    assert_eq!(
        (&document["name"], &document["query"], &document["description"]),
        (&json!("Site-A"), &json!(query), &json!("site A"))
    );
    assert_eq!(document["createdTime"], document["updatedTime"]);
    let etag = document["etag"].as_str().unwrap().to_owned();
    assert_eq!(created.header("etag"), format!("\"{etag}\""));
    // Names are found in any case, and a document can be sent back.
    let shown = hub.by("service", "GET", &at("site-a")).send().await;
    shown.is(200);
    assert_eq!(shown.json(), document);
    let body = document.clone();
    let again = hub.owner("PUT", &at("Site-A")).if_match(&etag).body(body).send().await;
    again.is(200);
    let newer = again.json();
    assert_ne!(newer["etag"], document["etag"]);
    assert_eq!(newer["createdTime"], document["createdTime"]);
    let body = json!({"query": query});
    for (header, value, number, name) in [
        ("if-match", etag.as_str(), 412_001, "PreconditionFailed"),
        ("if-none-match", "*", 409_000, "GenericConflict"),
        ("if-none-match", "\"x\"", 400_004, "ArgumentInvalid"),
    ] {
        let call = hub.owner("PUT", &at("Site-A")).header(header, value).body(body.clone());
        call.send().await.refused(number, name);
    }
    let both = hub
        .owner("PUT", &at("Site-A"))
        .if_match("*")
        .header("if-none-match", "*");
    both.body(body.clone()).send().await.refused(400_004, "ArgumentInvalid");
    let absent = hub.owner("PUT", &at("other")).if_match("*").body(body.clone());
    absent.send().await.refused(412_001, "PreconditionFailed");
    let create = hub.owner("PUT", &at("other")).header("if-none-match", "*").body(body);
    create.send().await.is(201);
    let stale = hub.owner("DELETE", &at("Site-A")).if_match(&etag).send().await;
    stale.refused(412_001, "PreconditionFailed");
    hub.owner("DELETE", &at("SITE-A")).send().await.is(204);
    hub.owner("DELETE", &at("Site-A"))
        .send()
        .await
        .refused(404_000, "GenericNotFound");
    hub.owner("GET", &at("Site-A"))
        .send()
        .await
        .refused(404_000, "GenericNotFound");
    let changes = hub.changes();
    let of = |operation: &str| changes.iter().filter(|change| change.0 == operation).count();
    assert_eq!((of("putSavedQuery"), of("deleteSavedQuery")), (6, 3));
    assert!(changes.contains(&("putSavedQuery".to_owned(), "Site-A".to_owned(), Some(412_001))));
}

#[tokio::test]
async fn the_list_has_pages() {
    let hub = Hub::start().await;
    for name in ["b", "C", "a", "d"] {
        put(&hub, name, "SELECT * FROM devices").await.is(201);
    }
    let list = async |more: &str| {
        let call = hub.by("service", "GET", SAVED);
        let answer = if more.is_empty() { call } else { call.query(more) }.send().await;
        answer.is(200);
        let page = answer.json();
        let names = page["queries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|query| query["name"].clone());
        (names.collect::<Vec<Value>>(), page["continuation"].clone())
    };
    assert_eq!(
        list("").await,
        (vec![json!("a"), json!("b"), json!("C"), json!("d")], Value::Null)
    );
    assert_eq!(
        list("top=3").await,
        (vec![json!("a"), json!("b"), json!("C")], json!("C"))
    );
    assert_eq!(list("top=3&after=C").await, (vec![json!("d")], Value::Null));
    assert_eq!(list("after=zzz").await, (vec![], Value::Null));
    hub.by("service", "GET", SAVED)
        .query("top=x")
        .send()
        .await
        .refused(400_004, "ArgumentInvalid");
}

#[tokio::test]
async fn it_runs_as_the_query_does_with_the_same_pages() {
    let hub = fleet().await;
    put(&hub, "enabled", "SELECT deviceId FROM devices WHERE status = 'enabled'")
        .await
        .is(201);
    put(&hub, "whole", "SELECT TOP 2 * FROM devices").await.is(201);
    let path = format!("{}/devices", at("enabled"));
    let all = hub.by("service", "GET", &path).send().await;
    all.is(200);
    assert_eq!(
        all.json(),
        json!([{"deviceId": "d-0"}, {"deviceId": "d-2"}, {"deviceId": "d-4"}])
    );
    assert_eq!(all.header("x-ms-item-type"), "Raw");
    assert!(all.response_header(TOKEN).is_none());
    let first = hub
        .by("service", "POST", &path)
        .header("x-ms-max-item-count", "2")
        .send()
        .await;
    assert_eq!(first.json(), json!([{"deviceId": "d-0"}, {"deviceId": "d-2"}]));
    let token = first.header(TOKEN);
    let second = hub.by("service", "POST", &path).header(TOKEN, &token).send().await;
    assert_eq!(second.json(), json!([{"deviceId": "d-4"}]));
    let whole = hub
        .by("service", "GET", &format!("{}/devices", at("whole")))
        .send()
        .await;
    assert_eq!(whole.header("x-ms-item-type"), "Twin");
    assert_eq!(whole.json().as_array().unwrap().len(), 2);
    // A token belongs to a text: the query may have changed meanwhile.
    put(&hub, "enabled", "SELECT deviceId FROM devices").await.is(200);
    let stale = hub.by("service", "POST", &path).header(TOKEN, &token).send().await;
    stale.refused(400_004, "ArgumentInvalid");
    let unknown = hub
        .by("service", "GET", &format!("{}/devices", at("none")))
        .send()
        .await;
    unknown.refused(404_000, "GenericNotFound");
}

#[tokio::test]
async fn what_is_no_query_or_no_name_is_refused_and_nothing_is_stored() {
    let hub = Hub::start().await;
    let bad = put(&hub, "q", "SELECT * FROM devices WHERE IS_DEFIND(tags.a)").await;
    bad.refused(400_004, "ArgumentInvalid");
    assert!(bad.text().contains("line 1, column 29"), "{}", bad.text());
    let long = format!("SELECT * FROM devices WHERE deviceId = '{}'", "x".repeat(100_000));
    put(&hub, "q", &long).await.refused(400_004, "ArgumentInvalid");
    // In its canonical form each name has brackets.
    let names: Vec<String> = (0..900).map(|number| format!("t{number}")).collect();
    let wide = format!("SELECT {} FROM devices", names.join(","));
    put(&hub, "wide", &wide).await.is(201);
    let spread = format!("SELECT * FROM devices WHERE {} = 1", names.join("="));
    put(&hub, "q", &spread).await.refused(400_004, "ArgumentInvalid");
    for name in ["%00", "a%0Ab", "-a", "%22", "%C3%BC", &"x".repeat(51), "a%20b", "%7B"] {
        put(&hub, name, "SELECT * FROM devices")
            .await
            .refused(400_004, "ArgumentInvalid");
    }
    for (body, number, name) in [
        (json!({}), 400_004, "ArgumentInvalid"),
        (json!({"query": null}), 400_004, "ArgumentInvalid"),
        (json!({"query": 5}), 400_006, "IotHubFormatError"),
        (json!([1]), 400_006, "IotHubFormatError"),
        (
            json!({"query": "SELECT * FROM devices", "owner": "x"}),
            400_004,
            "ArgumentInvalid",
        ),
        (
            json!({"query": "SELECT * FROM devices", "name": "r"}),
            400_004,
            "ArgumentInvalid",
        ),
        (
            json!({"query": "SELECT * FROM devices", "description": 1}),
            400_006,
            "IotHubFormatError",
        ),
        (
            json!({"query": "SELECT * FROM devices", "description": "x".repeat(513)}),
            400_004,
            "ArgumentInvalid",
        ),
    ] {
        let answer = hub.owner("PUT", &at("q")).body(body).send().await;
        answer.refused(number, name);
    }
    let stored = hub.owner("GET", SAVED).send().await.json();
    assert_eq!(stored["queries"].as_array().unwrap().len(), 1, "{stored}");
    for (method, path) in [("POST", at("q")), ("PATCH", at("q")), ("PUT", SAVED.to_owned())] {
        hub.owner(method, &path).send().await.is(405);
    }
}

#[tokio::test]
async fn who_may_query_may_read_and_run_but_not_change_them() {
    let hub = fleet().await;
    put(&hub, "q", "SELECT deviceId FROM devices").await.is(201);
    for (method, path, status) in [
        ("GET", SAVED.to_owned(), 200),
        ("GET", at("q"), 200),
        ("GET", format!("{}/devices", at("q")), 200),
        ("POST", format!("{}/devices", at("q")), 200),
        ("PUT", at("q"), 401),
        ("DELETE", at("q"), 401),
    ] {
        let body = json!({"query": "SELECT * FROM devices"});
        hub.by("service", method, &path)
            .body(body.clone())
            .send()
            .await
            .is(status);
        let registry = hub.by("registryReadWrite", method, &path).body(body).send().await;
        registry.refused(401_002, "IotHubUnauthorizedAccess");
    }
}
