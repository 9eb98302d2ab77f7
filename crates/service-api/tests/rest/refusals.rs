//! Ids and bodies that are wrong, the form of an error, and a registry without a leader.

use http::StatusCode;
use serde_json::json;

use crate::support::{Hub, VERSION};

#[tokio::test]
async fn ids_accept_every_legal_character_and_refuse_every_other() {
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
            assert!(answer.text().contains("= @ (semicolon) $"), "{}", answer.text());
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

#[tokio::test]
async fn a_wrong_token_that_is_repeated_is_answered_later_and_a_right_one_at_once() {
    let hub = Hub::start().await;
    let wrong = hub.token("iothubowner", 3600).replace("sig=", "sig=AAAA");
    let mut took = Vec::new();
    for _ in 0..7 {
        let began = std::time::Instant::now();
        hub.request("GET", "/devices/d")
            .authorization(Some(&wrong))
            .send()
            .await
            .refused(401_002, "IotHubUnauthorizedAccess");
        took.push(began.elapsed().as_millis());
        hub.owner("GET", "/devices/d").send().await.is(404);
    }
    assert!(took[5] >= 240 && took[6] >= 490, "{took:?}");
    let guessing = hub.refusals().into_iter().filter(|(_, reason)| reason == "guessing");
    assert_eq!(guessing.count(), 1);
}
