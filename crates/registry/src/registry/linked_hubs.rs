//! Linked hubs: the calls that read and change them.

use std::sync::Arc;

use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::registry_command::Command;

use super::{Registry, fresh_etag};
use crate::error::RegistryError;
use crate::linked_hub::{LinkedHub, LinkedHubContent};
use crate::write::IfMatch;

impl Registry {
    /// The linked hubs in this node's replica, by host name: kept in memory. The hub of the service itself is among them only if its
    /// link has been changed.
    #[must_use]
    pub fn linked_hubs(&self) -> Arc<Vec<Arc<LinkedHub>>> {
        self.0.local.linked_hubs()
    }

    /// Links a hub, which must not be linked yet, or with `if_match` changes the link.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when a value is wrong (400004), it is linked and must not (409000), it is not linked or has another
    /// ETag (412001), or there are too many (400003); else as [`Self::write`].
    pub async fn put_linked_hub(
        &self,
        hub: &LinkedHubContent,
        if_match: Option<&IfMatch>,
    ) -> Result<(), RegistryError> {
        hub.check()?;
        let record = hub.to_proto(fresh_etag(), &self.0.local.secrets)?;
        self.change(Command::PutLinkedHub(proto::PutLinkedHub {
            hub: Some(record),
            creates: if_match.is_none(),
            if_match: if_match.and_then(condition),
        }))
        .await
    }

    /// Removes the link of a hub; its devices stay there.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when it is not linked (404000), or has another ETag (412001); else as [`Self::write`].
    pub async fn remove_linked_hub(&self, host_name: &str, if_match: &IfMatch) -> Result<(), RegistryError> {
        self.change(Command::RemoveLinkedHub(proto::RemoveLinkedHub {
            host_name: host_name.to_owned(),
            if_match: condition(if_match),
        }))
        .await
    }
}

fn condition(if_match: &IfMatch) -> Option<String> {
    match if_match {
        IfMatch::Any => None,
        IfMatch::ETag(etag) => Some(etag.clone()),
    }
}
