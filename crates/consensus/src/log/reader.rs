//! Reading the committed and applied entries of a group.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_storage::StorageError;

use crate::log::entry::{HEADER_BYTES, Kind};
use crate::log::store::Shared;

/// Reads a group's applied entries down to retention's watermark; openraft's own purge watermark does not limit it. Clones
/// are cheap; every thread may have one.
#[derive(Clone)]
pub struct LogReader(Arc<Shared>);

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The first index that retention keeps.
    #[must_use]
    pub fn first_index(&self) -> u64 {
        self.0.first_retained()
    }

    /// One more than the index of the last applied entry: reads end here.
    #[must_use]
    pub fn end_index(&self) -> u64 {
        self.0.applied_next()
    }

    /// Proposed entries from `from_index` on with their indexes, ascending. At least one unless the end is reached, then
    /// as many as fit into `max_bytes`. Entries of consensus itself and deleted entries are skipped.
    ///
    /// Blocks when the entries are not in memory: call it on the blocking pool.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] or [`StorageError::Hole`] when written entries are damaged or missing; the node then stops
    /// instead of serving the rest.
    pub fn read(&self, from_index: u64, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, StorageError> {
        loop {
            let (from, to) = (from_index.max(self.first_index()), self.end_index());
            let mut entries = Vec::new();
            if from >= to {
                return Ok(entries);
            }
            let mut bytes = 0;
            let scanned = self.0.scan(from, to, |view| {
                if view.kind == Kind::Normal {
                    bytes += view.payload.len() + HEADER_BYTES;
                    if bytes > max_bytes && !entries.is_empty() {
                        return Ok(ControlFlow::Break(()));
                    }
                    entries.push((view.position.index, Bytes::copy_from_slice(view.payload)));
                }
                Ok(ControlFlow::Continue(()))
            });
            match scanned {
                Ok(()) => return Ok(entries),
                // Retention has deleted it during the read: the log now begins at the new watermark.
                Err(StorageError::Hole { index, .. }) if index < self.first_index() => {}
                Err(error) => return Err(self.0.fatal(error)),
            }
        }
    }
}
