//! Reading what a group has committed and applied, by whoever keeps an index into it.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_storage::StorageError;

use crate::entry::{HEADER_BYTES, Kind};
use crate::log_store::Shared;

/// Reads a group's applied entries over all that retention has left; it does not know openraft's purge floor. Clones
/// are cheap; every thread may have one.
#[derive(Clone)]
pub struct LogReader(Arc<Shared>);

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The first index that retention has left.
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
    /// as many as fit into `max_bytes`. Entries of consensus itself are skipped, as is what retention has deleted.
    ///
    /// Blocks when the entries are not in memory: call it on the blocking pool.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] or [`StorageError::Hole`] when the log does not hold what was written; the node is told
    /// to stop, rather than go on serving what is left.
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
                // Retention has deleted it while it was read: what is left begins at the new floor.
                Err(StorageError::Hole { index, .. }) if index < self.first_index() => {}
                Err(error) => return Err(self.0.fatal(error)),
            }
        }
    }
}
