//! A reader of a partition's events, wherever its replicas are.
//!
//! Invariants: events come in order, each once: after a replica is lost, the next one is asked for exactly what comes
//! next. Events are missed only when retention has removed them, which is counted as the reader of a replica counts it.
//! What a replica sends is checked against what must come; a difference ends that stream and not the reader.
//! Memory: what the transport's window lets through, and one frame.

mod stream;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use holdfast_model::{PartitionId, SequenceNumber, UnixMillis};
use holdfast_partition::{Chunk, Partition, PartitionStatus, ReadError, Reader, StartPosition};

use super::Partitions;
use super::opening::{self, OpenError};
use stream::{Lost, Stream};
pub(super) use stream::{STATUS_EVERY, remote};

/// A reader. Dropping it gives its place back.
pub struct PartitionReader {
    partitions: Partitions,
    id: PartitionId,
    /// Where to go on when the replica is lost.
    from: StartPosition,
    way: Way,
    last_status: PartitionStatus,
}

/// How it reads.
pub(super) enum Way {
    /// From the replica here.
    Local(Partition, Box<Reader>),
    /// From one on another node.
    Remote(Box<Stream>),
    /// It looks for a replica.
    Opening(Pin<Box<dyn Future<Output = Result<Way, OpenError>> + Send>>),
}

impl Way {
    pub(super) fn local(partition: Partition, reader: Reader) -> Self {
        Self::Local(partition, Box::new(reader))
    }

    /// The node that is read from, and the next event that will be looked at there.
    fn position(&self, here: u64) -> Option<(u64, SequenceNumber)> {
        match self {
            Self::Local(_, reader) => Some((here, reader.position())),
            Self::Remote(stream) => Some((stream.node(), stream.position())),
            Self::Opening(_) => None,
        }
    }
}

impl Partitions {
    /// A reader of committed events, from the replica here when there is one. Waits for a while when no replica can be
    /// reached. It may be used on any runtime.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn reader(&self, id: PartitionId, from: StartPosition) -> Result<PartitionReader, OpenError> {
        let way = opening::anywhere(self.clone(), id, from, None).await?;
        let mut reader = PartitionReader {
            partitions: self.clone(),
            id,
            from,
            way,
            last_status: PartitionStatus {
                begin: SequenceNumber(0),
                next: SequenceNumber(0),
                last_enqueued: UnixMillis(0),
                retained_bytes: 0,
            },
        };
        reader.opened(false);
        Ok(reader)
    }
}

impl PartitionReader {
    /// The partition.
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// What can be read, as far as the replica that is read from has told; at most about a second old.
    #[must_use]
    pub fn status(&self) -> PartitionStatus {
        match &self.way {
            Way::Local(partition, _) => partition.status(),
            Way::Remote(stream) => stream.status().unwrap_or(self.last_status),
            Way::Opening(_) => self.last_status,
        }
    }

    /// The next events, once there are any. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`]; the reader is of no use afterwards.
    pub async fn next(&mut self) -> Result<Chunk, ReadError> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The next events if they are here; otherwise `cx` is woken when it is worth asking again. To be called on a
    /// runtime.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, ReadError>> {
        loop {
            match &mut self.way {
                Way::Local(_, reader) => match ready!(reader.poll_chunk(cx)) {
                    Ok(chunk) => return Poll::Ready(Ok(self.hand_out(chunk))),
                    Err(ReadError::Stopped) if self.has_others() => self.move_on(self.partitions.node()),
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Way::Remote(stream) => match ready!(stream.poll_chunk(cx)) {
                    Ok(chunk) => return Poll::Ready(Ok(self.hand_out(chunk))),
                    Err(Lost) => {
                        let node = stream.node();
                        self.last_status = stream.status().unwrap_or(self.last_status);
                        self.move_on(node);
                    }
                },
                Way::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(way) => {
                        self.way = way;
                        self.opened(true);
                    }
                    Err(error) => {
                        tracing::warn!(partition = self.id.0, %error, "a reader has found no replica to go on at");
                        return Poll::Ready(Err(ReadError::Stopped));
                    }
                },
            }
        }
    }

    fn hand_out(&mut self, chunk: Chunk) -> Chunk {
        self.from = StartPosition::AtSequence(SequenceNumber(chunk.next_sequence().0 + chunk.len() as u64));
        chunk
    }

    /// Whether there is another replica, or was: the one here may have stopped because it has moved.
    fn has_others(&self) -> bool {
        let here = self.partitions.node();
        let replicas = self.partitions.0.owners.replicas(self.id);
        replicas.iter().any(|node| *node != here)
    }

    /// Goes on at another replica than the one on `lost`.
    fn move_on(&mut self, lost: u64) {
        self.partitions.0.metrics.reader_moves.increment(1);
        tracing::debug!(partition = self.id.0, node = lost, from = ?self.from, "a reader goes on at another replica");
        let opening = opening::anywhere(self.partitions.clone(), self.id, self.from, Some(lost));
        self.way = Way::Opening(Box::pin(opening));
    }

    /// Takes note of where the way begins.
    fn opened(&mut self, goes_on: bool) {
        let Some((node, position)) = self.way.position(self.partitions.node()) else {
            return;
        };
        match self.from {
            // What "now" was then is what comes next, wherever it goes on.
            StartPosition::Latest => self.from = StartPosition::AtSequence(position),
            StartPosition::AfterSequence(after) => self.from = StartPosition::AtSequence(after.next()),
            StartPosition::AtSequence(_) | StartPosition::Oldest | StartPosition::EnqueuedAfter(_) => {}
        }
        if let StartPosition::AtSequence(wanted) = self.from
            && position > wanted
        {
            if goes_on {
                overtaken(self.id, node, wanted, position);
            }
            self.from = StartPosition::AtSequence(position);
        }
        if let Way::Remote(stream) = &mut self.way {
            stream.expect(self.from);
        }
    }
}

/// Events of a reader have been removed before it came to them.
fn overtaken(id: PartitionId, node: u64, wanted: SequenceNumber, begin: SequenceNumber) {
    let missed = begin.0.saturating_sub(wanted.0);
    // Rare, so that the handle is looked up.
    metrics::counter!("holdfast_cluster_reader_missed_messages_total").increment(missed);
    tracing::info!(
        partition = id.0,
        node,
        missed,
        begin = begin.0,
        "a reader was overtaken by retention"
    );
}
