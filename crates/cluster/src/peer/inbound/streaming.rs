//! Uploads and downloads, called side.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use holdfast_consensus::transport::{CallError, Chunks, MAX_CHUNK_BYTES};
use tonic::{Status, Streaming};

use super::connection::{Connection, permitted_service};
use crate::peer::chunk_reader::ChunkReader;
use crate::peer::peer_table::Caller;
use crate::peer::protocol::frame::{AnswerHead, Batch, CallHead, Item, Items, Part, STREAM_ID};
use crate::peer::protocol::outcome;
use crate::peer::transport::grpc::FrameStream;

/// Reads the call with which a stream starts.
async fn read_call(frames: &mut Streaming<Bytes>) -> Result<(CallHead, Bytes, Items), Status> {
    let Some(frame) = frames.next().await else {
        return Err(Status::invalid_argument("the stream has no call"));
    };
    let mut items = Items::new(frame?);
    match items.next() {
        Some(Ok(Item::Call(head, body))) if body.len() == head.total as usize => Ok((head, body, items)),
        _ => Err(Status::invalid_argument("the first item of a stream must be a call")),
    }
}

fn reply(result: Result<Bytes, CallError>) -> Batch {
    let (outcome, body) = outcome::encode(result, MAX_CHUNK_BYTES);
    let head = AnswerHead {
        id: STREAM_ID,
        outcome,
        // At most MAX_CHUNK_BYTES.
        total: body.len() as u32,
    };
    vec![Part::answer(head, vec![body])]
}

/// Serves an upload.
pub(super) fn serve_upload(connection: Arc<Connection>, caller: Caller, mut frames: Streaming<Bytes>) -> FrameStream {
    Box::pin(stream::once(async move {
        let (head, body, items) = read_call(&mut frames).await?;
        let service = match permitted_service(&caller, head.service) {
            Ok(service) => service,
            Err(reason) => return Ok(reply(Err(CallError::Refused(reason.into())))),
        };
        let Some(handler) = connection.table.dispatch.handler(service) else {
            return Ok(reply(Err(CallError::Refused("the node is starting".into()))));
        };
        let chunks = Box::pin(ChunkReader::new(frames, Some(items), caller.node, None));
        Ok(reply(handler.upload(caller.node, head.target, body, chunks).await))
    }))
}

/// The frames of a download: its chunks, then its end or its error.
struct DownloadFrames {
    chunks: Option<Chunks>,
}

impl Stream for DownloadFrames {
    type Item = Result<Batch, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(chunks) = &mut self.chunks else {
            return Poll::Ready(None);
        };
        let batch = match chunks.poll_next_unpin(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(chunk))) if chunk.len() <= MAX_CHUNK_BYTES => {
                return Poll::Ready(Some(Ok(vec![Part::more(STREAM_ID, vec![chunk])])));
            }
            Poll::Ready(Some(Ok(_))) => reply(Err(CallError::Unknown("a chunk is longer than the limit".into()))),
            Poll::Ready(Some(Err(error))) => reply(Err(error)),
            Poll::Ready(None) => vec![Part::end()],
        };
        self.chunks = None;
        Poll::Ready(Some(Ok(batch)))
    }
}

/// Serves a download.
pub(super) fn serve_download(connection: Arc<Connection>, caller: Caller, mut frames: Streaming<Bytes>) -> FrameStream {
    let opening = async move {
        let (head, body, _) = read_call(&mut frames).await?;
        let refused = |reason: &str| -> Chunks { Box::pin(stream::iter([Err(CallError::Refused(reason.into()))])) };
        let chunks = match permitted_service(&caller, head.service) {
            Err(reason) => refused(reason),
            Ok(service) => match connection.table.dispatch.handler(service) {
                None => refused("the node is starting"),
                Some(handler) => handler.download(caller.node, head.target, body),
            },
        };
        Ok::<_, Status>(DownloadFrames { chunks: Some(chunks) })
    };
    Box::pin(stream::once(opening).flat_map(|opened| -> FrameStream {
        match opened {
            Ok(frames) => Box::pin(frames),
            Err(status) => Box::pin(stream::iter([Err(status)])),
        }
    }))
}
