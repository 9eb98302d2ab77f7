//! The HTTPS front end on a simulated cluster: a device's bytes over an in-memory stream, on a paused clock.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

mod support;

use std::time::Duration;

use holdfast_auth::sign_identity;
use holdfast_device_hub::ThrottlesConfig;
use holdfast_model::{HumanDuration, IdentityId, ModuleId, NodeId, Rate, RefusalReason};
use holdfast_registry::{IdentityContent, IdentityWrite, IfMatch, WriteOperation};
use holdfast_simulation::{HOST, SECOND, Setup, identity, primary_key, simulate};
use holdfast_testkit::eventually;
use support::https::{Answer, Https};
use support::{Bench, DEVICE, NODE, telemetry};

const SEND: &str = "/devices/dev-1/messages/events?api-version=2021-04-12";

fn number(value: u64) -> Vec<u8> {
    format!("{value:08}").into_bytes()
}

impl Bench {
    fn token(&self) -> String {
        self.token_of(&identity(DEVICE), 3600)
    }

    fn token_of(&self, id: &IdentityId, seconds: i64) -> String {
        let hub = self.cluster.hub(NodeId(NODE));
        let registered = hub.registry().identity(id).unwrap().unwrap();
        let key = primary_key(&registered.authentication);
        let now = i64::try_from(hub.clock().now().0 / 1000).unwrap();
        sign_identity(HOST, id, &key, u64::try_from(now + seconds).unwrap())
    }

    async fn send(&self, https: &mut Https, payload: u64) -> Answer {
        https.post(SEND, &self.token(), &[], &number(payload)).await
    }
}

#[test]
fn a_message_is_answered_after_it_is_stored_and_a_connection_carries_many() {
    simulate(async {
        let bench = Bench::start().await;
        let mut https = Https::open(&bench, NodeId(NODE), None);
        for payload in 1..=20 {
            let answer = bench.send(&mut https, payload).await;
            assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
            assert!(answer.header("x-ms-request-id").is_some() && answer.header("content-type").is_none());
            let stored = bench.cluster.events(NodeId(NODE), DEVICE).await;
            assert_eq!(stored.last(), Some(&payload));
        }
        let stored = bench.cluster.events(NodeId(NODE), DEVICE).await;
        assert_eq!(stored, (1..=20).collect::<Vec<_>>());
    });
}

#[test]
fn a_send_over_https_leaves_the_mqtt_session_of_the_device_alone_on_every_node() {
    simulate(async {
        let bench = Bench::start().await;
        let mut device = bench.connect().await;
        for (node, id) in [(NodeId(1), 1), (NodeId(2), 2), (NodeId(3), 3)] {
            let mut https = Https::open(&bench, node, None);
            assert_eq!(bench.send(&mut https, 7).await.status, 204);
            device.send(&telemetry(id)).await;
            assert_eq!(device.pubacks(1).await, [id]);
        }
        let hub = bench.cluster.hub(NodeId(NODE));
        assert!(hub.connection_state(&identity(DEVICE)).await.is_connected);
    });
}

#[test]
fn a_request_is_activity_and_no_connection() {
    simulate(async {
        let bench = Bench::start().await;
        for (node, round) in [(NodeId(1), 1), (NodeId(2), 2), (NodeId(3), 3)] {
            tokio::time::sleep(120 * SECOND).await;
            let before = bench.cluster.hub(NodeId(NODE)).clock().now();
            let mut https = Https::open(&bench, node, None);
            assert_eq!(bench.send(&mut https, round).await.status, 204);
            tokio::time::sleep(3 * SECOND).await;
            let state = bench
                .cluster
                .hub(NodeId(NODE))
                .connection_state(&identity(DEVICE))
                .await;
            assert_eq!((state.is_connected, state.updated), (false, None), "round {round}");
            assert!(
                state.last_activity.is_some_and(|at| at >= before),
                "round {round}: {state:?}"
            );
        }
    });
}

#[test]
fn a_batch_is_stored_in_order_or_not_at_all() {
    simulate(async {
        let bench = Bench::start().await;
        let mut https = Https::open(&bench, NodeId(2), None);
        let entry = |value: u64| format!(r#"{{"body":"{}"}}"#, data_encoding::BASE64.encode(&number(value)));
        let entries: Vec<String> = (1..=500).map(entry).collect();
        let kind = [("Content-Type", "application/vnd.microsoft.iothub.json")];
        let body = format!("[{}]", entries.join(","));
        let answer = https.post(SEND, &bench.token(), &kind, body.as_bytes()).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        let wrong = format!("[{},7]", entries[0]);
        let answer = https.post(SEND, &bench.token(), &kind, wrong.as_bytes()).await;
        assert_eq!((answer.status, answer.number()), (400, 400_004), "{answer:?}");
        let stored = bench.cluster.events(NodeId(NODE), DEVICE).await;
        assert_eq!(stored, (1..=500).collect::<Vec<_>>());
    });
}

#[test]
fn who_must_not_send_learns_only_that() {
    simulate(async {
        let bench = Bench::start().await;
        let mut https = Https::open(&bench, NodeId(NODE), None);
        let key = primary_key(
            &bench
                .cluster
                .hub(NodeId(NODE))
                .registry()
                .identity(&identity(DEVICE))
                .unwrap()
                .unwrap()
                .authentication,
        );
        let foreign = sign_identity(HOST, &identity("other"), &key, u64::MAX / 2000);
        let elsewhere = sign_identity("hub9.example.com", &identity(DEVICE), &key, u64::MAX / 2000);
        for (path, token, status, number, reason) in [
            (SEND, String::new(), 401, 401_002, Some(RefusalReason::Missing)),
            (
                SEND,
                "SharedAccessSignature sr=x".to_owned(),
                401,
                401_002,
                Some(RefusalReason::Malformed),
            ),
            (
                SEND,
                bench.token_of(&identity(DEVICE), -1000),
                401,
                401_003,
                Some(RefusalReason::Expired),
            ),
            (SEND, foreign.clone(), 401, 401_002, Some(RefusalReason::Scope)),
            (SEND, elsewhere, 401, 401_002, Some(RefusalReason::Host)),
            ("/devices/dev-1/messages/events", bench.token(), 400, 400_001, None),
            (
                "/devices/dev-1/messages/other?api-version=2021-04-12",
                bench.token(),
                404,
                404_000,
                None,
            ),
            (
                "/devices/dev-1/messages//events?api-version=2021-04-12",
                bench.token(),
                404,
                404_000,
                None,
            ),
        ] {
            let answer = https.post(path, &token, &[], &[]).await;
            assert_eq!(
                (answer.status, answer.number()),
                (status, number),
                "{path} {token}: {answer:?}"
            );
            if let Some(reason) = reason {
                let last = bench.diagnosis(DEVICE).await.pop().unwrap();
                assert_eq!(last.reason, reason, "{token}");
            }
        }
        let answer = https.request("GET", SEND, &bench.token(), &[], &[]).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
        // Unknown, and known with a wrong key: the same answer.
        let unknown = "/devices/other/messages/events?api-version=2021-04-12";
        let unknown = https.post(unknown, &foreign, &[], &[]).await;
        let other_key = holdfast_auth::Key::from_bytes(vec![7; 32]).unwrap();
        let wrong = sign_identity(HOST, &identity(DEVICE), &other_key, u64::MAX / 2000);
        let wrong = https.post(SEND, &wrong, &[], &[]).await;
        assert_eq!((unknown.status, unknown.message()), (wrong.status, wrong.message()));
        assert_eq!(bench.cluster.events(NodeId(NODE), DEVICE).await, [0_u64; 0]);
    });
}

#[test]
fn a_disabled_device_is_refused_at_its_next_request() {
    simulate(async {
        let bench = Bench::start().await;
        let mut https = Https::open(&bench, NodeId(3), None);
        assert_eq!(bench.send(&mut https, 1).await.status, 204);
        let content = IdentityContent {
            status: holdfast_registry::Status::Disabled,
            ..IdentityContent::default()
        };
        let write = IdentityWrite {
            id: identity(DEVICE),
            operation: WriteOperation::CreateOrUpdate(IfMatch::Any, content),
        };
        let token = bench.token();
        bench.cluster.hub(NodeId(NODE)).registry().write(write).await.unwrap();
        tokio::time::sleep(2 * SECOND).await;
        let answer = https.post(SEND, &token, &[], &number(2)).await;
        assert_eq!((answer.status, answer.number()), (401, 401_003), "{answer:?}");
        assert_eq!(bench.cluster.events(NodeId(NODE), DEVICE).await, [1]);
    });
}

#[test]
fn a_module_sends_in_its_own_name() {
    simulate(async {
        let bench = Bench::start().await;
        let id = IdentityId::module(identity(DEVICE).device, ModuleId::parse("pump").unwrap());
        let write = IdentityWrite {
            id: id.clone(),
            operation: WriteOperation::Create(IdentityContent::default()),
        };
        bench.cluster.hub(NodeId(NODE)).registry().write(write).await.unwrap();
        eventually("the module everywhere", || {
            let nodes = bench.cluster.nodes.values();
            nodes
                .into_iter()
                .all(|node| node.registry.identity(&id).unwrap().is_some())
        })
        .await;
        let mut https = Https::open(&bench, NodeId(2), None);
        let path = "/devices/dev-1/modules/pump/messages/events/?api-version=2021-04-12";
        let answer = https.post(path, &bench.token_of(&id, 60), &[], &number(1)).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        let answer = https.post(path, &bench.token(), &[], &number(2)).await;
        assert_eq!(answer.status, 401, "a device's key opens no module");
        assert_eq!(bench.cluster.events(NodeId(NODE), DEVICE).await, [1]);
    });
}

#[test]
fn a_form_content_type_and_a_trailing_slash_are_a_message() {
    simulate(async {
        let bench = Bench::start().await;
        let mut https = Https::open(&bench, NodeId(NODE), None);
        let path = "/devices/dev-1/messages/events/?api-version=2016-11-14";
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        assert_eq!(https.post(path, &bench.token(), &kind, &number(1)).await.status, 204);
        assert_eq!(bench.cluster.events(NodeId(NODE), DEVICE).await, [1]);
    });
}

#[test]
fn bodies_arrive_in_chunks_after_a_question_and_slowly_and_large_ones_are_refused() {
    simulate(async {
        let bench = Bench::start().await;
        let head = |more: &str| {
            format!(
                "POST {SEND} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: {}\r\n{more}\r\n",
                bench.token()
            )
        };
        let mut https = Https::open(&bench, NodeId(NODE), None);
        https.write(head("Transfer-Encoding: chunked\r\n").as_bytes()).await;
        for byte in number(1) {
            https.write(&[b'1', b'\r', b'\n', byte, b'\r', b'\n']).await;
            tokio::time::sleep(SECOND).await;
        }
        https.write(b"0\r\n\r\n").await;
        assert_eq!(https.answer().await.status, 204);
        https
            .write(head("Content-Length: 8\r\nExpect: 100-continue\r\n").as_bytes())
            .await;
        assert_eq!(https.answer().await.status, 100);
        https.write(&number(2)).await;
        assert_eq!(https.answer().await.status, 204);
        // Refused before the body is requested.
        https
            .write(head("Content-Length: 262145\r\nExpect: 100-continue\r\n").as_bytes())
            .await;
        let answer = https.answer().await;
        assert_eq!((answer.status, answer.number()), (413, 413_001));
        let mut https = Https::open(&bench, NodeId(NODE), None);
        let answer = https.post(SEND, &bench.token(), &[], &vec![0; 262_145]).await;
        assert_eq!((answer.status, answer.number()), (413, 413_001));
        let answer = https.post(SEND, &bench.token(), &[], &number(3)).await;
        assert_eq!(answer.status, 204, "the connection is as good as before");
        // A body that never arrives.
        https.write(head("Content-Length: 8\r\n").as_bytes()).await;
        let answer = https.answer().await;
        assert_eq!((answer.status, answer.number()), (400, 400_024), "{answer:?}");
        assert_eq!(bench.cluster.events(NodeId(NODE), DEVICE).await, [1, 2, 3]);
    });
}

#[test]
fn smuggled_requests_and_huge_heads_end_the_connection_and_store_nothing() {
    simulate(async {
        let bench = Bench::start().await;
        let authorization = format!("Authorization: {}\r\n", bench.token());
        let inner = format!("POST {SEND} HTTP/1.1\r\nHost: {HOST}\r\n{authorization}Content-Length: 8\r\n\r\n12345678");
        let endless = format!("X: {}\r\n", "x".repeat(200_000));
        for more in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            "Content-Length: 5\r\nContent-Length: 6\r\n".to_owned(),
            "Content-Length: +5\r\n".to_owned(),
            "Content-Length: 5, 5\r\n".to_owned(),
            "Transfer-Encoding: chunked, identity\r\n".to_owned(),
            "Transfer-Encoding : chunked\r\n".to_owned(),
            "Content-Length: 99999999999999999999999\r\n".to_owned(),
            endless,
        ] {
            let mut https = Https::open(&bench, NodeId(NODE), None);
            let request = format!("POST {SEND} HTTP/1.1\r\nHost: {HOST}\r\n{more}\r\n0\r\n\r\n{inner}");
            https.write_what_is_taken(request.as_bytes()).await;
            let rest = https.rest().await;
            let statuses: Vec<&str> = rest.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
            let shown: String = more.chars().take(60).collect();
            assert!(
                statuses.iter().all(|status| status.starts_with('4')),
                "{shown}: {statuses:?}"
            );
            let stored = bench.cluster.events(NodeId(NODE), DEVICE).await;
            assert!(stored.is_empty(), "{shown}: {statuses:?} {stored:?}");
        }
    });
}

#[test]
fn without_an_owner_a_message_is_refused_in_time_and_not_stored_later() {
    simulate(async {
        let mut bench = Bench::start().await;
        let mut https = Https::open(&bench, NodeId(NODE), None);
        assert_eq!(bench.send(&mut https, 1).await.status, 204);
        bench.cluster.kill(NodeId(2));
        bench.cluster.kill(NodeId(3));
        let started = tokio::time::Instant::now();
        let answer = bench.send(&mut https, 2).await;
        assert_eq!((answer.status, answer.number()), (503, 503_001), "{answer:?}");
        assert!(answer.header("retry-after").is_some() && started.elapsed() < Duration::from_secs(30));
        bench.cluster.start_node(NodeId(2)).await;
        bench.cluster.start_node(NodeId(3)).await;
        bench.cluster.settled().await;
        let sent = async {
            loop {
                if bench.send(&mut https, 3).await.status == 204 {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(120), sent).await.unwrap();
        let stored = bench.cluster.events(NodeId(NODE), DEVICE).await;
        // The outcome of the second one was unknown: it is stored before the third, or not at all.
        assert!(stored == [1, 2, 3] || stored == [1, 3], "{stored:?}");
    });
}

#[test]
fn a_device_beyond_its_rate_is_answered_429_with_the_time_to_wait_whatever_its_connection() {
    simulate(async {
        let throttles = ThrottlesConfig {
            device_d2c_sends: Some(Rate::PerSecond(2)),
            max_wait: HumanDuration::secs(3),
            ..ThrottlesConfig::default()
        };
        let bench = Bench::start_as(Setup {
            throttles,
            ..Setup::default()
        })
        .await;
        bench.cluster.create("dev-2").await;
        let mut answers = Vec::new();
        let requests: Vec<_> = (1..=20)
            .map(|payload| {
                let mut https = Https::open(&bench, NodeId(NODE), None);
                let token = bench.token();
                async move { https.post(SEND, &token, &[], &number(payload)).await }
            })
            .collect();
        let began = tokio::time::Instant::now();
        for answer in futures_util::future::join_all(requests).await {
            answers.push((
                answer.status,
                answer.number(),
                answer.header("retry-after").map(str::to_owned),
            ));
        }
        let stored = answers.iter().filter(|(status, ..)| *status == 204).count();
        // Two of a second's tokens, and those whose turn comes in three seconds.
        assert!((6..=10).contains(&stored), "{answers:?}");
        assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
        for (status, number, retry_after) in answers.iter().filter(|(status, ..)| *status != 204) {
            assert_eq!((*status, number / 1000), (429, 429), "{answers:?}");
            let seconds: u64 = retry_after.as_ref().unwrap().parse().unwrap();
            assert!((1..=10).contains(&seconds), "{answers:?}");
        }
        assert_eq!(bench.cluster.events(NodeId(NODE), DEVICE).await.len(), stored);
        // The rate is of each device alone.
        let mut https = Https::open(&bench, NodeId(NODE), None);
        let path = "/devices/dev-2/messages/events?api-version=2021-04-12";
        let answer = https
            .post(path, &bench.token_of(&identity("dev-2"), 3600), &[], &number(1))
            .await;
        assert_eq!(answer.status, 204);
    });
}
