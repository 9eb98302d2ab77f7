//! Disk reads of a reader: one bounded read at a time on the blocking pool, the next one started early.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use holdfast_storage::StorageError;
use holdfast_tasks::BlockingPool;

use super::{ReadError, Reader, behind, check_number};
use crate::log::entry_cache::CachedEntry;
use crate::log::record::{EntryError, EntryHeader, EntryView};
use crate::shared::LogSource;

/// An entry with its header, which is decoded on the blocking pool.
type Raw = (u64, Bytes, Result<EntryHeader, EntryError>);

/// The result of a disk read.
pub(super) struct Loaded {
    /// Only entries before this log index belong to the read: later ones are in the cache, or not applied yet.
    end: u64,
    entries: Result<Vec<Raw>, StorageError>,
}

async fn load(pool: BlockingPool, log: Arc<dyn LogSource>, from: u64, end: u64, max_bytes: usize) -> Loaded {
    pool.run(move || {
        // Sampled before the read: while a snapshot is being installed the log does not show all of it yet.
        let end = end.min(log.end().max(from));
        let entries = log.read(from, max_bytes).map(|entries| {
            entries
                .into_iter()
                .take_while(|(log_index, _)| *log_index < end)
                .map(|(log_index, bytes)| {
                    let header = EntryView::parse(&bytes).map(|view| view.header());
                    (log_index, bytes, header)
                })
                .collect()
        });
        Loaded { end, entries }
    })
    .await
}

impl Reader {
    pub(super) fn start_loading(&mut self, end: u64) {
        let max_bytes = self.shared.config.read_ahead.as_usize();
        self.loading = Some(Box::pin(load(
            self.shared.pool,
            self.log.clone(),
            self.cursor.log_index,
            end,
            max_bytes,
        )));
    }

    /// Starts the next read while half of the last one is still to be returned.
    pub(super) fn read_ahead(&mut self, cx: &mut Context<'_>) {
        if self.loading.is_none() && self.ahead_bytes < self.shared.config.read_ahead.as_usize() / 2 {
            let end = self.shared.lock().cache.from();
            if self.cursor.log_index < end {
                self.start_loading(end);
                // A future does nothing before it is polled; the result is taken in after the entries ahead of it.
                if let Poll::Ready(loaded) = self.poll_loading(cx) {
                    self.loading = Some(Box::pin(std::future::ready(loaded)));
                }
            }
        }
    }

    /// The result of the current read, if there is one and it has ended.
    pub(super) fn poll_loading(&mut self, cx: &mut Context<'_>) -> Poll<Loaded> {
        let Some(loading) = &mut self.loading else {
            return Poll::Pending;
        };
        let loaded = std::task::ready!(loading.as_mut().poll(cx));
        self.loading = None;
        Poll::Ready(loaded)
    }

    /// Numbers the entries of a read, as apply did.
    pub(super) fn take_in(&mut self, loaded: Loaded) -> Result<(), ReadError> {
        let entries = loaded.entries?;
        let shared = self.shared.clone();
        let inner = shared.lock();
        if inner.state.begin().log_index > self.cursor.log_index {
            // Retention ran during the read and may have deleted files that it needed.
            self.skip_to_begin(inner.state.begin());
            return Ok(());
        }
        shared.metrics.disk_reads.increment(1);
        if entries.is_empty() {
            self.cursor.log_index = loaded.end;
        }
        for (log_index, bytes, header) in entries {
            if inner.state.is_skipped(log_index) {
                self.cursor.log_index = log_index + 1;
                continue;
            }
            if let Some(point) = inner.state.point_at(log_index) {
                check_number(log_index, point.sequence, self.cursor.sequence)?;
            }
            let header = header.map_err(|source| ReadError::Entry { log_index, source })?;
            let entry = CachedEntry {
                log_index,
                first: self.cursor.sequence,
                records: header.records,
                enqueued: self.cursor.enqueued.max(header.proposed),
                bytes,
            };
            shared.metrics.disk_read_bytes.increment(entry.bytes.len() as u64);
            self.cursor = behind(&entry);
            self.ahead_bytes += entry.bytes.len();
            self.ahead.push_back(entry);
        }
        Ok(())
    }
}
