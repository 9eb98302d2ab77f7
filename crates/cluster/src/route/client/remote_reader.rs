//! Reads events from a replica on another node.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use holdfast_consensus::transport::{Call, Chunks, Service};
use holdfast_model::{NodeId, PartitionId, SequenceNumber, Term};
use holdfast_partition::{Chunk, PartitionStatus, StartError, StartPosition};
use holdfast_proto::cluster::v1::{RouteReadBegun, RouteReadRequest, route_read_begun, route_read_request};
use tokio::time::{Instant, Sleep};

use crate::route::Partitions;
use crate::route::protocol::event_frames::{Frame, Parser};
use crate::route::protocol::messages::{self, Kind, Reply};
use crate::route::replica::{CATCH_UP_TIMEOUT, StartFailure};

/// Timeout of the start of a stream: the replica may have to catch up first.
const START_TIMEOUT: Duration = Duration::from_secs(2).saturating_add(CATCH_UP_TIMEOUT);
/// A replica that sends nothing for this time counts as lost; it sends its status every second.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(4);

/// The stream has ended; the reader continues at another replica.
#[derive(Debug)]
pub(super) struct Lost;

/// The stream of events from one replica.
pub(super) struct RemoteReader {
    id: PartitionId,
    node: NodeId,
    chunks: Chunks,
    parser: Parser,
    /// The position at which it started.
    start: SequenceNumber,
    /// The sequence number of the next event; `None`: any, before the first event of a reader that starts by time or at the
    /// oldest.
    expected: Option<SequenceNumber>,
    status: Option<PartitionStatus>,
    /// Runs while nothing arrives.
    silence: Option<Pin<Box<Sleep>>>,
}

/// Opens a stream from the replica on `node`.
pub(super) async fn open(
    partitions: &Partitions,
    id: PartitionId,
    node: NodeId,
    from: StartPosition,
) -> Result<RemoteReader, StartFailure> {
    let request = RouteReadRequest {
        from: Some(encode_position(from)),
    };
    let call = Call {
        service: Service::Partition,
        target: u32::from(id.0),
        body: messages::encode_request(Kind::Read, &request),
        timeout: START_TIMEOUT,
    };
    let mut chunks = partitions.0.transport.download(node, call);
    let first = tokio::time::timeout(START_TIMEOUT, chunks.next()).await;
    let first: Bytes = match first {
        Ok(Some(Ok(first))) => first,
        Ok(Some(Err(error))) => {
            tracing::debug!(partition = id.0, %node, %error, "cannot open a reader at a replica; trying another one");
            return Err(StartFailure::NotNow);
        }
        Ok(None) | Err(_) => return Err(StartFailure::NotNow),
    };
    let outcome = match Reply::<RouteReadBegun>::decode(first) {
        Ok(Reply::Done(begun)) => begun.outcome,
        Ok(Reply::NotHere(owner)) => {
            if let Some(owner) = owner.filter(|owner| owner.node != node && owner.term > Term(0)) {
                partitions.learn(id, owner);
            }
            None
        }
        Ok(Reply::NotNow) => None,
        Err(error) => {
            tracing::warn!(partition = id.0, %node, %error, "cannot decode the start of an event stream; trying another replica");
            None
        }
    };
    match outcome {
        Some(route_read_begun::Outcome::Position(position)) => Ok(RemoteReader {
            id,
            node,
            chunks,
            parser: Parser::default(),
            start: SequenceNumber(position),
            expected: None,
            status: None,
            silence: None,
        }),
        Some(route_read_begun::Outcome::BeyondEnd(beyond)) => Err(StartFailure::Refused(StartError::BeyondEnd {
            asked: SequenceNumber(beyond.asked),
            last: beyond.next.checked_sub(1).map(SequenceNumber),
        })),
        Some(route_read_begun::Outcome::TooMany(_)) => Err(StartFailure::Refused(StartError::TooManyReaders)),
        None => Err(StartFailure::NotNow),
    }
}

fn encode_position(from: StartPosition) -> route_read_request::From {
    use route_read_request::From;
    match from {
        StartPosition::Oldest => From::Oldest(true),
        StartPosition::Latest => From::Latest(true),
        StartPosition::AtSequence(at) => From::AtSequence(at.0),
        StartPosition::AfterSequence(after) => From::AfterSequence(after.0),
        StartPosition::EnqueuedAfter(time) => From::EnqueuedAfterMs(time.0),
    }
}

impl RemoteReader {
    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// The position at which it started.
    pub(super) fn position(&self) -> SequenceNumber {
        self.start
    }

    pub(super) fn status(&self) -> Option<PartitionStatus> {
        self.status
    }

    /// Sets the position of the first event.
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
                        node = %self.node,
                        got,
                        ?expected,
                        "a replica sent events out of order; continuing at another one"
                    );
                    return Poll::Ready(Err(Lost));
                }
                Ok(Some(Frame::Status(status))) => self.status = Some(status),
                Ok(Some(Frame::End)) => return Poll::Ready(Err(Lost)),
                Ok(None) => {
                    let chunk = ready!(self.poll_bytes(cx))?;
                    self.parser.push(chunk);
                }
                Err(error) => {
                    tracing::warn!(partition = self.id.0, node = %self.node, %error, "cannot decode an event stream; continuing at another replica");
                    return Poll::Ready(Err(Lost));
                }
            }
        }
    }

    /// Whether these events may follow.
    fn is_next(&self, chunk: &Chunk, is_overtaken: bool) -> bool {
        let next = chunk.next_sequence();
        match self.expected {
            None => true,
            Some(expected) if is_overtaken && next > expected => {
                record_missed(self.id, self.node, expected, next);
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
                tracing::debug!(partition = self.id.0, node = %self.node, %error, "an event stream ended; continuing at another replica");
                Poll::Ready(Err(Lost))
            }
            Poll::Ready(None) => Poll::Ready(Err(Lost)),
            Poll::Pending => {
                let until = || Box::pin(tokio::time::sleep_until(Instant::now() + SILENCE_TIMEOUT));
                ready!(self.silence.get_or_insert_with(until).as_mut().poll(cx));
                tracing::debug!(
                    partition = self.id.0,
                    node = %self.node,
                    "a replica is silent; continuing at another one"
                );
                Poll::Ready(Err(Lost))
            }
        }
    }
}

/// Counts events that retention has removed before the reader reached them.
pub(super) fn record_missed(id: PartitionId, node: NodeId, wanted: SequenceNumber, begin: SequenceNumber) {
    let missed = begin.0.saturating_sub(wanted.0);
    // Rare: the handle is looked up each time.
    crate::route::metrics::reader_missed_messages().increment(missed);
    tracing::info!(
        partition = id.0,
        %node,
        missed,
        begin = begin.0,
        "a reader was overtaken by retention"
    );
}
