//! The endpoint with its files in a bucket, against a service that speaks S3 and checks signatures.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod bench;
#[path = "bench/peer.rs"]
mod peer;

use std::time::Duration;

use bench::{Bench, code, files, until_files, whole};
use holdfast_blob::{Bucket, BucketCause};
use holdfast_model::{ByteSize, HumanDuration};
use holdfast_tasks::Stop;
use http::Method;
use http_body_util::BodyExt as _;
use peer::{Fault, Matches, Peer, SECRET, keys};

/// 6 MiB in three blocks: two parts.
fn blocks() -> Vec<(&'static str, Vec<u8>)> {
    let block = |byte: u8| {
        let mut block = vec![byte; 2 << 20];
        block[0] = byte.wrapping_add(1);
        block
    };
    vec![("QQ==", block(1)), ("Qg==", block(2)), ("Qw==", block(3))]
}

async fn stage(bench: &Bench, blob: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for (id, content) in blocks() {
        assert_eq!(bench.put_block(blob, id, &content).await.status(), 201);
        all.extend(content);
    }
    all
}

const IDS: [&str; 3] = ["QQ==", "Qg==", "Qw=="];

fn is_part(_: &Method, target: &str) -> bool {
    target.contains("partNumber=")
}

fn is_complete(method: &Method, target: &str) -> bool {
    method == Method::POST && target.contains("uploadId=")
}

fn is_abort(method: &Method, target: &str) -> bool {
    method == Method::DELETE && target.contains("uploadId=")
}

fn is_write(method: &Method, _: &str) -> bool {
    method == Method::PUT
}

fn is_any(_: &Method, _: &str) -> bool {
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_objects_and_every_node_serves_them() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(&dir.path().join("s3")).await;
    let one = Bench::open_with(&dir.path().join("1"), |_| {}, Some(peer.bucket(|_| {}))).await;
    let two = Bench::open_with(&dir.path().join("2"), |_| {}, Some(peer.bucket(|_| {}))).await;
    let content = stage(&one, "dev-1/a b/ü+~%20.bin").await;
    let committed = one.commit("dev-1/a b/ü+~%20.bin", &IDS).await;
    assert_eq!(committed.status(), 201);
    let etag = committed.headers()["etag"].clone();
    // The key is the name, and the content is the file: others read it without the hub.
    assert!(peer.object("hub/box/dev-1/a b/ü+~%20.bin").as_ref() == Some(&content));
    assert!(two.content("dev-1/a b/ü+~%20.bin").await == Some(content));
    until_files(&dir.path().join("1"), 0).await;
    // Small ones in one request, with what their writer says beside them.
    let headers = [
        ("x-ms-blob-type", "BlockBlob"),
        ("content-length", "5"),
        ("x-ms-blob-content-type", "text/plain"),
        ("x-ms-blob-cache-control", "no-cache"),
        ("x-ms-meta-Colour", "blue"),
        ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
    ];
    let put = one.call("PUT", "dev-1/small", "", &headers, whole(b"hello")).await;
    assert_eq!(put.status(), 201);
    let head = two.call("HEAD", "dev-1/small", "", &[], whole(b"")).await;
    for (name, value) in [
        ("content-length", "5"),
        ("content-type", "text/plain"),
        ("cache-control", "no-cache"),
        ("x-ms-meta-colour", "blue"),
        ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
    ] {
        assert_eq!(head.headers()[name], value, "{name}");
    }
    for name in ["etag", "last-modified"] {
        assert_eq!(head.headers()[name], put.headers()[name], "{name}");
    }
    assert_ne!(head.headers()["etag"], etag);
    for (range, status, expected) in [
        ("bytes=1-3", 206, &b"ell"[..]),
        ("bytes=-2", 206, b"lo"),
        ("bytes=3-99", 206, b"lo"),
    ] {
        let answer = two
            .call("GET", "dev-1/small", "", &[("range", range)], whole(b""))
            .await;
        assert_eq!(answer.status(), status, "{range}");
        let content = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(content, expected, "{range}");
    }
    let outside = two
        .call("GET", "dev-1/small", "", &[("range", "bytes=5-")], whole(b""))
        .await;
    assert_eq!(code(&outside), (416, "InvalidRange".to_owned()));
    assert_eq!(one.put("dev-1/empty", b"").await.status(), 201);
    assert_eq!(two.content("dev-1/empty").await, Some(Vec::new()));
    assert_eq!(
        two.call("DELETE", "dev-1/small", "", &[], whole(b"")).await.status(),
        403
    );
    assert_eq!(two.content("dev-1/none").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_removals_are_those_of_the_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(&dir.path().join("s3")).await;
    let one = Bench::open_with(&dir.path().join("1"), |_| {}, Some(peer.bucket(|_| {}))).await;
    let two = Bench::open_with(&dir.path().join("2"), |_| {}, Some(peer.bucket(|_| {}))).await;
    for name in ["dev-1/a", "dev-1/b/c", "dev-1/b/d", "dev-10/x", "dev-2/y"] {
        assert_eq!(one.put(name, name.as_bytes()).await.status(), 201);
    }
    let names = async |query: &str| {
        let answer = two
            .as_owner("GET", "/box", &format!("restype=container&comp=list{query}"), &[])
            .await;
        assert_eq!(answer.status(), 200, "{query}");
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let names: Vec<String> = text
            .split("<Name>")
            .skip(1)
            .map(|rest| rest.split('<').next().unwrap().to_owned())
            .collect();
        names
    };
    assert_eq!(
        names("").await,
        ["dev-1/a", "dev-1/b/c", "dev-1/b/d", "dev-10/x", "dev-2/y"]
    );
    assert_eq!(names("&prefix=dev-1/&delimiter=/").await, ["dev-1/a", "dev-1/b/"]);
    assert_eq!(names("&prefix=dev-1/b").await, ["dev-1/b/c", "dev-1/b/d"]);
    assert_eq!(names("&prefix=dev-1").await.len(), 4);
    let wrong = two
        .as_owner("DELETE", "/box/dev-1/a", "", &[("if-match", "\"0x1\"")])
        .await;
    assert_eq!(code(&wrong), (412, "ConditionNotMet".to_owned()));
    assert_eq!(two.as_owner("DELETE", "/box/dev-1/a", "", &[]).await.status(), 202);
    assert_eq!(code(&one.as_owner("DELETE", "/box/dev-1/a", "", &[]).await).0, 404);
    assert_eq!(peer.object("hub/box/dev-1/a"), None);
    // What a bucket does not have is said.
    for (method, query) in [("PUT", "comp=metadata"), ("PUT", "comp=properties")] {
        let answer = two
            .as_owner(method, "/box/dev-1/b/c", query, &[("content-length", "0")])
            .await;
        assert_eq!(code(&answer), (501, "NotImplemented".to_owned()), "{query}");
    }
    let container = two.as_owner("DELETE", "/box", "restype=container", &[]).await;
    assert_eq!(code(&container), (501, "NotImplemented".to_owned()));
    // Other containers stay on the disk, conditions and all.
    two.store.ensure_container("checkpoints").await.unwrap();
    let headers = [
        ("x-ms-blob-type", "BlockBlob"),
        ("content-length", "0"),
        ("if-none-match", "*"),
    ];
    assert_eq!(
        two.as_owner("PUT", "/checkpoints/p/0", "", &headers).await.status(),
        201
    );
    assert_eq!(
        code(&two.as_owner("PUT", "/checkpoints/p/0", "", &headers).await),
        (409, "BlobAlreadyExists".to_owned())
    );
    assert_eq!(peer.object("hub/checkpoints/p/0"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_fails_is_busy_in_bounded_time_and_the_repeated_commit_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(&dir.path().join("s3")).await;
    let bench = Bench::open_with(&dir.path().join("1"), |_| {}, Some(peer.bucket(|_| {}))).await;
    let content = stage(&bench, "a").await;
    let faults: [(Matches, Fault); 8] = [
        (is_any, Fault::Refuse(403, "AccessDenied")),
        (is_any, Fault::Refuse(404, "NoSuchBucket")),
        (is_any, Fault::Refuse(503, "SlowDown")),
        (is_any, Fault::Hang),
        (is_part, Fault::Refuse(400, "XAmzContentSHA256Mismatch")),
        (is_part, Fault::Hang),
        (is_complete, Fault::Refuse(400, "InvalidPart")),
        (
            is_complete,
            Fault::Answer(200, "<Error><Code>InternalError</Code></Error>".to_owned()),
        ),
    ];
    for (matches, fault) in faults {
        peer.fail(matches, fault.clone());
        let started = std::time::Instant::now();
        let refused = bench.commit("a", &IDS).await;
        assert_eq!(code(&refused), (503, "ServerBusy".to_owned()), "{fault:?}");
        assert_eq!(refused.headers()["retry-after"], "1", "{fault:?}");
        assert!(
            started.elapsed() < Duration::from_secs(15),
            "{fault:?}: {:?}",
            started.elapsed()
        );
        peer.heal();
        assert!(bench.content("a").await.is_none(), "{fault:?}");
        assert_eq!(files(&dir.path().join("1")), 3, "{fault:?}");
    }
    assert_eq!(bench.commit("a", &IDS).await.status(), 201);
    assert!(bench.content("a").await == Some(content));
    until_files(&dir.path().join("1"), 0).await;
    // A whole body is sent again by its writer; none of it is left.
    peer.fail(is_write, Fault::Refuse(403, "AccessDenied"));
    assert_eq!(code(&bench.put("b", b"x").await), (503, "ServerBusy".to_owned()));
    until_files(&dir.path().join("1"), 0).await;
    // Readers too.
    peer.fail(is_any, Fault::Hang);
    for method in ["GET", "HEAD"] {
        let answer = bench.call(method, "a", "", &[], whole(b"")).await;
        assert_eq!(code(&answer), (503, "ServerBusy".to_owned()), "{method}");
    }
    peer.heal();
    assert_eq!(bench.put("b", b"x").await.status(), 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_commit_waits_for_the_first_or_is_answered_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(&dir.path().join("s3")).await;
    let bucket = peer.bucket(|config| {
        config.answer_timeout = HumanDuration::millis(200);
        config.request_timeout = HumanDuration::secs(20);
    });
    let bench = Bench::open_with(&dir.path().join("1"), |_| {}, Some(bucket)).await;
    let content = stage(&bench, "a").await;
    peer.fail(is_part, Fault::Slow(Duration::from_millis(700)));
    assert_eq!(code(&bench.commit("a", &IDS).await), (503, "ServerBusy".to_owned()));
    // The same request, as the SDK repeats it: it waits for the write that is in progress.
    let mut answers = 1;
    let etag = loop {
        let answer = bench.commit("a", &IDS).await;
        answers += 1;
        match answer.status().as_u16() {
            201 => break answer.headers()["etag"].clone(),
            503 => {}
            status => panic!("{status}"),
        }
    };
    assert!(answers > 2, "{answers}");
    let writes = peer.count(|request| request.contains("uploads"));
    assert_eq!(writes, 1);
    // Its answer was lost: the blocks are gone, and the commit is known.
    let again = bench.commit("a", &IDS).await;
    assert_eq!((again.status().as_u16(), &again.headers()["etag"]), (201, &etag));
    assert_eq!(
        code(&bench.commit("a", &["QQ=="]).await),
        (400, "InvalidBlockList".to_owned())
    );
    assert!(bench.content("a").await == Some(content));
    peer.heal();
    // After another block the list means another file.
    assert_eq!(bench.put_block("a", "QQ==", b"new").await.status(), 201);
    assert_eq!(
        code(&bench.commit("a", &IDS).await),
        (400, "InvalidBlockList".to_owned())
    );
    assert_eq!(bench.commit("a", &["QQ=="]).await.status(), 201);
    assert_eq!(bench.content("a").await.as_deref(), Some(&b"new"[..]));
    // Gone with its blob.
    assert_eq!(bench.as_owner("DELETE", "/box/a", "", &[]).await.status(), 202);
    assert_eq!(
        code(&bench.commit("a", &["QQ=="]).await),
        (400, "InvalidBlockList".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_does_not_lose_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(&dir.path().join("s3")).await;
    let bench = Bench::open_with(&dir.path().join("1"), |_| {}, Some(peer.bucket(|_| {}))).await;
    let content = stage(&bench, "a").await;
    peer.fail(is_complete, Fault::Lose);
    let answer = bench.commit("a", &IDS).await;
    assert_eq!(code(&answer), (503, "ServerBusy".to_owned()));
    assert!(bench.content("a").await.as_ref() == Some(&content));
    peer.heal();
    assert_eq!(bench.commit("a", &IDS).await.status(), 201);
    assert!(bench.content("a").await == Some(content));
    // An object of another length than was written is not answered with 201.
    peer.fail(|method, _| method == Method::HEAD, Fault::WrongLength);
    assert_eq!(
        code(&bench.put("c", b"twelve bytes").await),
        (503, "ServerBusy".to_owned())
    );
}

/// A hub that is killed: its runtime ends, with all tasks.
fn killed(live: impl Future<Output = ()>) {
    let runtime = runtime();
    runtime.block_on(live);
    runtime.shutdown_timeout(Duration::from_secs(5));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_hub_that_is_killed_between_the_write_and_the_answer_has_the_blocks_and_commits_again() {
    let dir = tempfile::tempdir().unwrap();
    let service = runtime();
    let peer = service.block_on(Peer::start(&dir.path().join("s3")));
    let open = async |peer: &Peer| {
        let bucket = peer.bucket(|config| config.answer_timeout = HumanDuration::millis(100));
        Bench::open_with(&dir.path().join("1"), |_| {}, Some(bucket)).await
    };
    killed(async {
        let bench = open(&peer).await;
        stage(&bench, "a").await;
        // The write waits for the answer to its last question.
        peer.fail(|method, _| method == Method::HEAD, Fault::Hang);
        assert_eq!(code(&bench.commit("a", &IDS).await), (503, "ServerBusy".to_owned()));
        until(|| peer.object("hub/box/a").is_some(), "the bucket has the file").await;
    });
    peer.heal();
    runtime().block_on(async {
        let bench = open(&peer).await;
        while bench.commit("a", &IDS).await.status() == 503 {}
        let content = bench.content("a").await.unwrap();
        assert!(peer.object("hub/box/a") == Some(content));
        until_files(&dir.path().join("1"), 0).await;
    });
}

#[test]
fn parts_of_a_failed_write_are_removed_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let service = runtime();
    let peer = service.block_on(Peer::start(&dir.path().join("s3")));
    killed(async {
        let bench = Bench::open_with(&dir.path().join("1"), |_| {}, Some(peer.bucket(|_| {}))).await;
        stage(&bench, "a").await;
        peer.fail(is_complete, Fault::Refuse(403, "AccessDenied"));
        assert_eq!(bench.commit("a", &IDS).await.status(), 503);
        until(|| peer.parts() == 0, "the parts are removed").await;
        // Parts that cannot be removed now are removed later: here by the next start.
        peer.fail(is_abort, Fault::Refuse(503, "SlowDown"));
        assert_eq!(bench.commit("a", &IDS).await.status(), 503);
        until(
            || peer.count(|request| request.starts_with("DELETE")) >= 3,
            "it is tried",
        )
        .await;
        assert!(peer.parts() > 0);
    });
    peer.heal();
    runtime().block_on(async {
        let stop = Stop::new();
        let bench = Bench::open_with(&dir.path().join("1"), |_| {}, Some(peer.bucket(|_| {}))).await;
        holdfast_tasks::spawn("collect", bench.store.clone().collect(stop.clone()));
        until(|| peer.parts() == 0, "the start removes the parts").await;
        // The blocks have stayed.
        assert_eq!(bench.commit("a", &IDS).await.status(), 201);
    });
}

async fn until(holds: impl Fn() -> bool, what: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bucket_cannot_keep_is_refused_before_the_body() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(&dir.path().join("s3")).await;
    let bench = Bench::open_with(
        &dir.path().join("1"),
        |config| config.max_blob_size = ByteSize::mib(5),
        Some(peer.bucket(|_| {})),
    )
    .await;
    let long = format!("dev/{}", "ü".repeat(600));
    assert_eq!(
        code(&bench.put(&long, b"x").await),
        (400, "InvalidResourceName".to_owned())
    );
    assert_eq!(
        code(&bench.put_block(&long, "QQ==", b"x").await),
        (400, "InvalidResourceName".to_owned())
    );
    let value = "x".repeat(2100);
    let headers = [
        ("x-ms-blob-type", "BlockBlob"),
        ("content-length", "1"),
        ("x-ms-meta-a", value.as_str()),
    ];
    let answer = bench.call("PUT", "a", "", &headers, whole(b"x")).await;
    assert_eq!(code(&answer), (400, "MetadataTooLarge".to_owned()));
    assert_eq!(peer.count(|_| true), 0);
    stage(&bench, "b").await;
    assert_eq!(
        code(&bench.commit("b", &IDS).await),
        (409, "BlockCountExceedsLimit".to_owned())
    );
    assert_eq!(
        code(&bench.commit("b", &["WA=="]).await),
        (400, "InvalidBlockList".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_time_before_the_bucket_are_read_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    {
        let bench = Bench::open(&dir.path().join("1"), |_| {}).await;
        assert_eq!(bench.put("old", b"on the disk").await.status(), 201);
        assert_eq!(bench.put("gone", b"on the disk").await.status(), 201);
    }
    let peer = Peer::start(&dir.path().join("s3")).await;
    let bench = Bench::open_with(&dir.path().join("1"), |_| {}, Some(peer.bucket(|_| {}))).await;
    assert_eq!(bench.content("old").await.as_deref(), Some(&b"on the disk"[..]));
    assert_eq!(bench.put("old", b"in the bucket").await.status(), 201);
    assert_eq!(bench.content("old").await.as_deref(), Some(&b"in the bucket"[..]));
    assert_eq!(bench.as_owner("DELETE", "/box/gone", "", &[]).await.status(), 202);
    assert_eq!(bench.content("gone").await, None);
    until_files(&dir.path().join("1"), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_names_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(&dir.path().join("s3")).await;
    assert_eq!(peer.bucket(|_| {}).check().await, Ok(()));
    assert_eq!(peer.object("hub"), None, "nothing is left");
    let cause = async |bucket: Bucket| bucket.check().await.unwrap_err();
    let secret = Bucket::open(&peer.config(), "box", &keys("another-secret")).unwrap();
    let error = cause(secret).await;
    assert_eq!(error.cause, BucketCause::Credentials, "{error}");
    assert!(!format!("{error:?}").contains("another-secret"));
    let error = cause(peer.bucket(|config| config.endpoint = "http://127.0.0.1:1".to_owned())).await;
    assert_eq!(error.cause, BucketCause::Unreachable, "{error}");
    for (fault, expected) in [
        (Fault::Hang, BucketCause::Timeout),
        // The peer makes a bucket that is not there.
        (Fault::Refuse(404, "NoSuchBucket"), BucketCause::NoBucket),
        (Fault::Refuse(403, "RequestTimeTooSkewed"), BucketCause::Clock),
        (Fault::Refuse(400, "AuthorizationHeaderMalformed"), BucketCause::Region),
        (Fault::Refuse(301, "PermanentRedirect"), BucketCause::Region),
        (Fault::Refuse(403, "AccessDenied"), BucketCause::Denied),
        (Fault::Answer(403, "x".repeat(1 << 20)), BucketCause::Other),
        (Fault::Refuse(500, "InternalError"), BucketCause::Busy),
    ] {
        peer.fail(is_any, fault.clone());
        let error = cause(peer.bucket(|_| {})).await;
        assert_eq!(error.cause, expected, "{error}");
        assert!(error.to_string().len() < 1000 && !error.to_string().contains(SECRET));
        peer.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_behind_tls_with_a_ca_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (peer, ca) = Peer::start_tls(&dir.path().join("s3")).await;
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let name = format!("https://localhost:{}", peer.address.port());
    let bucket = peer.bucket(|config| {
        config.endpoint.clone_from(&name);
        config.ca_file = Some(ca_file.clone());
    });
    assert_eq!(bucket.check().await, Ok(()));
    let bench = Bench::open_with(&dir.path().join("1"), |_| {}, Some(bucket)).await;
    assert_eq!(bench.put("a", b"hello").await.status(), 201);
    assert_eq!(bench.content("a").await.as_deref(), Some(&b"hello"[..]));
    // Another CA, and another name.
    let other_ca = dir.path().join("other.pem");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&other_ca, made.cert.pem()).unwrap();
    let other = peer.bucket(|config| {
        config.endpoint.clone_from(&name);
        config.ca_file = Some(other_ca);
    });
    assert_eq!(other.check().await.unwrap_err().cause, BucketCause::Tls);
    let other = peer.bucket(|config| {
        config.endpoint = format!("https://{}", peer.address);
        config.ca_file = Some(ca_file.clone());
    });
    assert_eq!(other.check().await.unwrap_err().cause, BucketCause::Tls);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let peer = Peer::start(&dir.path().join("s3")).await;
    let bench = Bench::open_with(&dir.path().join("1"), |_| {}, Some(peer.bucket(|_| {}))).await;
    for number in 0..20 {
        assert_eq!(bench.put(&format!("n{number}"), b"x").await.status(), 201);
    }
    assert!(peer.connections() <= 3, "{}", peer.connections());
}
