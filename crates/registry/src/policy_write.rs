//! Writes of shared access policies, checked as far as possible without the state (Spec auth-and-limits §2).
//!
//! Not here: whether the policy exists, the limits of their number, and the last policy with all rights (`state::policies`).

use bytes::Bytes;
use holdfast_auth::{Key, Rights};
use holdfast_model::ErrorCode;
use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::write_policy::Condition;

use crate::secrets::{SecretError, Secrets};
use crate::settings::check_policy_name;
use crate::state::Rejection;
use crate::write::KeyChoice;

/// A write of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyWrite {
    /// The name, found in any case.
    pub name: String,
    /// The condition of the write.
    pub condition: PolicyCondition,
    /// `None`: they stay. A new policy needs them.
    pub rights: Option<Rights>,
    /// What becomes of its keys.
    pub keys: PolicyKeys,
}

/// The condition of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyCondition {
    /// Whether it exists or not.
    Any,
    /// It must not exist.
    Absent,
    /// It must exist.
    Present,
}

/// What a write does to a policy's keys. A new policy gets generated ones where none are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyKeys {
    /// These; `None` stays.
    Set {
        /// The first.
        primary: Option<Key>,
        /// The second.
        secondary: Option<Key>,
    },
    /// New ones.
    Regenerate(KeyChoice),
    /// The first becomes the second, and the second the first; both stay valid.
    Swap,
}

impl PolicyKeys {
    /// They stay.
    pub const KEEP: Self = Self::Set {
        primary: None,
        secondary: None,
    };
}

impl PolicyWrite {
    pub(crate) fn check(&self) -> Result<(), Rejection> {
        check_policy_name(&self.name)?;
        if self.rights == Some(Rights::NONE) {
            let text = "a policy has at least one right: RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect";
            return Err(Rejection::new(ErrorCode::ArgumentInvalid, text));
        }
        Ok(())
    }

    pub(crate) fn to_proto(&self, secrets: &Secrets) -> Result<proto::WritePolicy, SecretError> {
        let (swap_keys, sealed_primary, sealed_secondary) = match &self.keys {
            PolicyKeys::Set { primary, secondary } => {
                let seal = |key: &Option<Key>| match key {
                    Some(key) => secrets.seal(key.as_bytes()),
                    None => Ok(Bytes::new()),
                };
                (false, seal(primary)?, seal(secondary)?)
            }
            PolicyKeys::Regenerate(choice) => {
                let new = |wanted: bool| match wanted {
                    true => secrets.generate_one(),
                    false => Ok(Bytes::new()),
                };
                let primary = new(matches!(choice, KeyChoice::Primary | KeyChoice::Both))?;
                (
                    false,
                    primary,
                    new(matches!(choice, KeyChoice::Secondary | KeyChoice::Both))?,
                )
            }
            PolicyKeys::Swap => (true, Bytes::new(), Bytes::new()),
        };
        let (condition, generated_keys) = match self.condition {
            PolicyCondition::Any => (Condition::Any, Some(secrets.generate()?)),
            PolicyCondition::Absent => (Condition::Absent, Some(secrets.generate()?)),
            PolicyCondition::Present => (Condition::Present, None),
        };
        Ok(proto::WritePolicy {
            name: self.name.clone(),
            condition: condition.into(),
            rights: self.rights.map(|rights| rights.bits().into()),
            swap_keys,
            sealed_primary,
            sealed_secondary,
            generated_keys,
        })
    }
}
