//! Garbage and excess load from a node are refused without harm.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use holdfast_cluster::route::MAX_BYTES_IN_FLIGHT;
use holdfast_consensus::transport::{Call, CallError, Service};
use holdfast_model::NodeId;

use super::common::{BatchSender, CORE, Cluster, GATEWAY, P};

fn call(target: u32, body: Vec<Bytes>) -> Call {
    Call {
        service: Service::Partition,
        target,
        body,
        timeout: Duration::from_secs(3),
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_is_refused() {
    let cluster = Cluster::start(60).await;
    let owner = cluster.owner_everywhere(P).await.node;
    let transport = cluster.nodes[&GATEWAY].transport.clone();
    for body in [
        &b""[..],
        b"\x01",
        b"\x07\x01entry",
        b"\x01\x63",
        b"\x01\x02\xff\xff\xff",
        b"\x01\x04\x0a\xff",
        b"\x01\x05",
        b"\x01\x06\xff",
        b"\x01\x07\xff",
    ] {
        let answer = transport.call(owner, call(0, vec![Bytes::from_static(body)])).await;
        assert!(matches!(answer, Err(CallError::Refused(_))), "{body:?}: {answer:?}");
        let first = transport
            .download(owner, call(0, vec![Bytes::from_static(body)]))
            .next()
            .await;
        if body != b"\x01\x05" {
            assert!(matches!(first, Some(Err(CallError::Refused(_)))), "{body:?}: {first:?}");
        }
    }
    for target in [4, 70_000, u32::MAX] {
        let answer = transport
            .call(owner, call(target, vec![Bytes::from_static(b"\x01\x03")]))
            .await;
        assert!(matches!(answer, Err(CallError::Refused(_))), "{answer:?}");
    }
    let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 0);
    sender.send().await;
    assert_eq!(sender.retries, 0, "nothing else was harmed");
}

#[tokio::test(start_paused = true)]
async fn a_node_over_its_limit_is_refused_and_others_are_not() {
    let cluster = Cluster::start(61).await;
    let owner = cluster.owner_everywhere(P).await.node;
    let others: Vec<NodeId> = CORE.into_iter().filter(|node| *node != owner).collect();
    // Nothing can be committed, so that all batches stay in flight.
    for other in &others {
        cluster.network.cut(owner, *other);
    }
    let transport = cluster.nodes[&GATEWAY].transport.clone();
    let mut sender = BatchSender::new(cluster.on(GATEWAY), P, 0);
    sender.events = 30_000;
    let batches = 2 * MAX_BYTES_IN_FLIGHT / sender.batch().len();
    let mut answers = futures_util::stream::FuturesUnordered::new();
    for _ in 0..batches {
        let entry = sender.batch();
        answers.push(transport.call(
            owner,
            call(0, vec![Bytes::from_static(b"\x01\x01\0\0\0\0\0\0\0\0"), entry]),
        ));
    }
    let mut refused = 0;
    while let Some(answer) = answers.next().await {
        refused += usize::from(matches!(answer, Err(CallError::Refused(_))));
    }
    assert!(refused > 0, "everything was taken");
    cluster.network.heal_all();
    cluster.owner_everywhere(P).await;
    let mut sender = BatchSender::new(cluster.on(NodeId(2)), P, 7);
    sender.send().await;
}
