//! Uploads and downloads: a stream of their own each, on the second connection, so that calls never wait for them.
//!
//! Invariants: a stream is complete only with its end item; one that stops without it, or whose connection ends, gives
//! [`CallError::Unknown`]. Chunks are pulled as the other side takes them: at most a window of one stream is on the way.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use holdfast_consensus::transport::{Answer, Call, CallError, Chunks, MAX_CHUNK_BYTES};
use holdfast_tasks::sync::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::accept::{Caller, Conn};
use super::codec::Batch;
use super::dial::{exchange, words};
use super::frame::{AnswerHead, CallHead, Item, Items, Outcome, Part, Violation};
use super::link;
use super::service::{self, Frameful, allowed};
use super::state::{Peer, Shared, Way, unknown};
use super::wire::Sender;

/// The number of the one call of a stream.
const ID: u64 = 0;

fn begin(call: &Call) -> Result<Part, CallError> {
    let total: usize = call.body.iter().map(Bytes::len).sum();
    if total > MAX_CHUNK_BYTES {
        return Err(CallError::NotSent(
            "the head of a stream is longer than a chunk may be".into(),
        ));
    }
    let head = CallHead {
        id: ID,
        service: call.service as u8,
        target: call.target,
        patience_ms: u32::try_from(call.timeout.as_millis()).unwrap_or(u32::MAX),
        // At most MAX_CHUNK_BYTES.
        total: total as u32,
    };
    Ok(Part::call(head, call.body.clone()))
}

/// The connection for streams towards a node, opened when there is none, and the right to one more stream.
async fn sender(shared: &Shared, node: u64, patience: Duration) -> Result<(Sender, OwnedSemaphorePermit), CallError> {
    let not_sent = |why: &str| CallError::NotSent(format!("node {node}: {why}").into());
    let peer: Arc<Peer> = shared.peer(node).ok_or_else(|| unknown(node))?;
    let permit = Arc::clone(&peer.streams_left)
        .try_acquire_owned()
        .map_err(|_| not_sent("too many streams are under way"))?;
    let mut streams = peer.streams.subscribe();
    let usable = |sender: &Option<Sender>| sender.as_ref().is_some_and(|sender| !sender.is_closed());
    if !usable(&streams.borrow_and_update()) {
        if let Way::Down(why) = &*peer.way.read() {
            return Err(not_sent(why));
        }
        peer.streams_wanted.notify_one();
    }
    let patience = patience.min(shared.config.connect_timeout);
    let found = match timeout(patience, streams.wait_for(usable)).await {
        Ok(Ok(sender)) => sender.clone(),
        _ => None,
    };
    shared.metrics.streams.increment(1);
    Ok((found.ok_or_else(|| not_sent("no connection for streams"))?, permit))
}

/// How far an upload has come.
#[derive(Default)]
struct Progress {
    taken: AtomicU64,
    /// The source has nothing yet: the other side is not to blame.
    starved: AtomicBool,
    failed: Mutex<Option<CallError>>,
    /// Nobody waits for the answer any more.
    abandoned: AtomicBool,
    /// Who sends, while the source has nothing.
    sender: Mutex<Option<Waker>>,
}

/// Ends an upload whose caller is gone: HTTP/2 would pull its source on.
struct Interest(Arc<Progress>);

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Release);
        let sender = self.0.sender.lock().take();
        if let Some(sender) = sender {
            sender.wake();
        }
    }
}

/// What an upload sends: its call, its chunks, its end.
struct Uploading {
    first: Option<Part>,
    chunks: Option<Chunks>,
    progress: Arc<Progress>,
}

impl Stream for Uploading {
    type Item = Batch;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Batch>> {
        let this = &mut *self;
        this.progress.taken.fetch_add(1, Ordering::Relaxed);
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(vec![first]));
        }
        let Some(chunks) = &mut this.chunks else {
            return Poll::Ready(None);
        };
        let next = match chunks.poll_next_unpin(cx) {
            Poll::Pending => {
                this.progress.starved.store(true, Ordering::Relaxed);
                *this.progress.sender.lock() = Some(cx.waker().clone());
                // After the waker is there, so that whoever abandons sees it.
                if !this.progress.abandoned.load(Ordering::Acquire) {
                    return Poll::Pending;
                }
                Some(Err(CallError::Unknown("abandoned".into())))
            }
            Poll::Ready(_) if this.progress.abandoned.load(Ordering::Acquire) => {
                Some(Err(CallError::Unknown("abandoned".into())))
            }
            Poll::Ready(next) => next,
        };
        this.progress.starved.store(false, Ordering::Relaxed);
        let part = match next {
            Some(Ok(chunk)) if chunk.len() <= MAX_CHUNK_BYTES => {
                return Poll::Ready(Some(vec![Part::more(ID, vec![chunk])]));
            }
            Some(Ok(_)) => {
                let error = CallError::Unknown("a chunk is longer than any may be".into());
                *this.progress.failed.lock() = Some(error);
                Part::dropped(ID)
            }
            Some(Err(error)) => {
                *this.progress.failed.lock() = Some(error);
                Part::dropped(ID)
            }
            None => Part::end(),
        };
        this.chunks = None;
        Poll::Ready(Some(vec![part]))
    }
}

/// See [`Transport::upload`](holdfast_consensus::transport::Transport::upload).
pub(crate) fn upload(shared: Arc<Shared>, node: u64, call: Call, chunks: Chunks) -> Answer {
    if node == shared.node() && shared.peer(node).is_none() {
        return match shared.dispatch.handler(call.service) {
            Some(handler) => handler.upload(node, call.target, super::state::joined(call.body), chunks),
            None => holdfast_consensus::transport::refused("the node is starting"),
        };
    }
    Box::pin(async move {
        let first = begin(&call)?;
        let (sender, _permit) = sender(&shared, node, call.timeout).await?;
        let progress = Arc::new(Progress::default());
        let _interest = Interest(Arc::clone(&progress));
        let out = Uploading {
            first: Some(first),
            chunks: Some(chunks),
            progress: Arc::clone(&progress),
        };
        let lost = |why: &str| CallError::Unknown(format!("node {node}: {why}").into());
        let answering = async {
            let mut answers = exchange(&sender, service::UPLOAD, out)
                .await
                .map_err(|status| lost(&words(&status)))?;
            match answers.next().await {
                Some(Ok(frame)) => answered(node, frame),
                Some(Err(status)) => Err(lost(&words(&status))),
                None => Err(lost("it closed the stream")),
            }
        };
        let mut answering = std::pin::pin!(answering);
        let mut seen = 0;
        let outcome = loop {
            match timeout(call.timeout, &mut answering).await {
                Ok(outcome) => break outcome,
                Err(_) => {
                    let taken = progress.taken.load(Ordering::Relaxed);
                    if taken == seen && !progress.starved.load(Ordering::Relaxed) {
                        break Err(lost("it does not take the stream on"));
                    }
                    seen = taken;
                }
            }
        };
        match progress.failed.lock().take() {
            Some(error) => Err(error),
            None => outcome,
        }
    })
}

/// The one answer of an upload.
fn answered(node: u64, frame: Bytes) -> Result<Bytes, CallError> {
    match Items::new(frame).next() {
        Some(Ok(Item::Answer(head, body))) if body.len() == head.total as usize => {
            link::outcome(node, head.outcome, body)
        }
        _ => Err(CallError::Unknown(format!("node {node} broke the protocol").into())),
    }
}

/// Chunks as they arrive, until their end.
struct Arriving {
    frames: Streaming<Bytes>,
    /// The items of a frame that are still to be looked at.
    items: Option<Items>,
    node: u64,
    ended: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Arriving {
    fn lost(&self, why: &str) -> CallError {
        CallError::Unknown(format!("node {}: {why}", self.node).into())
    }

    fn item(&self, item: Result<Item, Violation>) -> Option<Result<Bytes, CallError>> {
        match item {
            Ok(Item::More(ID, chunk)) => Some(Ok(chunk)),
            Ok(Item::End) => None,
            Ok(Item::Drop(ID)) => Some(Err(self.lost("it gave the stream up"))),
            Ok(Item::Answer(head, body)) => Some(match link::outcome(self.node, head.outcome, body) {
                Ok(_) => Err(self.lost("it broke the protocol")),
                Err(error) => Err(error),
            }),
            Ok(_) => Some(Err(self.lost("it broke the protocol"))),
            Err(violation) => Some(Err(self.lost(&format!("it broke the protocol: {violation}")))),
        }
    }
}

impl Stream for Arriving {
    type Item = Result<Bytes, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            if let Some(item) = this.items.as_mut().and_then(Iterator::next) {
                let item = this.item(item);
                this.ended = !matches!(item, Some(Ok(_)));
                return Poll::Ready(item);
            }
            match this.frames.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => this.items = Some(Items::new(frame)),
                Poll::Ready(Some(Err(status))) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(this.lost(&words(&status)))));
                }
                Poll::Ready(None) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(this.lost("the stream was cut off"))));
                }
            }
        }
    }
}

/// See [`Transport::download`](holdfast_consensus::transport::Transport::download).
pub(crate) fn download(shared: Arc<Shared>, node: u64, call: Call) -> Chunks {
    if node == shared.node() && shared.peer(node).is_none() {
        return match shared.dispatch.handler(call.service) {
            Some(handler) => handler.download(node, call.target, super::state::joined(call.body)),
            None => failed(CallError::Refused("the node is starting".into())),
        };
    }
    let opening = async move {
        let first = begin(&call)?;
        let (sender, permit) = sender(&shared, node, call.timeout).await?;
        let lost = |why: &str| CallError::Unknown(format!("node {node}: {why}").into());
        let asking = async {
            let frames = exchange(&sender, service::DOWNLOAD, stream::iter([vec![first]]))
                .await
                .map_err(|status| lost(&words(&status)))?;
            let mut arriving = Arriving {
                frames,
                items: None,
                node,
                ended: false,
                _permit: Some(permit),
            };
            let chunk = arriving.next().await;
            Ok::<_, CallError>((chunk, arriving))
        };
        match timeout(call.timeout, asking).await {
            Ok(opened) => opened,
            Err(_) => Err(lost("it has not answered in time")),
        }
    };
    Box::pin(stream::once(opening).flat_map(|opened| -> Chunks {
        match opened {
            Ok((chunk, arriving)) => Box::pin(stream::iter(chunk).chain(arriving)),
            Err(error) => failed(error),
        }
    }))
}

fn failed(error: CallError) -> Chunks {
    Box::pin(stream::iter([Err(error)]))
}

/// The call that a stream begins with.
async fn first(frames: &mut Streaming<Bytes>) -> Result<(CallHead, Bytes, Items), Status> {
    let Some(frame) = frames.next().await else {
        return Err(Status::invalid_argument("a stream without a call"));
    };
    let mut items = Items::new(frame?);
    match items.next() {
        Some(Ok(Item::Call(head, body))) if body.len() == head.total as usize => Ok((head, body, items)),
        _ => Err(Status::invalid_argument("a stream begins with a call")),
    }
}

fn reply(outcome: Result<Bytes, CallError>) -> Batch {
    let (outcome, body) = match outcome {
        Ok(body) if body.len() > MAX_CHUNK_BYTES => (
            Outcome::Unknown,
            Bytes::from_static(b"the answer is longer than any may be"),
        ),
        Ok(body) => (Outcome::Done, body),
        Err(CallError::Refused(text)) => (Outcome::Refused, super::session::short(&text)),
        Err(CallError::Unknown(text)) => (Outcome::Unknown, super::session::short(&text)),
        Err(CallError::NotSent(text)) => (Outcome::NotCarriedOut, super::session::short(&text)),
    };
    let head = AnswerHead {
        id: ID,
        outcome,
        // At most MAX_CHUNK_BYTES.
        total: body.len() as u32,
    };
    vec![Part::answer(head, vec![body])]
}

/// The called side of an upload.
pub(crate) fn take_upload(conn: Arc<Conn>, caller: Caller, mut frames: Streaming<Bytes>) -> Frameful {
    Box::pin(stream::once(async move {
        let (head, body, items) = first(&mut frames).await?;
        let service = match allowed(&caller, head.service) {
            Ok(service) => service,
            Err(why) => return Ok(reply(Err(CallError::Refused(why.into())))),
        };
        let Some(handler) = conn.shared.dispatch.handler(service) else {
            return Ok(reply(Err(CallError::Refused("the node is starting".into()))));
        };
        let chunks = Box::pin(Arriving {
            frames,
            items: Some(items),
            node: caller.node,
            ended: false,
            _permit: None,
        });
        Ok(reply(handler.upload(caller.node, head.target, body, chunks).await))
    }))
}

/// What a download sends: its chunks, then its end or its error.
struct Giving {
    chunks: Option<Chunks>,
}

impl Stream for Giving {
    type Item = Result<Batch, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(chunks) = &mut self.chunks else {
            return Poll::Ready(None);
        };
        let batch = match chunks.poll_next_unpin(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(chunk))) if chunk.len() <= MAX_CHUNK_BYTES => {
                return Poll::Ready(Some(Ok(vec![Part::more(ID, vec![chunk])])));
            }
            Poll::Ready(Some(Ok(_))) => reply(Err(CallError::Unknown("a chunk is longer than any may be".into()))),
            Poll::Ready(Some(Err(error))) => reply(Err(error)),
            Poll::Ready(None) => vec![Part::end()],
        };
        self.chunks = None;
        Poll::Ready(Some(Ok(batch)))
    }
}

/// The called side of a download.
pub(crate) fn give_download(conn: Arc<Conn>, caller: Caller, mut frames: Streaming<Bytes>) -> Frameful {
    let opening = async move {
        let (head, body, _) = first(&mut frames).await?;
        let refused = |why: &str| failed(CallError::Refused(why.into()));
        let chunks = match allowed(&caller, head.service) {
            Err(why) => refused(why),
            Ok(service) => match conn.shared.dispatch.handler(service) {
                None => refused("the node is starting"),
                Some(handler) => handler.download(caller.node, head.target, body),
            },
        };
        Ok::<_, Status>(Giving { chunks: Some(chunks) })
    };
    Box::pin(stream::once(opening).flat_map(|opened| -> Frameful {
        match opened {
            Ok(giving) => Box::pin(giving),
            Err(status) => Box::pin(stream::iter([Err(status)])),
        }
    }))
}
