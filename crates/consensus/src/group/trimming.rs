//! Retention: deleting the start of a log.

use std::time::Duration;

use holdfast_storage::StorageError;
use openraft::LogIdOptionExt;
use openraft::async_runtime::watch::WatchReceiver;

use super::Group;

/// How long the engine may take to purge entries: it purges between two attempts to send them to a member that does not
/// answer, and keeps those that it is sending to one that does.
const PURGE_TIMEOUT: Duration = Duration::from_secs(4);

impl Group {
    /// Retention: entries below `below_index` are no longer read, and files that hold nothing else are deleted. Never
    /// trims above the flushed applied index, since later entries are replayed after a crash, nor above entries that are
    /// being sent to another member; call again later for the rest. A member that lacks trimmed entries gets a snapshot.
    /// Returns the first remaining index.
    ///
    /// # Errors
    /// [`StorageError`]: the node must stop.
    pub async fn trim(&self, below_index: u64) -> Result<u64, StorageError> {
        let (log, flusher, pool) = (&self.0.log, &self.0.log.flusher, self.0.log.blocking_pool);
        let shared = log.clone();
        let trimmable = pool.run(move || shared.trimmable()).await?;
        let wanted = below_index.min(trimmable);
        if wanted > log.first_retained() {
            // The engine first: it must not try to send deleted entries.
            let watermark = wanted.min(self.purge(wanted).await);
            let shared = log.clone();
            if let Some(trim) = pool.run(move || shared.trim_to(watermark)).await? {
                flusher.synced().await.map_err(|error| StorageError::clone(&error))?;
                let shared = log.clone();
                pool.run(move || shared.delete_trimmed(&trim)).await?;
            }
        }
        Ok(log.first_retained())
    }

    /// Lets the engine purge entries below `below`, which are applied. Returns the first index that it keeps.
    async fn purge(&self, below: u64) -> u64 {
        let Some(upto) = below.checked_sub(1) else { return 0 };
        let kept = || self.0.raft.metrics().borrow_watched().purged.next_index();
        let all = async {
            let raft = &self.0.raft;
            // It purges only entries that a snapshot contains; ours is always the current state, so that building one is free.
            if raft.metrics().borrow_watched().snapshot.next_index() < below {
                raft.trigger().snapshot().await.ok()?;
                raft.wait(None)
                    .metrics(|now| now.snapshot.next_index() >= below, "make a snapshot")
                    .await
                    .ok()?;
            }
            raft.trigger().purge_log(upto).await.ok()?;
            raft.wait(None)
                .metrics(|now| now.purged.next_index() >= below, "give up entries")
                .await
                .ok()
        };
        if kept() < below {
            // Entries that it has not purged in time, or because it has stopped, stay for the next call.
            let _ = tokio::time::timeout(PURGE_TIMEOUT, all).await;
        }
        kept()
    }
}
