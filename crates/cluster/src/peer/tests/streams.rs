//! Uploads and downloads: complete, refused, cut, abandoned, and beside calls.

use super::*;
use std::pin::Pin;
use std::task::{Context, Poll};

fn chunks(count: usize) -> Chunks {
    Box::pin(stream::iter(0..count).map(|_| Ok(vec![1; MAX_CHUNK_BYTES].into())))
}

#[tokio::test]
async fn an_upload_arrives_complete_and_is_answered() {
    let (_authority, one, _two) = pair().await;
    let answer = one.peers.upload(NodeId(2), call(b"head"), chunks(40)).await.unwrap();
    assert_eq!(answer, format!("40 {}", 4 + 40 * MAX_CHUNK_BYTES));
    assert_eq!(one.peers.upload(NodeId(2), call(b""), chunks(0)).await.unwrap(), "0 0");
}

#[tokio::test]
async fn a_handler_that_stops_early_answers_at_once() {
    let (_authority, one, _two) = pair().await;
    let outcome = one.peers.upload(NodeId(2), call(b"stop"), chunks(100_000)).await;
    assert_eq!(outcome, Err(CallError::Refused("enough".into())));
}

#[tokio::test]
async fn an_upload_whose_source_fails_is_never_complete() {
    let (_authority, one, _two) = pair().await;
    let source = stream::iter([
        Ok(Bytes::from_static(b"some")),
        Err(CallError::Unknown("the disk".into())),
    ]);
    let outcome = one.peers.upload(NodeId(2), call(b""), Box::pin(source)).await;
    assert_eq!(outcome, Err(CallError::Unknown("the disk".into())));
    let too_long = stream::iter([Ok(vec![0; MAX_CHUNK_BYTES + 1].into())]);
    assert!(
        one.peers
            .upload(NodeId(2), call(b""), Box::pin(too_long))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_slow_source_does_not_time_out() {
    let (_authority, one, _two) = pair().await;
    // Opens the connection for streams.
    one.peers.upload(NodeId(2), call(b""), chunks(0)).await.unwrap();
    let source = stream::iter(0..2).then(|_| async {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        Ok(Bytes::from_static(b"x"))
    });
    let patient = Call {
        timeout: Duration::from_millis(500),
        ..call(b"")
    };
    assert_eq!(
        one.peers.upload(NodeId(2), patient, Box::pin(source)).await.unwrap(),
        "2 2"
    );
}

#[tokio::test]
async fn a_download_arrives_in_order_and_ends() {
    let (_authority, one, _two) = pair().await;
    let mut chunks = one.peers.download(NodeId(2), call(b"40"));
    for i in 0..40_u8 {
        let chunk = chunks.next().await.unwrap().unwrap();
        assert!(chunk.len() == MAX_CHUNK_BYTES && chunk[0] == i);
    }
    assert!(chunks.next().await.is_none());
    let mut none = one.peers.download(NodeId(2), call(b"none"));
    assert_eq!(none.next().await, Some(Err(CallError::Refused("nothing there".into()))));
    assert!(none.next().await.is_none());
    let early = Call {
        service: Service::Session,
        ..call(b"1")
    };
    assert!(matches!(
        one.peers.download(NodeId(2), early).next().await,
        Some(Err(CallError::Refused(_)))
    ));
}

#[tokio::test]
async fn unread_downloads_block_neither_calls_nor_other_downloads() {
    let (_authority, one, _two) = pair().await;
    let mut stalled = Vec::new();
    // More than a window that is shared by all streams of a connection.
    for _ in 0..20 {
        let mut chunks = one.peers.download(NodeId(2), call(b"9"));
        chunks.next().await.unwrap().unwrap();
        stalled.push(chunks);
    }
    assert_eq!(one.ask(NodeId(2), b"hello").await.unwrap(), "hello");
    let all = one.peers.download(NodeId(2), call(b"9")).count().await;
    assert_eq!(all, 9);
    for chunks in stalled {
        assert_eq!(chunks.count().await, 8, "they continue when they are read");
    }
}

#[tokio::test]
async fn a_cut_stream_ends_with_an_error() {
    let (_authority, one, two) = pair().await;
    let mut chunks = one.peers.download(NodeId(2), call(b"10000"));
    chunks.next().await.unwrap().unwrap();
    drop(two);
    let cut = loop {
        match chunks.next().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(cut, Some(Err(CallError::Unknown(_)))), "{cut:?}");
    assert!(chunks.next().await.is_none());
}

/// Notifies when it is dropped.
struct NotifyOnDrop(Option<tokio::sync::oneshot::Sender<()>>);

impl stream::Stream for NotifyOnDrop {
    type Item = Result<Bytes, CallError>;

    fn poll_next(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Ok(vec![0; 1000].into())))
    }
}

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.take().map(|tell| tell.send(()));
    }
}

struct Endless(holdfast_tasks::sync::Mutex<Option<NotifyOnDrop>>);

impl Handler for Endless {
    fn call(&self, _from: NodeId, _target: u32, _body: Bytes) -> Answer {
        holdfast_consensus::transport::refused("")
    }

    fn download(&self, _from: NodeId, _target: u32, _body: Bytes) -> Chunks {
        Box::pin(self.0.lock().take().unwrap())
    }
}

#[tokio::test]
async fn dropping_a_download_ends_it_on_the_other_node() {
    let (_authority, one, two) = pair().await;
    let (tell, told) = tokio::sync::oneshot::channel();
    let endless = Endless(holdfast_tasks::sync::Mutex::new(Some(NotifyOnDrop(Some(tell)))));
    two.dispatch.enter(Service::Session, Arc::new(endless));
    let endless = Call {
        service: Service::Session,
        ..call(b"")
    };
    let mut chunks = one.peers.download(NodeId(2), endless);
    chunks.next().await.unwrap().unwrap();
    drop(chunks);
    tokio::time::timeout(Duration::from_secs(5), told)
        .await
        .unwrap()
        .unwrap();
}

/// Records how an upload ended.
struct Records(holdfast_tasks::sync::Mutex<Option<tokio::sync::oneshot::Sender<Option<CallError>>>>);

impl Handler for Records {
    fn call(&self, _from: NodeId, _target: u32, _body: Bytes) -> Answer {
        holdfast_consensus::transport::refused("")
    }

    fn upload(&self, _from: NodeId, _target: u32, _body: Bytes, mut chunks: Chunks) -> Answer {
        let tell = self.0.lock().take().unwrap();
        Box::pin(async move {
            let mut end = None;
            while let Some(chunk) = chunks.next().await {
                end = chunk.err();
            }
            drop(tell.send(end));
            Ok(Bytes::new())
        })
    }
}

#[tokio::test]
async fn an_upload_that_is_abandoned_has_no_end() {
    let (_authority, one, two) = pair().await;
    let (tell, told) = tokio::sync::oneshot::channel();
    let records = Records(holdfast_tasks::sync::Mutex::new(Some(tell)));
    two.dispatch.enter(Service::Session, Arc::new(records));
    let endless = Call {
        service: Service::Session,
        ..call(b"")
    };
    let source = stream::iter([Ok(Bytes::from_static(b"x"))]).chain(stream::pending());
    let upload = one.peers.upload(NodeId(2), endless, Box::pin(source));
    assert!(tokio::time::timeout(Duration::from_millis(300), upload).await.is_err());
    // The handler is dropped with the stream, or sees an error: it never sees the end item.
    match tokio::time::timeout(Duration::from_secs(5), told).await.unwrap() {
        Ok(end) => assert!(matches!(end, Some(CallError::Unknown(_))), "{end:?}"),
        Err(_dropped) => {}
    }
}
