//! The endpoint on a real database and real files: limits, bodies that lie, and what a crash leaves.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod bench;

use bench::{Bench, broken, code, until_files, whole};
use bytes::Bytes;
use holdfast_model::{ByteSize, HumanDuration};
use holdfast_tasks::Stop;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

#[tokio::test]
async fn what_was_answered_with_201_is_there_after_a_start_and_replaced_files_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    {
        let bench = Bench::open(dir.path(), |_| {}).await;
        assert_eq!(bench.put("a", b"first").await.status(), 201);
        assert_eq!(bench.put("a", b"second").await.status(), 201);
        for (id, content) in [("QQ==", &b"one"[..]), ("Qg==", b"two")] {
            assert_eq!(bench.put_block("b", id, content).await.status(), 201);
        }
        assert_eq!(bench.commit("b", &["Qg==", "QQ==", "Qg=="]).await.status(), 201);
        assert_eq!(bench.put_block("c", "QQ==", b"waits").await.status(), 201);
        until_files(dir.path(), 4).await;
    }
    // As a crash leaves it: written, and named by nothing. Files of others are left alone.
    let folder = dir.path().join("blobs/00");
    std::fs::write(folder.join("00".repeat(16)), b"lost").unwrap();
    std::fs::write(folder.join("notes.txt"), b"mine").unwrap();
    let bench = Bench::open(dir.path(), |_| {}).await;
    until_files(dir.path(), 5).await;
    assert!(folder.join("notes.txt").exists());
    assert_eq!(bench.content("a").await.as_deref(), Some(&b"second"[..]));
    assert_eq!(bench.content("b").await.as_deref(), Some(&b"twoonetwo"[..]));
    assert_eq!(bench.content("c").await, None);
    assert_eq!(bench.commit("c", &["QQ=="]).await.status(), 201);
    assert_eq!(bench.content("c").await.as_deref(), Some(&b"waits"[..]));
}

#[tokio::test]
async fn a_body_that_is_not_what_its_head_says_leaves_everything_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), |config| config.chunk_timeout = HumanDuration::secs(1)).await;
    assert_eq!(bench.put("a", b"first").await.status(), 201);
    let blob_type = ("x-ms-blob-type", "BlockBlob");
    for (headers, body, expected) in [
        (
            &[blob_type, ("content-length", "9")][..],
            whole(b"short"),
            (400, "IncompleteBody"),
        ),
        (
            &[blob_type, ("content-length", "3")],
            whole(b"longer"),
            (400, "IncompleteBody"),
        ),
        (
            &[blob_type, ("content-length", "9")],
            broken(b"short"),
            (400, "IncompleteBody"),
        ),
        (&[blob_type], whole(b"x"), (411, "MissingContentLengthHeader")),
        (
            &[blob_type, ("content-length", "x")],
            whole(b"x"),
            (400, "InvalidHeaderValue"),
        ),
        (&[("content-length", "1")], whole(b"x"), (400, "MissingRequiredHeader")),
        (
            &[
                blob_type,
                ("content-length", "1"),
                ("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
            ],
            whole(b"x"),
            (400, "Md5Mismatch"),
        ),
        (
            &[blob_type, ("content-length", "1"), ("content-md5", "?")],
            whole(b"x"),
            (400, "InvalidMd5"),
        ),
        (
            &[("x-ms-blob-type", "PageBlob"), ("content-length", "0")],
            whole(b""),
            (501, "NotImplemented"),
        ),
        (
            &[blob_type, ("content-length", "6000000000")],
            whole(b"x"),
            (413, "RequestBodyTooLarge"),
        ),
    ] {
        let answer = bench.call("PUT", "a", "", headers, body).await;
        let (status, code) = code(&answer);
        assert_eq!((status, code.as_str()), expected, "{headers:?}");
    }
    // A body that never comes ends in its time.
    let silent = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, _>>()).boxed_unsync();
    let answer = bench
        .call("PUT", "a", "", &[blob_type, ("content-length", "9")], silent)
        .await;
    assert_eq!(code(&answer), (400, "IncompleteBody".to_owned()));
    assert_eq!(bench.content("a").await.as_deref(), Some(&b"first"[..]));
    until_files(dir.path(), 1).await;
}

#[tokio::test]
async fn every_limit_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), |config| {
        config.capacity = ByteSize(1000);
        config.max_blob_size = ByteSize(600);
        config.max_requests = 1;
    })
    .await;
    assert_eq!(
        code(&bench.put("a", &[0; 601]).await),
        (413, "RequestBodyTooLarge".to_owned())
    );
    assert_eq!(bench.put("a", &[0; 600]).await.status(), 201);
    assert_eq!(code(&bench.put("b", &[0; 401]).await), (503, "ServerBusy".to_owned()));
    for id in ["QQ==", "Qg=="] {
        assert_eq!(bench.put_block("b", id, &[0; 200]).await.status(), 201);
    }
    let too_large = bench.commit("b", &["QQ==", "Qg==", "QQ==", "Qg=="]).await;
    assert_eq!(code(&too_large), (409, "BlockCountExceedsLimit".to_owned()));
    // The place is free again once a reader has its content, or has gone.
    let reading = bench.call("GET", "a", "", &[], whole(b"")).await;
    assert_eq!(bench.call("GET", "a", "", &[], whole(b"")).await.status(), 503);
    drop(reading);
    assert_eq!(bench.content("a").await.map(|content| content.len()), Some(600));
    for (range, expected) in [
        ("bytes=0-9", (206, 10)),
        ("bytes=590-2000", (206, 10)),
        ("bytes=-5", (206, 5)),
        ("bytes=600-", (416, 0)),
        ("bytes=9-1", (200, 600)),
        ("bytes=0-1,3-4", (200, 600)),
        ("lines=0-1", (200, 600)),
    ] {
        let answer = bench.call("GET", "a", "", &[("range", range)], whole(b"")).await;
        let status = answer.status().as_u16();
        if status == 416 {
            assert_eq!(answer.headers()["content-range"], "bytes */600");
        }
        let length = answer.into_body().collect().await.unwrap().to_bytes().len();
        assert_eq!((status, if status == 416 { 0 } else { length }), expected, "{range}");
    }
}

#[tokio::test]
async fn blocks_that_no_list_commits_are_collected() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path(), |config| {
        config.uncommitted_lifetime = HumanDuration::millis(2)
    })
    .await;
    assert_eq!(bench.put_block("a", "QQ==", b"x").await.status(), 201);
    let stop = Stop::new();
    holdfast_tasks::spawn("collect", bench.store.clone().collect(stop.clone()));
    until_files(dir.path(), 0).await;
    assert_eq!(
        code(&bench.commit("a", &["QQ=="]).await),
        (400, "InvalidBlockList".to_owned())
    );
}
