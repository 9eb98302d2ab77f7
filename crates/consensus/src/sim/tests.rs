use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::*;
use crate::transport::{Handler, Service};

/// Notes what arrives, and answers with it.
#[derive(Clone, Default)]
struct Echo(Arc<Mutex<Vec<Bytes>>>);

impl Handler for Echo {
    fn call(&self, _from: NodeId, _target: u32, body: Bytes) -> Answer {
        self.0.lock().push(body.clone());
        Box::pin(async move { Ok(body) })
    }

    fn upload(&self, _from: NodeId, _target: u32, _body: Bytes, mut chunks: Chunks) -> Answer {
        let all = self.0.clone();
        Box::pin(async move {
            while let Some(chunk) = chunks.next().await {
                all.lock().push(chunk?);
            }
            Ok(Bytes::new())
        })
    }

    fn download(&self, _from: NodeId, _target: u32, _body: Bytes) -> Chunks {
        let all: Vec<_> = self.0.lock().iter().cloned().map(Ok).collect();
        Box::pin(stream::iter(all).chain(stream::pending()))
    }
}

fn node(network: &SimNetwork, id: NodeId) -> (Arc<dyn Transport>, Echo) {
    let (dispatch, echo) = (Dispatch::new(), Echo::default());
    dispatch.enter(Service::Control, Arc::new(echo.clone()));
    (network.node(id, dispatch), echo)
}

fn call(body: &str) -> Call {
    let (first, second) = body.split_at(body.len() / 2);
    Call {
        service: Service::Control,
        target: 0,
        body: vec![first.to_owned().into(), second.to_owned().into()],
        timeout: Duration::from_secs(1),
    }
}

fn chunks(count: usize) -> Vec<Bytes> {
    (0..count).map(|number| number.to_string().into()).collect()
}

async fn course(seed: u64) -> (Vec<Bytes>, Duration) {
    let network = SimNetwork::new(seed);
    network.set_delay(Duration::ZERO..=Duration::from_millis(50));
    network.set_loss(0.2);
    let (from, _) = node(&network, NodeId(1));
    let (_to, echo) = node(&network, NodeId(2));
    let begun = Instant::now();
    let calls: Vec<_> = (0..100)
        .map(|number| from.call(NodeId(2), call(&format!("{number:03}"))))
        .collect();
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().any(Result::is_ok) && answers.iter().any(Result::is_err));
    let arrived = echo.0.lock().clone();
    (arrived, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn calls_arrive_in_their_order_and_a_seed_replays() {
    let (arrived, took) = course(1).await;
    assert!(arrived.is_sorted());
    assert!(arrived.len() < 100, "some are lost");
    assert_eq!(course(1).await, (arrived.clone(), took));
    assert!(course(2).await.0 != arrived);
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_silence_and_a_crash_is_an_error_at_once() {
    let network = SimNetwork::new(1);
    let (from, _) = node(&network, NodeId(1));
    let (to, echo) = node(&network, NodeId(2));
    network.cut_one_way(NodeId(2), NodeId(1));
    let begun = Instant::now();
    assert!(matches!(
        from.call(NodeId(2), call("heard")).await,
        Err(CallError::Unknown(_))
    ));
    assert_eq!((begun.elapsed().as_secs(), echo.0.lock().len()), (1, 1));
    assert!(matches!(
        to.call(NodeId(1), call("lost")).await,
        Err(CallError::Unknown(_))
    ));
    network.heal_all();
    assert_eq!(
        from.call(NodeId(2), call("whole")).await,
        Ok(Bytes::from_static(b"whole"))
    );
    network.isolate(NodeId(2));
    let cut = from.call(NodeId(2), call("cut"));
    network.crash(NodeId(2));
    let begun = Instant::now();
    assert!(
        matches!(cut.await, Err(CallError::Unknown(_))),
        "its connection is gone"
    );
    assert!(matches!(
        from.call(NodeId(2), call("down")).await,
        Err(CallError::NotSent(_))
    ));
    assert!(matches!(
        to.call(NodeId(1), call("dead")).await,
        Err(CallError::NotSent(_))
    ));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    network.heal_all();
    let (_, echo) = node(&network, NodeId(2));
    assert_eq!(
        from.call(NodeId(2), call("again")).await,
        Ok(Bytes::from_static(b"again"))
    );
    assert_eq!(echo.0.lock().len(), 1);
    assert!(matches!(
        from.call(NodeId(9), call("down")).await,
        Err(CallError::NotSent(_))
    ));
    let unknown = Call {
        service: Service::Session,
        ..call("nobody")
    };
    assert!(matches!(
        from.call(NodeId(2), unknown).await,
        Err(CallError::Refused(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn streams_go_both_ways_until_they_are_cut() {
    let network = SimNetwork::new(1);
    let (from, _) = node(&network, NodeId(1));
    let (_to, echo) = node(&network, NodeId(2));
    let upload = Box::pin(stream::iter(chunks(10).into_iter().map(Ok)));
    from.upload(NodeId(2), call("up"), upload).await.unwrap();
    assert_eq!(*echo.0.lock(), chunks(10));
    let mut download = from.download(NodeId(2), call("down"));
    for expected in chunks(10) {
        assert_eq!(download.next().await, Some(Ok(expected)));
    }
    // It is quiet now, which is no error; the end of its node is.
    assert!(
        tokio::time::timeout(Duration::from_secs(60), download.next())
            .await
            .is_err()
    );
    network.crash(NodeId(2));
    assert!(matches!(download.next().await, Some(Err(CallError::Unknown(_)))));
    assert_eq!(download.next().await, None);

    let (_to, echo) = node(&network, NodeId(2));
    let endless = Box::pin(stream::iter(chunks(3).into_iter().map(Ok)).chain(stream::pending()));
    let upload = from.upload(NodeId(2), call("up"), endless);
    assert!(
        matches!(upload.await, Err(CallError::Unknown(_))),
        "the timeout of a chunk has ended"
    );
    assert_eq!(*echo.0.lock(), chunks(3));
}
