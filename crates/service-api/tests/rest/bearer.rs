//! Bearer tokens: which role opens which call, refusals, and a hub without policies.

use std::rc::Rc;

use holdfast_device_hub::{
    CloseReason, ConnectAttempt, ConnectRequest, Core, Credential, DeviceHubConfig, Protocol, SessionTarget,
    StoredSession,
};
use holdfast_model::RefusalReason;
use holdfast_testkit::issuer::SigningKey;
use serde_json::json;

use crate::support::issuer::{KEY, bearer, claims, issuer};
use crate::support::{HOST, Hub};

async fn hub(shared_policies: bool) -> Hub {
    let config = DeviceHubConfig {
        shared_policies,
        ..DeviceHubConfig::default()
    };
    Hub::start_with_issuer(config, Some(issuer())).await
}

const ROLES: [&str; 4] = [
    "Data Contributor",
    "Data Reader",
    "Registry Contributor",
    "Twin Contributor",
];

#[tokio::test]
async fn each_role_opens_the_calls_of_its_actions() {
    let hub = hub(true).await;
    // C, R, D and T: the roles that open the call.
    let table = [
        ("GET", "/devices/d", "CRD-"),
        ("GET", "/devices", "CRD-"),
        ("GET", "/devices/d/modules", "CRD-"),
        ("GET", "/devices/d/modules/m", "CRD-"),
        ("GET", "/holdfast/v1/devices", "CRD-"),
        ("PUT", "/devices/d", "C-D-"),
        ("PUT", "/devices/d/modules/m", "C-D-"),
        ("DELETE", "/devices/d", "C-D-"),
        ("POST", "/devices", "C-D-"),
        ("POST", "/devices/keys/regenerate", "C-D-"),
        ("GET", "/statistics/devices", "CR--"),
        ("GET", "/statistics/service", "CR--"),
        ("GET", "/twins/d", "CR-T"),
        ("GET", "/twins/d/modules/m", "CR-T"),
        ("PATCH", "/twins/d", "C--T"),
        ("PUT", "/twins/d", "C--T"),
        ("POST", "/devices/query", "CR-T"),
        ("POST", "/holdfast/v1/queries/explain", "CR-T"),
        ("GET", "/holdfast/v1/queries/saved", "CR-T"),
        ("GET", "/holdfast/v1/queries/saved/q", "CR-T"),
        ("GET", "/holdfast/v1/queries/saved/q/devices", "CR-T"),
        ("PUT", "/holdfast/v1/queries/saved/q", "C---"),
        ("DELETE", "/holdfast/v1/queries/saved/q", "C---"),
        ("GET", "/holdfast/v1/twins/d/history", "CR-T"),
        ("POST", "/twins/d/methods", "C---"),
        ("DELETE", "/devices/d/commands", "C---"),
        ("GET", "/holdfast/v1/devices/d/c2d", "CR--"),
        ("POST", "/holdfast/v1/devices/d/c2d", "C---"),
        ("POST", "/holdfast/v1/devices/d/c2d/requeue", "C---"),
        ("GET", "/holdfast/v1/diagnose/d", "CR--"),
        ("GET", "/holdfast/v1/hub", "CR--"),
        ("GET", "/holdfast/v1/settings", "CR--"),
        ("PATCH", "/holdfast/v1/settings", "C---"),
        ("GET", "/holdfast/v1/policies", "CR--"),
        ("GET", "/holdfast/v1/policies/service", "CR--"),
        ("PUT", "/holdfast/v1/policies/p", "C---"),
        ("DELETE", "/holdfast/v1/policies/p", "C---"),
        ("POST", "/holdfast/v1/policies/p/regenerateKey", "C---"),
        ("POST", "/holdfast/v1/policies/p/swapKeys", "C---"),
        ("GET", "/holdfast/v1/certificates", "CR--"),
        ("PUT", "/holdfast/v1/certificates/c", "C---"),
        ("DELETE", "/holdfast/v1/certificates/c", "C---"),
        ("GET", "/holdfast/v1/certificates/c/crl", "CR--"),
        ("GET", "/holdfast/v1/revocations", "CR--"),
        ("POST", "/holdfast/v1/revocations", "C---"),
        ("GET", "/holdfast/v1/consumerGroups", "CR--"),
        ("PUT", "/holdfast/v1/consumerGroups/g", "C---"),
        ("GET", "/holdfast/v1/backup", "C---"),
        ("GET", "/holdfast/v1/backup/groups/0", "C---"),
        ("GET", "/holdfast/v1/cluster", "CR--"),
        ("PUT", "/holdfast/v1/cluster/replication", "C---"),
        ("POST", "/holdfast/v1/cluster/feature-level", "C---"),
        ("POST", "/holdfast/v1/nodes/tokens", "C---"),
        ("DELETE", "/holdfast/v1/nodes/n", "C---"),
        ("GET", "/configurations", "CR--"),
        ("PUT", "/configurations/c", "C---"),
        ("GET", "/jobs/v2/j", "CR--"),
        ("PUT", "/jobs/v2/j", "C---"),
        ("GET", "/messages/serviceBound/feedback", "C---"),
        ("GET", "/digitaltwins/d", "CR-T"),
        // Those of devices take no principal at all.
        ("POST", "/devices/d/messages/events", "----"),
        ("GET", "/devices/d/modules/m/anything", "----"),
        // A principal with a role learns that a path does not exist.
        ("GET", "/nothing", "CRDT"),
        ("PATCH", "/devices", "CRDT"),
    ];
    for (method, path, expected) in table {
        for (role, expected) in ROLES.into_iter().zip(expected.chars()) {
            let call = hub.request(method, path).authorization(Some(&bearer("alice", role)));
            let answer = call.body(json!({})).send().await;
            let is_denied = answer.json()["errorCode"] == 401_002;
            assert_eq!(is_denied, expected == '-', "{role} {method} {path}: {}", answer.text());
            if is_denied {
                let text =
                    format!("Principal alice is not authorized for {method} on {path} due to no assigned permissions");
                assert!(answer.text().contains(&text), "{}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_valid_bearer_token_is_refused_and_audited() {
    let hub = hub(true).await;
    let stranger = SigningKey::p256("k");
    let token = |claims: &serde_json::Value| format!("Bearer {}", KEY.token(claims));
    let mut other_issuer = claims("a", &[], 600);
    other_issuer["iss"] = "https://evil.example".into();
    let mut other_audience = claims("a", &[], 600);
    other_audience["aud"] = "https://management.azure.com".into();
    let mut early = claims("a", &[], 600);
    early["nbf"] = early["exp"].clone();
    let reader = ["IoT Hub Data Reader"];
    let table = [
        (
            token(&claims("a", &[], 600)),
            401_002,
            "no assigned permissions",
            "right",
        ),
        (
            token(&claims("a", &["iot hub data reader"], 600)),
            401_002,
            "no assigned permissions",
            "right",
        ),
        (
            format!("Bearer {}", stranger.token(&claims("a", &reader, 600))),
            401_002,
            "signature",
            "signature",
        ),
        (token(&other_issuer), 401_002, "auth.oidc.issuer", "issuer"),
        (token(&other_audience), 401_002, "auth.oidc.audiences", "audience"),
        (token(&early), 401_003, "is good from", "not_yet"),
        (token(&claims("a", &reader, -301)), 401_003, "expired at", "expired"),
        ("Bearer abc".to_owned(), 401_002, "cannot be read", "malformed"),
        (
            format!("Bearer {}", "a".repeat(1 << 20)),
            401_002,
            "too long",
            "malformed",
        ),
        (
            "Bearer eyJhbGciOiJub25lIn0.e30.".to_owned(),
            401_002,
            "three parts",
            "malformed",
        ),
    ];
    let mut reasons: Vec<String> = Vec::new();
    for (text, code, part, reason) in table {
        let answer = hub.request("GET", "/devices").authorization(Some(&text)).send().await;
        assert_eq!(answer.json()["errorCode"], code, "{}", answer.text());
        assert!(answer.text().contains(part), "{part}: {}", answer.text());
        reasons.push(reason.to_owned());
    }
    // Within the tolerance for clocks, and a token without the word in front of it.
    for text in [
        token(&claims("a", &reader, -299)),
        KEY.token(&claims("a", &reader, 600)),
        format!("bearer  {}", KEY.token(&claims("a", &reader, 600))),
    ] {
        hub.request("GET", "/devices")
            .authorization(Some(&text))
            .send()
            .await
            .is(200);
    }
    // Of a source and identity the audit log has five a minute, and then their number.
    let audited = hub.refusals();
    assert_eq!(audited[0].0, "bearer a");
    assert!(audited[2..].iter().all(|(principal, _)| principal == "bearer"));
    let audited: Vec<String> = audited.into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(audited, reasons[..7]);
}

#[tokio::test]
async fn without_an_issuer_no_bearer_token_opens_anything() {
    let hub = Hub::start().await;
    let refused = hub
        .request("GET", "/devices")
        .authorization(Some(&bearer("a", "Data Contributor")));
    let refused = refused.send().await;
    refused.refused(401_002, "IotHubUnauthorizedAccess");
    assert!(refused.text().contains("no issuer is configured"), "{}", refused.text());
}

#[tokio::test]
async fn the_keys_of_policies_are_for_contributors() {
    let hub = hub(true).await;
    for (role, shows) in [("Data Reader", false), ("Data Contributor", true)] {
        let call = hub.request("GET", "/holdfast/v1/policies/service");
        let shown = call.authorization(Some(&bearer("a", role))).send().await.json();
        assert_eq!(shown["keyName"], "service");
        assert_eq!(shown["primaryKey"].is_string(), shows, "{role}");
    }
}

#[tokio::test]
async fn with_policies_switched_off_bearer_tokens_and_keys_of_devices_remain() {
    let hub = hub(false).await;
    for (policy, path) in [("iothubowner", "/devices"), ("device", "/devices/d/messages/events")] {
        let refused = hub.by(policy, "GET", path).send().await;
        refused.refused(401_002, "IotHubUnauthorizedAccess");
        assert!(
            refused
                .text()
                .contains("switched off on this hub (auth.service.shared_policies)"),
            "{}",
            refused.text()
        );
        assert_eq!(hub.refusals().last().unwrap().1, "sas_disabled");
    }
    // A policy that does not exist is refused alike: the answer does not tell which there are.
    let unknown = hub.token("service", 600).replace("skn=service", "skn=nobody");
    let refused = hub
        .request("GET", "/devices")
        .authorization(Some(&unknown))
        .send()
        .await;
    assert!(refused.text().contains("switched off"), "{}", refused.text());
    let created = hub
        .request("PUT", "/devices/d")
        .authorization(Some(&bearer("a", "Registry Contributor")));
    let created = created.body(json!({"deviceId": "d"})).send().await;
    created.is(200);
    let key = created.json()["authentication"]["symmetricKey"]["primaryKey"]
        .as_str()
        .unwrap()
        .to_owned();
    let own = hub.request("POST", "/devices/d/messages/events");
    let own = own.authorization(Some(&hub.device_token("d", &key))).send().await;
    own.refused(404_013, "FeatureNotSupported");

    // Nor does a policy connect a device over MQTT: refused at once, whatever is registered.
    let token = hub.token("device", 600);
    let request = ConnectRequest {
        device: "d",
        module: None,
        host: HOST,
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
    let ConnectAttempt::Done(Err(refusal)) = Core::new(hub.node.hub.clone(), 0).connect(&request, &target) else {
        panic!("a policy's token opens a device");
    };
    assert_eq!(refusal.reason, RefusalReason::SasDisabled);
}

/// A front end that ignores closes.
struct FrontEnd;

impl SessionTarget for FrontEnd {
    fn close(&self, _: CloseReason) {}
}
