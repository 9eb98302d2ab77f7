//! How much of the daily quota is used: the calls that read and change it.

use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::registry_command::Command;

use super::Registry;
use crate::error::RegistryError;
use crate::quota::QuotaUse;
use crate::state::layout;

impl Registry {
    /// The count of the daily quota in this node's replica, of the last day that has one.
    ///
    /// # Errors
    /// The disk fails.
    pub fn quota_use(&self) -> Result<Option<QuotaUse>, RegistryError> {
        let record = self.0.local.message::<proto::QuotaUseRecord>(layout::QUOTA_USE)?;
        Ok(record.as_ref().map(QuotaUse::from))
    }

    /// Stores the count of a day, unless a greater one or one of a later day is stored.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn put_quota_use(&self, used: &QuotaUse) -> Result<(), RegistryError> {
        self.change(Command::PutQuotaUse(proto::PutQuotaUse {
            used: Some(used.into()),
        }))
        .await
    }
}
