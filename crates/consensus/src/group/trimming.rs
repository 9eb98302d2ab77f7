//! Retention: what the log no longer keeps.

use std::time::Duration;

use holdfast_storage::StorageError;
use openraft::LogIdOptionExt;
use openraft::async_runtime::watch::WatchReceiver;

use super::Group;
use crate::blocking::blocking;

/// How long the engine may take to give up entries: it does so between two tries to send them to a member that does not
/// answer, and keeps those that it is sending to one that does.
const PURGE_PATIENCE: Duration = Duration::from_secs(4);

impl Group {
    /// Retention: entries below `below_index` are no longer read, and files that hold nothing else are deleted. Never
    /// goes above the flushed applied index, what lies above being needed after a crash, nor above what is just being
    /// sent to another member; call again later for the rest. A member that lacks what is gone gets a snapshot.
    /// Gives the first index that is left.
    ///
    /// # Errors
    /// [`StorageError`]: the node must stop.
    pub async fn trim(&self, below_index: u64) -> Result<u64, StorageError> {
        let (log, flusher) = (&self.0.log, &self.0.log.flusher);
        let shared = log.clone();
        let trimmable = blocking(flusher, move || shared.trimmable()).await?;
        let wanted = below_index.min(trimmable);
        if wanted > log.first_retained() {
            // First the engine: it must not want to send what is gone.
            let floor = wanted.min(self.give_up(wanted).await);
            let shared = log.clone();
            if let Some(trim) = blocking(flusher, move || shared.trim_to(floor)).await? {
                flusher.synced().await.map_err(|error| StorageError::clone(&error))?;
                let shared = log.clone();
                blocking(flusher, move || shared.delete_trimmed(&trim)).await?;
            }
        }
        Ok(log.first_retained())
    }

    /// Lets the engine give up entries below `below`, which are applied. Gives the first index that it keeps.
    async fn give_up(&self, below: u64) -> u64 {
        let Some(upto) = below.checked_sub(1) else { return 0 };
        let kept = || self.0.raft.metrics().borrow_watched().purged.next_index();
        let all = async {
            let raft = &self.0.raft;
            // It gives up only what a snapshot contains; ours is always the state of now, so that making one is nothing.
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
            // What it has not given up in time, or because it has stopped, stays for the next call.
            let _ = tokio::time::timeout(PURGE_PATIENCE, all).await;
        }
        kept()
    }
}
