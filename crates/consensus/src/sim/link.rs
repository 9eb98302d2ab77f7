//! One direction between two nodes: a queue of calls, delivered in order.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use holdfast_model::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Fate, MAX_UNDER_WAY, SimNetwork, crashed, down, ended, silent};
use crate::transport::{Call, CallError, Chunks};

type Answered = oneshot::Receiver<Result<Bytes, CallError>>;

/// A call in flight.
pub(super) struct Flight {
    arrives: Instant,
    call: Call,
    chunks: Option<Chunks>,
    answer: oneshot::Sender<Result<Bytes, CallError>>,
}

pub(super) type Queue = mpsc::Sender<Flight>;

/// Sends a call.
pub(super) fn send(
    network: &SimNetwork,
    from: NodeId,
    to: NodeId,
    call: Call,
    chunks: Option<Chunks>,
) -> Result<Answered, CallError> {
    let (answer, answered) = oneshot::channel();
    let fate = network.fate(from, to, chunks.is_none());
    let queue = queue(network, from, to);
    let Fate::Arrives(arrives) = fate else {
        let (streams, timeout) = (chunks.is_some(), call.timeout);
        holdfast_tasks::spawn("sim-lost", lose(answer, to, streams.then_some(timeout)));
        return Ok(answered);
    };
    let flight = Flight {
        arrives,
        call,
        chunks,
        answer,
    };
    queue
        .try_send(flight)
        .map_err(|_| CallError::NotSent(format!("too many calls are in flight to node {to}").into()))?;
    Ok(answered)
}

/// Keeps a lost call open until its time-out, which for a stream is watched only here.
async fn lose(mut answer: oneshot::Sender<Result<Bytes, CallError>>, to: NodeId, timeout: Option<std::time::Duration>) {
    let Some(timeout) = timeout else {
        return answer.closed().await;
    };
    tokio::time::sleep(timeout).await;
    drop(answer.send(Err(silent(to))));
}

fn queue(network: &SimNetwork, from: NodeId, to: NodeId) -> Queue {
    let mut state = network.0.lock();
    state.calls += 1;
    if let Some(queue) = state.links.get(&(from, to)).filter(|queue| !queue.is_closed()) {
        return queue.clone();
    }
    let (queue, mut flights) = mpsc::channel::<Flight>(MAX_UNDER_WAY);
    state.links.insert((from, to), queue.clone());
    // The queue ends with the network: the task must not keep it alive.
    let network = std::sync::Arc::downgrade(&network.0);
    holdfast_tasks::spawn("sim-link", async move {
        while let Some(flight) = flights.recv().await {
            tokio::time::sleep_until(flight.arrives).await;
            let Some(network) = network.upgrade().map(SimNetwork) else {
                return;
            };
            deliver(network, from, to, flight);
        }
    });
    queue
}

/// Hands the call to the node's service, in order; its answer is delayed separately.
fn deliver(network: SimNetwork, from: NodeId, to: NodeId, flight: Flight) {
    let Flight {
        call, chunks, answer, ..
    } = flight;
    let Some((dispatch, running)) = network.dispatch(to) else {
        drop(answer.send(Err(down(to))));
        return;
    };
    let timeout = chunks.is_some().then_some(call.timeout);
    let body = joined(call.body);
    let answering = match (chunks, dispatch.handler(call.service)) {
        (None, _) => dispatch.call(from, call.service, call.target, body),
        (Some(chunks), Some(handler)) => {
            let chunks = timed(network.clone(), (from, to), call.timeout, chunks);
            handler.upload(from, call.target, body, chunks)
        }
        (Some(_), None) => crate::transport::refused("the node is starting"),
    };
    holdfast_tasks::spawn("sim-answer", async move {
        let result = tokio::select! {
            biased;
            () = ended(running) => Err(crashed(to)),
            result = answering => result,
        };
        match network.fate(to, from, true) {
            Fate::Arrives(at) => {
                tokio::time::sleep_until(at).await;
                drop(answer.send(result));
            }
            Fate::Lost => lose(answer, to, timeout).await,
        }
    });
}

/// Chunks from one node to another, each of which is delayed and may be cut off.
fn timed(network: SimNetwork, (from, to): (NodeId, NodeId), timeout: std::time::Duration, chunks: Chunks) -> Chunks {
    Box::pin(stream::unfold(Some(chunks), move |chunks| {
        let network = network.clone();
        async move {
            let mut chunks = chunks?;
            let next = async {
                let chunk = chunks.next().await?;
                match network.fate(from, to, false) {
                    Fate::Arrives(at) => tokio::time::sleep_until(at).await,
                    Fate::Lost => std::future::pending().await,
                }
                // The sender's end is noticed as soon as its node is down.
                network
                    .dispatch(from)
                    .map(|_| chunk)
                    .or_else(|| Some(Err(crashed(from))))
            };
            match tokio::time::timeout(timeout, next).await {
                Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(chunks))),
                Ok(Some(Err(error))) => Some((Err(error), None)),
                Ok(None) => None,
                Err(_) => Some((Err(silent(from)), None)),
            }
        }
    }))
}

/// Chunks that `from` has requested from `to`.
pub(super) fn download(network: SimNetwork, from: NodeId, to: NodeId, call: Call) -> Chunks {
    let timeout = call.timeout;
    let open = async move {
        let arrives = async {
            match network.fate(from, to, false) {
                Fate::Arrives(at) => tokio::time::sleep_until(at).await,
                Fate::Lost => std::future::pending().await,
            }
        };
        if tokio::time::timeout(timeout, arrives).await.is_err() {
            return failed(silent(to));
        }
        let Some((dispatch, _)) = network.dispatch(to) else {
            return failed(down(to));
        };
        match dispatch.handler(call.service) {
            Some(handler) => {
                let chunks = handler.download(from, call.target, joined(call.body));
                timed_download(network, (to, from), timeout, chunks)
            }
            None => failed(CallError::Refused("the node is starting".into())),
        }
    };
    Box::pin(stream::once(open).flatten())
}

/// As [`timed`], except that silence does not end the stream: only a chunk that is cut off ends it, and the time-out is
/// for the first chunk.
fn timed_download(
    network: SimNetwork,
    (from, to): (NodeId, NodeId),
    timeout: std::time::Duration,
    chunks: Chunks,
) -> Chunks {
    Box::pin(stream::unfold(Some((chunks, true)), move |state| {
        let network = network.clone();
        async move {
            let (mut chunks, first) = state?;
            let Some((_, running)) = network.dispatch(from) else {
                return Some((Err(crashed(from)), None));
            };
            let quiet = async {
                match first {
                    true => tokio::time::sleep(timeout).await,
                    false => std::future::pending().await,
                }
            };
            let chunk = tokio::select! {
                biased;
                () = ended(running) => Some(Err(crashed(from))),
                chunk = chunks.next() => chunk,
                () = quiet => Some(Err(silent(from))),
            };
            match chunk? {
                Ok(chunk) => match network.fate(from, to, false) {
                    Fate::Arrives(at) => {
                        tokio::time::sleep_until(at).await;
                        Some((Ok(chunk), Some((chunks, false))))
                    }
                    Fate::Lost => {
                        tokio::time::sleep(timeout).await;
                        Some((Err(silent(from)), None))
                    }
                },
                Err(error) => Some((Err(error), None)),
            }
        }
    }))
}

fn failed(error: CallError) -> Chunks {
    Box::pin(stream::iter([Err(error)]))
}

/// The segments as they arrive: as one body.
fn joined(mut segments: Vec<Bytes>) -> Bytes {
    match segments.len() {
        0 => Bytes::new(),
        1 => segments.swap_remove(0),
        _ => {
            let mut body = BytesMut::with_capacity(segments.iter().map(Bytes::len).sum());
            segments.iter().for_each(|segment| body.extend_from_slice(segment));
            body.freeze()
        }
    }
}
