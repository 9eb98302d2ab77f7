//! Twins of a partition as they are applied here, for reading many of them: by key and page by page.
//!
//! Why apart from requests: a query over all devices decides nothing, and must not fill the rounds of the owner. A value may
//! be older than the last answered write; the owner's own replica lags by the entry in flight.

use std::sync::Arc;

use holdfast_model::{GenerationId, IdentityId, PartitionId};
use holdfast_partition::record::DeviceStateKind;
use holdfast_partition::state::DeviceStatePage;

use super::ask::TwinError;
use super::decide;
use super::document::Twin;
use crate::DeviceHub;
use crate::device_state;
use crate::rpc::codec;

/// The twins of a page; there are none for identities whose twin has never been written ([`DeviceHub::unwritten_twin`]).
#[derive(Debug)]
pub struct TwinPage {
    /// In the order of their keys: device, module, generation. A generation may be dead.
    pub twins: Vec<(IdentityId, GenerationId, Twin)>,
    page: DeviceStatePage,
}

impl TwinPage {
    /// Whether it is the last one.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.page.is_last()
    }
}

impl DeviceHub {
    /// Written twins of a partition that has a replica on this node: the first page, or the one after `after`.
    ///
    /// # Errors
    /// [`TwinError::NoOwner`] without a replica, or when its disk has failed; [`TwinError::Unreadable`].
    pub async fn twin_page(&self, partition: PartitionId, after: Option<&TwinPage>) -> Result<TwinPage, TwinError> {
        let replica = self.parts.partitions.local(partition).ok_or(TwinError::NoOwner)?;
        let page = replica.device_states(DeviceStateKind::TWIN, after.map(|after| &after.page));
        let page = page.await.map_err(|_| TwinError::NoOwner)?;
        let mut twins = Vec::with_capacity(page.entries.len());
        for entry in &page.entries {
            if let Some(key) = entry.key()
                && let Ok(identity) = codec::decode_identity(key.device, key.module.unwrap_or_default())
            {
                let generation = GenerationId(Arc::from(key.generation));
                twins.push((identity, generation, Twin::decode(&entry.value)?));
            }
        }
        Ok(TwinPage { twins, page })
    }

    /// The twin of an identity whose partition has a replica on this node.
    ///
    /// # Errors
    /// As [`Self::twin_page`], and [`TwinError::Registry`].
    pub async fn applied_twin(&self, identity: &IdentityId, generation: &GenerationId) -> Result<Twin, TwinError> {
        let replica = self.parts.partitions.local(self.partition_of(identity));
        let replica = replica.ok_or(TwinError::NoOwner)?;
        let key = device_state::key(DeviceStateKind::TWIN, identity, generation);
        match replica.device_state(&key).await.map_err(|_| TwinError::NoOwner)? {
            Some(value) => Ok(Twin::decode(&value)?),
            None => self.unwritten_twin(identity, generation),
        }
    }

    /// The twin of an identity whose partition has stored none: empty, or as it was given with the creation.
    ///
    /// # Errors
    /// [`TwinError::Registry`].
    pub fn unwritten_twin(&self, identity: &IdentityId, generation: &GenerationId) -> Result<Twin, TwinError> {
        let seed = self.twin_seed(identity, generation)?;
        Ok(decide::current(None, identity, generation, seed.as_ref())?)
    }
}
