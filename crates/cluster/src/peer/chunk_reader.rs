//! Reads the chunks of an upload or download from its frames.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use holdfast_consensus::transport::CallError;
use holdfast_model::NodeId;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Streaming;

use super::error_text;
use super::protocol::frame::{Item, Items, STREAM_ID, Violation};
use super::protocol::outcome;

/// The chunks of a stream until its end item; a stream that ends without one ends with [`CallError::Unknown`].
pub(crate) struct ChunkReader {
    frames: Streaming<Bytes>,
    /// The remaining items of the last frame.
    items: Option<Items>,
    node: NodeId,
    ended: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl ChunkReader {
    /// Reads what `node` sends; `items` are the remaining items of a frame that has been read before.
    pub(crate) fn new(
        frames: Streaming<Bytes>,
        items: Option<Items>,
        node: NodeId,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            frames,
            items,
            node,
            ended: false,
            _permit: permit,
        }
    }

    fn lost(&self, reason: &str) -> CallError {
        CallError::Unknown(format!("node {}: {reason}", self.node).into())
    }

    fn decode(&self, item: Result<Item, Violation>) -> Option<Result<Bytes, CallError>> {
        match item {
            Ok(Item::More(STREAM_ID, chunk)) => Some(Ok(chunk)),
            Ok(Item::End) => None,
            Ok(Item::Drop(STREAM_ID)) => Some(Err(self.lost("it has cancelled the stream"))),
            Ok(Item::Answer(head, body)) => Some(match outcome::decode(self.node, head.outcome, body) {
                Ok(_) => Err(self.lost("it broke the protocol")),
                Err(error) => Err(error),
            }),
            Ok(_) => Some(Err(self.lost("it broke the protocol"))),
            Err(violation) => Some(Err(self.lost(&format!("it broke the protocol: {violation}")))),
        }
    }
}

impl Stream for ChunkReader {
    type Item = Result<Bytes, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            if let Some(item) = this.items.as_mut().and_then(Iterator::next) {
                let item = this.decode(item);
                this.ended = !matches!(item, Some(Ok(_)));
                return Poll::Ready(item);
            }
            match this.frames.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => this.items = Some(Items::new(frame)),
                Poll::Ready(Some(Err(status))) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(this.lost(&error_text::of_status(&status)))));
                }
                Poll::Ready(None) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(this.lost("the stream was cut off"))));
                }
            }
        }
    }
}
