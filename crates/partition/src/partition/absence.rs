//! Marks of gateways that are away: see [`crate::state`]'s module `absence`.

use super::Partition;
use crate::error::AppendError;
use crate::record::{BatchHeader, BatchWriter};
use crate::state::marks_of;

impl Partition {
    /// The gateways that are marked as away, as of everything committed before the call.
    ///
    /// # Errors
    /// [`AppendError`]: this node does not own the partition.
    pub async fn away(&self) -> Result<Vec<u64>, AppendError> {
        self.0.group.read_index().await?;
        Ok(self.0.shared.lock().state.streams().away().collect())
    }

    /// Marks a gateway as away, or as back; returns when that is committed. One call at a time for a gateway: two could
    /// both find that nothing is to be done.
    ///
    /// # Errors
    /// [`AppendError`]; after [`AppendError::Unknown`] it may be marked or not.
    pub async fn mark_away(&self, gateway: u64, away: bool) -> Result<(), AppendError> {
        self.0.group.read_index().await?;
        let last = {
            let inner = self.0.shared.lock();
            let streams = inner.state.streams();
            if streams.is_away(gateway) == away {
                return Ok(());
            }
            streams.last_batch(&marks_of(gateway))
        };
        let mark = BatchWriter::new().close(BatchHeader {
            stream: marks_of(gateway),
            batch_number: last + 1,
            enqueued: (self.0.clock)(),
        });
        self.append(mark).await
    }
}
