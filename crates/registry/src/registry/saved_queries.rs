//! Saved queries: the calls that read and change them.

use std::sync::Arc;

use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_tasks::watch;

use super::{Registry, first, fresh_etag, rejection};
use crate::error::RegistryError;
use crate::saved_query::{SavedQueries, SavedQuery, SavedQueryWrite};
use crate::write::IfMatch;

impl Registry {
    /// The saved queries in this node's replica: kept in memory, available at any time.
    #[must_use]
    pub fn saved_queries(&self) -> Arc<SavedQueries> {
        self.0.local.saved_queries()
    }

    /// Watches the saved queries.
    #[must_use]
    pub fn watch_saved_queries(&self) -> watch::Receiver<Arc<SavedQueries>> {
        self.0.local.watch_saved_queries()
    }

    /// Creates or replaces a saved query. Gives whether it did not exist before, and what is stored.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when a value is wrong (400004), it exists and must not (409000), it does not exist or has
    /// another ETag (412001), or there are too many (400003); else as [`Self::write`].
    pub async fn put_saved_query(&self, write: &SavedQueryWrite) -> Result<(bool, SavedQuery), RegistryError> {
        write.check()?;
        let command = Command::PutSavedQuery(write.to_proto(fresh_etag()));
        let answer = first(self.propose(command).await?)?;
        if let Some(rejection) = rejection(&answer)? {
            return Err(rejection.into());
        }
        let stored = answer.saved_query.ok_or(RegistryError::OutcomeUnknown)?;
        Ok((answer.created, stored.into()))
    }

    /// Removes a saved query.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when there is none with that name (404000), or it has another ETag (412001); else as
    /// [`Self::write`].
    pub async fn remove_saved_query(&self, name: &str, if_match: &IfMatch) -> Result<(), RegistryError> {
        self.change(Command::RemoveSavedQuery(proto::RemoveSavedQuery {
            name: name.to_owned(),
            if_match: match if_match {
                IfMatch::Any => None,
                IfMatch::ETag(etag) => Some(etag.clone()),
            },
        }))
        .await
    }
}
