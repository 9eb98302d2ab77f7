//! The hub's shared access policies: creating, changing, new keys, removing (Spec auth-and-limits §2).

use std::sync::Arc;

use holdfast_auth::Policy;
use holdfast_model::ErrorCode;
use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::registry_command::Command;

use super::{Registry, first, rejection};
use crate::error::RegistryError;
use crate::policy_write::PolicyWrite;
use crate::state::Rejection;

impl Registry {
    /// The shared access policy named `name` in this node's replica, in any case.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<Arc<Policy>> {
        self.0.local.settings()?.policy(name).cloned()
    }

    /// Creates or changes a policy. Gives whether it is new, and the policy after the write. What a token was signed with is
    /// refused on every node once it is no key of its policy any more.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when a value is wrong (400004), it exists and must not (409000), it does not exist and must
    /// (404000), there would be too many, or none with all rights (400003); else as [`Self::write`].
    pub async fn write_policy(&self, write: &PolicyWrite) -> Result<(bool, Arc<Policy>), RegistryError> {
        write.check()?;
        let command = Command::WritePolicy(write.to_proto(&self.0.local.secrets)?);
        let answer = first(self.propose(command).await?)?;
        if let Some(rejection) = rejection(&answer)? {
            return Err(rejection.into());
        }
        Ok((answer.created, self.policy_here(&write.name)?))
    }

    /// Removes a policy; its tokens are refused on every node from then on.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when there is none with that name (404000), or it is the last one with all rights (400003);
    /// else as [`Self::write`].
    pub async fn remove_policy(&self, name: &str) -> Result<(), RegistryError> {
        self.change(Command::DeletePolicy(proto::DeletePolicy { name: name.to_owned() }))
            .await
    }

    /// The policy named `name` in this node's replica.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when there is none with that name (404000).
    pub fn policy_here(&self, name: &str) -> Result<Arc<Policy>, RegistryError> {
        let found = self.policy(name);
        found
            .ok_or_else(|| Rejection::new(ErrorCode::GenericNotFound, format!("policy '{name}' does not exist")).into())
    }
}
