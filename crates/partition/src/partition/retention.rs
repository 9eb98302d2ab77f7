//! Retention: events beyond the configured age or size become unreadable, and whole files of them are deleted.
//!
//! A reconciler: each round compares the state with the limits, and the next round continues where this one stopped.
//! Order: first the begin of the event stream moves, in memory and with the next persisted state; then files are deleted,
//! but only below the begin of the *flushed* state. Otherwise a crash would leave a state that promises events whose
//! files are gone, or that needs them for its replay.

use std::sync::Arc;

use holdfast_model::UnixMillis;
use holdfast_storage::StorageError;

use super::{Inner, Partition};

impl Partition {
    /// One round of retention; the task runs it every `partition.retention_interval`.
    ///
    /// # Errors
    /// [`StorageError`]: the node must stop.
    pub async fn enforce_retention(&self) -> Result<(), StorageError> {
        let inner = self.0.clone();
        let now = inner.clock.now();
        let Some(plan) = self.0.shared.pool.run(move || inner.move_begin(now)).await? else {
            return Ok(());
        };
        // This also writes the group's applied marker, which takes effect once it is in a file: so it comes before a flush.
        let mut left = self.0.group.trim(plan.flushed_begin).await?;
        if plan.flush {
            let inner = self.0.clone();
            self.0.shared.pool.run(move || inner.store.flush()).await?;
            left = self.0.group.trim(plan.begin).await?;
        }
        tracing::debug!(
            partition = self.0.id.0,
            begin = plan.begin,
            left,
            "retention deleted the log files it could"
        );
        Ok(())
    }

    pub(super) fn spawn_retention(&self) {
        let interval = self.0.shared.config.retention_interval.get();
        // A weak reference: the task must not keep the partition alive.
        let weak = Arc::downgrade(&self.0);
        let task = holdfast_tasks::spawn_critical("partition-retention", async move {
            loop {
                tokio::time::sleep(interval).await;
                let Some(partition) = weak.upgrade().map(Partition) else {
                    break;
                };
                partition.0.shared.measure();
                if let Err(error) = partition.enforce_retention().await {
                    (partition.0.on_fatal)(&error);
                    break;
                }
            }
        });
        self.0.tasks.lock().push(task);
    }
}

/// The second step of a round; log indexes.
struct Plan {
    /// Begin of the log according to the flushed state: files below it may be deleted.
    flushed_begin: u64,
    /// Begin of the log now.
    begin: u64,
    /// Enough space is reclaimable to justify flushing the state.
    flush: bool,
}

impl Inner {
    /// Moves the begin and plans the deletion of files; `None` when none can be deleted. Blocks.
    fn move_begin(&self, now: UnixMillis) -> Result<Option<Plan>, StorageError> {
        let config = &self.shared.config;
        let oldest = UnixMillis(now.0.saturating_sub(config.retention.as_millis()));
        let point = self
            .shared
            .lock()
            .state
            .retention_point(oldest, config.max_retained_bytes());
        if let Some(point) = point {
            self.shared.trim(point);
            self.store.store(&self.shared)?;
            tracing::info!(
                partition = self.id.0,
                begin = point.sequence.0,
                "retention moved the oldest event"
            );
        }
        let (mut begin, held) = {
            let inner = self.shared.lock();
            (inner.state.begin(), inner.held_from())
        };
        // A snapshot taken later starts at or after this begin, which never moves back.
        if let Some(held) = held.filter(|held| *held < begin.log_index) {
            begin.log_index = held;
        }
        if begin.log_index <= self.group.log_reader().first_index() {
            return Ok(None);
        }
        let flushed = self.store.flushed_begin()?.unwrap_or_default();
        Ok(Some(Plan {
            flushed_begin: flushed.log_index.min(begin.log_index),
            begin: begin.log_index,
            flush: held.is_none()
                && begin.log_bytes > flushed.log_bytes
                && begin.log_bytes - flushed.log_bytes >= config.reclaim_step.bytes(),
        }))
    }
}
