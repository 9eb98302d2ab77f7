//! Dispatches the calls of other nodes to service Partition.
//!
//! Invariants: batches of one node for one partition are proposed in the order of its calls; the bytes in flight of each
//! node are bounded; the answer to a query that this node cannot answer names the owner that it knows.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use holdfast_consensus::transport::{Answer, CallError, Chunks, Handler, refused};
use holdfast_model::{Incarnation, LinkId, NodeId, PartitionId};
use holdfast_partition::record::StreamId;
use holdfast_partition::{AppendError, OnAppended, SenderLink};
use holdfast_proto::cluster::v1::{
    RouteLastBatchAnswer, RouteLastBatchRequest, RouteOwnersRequest, RoutePreempted, RouteReadRequest,
    RouteReaderLeasesRequest, RouteStatus,
};
use holdfast_spans::TraceContext;
use prost::Message;
use tokio::sync::oneshot;

use super::{owner_feed, reader_registry_service, reader_stream};
use crate::route::client::reader_lease_renewal;
use crate::route::protocol::messages::{self, AppendReply, DecodeError, Kind, Reply};
use crate::route::{Partitions, replica};

/// Charged at least for each batch, so that the number of batches in flight is bounded too.
const MIN_BATCH_BYTES: usize = 1024;

/// See the module.
struct Dispatcher(Partitions);

impl Handler for Dispatcher {
    fn call(&self, from: NodeId, target: u32, body: Bytes) -> Answer {
        let (kind, rest) = match messages::decode_head(body) {
            Ok(decoded) => decoded,
            Err(error) => return self.malformed(from, &error),
        };
        let id = u16::try_from(target).ok().filter(|id| *id < self.0.count().get());
        let Some(id) = id.map(PartitionId) else {
            return refused("the hub has no such partition");
        };
        match kind {
            Kind::Append => match messages::decode_append(rest) {
                Ok((link, entry)) => self.append(from, id, link, None, entry),
                Err(error) => self.malformed(from, &error),
            },
            Kind::TracedAppend => match messages::decode_traced_append(rest) {
                Ok((link, trace, entry)) => self.append(from, id, link, trace, entry),
                Err(error) => self.malformed(from, &error),
            },
            Kind::Owners => self.with(from, rest, |partitions, request: RouteOwnersRequest| async move {
                Reply::Done(owner_feed::answer(partitions, request).await).encode()
            }),
            Kind::Status => {
                let partitions = self.0.clone();
                Box::pin(async move { Ok(status(&partitions, id).await.encode()) })
            }
            Kind::LastBatch => self.with(from, rest, move |partitions, request| async move {
                last_batch(&partitions, id, &request).await.encode()
            }),
            Kind::ReaderLeases => self.with(
                from,
                rest,
                move |partitions, request: RouteReaderLeasesRequest| async move {
                    reader_registry_service::serve(&partitions, id, from, &request).encode()
                },
            ),
            Kind::ReaderPreempted => self.with(from, rest, move |partitions, stolen: RoutePreempted| async move {
                reader_lease_renewal::preempted(&partitions, id, from, stolen);
                Bytes::new()
            }),
            Kind::Read => refused("events must be requested as a download"),
        }
    }

    fn download(&self, from: NodeId, target: u32, body: Bytes) -> Chunks {
        let id = u16::try_from(target).ok().filter(|id| *id < self.0.count().get());
        let request = match messages::decode_head(body) {
            Ok((Kind::Read, rest)) => RouteReadRequest::decode(rest).map_err(DecodeError::from),
            Ok((kind, _)) => Err(DecodeError::Kind(kind as u8)),
            Err(error) => Err(error),
        };
        match (id, request) {
            (Some(id), Ok(request)) => reader_stream::open(self.0.clone(), PartitionId(id), &request),
            (None, _) => refused_stream("the hub has no such partition"),
            (_, Err(error)) => {
                self.0.0.metrics.malformed.increment(1);
                tracing::warn!(node = %from, %error, "refused a malformed request for events");
                refused_stream(&error.to_string())
            }
        }
    }
}

impl Dispatcher {
    fn malformed(&self, from: NodeId, error: &DecodeError) -> Answer {
        self.0.0.metrics.malformed.increment(1);
        tracing::warn!(node = %from, %error, "refused a malformed call about a partition");
        refused(&error.to_string())
    }

    /// Decodes a request and answers it.
    fn with<M, F>(&self, from: NodeId, body: Bytes, answer: impl FnOnce(Partitions, M) -> F) -> Answer
    where
        M: Message + Default,
        F: Future<Output = Bytes> + Send + 'static,
    {
        match M::decode(body) {
            Ok(request) => {
                let answer = answer(self.0.clone(), request);
                Box::pin(async move { Ok(answer.await) })
            }
            Err(error) => self.malformed(from, &error.into()),
        }
    }

    fn append(&self, from: NodeId, id: PartitionId, link: LinkId, trace: Option<TraceContext>, entry: Bytes) -> Answer {
        let Some(partition) = self.0.0.owners.owned(id) else {
            let reply = not_leader(&self.0, id, None);
            return Box::pin(async move { Ok(reply.encode()) });
        };
        let sender = self.0.0.senders.of(from);
        let Ok(permit) = sender.budget.try_acquire(entry.len().max(MIN_BATCH_BYTES)) else {
            self.0.0.metrics.refused_appends.increment(1);
            return refused("too many bytes of batches are in flight");
        };
        self.0.0.metrics.served_appends.increment(1);
        let (decided, result) = oneshot::channel();
        let links = Arc::clone(self.0.open_links(id));
        let sender_link = SenderLink { gateway: from, link };
        let partitions = self.0.clone();
        let work = async move {
            let appended: OnAppended = Box::new(move |result| {
                drop(permit);
                // The caller may be gone.
                let _ = decided.send(result);
            });
            let appended = partitions.with_commit_span(id, trace, appended);
            partition.append_over(entry, &links, sender_link, appended).await;
        };
        sender.queue(id).push(Box::pin(work));
        let partitions = self.0.clone();
        Box::pin(async move {
            let reply = match result.await.unwrap_or(Err(AppendError::Unknown)) {
                Err(AppendError::NotLeader { leader }) => not_leader(&partitions, id, leader),
                result => {
                    if result == Err(AppendError::Refused) {
                        partitions.0.metrics.refused_appends.increment(1);
                    }
                    AppendReply { result, owner: None }
                }
            };
            Ok(reply.encode())
        })
    }
}

fn refused_stream(reason: &str) -> Chunks {
    Box::pin(stream::iter([Err(CallError::Refused(reason.into()))]))
}

/// The answer to an append of a node that is not the owner, with the owner that it knows.
fn not_leader(partitions: &Partitions, id: PartitionId, leader: Option<NodeId>) -> AppendReply {
    AppendReply {
        result: Err(AppendError::NotLeader { leader }),
        owner: partitions.owner(id),
    }
}

async fn status(partitions: &Partitions, id: PartitionId) -> Reply<RouteStatus> {
    let Some(partition) = partitions.local(id) else {
        return Reply::NotHere(partitions.owner(id));
    };
    if !replica::catch_up(&partition).await {
        return Reply::NotNow;
    }
    Reply::Done(messages::encode_status(&partition.status()))
}

async fn last_batch(
    partitions: &Partitions,
    id: PartitionId,
    request: &RouteLastBatchRequest,
) -> Reply<RouteLastBatchAnswer> {
    let Some(partition) = partitions.0.owners.owned(id) else {
        return Reply::NotHere(partitions.owner(id));
    };
    let stream = StreamId {
        gateway_node: NodeId(request.gateway_node),
        incarnation: Incarnation(request.incarnation),
        core: request.core,
    };
    match partition.last_batch(&stream).await {
        Ok(batch_number) => Reply::Done(RouteLastBatchAnswer { batch_number }),
        Err(AppendError::NotLeader { .. }) => Reply::NotHere(partitions.owner(id)),
        Err(_) => Reply::NotNow,
    }
}

/// The handler of service Partition, for [`holdfast_consensus::transport::Dispatch`].
pub(in crate::route) fn handler(partitions: Partitions) -> Arc<dyn Handler> {
    Arc::new(Dispatcher(partitions))
}
