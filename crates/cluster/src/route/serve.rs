//! What this node does for others: service Partition.
//!
//! Invariants: batches of one node for one partition are proposed in the order of its calls; bytes under way per node are
//! bounded; a question that this node cannot answer gets a hint who can.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use holdfast_consensus::transport::{Answer, CallError, Chunks, Handler, refused};
use holdfast_model::PartitionId;
use holdfast_partition::record::{EntryHeader, StreamId};
use holdfast_partition::{AppendError, Partition, PartitionStatus};
use holdfast_proto::cluster::v1::{
    RouteLastBatchAnswer, RouteLastBatchRequest, RouteOwnersRequest, RouteReadRequest, RouteSeatsRequest, RouteStatus,
    RouteStolen,
};
use prost::Message;
use tokio::sync::oneshot;

use super::wire::{self, Garbled, Kind, Outcome, Told};
use super::{Partitions, ask, keeper, sending};

/// How long a replica may take to catch up with its leader before it says "not now".
pub(super) const CATCH_UP_PATIENCE: Duration = Duration::from_secs(3);
/// What even the smallest batch counts for, so that the number of batches under way is bounded too.
const MIN_BATCH_BYTES: usize = 1024;

/// Handles service Partition.
pub(super) struct Serve(pub(super) Partitions);

impl Handler for Serve {
    fn call(&self, from: u64, target: u32, body: Bytes) -> Answer {
        let (kind, rest) = match wire::open(body) {
            Ok(opened) => opened,
            Err(error) => return self.garbled(from, &error),
        };
        let id = u16::try_from(target).ok().filter(|id| *id < self.0.count().get());
        let Some(id) = id.map(PartitionId) else {
            return refused("the hub has no such partition");
        };
        match kind {
            Kind::Append => match wire::open_append(rest) {
                Ok((link, entry)) => self.append(from, id, link, entry),
                Err(error) => self.garbled(from, &error),
            },
            Kind::Owners => self.with(from, rest, |partitions, request: RouteOwnersRequest| async move {
                Told::Done(ask::answer(partitions, request).await).encode()
            }),
            Kind::Status => {
                let partitions = self.0.clone();
                Box::pin(async move { Ok(status(&partitions, id).await.encode()) })
            }
            Kind::LastBatch => self.with(from, rest, move |partitions, request| async move {
                last_batch(&partitions, id, &request).await.encode()
            }),
            Kind::Seats => self.with(from, rest, move |partitions, request: RouteSeatsRequest| async move {
                keeper::serve(&partitions, id, from, &request).encode()
            }),
            Kind::Stolen => self.with(from, rest, move |partitions, stolen: RouteStolen| async move {
                keeper::stolen(&partitions, id, from, stolen);
                Bytes::new()
            }),
            Kind::Read => refused("events are streamed"),
        }
    }

    fn download(&self, from: u64, target: u32, body: Bytes) -> Chunks {
        let id = u16::try_from(target).ok().filter(|id| *id < self.0.count().get());
        let request = match wire::open(body) {
            Ok((Kind::Read, rest)) => RouteReadRequest::decode(rest).map_err(Garbled::from),
            Ok((kind, _)) => Err(Garbled::Kind(kind as u8)),
            Err(error) => Err(error),
        };
        match (id, request) {
            (Some(id), Ok(request)) => sending::begin(self.0.clone(), PartitionId(id), &request),
            (None, _) => refused_stream("the hub has no such partition"),
            (_, Err(error)) => {
                self.0.0.metrics.garbled.increment(1);
                tracing::warn!(node = from, %error, "a request for events makes no sense");
                refused_stream(&error.to_string())
            }
        }
    }
}

impl Serve {
    fn garbled(&self, from: u64, error: &Garbled) -> Answer {
        self.0.0.metrics.garbled.increment(1);
        tracing::warn!(node = from, %error, "a call about a partition makes no sense");
        refused(&error.to_string())
    }

    /// Decodes the request and answers it.
    fn with<M, F>(&self, from: u64, body: Bytes, answer: impl FnOnce(Partitions, M) -> F) -> Answer
    where
        M: Message + Default,
        F: Future<Output = Bytes> + Send + 'static,
    {
        match M::decode(body) {
            Ok(request) => {
                let answer = answer(self.0.clone(), request);
                Box::pin(async move { Ok(answer.await) })
            }
            Err(error) => self.garbled(from, &error.into()),
        }
    }

    fn append(&self, from: u64, id: PartitionId, link: u64, entry: Bytes) -> Answer {
        let Some(partition) = self.0.0.owners.owned(id) else {
            let outcome = not_leader(&self.0, id, None);
            return Box::pin(async move { Ok(outcome.encode()) });
        };
        let sender = self.0.0.senders.of(from);
        let Ok(permit) = sender.budget.try_acquire(entry.len().max(MIN_BATCH_BYTES)) else {
            self.0.0.metrics.refused_appends.increment(1);
            return refused("too many bytes of batches are under way");
        };
        self.0.0.metrics.served_appends.increment(1);
        let (tell, told) = oneshot::channel();
        let partitions = self.0.clone();
        let work = async move {
            let may = |header: &EntryHeader| header.stream.gateway_node == from && partitions.admits(id, header, link);
            let appended = Box::new(move |result| {
                drop(permit);
                // Who no longer waits does not need the answer.
                let _ = tell.send(result);
            });
            partition.append_if(entry, may, appended).await;
        };
        sender.line(id).enter(Box::pin(work));
        let partitions = self.0.clone();
        Box::pin(async move {
            let outcome = match told.await.unwrap_or(Err(AppendError::Unknown)) {
                Err(AppendError::NotLeader { leader }) => not_leader(&partitions, id, leader),
                result => {
                    if result == Err(AppendError::Refused) {
                        partitions.0.metrics.refused_appends.increment(1);
                    }
                    Outcome { result, owner: None }
                }
            };
            Ok(outcome.encode())
        })
    }
}

fn refused_stream(reason: &str) -> Chunks {
    Box::pin(stream::iter([Err(CallError::Refused(reason.into()))]))
}

/// With the best hint there is.
fn not_leader(partitions: &Partitions, id: PartitionId, leader: Option<u64>) -> Outcome {
    Outcome {
        result: Err(AppendError::NotLeader { leader }),
        owner: partitions.owner(id),
    }
}

async fn status(partitions: &Partitions, id: PartitionId) -> Told<RouteStatus> {
    let Some(partition) = partitions.local(id) else {
        return Told::NotHere(partitions.owner(id));
    };
    if !caught_up(&partition).await {
        return Told::NotNow;
    }
    Told::Done(put_status(&partition.status()))
}

/// The replica has applied everything that was committed before the call. The owner asks a quorum, too: it may have
/// been deposed and not know it yet.
pub(super) async fn caught_up(partition: &Partition) -> bool {
    let read = tokio::time::timeout(CATCH_UP_PATIENCE, partition.group().read_index()).await;
    matches!(read, Ok(Ok(())))
}

pub(super) fn put_status(status: &PartitionStatus) -> RouteStatus {
    RouteStatus {
        begin: status.begin.0,
        next: status.next.0,
        last_enqueued_ms: status.last_enqueued.0,
        retained_bytes: status.retained_bytes,
    }
}

async fn last_batch(
    partitions: &Partitions,
    id: PartitionId,
    request: &RouteLastBatchRequest,
) -> Told<RouteLastBatchAnswer> {
    let Some(partition) = partitions.0.owners.owned(id) else {
        return Told::NotHere(partitions.owner(id));
    };
    let stream = StreamId {
        gateway_node: request.gateway_node,
        incarnation: request.incarnation,
        core: request.core,
    };
    match partition.last_batch(&stream).await {
        Ok(batch_number) => Told::Done(RouteLastBatchAnswer { batch_number }),
        Err(AppendError::NotLeader { .. }) => Told::NotHere(partitions.owner(id)),
        Err(_) => Told::NotNow,
    }
}

/// The service as [`holdfast_consensus::transport::Dispatch`] takes it.
pub(super) fn handler(partitions: Partitions) -> Arc<dyn Handler> {
    Arc::new(Serve(partitions))
}
