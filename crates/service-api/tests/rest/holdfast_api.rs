//! Calls that are not implemented, our own API, and the audit log.

use std::rc::Rc;

use holdfast_device_hub::{
    CloseReason, ConnectAttempt, ConnectRequest, Core, Credential, Protocol, SessionTarget, StoredSession,
};
use serde_json::json;

use crate::support::Hub;

#[tokio::test]
async fn calls_that_are_not_implemented_name_the_missing_feature() {
    let hub = Hub::start().await;
    let table = [
        ("PUT", "/jobs/v2/j", "scheduled jobs"),
        ("POST", "/jobs/create", "import and export jobs"),
        ("GET", "/configurations", "configurations"),
        ("POST", "/devices/d/applyConfigurationContent", "configurations"),
        ("GET", "/digitaltwins/d", "digital twins"),
        ("GET", "/messages/serviceBound/feedback", "feedback over HTTPS"),
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
    // A token signed with the key of the device is accepted too.
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
async fn the_holdfast_api_shows_the_hub_its_consumer_groups_and_why_a_device_cannot_connect() {
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
    assert_eq!(diagnosis["notAsked"], json!([]));
    let conclusion = diagnosis["conclusion"].as_str().unwrap();
    assert_eq!(conclusion, "none is not registered. No attempt with this id is known.");
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
    let written: Vec<_> = hub.changes();
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
async fn a_trace_is_begun_once_is_bounded_and_is_audited() {
    let hub = Hub::start().await;
    let trace = |body: serde_json::Value| hub.owner("POST", "/holdfast/v1/trace/d").body(body);
    let begun = trace(json!({"seconds": 60})).send().await;
    begun.is(200);
    let begun = begun.json();
    assert_eq!(
        (&begun["events"], &begun["dropped"], &begun["notAsked"]),
        (&json!([]), &json!(0), &json!([]))
    );
    let text = || "PINGREQ".to_owned();
    let kind = holdfast_device_hub::TraceKind::Received;
    hub.node.hub.trace("d", kind, &text, Some(b"a payload"));
    hub.node.hub.trace("other", kind, &text, None);
    let next = trace(json!({"seconds": 59, "trace": begun["trace"]}))
        .send()
        .await
        .json();
    assert_eq!(next["events"].as_array().unwrap().len(), 1, "{next}");
    assert_eq!(next["events"][0]["event"], "PINGREQ");
    assert_eq!(next["events"][0]["node"], "node-1");
    assert_eq!(next["events"][0]["payload"], json!(null), "not asked for");
    let last = trace(json!({"seconds": 0, "trace": begun["trace"]})).send().await;
    last.is(200);
    for (body, text) in [
        (json!({}), "seconds must be 0 to 3600"),
        (json!({"seconds": 3601}), "seconds must be 0 to 3600"),
        (json!({"seconds": 1, "trace": "x"}), "trace must be the number"),
        (json!({"seconds": 1, "x": 1}), "field 'x' is unknown"),
    ] {
        let refused = trace(body).send().await;
        refused.refused(400_004, "ArgumentInvalid");
        assert!(refused.text().contains(text), "{}", refused.text());
    }
    let audited: Vec<_> = hub.changes();
    assert_eq!(audited[0], ("trace".to_owned(), "d".to_owned(), None));
}

/// A front end that ignores closes.
struct FrontEnd;

impl SessionTarget for FrontEnd {
    fn close(&self, _: CloseReason) {}
}

#[tokio::test]
async fn a_connected_device_is_counted_and_shown_as_connected() {
    let connected = async {
        let hub = Hub::start().await;
        let created = hub.owner("PUT", "/devices/d").body(json!({"deviceId": "d"}));
        let created = created.send().await.json();
        let key = created["authentication"]["symmetricKey"]["primaryKey"]
            .as_str()
            .unwrap();
        let token = hub.device_token("d", key);
        let core = Core::new(hub.node.hub.clone(), 0);
        holdfast_tasks::spawn_local("core", Box::pin(core.clone().run(hub.node.stop.clone())));
        let connect = ConnectRequest {
            device: "d",
            module: None,
            host: "hub1.example.com",
            credential: Credential::SasToken(&token),
            model_id: None,
            stored_session: StoredSession::Unused,
            protocol: Protocol::Mqtt,
            address: ([127, 0, 0, 1], 1).into(),
            tls: None,
            handshake: None,
            trace: None,
        };
        let target: Rc<dyn SessionTarget> = Rc::new(FrontEnd);
        let session = match core.connect(&connect, &target) {
            ConnectAttempt::Done(result) => result,
            ConnectAttempt::Pending(pending) => pending.await,
        };
        let session = session.unwrap();
        let shown = hub.owner("GET", "/devices/d").send().await.json();
        assert_eq!(shown["connectionState"], "Connected");
        assert_ne!(shown["connectionStateUpdatedTime"], "0001-01-01T00:00:00Z");
        assert_ne!(shown["lastActivityTime"], "0001-01-01T00:00:00Z");
        let listed = hub.owner("GET", "/devices").send().await.json();
        assert_eq!(listed[0]["connectionState"], "Connected");
        let count = hub.owner("GET", "/statistics/service").send().await.json();
        assert_eq!(count, json!({"connectedDeviceCount": 1}));
        let diagnosis = hub.owner("GET", "/holdfast/v1/diagnose/d").send().await.json();
        assert_eq!(diagnosis["connectionState"], "Connected");
        assert_eq!(diagnosis["session"]["protocol"], "mqtt");
        assert_eq!(
            diagnosis["session"]["receives"],
            serde_json::json!({"methods": false, "messages": false, "desiredProperties": false})
        );
        drop(session);
    };
    tokio::task::LocalSet::new().run_until(Box::pin(connected)).await;
}

#[tokio::test]
async fn the_cluster_is_shown_and_join_tokens_are_made_listed_and_revoked() {
    let hub = Hub::start().await;
    let status = hub.owner("GET", "/holdfast/v1/cluster").send().await;
    status.is(200);
    assert_eq!(status.json()["nodes"][0]["name"], "node-1");
    let made = hub
        .owner("POST", "/holdfast/v1/nodes/tokens")
        .body(json!({"validSeconds": 60, "role": "gateway"}))
        .send()
        .await;
    made.is(201);
    let made = made.json();
    assert_eq!(made["token"].as_str().unwrap().len(), 64);
    let list = hub.owner("GET", "/holdfast/v1/nodes/tokens").send().await;
    assert!(!list.text().contains(made["token"].as_str().unwrap()));
    let list = list.json();
    let facts = (&list[0]["id"], &list[0]["state"], &list[0]["role"]);
    assert_eq!(facts, (&made["id"], &json!("waiting"), &json!("gateway")));
    let id = made["id"].as_str().unwrap();
    let revoked = hub.owner("DELETE", &format!("/holdfast/v1/nodes/tokens/{id}"));
    revoked.send().await.is(200);
    let list = hub.owner("GET", "/holdfast/v1/nodes/tokens").send().await.json();
    assert_eq!(list[0]["state"], "revoked");
    for (body, text) in [
        (json!({"validSeconds": 0}), "validSeconds must be 1 to 604800"),
        (json!({"role": "boss"}), "role must be core or gateway"),
        (json!({"x": 1}), "field 'x' is unknown"),
    ] {
        let refused = hub.owner("POST", "/holdfast/v1/nodes/tokens").body(body).send().await;
        refused.refused(400_004, "ArgumentInvalid");
        assert!(refused.text().contains(text), "{}", refused.text());
    }
    let drained = hub.owner("POST", "/holdfast/v1/nodes/none/drain").send().await;
    drained.refused(404_000, "GenericNotFound");
    let expected = [
        ("createJoinToken".to_owned(), id.to_owned(), None),
        ("revokeJoinToken".to_owned(), id.to_owned(), None),
        ("drainNode".to_owned(), "none".to_owned(), Some(404_000)),
    ];
    assert_eq!(hub.changes(), expected);
}
