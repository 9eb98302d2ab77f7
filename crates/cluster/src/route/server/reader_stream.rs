//! Streams events of the local replica to a reader on another node, as fast as it takes them.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use holdfast_consensus::transport::{CallError, Chunks};
use holdfast_model::{PartitionId, SequenceNumber, UnixMillis};
use holdfast_partition::{Partition, ReadError, Reader, StartError, StartPosition};
use holdfast_proto::cluster::v1::{
    RouteBeyondEnd, RouteReadBegun, RouteReadRequest, route_read_begun, route_read_request,
};
use metrics::Gauge;
use tokio::time::{Interval, MissedTickBehavior};

use crate::route::Partitions;
use crate::route::protocol::event_frames::{CHUNK_BYTES, STATUS_INTERVAL, Writer};
use crate::route::protocol::messages::Reply;
use crate::route::replica::{self, StartFailure};

/// Answers a request for events.
pub(super) fn open(partitions: Partitions, id: PartitionId, request: &RouteReadRequest) -> Chunks {
    let from = decode_position(request);
    let opened = async move {
        let (first, rest) = match from {
            Some(from) => start(&partitions, id, from).await,
            None => (Reply::NotNow, None),
        };
        let first = stream::iter([Ok(first.encode())]);
        match rest {
            Some(events) => first.chain(events).boxed(),
            None => first.boxed(),
        }
    };
    stream::once(opened).flatten().boxed()
}

async fn start(
    partitions: &Partitions,
    id: PartitionId,
    from: StartPosition,
) -> (Reply<RouteReadBegun>, Option<EventStream>) {
    use route_read_begun::Outcome;
    let refused = |outcome| {
        let begun = RouteReadBegun { outcome: Some(outcome) };
        (Reply::Done(begun), None)
    };
    let Some(partition) = partitions.local(id) else {
        return (Reply::NotHere(partitions.owner(id)), None);
    };
    let reader = match replica::start_reader(&partition, from).await {
        Ok(reader) => reader,
        Err(StartFailure::Refused(StartError::BeyondEnd { asked, last })) => {
            return refused(Outcome::BeyondEnd(RouteBeyondEnd {
                asked: asked.0,
                next: last.map_or(0, |last| last.0 + 1),
            }));
        }
        Err(StartFailure::Refused(StartError::TooManyReaders)) => return refused(Outcome::TooMany(true)),
        Err(StartFailure::Refused(StartError::Stopped)) => return (Reply::NotHere(partitions.owner(id)), None),
        Err(StartFailure::NotNow) => return (Reply::NotNow, None),
    };
    let outcome = Outcome::Position(reader.position().0);
    let begun = RouteReadBegun { outcome: Some(outcome) };
    let gauge = partitions.0.metrics.served_readers.clone();
    (
        Reply::Done(begun),
        Some(EventStream::new(partition, reader, from, gauge)),
    )
}

fn decode_position(request: &RouteReadRequest) -> Option<StartPosition> {
    use route_read_request::From;
    Some(match request.from.as_ref()? {
        From::Oldest(_) => StartPosition::Oldest,
        From::Latest(_) => StartPosition::Latest,
        From::AtSequence(at) => StartPosition::AtSequence(SequenceNumber(*at)),
        From::AfterSequence(after) => StartPosition::AfterSequence(SequenceNumber(*after)),
        From::EnqueuedAfterMs(time) => StartPosition::EnqueuedAfter(UnixMillis(*time)),
    })
}

/// See the module.
struct EventStream {
    partition: Partition,
    reader: Reader,
    /// The next sequence number unless retention removes it; `None` before the first event.
    expected: Option<SequenceNumber>,
    writer: Writer,
    status: Interval,
    has_ended: bool,
    gauge: Gauge,
}

impl EventStream {
    fn new(partition: Partition, reader: Reader, from: StartPosition, gauge: Gauge) -> Self {
        let mut status = tokio::time::interval(STATUS_INTERVAL);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        gauge.increment(1.0);
        let position = reader.position();
        Self {
            partition,
            expected: match from {
                StartPosition::AtSequence(at) => Some(at.max(position)),
                StartPosition::AfterSequence(after) => Some(after.next().max(position)),
                StartPosition::Latest => Some(position),
                StartPosition::Oldest | StartPosition::EnqueuedAfter(_) => None,
            },
            reader,
            writer: Writer::default(),
            status,
            has_ended: false,
            gauge,
        }
    }

    /// Reads until a chunk is full or no more events are available.
    fn fill_chunk(&mut self, cx: &mut Context<'_>) {
        while self.writer.bytes() < CHUNK_BYTES {
            match self.reader.poll_chunk(cx) {
                Poll::Ready(Ok(chunk)) => {
                    let next = chunk.next_sequence();
                    let is_overtaken = self.expected.is_some_and(|expected| next > expected);
                    self.writer.events(&chunk, is_overtaken);
                    self.expected = Some(SequenceNumber(next.0 + chunk.len() as u64));
                }
                Poll::Ready(Err(error)) => {
                    if error != ReadError::Stopped {
                        tracing::error!(partition = self.partition.id().0, %error, "cannot read the log of a partition; the reader continues at another replica");
                    }
                    self.writer.end();
                    self.has_ended = true;
                    return;
                }
                Poll::Pending => return,
            }
        }
    }
}

impl Stream for EventStream {
    type Item = Result<Bytes, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.writer.bytes() == 0 && !this.has_ended {
            if this.status.poll_tick(cx).is_ready() {
                let status = this.partition.status();
                this.writer.status(&status);
            }
            this.fill_chunk(cx);
        }
        match this.writer.take() {
            Some(chunk) => Poll::Ready(Some(Ok(chunk))),
            None if this.has_ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}
