//! Calls beyond a rate: they wait, or are answered with 429 and the time to come back.

use holdfast_device_hub::{DeviceHubConfig, ThrottlesConfig};
use holdfast_model::{HumanDuration, Rate};
use serde_json::{Value, json};

use crate::support::Hub;

async fn hub(change: impl FnOnce(&mut ThrottlesConfig)) -> Hub {
    let mut throttles = ThrottlesConfig {
        max_wait: HumanDuration::secs(0),
        ..ThrottlesConfig::default()
    };
    change(&mut throttles);
    Hub::start_with(DeviceHubConfig {
        throttles,
        ..DeviceHubConfig::default()
    })
    .await
}

fn devices(count: usize) -> Value {
    let entries = (0..count).map(|number| json!({"id": format!("d{number}"), "importMode": "createOrUpdate"}));
    Value::Array(entries.collect())
}

#[tokio::test]
async fn each_kind_of_call_has_its_rate_and_a_refusal_says_when_to_come_back() {
    let few = Some(Rate::PerMinute(2));
    let hub = hub(|throttles| {
        throttles.queries = few;
        throttles.twin_reads = few;
        throttles.twin_updates = few;
        throttles.c2d_sends = few;
        throttles.methods = few;
    })
    .await;
    hub.owner("PUT", "/devices/d")
        .body(json!({"deviceId": "d"}))
        .send()
        .await
        .is(200);
    let table = [
        (
            "POST",
            "/devices/query",
            json!({"query": "SELECT * FROM devices"}),
            "queries",
        ),
        ("GET", "/twins/d", Value::Null, "reads of twins"),
        ("PATCH", "/twins/d", json!({"tags": {}}), "updates of twins"),
        ("POST", "/twins/d/methods", json!({"methodName": "m"}), "method calls"),
    ];
    for (method, path, body, named) in table {
        for turn in 0..4 {
            let answer = hub.owner(method, path).body(body.clone()).send().await;
            if turn < 2 {
                assert_ne!(answer.header("iothub-errorcode"), "ThrottlingException", "{path}");
                continue;
            }
            answer.refused(429_001, "ThrottlingException");
            assert!(
                answer.text().contains(&format!("{named} are limited to 2/min")),
                "{}",
                answer.text()
            );
            let seconds: u64 = answer.header("retry-after").parse().unwrap();
            assert!((20..=30).contains(&seconds), "{path} {seconds}");
        }
    }
    for turn in 0..3 {
        let mut call = hub
            .owner("POST", "/holdfast/v1/devices/d/c2d")
            .body(json!({"payload": "x"}));
        call = call.raw_query("");
        let answer = call.send().await;
        match turn {
            0 | 1 => assert_ne!(answer.header("iothub-errorcode"), "ThrottlingException"),
            _ => answer.refused(429_001, "ThrottlingException"),
        }
    }
    // Another kind of call, and a call without the right, are not counted.
    hub.owner("GET", "/devices/d").send().await.is(200);
}

#[tokio::test]
async fn a_bulk_call_counts_its_identities_and_a_method_its_blocks() {
    let hub = hub(|throttles| {
        throttles.registry_operations = Some(Rate::PerMinute(5));
        throttles.methods = Some(Rate::PerMinute(3));
    })
    .await;
    hub.owner("POST", "/devices").body(devices(3)).send().await.is(200);
    let refused = hub.owner("POST", "/devices").body(devices(3)).send().await;
    refused.refused(429_001, "ThrottlingException");
    hub.owner("GET", "/devices/d0").send().await.is(200);
    hub.owner("GET", "/devices").send().await.is(200);
    hub.owner("GET", "/devices/d0")
        .send()
        .await
        .refused(429_001, "ThrottlingException");

    let large = json!({"methodName": "m", "payload": "x".repeat(9000)});
    hub.owner("POST", "/twins/d0/methods").body(large).send().await.is(404);
    let small = json!({"methodName": "m"});
    let refused = hub.owner("POST", "/twins/d0/methods").body(small).send().await;
    refused.refused(429_001, "ThrottlingException");
}

#[tokio::test]
async fn a_caller_without_the_right_takes_nothing_of_a_rate() {
    let hub = hub(|throttles| throttles.registry_operations = Some(Rate::PerMinute(1))).await;
    for _ in 0..5 {
        hub.by("service", "GET", "/devices/d").send().await.is(401);
    }
    hub.owner("GET", "/devices/d")
        .send()
        .await
        .refused(404_001, "DeviceNotFound");
    hub.owner("GET", "/devices/d")
        .send()
        .await
        .refused(429_001, "ThrottlingException");
}

#[tokio::test]
async fn a_call_waits_for_its_turn_and_the_queue_is_bounded() {
    let hub = hub(|throttles| {
        throttles.registry_operations = Some(Rate::PerSecond(1));
        throttles.max_wait = HumanDuration::secs(20);
        throttles.max_waiting = 1;
    })
    .await;
    hub.owner("POST", "/devices").body(devices(60)).send().await.is(200);
    // On a slow machine some tokens have come back meanwhile, and so many calls pass at once.
    let calls = (0..60).map(|_| hub.owner("GET", "/devices/d1").send());
    let answers = futures_util::future::join_all(calls).await;
    let (served, refused): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|answer| answer.text().contains("generationId"));
    // The queue was full, so that one of those that were served has waited in it.
    assert!(!served.is_empty() && !refused.is_empty());
    for answer in refused {
        answer.refused(429_002, "ThrottleBacklogLimitExceeded");
    }
}

#[tokio::test]
async fn a_call_that_would_wait_too_long_is_refused_at_once() {
    let hub = hub(|throttles| {
        throttles.queries = Some(Rate::PerMinute(1));
        throttles.max_wait = HumanDuration::secs(10);
    })
    .await;
    let query = || {
        hub.owner("POST", "/devices/query")
            .body(json!({"query": "SELECT * FROM devices"}))
    };
    query().send().await.is(200);
    let refused = query().send().await;
    refused.refused(429_003, "ThrottlingBacklogTimeout");
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((40..=50).contains(&seconds), "{seconds}");
}
