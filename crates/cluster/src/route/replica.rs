//! Readers and reads at the local replica.
//!
//! Any replica may serve readers, but one that lags must not report that a position is beyond the end, nor start "latest"
//! before what was acknowledged: in these cases it catches up with its leader first.

use std::time::Duration;

use holdfast_partition::{Partition, Reader, StartError, StartPosition};

/// How long a replica may take to catch up with its leader.
pub(super) const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a replica has not started a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StartFailure {
    /// It refuses the reader.
    Refused(StartError),
    /// It cannot serve the reader at the moment; another replica may.
    NotNow,
}

/// Waits until the replica has applied everything that was committed before the call; returns whether it has. The owner
/// confirms its leadership with a quorum too: it may have been deposed without knowing.
pub(super) async fn catch_up(partition: &Partition) -> bool {
    let read = tokio::time::timeout(CATCH_UP_TIMEOUT, partition.group().read_index()).await;
    matches!(read, Ok(Ok(())))
}

/// Starts a reader at the local replica.
pub(super) async fn start_reader(partition: &Partition, from: StartPosition) -> Result<Reader, StartFailure> {
    if from == StartPosition::Latest && !catch_up(partition).await {
        return Err(StartFailure::NotNow);
    }
    match partition.reader(from) {
        Ok(reader) => Ok(reader),
        Err(StartError::BeyondEnd { .. }) => {
            if !catch_up(partition).await {
                return Err(StartFailure::NotNow);
            }
            partition.reader(from).map_err(StartFailure::Refused)
        }
        Err(error) => Err(StartFailure::Refused(error)),
    }
}
