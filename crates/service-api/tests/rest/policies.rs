//! Shared access policies: in the shape of Azure's management calls, under our own path.

use holdfast_auth::{Key, sign};
use serde_json::{Value, json};

use crate::support::Hub;
use crate::support::{HOST, now};

const POLICIES: &str = "/holdfast/v1/policies";

/// A token of the policy in a document.
fn token(document: &Value, key: &str) -> String {
    let key = Key::from_base64(document[key].as_str().unwrap()).unwrap();
    let expiry = now().seconds() + 600;
    sign(HOST, key.as_bytes(), document["keyName"].as_str(), expiry)
}

impl Hub {
    /// The number of the answer to a read of the service statistics, which takes ServiceConnect.
    async fn reads_with(&self, token: &str) -> u64 {
        let answer = self.request("GET", "/statistics/service").authorization(Some(token));
        answer.send().await.json()["errorCode"].as_u64().unwrap_or(0)
    }
}

#[tokio::test]
async fn a_policy_lives_from_create_to_delete_and_its_tokens_with_it() {
    let hub = Hub::start().await;
    let path = format!("{POLICIES}/Readers");
    let rights = |rights: &str| json!({"rights": rights});
    let created = hub.owner("PUT", &path).body(rights("ServiceConnect")).send().await;
    created.is(201);
    let first = created.json();
    assert_eq!(first["keyName"], "Readers");
    assert_eq!(first["rights"], "ServiceConnect");
    assert_eq!(first.as_object().unwrap().len(), 4, "{first}");
    let again = hub.owner("PUT", &path).body(rights("RegistryRead"));
    again
        .header("if-none-match", "*")
        .send()
        .await
        .refused(409_000, "GenericConflict");
    assert_eq!(hub.reads_with(&token(&first, "primaryKey")).await, 0);
    assert_eq!(hub.reads_with(&token(&first, "secondaryKey")).await, 0);

    // In any case of the name, which stays as it was written first.
    let below = |what: &str| format!("{POLICIES}/readers{what}");
    let renewed = hub.owner("POST", &below("/regenerateKey"));
    let renewed = renewed.body(json!({"keyType": "primary"})).send().await;
    renewed.is(200);
    let renewed = renewed.json();
    assert_eq!(renewed["keyName"], "Readers");
    assert_eq!(renewed["secondaryKey"], first["secondaryKey"]);
    assert_eq!(hub.reads_with(&token(&first, "primaryKey")).await, 401_002);
    assert_eq!(hub.reads_with(&token(&first, "secondaryKey")).await, 0);
    let swapped = hub.owner("POST", &below("/swapKeys")).send().await.json();
    assert_eq!(swapped["primaryKey"], renewed["secondaryKey"]);
    assert_eq!(swapped["secondaryKey"], renewed["primaryKey"]);
    assert_eq!(hub.reads_with(&token(&first, "secondaryKey")).await, 0);

    // A change of rights keeps the keys; a right that was taken away is missed at once.
    let changed = hub.owner("PUT", &path).header("if-match", "*");
    let changed = changed.body(rights("registrywrite, DeviceConnect")).send().await;
    changed.is(200);
    let changed = changed.json();
    assert_eq!(changed["rights"], "RegistryRead, RegistryWrite, DeviceConnect");
    assert_eq!(changed["primaryKey"], swapped["primaryKey"]);
    assert_eq!(hub.reads_with(&token(&changed, "primaryKey")).await, 401_002);
    // A document goes back as it came, and keys may be given.
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let mut document = changed.clone();
    document["primaryKey"] = key.into();
    let given = hub.owner("PUT", &path).body(document.clone()).send().await;
    assert_eq!(given.json(), document);

    hub.owner("DELETE", &path).send().await.is(204);
    assert_eq!(hub.reads_with(&token(&document, "primaryKey")).await, 401_002);
    for (method, what) in [("GET", ""), ("DELETE", ""), ("POST", "/swapKeys")] {
        let missing = hub.owner(method, &below(what)).send().await;
        missing.refused(404_000, "GenericNotFound");
    }
    let absent = hub.owner("PUT", &path).header("if-match", "*");
    let absent = absent.body(rights("ServiceConnect")).send().await;
    absent.refused(404_000, "GenericNotFound");

    let audited: Vec<(String, Option<u32>)> = hub
        .changes()
        .into_iter()
        .map(|(operation, subject, code)| {
            assert!(subject.eq_ignore_ascii_case("readers"));
            (operation, code)
        })
        .collect();
    let expected = [
        ("putPolicy", None),
        ("putPolicy", Some(409_000)),
        ("regeneratePolicyKey", None),
        ("swapPolicyKeys", None),
        ("putPolicy", None),
        ("putPolicy", None),
        ("deletePolicy", None),
        ("deletePolicy", Some(404_000)),
        ("swapPolicyKeys", Some(404_000)),
        ("putPolicy", Some(404_000)),
    ];
    assert_eq!(audited, expected.map(|(operation, code)| (operation.to_owned(), code)));
}

#[tokio::test]
async fn keys_are_shown_to_callers_with_all_rights_only() {
    let hub = Hub::start().await;
    let list = hub.owner("GET", POLICIES).send().await.json();
    let names: Vec<&str> = list["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|policy| policy["keyName"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["device", "iothubowner", "registryRead", "registryReadWrite", "service"]
    );
    assert!(list["value"][0]["primaryKey"].as_str().unwrap().len() == 44);
    for policy in ["registryRead", "registryReadWrite"] {
        // Not even its own.
        for path in [POLICIES.to_owned(), format!("{POLICIES}/{policy}")] {
            let shown = hub.by(policy, "GET", &path).send().await;
            shown.is(200);
            assert!(!shown.text().contains("Key\":\""), "{}", shown.text());
            assert!(shown.text().contains("\"secondaryKey\":null"), "{}", shown.text());
        }
        for (method, below) in [
            ("PUT", ""),
            ("DELETE", ""),
            ("POST", "/regenerateKey"),
            ("POST", "/swapKeys"),
        ] {
            let path = format!("{POLICIES}/{policy}{below}");
            let refused = hub.by(policy, method, &path).body(json!({})).send().await;
            refused.refused(401_002, "IotHubUnauthorizedAccess");
        }
    }
    for policy in ["service", "device"] {
        let refused = hub.by(policy, "GET", POLICIES).send().await;
        refused.refused(401_002, "IotHubUnauthorizedAccess");
    }
}

#[tokio::test]
async fn default_policies_may_go_but_the_last_way_in_stays() {
    let hub = Hub::start().await;
    for name in ["device", "registryRead", "registryReadWrite", "service"] {
        hub.owner("DELETE", &format!("{POLICIES}/{name}")).send().await.is(204);
    }
    let owner = format!("{POLICIES}/iothubowner");
    let last = hub.owner("DELETE", &owner).send().await;
    last.refused(400_003, "InvalidOperation");
    assert!(
        last.text().contains("no other policy has all rights"),
        "{}",
        last.text()
    );
    let less = hub
        .owner("PUT", &owner)
        .body(json!({"rights": "ServiceConnect"}))
        .send();
    less.await.refused(400_003, "InvalidOperation");
    let all = json!({"rights": "RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect"});
    let second = hub
        .owner("PUT", &format!("{POLICIES}/second"))
        .body(all)
        .send()
        .await
        .json();
    // Its caller's own policy, too.
    hub.owner("DELETE", &owner).send().await.is(204);
    let left = hub.request("GET", POLICIES);
    let left = left.authorization(Some(&token(&second, "primaryKey"))).send().await;
    assert_eq!(left.json()["value"], json!([second]));
}

#[tokio::test]
async fn what_cannot_be_a_policy_is_refused_with_the_rule() {
    let hub = Hub::start().await;
    let service = json!({"rights": "ServiceConnect"});
    let table: [(&str, Value, u32, &str); 10] = [
        ("a%20b", service.clone(), 400_004, "letters, digits"),
        ("x", json!({}), 400_005, "needs rights"),
        ("x", json!({"rights": ""}), 400_004, "at least one right"),
        ("x", json!({"rights": "Fly"}), 400_004, "not a right"),
        ("x", json!({"rights": 4}), 400_006, "text"),
        ("x", json!({"rights": "ServiceConnect", "x": 1}), 400_004, "unknown"),
        (
            "x",
            json!({"rights": "ServiceConnect", "keyName": "y"}),
            400_004,
            "differs",
        ),
        (
            "x",
            json!({"rights": "ServiceConnect", "primaryKey": "?"}),
            400_004,
            "base64",
        ),
        (
            "x",
            json!({"rights": "ServiceConnect", "secondaryKey": "AAAA"}),
            400_004,
            "bytes",
        ),
        ("x", json!([]), 400_006, "object"),
    ];
    for (name, body, code, part) in table {
        let refused = hub
            .owner("PUT", &format!("{POLICIES}/{name}"))
            .body(body.clone())
            .send()
            .await;
        assert_eq!(refused.json()["errorCode"], code, "{body}: {}", refused.text());
        assert!(refused.text().contains(part), "{body}: {}", refused.text());
    }
    for body in [
        json!({}),
        json!({"keyType": "both"}),
        json!({"keyType": "primary", "x": 1}),
    ] {
        let path = format!("{POLICIES}/service/regenerateKey");
        let refused = hub.owner("POST", &path).body(body).send().await;
        refused.refused(400_004, "ArgumentInvalid");
    }
    let tagged = hub.owner("PUT", &format!("{POLICIES}/service")).if_match("\"x\"");
    tagged
        .body(service.clone())
        .send()
        .await
        .refused(400_004, "ArgumentInvalid");
    // Ten with ServiceConnect: two are there.
    for number in 2..10 {
        let created = hub.owner("PUT", &format!("{POLICIES}/p{number}"));
        created.body(service.clone()).send().await.is(201);
    }
    let full = hub
        .owner("PUT", &format!("{POLICIES}/one-more"))
        .body(service)
        .send()
        .await;
    full.refused(400_003, "InvalidOperation");
    assert!(full.text().contains("16 policies, 10 of them"), "{}", full.text());
}
