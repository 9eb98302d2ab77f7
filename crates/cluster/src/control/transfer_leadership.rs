//! Transfers the leaderships of a node before it stops, so that no group has to wait for an election.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_consensus::{Group, Role};
use holdfast_model::NodeId;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Control;

/// Limit of concurrent transfers.
const CONCURRENCY: usize = 16;
/// Backoff of a group whose leadership no node could take.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// The result of transferring the leaderships of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransferredLeaderships {
    /// Groups that other nodes lead now.
    pub moved: usize,
    /// Groups whose leadership no node could take in time: they elect a leader when this node has stopped, or have no other
    /// replica.
    pub kept: usize,
}

impl Control {
    /// Transfers the leadership of each group that this node leads to a voter that is up and has caught up, the registry's
    /// last. From now on this node accepts no leadership and starts no steps. Returns after `timeout` at the latest. Groups
    /// of which this node is the only voter are kept.
    pub async fn transfer_leaderships(&self, timeout: Duration) -> TransferredLeaderships {
        self.0.stopping.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + timeout;
        let (registry, partitions): (Vec<Group>, Vec<Group>) = self
            .groups()
            .into_iter()
            .partition(|group| super::partition_of(group.id()).is_none());
        let permits = Arc::new(Semaphore::new(CONCURRENCY));
        let mut outcome = TransferredLeaderships::default();
        for groups in [partitions, registry] {
            let moves = groups.iter().filter(|group| group.is_leader()).map(|group| {
                let permits = permits.clone();
                async move {
                    let _permit = permits.acquire().await;
                    tokio::time::timeout_at(deadline, self.transfer_away(group))
                        .await
                        .unwrap_or(false)
                }
            });
            for moved in join_all(moves).await {
                if moved {
                    outcome.moved += 1;
                    self.0.metrics.transferred.increment(1);
                } else {
                    outcome.kept += 1;
                }
            }
        }
        tracing::info!(
            moved = outcome.moved,
            kept = outcome.kept,
            "transferred the leaderships of this node"
        );
        outcome
    }

    /// Transfers the leadership of `group`; returns whether another node leads it now.
    async fn transfer_away(&self, group: &Group) -> bool {
        loop {
            let status = group.status();
            if status.role != Role::Leader {
                return true;
            }
            let me = self.0.id;
            let others = status.members.voters.iter().copied().filter(|node| *node != me);
            let up = others.filter(|node| self.0.peers.is_up(*node)).collect();
            if status.members.voters.len() <= 1 {
                return false;
            }
            let mut successors: Vec<NodeId> = self
                .ready(&status, &up)
                .into_iter()
                .filter(|node| *node != me)
                .collect();
            // The node with the longest log takes over soonest.
            successors.sort_by_key(|node| std::cmp::Reverse(status.matched.get(node).copied()));
            for node in successors {
                if self.transfer_leadership(group, node).await.is_ok() {
                    return true;
                }
            }
            tokio::time::sleep(RETRY_BACKOFF).await;
        }
    }
}
