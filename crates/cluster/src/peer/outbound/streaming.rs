//! Uploads and downloads, calling side. Each is an HTTP/2 stream of the second connection, so that calls never wait for
//! them.
//!
//! Invariants: a stream is complete only with its end item; one that stops without it, or whose connection ends, gives
//! [`CallError::Unknown`]. Chunks are pulled as the receiver takes them: at most one window of a stream is in flight.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use holdfast_consensus::transport::{Answer, Call, CallError, Chunks, MAX_CHUNK_BYTES};
use holdfast_model::NodeId;
use holdfast_tasks::sync::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::peer::chunk_reader::ChunkReader;
use crate::peer::error_text;
use crate::peer::peer_table::{ConnectionState, Peer, PeerTable, concat, unknown_node};
use crate::peer::protocol::frame::{Batch, CallHead, Item, Items, Part, STREAM_ID};
use crate::peer::protocol::outcome;
use crate::peer::transport::grpc::{self, exchange_frames};
use crate::peer::transport::http2::Sender;

/// The first item of a stream.
fn first_item(call: &Call) -> Result<Part, CallError> {
    let total: usize = call.body.iter().map(Bytes::len).sum();
    if total > MAX_CHUNK_BYTES {
        return Err(CallError::NotSent(
            "the call of a stream is longer than the limit of a chunk".into(),
        ));
    }
    let head = CallHead {
        id: STREAM_ID,
        service: call.service as u8,
        target: call.target,
        timeout_ms: u32::try_from(call.timeout.as_millis()).unwrap_or(u32::MAX),
        // At most MAX_CHUNK_BYTES.
        total: total as u32,
    };
    Ok(Part::call(head, call.body.clone()))
}

/// The connection for streams to a node, opened if there is none, and the permit for one more stream.
async fn stream_sender(
    table: &PeerTable,
    node: NodeId,
    limit: Duration,
) -> Result<(Sender, OwnedSemaphorePermit), CallError> {
    let not_sent = |reason: &str| CallError::NotSent(format!("node {node}: {reason}").into());
    let peer: Arc<Peer> = table.peer(node).ok_or_else(|| unknown_node(node))?;
    let permit = Arc::clone(&peer.stream_permits)
        .try_acquire_owned()
        .map_err(|_| not_sent("too many streams are open"))?;
    let mut streams = peer.streams.subscribe();
    let usable = |sender: &Option<Sender>| sender.as_ref().is_some_and(|sender| !sender.is_closed());
    if !usable(&streams.borrow_and_update()) {
        if let ConnectionState::Down(reason) = &*peer.state.read() {
            return Err(not_sent(reason));
        }
        peer.streams_requested.notify_one();
    }
    let limit = limit.min(table.config.connect_timeout);
    let sender = match timeout(limit, streams.wait_for(usable)).await {
        Ok(Ok(sender)) => sender.clone(),
        _ => None,
    };
    table.metrics.streams.increment(1);
    Ok((sender.ok_or_else(|| not_sent("no connection for streams"))?, permit))
}

/// The progress of an upload.
#[derive(Default)]
struct Progress {
    /// Chunks that the receiver has pulled.
    pulled: AtomicU64,
    /// The source has no chunk yet, so the receiver is not at fault.
    starved: AtomicBool,
    failed: Mutex<Option<CallError>>,
    /// The caller is gone.
    abandoned: AtomicBool,
    /// The task that sends, while it waits for the source.
    sender: Mutex<Option<Waker>>,
}

/// Ends an upload when its caller is gone; otherwise HTTP/2 would continue to pull the source.
struct AbandonOnDrop(Arc<Progress>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Release);
        let sender = self.0.sender.lock().take();
        if let Some(sender) = sender {
            sender.wake();
        }
    }
}

/// The frames of an upload: its call, its chunks, its end.
struct UploadFrames {
    first: Option<Part>,
    chunks: Option<Chunks>,
    progress: Arc<Progress>,
}

impl Stream for UploadFrames {
    type Item = Batch;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Batch>> {
        let this = &mut *self;
        this.progress.pulled.fetch_add(1, Ordering::Relaxed);
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
                // Checked after the waker is stored, so that a drop in between wakes it.
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
                return Poll::Ready(Some(vec![Part::more(STREAM_ID, vec![chunk])]));
            }
            Some(Ok(_)) => {
                let error = CallError::Unknown("a chunk is longer than the limit".into());
                *this.progress.failed.lock() = Some(error);
                Part::dropped(STREAM_ID)
            }
            Some(Err(error)) => {
                *this.progress.failed.lock() = Some(error);
                Part::dropped(STREAM_ID)
            }
            None => Part::end(),
        };
        this.chunks = None;
        Poll::Ready(Some(vec![part]))
    }
}

/// See [`Transport::upload`](holdfast_consensus::transport::Transport::upload).
pub(crate) fn upload(table: Arc<PeerTable>, node: NodeId, call: Call, chunks: Chunks) -> Answer {
    if node == table.node() && table.peer(node).is_none() {
        return match table.dispatch.handler(call.service) {
            Some(handler) => handler.upload(node, call.target, concat(call.body), chunks),
            None => holdfast_consensus::transport::refused("the node is starting"),
        };
    }
    Box::pin(async move {
        let first = first_item(&call)?;
        let (sender, _permit) = stream_sender(&table, node, call.timeout).await?;
        let progress = Arc::new(Progress::default());
        let _abandon = AbandonOnDrop(Arc::clone(&progress));
        let out = UploadFrames {
            first: Some(first),
            chunks: Some(chunks),
            progress: Arc::clone(&progress),
        };
        let lost = |reason: &str| CallError::Unknown(format!("node {node}: {reason}").into());
        let answering = async {
            let mut answers = exchange_frames(&sender, grpc::UPLOAD, out)
                .await
                .map_err(|status| lost(&error_text::of_status(&status)))?;
            match answers.next().await {
                Some(Ok(frame)) => decode_answer(node, frame),
                Some(Err(status)) => Err(lost(&error_text::of_status(&status))),
                None => Err(lost("it closed the stream")),
            }
        };
        let mut answering = std::pin::pin!(answering);
        let mut seen = 0;
        let outcome = loop {
            match timeout(call.timeout, &mut answering).await {
                Ok(outcome) => break outcome,
                Err(_) => {
                    let pulled = progress.pulled.load(Ordering::Relaxed);
                    if pulled == seen && !progress.starved.load(Ordering::Relaxed) {
                        break Err(lost("it has stopped taking the stream"));
                    }
                    seen = pulled;
                }
            }
        };
        match progress.failed.lock().take() {
            Some(error) => Err(error),
            None => outcome,
        }
    })
}

/// The answer to an upload.
fn decode_answer(node: NodeId, frame: Bytes) -> Result<Bytes, CallError> {
    match Items::new(frame).next() {
        Some(Ok(Item::Answer(head, body))) if body.len() == head.total as usize => {
            outcome::decode(node, head.outcome, body)
        }
        _ => Err(CallError::Unknown(format!("node {node} broke the protocol").into())),
    }
}

/// See [`Transport::download`](holdfast_consensus::transport::Transport::download).
pub(crate) fn download(table: Arc<PeerTable>, node: NodeId, call: Call) -> Chunks {
    if node == table.node() && table.peer(node).is_none() {
        return match table.dispatch.handler(call.service) {
            Some(handler) => handler.download(node, call.target, concat(call.body)),
            None => failed(CallError::Refused("the node is starting".into())),
        };
    }
    let opening = async move {
        let first = first_item(&call)?;
        let (sender, permit) = stream_sender(&table, node, call.timeout).await?;
        let lost = |reason: &str| CallError::Unknown(format!("node {node}: {reason}").into());
        let starting = async {
            let frames = exchange_frames(&sender, grpc::DOWNLOAD, stream::iter([vec![first]]))
                .await
                .map_err(|status| lost(&error_text::of_status(&status)))?;
            let mut reader = ChunkReader::new(frames, None, node, Some(permit));
            let chunk = reader.next().await;
            Ok::<_, CallError>((chunk, reader))
        };
        match timeout(call.timeout, starting).await {
            Ok(opened) => opened,
            Err(_) => Err(lost("it has not answered in time")),
        }
    };
    Box::pin(stream::once(opening).flat_map(|opened| -> Chunks {
        match opened {
            Ok((chunk, reader)) => Box::pin(stream::iter(chunk).chain(reader)),
            Err(error) => failed(error),
        }
    }))
}

fn failed(error: CallError) -> Chunks {
    Box::pin(stream::iter([Err(error)]))
}
