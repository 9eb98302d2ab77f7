//! Events from a replica on another node.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use holdfast_consensus::transport::{Call, Chunks, Service};
use holdfast_model::{PartitionId, SequenceNumber};
use holdfast_partition::{Chunk, PartitionStatus, StartError, StartPosition};
use holdfast_proto::cluster::v1::{RouteReadBegun, RouteReadRequest, route_read_begun, route_read_request};
use tokio::time::{Instant, Sleep};

use super::Way;
use crate::route::Partitions;
use crate::route::frames::{Frame, Parser};
use crate::route::opening::Failed;
use crate::route::serve::CATCH_UP_PATIENCE;
use crate::route::wire::{self, Kind, Told};

/// How long a replica may take to begin: it may have to catch up first.
const BEGIN_PATIENCE: Duration = Duration::from_secs(2).saturating_add(CATCH_UP_PATIENCE);
/// After how long without a word a replica counts as lost; it says something every [`STATUS_EVERY`].
const SILENCE: Duration = Duration::from_secs(4);
/// How often a stream tells what can be read.
pub(in crate::route) const STATUS_EVERY: Duration = Duration::from_secs(1);

/// The stream is of no use any more; the reader goes on at another one.
#[derive(Debug)]
pub(super) struct Lost;

/// One replica's stream.
pub(in crate::route) struct Stream {
    id: PartitionId,
    node: u64,
    chunks: Chunks,
    parser: Parser,
    /// Where it began.
    begun: SequenceNumber,
    /// The number of the next event; `None`: any, before the first of a reader that starts by time or at the oldest.
    expected: Option<SequenceNumber>,
    status: Option<PartitionStatus>,
    /// Runs while nothing comes.
    silence: Option<Pin<Box<Sleep>>>,
}

/// A stream from the replica on `node`.
pub(in crate::route) async fn remote(
    partitions: &Partitions,
    id: PartitionId,
    node: u64,
    from: StartPosition,
) -> Result<Way, Failed> {
    let request = RouteReadRequest { from: Some(put(from)) };
    let call = Call {
        service: Service::Partition,
        target: u32::from(id.0),
        body: wire::request(Kind::Read, &request),
        timeout: BEGIN_PATIENCE,
    };
    let mut chunks = partitions.0.transport.download(node, call);
    let first = tokio::time::timeout(BEGIN_PATIENCE, chunks.next()).await;
    let first: Bytes = match first {
        Ok(Some(Ok(first))) => first,
        Ok(Some(Err(error))) => {
            tracing::debug!(partition = id.0, node, %error, "a replica cannot be read");
            return Err(Failed::NotNow);
        }
        Ok(None) | Err(_) => return Err(Failed::NotNow),
    };
    let outcome = match Told::<RouteReadBegun>::decode(first) {
        Ok(Told::Done(begun)) => begun.outcome,
        Ok(Told::NotHere(owner)) => {
            if let Some(owner) = owner.filter(|owner| owner.node != node && owner.term > 0) {
                partitions.learn(id, owner);
            }
            None
        }
        Ok(Told::NotNow) => None,
        Err(error) => {
            tracing::warn!(partition = id.0, node, %error, "the beginning of a stream of events makes no sense");
            None
        }
    };
    match outcome {
        Some(route_read_begun::Outcome::Position(position)) => Ok(Way::Remote(Box::new(Stream {
            id,
            node,
            chunks,
            parser: Parser::default(),
            begun: SequenceNumber(position),
            expected: None,
            status: None,
            silence: None,
        }))),
        Some(route_read_begun::Outcome::BeyondEnd(beyond)) => Err(Failed::Start(StartError::BeyondEnd {
            asked: SequenceNumber(beyond.asked),
            last: beyond.next.checked_sub(1).map(SequenceNumber),
        })),
        Some(route_read_begun::Outcome::TooMany(_)) => Err(Failed::Start(StartError::TooManyReaders)),
        None => Err(Failed::NotNow),
    }
}

fn put(from: StartPosition) -> route_read_request::From {
    use route_read_request::From;
    match from {
        StartPosition::Oldest => From::Oldest(true),
        StartPosition::Latest => From::Latest(true),
        StartPosition::AtSequence(at) => From::AtSequence(at.0),
        StartPosition::AfterSequence(after) => From::AfterSequence(after.0),
        StartPosition::EnqueuedAfter(time) => From::EnqueuedAfterMs(time.0),
    }
}

impl Stream {
    pub(super) fn node(&self) -> u64 {
        self.node
    }

    /// Where it began.
    pub(super) fn position(&self) -> SequenceNumber {
        self.begun
    }

    pub(super) fn status(&self) -> Option<PartitionStatus> {
        self.status
    }

    /// What must come first.
    pub(super) fn expect(&mut self, from: StartPosition) {
        self.expected = match from {
            StartPosition::AtSequence(at) => Some(at),
            _ => None,
        };
    }

    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, Lost>> {
        loop {
            match self.parser.next() {
                Ok(Some(Frame::Events(chunk, is_overtaken))) if self.is_next(&chunk, is_overtaken) => {
                    self.expected = Some(SequenceNumber(chunk.next_sequence().0 + chunk.len() as u64));
                    return Poll::Ready(Ok(chunk));
                }
                Ok(Some(Frame::Events(chunk, _))) => {
                    let (got, expected) = (chunk.next_sequence().0, self.expected.map(|number| number.0));
                    tracing::error!(
                        partition = self.id.0,
                        node = self.node,
                        got,
                        ?expected,
                        "a replica sent wrong events"
                    );
                    return Poll::Ready(Err(Lost));
                }
                Ok(Some(Frame::Status(status))) => self.status = Some(status),
                Ok(Some(Frame::End)) => return Poll::Ready(Err(Lost)),
                Ok(None) => {
                    let chunk = ready!(self.poll_bytes(cx))?;
                    self.parser.put(chunk);
                }
                Err(error) => {
                    tracing::warn!(partition = self.id.0, node = self.node, %error, "a stream of events makes no sense");
                    return Poll::Ready(Err(Lost));
                }
            }
        }
    }

    /// Whether these events may come now.
    fn is_next(&self, chunk: &Chunk, is_overtaken: bool) -> bool {
        let next = chunk.next_sequence();
        match self.expected {
            None => true,
            Some(expected) if is_overtaken && next > expected => {
                super::overtaken(self.id, self.node, expected, next);
                true
            }
            Some(expected) => next == expected,
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Lost>> {
        match self.chunks.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(chunk))) => {
                self.silence = None;
                Poll::Ready(Ok(chunk))
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(partition = self.id.0, node = self.node, %error, "a stream of events ended");
                Poll::Ready(Err(Lost))
            }
            Poll::Ready(None) => Poll::Ready(Err(Lost)),
            Poll::Pending => {
                let until = || Box::pin(tokio::time::sleep_until(Instant::now() + SILENCE));
                ready!(self.silence.get_or_insert_with(until).as_mut().poll(cx));
                tracing::debug!(partition = self.id.0, node = self.node, "a replica has fallen silent");
                Poll::Ready(Err(Lost))
            }
        }
    }
}
