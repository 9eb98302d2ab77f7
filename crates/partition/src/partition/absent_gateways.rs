//! Reading and recording absent gateways; the rule is in the state's module `absent_gateways`.

use super::Partition;
use crate::error::AppendError;
use crate::log::record::{BatchHeader, BatchWriter};
use crate::state::{GatewayPresence, presence_stream};

impl Partition {
    /// The gateways recorded as absent, as of everything committed before the call.
    ///
    /// # Errors
    /// [`AppendError`]: this node does not own the partition.
    pub async fn absent_gateways(&self) -> Result<Vec<u64>, AppendError> {
        self.0.group.read_index().await?;
        Ok(self.0.shared.lock().state.streams().absent_gateways().collect())
    }

    /// Records in the log that a gateway is absent or present again; returns once that is committed, at once if the log
    /// says so already. Concurrent calls for one gateway are not allowed.
    ///
    /// # Errors
    /// [`AppendError`]; after [`AppendError::Unknown`] it may be recorded or not.
    pub async fn record_gateway(&self, gateway: u64, presence: GatewayPresence) -> Result<(), AppendError> {
        self.0.group.read_index().await?;
        let last = {
            let inner = self.0.shared.lock();
            let streams = inner.state.streams();
            if streams.presence(gateway) == presence {
                return Ok(());
            }
            streams.last_batch(&presence_stream(gateway))
        };
        let entry = BatchWriter::new().close(BatchHeader {
            stream: presence_stream(gateway),
            batch_number: last + 1,
            enqueued: (self.0.clock)(),
        });
        self.append(entry).await
    }
}
