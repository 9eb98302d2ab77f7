//! Appends a batch at an owner on another node.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use holdfast_consensus::transport::{Call, CallError, Service};
use holdfast_model::{LinkId, NodeId, PartitionId, Term};
use holdfast_partition::{AppendError, OnAppended};
use holdfast_spans::{Attribute, SpanName, TraceContext};
use holdfast_tasks::ByteBudget;
use holdfast_tasks::sync::RwLock;
use holdfast_tasks::watch;
use tokio::time::Instant;

use crate::route::Partitions;
use crate::route::owner_table::Owner;
use crate::route::protocol::messages::{self, AppendReply};

/// Timeout of an append; afterwards its outcome is unknown.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Limit of bytes of batches in flight from one node to another. Further appends wait; a node that exceeds the limit is
/// refused.
pub const MAX_BYTES_IN_FLIGHT: usize = 64 << 20;

/// How long a node gets no contexts after it has refused one: it may be updated meanwhile.
const WITHOUT_CONTEXTS: Duration = Duration::from_secs(60);

/// The bytes in flight to each node.
#[derive(Default)]
pub(in crate::route) struct AppendBudgets(RwLock<HashMap<NodeId, ByteBudget>>);

impl AppendBudgets {
    fn of(&self, node: NodeId) -> ByteBudget {
        if let Some(budget) = self.0.read().get(&node) {
            return budget.clone();
        }
        let mut budgets = self.0.write();
        let budget = budgets
            .entry(node)
            .or_insert_with(|| ByteBudget::new(MAX_BYTES_IN_FLIGHT));
        budget.clone()
    }
}

/// A batch on its way to another node.
pub(in crate::route) struct RemoteBatch {
    pub(in crate::route) id: PartitionId,
    pub(in crate::route) link: LinkId,
    pub(in crate::route) entry: Bytes,
    /// The recorded span of the batch.
    pub(in crate::route) trace: Option<TraceContext>,
}

/// Nodes that refuse an append with a context, since their version does not know it, and when they did last. One entry a node.
#[derive(Default)]
pub(in crate::route) struct WithoutContexts(RwLock<HashMap<NodeId, Instant>>);

impl WithoutContexts {
    fn contains(&self, node: NodeId) -> bool {
        let refused = self.0.read().get(&node).copied();
        refused.is_some_and(|at| at.elapsed() < WITHOUT_CONTEXTS)
    }

    fn insert(&self, node: NodeId) {
        self.0.write().insert(node, Instant::now());
    }
}

impl Partitions {
    pub(in crate::route) async fn append_remote(&self, owner: Owner, batch: RemoteBatch, appended: OnAppended) {
        let RemoteBatch { id, link, entry, trace } = batch;
        let mut span = self.0.tracer.child(SpanName::AppendBatch, trace);
        span.set(Attribute::Partition, || id.0.to_string());
        span.set(Attribute::Peer, || owner.node.to_string());
        let permit = self.0.append_budgets.of(owner.node).acquire(entry.len()).await;
        self.0.metrics.remote_appends.increment(1);
        self.0.metrics.remote_append_bytes.increment(entry.len() as u64);
        let call = |trace, entry| Call {
            service: Service::Partition,
            target: u32::from(id.0),
            body: messages::encode_append(link, trace, entry),
            timeout: APPEND_TIMEOUT,
        };
        let context = span.context().filter(|_| !self.0.without_contexts.contains(owner.node));
        // To be sent again without the context, if the owner's version does not know it.
        let again = context.is_some().then(|| call(None, entry.clone()));
        let call = call(context, entry);
        // Called here and not in the task, since calls are sent in the order in which they are made.
        let answer = self.0.transport.call(owner.node, call);
        let partitions = self.clone();
        let mut owners = self.watch_owner(id);
        let wait = async move {
            let answered = async {
                match (answer.await, again) {
                    // It was not proposed, and no other batch of this core and partition is in flight: the order stays.
                    (Err(CallError::Refused(_)), Some(again)) => {
                        partitions.0.without_contexts.insert(owner.node);
                        partitions.0.transport.call(owner.node, again).await
                    }
                    (answer, _) => answer,
                }
            };
            let answer = tokio::select! {
                biased;
                answer = answered => answer,
                () = superseded(&mut owners, owner) => Err(CallError::Unknown("another node owns the partition".into())),
            };
            drop(permit);
            let result = partitions.append_result(owner, id, answer);
            if let Err(error) = &result {
                span.fail("not-committed", || error.to_string());
            }
            drop(span);
            appended(result);
        };
        holdfast_tasks::spawn_critical("append-remote", wait);
    }

    /// The result for the caller. Also records the owner that the answer names.
    fn append_result(
        &self,
        owner: Owner,
        id: PartitionId,
        answer: Result<Bytes, CallError>,
    ) -> Result<(), AppendError> {
        let reply = match answer {
            Ok(body) => AppendReply::decode(body),
            Err(CallError::Unknown(_)) => return Err(self.failed(AppendError::Unknown)),
            // It was not proposed.
            Err(CallError::NotSent(reason) | CallError::Refused(reason)) => {
                tracing::debug!(partition = id.0, node = %owner.node, %reason, "cannot send a batch to its owner");
                return Err(self.failed(AppendError::NotLeader { leader: None }));
            }
        };
        match reply {
            Ok(reply) => {
                if matches!(reply.result, Err(AppendError::NotLeader { .. })) {
                    self.record_not_owner(id, owner, reply.owner);
                }
                reply.result.map_err(|error| self.failed(error))
            }
            Err(error) => {
                tracing::warn!(partition = id.0, node = %owner.node, %error, "cannot decode the answer to an append; its outcome is unknown");
                Err(self.failed(AppendError::Unknown))
            }
        }
    }

    fn failed(&self, error: AppendError) -> AppendError {
        self.0.metrics.remote_append_failures.increment(1);
        error
    }

    /// The node that was asked does not own the partition; `named` is the owner that it knows. If it names itself, it is the
    /// owner and cannot act at the moment.
    pub(super) fn record_not_owner(&self, id: PartitionId, asked: Owner, named: Option<Owner>) {
        if named.is_some_and(|named| named.node == asked.node) {
            return;
        }
        self.0.owners.disown(id, asked.node);
        if let Some(named) = named.filter(|named| named.term > Term(0)) {
            self.0.owners.learn(id, named);
        }
    }
}

/// Returns when the partition has a later owner: the earlier one may never answer, for example when its node is frozen.
async fn superseded(owners: &mut watch::Receiver<Option<Owner>>, owner: Owner) {
    let later = owners.wait_for(|now| now.is_some_and(|now| now > owner));
    if later.await.is_err() {
        std::future::pending().await
    }
}
