//! Removes garbage: files without a name in the index, and blocks that no list has committed for too long.

use std::ops::ControlFlow;
use std::time::Duration;

use holdfast_storage::Family;
use holdfast_tasks::{Phase, Stop};

use super::error::BlobStoreError;
use super::files::FileId;
use super::index::{self, key};
use super::{BlobStore, Change};

/// The longest time between two passes over uncommitted blocks.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

impl BlobStore {
    /// Files that a crash has left: written, and named by no change.
    pub(super) fn remove_unnamed_files(&self) -> Result<(), BlobStoreError> {
        let mut unnamed: Vec<FileId> = Vec::new();
        let mut removed = 0_usize;
        self.0.files.for_each(|file| {
            if self.get(&key::file(file))?.is_none() {
                unnamed.push(file);
                removed += 1;
            }
            if unnamed.len() >= 1000 {
                self.0.files.remove(&std::mem::take(&mut unnamed));
            }
            Ok(())
        })?;
        self.0.files.remove(&unnamed);
        if removed > 0 {
            tracing::info!(removed, "removed files of unfinished blob writes");
            self.0.metrics.collected.increment(removed as u64);
        }
        Ok(())
    }

    /// Removes blocks in time, until the node closes.
    pub async fn collect(self, stop: Stop) {
        let lifetime = self.config().uncommitted_lifetime.get();
        let interval = MAX_INTERVAL.min(lifetime / 2);
        loop {
            if let Err(error) = self.remove_left_parts().await {
                tracing::warn!(%error, "parts of unfinished writes to the bucket were not removed; trying again");
            }
            tokio::select! {
                biased;
                () = stop.reached(Phase::Closing) => return,
                () = tokio::time::sleep(interval) => {}
            }
            match self.collect_blocks(lifetime).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "removed blocks that no list has committed"),
                Err(error) => tracing::warn!(%error, "uncommitted blocks were not removed; trying again"),
            }
        }
    }

    /// One pass; gives the number of blocks that are gone.
    pub(super) async fn collect_blocks(&self, lifetime: Duration) -> Result<usize, BlobStoreError> {
        let before = self
            .clock()
            .now()
            .0
            .saturating_sub(lifetime.as_millis().try_into().unwrap_or(u64::MAX));
        let due = self.read(move |store| {
            let (mut due, [from, to]) = (Vec::new(), key::all_staging());
            store.0.parts.disk.scan(Family::Blob, &from, &to, &mut |key, value| {
                if let (Some((container, blob)), Ok(staging)) = (key::names(key), index::decode_staging(value))
                    && staging.last_ms <= before
                {
                    due.push((container.to_owned(), blob.to_owned()));
                }
                match due.len() < 1000 {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            Ok(due)
        });
        let mut removed = 0;
        for (container, blob) in due.await? {
            let gone = self.change(move |store| {
                // One may have come meanwhile.
                let value = store.get(&key::staging(&container, &blob))?;
                let staging = value.map(|value| index::decode_staging(&value)).transpose()?;
                let mut change = Change::new(());
                if staging.is_some_and(|staging| staging.last_ms <= before) {
                    store.discard_blocks(&container, &blob, &mut change, |_| true)?;
                }
                let gone = change.garbage.len();
                Ok(change.map(|()| gone))
            });
            removed += gone.await?;
        }
        self.0.metrics.collected.increment(removed as u64);
        Ok(removed)
    }
}
