//! The way of a batch to an owner on another node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_consensus::transport::{Call, CallError, Service};
use holdfast_model::PartitionId;
use holdfast_partition::{AppendError, OnAppended};
use holdfast_tasks::ByteBudget;
use holdfast_tasks::sync::RwLock;
use holdfast_tasks::watch;

use super::Partitions;
use super::owners::Owner;
use super::wire::{self, Outcome};

/// How long an owner may take to decide about a batch before its outcome counts as unknown.
pub const APPEND_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of batches that may be under way from one node to another; who sends more waits, and who does not wait is
/// refused.
pub const MAX_BYTES_UNDER_WAY: usize = 64 << 20;

/// What is under way to each node.
#[derive(Default)]
pub(super) struct Budgets(RwLock<HashMap<u64, ByteBudget>>);

impl Budgets {
    pub(super) fn of(&self, node: u64) -> ByteBudget {
        if let Some(budget) = self.0.read().get(&node) {
            return budget.clone();
        }
        let mut budgets = self.0.write();
        let budget = budgets
            .entry(node)
            .or_insert_with(|| ByteBudget::new(MAX_BYTES_UNDER_WAY));
        budget.clone()
    }
}

impl Partitions {
    pub(super) async fn append_remote(
        &self,
        owner: Owner,
        id: PartitionId,
        link: u64,
        entry: Bytes,
        appended: OnAppended,
    ) {
        let permit = self.0.budgets.of(owner.node).acquire(entry.len()).await;
        self.0.metrics.remote_appends.increment(1);
        self.0.metrics.remote_append_bytes.increment(entry.len() as u64);
        let call = Call {
            service: Service::Partition,
            target: u32::from(id.0),
            body: wire::append(link, entry),
            timeout: APPEND_PATIENCE,
        };
        // Here, and not in the task: calls leave in the order in which they are made.
        let answer = self.0.transport.call(owner.node, call);
        let partitions = self.clone();
        let mut owners = self.watch_owner(id);
        let wait = async move {
            let answer = tokio::select! {
                biased;
                answer = answer => answer,
                () = superseded(&mut owners, owner) => Err(CallError::Unknown("another node owns the partition".into())),
            };
            drop(permit);
            appended(partitions.decided(owner, id, answer));
        };
        holdfast_tasks::spawn_critical("append-remote", wait);
    }

    /// What the sender is told; what the answer says about owners is learned.
    fn decided(&self, owner: Owner, id: PartitionId, answer: Result<Bytes, CallError>) -> Result<(), AppendError> {
        let outcome = match answer {
            Ok(body) => Outcome::decode(body),
            Err(CallError::Unknown(_)) => return Err(self.failed(AppendError::Unknown)),
            // It has not been handed to consensus.
            Err(CallError::NotSent(reason) | CallError::Refused(reason)) => {
                tracing::debug!(partition = id.0, node = owner.node, %reason, "a batch could not be handed to its owner");
                return Err(self.failed(AppendError::NotLeader { leader: None }));
            }
        };
        match outcome {
            Ok(outcome) => {
                if matches!(outcome.result, Err(AppendError::NotLeader { .. })) {
                    self.not_here(id, owner, outcome.owner);
                }
                outcome.result.map_err(|error| self.failed(error))
            }
            Err(error) => {
                tracing::warn!(partition = id.0, node = owner.node, %error, "the answer about a batch makes no sense");
                Err(self.failed(AppendError::Unknown))
            }
        }
    }

    fn failed(&self, error: AppendError) -> AppendError {
        self.0.metrics.remote_append_failures.increment(1);
        error
    }

    /// The node that was asked does not own the partition, and perhaps knows who does; or it does, and cannot act at the
    /// moment, which its naming itself says.
    pub(super) fn not_here(&self, id: PartitionId, asked: Owner, told: Option<Owner>) {
        if told.is_some_and(|told| told.node == asked.node) {
            return;
        }
        self.0.owners.disown(id, asked.node);
        if let Some(told) = told.filter(|told| told.term > 0) {
            self.0.owners.learn(id, told);
        }
    }
}

/// Returns when the partition has a later owner: the answer of the earlier one may never come, for example when the node
/// stands still.
async fn superseded(owners: &mut watch::Receiver<Option<Owner>>, owner: Owner) {
    let later = owners.wait_for(|now| now.is_some_and(|now| now > owner));
    if later.await.is_err() {
        std::future::pending().await
    }
}

/// The senders on other nodes, as the owner sees them.
#[derive(Default)]
pub(super) struct Senders(RwLock<HashMap<u64, Arc<Sender>>>);

/// One node that sends batches here.
pub(super) struct Sender {
    pub(super) budget: ByteBudget,
    lines: RwLock<HashMap<PartitionId, Arc<super::line::Line>>>,
}

impl Senders {
    pub(super) fn of(&self, node: u64) -> Arc<Sender> {
        if let Some(sender) = self.0.read().get(&node) {
            return sender.clone();
        }
        let new = || {
            Arc::new(Sender {
                budget: ByteBudget::new(MAX_BYTES_UNDER_WAY),
                lines: RwLock::default(),
            })
        };
        self.0.write().entry(node).or_insert_with(new).clone()
    }
}

impl Sender {
    pub(super) fn line(&self, id: PartitionId) -> Arc<super::line::Line> {
        if let Some(line) = self.lines.read().get(&id) {
            return line.clone();
        }
        self.lines.write().entry(id).or_default().clone()
    }
}
