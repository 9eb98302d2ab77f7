//! A slice is evaluated by owners, not by nodes that take themselves for owners.
//!
//! Why: a node that was cut off keeps its terms for a while, and its twins are older than what the next owner has
//! acknowledged meanwhile. One confirmation by a quorum before a slice costs a round trip for all its partitions together.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use holdfast_model::PartitionId;

use super::serve::SliceError;
use crate::DeviceHub;

impl DeviceHub {
    /// Returns once a quorum has confirmed that this node owns the partitions, and everything that was acknowledged before is
    /// applied here.
    pub(super) async fn confirm_owner(&self, partitions: &BTreeSet<PartitionId>) -> Result<(), SliceError> {
        let confirmed = partitions.iter().map(|partition| async {
            let replica = self.parts.partitions.local(*partition).ok_or(SliceError::NotOwner)?;
            replica.leadership().await.map_err(|_| SliceError::NotOwner)
        });
        try_join_all(confirmed).await.map(drop)
    }
}
