//! Calls and answers of all sizes, their order, and the limits.

use super::*;
use futures_util::future::join_all;

#[tokio::test]
async fn a_call_reaches_its_target_and_its_answer_comes_back() {
    let (_authority, one, two) = pair().await;
    assert_eq!(one.ask(NodeId(2), b"hello").await.unwrap(), "hello");
    assert_eq!(one.ask(NodeId(2), b"who").await.unwrap(), "1 5");
    assert_eq!(one.ask(NodeId(2), b"").await.unwrap(), "");
    assert_eq!(
        one.ask(NodeId(2), b"refuse").await.unwrap_err(),
        CallError::Refused("as asked".into())
    );
    let status = one.until(NodeId(2), |status| status.rtt.is_some()).await;
    assert_eq!((status.name.as_str(), status.version.as_str()), ("node-2", "1.2.3"));
    assert!(status.certificate_ends.is_some() && status.problem.is_empty());
    assert!(status.last_heard_ago().unwrap() < Duration::from_secs(5));
    two.connect(&one).await;
    assert_eq!(two.ask(NodeId(1), b"who").await.unwrap(), "2 5");
}

#[tokio::test]
async fn segments_arrive_as_one_body() {
    let (_authority, one, _two) = pair().await;
    let mut parts = call(b"head ");
    parts.body.push(Bytes::from_static(b"tail"));
    assert_eq!(one.peers.call(NodeId(2), parts).await.unwrap(), "head tail");
}

#[tokio::test]
async fn bodies_and_answers_of_all_sizes_arrive_complete() {
    let (_authority, one, _two) = pair().await;
    let sizes = [1, 255, 4096, 65_535, 65_536, 65_537, 262_144, 1_000_003, 20 << 20];
    let calls = sizes.iter().map(|size| {
        let body: Vec<u8> = (0..*size).map(|i: usize| (i * 31 % 251) as u8).collect();
        let one = &one;
        async move { assert!(one.ask(NodeId(2), &body).await.unwrap() == body, "{size} bytes") }
    });
    join_all(calls).await;
    let refused = one.ask(NodeId(2), &vec![0; (20 << 20) + 1]).await.unwrap_err();
    assert!(matches!(refused, CallError::NotSent(_)), "{refused}");
}

#[tokio::test]
async fn ten_thousand_concurrent_calls_are_sent_in_order_and_all_answered() {
    let (_authority, one, two) = pair().await;
    let calls: Vec<_> = (0..10_000_u32)
        .map(|i| one.peers.call(NodeId(2), call(&i.to_le_bytes())))
        .collect();
    let answers = join_all(calls).await;
    for (i, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), (i as u32).to_le_bytes()[..]);
    }
    let seen = two.echo.seen.lock();
    assert!(
        seen.iter()
            .enumerate()
            .all(|(i, body)| body[..] == (i as u32).to_le_bytes()[..])
    );
}

#[tokio::test]
async fn a_small_call_overtakes_large_ones_of_other_targets_only() {
    let (_authority, one, two) = pair().await;
    let large = one.peers.call(
        NodeId(2),
        Call {
            body: vec![vec![b'L'; 15 << 20].into()],
            ..call(b"")
        },
    );
    let behind = one.peers.call(NodeId(2), call(b"behind"));
    let beside = one.peers.call(
        NodeId(2),
        Call {
            target: 6,
            ..call(b"beside")
        },
    );
    let (large, behind, beside) = tokio::join!(large, behind, beside);
    assert!(large.is_ok() && behind.is_ok() && beside.is_ok());
    let seen: Vec<_> = two.echo.seen.lock().iter().map(|body| body[0]).collect();
    let order: Vec<_> = two.echo.seen.lock().iter().map(|body| body.slice(..6)).collect();
    assert_eq!(order, [&b"beside"[..], &b"LLLLLL"[..], &b"behind"[..]], "{seen:?}");
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let authority = Authority::new();
    let config = PeersConfig {
        queue: holdfast_model::ByteSize::mib(1),
        calls: 100,
        ..quick()
    };
    let one = Node::start_with(config, identity(NodeId(1)), authority.node()).await;
    let two = Node::start(NodeId(2), authority.node()).await;
    one.connect(&two).await;
    let body = vec![0; 700 << 10];
    let calls: Vec<_> = (0..3).map(|_| one.peers.call(NodeId(2), call(&body))).collect();
    let outcomes = join_all(calls).await;
    assert!(outcomes[0].is_ok());
    assert!(
        matches!(&outcomes[1], Err(CallError::NotSent(why)) if why.contains("full")),
        "{:?}",
        outcomes[1]
    );
    assert!(one.ask(NodeId(2), b"again").await.is_ok(), "the queue has drained");

    let calls: Vec<_> = (0..101).map(|_| one.peers.call(NodeId(2), call(b"x"))).collect();
    let outcomes = join_all(calls).await;
    assert!(matches!(&outcomes[100], Err(CallError::NotSent(why)) if why.contains("too many")));
}

#[tokio::test]
async fn calls_over_the_limit_of_a_service_are_refused_and_other_services_continue() {
    let authority = Authority::new();
    let config = PeersConfig {
        max_in_flight_calls: 10,
        ..quick()
    };
    let one = Node::start(NodeId(1), authority.node()).await;
    let two = Node::start_with(config, identity(NodeId(2)), authority.node()).await;
    one.connect(&two).await;
    let stuck: Vec<_> = (0..10).map(|_| one.peers.call(NodeId(2), call(b"never"))).collect();
    let refused = one.ask(NodeId(2), b"one more").await.unwrap_err();
    assert!(
        matches!(&refused, CallError::NotSent(why) if why.contains("in flight")),
        "{refused}"
    );
    let other = Call {
        service: Service::Partition,
        ..call(b"hello")
    };
    assert_eq!(one.peers.call(NodeId(2), other).await.unwrap(), "hello");
    drop(stuck);
}

#[tokio::test]
async fn the_timeout_ends_a_call_on_both_nodes() {
    let authority = Authority::new();
    let config = PeersConfig {
        max_in_flight_calls: 1,
        ..quick()
    };
    let one = Node::start(NodeId(1), authority.node()).await;
    let two = Node::start_with(config, identity(NodeId(2)), authority.node()).await;
    one.connect(&two).await;
    let impatient = Call {
        timeout: Duration::from_millis(30),
        ..call(b"never")
    };
    let began = std::time::Instant::now();
    let late = one.peers.call(NodeId(2), impatient).await.unwrap_err();
    assert!(
        matches!(&late, CallError::Unknown(why) if why.contains("in time")),
        "{late}"
    );
    assert!(began.elapsed() < Duration::from_millis(500));
    // The other node cancels it too, a moment later: its only permit is free again.
    while matches!(one.ask(NodeId(2), b"hello").await, Err(CallError::NotSent(_))) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_node_calls_itself_without_a_connection() {
    let (_authority, one, _two) = pair().await;
    assert_eq!(one.ask(NodeId(1), b"who").await.unwrap(), "1 5");
}

#[tokio::test]
async fn a_service_that_is_not_registered_yet_refuses() {
    let (_authority, one, _two) = pair().await;
    let early = Call {
        service: Service::Session,
        ..call(b"x")
    };
    assert!(matches!(
        one.peers.call(NodeId(2), early).await,
        Err(CallError::Refused(_))
    ));
}

#[test]
fn handles_work_on_other_threads() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    let home = std::thread::spawn(move || {
        runtime().block_on(async move {
            let (_authority, one, two) = pair().await;
            send.send(one.peers.clone()).unwrap();
            finished.await.unwrap();
            drop((one, two));
        });
    });
    let peers = receive.recv().unwrap();
    let others: Vec<_> = (0..3_u32)
        .map(|thread| {
            let peers = peers.clone();
            std::thread::spawn(move || {
                runtime().block_on(async move {
                    for round in 0..200_u32 {
                        let calls: Vec<_> = (0..20)
                            .map(|i| peers.call(NodeId(2), call(&[thread as u8, round as u8, i])))
                            .collect();
                        for (i, answer) in join_all(calls).await.into_iter().enumerate() {
                            assert_eq!(answer.unwrap()[..], [thread as u8, round as u8, i as u8]);
                        }
                    }
                });
            })
        })
        .collect();
    for other in others {
        other.join().unwrap();
    }
    finish.send(()).unwrap();
    home.join().unwrap();
}
