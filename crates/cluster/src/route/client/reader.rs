//! A reader of a partition's events, wherever its replicas are.
//!
//! Invariants: events are returned in order and once each: after a replica is lost, the next one is read from exactly the
//! next event. Events are missed only if retention has removed them, which is counted. The events of a replica are checked
//! against the expected sequence number; a difference ends the stream from that replica, not the reader.
//! Memory is bounded by the transport's window and one frame.

use std::task::{Context, Poll, ready};

use holdfast_model::{NodeId, PartitionId, SequenceNumber, UnixMillis};
use holdfast_partition::{Chunk, PartitionStatus, ReadError, StartPosition};

use super::open_reader;
use super::remote_reader::{Lost, record_missed};
pub use super::source::OpenError;
use super::source::Source;
use crate::route::Partitions;

/// A reader. Dropping it ends it at its replica.
pub struct PartitionReader {
    partitions: Partitions,
    id: PartitionId,
    /// The position at which to continue when the replica is lost.
    from: StartPosition,
    source: Source,
    last_status: PartitionStatus,
}

impl Partitions {
    /// Opens a reader of committed events, at the local replica if there is one. Waits for up to 10 s while no replica can be
    /// reached. The reader may be used on any runtime.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn reader(&self, id: PartitionId, from: StartPosition) -> Result<PartitionReader, OpenError> {
        let source = open_reader::open(self.clone(), id, from, None).await?;
        let mut reader = PartitionReader {
            partitions: self.clone(),
            id,
            from,
            source,
            last_status: PartitionStatus {
                begin: SequenceNumber(0),
                next: SequenceNumber(0),
                last_enqueued: UnixMillis(0),
                retained_bytes: 0,
            },
        };
        reader.record_start(false);
        Ok(reader)
    }
}

impl PartitionReader {
    /// The partition.
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The readable events, as last reported by the replica; at most about a second old.
    #[must_use]
    pub fn status(&self) -> PartitionStatus {
        match &self.source {
            Source::Local(partition, _) => partition.status(),
            Source::Remote(reader) => reader.status().unwrap_or(self.last_status),
            Source::Opening(_) => self.last_status,
        }
    }

    /// Waits for the next events. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`]; the reader cannot be used afterwards.
    pub async fn next(&mut self) -> Result<Chunk, ReadError> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The next events, or registers `cx` to be woken. Must be called on a runtime.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, ReadError>> {
        loop {
            match &mut self.source {
                Source::Local(_, reader) => match ready!(reader.poll_chunk(cx)) {
                    Ok(chunk) => return Poll::Ready(Ok(self.advance(chunk))),
                    Err(ReadError::Stopped) if self.has_others() => self.reopen(self.partitions.node()),
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Source::Remote(reader) => match ready!(reader.poll_chunk(cx)) {
                    Ok(chunk) => return Poll::Ready(Ok(self.advance(chunk))),
                    Err(Lost) => {
                        let node = reader.node();
                        self.last_status = reader.status().unwrap_or(self.last_status);
                        self.reopen(node);
                    }
                },
                Source::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(source) => {
                        self.source = source;
                        self.record_start(true);
                    }
                    Err(error) => {
                        tracing::warn!(partition = self.id.0, %error, "a reader ends: no replica could be opened to continue");
                        return Poll::Ready(Err(ReadError::Stopped));
                    }
                },
            }
        }
    }

    fn advance(&mut self, chunk: Chunk) -> Chunk {
        self.from = StartPosition::AtSequence(SequenceNumber(chunk.next_sequence().0 + chunk.len() as u64));
        chunk
    }

    /// Whether other nodes have replicas: the local one may have stopped because it has moved.
    fn has_others(&self) -> bool {
        let here = self.partitions.node();
        let replicas = self.partitions.0.owners.replicas(self.id);
        replicas.iter().any(|node| *node != here)
    }

    /// Continues at another replica than the one on `lost`.
    fn reopen(&mut self, lost: NodeId) {
        self.partitions.0.metrics.reader_moves.increment(1);
        tracing::debug!(partition = self.id.0, node = %lost, from = ?self.from, "a reader continues at another replica");
        let opening = open_reader::open(self.partitions.clone(), self.id, self.from, Some(lost));
        self.source = Source::Opening(Box::pin(opening));
    }

    /// Records the position at which the source starts.
    fn record_start(&mut self, is_reopened: bool) {
        let Some((node, position)) = self.source.position(self.partitions.node()) else {
            return;
        };
        match self.from {
            // The position of "latest" is fixed here, so that a later replica continues at it.
            StartPosition::Latest => self.from = StartPosition::AtSequence(position),
            StartPosition::AfterSequence(after) => self.from = StartPosition::AtSequence(after.next()),
            StartPosition::AtSequence(_) | StartPosition::Oldest | StartPosition::EnqueuedAfter(_) => {}
        }
        if let StartPosition::AtSequence(wanted) = self.from
            && position > wanted
        {
            if is_reopened {
                record_missed(self.id, node, wanted, position);
            }
            self.from = StartPosition::AtSequence(position);
        }
        if let Source::Remote(reader) = &mut self.source {
            reader.expect(self.from);
        }
    }
}
