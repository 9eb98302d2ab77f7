//! The spans of a batch over the gateway and the owner, also of an earlier version.

use holdfast_model::{NodeId, PartitionId};
use holdfast_spans::{SpanName, TraceContext};

use super::common::{BatchSender, CORE, Cluster, GATEWAY, append_of, config, oldest, read};

fn batch_span() -> TraceContext {
    TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_one_trace_over_its_gateway_and_its_owner() {
    let mut cluster = Cluster::start(30).await;
    let id = PartitionId(1);
    let owner = cluster.owner_everywhere(id).await.node;
    let mut sender = BatchSender::new(cluster.on(GATEWAY), id, 0);
    let entry = sender.batch();
    let sent = append_of(cluster.on(GATEWAY), id, entry, Some(batch_span())).await;
    assert_eq!(sent, Ok(()));
    let call = cluster.nodes.get_mut(&GATEWAY).unwrap().recorded.next().await.unwrap();
    let commit = cluster.nodes.get_mut(&owner).unwrap().recorded.next().await.unwrap();
    assert_eq!((call.name, commit.name), (SpanName::AppendBatch, SpanName::CommitBatch));
    assert_eq!(call.parent, Some(batch_span().span));
    assert_eq!(commit.parent, Some(call.context.span));
    assert_eq!(call.context.trace, commit.context.trace);
    assert!(call.error.is_none() && commit.error.is_none());
    // The owner's own batches need no call.
    let mut own = BatchSender::new(cluster.on(owner), id, 0);
    let entry = own.batch();
    let sent = append_of(cluster.on(owner), id, entry, Some(batch_span())).await;
    assert_eq!(sent, Ok(()));
    let commit = cluster.nodes.get_mut(&owner).unwrap().recorded.next().await.unwrap();
    assert_eq!(
        (commit.name, commit.parent),
        (SpanName::CommitBatch, Some(batch_span().span))
    );
}

#[tokio::test(start_paused = true)]
async fn an_owner_of_an_earlier_version_gets_each_batch_once_and_in_order() {
    let mut cluster = Cluster::with(31, config(), CORE.to_vec()).await;
    let id = PartitionId(2);
    let owner: NodeId = cluster.owner_everywhere(id).await.node;
    let mut sender = BatchSender::new(cluster.on(GATEWAY), id, 0);
    for _ in 0..5 {
        let entry = sender.batch();
        let sent = append_of(cluster.on(GATEWAY), id, entry, Some(batch_span())).await;
        assert_eq!(sent, Ok(()), "the first one is sent again without its context");
    }
    let mut next = 0;
    let bodies = read(&mut oldest(cluster.on(GATEWAY), id).await, &mut next, 10).await;
    let expected: Vec<String> = (0..10).map(|number| format!("{GATEWAY}/0/{number}")).collect();
    assert_eq!(bodies, expected);
    for _ in 0..5 {
        let call = cluster.nodes.get_mut(&GATEWAY).unwrap().recorded.next().await.unwrap();
        assert_eq!((call.name, call.error), (SpanName::AppendBatch, None));
    }
    let at_owner = &mut cluster.nodes.get_mut(&owner).unwrap().recorded;
    let nothing = tokio::time::timeout(std::time::Duration::from_secs(1), at_owner.next()).await;
    assert!(nothing.is_err(), "it knows no contexts");
}
