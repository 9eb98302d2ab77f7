//! Before a node stops it hands on what it leads, so that nobody waits for an election.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_consensus::{Group, Role};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Control;

/// How many leaderships are handed over at once.
const AT_ONCE: usize = 16;
/// Between two tries for a group that nobody could take.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// What became of the groups that a node led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HandedOver {
    /// Led by others now.
    pub moved: usize,
    /// Nobody could take them in time: their groups elect when this node has gone, or have no other replica.
    pub kept: usize,
}

impl Control {
    /// Hands every group that this node leads to a voter that is up and has caught up, the registry last; from now on
    /// this node takes no leadership and makes no changes. Returns after `patience` at the latest. Groups of which this
    /// node is the only voter stay.
    pub async fn hand_over(&self, patience: Duration) -> HandedOver {
        self.0.leaving.store(true, Ordering::Relaxed);
        let give_up = Instant::now() + patience;
        let (registry, partitions): (Vec<Group>, Vec<Group>) = self
            .groups()
            .into_iter()
            .partition(|group| super::partition_of(group.id()).is_none());
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        let mut outcome = HandedOver::default();
        for groups in [partitions, registry] {
            let moves = groups.iter().filter(|group| group.is_leader()).map(|group| {
                let at_once = at_once.clone();
                async move {
                    let _permit = at_once.acquire().await;
                    tokio::time::timeout_at(give_up, self.hand_on(group))
                        .await
                        .unwrap_or(false)
                }
            });
            for moved in join_all(moves).await {
                if moved {
                    outcome.moved += 1;
                    self.0.metrics.handed_over.increment(1);
                } else {
                    outcome.kept += 1;
                }
            }
        }
        tracing::info!(
            moved = outcome.moved,
            kept = outcome.kept,
            "leaderships have been handed over"
        );
        outcome
    }

    /// Whether another node leads `group` now.
    async fn hand_on(&self, group: &Group) -> bool {
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
            let mut successors: Vec<u64> = self
                .ready(&status, &up)
                .into_iter()
                .filter(|node| *node != me)
                .collect();
            // Who has most of the log takes over soonest.
            successors.sort_by_key(|node| std::cmp::Reverse(status.matched.get(node).copied()));
            for node in successors {
                if self.transfer(group, node).await.is_ok() {
                    return true;
                }
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }
}
